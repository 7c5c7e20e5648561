"""Numba kernels of tracks: validated by their callers, preallocated output, nothing else in this file.

A track is a linked list of rows, one row for each of its peaks, whose root is its lowest row: ``parent`` leads to the
root, ``following`` from row to row (-1 at the end); ``last``, ``waiting`` and ``wraps`` are kept at the root.
"""

from typing import Any

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
def join_tracks(
    row_a: Array,
    row_b: Array,
    wrapping: bool,
    parent: Array,
    following: Array,
    last: Array,
    waiting: Array,
    wraps: Array,
) -> int:
    """Join the track of each row of row_a with that of the row of row_b; return how many tracks that took away."""
    joined = 0
    for i in range(len(row_a)):
        a = _root(parent, row_a[i])
        b = _root(parent, row_b[i])
        if a != b:
            if b < a:
                a, b = b, a
            parent[b] = a
            following[last[a]] = b
            last[a] = last[b]
            waiting[a] += waiting[b]
            wraps[a] |= wraps[b]
            joined += 1
        if wrapping:
            wraps[a] = 1
    return joined


@njit(nogil=True, cache=True)
def resolve_rows(start: int, end: int, flags: int, parent: Array, waiting: Array, flag: Array, roots: Array) -> int:
    """Take rows start to end as resolved; write the roots of the tracks that wait for no other; return how many."""
    n = 0
    for row in range(start, end):
        flag[row] = flags
        root = _root(parent, row)
        waiting[root] -= 1
        if waiting[root] == 0:
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


@njit(nogil=True, cache=True)
def ordered_sums(track: Array, weight: Array, values: Array, sums: Array) -> None:
    """Add weight * values[k] and weight (last row) of each member to its track, in the order of the members.

    Parameters
    ----------
    track
        Track of each member, from 0, shape (members,).
    weight
        Shape (members,).
    values
        Shape (k, members).
    sums
        Shape (k + 1, tracks), added to.
    """
    for k in range(values.shape[0]):
        for i in range(len(track)):
            sums[k, track[i]] += weight[i] * values[k, i]
    for i in range(len(track)):
        sums[values.shape[0], track[i]] += weight[i]
