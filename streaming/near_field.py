"""Lit pixels of near-field frames: counts above the background, cleaned and filtered, and cut."""

from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from .background import LitPixels
from .errors import FrameError, SettingsError
from .filters import (
    FAINT,
    ImageForm,
    filled,
    gaussian,
    is_sigma,
    is_whole,
    laplacian_of_gaussian,
    level_image,
    mean_level,
    median_3x3,
)
from .frame import SparseImage
from .tables import Columns

Filter = Literal["none", "gaussian", "log"]


class NearFieldLit:
    """Turns near-field frames into lit pixels: residual, medians, filter, cut, rim, holes, in this order.

    The residual is raw counts minus background; a pixel that does not count (masked, sentinel, NaN) has residual 0 in
    every filter and is never lit, and so does everything beyond the image's edge. ``smooth`` is the residual after
    `medians`. Then a pixel is lit

    * with filter ``none`` where ``smooth > threshold``,
    * with ``gaussian`` where the Gaussian of ``smooth`` is above `threshold` (a matched filter),
    * with ``log`` where ``max(smooth - threshold, 0)`` is curved like a summit, that is where minus the Laplacian of
      its Gaussian is above 0 at one of the widths, grown by `rim` pixels, and ``smooth > threshold``.

    The intensity of a lit pixel is its own residual, unfiltered; where a filter, a rim or a hole lights a pixel whose
    residual is 0 or less, it is `FAINT`: such a pixel joins what belongs together and weighs next to nothing.

    Parameters
    ----------
    threshold
        Counts above the background, 0 or more.
    background
        Median over the sweep, or of some frames: counts, shape (rows, columns), or one number. Can be replaced.
    invalid
        True where a pixel never counts, shape (rows, columns).
    sentinels
        Raw values that mark invalid pixels.
    filter
        See above.
    sigma
        Width of the filter, pixels; several widths with ``log``: lit is what any of them lights.
    medians
        How many times each pixel becomes the median of its 3x3 block, 0 to 2. The image's edge stays as it is.
    rim
        With ``log``: how far the region grows, pixels, along rows, columns and diagonals.
    fill_holes
        Whether what lit pixels enclose is lit as well (with ``log`` only what is above `threshold`).
    fraction
        Below 1. Above 0, ``smooth > threshold`` is asked of the highest pixel of each 8-connected group only, and those
        pixels of the group are lit whose residual is above this fraction of that height and above 1 count.

    Raises
    ------
    SettingsError
        A number is out of its range, or the background is of another shape than the mask or not finite.
    """

    def __init__(
        self,
        *,
        threshold: float,
        background: np.ndarray | float = 0.0,
        invalid: np.ndarray | None = None,
        sentinels: tuple[int, ...] = (),
        filter: Filter = "none",  # noqa: A002  (the recipe's word)
        sigma: float | tuple[float, ...] = 1.0,
        medians: int = 0,
        rim: int = 0,
        fill_holes: bool = False,
        fraction: float = 0.0,
    ) -> None:
        self._sigmas = sigma if isinstance(sigma, tuple) else (sigma,)
        one_width = filter == "log" or len(self._sigmas) == 1
        wanted = (
            ("threshold", threshold, np.isfinite(threshold) and threshold >= 0, "a finite number, 0 or more"),
            ("filter", filter, filter in get_args(Filter), "none, gaussian or log"),
            ("sigma", sigma, bool(self._sigmas) and all(map(is_sigma, self._sigmas)), "more than 0, at most 20"),
            ("sigma", sigma, one_width, "one width, unless the filter is log"),
            ("medians", medians, is_whole(medians, 0, 2), "0, 1 or 2"),
            (
                "rim",
                rim,
                is_whole(rim, 0, 100) and (rim == 0 or filter == "log"),
                "0 to 100, and 0 unless the filter is log",
            ),
            ("fill_holes", fill_holes, fill_holes in (True, False), "true or false"),
            ("fraction", fraction, 0 <= fraction < 1, "0 or more, below 1"),
        )
        for name, value, good, want in wanted:
            if not good:
                raise SettingsError(f"near-field finder: {name} is {value!r}; wanted {want}")
        self._threshold, self._filter, self._medians = float(threshold), filter, medians
        self._rim, self._fill_holes, self._fraction = rim, fill_holes, fraction
        self._form = ImageForm(invalid=invalid, sentinels=sentinels)
        self.background = background

    @property
    def background(self) -> np.ndarray:
        """Counts, float64, shape (rows, columns), or () for one number; what is set holds from the next frame on."""
        return self._background

    @background.setter
    def background(self, background: np.ndarray | float) -> None:
        self._background = level_image(background, self._form.invalid)
        self._level = mean_level(self._background, self._form.invalid)

    @property
    def level(self) -> float:
        """Mean of the background over the valid pixels, counts; NaN if none is valid."""
        return self._level

    def push(self, image: np.ndarray | SparseImage) -> LitPixels:
        """Return the lit pixels of one image; the first good image fixes shape and type of all that follow.

        Raises
        ------
        FrameError
            The image is not two-dimensional, has another shape or type than the first, or holds nothing but NaN; or it
            is sparse and lists a pixel outside.
        """
        if self._background.ndim and self._background.shape != tuple(image.shape):
            raise FrameError(f"the image has shape {image.shape}, but the background has {self._background.shape}")
        raw = self._form.plain(image)
        counts = self._form.counting(raw)
        residual = np.where(counts, raw, self._background) - self._background
        row, col = (each.astype(np.int32) for each in np.nonzero(self._lit(residual) & counts))
        return LitPixels(
            shape=(raw.shape[0], raw.shape[1]),
            row=row,
            col=col,
            raw=raw[row, col],
            intensity=np.maximum(residual[row, col], FAINT),
        )

    def _lit(self, residual: np.ndarray) -> np.ndarray:
        smooth = residual
        for _ in range(self._medians):
            smooth = median_3x3(smooth)
        region = self._region(smooth)
        if self._rim:
            region = ndimage.maximum_filter(region, 2 * self._rim + 1, mode="constant")
        if self._fill_holes:
            region = filled(region)
        if self._fraction:
            return self._bright_part(region, smooth, residual)
        return region & (smooth > self._threshold) if self._filter == "log" else region

    def _region(self, smooth: np.ndarray) -> np.ndarray:
        if self._filter == "none":
            return smooth > self._threshold
        if self._filter == "gaussian":
            return gaussian(smooth, self._sigmas[0]) > self._threshold
        excess = np.maximum(smooth - self._threshold, 0.0)
        return np.logical_or.reduce([laplacian_of_gaussian(excess, sigma) > 0 for sigma in self._sigmas])

    def _bright_part(self, region: np.ndarray, smooth: np.ndarray, residual: np.ndarray) -> np.ndarray:
        label, n = ndimage.label(region, np.ones((3, 3), np.bool_))
        height = np.zeros(n + 1)
        height[1:] = ndimage.maximum(smooth, label, np.arange(1, n + 1))
        height[height <= self._threshold] = np.inf
        height[0] = np.inf
        return residual > np.maximum(self._fraction * height, 1.0)[label]


def binarised(pixels: Columns, shape: tuple[int, int]) -> np.ndarray:
    """Return the image of one frame's rows of the table `pixels`: True where a pixel belongs to a peak."""
    image = np.zeros(shape, np.bool_)
    image[pixels["row"], pixels["col"]] = True
    return image
