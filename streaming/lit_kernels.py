"""Numba kernels from images to lit pixels: validated by their callers, preallocated output, never ``parallel=True``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import WIDE, WORD, kernel, list_pixels, lit_word, prefetch, trailing_zeros

Array = NDArray[Any]


@kernel()
def _scalar_word(raw: Array, i: int, cut: Array, j: int, top: Any, n: int) -> Any:
    """Do what `lit_word` does for the n < 64 pixels of a row that is shorter than a word."""
    word = np.uint64(0)
    for k in range(n):
        if raw[i + k] > cut[j + k] and raw[i + k] <= top:
            word |= np.uint64(1) << np.uint64(k)
    return word


@kernel()
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


@kernel()
def lit_pixels(
    raw: Array,
    cut: Array,
    top: Any,
    sentinels: Array,
    background: Array,
    shift: float,
    runs: Array,
    row: Array,
    col: Array,
    value: Array,
    intensity: Array,
) -> tuple[int, Any]:
    """List the lit pixels, ``cut < raw <= top`` and no sentinel, in raster order, and the runs that they form.

    raw (rows, columns), cut and background (rows or 1, columns) are C-contiguous, raw and cut of one type. Written are
    runs (3, n + 1), the row, the column and the index of the first pixel of each run, and as the last index how many
    pixels there are; and row, column, raw counts and raw - (background - shift) of each pixel. Return how many runs and
    pixels there are. If there is no room for all runs, only these numbers count; for all pixels, only the runs besides:
    row, col, value and intensity have room for 16 pixels less than they are long.
    """
    run_row, run_col, first = runs[0], runs[1], runs[2]
    rows, cols = raw.shape
    pixels, cuts, backgrounds = raw.reshape(-1), cut.reshape(-1), background.reshape(-1)
    pitch = cols if cut.shape[0] > 1 else 0
    background_pitch = cols if background.shape[0] > 1 else 0
    capacity = len(run_row) - 1
    room = len(row) - WIDE
    n_runs, n, before = 0, 0, 0
    # One row more, without pixels: runs are listed one row late, when their counts are still in the nearest cache, and
    # what was asked for has come.
    for r in range(rows + 1):
        i, j = r * cols, r * pitch
        end = -1
        here = n_runs
        for block in range(0, cols if r < rows else 0, WORD):
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
                        run_row[n_runs] = r
                        run_col[n_runs] = at
                        first[n_runs] = n
                        # A dark image of float64 is four times a frame and in no cache.
                        prefetch(backgrounds, r * background_pitch + at)
                    n_runs += 1
                n += np.int64(length)
                at = end = at + np.int64(length)
                if length == np.uint64(WORD):
                    break
                word >>= length
            if end > block and n_runs <= capacity:
                prefetch(backgrounds, r * background_pitch + end - 1)
        if n_runs > capacity or before == here:
            continue
        first[n_runs] = n
        if first[here] <= room:
            _list_runs(
                pixels, cols, backgrounds, background_pitch, shift, run_row, run_col, first, before, here,
                row, col, value, intensity,
            )  # fmt: skip
            before = here
    first[min(n_runs, capacity)] = n
    return n_runs, n


@kernel(forceinline=True)
def _list_runs(
    pixels: Array,
    cols: int,
    backgrounds: Array,
    pitch: Any,
    shift: float,
    run_row: Array,
    run_col: Array,
    first: Array,
    start: int,
    stop: int,
    row: Array,
    col: Array,
    value: Array,
    intensity: Array,
) -> None:
    """Write row, column, raw counts and raw - (background - shift) of each pixel of the runs start ... stop."""
    for k in range(start, stop):
        r, c = np.int64(run_row[k]), np.int64(run_col[k])
        i, j, at = r * cols + c, r * pitch + c, np.int64(first[k])
        n = np.int64(first[k + 1]) - at
        for m in range(0, n, WIDE):
            # What is too much, the next run overwrites.
            list_pixels(pixels, i + m, n - m, backgrounds, j + m, shift, r, c + m, row, col, value, intensity, at + m)


@kernel()
def lit_sparse(value: Array, row: Array, col: Array, cut: Array, top: Any, sentinels: Array, keep: Array) -> None:
    """Mark in keep which of the listed pixels are lit; cut is (rows or 1, columns)."""
    every = 0 if cut.shape[0] == 1 else 1
    for i in range(len(value)):
        lit = value[i] > cut[row[i] * every, col[i]] and value[i] <= top
        for each in sentinels:
            if value[i] == each:
                lit = False
        keep[i] = lit


@kernel()
def intensities(value: Array, row: Array, col: Array, background: Array, shift: float, intensity: Array) -> None:
    """Write value - (background - shift) of each listed pixel; background is (rows or 1, columns), C-contiguous."""
    pitch = 0 if background.shape[0] == 1 else background.shape[1]
    backgrounds = background.reshape(-1)
    n = len(value)
    for i in range(n):
        # No pass over the frame has brought the background near.
        ahead = min(i + 64, n - 1)
        prefetch(backgrounds, np.int64(row[ahead]) * pitch + col[ahead])
        intensity[i] = float(value[i]) - (float(backgrounds[np.int64(row[i]) * pitch + col[i]]) - shift)
