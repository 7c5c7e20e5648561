"""Numba kernels from images to lit pixels: validated by their callers, preallocated output, never ``parallel=True``."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .vectors import LANES, WORD, list_pixels, lit_word, prefetch, trailing_zeros

Array = NDArray[Any]

AHEAD = 24
"Runs whose memory is asked for before it is needed."


@njit(nogil=True, cache=True)
def _scalar_word(raw: Array, i: int, cut: Array, j: int, top: Any, n: int) -> Any:
    """Do what `lit_word` does for the n < 64 pixels of a row that is shorter than a word."""
    word = np.uint64(0)
    for k in range(n):
        if raw[i + k] > cut[j + k] and raw[i + k] <= top:
            word |= np.uint64(1) << np.uint64(k)
    return word


@njit(nogil=True, cache=True)
def _without(word: Any, raw: Array, i: int, sentinels: Array) -> Any:
    """Clear the bits of pixels that hold a sentinel."""
    left = word
    while left != 0:
        k = trailing_zeros(left)
        left &= left - np.uint64(1)
        for each in sentinels:
            if raw[i + np.int64(k)] == each:
                word &= ~(np.uint64(1) << k)
    return word


@njit(nogil=True, cache=True)
def lit_runs(
    raw: Array, cut: Array, top: Any, sentinels: Array, row: Array, col: Array, first: Array
) -> tuple[int, Any]:
    """Find the runs of lit pixels, ``cut < raw <= top`` and no sentinel, in raster order.

    raw (rows, columns) and cut (rows or 1, columns) are C-contiguous and of one type. Written are the row and the first
    column of each run and how many lit pixels come before it, and to the end of first how many there are. Return how
    many runs and pixels there are, though only len(row) runs are kept.
    """
    rows, cols = raw.shape
    pixels, cuts = raw.reshape(-1), cut.reshape(-1)
    pitch = cols if cut.shape[0] > 1 else 0
    capacity = len(row)
    n_runs, n = 0, 0
    for r in range(rows):
        i, j = r * cols, r * pitch
        end = -1
        for block in range(0, cols, WORD):
            if block + WORD <= cols:
                word = lit_word(pixels, i + block, cuts, j + block, top)
            elif cols >= WORD:
                # The last word of a row overlaps the one before, whose bits are shifted out.
                last = cols - WORD
                word = lit_word(pixels, i + last, cuts, j + last, top) >> np.uint64(block - last)
            else:
                word = _scalar_word(pixels, i, cuts, j, top, cols)
            if word == 0:
                continue
            if len(sentinels):
                word = _without(word, pixels, i + block, sentinels)
            at = block
            while word != 0:
                skip = trailing_zeros(word)
                word >>= skip
                at += np.int64(skip)
                length = trailing_zeros(~word)
                if at != end:
                    if n_runs < capacity:
                        row[n_runs] = r
                        col[n_runs] = at
                        first[n_runs] = n
                    n_runs += 1
                n += np.int64(length)
                at = end = at + np.int64(length)
                if length == np.uint64(WORD):
                    break
                word >>= length
    first[min(n_runs, capacity)] = n
    return n_runs, n


@njit(nogil=True, cache=True)
def pixels_of_runs(
    raw: Array,
    background: Array,
    shift: float,
    run_row: Array,
    run_col: Array,
    first: Array,
    row: Array,
    col: Array,
    value: Array,
    intensity: Array,
) -> None:
    """Write row, column, raw counts and raw - (background - shift) of each pixel of the runs.

    background is (rows or 1, columns) and C-contiguous; first holds one number more than there are runs.
    """
    cols = raw.shape[1]
    pixels, backgrounds = raw.reshape(-1), background.reshape(-1)
    pitch = cols if background.shape[0] > 1 else 0
    n_runs = len(run_row)
    for k in range(n_runs):
        # A dark image of float64 is four times a frame and in no cache: asked for in time, 3000 spots a frame take
        # 0.7 instead of 2.7 ms.
        if k + AHEAD < n_runs:
            ahead_row, ahead_col = np.int64(run_row[k + AHEAD]), np.int64(run_col[k + AHEAD])
            last = np.int64(first[k + AHEAD + 1]) - first[k + AHEAD] - 1
            prefetch(backgrounds, ahead_row * pitch + ahead_col)
            prefetch(backgrounds, ahead_row * pitch + ahead_col + last)
            prefetch(pixels, ahead_row * cols + ahead_col)
        r, c = np.int64(run_row[k]), np.int64(run_col[k])
        i, j, n, end = r * cols + c, r * pitch + c, np.int64(first[k]), np.int64(first[k + 1])
        while n < end:
            if i + LANES <= len(pixels) and j + LANES <= len(backgrounds) and n + LANES <= len(row):
                # What is too much, the next run overwrites.
                list_pixels(pixels, i, backgrounds, j, shift, r, c, row, col, value, intensity, n)
            else:
                for m in range(min(LANES, end - n)):
                    row[n + m] = r
                    col[n + m] = c + m
                    value[n + m] = pixels[i + m]
                    intensity[n + m] = float(pixels[i + m]) - (float(backgrounds[j + m]) - shift)
            n += LANES
            i += LANES
            j += LANES
            c += LANES


@njit(nogil=True, cache=True)
def lit_sparse(value: Array, row: Array, col: Array, cut: Array, top: Any, sentinels: Array, keep: Array) -> None:
    """Mark in keep which of the listed pixels are lit; cut is (rows or 1, columns)."""
    every = 0 if cut.shape[0] == 1 else 1
    for i in range(len(value)):
        lit = value[i] > cut[row[i] * every, col[i]] and value[i] <= top
        for each in sentinels:
            if value[i] == each:
                lit = False
        keep[i] = lit


@njit(nogil=True, cache=True)
def intensities(value: Array, row: Array, col: Array, background: Array, shift: float, intensity: Array) -> None:
    """Write value - (background - shift) of each listed pixel; background is (rows or 1, columns)."""
    every = 0 if background.shape[0] == 1 else 1
    for i in range(len(value)):
        intensity[i] = float(value[i]) - (float(background[row[i] * every, col[i]]) - shift)
