"""Numba kernels over plain arrays: validated by their callers, preallocated output, nothing else in this file.

None is ``parallel=True``: two ordinary threads inside such a kernel abort the interpreter under numba's workqueue
layer, and that interpreter is the RunEngine's.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Every sum below runs over the pixels of a peak in raster order, relative to its first pixel: that fixes the last bit
# of a floating-point sum, so that digests can be equal, and a faster kernel must keep this order.


@njit(nogil=True, cache=True)
def lit_dense(raw: Array, cut: Array, sentinels: Array, row: Array, col: Array) -> int:
    """Find lit pixels of a dense image in raster order; return how many there are, though only len(row) are kept."""
    n = 0
    capacity = len(row)
    for r in range(raw.shape[0]):
        for c in range(raw.shape[1]):
            if raw[r, c] > cut[r, c]:
                valid = True
                for s in sentinels:
                    if raw[r, c] == s:
                        valid = False
                if valid:
                    if n < capacity:
                        row[n] = r
                        col[n] = c
                    n += 1
    return n


@njit(nogil=True, cache=True)
def lit_sparse(value: Array, row: Array, col: Array, cut: Array, sentinels: Array, keep: Array) -> None:
    """Mark in keep which of the listed pixels are lit."""
    for i in range(len(value)):
        lit = value[i] > cut[row[i], col[i]]
        for s in sentinels:
            if value[i] == s:
                lit = False
        keep[i] = lit


@njit(nogil=True, cache=True)
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _meet(parent: Array, is_maximum: Array, weight: Array, i: int, j: int) -> None:
    """Join neighbours j < i, and let the darker one (the later one of equals) be no maximum."""
    # No branch here: which of two neighbours is brighter cannot be predicted, and a wrong guess costs more than both.
    brighter = weight[i] > weight[j]
    is_maximum[j] &= not brighter
    is_maximum[i] &= brighter
    if parent[i] == parent[j]:
        return
    a = _root(parent, i)
    b = _root(parent, j)
    # The lower index wins, so a root is always the first pixel of its group in raster order.
    if a < b:
        parent[b] = a
    elif b < a:
        parent[a] = b


@njit(nogil=True, cache=True)
def label(row: Array, col: Array, weight: Array, parent: Array, is_maximum: Array, labels: Array) -> int:
    """Label 8-connected groups of pixels listed in raster order, from 0 by first pixel; return how many there are."""
    n = len(row)
    above = 0
    for i in range(n):
        parent[i] = i
        is_maximum[i] = True
        if i > 0 and row[i - 1] == row[i] and col[i - 1] == col[i] - 1:
            _meet(parent, is_maximum, weight, i, i - 1)
        while above < i and (row[above] < row[i] - 1 or (row[above] == row[i] - 1 and col[above] < col[i] - 1)):
            above += 1
        j = above
        while j < i and row[j] == row[i] - 1 and col[j] <= col[i] + 1:
            _meet(parent, is_maximum, weight, i, j)
            j += 1
    found = 0
    for i in range(n):
        if parent[i] == i:
            labels[i] = found
            found += 1
        else:
            labels[i] = labels[_root(parent, i)]
    return found


@njit(nogil=True, cache=True)
def count_labels(labels: Array, counts: Array) -> None:
    """Count the pixels of each label."""
    for each in labels:
        counts[each] += 1


@njit(nogil=True, cache=True)
def moments(
    row: Array,
    col: Array,
    weight: Array,
    saturated: Array,
    is_maximum: Array,
    labels: Array,
    sums: Array,
    box: Array,
    counts: Array,
) -> None:
    """Sum each label's pixels in raster order.

    sums (n, 7): weight, w dr, w dc, w dr^2, w dc^2, w dr dc, largest weight, with dr, dc from the first pixel;
    box (n, 8): first row, first col, row_min, row_max, col_min, col_max, row and col of the brightest pixel;
    counts (n, 3): pixels, maxima, saturated pixels.
    """
    for i in range(len(row)):
        k = labels[i]
        if k < 0:
            continue
        r, c, w = row[i], col[i], weight[i]
        if counts[k, 0] == 0:
            box[k, 0] = box[k, 2] = box[k, 3] = box[k, 6] = r
            box[k, 1] = box[k, 4] = box[k, 5] = box[k, 7] = c
            sums[k, 6] = w
        dr = float(r - box[k, 0])
        dc = float(c - box[k, 1])
        sums[k, 0] += w
        sums[k, 1] += w * dr
        sums[k, 2] += w * dc
        sums[k, 3] += w * dr * dr
        sums[k, 4] += w * dc * dc
        sums[k, 5] += w * dr * dc
        if w > sums[k, 6]:
            sums[k, 6] = w
            box[k, 6] = r
            box[k, 7] = c
        box[k, 3] = max(box[k, 3], r)
        box[k, 4] = min(box[k, 4], c)
        box[k, 5] = max(box[k, 5], c)
        counts[k, 0] += 1
        counts[k, 1] += is_maximum[i]
        counts[k, 2] += saturated[i]


@njit(nogil=True, cache=True)
def shared_pixels(
    row_a: Array, col_a: Array, peak_a: Array, row_b: Array, col_b: Array, peak_b: Array, n_b: int, pairs: Array
) -> int:
    """Write ``peak_a * n_b + peak_b`` for each pixel in both lists, which are in raster order; return how many."""
    n = 0
    i = 0
    j = 0
    while i < len(row_a) and j < len(row_b):
        if row_a[i] < row_b[j] or (row_a[i] == row_b[j] and col_a[i] < col_b[j]):
            i += 1
        elif row_a[i] == row_b[j] and col_a[i] == col_b[j]:
            pairs[n] = np.int64(peak_a[i]) * n_b + peak_b[j]
            n += 1
            i += 1
            j += 1
        else:
            j += 1
    return n


@njit(nogil=True, cache=True)
def ordered_sums(track: Array, weight: Array, values: Array, sums: Array) -> None:
    """Add weight * values[:, k] and weight (last column) of each row to its track, in the order of the rows."""
    for i in range(len(track)):
        for k in range(values.shape[1]):
            sums[track[i], k] += weight[i] * values[i, k]
        sums[track[i], values.shape[1]] += weight[i]


@njit(nogil=True, cache=True)
def join_tracks(row_a: Array, row_b: Array, parent: Array, following: Array, last: Array, held: Array) -> int:
    """Join the track of each row of row_a with that of the row of row_b; return how many tracks that took away.

    A track is a linked list of rows whose root is its lowest row: ``following`` leads from row to row (-1 at the end);
    ``last`` and ``held`` are kept at the root.
    """
    joined = 0
    for i in range(len(row_a)):
        a = _root(parent, row_a[i])
        b = _root(parent, row_b[i])
        if a == b:
            continue
        if b < a:
            a, b = b, a
        parent[b] = a
        following[last[a]] = b
        last[a] = last[b]
        held[a] |= held[b]
        joined += 1
    return joined


@njit(nogil=True, cache=True)
def ended_tracks(old: Array, new: Array, held: Array, parent: Array, mark: Array, tick: int, roots: Array) -> int:
    """Write the roots of the tracks that have a row in old, none in new, and are not held; return how many."""
    for i in range(len(new)):
        mark[_root(parent, new[i])] = tick
    n = 0
    for i in range(len(old)):
        root = _root(parent, old[i])
        if mark[root] != tick and not held[root]:
            mark[root] = tick
            roots[n] = root
            n += 1
    return n


@njit(nogil=True, cache=True)
def take_tracks(roots: Array, parent: Array, following: Array, track: Array, rows: Array) -> int:
    """Write the rows of each track and its place in roots, and mark them as taken (parent -1); return how many."""
    n = 0
    for k in range(len(roots)):
        row = roots[k]
        while row >= 0:
            track[n] = k
            rows[n] = row
            parent[row] = -1
            n += 1
            row = following[row]
    return n
