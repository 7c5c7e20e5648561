"""The peak search by the kernels alone, in memory that is kept: without what the classes around them add."""

from typing import Any

import numpy as np
from accuracy import Found
from numpy.typing import NDArray

from hedmlive.streaming import lit_kernels, peak_kernels
from hedmlive.streaming.background import narrow_cut
from hedmlive.streaming.vectors import WIDE, kernel

Array = NDArray[Any]


class BareKernels:
    """Finds peaks of images of one type and shape with a cut in whole counts, ``dark + threshold``.

    Cut, labels, moments; with split, groups that are large enough are split at the maxima of a smoothed copy.
    """

    def __init__(self, cut: Array, threshold: float, min_pixels: int, capacity: int, *, split: bool = False) -> None:
        self._cut, self._threshold, self._min_pixels, self._split = cut, threshold, min_pixels, split
        self._narrow = narrow_cut(cut)
        size = capacity + WIDE
        runs, stretch = np.empty((2, 3, size), np.int32)
        row, col, group, sizes, top, seen, label, counts = np.empty((8, size), np.int32)
        single, smoothed, best = np.empty((3, size), np.float32)
        rows, cols, totals = np.empty((3, capacity))
        self._room = (
            runs, stretch, row, col, np.empty(size, cut.dtype), np.empty(size), group, sizes,
            # No room for local maxima: they are not counted, as nobody else does.
            np.empty(0, np.int64), np.empty((4, size), np.int32), label, top, seen, single, smoothed, best,
            np.empty((capacity, 8)), np.empty((capacity, 8), np.int32), np.empty(0, cut.dtype),
            rows, cols, totals, counts,
        )  # fmt: skip

    def push(self, image: Array) -> Found:
        """Return the peaks of an image."""
        found = _search(image, self._cut, self._narrow, self._threshold, self._min_pixels, self._split, self._room)
        row, col, intensity, counts = (each[:found] for each in self._room[-4:])
        # Parts of groups that are too small are none. The memory is used again: what is returned is a copy.
        keep = counts >= (0 if self._split else self._min_pixels)
        return Found(row=row[keep], col=col[keep], intensity=intensity[keep])


@kernel(error_model="numpy")
def _search(image: Array, cut: Array, narrow: Any, threshold: float, min_pixels: int, split: bool, room: Any) -> int:
    """Call the kernels one after the other, as compiled code; return how many peaks there are."""
    (runs, stretch, row, col, raw, intensity, group, size, maxima, near, label, top, seen) = room[:13]
    single, smoothed, best, sums, box, none, rows, cols, totals, counts = room[13:]
    n_runs, n = lit_kernels.lit_pixels(
        image, cut, narrow[0], narrow[1], narrow[2], narrow[3], True, np.iinfo(cut.dtype).max, none, cut, threshold,
        runs, row, col, raw, intensity,
    )  # fmt: skip
    weight = intensity[:n]
    found = peak_kernels.groups(weight, runs, n_runs, group, size, maxima, near)
    if split:
        for i in range(n):
            single[i] = weight[i]
        peak_kernels.smooth(single[:n], runs, n_runs, near, smoothed)
        peak_kernels.climb(smoothed[:n], runs, n_runs, near, best, top)
        peak_kernels.settle(top, n)
        for run in range(n_runs):
            group[run] = 0 if size[group[run]] >= min_pixels else -1
        n_runs, found = peak_kernels.number_tops(top[:n], runs, n_runs, group, seen, stretch, label)
        runs, group = stretch, label
    counts[:found] = 0
    peak_kernels.moments(weight, runs, group, n_runs, sums[:found], box[:found], counts[:found])
    for k in range(found):
        totals[k] = sums[k, 0]
        rows[k], cols[k] = box[k, 0] + sums[k, 1] / totals[k], box[k, 1] + sums[k, 2] / totals[k]
    return found
