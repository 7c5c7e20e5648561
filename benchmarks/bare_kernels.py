"""Cut, labels and moments by the kernels alone, in memory that is kept: without what the classes around them add."""

from typing import Any

import numpy as np
from accuracy import Found
from numpy.typing import NDArray

from hedmlive.streaming import lit_kernels, peak_kernels

Array = NDArray[Any]


class BareKernels:
    """Finds peaks of images of one type and shape with a cut in whole counts, ``dark + threshold``."""

    def __init__(self, cut: Array, threshold: float, min_pixels: int, capacity: int) -> None:
        self._cut, self._threshold, self._min_pixels = cut, threshold, min_pixels
        self._runs = np.empty((3, capacity + 1), np.int32)
        self._row, self._col, self._labels = np.empty((3, capacity), np.int32)
        self._raw, self._intensity = np.empty(capacity, cut.dtype), np.empty(capacity)
        self._group, self._size = np.empty((2, capacity + 1), np.int32)
        self._maxima, self._near = np.empty(capacity + 1, np.uint8), np.empty((4, capacity + 1), np.int32)
        self._sums, self._box = np.empty((capacity, 8)), np.empty((capacity, 8), np.int32)
        self._none = np.empty(0, cut.dtype)
        self._top = cut.dtype.type(np.iinfo(cut.dtype).max)

    def push(self, image: Array) -> Found:
        """Return the peaks of an image."""
        runs = self._runs
        n_runs, n = lit_kernels.lit_pixels(
            image, self._cut, self._top, self._none, self._cut, self._threshold,
            runs, self._row, self._col, self._raw, self._intensity,
        )  # fmt: skip
        listed = [each[:n] for each in (self._row, self._col, self._raw, self._intensity)]
        intensity = listed[3]
        made = (self._group, self._size, self._maxima, self._near)
        found = peak_kernels.groups(intensity, runs, n_runs, *made)
        counts = np.zeros(found, np.int32)
        sums, box, group = self._sums[:found], self._box[:found], self._group[:n_runs]
        peak_kernels.moments(intensity, runs, group, n_runs, sums, box, counts, self._labels[:n])
        keep = counts >= self._min_pixels
        sums, box = sums[keep], box[keep]
        return Found(
            row=box[:, 0] + sums[:, 1] / sums[:, 0],
            col=box[:, 1] + sums[:, 2] / sums[:, 0],
            intensity=sums[:, 0],
        )
