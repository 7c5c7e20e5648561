"""Background and the lit pixels above it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import kernels
from .errors import FrameError, SettingsError
from .frame import SparseImage
from .recipe import Recipe

_FIRST_CAPACITY = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LitPixels:
    """Lit pixels of one frame, in raster order."""

    shape: tuple[int, int]
    "Rows and columns of the frame."
    row: np.ndarray
    "Rows, int32, shape (n,)."
    col: np.ndarray
    "Columns, int32, shape (n,)."
    raw: np.ndarray
    "Raw counts, shape (n,), of the frame's type."
    intensity: np.ndarray
    "Raw counts minus background, float64, shape (n,)."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """What the raw counts of one shape and type are compared with."""

    cut: np.ndarray
    "Lit where raw is above it, shape (rows, columns)."
    dtype: np.dtype
    "Type of the raw counts, in this machine's byte order."
    sentinels: np.ndarray
    "Raw counts that are never lit, of `dtype`."
    dark_zero: bool
    "Whether a pixel of 0 counts is nowhere lit."


class Background:
    """Turns images into lit pixels: ``cut = floor(background + threshold)``, lit where ``raw > cut``.

    The cut has the frame's own integer type, so that the comparison is exact and one pass. Frames of floating-point
    numbers are compared with ``background + threshold`` itself, which for whole numbers is the same; NaN and infinity
    are never lit.

    Parameters
    ----------
    recipe
        What decides; `Recipe.background` ``dark`` needs `dark`.
    dark
        Mean dark frame, counts, shape (rows, columns). What it holds where the mask is set does not matter.
    mask
        0 where a pixel is valid, shape (rows, columns).

    Raises
    ------
    SettingsError
        The dark is missing, not wanted, of another shape than the mask, or holds numbers that are not finite.
    """

    def __init__(self, recipe: Recipe, *, dark: np.ndarray | None = None, mask: np.ndarray | None = None) -> None:
        if (recipe.background == "dark") != (dark is not None):
            given = "no" if dark is None else "a"
            raise SettingsError(
                f"recipe: background is {recipe.background!r} and {given} dark frame was given; "
                "give a dark frame exactly with `background: dark`"
            )
        self._recipe = recipe
        self._mask = None if mask is None else np.asarray(mask) != 0
        self._dark = None if dark is None else _usable(dark, self._mask)
        self._level = recipe.background_level if self._dark is None else _mean(self._dark, self._mask)
        self._cut: _Cut | None = None
        self._capacity = _FIRST_CAPACITY

    @property
    def level(self) -> float:
        """Mean of the background over the valid pixels, counts; NaN if none is valid."""
        return self._level

    def push(self, image: np.ndarray | SparseImage) -> LitPixels:
        """Return the lit pixels of one image; the first good image fixes shape and type of all that follow.

        Parameters
        ----------
        image
            Raw counts, shape (rows, columns), in any byte order and memory layout.

        Raises
        ------
        FrameError
            The image is not two-dimensional, has another shape or type than the first, or holds nothing but NaN; or it
            is sparse and lists a pixel twice, or one outside. It then leaves nothing behind.
        """
        cut = self._cut_for(image)
        if isinstance(image, SparseImage):
            row, col, raw = self._push_sparse(image, cut)
        else:
            row, col, raw = self._push_dense(image, cut)
        self._cut = cut
        dark = self._recipe.background_level if self._dark is None else self._dark[row, col]
        shape = (int(image.shape[0]), int(image.shape[1]))
        return LitPixels(shape=shape, row=row, col=col, raw=raw, intensity=raw.astype(np.float64) - dark)

    def _push_dense(self, image: np.ndarray, cut: _Cut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raw = _plain(image, cut.dtype)
        if raw.dtype.kind == "f" and np.isnan(raw).all():
            raise FrameError("the image holds nothing but NaN; look at the detector")
        while True:
            row = np.empty(self._capacity, np.int32)
            col = np.empty(self._capacity, np.int32)
            n = kernels.lit_dense(raw, cut.cut, cut.sentinels, row, col)
            if n <= self._capacity:
                break
            self._capacity = 2 * n
        row, col = row[:n].copy(), col[:n].copy()
        return row, col, raw[row, col]

    def _push_sparse(self, image: SparseImage, cut: _Cut) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not cut.dark_zero:
            raise FrameError("a sparse image needs background + threshold of 0 or more: its other pixels hold 0")
        place, value = _places(image), _plain(image.value, cut.dtype)
        if len(place) > 1 and not (place[1:] > place[:-1]).all():
            order = np.argsort(place)
            place, value = place[order], _plain(value[order], cut.dtype)
            if (place[1:] == place[:-1]).any():
                raise FrameError("a sparse image lists a pixel twice; wanted each pixel once")
        row, col = (each.astype(np.int32) for each in np.divmod(place, image.shape[1]))
        keep = np.empty(len(row), np.bool_)
        kernels.lit_sparse(value, row, col, cut.cut, cut.sentinels, keep)
        return row[keep], col[keep], value[keep]

    def _cut_for(self, image: np.ndarray | SparseImage) -> _Cut:
        shape, dtype = tuple(image.shape), image.dtype.newbyteorder("=")
        if len(shape) != 2 or 0 in shape:
            raise FrameError(f"the image has shape {shape}; wanted (rows, columns), each 1 or more")
        if dtype.kind not in "uif" or dtype.char in "eg":
            raise FrameError(f"the image holds {dtype}; wanted integers, float32 or float64")
        if self._cut is None:
            return self._make_cut(shape, dtype)
        if shape != self._cut.cut.shape or dtype != self._cut.dtype:
            raise FrameError(
                f"the image is {dtype} of shape {shape}; wanted {self._cut.dtype} of shape {self._cut.cut.shape} "
                "as the frames before"
            )
        return self._cut

    def _make_cut(self, shape: tuple[int, ...], dtype: np.dtype) -> _Cut:
        for name, array in (("dark frame", self._dark), ("mask", self._mask)):
            if array is not None and array.shape != shape:
                raise FrameError(f"the image has shape {shape}, but the {name} has shape {array.shape}")
        level = self._recipe.background_level if self._dark is None else self._dark
        exact = np.broadcast_to(np.asarray(level + self._recipe.threshold, np.float64), shape)
        valid = np.ones(shape, np.bool_) if self._mask is None else ~self._mask
        sentinels: list[float] = list(self._recipe.sentinels)
        if dtype.kind == "f":
            cut = np.where(valid, exact, np.inf)
            sentinels.append(np.inf)
        else:
            cut = _whole_cut(exact, valid, np.iinfo(dtype))
            # The others cannot occur.
            sentinels = [each for each in sentinels if np.iinfo(dtype).min <= each <= np.iinfo(dtype).max]
        dark_zero = not bool((exact < 0)[valid].any())
        return _Cut(cut=cut, dtype=dtype, sentinels=np.array(sentinels, dtype), dark_zero=dark_zero)


def _whole_cut(exact: np.ndarray, valid: np.ndarray, info: np.iinfo[Any]) -> np.ndarray:
    """Return floor(exact) in an integer type; where nothing can or may be lit, the largest number it holds."""
    # Clipping below would darken the lowest count, so a cut below it is refused, not clipped.
    if (exact < info.min)[valid].any():
        least = exact[valid].min()
        raise FrameError(f"background + threshold is {least}; wanted at least {info.min} for {info.dtype}")
    # float(info.max) may round up, so what reaches it is set apart instead of being converted.
    full = (np.floor(exact) >= float(info.max)) | ~valid
    cut = np.where(full, 0.0, np.floor(exact)).astype(info.dtype)
    cut[full] = info.max
    return cut


def _plain(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return an array of which the kernels know the type: this byte order, C order, read-only whatever it was."""
    view = np.ascontiguousarray(array, dtype).view()
    view.flags.writeable = False
    return view


def _places(image: SparseImage) -> np.ndarray:
    """Return row * columns + column of each pixel, int64, shape (n,)."""
    lists = (image.row, image.col, image.value)
    if any(each.ndim != 1 or len(each) != len(image.row) for each in lists):
        raise FrameError(f"a sparse image lists rows, columns and values of shapes {[each.shape for each in lists]}")
    for name, index, size in (("row", image.row, image.shape[0]), ("column", image.col, image.shape[1])):
        # Kernels do not look whether an index is inside.
        if index.dtype.kind not in "ui" or (len(index) and (index.min() < 0 or index.max() >= size)):
            raise FrameError(f"a sparse image lists a {name} outside 0 ... {size - 1}; its shape is {image.shape}")
    return image.row.astype(np.int64) * image.shape[1] + image.col.astype(np.int64)


def _usable(dark: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """Return a copy of the dark that is 0 where the mask is set."""
    dark = np.array(dark, np.float64)
    if mask is not None:
        if mask.shape != dark.shape:
            raise SettingsError(f"the dark frame has shape {dark.shape}, but the mask has shape {mask.shape}")
        dark[mask] = 0.0
    if not np.isfinite(dark).all():
        raise SettingsError("the dark frame holds numbers that are not finite; mask those pixels instead")
    return dark


def _mean(dark: np.ndarray, mask: np.ndarray | None) -> float:
    """Return the mean of the valid pixels, summed one after the other: a pairwise sum depends on the machine."""
    n_valid = dark.size if mask is None else int((~mask).sum())
    return float(np.cumsum(dark)[-1]) / n_valid if n_valid else float("nan")
