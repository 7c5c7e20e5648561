"""Numba kernels that sort pixels by group and find the unlit ones around them; validated by their caller."""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_PIXELS = 50_000
"Of a group that is fitted: what is larger is a flooded frame, and must not hang it."


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
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
    of_pixel: Array,
    out_row: Array,
    out_col: Array,
    out_value: Array,
    out_owner: Array,
    out_start: Array,
) -> int:
    """List the unlit pixels within width of each group, nearest first; return how many, though only len(out_row) fit.

    of_pixel (rows, columns), all 0, is scratch: -1 - group where a pixel is lit, 1 + group where one was listed last.
    A pixel beside a lit pixel of another group belongs to no group's surroundings: that peak's tail lies on it.
    """
    for i in range(len(row)):
        of_pixel[row[i], col[i]] = -1 - group[i]
    n_groups = len(start) - 1
    most = 0
    for g in range(n_groups):
        if start[g + 1] - start[g] <= MOST_PIXELS:
            most = max(most, start[g + 1] - start[g])
    reach = most * (2 * width + 1) ** 2
    near_row = np.empty(reach, np.int32)
    near_col = np.empty(reach, np.int32)
    near_owner = np.empty(reach, np.int32)
    n = 0
    for g in range(n_groups):
        out_start[g] = n
        if start[g + 1] - start[g] > MOST_PIXELS:
            continue
        end = 0
        for i in order[start[g] : start[g + 1]]:
            near_row[end] = row[i]
            near_col[end] = col[i]
            near_owner[end] = peak[i]
            end += 1
        first = 0
        for _ in range(width):
            last = end
            for j in range(first, last):
                for r in range(max(near_row[j] - 1, 0), min(near_row[j] + 2, of_pixel.shape[0])):
                    for c in range(max(near_col[j] - 1, 0), min(near_col[j] + 2, of_pixel.shape[1])):
                        if of_pixel[r, c] < 0 or of_pixel[r, c] == g + 1:
                            continue
                        of_pixel[r, c] = g + 1
                        near_row[end] = r
                        near_col[end] = c
                        near_owner[end] = near_owner[j]
                        end += 1
                        if mask[r, c] or _touches_another(of_pixel, r, c, g):
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
                                out_owner[n] = near_owner[j]
                            n += 1
            first = last
    out_start[n_groups] = n
    return n


@njit(nogil=True, cache=True)
def _touches_another(of_pixel: Array, row: int, col: int, group: int) -> bool:
    for r in range(max(row - 1, 0), min(row + 2, of_pixel.shape[0])):
        for c in range(max(col - 1, 0), min(col + 2, of_pixel.shape[1])):
            if of_pixel[r, c] < 0 and of_pixel[r, c] != -1 - group:
                return True
    return False
