"""Numba kernels of tracks: validated by their callers, preallocated output, nothing else in this file.

A track is a linked list of rows, one row for each of its peaks, whose root is its lowest row: ``parent`` leads to the
root, ``following`` from row to row (-1 at the end); ``last``, ``waiting`` and ``wraps`` are kept at the root.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import kernel

Array = NDArray[Any]


@kernel()
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@kernel()
def join_tracks(
    row_a: Array,
    row_b: Array,
    wrapping: bool,
    parent: Array,
    following: Array,
    last: Array,
    waiting: Array,
    wraps: Array,
) -> int:
    """Join the track of each row of row_a with that of the row of row_b; return how many tracks that took away."""
    joined = 0
    for i in range(len(row_a)):
        a = _root(parent, row_a[i])
        b = _root(parent, row_b[i])
        if a != b:
            if b < a:
                a, b = b, a
            parent[b] = a
            following[last[a]] = b
            last[a] = last[b]
            waiting[a] += waiting[b]
            wraps[a] |= wraps[b]
            joined += 1
        if wrapping:
            wraps[a] = 1
    return joined


@kernel()
def resolve_rows(start: int, end: int, flags: int, parent: Array, waiting: Array, flag: Array, roots: Array) -> int:
    """Take rows start to end as resolved; write the roots of the tracks that wait for no other; return how many."""
    n = 0
    for row in range(start, end):
        flag[row] = flags
        root = _root(parent, row)
        waiting[root] -= 1
        if waiting[root] == 0:
            roots[n] = root
            n += 1
    return n


@kernel()
def _sort_rows(rows: Array, start: int, end: int, frame: Array, peak: Array) -> None:
    """Sort rows[start:end] by frame and peak: Shell's sort with the gaps of Knuth, for most tracks are short."""
    gap = 1
    while gap < (end - start) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(start + gap, end):
            row = rows[i]
            j = i
            while j >= start + gap:
                other = rows[j - gap]
                if frame[other] < frame[row] or (frame[other] == frame[row] and peak[other] < peak[row]):
                    break
                rows[j] = other
                j -= gap
            rows[j] = row
        gap //= 3


@kernel()
def take_tracks(
    roots: Array, parent: Array, following: Array, frame: Array, peak: Array, rows: Array, starts: Array
) -> int:
    """Write the rows of each track in the order of their peaks, mark them as taken (parent -1), and return how many.

    Parameters
    ----------
    rows
        Those of track k are written from starts[k] to starts[k + 1].
    starts
        Shape (tracks + 1,).
    """
    n = 0
    for k in range(len(roots)):
        starts[k] = n
        row = roots[k]
        while row >= 0:
            rows[n] = row
            parent[row] = -1
            n += 1
            row = following[row]
        _sort_rows(rows, starts[k], n, frame, peak)
    starts[len(roots)] = n
    return n


@kernel()
def append_rows(
    peak: Array,
    sums: tuple[Array, ...],
    n_pixels: Array,
    n_saturated: Array,
    on_edge: Array,
    on_mask: Array,
    motors: Array,
    start: int,
    frame: int,
    level: int,
    whole: Array,
    numbers: Array,
) -> None:
    """Write the peaks of one frame to the rows from start on, each a track of its own that waits.

    Parameters
    ----------
    peak
        Number of each peak.
    sums
        sum_intensity, max_intensity, row, col, var_row, var_col and cov_row_col of each peak.
    n_pixels, n_saturated, on_edge, on_mask
        Of each peak.
    motors
        omega_start, omega_end, then the motors, of the frame.
    start, frame, level
        Of the first row, and of the frame.
    whole, numbers
        Written, as `sweep_rows` and `summaries` take them.
    """
    total, top, row, col, var_row, var_col, cov = sums
    for k in range(len(peak)):
        i = start + k
        whole[0, i] = i
        whole[1, i] = -1
        whole[2, i] = i
        whole[3, i] = level
        whole[4, i] = 1
        whole[5, i] = frame
        whole[6, i] = peak[k]
        whole[7, i] = 0
        whole[8, i] = 0
        numbers[i, 0] = motors[0]
        numbers[i, 1] = motors[1]
        numbers[i, 2] = total[k]
        numbers[i, 3] = top[k]
        numbers[i, 4] = row[k]
        numbers[i, 5] = col[k]
        numbers[i, 6] = var_row[k]
        numbers[i, 7] = var_col[k]
        numbers[i, 8] = cov[k]
        numbers[i, 9] = n_pixels[k]
        numbers[i, 10] = n_saturated[k]
        numbers[i, 11] = on_edge[k]
        numbers[i, 12] = on_mask[k]
        for m in range(2, len(motors)):
            numbers[i, 11 + m] = motors[m]


@kernel()
def sweep_rows(n: int, whole: Array, numbers: Array, place: Array) -> int:
    """Move the rows that are not taken to the front, in their order; return how many.

    Parameters
    ----------
    n
        Rows.
    whole
        Shape (9, capacity); its first three rows are parent, following and last.
    numbers
        Shape (capacity, numbers).
    place
        The new place of each row, -1 of those that were taken; shape (n + 1,), the last one -1.
    """
    kept = 0
    for row in range(n):
        place[row] = -1
        if whole[0, row] >= 0:
            place[row] = kept
            kept += 1
    place[n] = -1
    for row in range(n):
        to = place[row]
        if to < 0:
            continue
        for k in range(3):
            # The end of a list, -1, picks the last place, which is -1. Only a root's `last` is ever read.
            whole[k, to] = place[whole[k, row]]
        for k in range(3, whole.shape[0]):
            whole[k, to] = whole[k, row]
        for k in range(numbers.shape[1]):
            numbers[to, k] = numbers[row, k]
    return kept


@kernel()
def summaries(
    order: Array,
    starts: Array,
    rows: Array,
    whole: Array,
    numbers: Array,
    base: int,
    counts: Array,
    sums: Array,
    members: Array,
) -> None:
    """Write what a track is, and its peaks, for tracks in the order given.

    Sums run over the peaks in their order, mean first and moments about it after: one pass in place of forty calls of
    numpy, which took 0.5 ms a frame of 500 peaks; this takes 0.03.

    Parameters
    ----------
    order
        Tracks, as numbered in starts.
    starts, rows
        The rows of track k, in order, are those from starts[k] to starts[k + 1].
    whole
        Frame, peak, wraps and flags of each row, int64, shape (4, rows).
    numbers
        Shape (rows, 13 + motors): omega_start, omega_end, sum_intensity, max_intensity, row, col, var_row, var_col,
        cov_row_col, n_pixels, n_saturated, on_edge, on_mask, then the motors.
    base
        A track's name is base * frame + peak of its first.
    counts
        Name, peaks, frames, first and last frame, pixels, saturated pixels (-1 if unknown), on_edge, wraps, flags and
        on_mask of each track; int64, shape (11, tracks).
    sums
        omega, omega_min, omega_max, row, col, sum_intensity, max_intensity, var_row, var_col, cov_row_col, var_omega,
        cov_row_omega, cov_col_omega, omega_sigma, then mean and variance of each motor; float64, shape
        (14 + 2 * motors, tracks).
    members
        Track, frame and peak; shape (3, rows of all tracks).
    """
    frame, peak, wraps, flags = whole[0], whole[1], whole[2], whole[3]
    start_, end_, weight, top = numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3]
    row_, col_ = numbers[:, 4], numbers[:, 5]
    n_motors = numbers.shape[1] - 13
    n = 0
    for t in range(len(order)):
        first, end = starts[order[t]], starts[order[t] + 1]
        one = rows[first]
        name = base * frame[one] + peak[one]
        total = omega = row = col = 0.0
        highest = top[one]
        low = high = start_[one]
        n_frames = n_pixels = n_saturated = 0
        unknown = edge = masked = wrapped = flagged = 0
        before = -1
        for k in range(first, end):
            i = rows[k]
            members[0, n] = name
            members[1, n] = frame[i]
            members[2, n] = peak[i]
            n += 1
            w = weight[i]
            omega += w * (0.5 * (start_[i] + end_[i]))
            row += w * row_[i]
            col += w * col_[i]
            total += w
            highest = max(highest, top[i])
            for bound in (start_[i], end_[i]):
                # A rotation that never came makes the extremes unknown.
                if np.isnan(bound) or bound < low:
                    low = bound
                if np.isnan(bound) or bound > high:
                    high = bound
            n_frames += frame[i] != before
            before = frame[i]
            n_pixels += np.int64(numbers[i, 9])
            unknown |= numbers[i, 10] < 0
            n_saturated += np.int64(numbers[i, 10])
            edge |= numbers[i, 11] > 0
            masked |= numbers[i, 12] > 0
            wrapped |= wraps[i]
            flagged |= flags[i]
        omega, row, col = omega / total, row / total, col / total
        var_row = var_col = cov_row_col = var_omega = cov_row_omega = cov_col_omega = width = 0.0
        for k in range(first, end):
            i = rows[k]
            w = weight[i]
            d_row, d_col, d_omega = row_[i] - row, col_[i] - col, 0.5 * (start_[i] + end_[i]) - omega
            var_row += w * (numbers[i, 6] + d_row * d_row)
            var_col += w * (numbers[i, 7] + d_col * d_col)
            cov_row_col += w * (numbers[i, 8] + d_row * d_col)
            var_omega += w * (d_omega * d_omega)
            cov_row_omega += w * (d_row * d_omega)
            cov_col_omega += w * (d_col * d_omega)
            span = end_[i] - start_[i]
            width += w * (span * span)
        counts[0, t] = name
        counts[1, t] = end - first
        counts[2, t] = n_frames
        counts[3, t] = frame[one]
        counts[4, t] = before
        counts[5, t] = n_pixels
        # One unknown full scale makes all unknown: -1 of every peak, not a sum of them.
        counts[6, t] = -1 if unknown else n_saturated
        counts[7, t] = edge
        counts[8, t] = wrapped
        counts[9, t] = flagged
        counts[10, t] = masked
        sums[0, t] = omega
        sums[1, t] = low
        sums[2, t] = high
        sums[3, t] = row
        sums[4, t] = col
        sums[5, t] = total
        sums[6, t] = highest
        sums[7, t] = var_row / total
        sums[8, t] = var_col / total
        sums[9, t] = cov_row_col / total
        sums[10, t] = var_omega / total
        sums[11, t] = cov_row_omega / total
        sums[12, t] = cov_col_omega / total
        # Sheppard's correction: a frame gathers what lies within its width s, which adds s^2 / 12 to the variance.
        narrow = var_omega / total - width / total / 12
        sums[13, t] = np.sqrt(narrow) if narrow > 0 else narrow - narrow
        for motor in range(n_motors):
            at = numbers[:, 13 + motor]
            mean = variance = 0.0
            for k in range(first, end):
                mean += weight[rows[k]] * at[rows[k]]
            mean /= total
            for k in range(first, end):
                away = at[rows[k]] - mean
                variance += weight[rows[k]] * (away * away)
            sums[14 + 2 * motor, t] = mean
            sums[15 + 2 * motor, t] = variance / total
