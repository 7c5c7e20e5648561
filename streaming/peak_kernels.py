"""Numba kernels from lit pixels to peaks: validated by their callers, preallocated output, never ``parallel=True``.

Pixels are listed in raster order. Every sum runs over the pixels of a peak in that order, relative to its first pixel:
that fixes the last bit of a floating-point sum, so that digests can be equal, and a faster kernel must keep this order.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .vectors import LANES, add_moments, brightest, brightest_of_nine, steps, trailing_zeros
from .vectors import smooth as smooth_eight

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def runs_of_pixels(row: Array, col: Array, first: Array) -> int:
    """Write the index of the first pixel of each run of neighbours in a row, then len(row); return how many runs."""
    n = 0
    for i in range(len(row)):
        if i == 0 or row[i] != row[i - 1] or col[i] != col[i - 1] + 1:
            first[n] = i
            n += 1
    first[n] = len(row)
    return n


@njit(nogil=True, cache=True)
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _keep_maxima(
    col: Array, weight: Array, candidate: Array, a: int, b: Any, start: Any, end: Any, shift: Any, equal: bool
) -> Any:
    """Keep of the candidates a ... b those that no touching pixel of another row's run exceeds; return the new b.

    The other run covers the columns start ... end - 1 and column c lies at index c + shift. With equal, a pixel that
    is as bright takes the place too.
    """
    n = a
    for k in range(a, b):
        i = candidate[k]
        c, mine = col[i], weight[i]
        stays = True
        for near in range(c - 1, c + 2):
            inside = (near >= start) & (near < end)
            # No branch: a pixel of the run is read in any case, and counts only if it is near.
            other = weight[(near if inside else start) + shift]
            stays &= not (inside & ((other > mine) | (equal & (other == mine))))
        candidate[n] = i
        n += stays
    return n


@njit(nogil=True, cache=True)
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
def groups(
    row: Array,
    col: Array,
    weight: Array,
    first: Array,
    n_runs: int,
    group: Array,
    size: Array,
    maxima: Array,
    ends: Array,
) -> int:
    """Number the 8-connected groups of pixels from 0 by their first pixel; return how many there are.

    first holds the runs as `runs_of_pixels` wrote them. Written are: group, that of each run; size, the pixels of each
    group; and the local maxima, pixels of which no 8-neighbour is brighter, nor as bright and earlier: those of run k
    are maxima[first[k]:ends[k]].
    """
    # Runs go through the union-find, not pixels. The lower index wins, so a root is always the first run of its group.
    # Of the pixels, only those that are brightest among their two neighbours in the run are compared with other rows.
    above = 0
    for i in range(n_runs):
        group[i] = i
        a, b = first[i], first[i + 1]
        r, start, end = row[a], col[a], col[a] + b - a
        n = a
        for k in range(a, b, LANES):
            word = _summits(weight, k, a, b)
            while word != 0:
                maxima[n] = k + np.int64(trailing_zeros(word))
                n += 1
                word &= word - np.uint64(1)
        # Runs above that end before this one can touch them cannot touch a later one of this row either.
        while above < i and (
            row[first[above]] < r - 1
            or (row[first[above]] == r - 1 and col[first[above]] + first[above + 1] - first[above] < start)
        ):
            above += 1
        j = above
        while j < i and row[first[j]] == r - 1 and col[first[j]] <= end:
            p = first[j]
            start_j = col[p]
            end_j = start_j + first[j + 1] - p
            n = _keep_maxima(col, weight, maxima, a, n, start_j, end_j, p - start_j, True)
            ends[j] = _keep_maxima(col, weight, maxima, p, ends[j], start, end, a - start, False)
            x, y = _root(group, i), _root(group, j)
            if x < y:
                group[y] = x
            elif y < x:
                group[x] = y
            j += 1
        ends[i] = n
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


@njit(nogil=True, cache=True)
def _rows(row: Array, first: Array, n_runs: int, start: Array) -> int:
    """Write with which run each row starts, then n_runs; return how many rows hold a run."""
    n = 0
    for k in range(n_runs):
        if k == 0 or row[first[k]] != row[first[k - 1]]:
            start[n] = k
            n += 1
    start[n] = n_runs
    return n


@njit(nogil=True, cache=True)
def _fill(line: Array, places: Array, col: Array, values: Array, first: Array, a: int, b: int) -> None:
    """Put the values of the runs a ... b into their columns of a line, and note which pixels they are."""
    for k in range(a, b):
        shift = col[first[k]] + 1 - first[k]
        for i in range(first[k], first[k + 1]):
            line[i + shift] = values[i]
            places[i + shift] = i


@njit(nogil=True, cache=True)
def _clear(line: Array, col: Array, nothing: Any, first: Array, a: int, b: int) -> None:
    for k in range(a, b):
        shift = col[first[k]] + 1 - first[k]
        for i in range(first[k], first[k + 1]):
            line[i + shift] = nothing


@njit(nogil=True, cache=True)
def _next_row(
    row: Array,
    col: Array,
    values: Array,
    first: Array,
    start: Array,
    n_rows: int,
    k: int,
    lines: Array,
    places: Array,
    nothing: Any,
) -> Any:
    """Fill the lines around row k of those that hold a run, and clear what is not near it any more; return the row."""
    r = row[first[start[k]]]
    if k > 0:
        before = row[first[start[k - 1]]]
        if before == r - 1:
            # The line above the one before is that of the row below this one.
            if k > 1 and row[first[start[k - 2]]] == r - 2:
                _clear(lines[(r + 1) % 3], col, nothing, first, start[k - 2], start[k - 1])
        else:
            _clear(lines[before % 3], col, nothing, first, start[k - 1], start[k])
            if k > 1 and row[first[start[k - 2]]] == before - 1:
                _clear(lines[(before - 1) % 3], col, nothing, first, start[k - 2], start[k - 1])
    if k == 0 or row[first[start[k - 1]]] != r - 1:
        _fill(lines[r % 3], places[r % 3], col, values, first, start[k], start[k + 1])
    if k + 1 < n_rows and row[first[start[k + 1]]] == r + 1:
        _fill(lines[(r + 1) % 3], places[(r + 1) % 3], col, values, first, start[k + 1], start[k + 2])
    return r


@njit(nogil=True, cache=True)
def _clear_last(row: Array, col: Array, first: Array, start: Array, n_rows: int, lines: Array, nothing: Any) -> None:
    """Clear what the last rows left in the lines."""
    for k in range(max(0, n_rows - 2), n_rows):
        _clear(lines[row[first[start[k]]] % 3], col, nothing, first, start[k], start[k + 1])


# Three rows of values in lines of their own, which fit the innermost cache, are filled from the list of pixels and
# cleared behind: each of the nine neighbours is then one read, without a search in the list.


@njit(nogil=True, cache=True)
def smooth(
    row: Array,
    col: Array,
    weight: Array,
    first: Array,
    n_runs: int,
    start: Array,
    lines: Array,
    places: Array,
    smoothed: Array,
) -> None:
    """Smooth by 3 x 3 weights [1 2 1; 2 4 2; 1 2 1] / 16 over the listed pixels; others count as 0.

    All float32, in the order of ImageD11's ``sparse_smooth``: a sixteenth of the pixel itself, then its neighbours in
    raster order, three more sixteenths of itself in its turn. start (runs + 1), lines (3, columns + 2 + LANES) of zeros
    and places, as large, are room to work in; smoothed holds LANES more than there are pixels.
    """
    flat, width, nothing = lines.reshape(-1), lines.shape[1], np.float32(0)
    n_rows = _rows(row, first, n_runs, start)
    for k in range(n_rows):
        r = _next_row(row, col, weight, first, start, n_rows, k, lines, places, nothing)
        above, here, below = (r + 2) % 3 * width, r % 3 * width, (r + 1) % 3 * width
        for run in range(start[k], start[k + 1]):
            shift = np.int64(col[first[run]]) - first[run]
            for i in range(first[run], first[run + 1], LANES):
                smooth_eight(flat, above, here, below, i + shift, smoothed, i)
    _clear_last(row, col, first, start, n_rows, lines, nothing)


@njit(nogil=True, cache=True)
def climb(
    row: Array,
    col: Array,
    weight: Array,
    first: Array,
    n_runs: int,
    start: Array,
    lines: Array,
    places: Array,
    top: Array,
) -> None:
    """Write the local maximum that each pixel climbs to, by way of the brightest of its 3 x 3 neighbourhood.

    Of equals the first in raster order is taken, the pixel itself in its turn. weight may be float32 or float64; start
    (runs + 1), lines (3, columns + 2 + LANES) of -inf, of weight's type, and places, as large, are room to work in; top
    holds LANES more than there are pixels.
    """
    flat, width, nothing, indices = lines.reshape(-1), lines.shape[1], lines[0, 0], places.reshape(-1)
    n_rows = _rows(row, first, n_runs, start)
    for k in range(n_rows):
        r = _next_row(row, col, weight, first, start, n_rows, k, lines, places, nothing)
        above, here, below = (r + 2) % 3 * width, r % 3 * width, (r + 1) % 3 * width
        for run in range(start[k], start[k + 1]):
            shift = np.int64(col[first[run]]) - first[run]
            for i in range(first[run], first[run + 1], LANES):
                brightest_of_nine(flat, above, here, below, i + shift, top, i)
            for i in range(first[run], first[run + 1]):
                top[i] = indices[top[i]]
    _clear_last(row, col, first, start, n_rows, lines, nothing)
    # Each pass doubles the steps that are taken at once.
    moved = True
    while moved:
        moved = False
        for i in range(len(row)):
            further = top[top[i]]
            moved |= further != top[i]
            top[i] = further


@njit(nogil=True, cache=True)
def flat_tops(
    row: Array,
    col: Array,
    weight: Array,
    first: Array,
    n_runs: int,
    start: Array,
    lines: Array,
    places: Array,
    is_top: Array,
) -> None:
    """Mark the pixels that no 8-neighbour exceeds: of a flat top all. The other arguments are those of `climb`."""
    nothing = lines[0, 0]
    n_rows = _rows(row, first, n_runs, start)
    for k in range(n_rows):
        r = _next_row(row, col, weight, first, start, n_rows, k, lines, places, nothing)
        above, here, below = lines[(r + 2) % 3], lines[r % 3], lines[(r + 1) % 3]
        for i in range(first[start[k]], first[start[k + 1]]):
            c = col[i]
            best = max(max(above[c], above[c + 1]), above[c + 2])
            best = max(best, max(here[c], here[c + 2]))
            best = max(best, max(max(below[c], below[c + 1]), below[c + 2]))
            is_top[i] = here[c + 1] >= best
    _clear_last(row, col, first, start, n_rows, lines, nothing)


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
    top: Array, first: Array, n_runs: int, number: Array, seen: Array, stretch: Array, label: Array
) -> tuple[int, int]:
    """Number the parts of the groups that are kept, by their first pixel; return how many stretches and parts.

    top is what each pixel belongs to, number that of each run's group, -1 where it is dropped. Written are the first
    pixel of each stretch of a run that belongs to one part, and its part; seen (n) is room to work in.
    """
    n, parts = 0, 0
    for i in range(len(top)):
        seen[i] = -1
    for run in range(n_runs):
        a, b = first[run], first[run + 1]
        if number[run] < 0:
            stretch[n] = a
            label[n] = -1
            n += 1
            continue
        for i in range(a, b):
            if i == a or top[i] != top[i - 1]:
                if seen[top[i]] < 0:
                    seen[top[i]] = parts
                    parts += 1
                stretch[n] = i
                label[n] = seen[top[i]]
                n += 1
    stretch[n] = len(top)
    return n, parts


@njit(nogil=True, cache=True)
def moments(
    row: Array,
    col: Array,
    weight: Array,
    first: Array,
    label: Array,
    n_stretches: int,
    sums: Array,
    box: Array,
    counts: Array,
    labels: Array,
) -> None:
    """Sum each label's pixels in raster order, and write the label of each pixel.

    A stretch is a row of neighbours of one label, -1 for none: first holds the index of its first pixel, and one number
    more. sums (n, 8): weight, w dr, w dc, w dr^2, w dc^2, w dr dc, largest weight, with dr, dc from the first pixel;
    box (n, 8): first row, first col, row_min, row_max, col_min, col_max, row and col of the brightest pixel;
    counts (n), of zeros: pixels.
    """
    flat = sums.reshape(-1)
    for s in range(n_stretches):
        k, a, b = label[s], np.int64(first[s]), np.int64(first[s + 1])
        for i in range(a, b, LANES):
            if i + LANES <= len(labels):
                # What is too much, the next stretch overwrites.
                for m in range(LANES):
                    labels[i + m] = k
            else:
                labels[i:b] = k
        if k < 0:
            continue
        r, c = row[a], col[a]
        if counts[k] == 0:
            box[k, 0] = box[k, 2] = r
            box[k, 1] = box[k, 4] = box[k, 5] = c
            sums[k] = 0.0
            sums[k, 6] = -np.inf
        add_moments(weight, a, b - a, float(r - box[k, 0]), float(c - box[k, 1]), flat, np.int64(k) * LANES)
        at, top = a, weight[a]
        for i in range(a, b, LANES):
            best = i + (brightest(weight, i, b - i) if i + LANES <= len(weight) else np.argmax(weight[i:b]))
            at = best if weight[best] > top else at
            top = max(top, weight[best])
        if top > sums[k, 6]:
            sums[k, 6] = top
            box[k, 6] = r
            box[k, 7] = col[at]
        box[k, 3] = r
        box[k, 4] = min(box[k, 4], c)
        box[k, 5] = max(box[k, 5], c + b - a - 1)
        counts[k] += b - a


@njit(nogil=True, cache=True)
def count_maxima(first: Array, ends: Array, n_runs: int, maxima: Array, labels: Array, counts: Array) -> None:
    """Count the local maxima of each label, as `groups` found them; counts (n), of zeros."""
    for run in range(n_runs):
        for k in range(first[run], ends[run]):
            label = labels[maxima[k]]
            if label >= 0:
                counts[label] += 1


@njit(nogil=True, cache=True)
def count_labels(labels: Array, marked: Array, counts: Array) -> None:
    """Count the marked pixels of each label; counts (n), of zeros."""
    for i in range(len(labels)):
        if labels[i] >= 0:
            counts[labels[i]] += marked[i]
