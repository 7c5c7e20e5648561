"""Numba kernels of the medians: validated by their callers, preallocated output, nothing else in this file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]

_BLOCK = 512
"""Pixels that are sorted side by side: small enough for the caches, and long enough that one compare-and-exchange is a
few vector instructions."""


@compiled()
def medians(stack: Array, pairs: Array, top: Any, median: Array) -> None:
    """Sort the values of each pixel and write the middle one, or the mean of the two middle ones.

    A sorting network asks for the same comparisons whatever the values are, so a whole block of pixels takes each of
    them in step, without a branch.

    stack: values, shape (frames, pixels), overwritten; pairs: comparisons i < j of the network in their order, shape
    (n, 2); top: largest value of the type, in the place of NaN; median: float64, shape (pixels,), NaN where all are.
    """
    n_frames, n_pixels = stack.shape
    count = np.empty(_BLOCK, np.int64)
    for start in range(0, n_pixels, _BLOCK):
        end = min(start + _BLOCK, n_pixels)
        count[:] = n_frames
        for k in range(n_frames):
            values = stack[k, start:end]
            for p in range(end - start):
                if values[p] != values[p]:
                    values[p] = top
                    count[p] -= 1
        for k in range(len(pairs)):
            low = stack[pairs[k, 0], start:end]
            high = stack[pairs[k, 1], start:end]
            for p in range(end - start):
                a = low[p]
                b = high[p]
                low[p] = b if b < a else a
                high[p] = a if b < a else b
        for p in range(end - start):
            n = count[p]
            if n == 0:
                median[start + p] = np.nan
            else:
                a = stack[(n - 1) // 2, start + p]
                b = stack[n // 2, start + p]
                median[start + p] = (np.float64(a) + np.float64(b)) / 2


@compiled()
def follow(image: Array, step: float, background: Array) -> None:
    """Move each pixel of the background by at most step towards the image; one that is NaN, in either, stays."""
    for r in range(image.shape[0]):
        for c in range(image.shape[1]):
            value = np.float64(image[r, c])
            old = background[r, c]
            low = old - step
            high = old + step
            # Selections instead of branches: whether a pixel is above its background is a coin's toss.
            new = value if value == value and old == old else old
            new = high if value > high else new
            background[r, c] = low if value < low else new


@compiled()
def mean_of_numbers(image: Array) -> float:
    """Return the mean of what is not NaN, NaN if all is; summed in a fixed order, eight columns side by side."""
    total = np.zeros(8)
    count = np.zeros(8, np.int64)
    n_cols = image.shape[1]
    for r in range(image.shape[0]):
        for c in range(0, n_cols - n_cols % 8, 8):
            for k in range(8):
                value = image[r, c + k]
                total[k] += value if value == value else 0.0
                count[k] += value == value
        for c in range(n_cols - n_cols % 8, n_cols):
            value = image[r, c]
            total[0] += value if value == value else 0.0
            count[0] += value == value
    all_sum = 0.0
    n = 0
    for k in range(8):
        all_sum += total[k]
        n += count[k]
    return all_sum / n if n else np.nan
