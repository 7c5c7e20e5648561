"""Numba kernels of links: validated by their callers, preallocated output, nothing else in this file.

None is ``parallel=True``: two ordinary threads inside such a kernel abort the interpreter under numba's workqueue
layer, and that interpreter is the RunEngine's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import kernel

Array = NDArray[Any]


@kernel()
def runs_of_peaks(row: Array, col: Array, peak: Array, runs: Array) -> int:
    """Write row, first column, end and peak of each run of pixels of one peak to runs (4, n); return how many.

    Links are counted from runs: a spot has far fewer of them than pixels, and each frame is looked at from two sides.
    """
    n = -1
    row_before = col_before = peak_before = np.int32(-2)
    for i in range(len(row)):
        r, c, p = row[i], col[i], peak[i]
        if r != row_before or p != peak_before or c != col_before + 1:
            n += 1
            runs[0, n] = r
            runs[1, n] = c
            runs[3, n] = p
        runs[2, n] = c + 1
        row_before, col_before, peak_before = r, c, p
    return n + 1


@kernel()
def _overlap(a: Array, b: Array, i: int, j: int) -> tuple[int, int]:
    """Return how many pixels run i of a and run j of b share, none if not above 0; and 1 if that of a ends first."""
    # Row and column in one number: runs of different rows are just far apart, which is one branch less to guess.
    row_a, row_b = np.int64(a[0, i]) << 32, np.int64(b[0, j]) << 32
    end_a, end_b = row_a + a[2, i], row_b + b[2, j]
    return min(end_a, end_b) - max(row_a + a[1, i], row_b + b[1, j]), int(end_a <= end_b)


@kernel()
def _common_runs(a: Array, b: Array, i: int, j: int, end_i: int, end_j: int, common: Array, n: int) -> int:
    """Write from place n on which runs share pixels, and how many: of a from i to end_i, of b from j to end_j."""
    while i < end_i and j < end_j:
        shared, a_first = _overlap(a, b, i, j)
        common[0, n], common[1, n], common[2, n] = i, j, shared
        n += int(shared > 0)
        i += a_first
        j += 1 - a_first
    return n


@kernel()
def _first_of_row(runs: Array, row: int) -> int:
    low, high = 0, runs.shape[1]
    while low < high:
        middle = (low + high) // 2
        if runs[0, middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@kernel()
def _add_pairs(a: Array, b: Array, common: Array, first: Array, chain: Array, n: int) -> int:
    """Add the pixels that runs share to the pair of their peaks, the next of n if it is a new one; return how many."""
    # A chain for each peak of a holds its pairs in the order of b: no table of all pairs, and nothing to be sorted.
    other, shared, after = chain[0], chain[1], chain[2]
    for k in range(common.shape[1]):
        p, q = a[3, common[0, k]], b[3, common[1, k]]
        before = -1
        pair = first[p]
        while pair >= 0 and other[pair] < q:
            before = pair
            pair = after[pair]
        if pair >= 0 and other[pair] == q:
            shared[pair] += common[2, k]
        else:
            other[n] = q
            shared[n] = common[2, k]
            after[n] = pair
            if before >= 0:
                after[before] = n
            else:
                first[p] = n
            n += 1
    return n


@kernel()
def shared_pixels(a: Array, b: Array, first: Array, common: Array, chain: Array, pairs: Array) -> int:
    """Count the common pixels of each pair of peaks; return how many pairs there are.

    Two passes: which runs overlap, then whose they are. In one, the processor guessed wrong at every other run: 0.36 ms
    in place of 0.23 for two frames of 3000 peaks. Rows above the middle and below it are walked along at the same time,
    for each step waits for the one before it.

    Parameters
    ----------
    a, b
        Runs of two frames, as `runs_of_peaks` writes them.
    first
        Shape (peaks of a,), filled with -1. To work in.
    common, chain
        Shape (3, runs of a and b together and 2 more). To work in.
    pairs
        As large. Its rows become the peak of a, the peak of b and how many pixels they share, in this order.
    """
    n_a, n_b = a.shape[1], b.shape[1]
    middle = a[0, n_a // 2] if n_a else 0
    half_a, half_b = _first_of_row(a, middle), _first_of_row(b, middle)
    # What is written behind the end of the list and does not count is overwritten by the next: no branch either.
    n, low = 0, half_a + half_b + 1
    i, j, low_i, low_j = 0, 0, half_a, half_b
    while i < half_a and j < half_b and low_i < n_a and low_j < n_b:
        shared, a_first = _overlap(a, b, i, j)
        common[0, n], common[1, n], common[2, n] = i, j, shared
        n += int(shared > 0)
        i += a_first
        j += 1 - a_first
        shared, a_first = _overlap(a, b, low_i, low_j)
        common[0, low], common[1, low], common[2, low] = low_i, low_j, shared
        low += int(shared > 0)
        low_i += a_first
        low_j += 1 - a_first
    n = _common_runs(a, b, i, j, half_a, half_b, common, n)
    low = _common_runs(a, b, low_i, low_j, n_a, n_b, common, low)
    n_pairs = _add_pairs(a, b, common[:, :n], first, chain, 0)
    n_pairs = _add_pairs(a, b, common[:, half_a + half_b + 1 : low], first, chain, n_pairs)
    other, shared_by, after = chain[0], chain[1], chain[2]
    n = 0
    for p in range(len(first)):
        pair = first[p]
        while pair >= 0:
            pairs[0, n] = p
            pairs[1, n] = other[pair]
            pairs[2, n] = shared_by[pair]
            n += 1
            pair = after[pair]
    return n


@kernel()
def near_pairs(
    row_a: Array, col_a: Array, row_b: Array, col_b: Array, by_row: Array, reach: float, pairs: Array
) -> int:
    """List the pairs of centroids no further apart than reach, in order; return how many, the room at most.

    Parameters
    ----------
    by_row
        The peaks of b in the order of their row, shape (peaks of b,).
    pairs
        Shape (2, room). If more pairs come than there is room, room + 1 is returned.
    """
    n = 0
    for p in range(len(row_a)):
        start = n
        low, high = 0, len(by_row)
        while low < high:
            middle = (low + high) // 2
            if row_b[by_row[middle]] < row_a[p] - reach:
                low = middle + 1
            else:
                high = middle
        while low < len(by_row) and row_b[by_row[low]] <= row_a[p] + reach:
            q = by_row[low]
            low += 1
            if np.hypot(row_a[p] - row_b[q], col_a[p] - col_b[q]) <= reach:
                if n == pairs.shape[1]:
                    return n + 1
                # A peak has a handful of neighbours: they are put in their order as they come.
                place = n
                while place > start and pairs[1, place - 1] > q:
                    pairs[1, place] = pairs[1, place - 1]
                    place -= 1
                pairs[1, place] = q
                pairs[0, n] = p
                n += 1
    return n


@kernel()
def weigh(
    peak_a: Array,
    peak_b: Array,
    shared: Array,
    row_a: Array,
    col_a: Array,
    pixels_a: Array,
    row_b: Array,
    col_b: Array,
    pixels_b: Array,
    score: Array,
    distance: Array,
) -> None:
    """Write the score of each pair, shared pixels over those of the smaller peak, and the distance of its centroids."""
    for k in range(len(peak_a)):
        a, b = peak_a[k], peak_b[k]
        score[k] = shared[k] / min(pixels_a[a], pixels_b[b])
        distance[k] = np.hypot(row_a[a] - row_b[b], col_a[a] - col_b[b])


@kernel()
def best_of_each(peak: Array, better: Array, usable: Array, best: Array) -> None:
    """Write to best[peak] the usable candidate of the largest `better`, the first of equals, or -1."""
    best[:] = -1
    for k in range(len(peak)):
        if usable[k] and (best[peak[k]] < 0 or better[k] > better[best[peak[k]]]):
            best[peak[k]] = k
