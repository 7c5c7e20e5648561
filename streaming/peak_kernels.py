"""Numba kernels from lit pixels to peaks: validated by their callers, preallocated output, never ``parallel=True``.

Pixels are listed in raster order. Every sum runs over the pixels of a peak in that order, relative to its first pixel:
that fixes the last bit of a floating-point sum, so that digests can be equal, and a faster kernel must keep this order.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .vectors import (
    LANES,
    add_moments,
    add_near,
    exceeded,
    reached,
    steps,
    take_brighter,
    trailing_zeros,
)

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def runs_of_pixels(row: Array, col: Array, runs: Array) -> int:
    """Write row, column and index of the first pixel of each run of neighbours in a row; return how many runs.

    runs is (3, n + 1); the index after the last one is len(row).
    """
    n = 0
    for i in range(len(row)):
        if i == 0 or row[i] != row[i - 1] or col[i] != col[i - 1] + 1:
            runs[0, n] = row[i]
            runs[1, n] = col[i]
            runs[2, n] = i
            n += 1
    runs[2, n] = len(row)
    return n


@njit(nogil=True, cache=True, forceinline=True)
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True, forceinline=True)
def _summits(weight: Array, k: Any, a: Any, b: Any) -> Any:
    """Return a word: bit m says whether pixel k + m of the run a ... b is above the one before, not below the next."""
    n = min(LANES, b - k)
    if k > 0 and k + LANES < len(weight):
        word = steps(weight, k)
        rises, falls = word & np.uint64(0xFF), word >> np.uint64(LANES)
    else:
        rises, falls = np.uint64(0), np.uint64(0)
        for m in range(n):
            rises |= np.uint64(k + m > a and weight[k + m] > weight[k + m - 1]) << np.uint64(m)
            falls |= np.uint64(k + m + 1 < b and weight[k + m] >= weight[k + m + 1]) << np.uint64(m)
    # The ends of a run have one neighbour.
    rises |= np.uint64(k == a)
    if b - k <= LANES:
        falls |= np.uint64(1) << np.uint64(n - 1)
    return rises & falls & ((np.uint64(1) << np.uint64(n)) - np.uint64(1))


@njit(nogil=True, cache=True)
def _is_exceeded(weight: Array, i: Any, p: Any, low: Any, high: Any, equal: bool) -> Any:
    """Do what `exceeded` (with equal: `reached`) does, one by one, where eight values cannot be read."""
    word = np.uint64(0)
    for k in range(min(LANES, len(weight) - i)):
        for m in range(max(low, k - 1), min(high, k + 2)):
            higher = weight[p + m] > weight[i + k] or (equal and weight[p + m] == weight[i + k])
            word |= np.uint64(higher) << np.uint64(k)
    return word


@njit(nogil=True, cache=True, forceinline=True)
def _keep_maxima(weight: Array, a: Any, b: Any, p: Any, low: Any, high: Any, equal: bool, maxima: Array) -> None:
    """Clear the bits of the pixels of the run a ... b that a touching pixel of another row's run exceeds.

    The neighbour of pixel a + k lies at p + k, and in the run where low <= k < high. With equal, one that is as bright
    exceeds it too.
    """
    block = a
    for k in range(a, b, LANES):
        shift = k - a
        if p + shift >= 1 and max(p + shift, k) + LANES < len(weight):
            if equal:
                word = reached(weight, k, p + shift, low - shift, high - shift)
            else:
                word = exceeded(weight, k, p + shift, low - shift, high - shift)
        else:
            word = _is_exceeded(weight, k, p + shift, low - shift, high - shift, equal)
        maxima[block] &= np.uint8(~word)
        block += 1


@njit(nogil=True, cache=True)
def groups(weight: Array, runs: Array, n_runs: int, group: Array, size: Array, maxima: Array, near: Array) -> int:
    """Number the 8-connected groups of pixels from 0 by their first pixel; return how many there are.

    runs is what `runs_of_pixels` wrote. Written are: group, that of each run; size, the pixels of each group; near
    (4, runs), the runs above, from and to, and those below, that each run touches; and the local maxima, pixels of
    which no 8-neighbour is brighter, nor as bright and earlier, as bits: those of the first eight pixels of run k are
    maxima[runs[2, k]], those of the next eight follow it.
    """
    # Runs go through the union-find, not pixels. The lower index wins, so a root is always the first run of its group.
    # Pixels are compared while the runs are side by side anyway; it takes most of the time, but a pass of its own more.
    rows, cols, first = runs[0], runs[1], runs[2]
    above = 0
    for i in range(n_runs):
        group[i] = i
        a, b = np.int64(first[i]), np.int64(first[i + 1])
        r, start = rows[i], np.int64(cols[i])
        end = start + b - a
        for k in range(a, b, LANES):
            maxima[a + (k - a) // LANES] = _summits(weight, k, a, b)
        # Runs above that end before this one can touch them cannot touch a later one of this row either.
        while rows[above] < r - 1 or (rows[above] == r - 1 and cols[above] + first[above + 1] - first[above] < start):
            above += 1
        near[0, i] = j = above
        near[2, i] = near[3, i] = 0
        while rows[j] == r - 1 and cols[j] <= end:
            p, q = np.int64(first[j]), np.int64(first[j + 1])
            shift = start - cols[j]
            _keep_maxima(weight, a, b, p + shift, -shift, q - p - shift, True, maxima)
            _keep_maxima(weight, p, q, a - shift, shift, b - a + shift, False, maxima)
            x, y = _root(group, i), _root(group, j)
            if x < y:
                group[y] = x
            elif y < x:
                group[x] = y
            if near[3, j] == 0:
                near[2, j] = i
            near[3, j] = i + 1
            j += 1
        near[1, i] = j
    n = 0
    for i in range(n_runs):
        # Every root has a lower index than what hangs on it, and is numbered by now.
        if group[i] == i:
            size[n] = 0
            group[i] = n
            n += 1
        else:
            group[i] = group[group[i]]
        size[group[i]] += first[i + 1] - first[i]
    return n


@njit(nogil=True, cache=True, forceinline=True)
def _beside(runs: Array, i: Any, j: Any, k: Any) -> tuple[Any, Any, Any]:
    """Say where run j lies beside the pixels of run i from k on: the neighbour of k, and as which pixels it counts."""
    start = np.int64(runs[2, j])
    p = start + runs[1, i] - runs[1, j] + k - runs[2, i]
    return p, start - p, runs[2, j + 1] - p


@njit(nogil=True, cache=True, forceinline=True)
def _add(weight: Array, runs: Array, i: Any, j: Any, k: Any, side: Any, middle: Any, sums: Array) -> None:
    """Add to eight sums of run i, from k on, their neighbours in run j."""
    p, low, high = _beside(runs, i, j, k)
    if p >= 1 and max(p, k) + LANES < len(weight):
        add_near(weight, k, p, low, high, side, middle, sums)
        return
    for m in range(min(LANES, len(weight) - k)):
        for near in range(max(low, m - 1), min(high, m + 2)):
            sums[k + m] += weight[p + near] * (middle if near == m else side)


@njit(nogil=True, cache=True)
def smooth(weight: Array, runs: Array, n_runs: int, near: Array, smoothed: Array) -> None:
    """Smooth by 3 x 3 weights [1 2 1; 2 4 2; 1 2 1] / 16 over the listed pixels; others count as 0.

    All float32, in the order of ImageD11's ``sparse_smooth``: a sixteenth of the pixel itself, then its neighbours in
    raster order, three more sixteenths of itself in its turn. near is what `groups` wrote; smoothed has LANES more
    places than there are pixels.
    """
    one, two, three = np.float32(0.0625), np.float32(0.125), np.float32(0.1875)
    n = len(weight)
    for i in range(n_runs):
        for k in range(np.int64(runs[2, i]), np.int64(runs[2, i + 1]), LANES):
            for m in range(k, min(k + LANES, n)):
                smoothed[m] = weight[m] * one
            for j in range(near[0, i], near[1, i]):
                _add(weight, runs, i, j, k, one, two, smoothed)
            _add(weight, runs, i, i, k, two, three, smoothed)
            for j in range(near[2, i], near[3, i]):
                _add(weight, runs, i, j, k, one, two, smoothed)


@njit(nogil=True, cache=True, forceinline=True)
def _take(weight: Array, runs: Array, i: Any, j: Any, k: Any, best: Array, top: Array) -> None:
    """Let eight pixels of run i, from k on, take what is brighter than their best so far in run j."""
    p, low, high = _beside(runs, i, j, k)
    if p >= 1 and max(p, k) + LANES < len(weight):
        take_brighter(weight, k, p, low, high, best, top)
        return
    for m in range(min(LANES, len(weight) - k)):
        for near in range(max(low, m - 1), min(high, m + 2)):
            if weight[p + near] > best[k + m]:
                best[k + m] = weight[p + near]
                top[k + m] = p + near


@njit(nogil=True, cache=True)
def climb(weight: Array, runs: Array, n_runs: int, near: Array, best: Array, top: Array) -> None:
    """Write the local maximum that each pixel climbs to, by way of the brightest of its 3 x 3 neighbourhood.

    Of equals the first in raster order is taken, the pixel itself in its turn. weight may be float32 or float64, near
    is what `groups` wrote, best (of weight's type) is room to work in; best and top have LANES more places than there
    are pixels.
    """
    n = len(weight)
    for i in range(n_runs):
        for k in range(np.int64(runs[2, i]), np.int64(runs[2, i + 1]), LANES):
            for m in range(k, min(k + LANES, n)):
                best[m] = -np.inf
            for j in range(near[0, i], near[1, i]):
                _take(weight, runs, i, j, k, best, top)
            _take(weight, runs, i, i, k, best, top)
            for j in range(near[2, i], near[3, i]):
                _take(weight, runs, i, j, k, best, top)
    # Each pass doubles the steps that are taken at once.
    moved = True
    while moved:
        moved = False
        for i in range(n):
            further = top[top[i]]
            moved |= further != top[i]
            top[i] = further


@njit(nogil=True, cache=True)
def flat_tops(weight: Array, runs: Array, n_runs: int, near: Array, is_top: Array) -> None:
    """Mark the pixels that no 8-neighbour exceeds: of a flat top all. near is what `groups` wrote."""
    first = runs[2]
    for i in range(n_runs):
        for m in range(first[i], first[i + 1]):
            is_top[m] = True
        for part in range(3):
            low = near[0, i] if part == 0 else (i if part == 1 else near[2, i])
            high = near[1, i] if part == 0 else (i + 1 if part == 1 else near[3, i])
            for j in range(low, high):
                p, start, end = _beside(runs, i, j, np.int64(first[i]))
                for m in range(first[i + 1] - first[i]):
                    for other in range(max(start, m - 1), min(end, m + 2)):
                        is_top[first[i] + m] &= weight[p + other] <= weight[first[i] + m]


@njit(nogil=True, cache=True)
def nearest_maximum(
    row: Array,
    col: Array,
    weight: Array,
    group: Array,
    size: Array,
    is_maximum: Array,
    limit: int,
    start: Array,
    order: Array,
    top: Array,
) -> None:
    """Write the regional maximum that is nearest to each pixel, the first in raster order of equally near ones.

    Maxima are those of is_maximum; of more than limit in a group only the brightest count, the earlier one of equals.
    start (groups + 1) and order (n) are room to work in.
    """
    start[0] = 0
    for k in range(len(size)):
        start[k + 1] = start[k] + size[k]
    for i in range(len(row)):
        order[start[group[i]]] = i
        start[group[i]] += 1
    for k in range(len(size)):
        # The filling above moved every start to the next one's.
        mine = order[start[k] - size[k] : start[k]]
        maxima = mine[is_maximum[mine]]
        if len(maxima) > limit:
            brightest = np.argsort(-weight[maxima], kind="mergesort")[:limit]
            maxima = np.sort(maxima[brightest])
        for i in mine:
            best, least = maxima[0], np.int64(1) << np.int64(62)
            for m in maxima:
                dr, dc = np.int64(row[i]) - row[m], np.int64(col[i]) - col[m]
                distance = dr * dr + dc * dc
                if distance < least:
                    best, least = m, distance
            top[i] = best


@njit(nogil=True, cache=True)
def number_tops(
    top: Array,
    runs: Array,
    n_runs: int,
    number: Array,
    seen: Array,
    stretch: Array,
    label: Array,
) -> tuple[int, int]:
    """Number the parts of the groups that are kept, by their first pixel; return how many stretches and parts.

    top is what each pixel belongs to, number that of each run's group, -1 where it is dropped. Written are of each
    stretch of a run that belongs to one part its row, its first column and first pixel, and its part; stretch is as
    large as runs for as many runs as pixels, seen (n) is room to work in.
    """
    n, parts = 0, 0
    for i in range(len(top)):
        seen[i] = -1
    for run in range(n_runs):
        r, a, b = runs[0, run], runs[2, run], runs[2, run + 1]
        shift = runs[1, run] - a
        for i in range(a, b):
            if i > a and (top[i] == top[i - 1] or number[run] < 0):
                continue
            stretch[0, n] = r
            stretch[1, n] = i + shift
            stretch[2, n] = i
            label[n] = -1
            if number[run] >= 0:
                if seen[top[i]] < 0:
                    seen[top[i]] = parts
                    parts += 1
                label[n] = seen[top[i]]
            n += 1
    stretch[2, n] = len(top)
    return n, parts


@njit(nogil=True, cache=True)
def moments(
    weight: Array,
    stretch: Array,
    label: Array,
    n_stretches: int,
    sums: Array,
    box: Array,
    counts: Array,
    labels: Array,
) -> None:
    """Sum each label's pixels in raster order, and write the label of each pixel.

    A stretch is a row of neighbours of one label, -1 for none, as `runs_of_pixels` and `number_tops` write them. sums
    (n, 8): weight, w dr, w dc, w dr^2, w dc^2, w dr dc, largest weight, with dr, dc from the first pixel; box (n, 8):
    first row, first col, row_min, row_max, col_min, col_max, row and col of the brightest pixel; counts (n), of zeros:
    pixels.
    """
    flat = sums.reshape(-1)
    for s in range(n_stretches):
        k, a, b = np.int64(label[s]), np.int64(stretch[2, s]), np.int64(stretch[2, s + 1])
        for i in range(a, b, LANES):
            if i + LANES <= len(labels):
                # What is too much, the next stretch overwrites.
                for m in range(LANES):
                    labels[i + m] = k
            else:
                labels[i:b] = k
        if k < 0:
            continue
        r, c = stretch[0, s], stretch[1, s]
        if counts[k] == 0:
            box[k, 0] = box[k, 2] = r
            box[k, 1] = box[k, 4] = box[k, 5] = c
            sums[k] = 0.0
            sums[k, 6] = -np.inf
        at = add_moments(weight, a, b - a, float(r - box[k, 0]), float(c - box[k, 1]), flat, k * LANES)
        # No branch: whether a row is the brightest so far cannot be predicted.
        brighter = weight[at] > sums[k, 6]
        sums[k, 6] = weight[at] if brighter else sums[k, 6]
        box[k, 6] = r if brighter else box[k, 6]
        box[k, 7] = c + at - a if brighter else box[k, 7]
        box[k, 3] = r
        box[k, 4] = min(box[k, 4], c)
        box[k, 5] = max(box[k, 5], c + b - a - 1)
        counts[k] += b - a


@njit(nogil=True, cache=True)
def count_maxima(runs: Array, n_runs: int, maxima: Array, labels: Array, counts: Array) -> None:
    """Count the local maxima of each label, as `groups` found them; counts (n), of zeros."""
    for run in range(n_runs):
        a, b = runs[2, run], runs[2, run + 1]
        for k in range(a, b, LANES):
            word = np.uint64(maxima[a + (k - a) // LANES])
            while word != 0:
                label = labels[k + np.int64(trailing_zeros(word))]
                if label >= 0:
                    counts[label] += 1
                word &= word - np.uint64(1)


@njit(nogil=True, cache=True)
def count_labels(labels: Array, marked: Array, counts: Array) -> None:
    """Count the marked pixels of each label; counts (n), of zeros."""
    for i in range(len(labels)):
        if labels[i] >= 0:
            counts[labels[i]] += marked[i]


@njit(nogil=True, cache=True)
def keep_labelled(
    labels: Array,
    row: Array,
    col: Array,
    raw: Array,
    kept_label: Array,
    kept_row: Array,
    kept_col: Array,
    kept_raw: Array,
) -> int:
    """Write the pixels that have a label, with counts as float64; return how many they are."""
    n = 0
    for i in range(len(labels)):
        # No branch: what is not kept is overwritten by the next.
        kept_label[n] = labels[i]
        kept_row[n] = row[i]
        kept_col[n] = col[i]
        kept_raw[n] = raw[i]
        n += labels[i] >= 0
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def columns_of_peaks(
    sums: Array, box: Array, shape: tuple[int, int], moments: Array, places: Array, edge: Array
) -> None:
    """Make columns of what `moments` wrote.

    moments (7, n): sum, largest, row, col, var_row, var_col, cov_row_col; places (6, n): row_max, col_max, row_min,
    row_end, col_min, col_end; edge (n): whether the box touches the border of the frame.
    """
    for k in range(len(sums)):
        total = sums[k, 0]
        row, col = sums[k, 1] / total, sums[k, 2] / total
        var_row, var_col = sums[k, 3] / total - row * row, sums[k, 4] / total - col * col
        moments[0, k], moments[1, k] = total, sums[k, 6]
        moments[2, k], moments[3, k] = box[k, 0] + row, box[k, 1] + col
        # Rounding can leave a variance of equal pixels a hair below zero.
        moments[4, k], moments[5, k] = max(var_row, 0.0), max(var_col, 0.0)
        moments[6, k] = sums[k, 5] / total - row * col
        places[0, k], places[1, k] = box[k, 6], box[k, 7]
        places[2, k], places[3, k] = box[k, 2], box[k, 3] + 1
        places[4, k], places[5, k] = box[k, 4], box[k, 5] + 1
        edge[k] = box[k, 2] == 0 or box[k, 4] == 0 or box[k, 3] == shape[0] - 1 or box[k, 5] == shape[1] - 1
