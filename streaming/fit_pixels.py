"""Numba kernels that sort pixels by group and find the unlit ones around them; validated by their caller."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]

MOST_PIXELS = 50_000
"Of a group that is fitted: what is larger is a flooded frame, and must not hang it."

_UNLIT, _LIT, _OWN, _LISTED = range(4)
"States of a pixel: lit, of the group that is looked at, or among its surroundings already."


@compiled()
def by_label(labels: Array, start: Array, order: Array) -> None:
    """Sort indices by label, in their order within a label; labels below 0 are left out.

    start (n + 1) gets where each label begins in order.
    """
    start[:] = 0
    for each in labels:
        if each >= 0:
            start[each + 1] += 1
    for k in range(len(start) - 1):
        start[k + 1] += start[k]
    place = start[:-1].copy()
    for i in range(len(labels)):
        if labels[i] >= 0:
            order[place[labels[i]]] = i
            place[labels[i]] += 1


@compiled()
def surround(
    row: Array,
    col: Array,
    group: Array,
    peak: Array,
    order: Array,
    start: Array,
    image: Array,
    background: Array,
    flat: Array,
    mask: Array,
    sentinels: Array,
    width: int,
    state: Array,
    out_row: Array,
    out_col: Array,
    out_value: Array,
    out_owner: Array,
    out_start: Array,
) -> int:
    """List the unlit pixels within width of each group, nearest first; return how many, though only len(out_row) fit.

    state uint8 ((rows + 2) * (columns + 2)), all 0, is scratch: the frame with a border, so that each pixel has eight
    neighbours. A byte a pixel, not a number of its group, which took twice the time: most of it goes into reaching it.
    A pixel beside a lit pixel of another group belongs to no group's surroundings: that peak's tail lies on it.
    """
    n_rows, n_cols = image.shape
    across = n_cols + 2
    around = np.array([-across - 1, -across, -across + 1, -1, 1, across - 1, across, across + 1])
    for i in range(len(row)):
        state[(row[i] + 1) * across + col[i] + 1] = _LIT
    n_groups = len(start) - 1
    most = 0
    for g in range(n_groups):
        if start[g + 1] - start[g] <= MOST_PIXELS:
            most = max(most, start[g + 1] - start[g])
    reach = most * (2 * width + 1) ** 2
    near = np.empty(reach, np.int64)
    owner = np.empty(reach, np.int32)
    n = 0
    for g in range(n_groups):
        out_start[g] = n
        if start[g + 1] - start[g] > MOST_PIXELS:
            continue
        end = 0
        for k in range(start[g], start[g + 1]):
            i = order[k]
            near[end] = (row[i] + 1) * across + col[i] + 1
            owner[end] = peak[i]
            state[near[end]] = _OWN
            end += 1
        n_lit = end
        first = 0
        for _ in range(width):
            last = end
            for j in range(first, last):
                for k in range(len(around)):
                    at = near[j] + around[k]
                    if state[at] != _UNLIT:
                        continue
                    r, c = at // across - 1, at % across - 1
                    if r < 0 or r >= n_rows or c < 0 or c >= n_cols:
                        continue
                    state[at] = _LISTED
                    near[end] = at
                    owner[end] = owner[j]
                    end += 1
                    if mask[r, c] or _touches_another(state, at, across):
                        continue
                    raw = float(image[r, c])
                    usable = math.isfinite(raw) and flat[r, c] > 0.0
                    for s in sentinels:
                        if raw == s:
                            usable = False
                    if usable:
                        if n < len(out_row):
                            out_row[n] = r
                            out_col[n] = c
                            out_value[n] = (raw - background[r, c]) / flat[r, c]
                            out_owner[n] = owner[j]
                        n += 1
            first = last
        for j in range(end):
            state[near[j]] = _LIT if j < n_lit else _UNLIT
    out_start[n_groups] = n
    return n


@compiled()
def _touches_another(state: Array, at: int, across: int) -> bool:
    touches = False
    for row in (at - across, at, at + across):
        touches |= state[row - 1] == _LIT or state[row] == _LIT or state[row + 1] == _LIT
    return touches
