"""Numba kernels of filters and local levels: validated by their callers, preallocated output, nothing else here."""

from typing import Any

from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(nogil=True, cache=True)
def median_3x3(image: Array, out: Array) -> None:
    """Write the median of each 3x3 block; the image's outermost pixels are left alone."""
    for r in range(1, image.shape[0] - 1):
        for c in range(1, image.shape[1] - 1):
            # Each row of the block in order; then the median is that of: the largest of the lowest, the median of the
            # middle ones, the lowest of the largest (Paeth 1990). No branch, so that the loop runs on many pixels.
            a0, a1, a2 = image[r - 1, c - 1], image[r - 1, c], image[r - 1, c + 1]
            b0, b1, b2 = image[r, c - 1], image[r, c], image[r, c + 1]
            c0, c1, c2 = image[r + 1, c - 1], image[r + 1, c], image[r + 1, c + 1]
            a0, a1 = min(a0, a1), max(a0, a1)
            a1, a2 = min(a1, a2), max(a1, a2)
            a0, a1 = min(a0, a1), max(a0, a1)
            b0, b1 = min(b0, b1), max(b0, b1)
            b1, b2 = min(b1, b2), max(b1, b2)
            b0, b1 = min(b0, b1), max(b0, b1)
            c0, c1 = min(c0, c1), max(c0, c1)
            c1, c2 = min(c1, c2), max(c1, c2)
            c0, c1 = min(c0, c1), max(c0, c1)
            low = max(a0, b0, c0)
            middle = max(min(a1, b1), min(max(a1, b1), c1))
            high = min(a2, b2, c2)
            out[r, c] = max(min(low, middle), min(max(low, middle), high))
