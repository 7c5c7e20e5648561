"""Numba kernels of the frame simulator; their callers have checked everything."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .crystal import Array, Integers


@njit(nogil=True, cache=True)
def fill_boxes(
    row: Array,
    col: Array,
    amplitude: Array,
    shape_terms: Array,
    boxes: Integers,
    starts: Integers,
    values: Array,
) -> None:
    """Write the expected counts of each spot's box, one box after the other.

    Parameters
    ----------
    row, col, amplitude
        Centre [pixels] and peak height [counts], shape (n,).
    shape_terms
        a, b, c of exp(-(a dr^2 + b dr dc + c dc^2)), shape (n, 3).
    boxes
        First row, end row, first column, end column, shape (n, 4).
    starts
        Where each box begins in `values`, shape (n,).
    values
        Filled, shape (total pixels,).
    """
    for i in range(row.size):
        a, b, c = shape_terms[i]
        position = starts[i]
        for r in range(boxes[i, 0], boxes[i, 1]):
            dr = r - row[i]
            for q in range(boxes[i, 2], boxes[i, 3]):
                dc = q - col[i]
                values[position] = amplitude[i] * np.exp(-(a * dr * dr + b * dr * dc + c * dc * dc))
                position += 1


@njit(nogil=True, cache=True)
def lay_noise(
    pattern: NDArray[np.int32],
    pool: NDArray[np.int16],
    offsets: Integers,
    full_scale: int,
    frame: NDArray[np.uint16],
) -> None:
    """Fill a frame with its fixed pattern and, row by row, a stretch of the noise pool from `offsets`."""
    rows, cols = frame.shape
    for r in range(rows):
        offset = offsets[r]
        for q in range(cols):
            value = pattern[r, q] + pool[offset + q]
            frame[r, q] = min(max(value, 0), full_scale)


@njit(nogil=True, cache=True)
def add_boxes(counts: Integers, boxes: Integers, starts: Integers, full_scale: int, frame: NDArray[np.uint16]) -> None:
    """Add the counts of each box to the frame, stopping at full scale."""
    for i in range(starts.size):
        position = starts[i]
        for r in range(boxes[i, 0], boxes[i, 1]):
            for q in range(boxes[i, 2], boxes[i, 3]):
                frame[r, q] = min(np.int64(frame[r, q]) + counts[position], full_scale)
                position += 1
