"""Numba kernels for links and tracks: validated by their callers, preallocated output, nothing else in this file.

None is ``parallel=True``: two ordinary threads inside such a kernel abort the interpreter under numba's workqueue
layer, and that interpreter is the RunEngine's.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


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
