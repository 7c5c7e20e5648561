"""The peak search by the kernels alone, in memory that is kept: without what the classes around them add."""

from typing import Any

import numpy as np
from accuracy import Found
from numpy.typing import NDArray

from hedmlive.streaming import lit_kernels, peak_kernels
from hedmlive.streaming.background import narrow_cut
from hedmlive.streaming.vectors import WIDE

Array = NDArray[Any]


class BareKernels:
    """Finds peaks of images of one type and shape with a cut in whole counts, ``dark + threshold``.

    Cut, labels, moments; with split, groups that are large enough are split at the maxima of a smoothed copy.
    """

    def __init__(self, cut: Array, threshold: float, min_pixels: int, capacity: int, *, split: bool = False) -> None:
        self._cut, self._threshold, self._min_pixels, self._split = cut, threshold, min_pixels, split
        room = capacity + WIDE
        self._runs, self._stretch = np.empty((2, 3, room), np.int32)
        self._row, self._col, self._group, self._size, self._top, self._seen, self._label = np.empty(
            (7, room), np.int32
        )
        self._raw, self._intensity = np.empty(room, cut.dtype), np.empty(room)
        self._single, self._smoothed, self._best = np.empty((3, room), np.float32)
        # No room for local maxima: they are not counted, as nobody else does.
        self._maxima, self._near = np.empty(0, np.int64), np.empty((4, room), np.int32)
        self._sums, self._box = np.empty((capacity, 8)), np.empty((capacity, 8), np.int32)
        self._none = np.empty(0, cut.dtype)
        self._narrow = narrow_cut(cut)
        self._top_value = cut.dtype.type(np.iinfo(cut.dtype).max)

    def push(self, image: Array) -> Found:
        """Return the peaks of an image."""
        runs = self._runs
        n_runs, n = lit_kernels.lit_pixels(
            image, self._cut, *self._narrow, True, self._top_value, self._none, self._cut, self._threshold,
            runs, self._row, self._col, self._raw, self._intensity,
        )  # fmt: skip
        intensity = self._intensity[:n]
        made = (self._group, self._size, self._maxima, self._near)
        found = peak_kernels.groups(intensity, runs, n_runs, *made)
        stretch, label = runs, self._group[:n_runs]
        n_stretches = n_runs
        if self._split:
            stretch, label = self._stretch, self._label
            n_stretches, found = self._parts(intensity, runs, n_runs, self._size[:found])
        counts = np.zeros(found, np.int32)
        sums, box = self._sums[:found], self._box[:found]
        peak_kernels.moments(intensity, stretch, label, n_stretches, sums, box, counts)
        keep = slice(None) if self._split else counts >= self._min_pixels
        intensity = sums[:, 0].copy()
        row, col = box[:, 0] + sums[:, 1] / intensity, box[:, 1] + sums[:, 2] / intensity
        return Found(row=row[keep], col=col[keep], intensity=intensity[keep])

    def _parts(self, intensity: Array, runs: Array, n_runs: int, size: Array) -> tuple[int, int]:
        n, near = len(intensity), (runs, n_runs, self._near)
        single, top = self._single[:n], self._top[:n]
        single[:] = intensity
        peak_kernels.smooth(single, *near, self._smoothed)
        peak_kernels.climb(self._smoothed[:n], *near, self._best, self._top)
        peak_kernels.settle(self._top, n)
        number = np.where(size >= self._min_pixels, np.int32(0), np.int32(-1))[self._group[:n_runs]]
        return peak_kernels.number_tops(top, runs, n_runs, number, self._seen, self._stretch, self._label)
