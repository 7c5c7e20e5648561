"""Guard of the images of one detector: darks, saturation, a lost beam, and how counts are scaled.

A frame is looked at in a few hundred pixels of a grid, and in what its reduction counted anyway.
"""

import math
from collections.abc import Iterator

import numpy as np

from ..streaming import Batches
from .guard_settings import GuardSettings
from .guards_base import Warned
from .guards_values import Usual
from .readers import Image

_GRID = 16
"""Places of the grid along each side of the image."""
_LEAST_DARK = 10.0
"""Counts of a dark below which it is not told from nothing."""
_MANY_PEAKS = 20.0
"""Peaks a frame, on average, from which a frame without any is no chance."""
_DISTINCT = 64
"""Different counts of which the common divisor is taken."""


class ImageGuard:
    """Looks at the darks and frames of one detector.

    Parameters
    ----------
    name
        Name of the detector.
    settings
        Tolerances.
    saturation
        Counts at which a pixel is saturated; None if that is not known.
    """

    def __init__(self, name: str, settings: GuardSettings, saturation: float | None) -> None:
        self._name = name
        self._settings = settings
        self._saturation = saturation
        self._dark = math.nan
        self._n_darks = 0
        self._above_dark = Usual()
        self._peaks = Usual()
        self._counts: set[float] | None = set()

    def dark(self, image: Image, frame: int | None) -> Iterator[Warned]:
        """Look at a whole dark: a frame of the dark stream, or with frame None that of a file."""
        whole = image if isinstance(image, np.ndarray) else image.dense()
        if not whole.size or whole.dtype.kind not in "uif":
            return
        what = f"the dark of {self._name}" if frame is None else f"dark frame {frame} of {self._name}"
        if not whole.any():
            yield self._about("dark-zero", f"{what} is zero in every pixel", frame)
            return
        full = self._saturation
        if full is None and whole.dtype.kind in "ui":
            full = float(np.iinfo(whole.dtype).max)
        if full is not None and np.count_nonzero(whole >= full) > 0.5 * whole.size:
            yield self._about("dark-saturated", f"{what} is at {full:g} counts or more in most pixels", frame)
            return
        # A mean of medians: settling frames and a drift of a percent make no difference here.
        self._n_darks += 1
        median = _median(_grid(whole))
        self._dark = median if self._n_darks == 1 else self._dark + (median - self._dark) / self._n_darks

    @property
    def wants_dense(self) -> bool:
        """Whether no frame was compared with the dark yet, so that unpacking one is worth its time."""
        return self._dark >= _LEAST_DARK and not self._above_dark.n

    def reduced(self, frame: int, image: np.ndarray | None, batches: Batches, *, beam: bool) -> Iterator[Warned]:
        """Look at a frame and at what its reduction gave.

        Parameters
        ----------
        frame
            Its number.
        image
            Raw counts; None if they are packed.
        batches
            New rows of its reduction.
        beam
            Whether it should show whether there is beam: not where a monitor does, or the sample leaves the beam.
        """
        row = batches["frames"]
        n_lit, n_saturated = int(row["n_lit"][0]), int(row["n_saturated"][0])
        if n_saturated > self._settings.saturated * n_lit:
            text = f"{n_saturated} of {n_lit} lit pixels of {self._name} are saturated"
            yield self._about("frame-saturated", text, frame)
        n_peaks = float(row["n_peaks"][0])
        dark = self._peaks.lost(n_peaks, self._settings.lost_beam) and self._peaks.mean >= _MANY_PEAKS
        if self._dark >= _LEAST_DARK and image is not None:
            median = _median(_grid(image))
            yield from self._pedestal(frame, median)
            dark = self._above_dark.lost(median - self._dark, self._settings.lost_beam) or dark
        if dark and beam:
            yield self._about("frame-dark", f"{self._name} shows no more than its dark", frame, cause="beam")
        if self._counts is not None or self._settings.full_scale is not None:
            yield from self._scale(frame, batches.get("pixels", {}).get("intensity", np.empty(0)))

    def _pedestal(self, frame: int, median: float) -> Iterator[Warned]:
        dark = self._dark
        says = f"the median of {self._name} is {median:g} counts, and of its dark {dark:.4g}"
        if median <= 0.1 * dark:
            yield self._about("no-pedestal", says, frame)
        elif dark - median > max(2.0, self._settings.dark_tolerance * dark):
            yield self._about("dark-bright", says, frame)

    def _scale(self, frame: int, counts: np.ndarray) -> Iterator[Warned]:
        full = self._settings.full_scale
        if full is not None and len(counts) and counts.max() > full:
            text = f"a pixel of {self._name} has {counts.max():g} counts; full_scale is {full:g}"
            yield self._about("scaling", text, frame, cause="full_scale")
        if self._counts is None:
            return
        self._counts.update(counts[:1024].tolist())
        if len(self._counts) < _DISTINCT:
            return
        seen, self._counts = self._counts, None
        if not all(count.is_integer() for count in seen):
            return
        step, wanted = math.gcd(*(int(count) for count in seen)), self._settings.count_step or 1
        if step != wanted:
            text = f"all counts of {self._name} are multiples of {step}; wanted of {wanted}"
            yield self._about("scaling", text, frame, cause="count_step")

    def _about(self, kind: str, text: str, frame: int | None, cause: str = "") -> Warned:
        return Warned(kind=kind, text=text, frame=frame, cause=cause or self._name)


def _grid(image: np.ndarray) -> np.ndarray:
    """Return pixels on a grid of the image."""
    rows, cols = max(1, image.shape[0] // _GRID), max(1, image.shape[1] // _GRID)
    return image[rows // 2 :: rows, cols // 2 :: cols]


def _median(pixels: np.ndarray) -> float:
    flat = pixels.ravel()
    middle = len(flat) // 2
    return float(np.partition(flat, middle)[middle])
