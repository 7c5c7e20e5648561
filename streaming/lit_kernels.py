"""Numba kernels from images to lit pixels: validated by their callers, preallocated output, never ``parallel=True``."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import WIDE, WORD, kernel, list_pixels, lit_word, over_word, prefetch, trailing_zeros

Array = NDArray[Any]

_AHEAD = 4096
"""Bytes from a pixel that is compared to what is asked for: the processor by itself asks up to the end of a page only.
Measured on 2048 x 2048 uint16: a tenth of the pass, alike from 2048 to 8192."""
_LINE = 64  # bytes


@kernel()
def largest_whole(levels: Array) -> float:
    """Return the largest magnitude of the numbers of an image, infinity if one of them is not whole."""
    # numpy would make two images more, which the system does not always get back.
    largest = 0.0
    for r in range(levels.shape[0]):
        whole = True
        for c in range(levels.shape[1]):
            level = float(levels[r, c])
            whole &= level == np.floor(level)
            largest = max(largest, abs(level))
        if not whole:
            return np.inf
    return largest


@kernel()
def narrow_cut(cut: Array, least: Array, excess: Array, wide: Array) -> int:
    """Write the cut as the least of each word of 64 pixels, and how far that of each pixel lies above it.

    cut (rows, columns), of 64 columns at least; least (words) of its type; excess (words, 64), uint8, whole counts, 255
    at most; wide (words), int32, the number of the word among those where that is less than the cut, else -1. The last
    word of a row are its last 64 pixels. Return how many are wide.
    """
    rows, cols = cut.shape
    n, n_wide = 0, 0
    for r in range(rows):
        for block in range(0, cols, WORD):
            start = min(block, cols - WORD)
            low = cut[r, start]
            for k in range(1, WORD):
                low = min(low, cut[r, start + k])
            least[n] = low
            is_wide = False
            for k in range(WORD):
                # The type's largest number and its least one are further apart than the type can say.
                over = float(cut[r, start + k]) - float(low)
                excess[n, k] = np.uint8(over) if over < 256.0 else np.uint8(255)
                is_wide |= not over < 256.0
            wide[n] = n_wide if is_wide else -1
            n_wide += is_wide
            n += 1
    return n_wide


@kernel()
def wide_cuts(cut: Array, wide: Array, cuts: Array) -> None:
    """Write the cuts of the words that `narrow_cut` found to be wide; cuts (wide words, 64)."""
    cols = cut.shape[1]
    words = -(-cols // WORD)
    for n in range(len(wide)):
        if wide[n] >= 0:
            start = min(n % words * WORD, cols - WORD)
            for k in range(WORD):
                cuts[wide[n], k] = cut[n // words, start + k]


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


@kernel(forceinline=True)
def _occupied(
    pixels: Array,
    i: int,
    cols: int,
    cuts: Array,
    j: int,
    least: Array,
    excess: Array,
    m: int,
    top: Any,
    begin: int,
    n: int,
) -> Any:
    """Return as bits which of up to 64 words of a row, from the begin-th on, may hold lit pixels."""
    if cols < WORD:
        return np.uint64(1)
    found = np.uint64(0)
    for k in range(n):
        start = min((begin + k) * WORD, cols - WORD)
        for line in range(0, WORD, _LINE // pixels.itemsize):
            # Nothing has to exist there.
            prefetch(pixels, i + start + line + _AHEAD // pixels.itemsize)
        if len(least):
            place = m + begin + k
            prefetch(excess, place * WORD + _AHEAD // 2)
            word = over_word(pixels, i + start, least[place], excess, place * WORD)
        else:
            word = lit_word(pixels, i + start, cuts, j + start, top)
        found |= np.uint64(word != 0) << np.uint64(k)
    return found


@kernel(forceinline=True)
def _word(
    pixels: Array,
    i: int,
    cols: int,
    cuts: Array,
    j: int,
    least: Array,
    excess: Array,
    wide: Array,
    wide_cuts: Array,
    m: int,
    exact: bool,
    top: Any,
    w: Any,
) -> Any:
    """Return as bits which pixels of a word of a row are lit."""
    if cols < WORD:
        return _scalar_word(pixels, i, cuts, j, top, cols)
    # The last word of a row overlaps the one before, whose bits are shifted out.
    start = min(w * WORD, cols - WORD)
    if len(least) and exact:
        k = np.int64(wide[m + w])
        if k < 0:
            word = over_word(pixels, i + start, least[m + w], excess, (m + w) * WORD)
        else:
            # Not from the cut itself, which is far away: hot pixels seem lit in every frame.
            word = lit_word(pixels, i + start, wide_cuts, k * WORD, top)
    else:
        word = lit_word(pixels, i + start, cuts, j + start, top)
    return word >> np.uint64(w * WORD - start)


@kernel()
def lit_pixels(
    raw: Array,
    cut: Array,
    least: Array,
    excess: Array,
    wide: Array,
    wide_cuts: Array,
    exact: bool,
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

    raw (rows, columns), cut and background (rows or 1, columns) are C-contiguous, raw and cut of one type. least,
    excess, wide and wide_cuts are what `narrow_cut` and `wide_cuts` wrote, or empty: half as much comes from memory
    then, and the cut itself is only read where a pixel seems lit, unless what they say is exact. Written are
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
    over, cuts_of_wide = excess.reshape(-1), wide_cuts.reshape(-1)
    n_words = -(-cols // WORD)
    n_runs, n, before = 0, 0, 0
    # One row more, without pixels: runs are listed one row late, when their counts are still in the nearest cache, and
    # what was asked for has come.
    for r in range(rows + 1):
        i, j = r * cols, r * pitch
        end = -1
        here = n_runs
        # 64 words are only looked at, without a branch that could go wrong, so that the processor reads ahead; what
        # seems lit is in the nearest cache then.
        for word_of_row in range(0, n_words if r < rows else 0, WORD):
            n_here = min(n_words - word_of_row, WORD)
            occupied = _occupied(pixels, i, cols, cuts, j, least, over, r * n_words, top, word_of_row, n_here)
            while occupied != 0:
                w = word_of_row + np.int64(trailing_zeros(occupied))
                occupied &= occupied - np.uint64(1)
                block = w * WORD
                word = _word(
                    pixels, i, cols, cuts, j, least, over, wide, cuts_of_wide, r * n_words, exact, top, w
                )  # fmt: skip
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
