"""Numba kernels from lit pixels to peaks: validated by their callers, preallocated output, never ``parallel=True``.

Pixels are listed in raster order. Every sum runs over the pixels of a peak in that order, relative to its first pixel:
that fixes the last bit of a floating-point sum, so that digests can be equal, and a faster kernel must keep this order.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
        stays = True
        for c in range(max(col[i] - 1, start), min(col[i] + 2, end)):
            stays &= weight[c + shift] <= weight[i]
            stays &= not (equal and weight[c + shift] == weight[i])
        candidate[n] = i
        n += stays
    return n


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
        rises = True
        for k in range(a, b - 1):
            falls = weight[k + 1] <= weight[k]
            maxima[n] = k
            n += rises & falls
            rises = not falls
        maxima[n] = b - 1
        n += rises
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
def _fill(line: Array, places: Array, col: Array, values: Array, a: int, b: int) -> None:
    for i in range(a, b):
        line[col[i] + 1] = values[i]
        places[col[i] + 1] = i


@njit(nogil=True, cache=True)
def _clear(line: Array, col: Array, nothing: Any, a: int, b: int) -> None:
    for i in range(a, b):
        line[col[i] + 1] = nothing


@njit(nogil=True, cache=True)
def _rows(row: Array, start: Array) -> int:
    """Write where each row's pixels start, then len(row); return how many rows hold a pixel."""
    n = 0
    for i in range(len(row)):
        if i == 0 or row[i] != row[i - 1]:
            start[n] = i
            n += 1
    start[n] = len(row)
    return n


# Three rows of values in lines of their own, which fit the innermost cache, are filled from the list of pixels and
# cleared behind: each of the nine neighbours is then one read, without a search in the list.


@njit(nogil=True, cache=True)
def smooth(row: Array, col: Array, weight: Array, start: Array, lines: Array, places: Array, smoothed: Array) -> None:
    """Smooth by 3 x 3 weights [1 2 1; 2 4 2; 1 2 1] / 16 over the listed pixels; others count as 0.

    All float32, in the order of ImageD11's ``sparse_smooth``: a sixteenth of the pixel itself, then its neighbours in
    raster order, three more sixteenths of itself in its turn. start (n + 1), lines (3, columns + 2) of zeros and
    places (3, columns + 2) are room to work in.
    """
    one, two, three = np.float32(0.0625), np.float32(0.125), np.float32(0.1875)
    n_rows = _rows(row, start)
    for k in range(n_rows):
        a, b = start[k], start[k + 1]
        r = row[a]
        above_near = k > 0 and row[start[k - 1]] == r - 1
        below_near = k + 1 < n_rows and row[b] == r + 1
        if not above_near:
            _fill(lines[r % 3], places[r % 3], col, weight, a, b)
        if below_near:
            _fill(lines[(r + 1) % 3], places[(r + 1) % 3], col, weight, b, start[k + 2])
        above, here, below = lines[(r + 2) % 3], lines[r % 3], lines[(r + 1) % 3]
        for i in range(a, b):
            c = col[i]
            total = here[c + 1] * one
            total += above[c] * one
            total += above[c + 1] * two
            total += above[c + 2] * one
            total += here[c] * two
            total += here[c + 1] * three
            total += here[c + 2] * two
            total += below[c] * one
            total += below[c + 1] * two
            total += below[c + 2] * one
            smoothed[i] = total
        if above_near:
            _clear(above, col, np.float32(0), start[k - 1], a)
        if not below_near:
            _clear(here, col, np.float32(0), a, b)


@njit(nogil=True, cache=True)
def _brightest(values: Array, c: int) -> int:
    """Return the place of the first brightest of three neighbours."""
    best = c + 1 if values[c + 1] > values[c] else c
    return c + 2 if values[c + 2] > values[best] else best


@njit(nogil=True, cache=True)
def climb(row: Array, col: Array, weight: Array, start: Array, lines: Array, places: Array, top: Array) -> None:
    """Write the local maximum that each pixel climbs to, by way of the brightest of its 3 x 3 neighbourhood.

    Of equals the first in raster order is taken, the pixel itself in its turn. weight may be float32 or float64; start
    (n + 1), lines (3, columns + 2) of -inf, of weight's type, and places (3, columns + 2) are room to work in.
    """
    n_rows = _rows(row, start)
    nothing, width = lines[0, 0], lines.shape[1]
    values, indices = lines.reshape(-1), places.reshape(-1)
    for k in range(n_rows):
        a, b = start[k], start[k + 1]
        r = row[a]
        above_near = k > 0 and row[start[k - 1]] == r - 1
        below_near = k + 1 < n_rows and row[b] == r + 1
        if not above_near:
            _fill(lines[r % 3], places[r % 3], col, weight, a, b)
        if below_near:
            _fill(lines[(r + 1) % 3], places[(r + 1) % 3], col, weight, b, start[k + 2])
        above, here, below = (r + 2) % 3 * width, r % 3 * width, (r + 1) % 3 * width
        for i in range(a, b):
            # Selections, not branches: where the brightest neighbour lies cannot be predicted.
            one = _brightest(values, above + col[i])
            two = _brightest(values, here + col[i])
            three = _brightest(values, below + col[i])
            best = two if values[two] > values[one] else one
            best = three if values[three] > values[best] else best
            top[i] = indices[best]
        if above_near:
            _clear(lines[(r + 2) % 3], col, nothing, start[k - 1], a)
        if not below_near:
            _clear(lines[r % 3], col, nothing, a, b)
    # Each pass doubles the steps that are taken at once.
    moved = True
    while moved:
        moved = False
        for i in range(len(row)):
            further = top[top[i]]
            moved |= further != top[i]
            top[i] = further


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
def flat_tops(row: Array, col: Array, weight: Array, start: Array, lines: Array, places: Array, is_top: Array) -> None:
    """Mark the pixels that no 8-neighbour exceeds: of a flat top all. The other arguments are those of `climb`."""
    n_rows = _rows(row, start)
    nothing = lines[0, 0]
    for k in range(n_rows):
        a, b = start[k], start[k + 1]
        r = row[a]
        above_near = k > 0 and row[start[k - 1]] == r - 1
        below_near = k + 1 < n_rows and row[b] == r + 1
        if not above_near:
            _fill(lines[r % 3], places[r % 3], col, weight, a, b)
        if below_near:
            _fill(lines[(r + 1) % 3], places[(r + 1) % 3], col, weight, b, start[k + 2])
        above, here, below = lines[(r + 2) % 3], lines[r % 3], lines[(r + 1) % 3]
        for i in range(a, b):
            c = col[i]
            best = max(max(above[c], above[c + 1]), above[c + 2])
            best = max(best, max(here[c], here[c + 2]))
            best = max(best, max(max(below[c], below[c + 1]), below[c + 2]))
            is_top[i] = here[c + 1] >= best
        if above_near:
            _clear(above, col, nothing, start[k - 1], a)
        if not below_near:
            _clear(here, col, nothing, a, b)


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
    more. sums (n, 7): weight, w dr, w dc, w dr^2, w dc^2, w dr dc, largest weight, with dr, dc from the first pixel;
    box (n, 8): first row, first col, row_min, row_max, col_min, col_max, row and col of the brightest pixel;
    counts (n), of zeros: pixels.
    """
    for s in range(n_stretches):
        k, a, b = label[s], first[s], first[s + 1]
        for i in range(a, b):
            labels[i] = k
        if k < 0:
            continue
        r, c = row[a], col[a]
        if counts[k] == 0:
            box[k, 0] = box[k, 2] = r
            box[k, 1] = box[k, 4] = box[k, 5] = c
            for m in range(6):
                sums[k, m] = 0.0
            sums[k, 6] = -np.inf
        dr, dc = float(r - box[k, 0]), float(c - box[k, 1])
        w0, wr, wc, wrr, wcc, wrc, top = (
            sums[k, 0], sums[k, 1], sums[k, 2], sums[k, 3], sums[k, 4], sums[k, 5], sums[k, 6]
        )  # fmt: skip
        at = -1
        for i in range(a, b):
            w = weight[i]
            w0 += w
            wr += w * dr
            wc += w * dc
            wrr += w * dr * dr
            wcc += w * dc * dc
            wrc += w * dr * dc
            at = i if w > top else at
            top = max(top, w)
            dc += 1.0
        sums[k, 0], sums[k, 1], sums[k, 2], sums[k, 3], sums[k, 4], sums[k, 5], sums[k, 6] = (
            w0, wr, wc, wrr, wcc, wrc, top
        )  # fmt: skip
        if at >= 0:
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
