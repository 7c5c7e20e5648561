"""Numba kernels from lit pixels to peaks: validated by their callers, preallocated output, never ``parallel=True``.

Pixels are listed in raster order. Every sum runs over the pixels of a peak in that order, relative to its first pixel:
that fixes the last bit of a floating-point sum, so that digests can be equal. Only where every partial sum is provably
a whole number below 2^53, thus exact, another order is taken: it gives the same bits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .vectors import (
    LANES,
    WIDE,
    add_moments,
    add_near,
    any_of,
    count_ones,
    keep_pixels,
    kernel,
    prefetch,
    reached,
    set_lowest,
    set_scaled,
    steps,
    sum_whole,
    take_brighter,
)

Array = NDArray[Any]

_AHEAD = 16
"Stretches from one that is looked at to the one whose part of an image is asked for."

_WHOLE = 2.0**53
"Up to here every whole number is a float64."


@kernel()
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


@kernel(forceinline=True)
def _root(parent: Array, i: Any) -> Any:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@kernel(forceinline=True)
def _words_of(first: Any, run: Any) -> Any:
    """Return the place of the words whose bits are a run's pixels, of which `first` is the first: each has enough."""
    return np.int64(run) + (np.int64(first) >> 6)


@kernel(forceinline=True)
def _keep_maxima(
    weight: Array, a: Any, b: Any, p: Any, q: Any, x: Any, y: Any, shift: Any, m: Any, maxima: Array
) -> None:
    """Clear the bits of those of 16 pixels of a run, from its m-th on, and of a run above it, that the other exceeds.

    The run a ... b begins shift columns after the run p ... q; their bits are in the words from x and y on. One of the
    16 pixels at least has a neighbour in p ... q.
    """
    # One comparison serves both: what does not reach its neighbour below is exceeded by it.
    near = p + shift + m
    # Bit t stands for the pixel near + t - 1, if it is in p ... q.
    one = np.int64(1)
    there = (one << min(q - near + 1, WIDE + 2)) - (one << max(p - near + 1, 0))
    here = (one << min(np.int64(WIDE), b - a - m)) - one
    left, straight, right = there & here, (there >> 1) & here, (there >> 2) & here
    word = reached(weight, a + m, near, left, straight, right)
    up_left, up, up_right = word & 0xFFFF, (word >> WIDE) & 0xFFFF, word >> (2 * WIDE)
    place = np.uintp(x + (m >> 6))
    maxima[place] &= ~((up_left | up | up_right) << (m & 63))
    exceeded = (left & ~up_left) | ((straight & ~up) << 1) | ((right & ~up_right) << 2)
    at = shift + m - 1
    exceeded >>= max(-at, 0)
    at = max(at, 0)
    place = np.uintp(y + (at >> 6))
    at &= 63
    maxima[place] &= ~(exceeded << at)
    if at > 64 - (WIDE + 2) and exceeded >> (64 - at) != 0:
        maxima[place + np.uintp(1)] &= ~(exceeded >> (64 - at))


@kernel()
def groups(weight: Array, runs: Array, n_runs: int, group: Array, size: Array, maxima: Array, near: Array) -> int:
    """Number the 8-connected groups of pixels from 0 by their first pixel; return how many there are.

    runs is what `runs_of_pixels` wrote. Written are: group, that of each run; size, the pixels of each group; near
    (4, runs), the runs above, from and to, and those below, that each run touches; and the local maxima, pixels of
    which no 8-neighbour is brighter, nor as bright and earlier, as bits: those of the first 64 pixels of run k are
    maxima[k + runs[2, k] // 64], those of the next 64 follow it. Where maxima has no room, nobody asks for them.
    """
    # Runs go through the union-find, not pixels. The lower index wins, so a root is always the first run of its group.
    # Pixels are compared while the runs are side by side anyway; it takes half of the time, but a pass of its own more.
    rows, cols, first = runs[0], runs[1], runs[2]
    one = np.int64(1)
    above = np.uintp(0)
    asked = len(maxima) > 0
    for i in range(n_runs):
        group[i] = i
        a, b = np.int64(first[i]), np.int64(first[i + 1])
        start, length = np.int64(cols[i]), b - a
        x = _words_of(a, i)
        for m in range(0, length if asked else 0, WIDE):
            here = (one << min(np.int64(WIDE), length - m)) - one
            # The ends of a run have one neighbour.
            before, after = here & ~np.int64(m == 0), here & ((one << min(np.int64(WIDE), length - m - 1)) - one)
            word = steps(weight, a + m, here, before, after) << (m & 63)
            place = np.uintp(x + (m >> 6))
            maxima[place] = word if m & 63 == 0 else maxima[place] | word
        # Runs above that end before this one can touch them cannot touch a later one of this row either. Row and column
        # are compared as one number: two conditions cannot be foretold as well as one.
        place = ((np.int64(rows[i]) - 1) << 32) + start
        while (np.int64(rows[above]) << 32) + cols[above] + first[above + np.uintp(1)] - first[above] < place:
            above += np.uintp(1)
        near[0, i] = j = above
        near[2, i] = near[3, i] = 0
        while (np.int64(rows[j]) << 32) + cols[j] <= place + length:
            p, q = np.int64(first[j]), np.int64(first[j + np.uintp(1)])
            shift, y = start - cols[j], _words_of(p, j)
            stop = min(length, q - p - shift + 1) if asked else 0
            for m in range(max(0, -shift - 1) & ~np.int64(WIDE - 1), stop, WIDE):
                _keep_maxima(weight, a, b, p, q, x, y, shift, m, maxima)
            u, v = _root(group, i), _root(group, np.int64(j))
            if u < v:
                group[v] = u
            elif v < u:
                group[u] = v
            if near[3, j] == 0:
                near[2, j] = i
            near[3, j] = i + 1
            j += np.uintp(1)
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


@kernel(forceinline=True)
def _beside(runs: Array, i: Any, j: Any, k: Any) -> tuple[Any, Any, Any]:
    """Say where run j lies beside the pixels of run i from k on: the neighbour of k, and as which pixels it counts."""
    # Indices without a sign: nobody has to see then whether they count from the end.
    i, j = np.uintp(i), np.uintp(j)
    start = np.int64(runs[2, j])
    p = start + runs[1, i] - runs[1, j] + k - runs[2, i]
    return p, start - p, runs[2, j + np.uintp(1)] - p


@kernel(forceinline=True)
def _add(weight: Array, runs: Array, i: Any, j: Any, k: Any, side: Any, middle: Any, sums: Array) -> None:
    """Add to 16 sums of run i, from k on, their neighbours in run j."""
    p, low, high = _beside(runs, i, j, k)
    add_near(weight, k, p, low, high, side, middle, sums)


@kernel()
def smooth(weight: Array, runs: Array, n_runs: int, near: Array, smoothed: Array) -> None:
    """Smooth by 3 x 3 weights [1 2 1; 2 4 2; 1 2 1] / 16 over the listed pixels; others count as 0.

    All float32, in the order of ImageD11's ``sparse_smooth``: a sixteenth of the pixel itself, then its neighbours in
    raster order, three more sixteenths of itself in its turn. near is what `groups` wrote; smoothed has WIDE more
    places than there are pixels.
    """
    one, two, three = np.float32(0.0625), np.float32(0.125), np.float32(0.1875)
    for i in range(n_runs):
        for k in range(np.int64(runs[2, i]), np.int64(runs[2, i + 1]), WIDE):
            set_scaled(weight, k, np.int64(runs[2, i + 1]) - k, one, smoothed)
            for j in range(near[0, i], near[1, i]):
                _add(weight, runs, i, j, k, one, two, smoothed)
            _add(weight, runs, i, i, k, two, three, smoothed)
            for j in range(near[2, i], near[3, i]):
                _add(weight, runs, i, j, k, one, two, smoothed)


@kernel(forceinline=True)
def _take(weight: Array, runs: Array, i: Any, j: Any, k: Any, best: Array, top: Array) -> None:
    """Let 16 pixels of run i, from k on, take what is brighter than their best so far in run j."""
    p, low, high = _beside(runs, i, j, k)
    take_brighter(weight, k, p, low, high, best, top)


@kernel()
def climb(weight: Array, runs: Array, n_runs: int, near: Array, best: Array, top: Array) -> None:
    """Write the brightest pixel of each one's 3 x 3 neighbourhood; `settle` then goes on to the local maximum.

    Of equals the first in raster order is taken, the pixel itself in its turn. weight may be float32 or float64, near
    is what `groups` wrote, best (of weight's type) is room to work in; best and top have WIDE more places than there
    are pixels.
    """
    for i in range(n_runs):
        for k in range(np.int64(runs[2, i]), np.int64(runs[2, i + 1]), WIDE):
            set_lowest(best, k)
            for j in range(near[0, i], near[1, i]):
                _take(weight, runs, i, j, k, best, top)
            _take(weight, runs, i, i, k, best, top)
            for j in range(near[2, i], near[3, i]):
                _take(weight, runs, i, j, k, best, top)


@kernel()
def settle(top: Array, n: int) -> None:
    """Go on from where each of n pixels points to until nothing moves."""
    # Each pass doubles the steps that are taken at once. With a flag instead of bits it takes twice the time.
    moved = np.int32(1)
    while moved:
        moved = np.int32(0)
        for i in range(n):
            near = top[i]
            further = top[np.uintp(near)]
            moved |= further ^ near
            top[i] = further


@kernel()
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


@compiled()
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


@kernel()
def number_groups(
    group: Array, n_runs: int, size: Array, n_groups: int, least: int, numbers: Array, number: Array
) -> int:
    """Number the groups of at least so many pixels, in their order; return how many there are.

    group and size are what `groups` wrote. Written is of each run the number of its group, -1 where that is dropped;
    numbers (groups) is room to work in.
    """
    kept = 0
    for k in range(n_groups):
        large = size[k] >= least
        numbers[k] = kept if large else -1
        kept += large
    for i in range(n_runs):
        number[i] = numbers[group[i]]
    return kept


@kernel()
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


@kernel()
def moments(
    weight: Array,
    stretch: Array,
    label: Array,
    n_stretches: int,
    sums: Array,
    box: Array,
    counts: Array,
) -> None:
    """Sum each label's pixels in raster order.

    A stretch is a row of neighbours of one label, -1 for none, as `runs_of_pixels` and `number_tops` write them. sums
    (n, 8): weight, w dr, w dc, w dr^2, w dc^2, w dr dc, largest weight, with dr, dc from the first pixel; box (n, 8):
    first row, first col, row_min, row_max, col_min, col_max, row and col of the brightest pixel; counts (n), of zeros:
    pixels.
    """
    # Whole numbers that stay below 2^53 have one sum, whatever the order: 16 pixels at once then.
    if _sum_any_order(weight, stretch, label, n_stretches, sums, box, counts):
        return
    counts[:] = 0
    flat = sums.reshape(-1)
    for s in range(n_stretches):
        k, a, b = np.int64(label[s]), np.int64(stretch[2, s]), np.int64(stretch[2, s + 1])
        if k < 0:
            continue
        r, c = stretch[0, s], stretch[1, s]
        _enter(k, r, c, b - a, sums, box, counts)
        at = add_moments(weight, a, b - a, float(r - box[k, 0]), float(c - box[k, 1]), flat, k * LANES)
        _take_brightest(k, r, c + at - a, weight[at], sums, box)


@kernel(forceinline=True)
def _enter(k: Any, r: Any, c: Any, n: Any, sums: Array, box: Array, counts: Array) -> None:
    """Let a stretch of n pixels, from row r and column c on, belong to label k."""
    if counts[k] == 0:
        box[k, 0] = box[k, 2] = r
        box[k, 1] = box[k, 4] = box[k, 5] = c
        for m in range(6):
            sums[k, m] = 0.0
        sums[k, 6] = -np.inf
    box[k, 3] = r
    box[k, 4] = min(box[k, 4], c)
    box[k, 5] = max(box[k, 5], c + n - 1)
    counts[k] += n


@kernel(forceinline=True)
def _take_brightest(k: Any, r: Any, c: Any, most: Any, sums: Array, box: Array) -> None:
    """Let the brightest pixel of a stretch be that of label k, if it is brighter than those before."""
    # No branch: whether a row is the brightest so far cannot be predicted.
    brighter = most > sums[k, 6]
    sums[k, 6] = most if brighter else sums[k, 6]
    box[k, 6] = r if brighter else box[k, 6]
    box[k, 7] = c if brighter else box[k, 7]


@kernel()
def _sum_any_order(
    weight: Array, stretch: Array, label: Array, n_stretches: int, sums: Array, box: Array, counts: Array
) -> bool:
    """Do what `moments` does without its order; return whether that is the same."""
    for s in range(n_stretches):
        k, a, b = np.int64(label[s]), np.int64(stretch[2, s]), np.int64(stretch[2, s + 1])
        if k < 0:
            continue
        r, c = stretch[0, s], stretch[1, s]
        _enter(k, r, c, b - a, sums, box, counts)
        dr, dc = float(r - box[k, 0]), float(c - box[k, 1])
        total, by_col, by_col2, most, at, whole = 0.0, 0.0, 0.0, -1.0, a, True
        for i in range(a, b, WIDE):
            some = sum_whole(weight, i, b - i, dc + (i - a))
            total, by_col, by_col2 = total + some[0], by_col + some[1], by_col2 + some[2]
            at = some[4] if some[3] > most else at
            most = max(most, some[3])
            whole &= some[5]
        if not whole:
            return False
        sums[k, 0] += total
        sums[k, 1] += dr * total
        sums[k, 2] += by_col
        sums[k, 3] += dr * dr * total
        sums[k, 4] += by_col2
        sums[k, 5] += dr * by_col
        _take_brightest(k, r, c + at - a, most, sums, box)
    most = 0.0
    for k in range(len(sums)):
        # Of terms that are nowhere negative: none of what was added up was larger.
        most = max(most, sums[k, 0], sums[k, 3] + sums[k, 4])
    return most < _WHOLE


@kernel()
def count_maxima(runs: Array, maxima: Array, stretch: Array, label: Array, n_stretches: int, counts: Array) -> None:
    """Count the local maxima of each label, as `groups` found them; counts (n), of zeros."""
    first = runs[2]
    run = 0
    for s in range(n_stretches):
        if label[s] < 0:
            continue
        a, b = np.int64(stretch[2, s]), np.int64(stretch[2, s + 1])
        while first[run + 1] <= a:
            run += 1
        word = _words_of(first[run], run)
        a, b = a - first[run], b - first[run]
        while a < b:
            stop = min(b, (a | 63) + 1)
            bits = (maxima[word + (a >> 6)] >> (a & 63)) & ((np.int64(1) << (stop - a)) - 1 if stop - a < 64 else -1)
            counts[label[s]] += count_ones(bits)
            a = stop


@kernel()
def mark_labels(marks: Array, stretch: Array, label: Array, n_stretches: int, marked: Array) -> None:
    """Say of each label whether one of its pixels is marked; marks (rows, columns), uint8; marked (n), of False."""
    flat, cols = marks.reshape(-1), marks.shape[1]
    for s in range(n_stretches):
        # A stretch lies in lines of its own, which nothing has brought near.
        later = min(s + _AHEAD, n_stretches - 1)
        prefetch(flat, np.int64(stretch[0, later]) * cols + stretch[1, later])
        if label[s] < 0:
            continue
        i, n = np.int64(stretch[0, s]) * cols + stretch[1, s], np.int64(stretch[2, s + 1]) - stretch[2, s]
        some = False
        for m in range(0, n, WIDE):
            some |= any_of(flat, i + m, n - m)
        marked[label[s]] |= some


@kernel()
def count_reaching(raw: Array, level: float, stretch: Array, label: Array, n_stretches: int, counts: Array) -> int:
    """Count the pixels of each label whose counts reach a level; counts (n), of zeros. Return how many of all do."""
    n = 0
    for s in range(n_stretches):
        here = 0
        for i in range(stretch[2, s], stretch[2, s + 1]):
            here += float(raw[i]) >= level
        n += here
        if label[s] >= 0:
            counts[label[s]] += here
    return n


@kernel()
def table_of_pixels(
    raw: Array,
    stretch: Array,
    label: Array,
    n_stretches: int,
    labels: Array,
    row: Array,
    col: Array,
    value: Array,
) -> Any:
    """Write the pixels of stretches that have a label, with counts as float64; return how many they are.

    labels, row, col and value have WIDE more places than there are pixels.
    """
    n = 0
    for s in range(n_stretches):
        k, a, b = np.int64(label[s]), np.int64(stretch[2, s]), np.int64(stretch[2, s + 1])
        if k < 0:
            continue
        r, c = np.int64(stretch[0, s]), np.int64(stretch[1, s])
        for m in range(0, b - a, WIDE):
            # What is too much, the next stretch overwrites.
            keep_pixels(raw, a + m, b - a - m, k, r, c + m, labels, row, col, value, n + m)
        n += b - a
    return n


@kernel(error_model="numpy")
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


@kernel()
def runs_with_label(stretch: Array, label: Array, n_stretches: int, runs: Array) -> int:
    """Write row, first column, end and label of each stretch that has a label to runs (4, n); return how many."""
    n = 0
    for s in range(n_stretches):
        if label[s] >= 0:
            runs[0, n] = stretch[0, s]
            runs[1, n] = stretch[1, s]
            runs[2, n] = stretch[1, s] + stretch[2, s + 1] - stretch[2, s]
            runs[3, n] = label[s]
            n += 1
    return n


@kernel(error_model="numpy")
def measure_peaks(
    weight: Array,
    runs: Array,
    maxima: Array,
    stretch: Array,
    label: Array,
    n_stretches: int,
    shape: tuple[int, int],
    sums: Array,
    box: Array,
    counts: Array,
    columns: Array,
    places: Array,
    edge: Array,
) -> None:
    """Make the columns of peaks: `moments`, `count_maxima` and `columns_of_peaks` in one.

    counts (2, n), of zeros: pixels and local maxima.
    """
    # One call: each gives up the interpreter's lock and waits for it again.
    moments(weight, stretch, label, n_stretches, sums, box, counts[0])
    count_maxima(runs, maxima, stretch, label, n_stretches, counts[1])
    columns_of_peaks(sums, box, shape, columns, places, edge)


@kernel()
def list_peaks(
    raw: Array,
    stretch: Array,
    label: Array,
    n_stretches: int,
    labels: Array,
    row: Array,
    col: Array,
    value: Array,
    runs: Array,
) -> tuple[int, Any]:
    """List runs and pixels of peaks, `runs_with_label` and `table_of_pixels` in one; return how many of each."""
    n_runs = runs_with_label(stretch, label, n_stretches, runs)
    return n_runs, table_of_pixels(raw, stretch, label, n_stretches, labels, row, col, value)
