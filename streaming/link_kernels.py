"""Numba kernels of links: validated by their callers, preallocated output, nothing else in this file.

None is ``parallel=True``: two ordinary threads inside such a kernel abort the interpreter under numba's workqueue
layer, and that interpreter is the RunEngine's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .limit_kernels import distance_limit
from .vectors import kernel

Array = NDArray[Any]

_END = np.uint32(np.iinfo(np.uint32).max)
LONGEST = (1 << 16) - 2
"""Rows, or columns, of the largest frame: both fit into one number, below the one that ends a list."""
# Indices without a sign: of others numba asks at each step whether they count from the end.
_Index: Any = np.uint64
_Signed: Any = np.int64
_ONE, _HALF, _LOW = _Index(1), _Index(32), _Index(0xFFFFFFFF)


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
def spans_of_runs(runs: Array, spans: Array, owner: Array) -> bool:
    """Write where each run begins and ends, row and column in one number, and whose it is; tell whether they fit.

    Runs of different rows are then just far apart, which is one branch less to guess for whoever compares them; and
    what waits for a neighbour takes a quarter less memory than with numbers of 64 bits.

    Parameters
    ----------
    runs
        As `runs_of_peaks` writes them.
    spans
        Uint32, shape (2, runs + 1); the last one lies behind all others.
    owner
        Int32, shape (runs,).
    """
    n = runs.shape[1]
    most: Any = np.int64(0)
    for i in range(n):
        most = max(most, np.int64(runs[0, i]) + 1, np.int64(runs[2, i]))
        row = np.int64(runs[0, i]) << 16
        spans[0, i] = row + runs[1, i]
        spans[1, i] = row + runs[2, i]
        owner[i] = runs[3, i]
    spans[0, n] = spans[1, n] = _END
    return most <= LONGEST


@kernel()
def peaks_of_columns(columns: tuple[Array, ...], n_pixels: Array, peaks: Array) -> None:
    """Write what a link asks of each peak to a row of its own: two places to look at for a pair, not twelve.

    Parameters
    ----------
    columns
        row, col, var_row, var_col, cov_row_col and sum_intensity.
    n_pixels
        Int32.
    peaks
        Shape (peaks, 7). Row and column, pixels, the three variances, sum.
    """
    row, col, var_row, var_col, cov, total = columns
    for i in range(len(row)):
        peaks[i, 0] = row[i]
        peaks[i, 1] = col[i]
        peaks[i, 2] = n_pixels[i]
        peaks[i, 3] = var_row[i]
        peaks[i, 4] = var_col[i]
        peaks[i, 5] = cov[i]
        peaks[i, 6] = total[i]


@kernel()
def take_in(columns: tuple[Array, ...], n_pixels: Array, runs: Array, peaks: Array, spans: Array, owner: Array) -> bool:
    """Write what links are made from: `peaks_of_columns` and `spans_of_runs` in one call."""
    peaks_of_columns(columns, n_pixels, peaks)
    return spans_of_runs(runs, spans, owner)


@kernel()
def _first_at(begin: Array, key: int) -> int:
    low, high = 0, len(begin)
    while low < high:
        middle = (low + high) // 2
        if begin[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


@kernel()
def _step(
    begin_a: Array, end_a: Array, begin_b: Array, end_b: Array, i: int, j: int, met: Array, n: int
) -> tuple[int, int, int]:
    """Note run i of a and j of b at place n of met; return the next two, and n + 1 if these share pixels, else n."""
    last_a, last_b = end_a[i], end_b[j]
    # What does not count is overwritten by the next: no branch either.
    met[n] = (i << _HALF) | j
    a_first = _Index(last_a <= last_b)
    shares = _Index(max(begin_a[i], begin_b[j]) < min(last_a, last_b))
    return i + a_first, j + (_ONE - a_first), n + shares


@kernel()
def _meetings(a: Array, b: Array, met: Array) -> tuple[int, int, int]:
    """Write which runs share pixels, in two stretches of met; return the first's end, and the second's start and end.

    Rows above the middle and below it are walked along at the same time, for each step waits for the one before it.
    Each step leaves a run of a or of b behind, so it is known how many there are.
    """
    begin_a, end_a, begin_b, end_b = a[0], a[1], b[0], b[1]
    n_a, n_b = len(begin_a) - 1, len(begin_b) - 1
    middle: Any = (np.int64(begin_a[n_a // 2]) >> 16) << 16
    low_i, low_j = _Index(_first_at(begin_a, middle)), _Index(_first_at(begin_b, middle))
    start = low_i + low_j
    i = j = n = _Index(0)
    low = start
    above, below = _Signed(start), n_a + n_b - _Signed(start)
    both = min(above, below)
    for _ in range(both):
        i, j, n = _step(begin_a, end_a, begin_b, end_b, i, j, met, n)
        low_i, low_j, low = _step(begin_a, end_a, begin_b, end_b, low_i, low_j, met, low)
    for _ in range(above - both):
        i, j, n = _step(begin_a, end_a, begin_b, end_b, i, j, met, n)
    for _ in range(below - both):
        low_i, low_j, low = _step(begin_a, end_a, begin_b, end_b, low_i, low_j, met, low)
    return _Signed(n), _Signed(start), _Signed(low)


@kernel()
def _add_pairs(
    a: Array, b: Array, owner_a: Array, owner_b: Array, met: Array, one: Array, first: Array, chain: Array, n: int
) -> int:
    """Add the pixels that runs share to the pair of their peaks; return how many pairs are in chains."""
    # Most peaks have one partner: it has a place of its own, and whether it is new is no branch. For the others there
    # is a chain for each peak of a, in the order of b: no table of all pairs, and nothing to be sorted.
    partner, with_it = one[0], one[1]
    other, shared, after = chain[0], chain[1], chain[2]
    for k in range(len(met)):
        i, j = met[k] >> _HALF, met[k] & _LOW
        p, q = _Index(owner_a[i]), owner_b[j]
        pixels = np.int32(min(a[1, i], b[1, j]) - max(a[0, i], b[0, j]))
        here = partner[p]
        if (here == q) | (here < 0):
            partner[p] = q
            with_it[p] += pixels
            continue
        before = -1
        pair = first[p]
        while pair >= 0 and other[pair] < q:
            before = pair
            pair = after[pair]
        if pair >= 0 and other[pair] == q:
            shared[pair] += pixels
            continue
        other[n] = q
        shared[n] = pixels
        after[n] = pair
        if before >= 0:
            after[before] = n
        else:
            first[p] = n
        n += 1
    return n


@kernel()
def shared_pixels(
    a: Array, b: Array, owner_a: Array, owner_b: Array, met: Array, of_a: Array, chain: Array, pairs: Array
) -> int:
    """Count the common pixels of each pair of peaks; return how many pairs there are.

    Two passes: which runs meet, then whose they are. In one, the processor guessed wrong at every other run: 0.36 ms
    in place of 0.23 for two frames of 3000 peaks, and with rows and columns in one number, unsigned indices, one word
    for each meeting and a place for the only partner 0.11.

    Parameters
    ----------
    a, b, owner_a, owner_b
        Runs of two frames, as `spans_of_runs` writes them.
    met
        Uint64, shape (runs of a and b together,). To work in.
    of_a
        Int32, shape (3, peaks of a). To work in.
    chain
        Int32, shape (3, runs of a and b together). To work in.
    pairs
        Int32, as large. Its rows become the peak of a, the peak of b and how many pixels they share, in this order.
    """
    end, start, low_end = _meetings(a, b, met)
    one, first = of_a[:2], of_a[2]
    one[0] = first[:] = -1
    one[1] = 0
    n = _add_pairs(a, b, owner_a, owner_b, met[:end], one, first, chain, 0)
    _add_pairs(a, b, owner_a, owner_b, met[start:low_end], one, first, chain, n)
    other, shared, after = chain[0], chain[1], chain[2]
    n = 0
    for p in range(len(first)):
        here = one[0, p]
        if here < 0:
            continue
        pair = first[p]
        while pair >= 0 and other[pair] < here:
            pairs[0, n], pairs[1, n], pairs[2, n] = p, other[pair], shared[pair]
            n += 1
            pair = after[pair]
        pairs[0, n], pairs[1, n], pairs[2, n] = p, here, one[1, p]
        n += 1
        while pair >= 0:
            pairs[0, n], pairs[1, n], pairs[2, n] = p, other[pair], shared[pair]
            n += 1
            pair = after[pair]
    return n


@kernel()
def near_pairs(a: Array, b: Array, by_row: Array, reach: float, pairs: Array) -> int:
    """List the pairs of centroids no further apart than reach, in order; return how many, the room at most.

    Parameters
    ----------
    a, b
        Row and column of each peak of both frames, shape (peaks, 2 or more).
    by_row
        The peaks of b in the order of their row, shape (peaks of b,).
    pairs
        Shape (2 or more, room). If more pairs come than there is room, room + 1 is returned.
    """
    n = 0
    for p in range(len(a)):
        start = n
        low, high = 0, len(by_row)
        while low < high:
            middle = (low + high) // 2
            if b[by_row[middle], 0] < a[p, 0] - reach:
                low = middle + 1
            else:
                high = middle
        while low < len(by_row) and b[by_row[low], 0] <= a[p, 0] + reach:
            q = by_row[low]
            low += 1
            if np.hypot(a[p, 0] - b[q, 0], a[p, 1] - b[q, 1]) <= reach:
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
    pairs: Array, n: int, a: Array, b: Array, limits: tuple[float, ...], every: bool, whole: Array, weights: Array
) -> int:
    """Write what a pair of peaks is worth, and why it is no link; return how many were written.

    Parameters
    ----------
    pairs, n
        Peak of a, peak of b and the pixels that they share, of n pairs: int32, shape (3, n or more).
    a, b
        Row, column, pixels and the three variances of each peak of both frames, shape (peaks, 6 or more).
    limits
        min_shared_pixels, max_distance, max_distance_by_size (both infinite where there is none),
        max_distance_by_width and min_score.
    every
        Whether pairs that are no links are written too.
    whole
        Int32, shape (4, n or more). Its rows become those of pairs, and the reason, a `Reason`.
    weights
        Its rows become the score, shared pixels over those of the smaller peak, and the distance of the centroids.
    """
    least, far, by_size, by_width, low = limits
    kept = 0
    for k in range(n):
        p, q, shared = pairs[0, k], pairs[1, k], pairs[2, k]
        score = shared / min(a[p, 2], b[q, 2])
        distance = np.hypot(a[p, 0] - b[q, 0], a[p, 1] - b[q, 1])
        reason = 0
        if shared < least:
            reason = 1
        elif distance > far or (by_size < np.inf and distance > distance_limit(a, p, b, q, by_size, by_width)):
            reason = 2
        elif score < low:
            reason = 3
        # What is not kept is overwritten by the next.
        whole[0, kept], whole[1, kept], whole[2, kept], whole[3, kept] = p, q, shared, reason
        weights[0, kept], weights[1, kept] = score, distance
        kept += int(every or reason == 0)
    return kept


@kernel()
def overlapping(
    a: Array,
    b: Array,
    owner_a: Array,
    owner_b: Array,
    peaks_a: Array,
    peaks_b: Array,
    met: Array,
    of_a: Array,
    chain: Array,
    pairs: Array,
    limits: tuple[float, ...],
    every: bool,
    whole: Array,
    weights: Array,
) -> int:
    """Write what each pair of peaks that share pixels is worth: `shared_pixels` and `weigh` in one call."""
    n = shared_pixels(a, b, owner_a, owner_b, met, of_a, chain, pairs)
    return weigh(pairs, n, peaks_a, peaks_b, limits, every, whole, weights)


@kernel()
def best_of_each(peak: Array, better: Array, usable: Array, best: Array) -> None:
    """Write to best[peak] the usable candidate of the largest `better`, the first of equals, or -1."""
    best[:] = -1
    for k in range(len(peak)):
        if usable[k] and (best[peak[k]] < 0 or better[k] > better[best[peak[k]]]):
            best[peak[k]] = k
