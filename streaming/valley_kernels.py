"""Numba kernels of valleys: validated by their callers, preallocated output, nothing else in this file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]


@compiled()
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled()
def list_neighbours(member_a: Array, member_b: Array, start: Array, link: Array) -> None:
    """Write the links of each member one after the other, those of member i to link[start[i] : start[i + 1]].

    start: shape (members + 1,), filled with 0; link: shape (2 * links,). Links stay in their order.
    """
    n = len(start) - 1
    for k in range(len(member_a)):
        start[member_a[k]] += 1
        start[member_b[k]] += 1
    total = 0
    for i in range(n):
        total += start[i]
        start[i] = total
    start[n] = total
    for k in range(len(member_a) - 1, -1, -1):
        for i in (member_a[k], member_b[k]):
            start[i] -= 1
            link[start[i]] = k


@compiled()
def flood(
    intensity: Array,
    row: Array,
    col: Array,
    order: Array,
    member_a: Array,
    member_b: Array,
    distance: Array,
    start: Array,
    link: Array,
    fraction: float,
    apart: float,
    n_sigma: float,
    parent: Array,
) -> None:
    """Let every member climb to a maximum, and join maxima that no valley parts.

    Members come in the order of falling intensity, as if a flood fell: the first of its neighbourhood is a maximum,
    another goes with its nearest neighbour that came before. Where it touches a second maximum it is the highest point
    of the pass between both, and tells how deep the valley is.

    order: members by falling intensity; start, link: as `list_neighbours` writes them; parent: shape (members,),
    filled with -1, becomes the maximum of each member.
    """
    for k in range(len(order)):
        v = order[k]
        nearest = -1
        for e in range(start[v], start[v + 1]):
            near = link[e]
            u = member_a[near] + member_b[near] - v
            if u != v and parent[u] >= 0 and (nearest < 0 or distance[near] < distance[nearest]):
                nearest = near
        if nearest < 0:
            parent[v] = v
            continue
        parent[v] = _root(parent, member_a[nearest] + member_b[nearest] - v)
        for e in range(start[v], start[v + 1]):
            u = member_a[link[e]] + member_b[link[e]] - v
            if parent[u] < 0:
                continue
            p = _root(parent, v)
            q = _root(parent, u)
            if p == q:
                continue
            low = min(intensity[p], intensity[q])
            floor = intensity[v]
            down = row[p] - row[q]
            right = col[p] - col[q]
            away = np.sqrt(down * down + right * right)
            part = 1.0 if away >= apart else fraction + (1.0 - fraction) * (away / apart)
            if floor < part * low and low - floor > n_sigma * np.sqrt(low + floor):
                continue
            # The brighter maximum stays one; of equals the first.
            if intensity[q] > intensity[p] or (intensity[q] == intensity[p] and q < p):
                p, q = q, p
            parent[q] = p
    for i in range(len(parent)):
        parent[i] = _root(parent, i)
