"""Numba kernels of how far linked peaks may be apart: validated by their callers, preallocated output, nothing else."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def distance_limits(
    peak_a: Array,
    peak_b: Array,
    a: tuple[Array, ...],
    b: tuple[Array, ...],
    by_size: float,
    by_width: float,
    limit: Array,
) -> None:
    """Write how far apart the centroids of each pair of peaks may be, pixels.

    ``by_size * pixels of the larger / pixels of the smaller + by_width * width``. Two peaks of the same size that are
    one spot have the same place; the first tail of a spot in omega is small and lies anywhere on it, and what a split
    left over lies beside it; the place of a wide peak is less certain than that of a narrow one. The width is the
    standard deviation along the line through both centroids, of the peak for which it is larger.

    Parameters
    ----------
    peak_a, peak_b
        Peaks of each pair, as indices, shape (pairs,).
    a, b
        Columns row, col, n_pixels, var_row, var_col and cov_row_col of the peaks of both frames.
    by_size
        Limit for peaks of the same size, pixels.
    by_width
        What each pixel of width adds.
    limit
        Float64, shape (pairs,), written.
    """
    row_a, col_a, n_pixels_a, var_row_a, var_col_a, cov_a = a
    row_b, col_b, n_pixels_b, var_row_b, var_col_b, cov_b = b
    for k in range(len(peak_a)):
        p = peak_a[k]
        q = peak_b[k]
        down = row_b[q] - row_a[p]
        right = col_b[q] - col_a[p]
        square = down * down + right * right
        width = 0.0
        if square > 0.0:
            variance_a = var_row_a[p] * down * down + var_col_a[p] * right * right + 2.0 * cov_a[p] * down * right
            variance_b = var_row_b[q] * down * down + var_col_b[q] * right * right + 2.0 * cov_b[q] * down * right
            width = np.sqrt(max(variance_a, variance_b, 0.0) / square)
        larger = max(n_pixels_a[p], n_pixels_b[q])
        limit[k] = by_size * (larger / min(n_pixels_a[p], n_pixels_b[q])) + by_width * width
