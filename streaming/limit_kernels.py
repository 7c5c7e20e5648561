"""Numba kernels of how far linked peaks may be apart: validated by their callers, preallocated output, nothing else."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import kernel

Array = NDArray[Any]


@kernel()
def distance_limit(a: Array, p: int, b: Array, q: int, by_size: float, by_width: float) -> float:
    """Return how far apart the centroids of peak p of a and peak q of b may be, pixels.

    ``by_size * pixels of the larger / pixels of the smaller + by_width * width``. Two peaks of the same size that are
    one spot have the same place; the first tail of a spot in omega is small and lies anywhere on it, and what a split
    left over lies beside it; the place of a wide peak is less certain than that of a narrow one. The width is the
    standard deviation along the line through both centroids, of the peak for which it is larger.

    Parameters
    ----------
    a, b
        Row, col, n_pixels, var_row, var_col and cov_row_col of each peak of both frames, shape (peaks, 6 or more).
    p, q
        The peaks.
    by_size
        Limit for peaks of the same size, pixels.
    by_width
        What each pixel of width adds.
    """
    down = b[q, 0] - a[p, 0]
    right = b[q, 1] - a[p, 1]
    square = down * down + right * right
    width = 0.0
    if square > 0.0:
        variance_a = a[p, 3] * down * down + a[p, 4] * right * right + 2.0 * a[p, 5] * down * right
        variance_b = b[q, 3] * down * down + b[q, 4] * right * right + 2.0 * b[q, 5] * down * right
        width = np.sqrt(max(variance_a, variance_b, 0.0) / square)
    larger = max(a[p, 2], b[q, 2])
    return by_size * (larger / min(a[p, 2], b[q, 2])) + by_width * width
