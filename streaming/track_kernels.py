"""Numba kernels of tracks: validated by their callers, preallocated output, nothing else in this file.

A track is a linked list of rows, one row for each of its peaks, whose root is its lowest row. Of a row there are 32
bytes of whole numbers, which lead from row to row, and 64 of those that are summed. Rows of a track are far from each
other, and what costs is to fetch them from memory: with a list for each number, the tracks of 3000 peaks a frame in
rows of a grid took half as long again, and with all numbers of a row at one place longer, for then the way from row to
row misses the near cache too. What is the same for all peaks of a frame stands once, at its slot.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .vectors import kernel, prefetch

Array = NDArray[Any]

# Places of what leads from row to row, int32: the row that leads to the root; the next row of the track, -1 at the end;
# at the root, the last row of the track, and how many of its rows wait for a neighbour; slot of the frame; peak; marks;
# n_saturated.
PARENT, FOLLOWING, LAST, WAITING, SLOT, PEAK, MARKS, N_SATURATED = range(8)
# Marks: a link over the end of the turn, kept at the root; on the edge; beside the mask; behind the end of the turn.
WRAPS, ON_EDGE, ON_MASK, BEHIND = 1, 2, 4, 8
# Places of the numbers, float64: sum_intensity, max_intensity, row, col, var_row, var_col, cov_row_col and n_pixels.
SUM, MAX, ROW, COL, VAR_ROW, VAR_COL, COV, N_PIXELS = range(8)
WIDTH = 8
# With room for more rows than these, memory is asked for the next ones beforehand: fewer are in the near caches anyway.
# That took a quarter off what the tracks of 3000 peaks a frame in rows of a grid cost.
NEAR = 1 << 15
# Places of a frame's whole numbers, int64: its number, the rank of its rotation on the circle, what it misses.
FRAME, LEVEL, FLAGS = range(3)


@kernel()
def _root(whole: Array, i: int) -> int:
    while whole[i, PARENT] != i:
        whole[i, PARENT] = whole[whole[i, PARENT], PARENT]
        i = whole[i, PARENT]
    return i


@kernel()
def join_tracks(peak_a: Array, peak_b: Array, start_a: int, start_b: int, wrapping: bool, whole: Array) -> int:
    """Join the track of each row start_a + peak_a with that of start_b + peak_b; return how many that took away."""
    if len(whole) > NEAR:
        for i in range(len(peak_a)):
            prefetch(whole, np.int64(whole[start_a + peak_a[i], PARENT]) * WIDTH)
    joined = 0
    for i in range(len(peak_a)):
        a = _root(whole, start_a + peak_a[i])
        b = _root(whole, start_b + peak_b[i])
        if a != b:
            if b < a:
                a, b = b, a
            whole[b, PARENT] = a
            whole[whole[a, LAST], FOLLOWING] = b
            whole[a, LAST] = whole[b, LAST]
            whole[a, WAITING] += whole[b, WAITING]
            whole[a, MARKS] |= whole[b, MARKS] & WRAPS
            joined += 1
        if wrapping:
            whole[a, MARKS] |= WRAPS
    return joined


@kernel()
def resolve_rows(start: int, end: int, whole: Array, roots: Array, n: int) -> int:
    """Take rows start to end as resolved; write the roots of tracks that wait for no other, from place n; return it."""
    if len(whole) > NEAR:
        for row in range(start, end):
            prefetch(whole, np.int64(whole[row, PARENT]) * WIDTH)
    for row in range(start, end):
        root = _root(whole, row)
        waiting = whole[root, WAITING] - 1
        whole[root, WAITING] = waiting
        # What does not count is overwritten by the next.
        roots[n] = root
        n += int(waiting == 0)
    return n


@kernel()
def _sort_rows(rows: Array, start: int, end: int, whole: Array, frames: Array) -> None:
    """Sort rows[start:end] by frame and peak: Shell's sort with the gaps of Knuth, for most tracks are short."""
    gap = 1
    while gap < (end - start) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(start + gap, end):
            row = rows[i]
            frame, peak = frames[whole[row, SLOT], FRAME], whole[row, PEAK]
            j = i
            while j >= start + gap:
                other = rows[j - gap]
                frame_before = frames[whole[other, SLOT], FRAME]
                if frame_before < frame or (frame_before == frame and whole[other, PEAK] < peak):
                    break
                rows[j] = other
                j -= gap
            rows[j] = row
        gap //= 3


@kernel()
def _fetch(roots: Array, whole: Array, walk: Array) -> None:
    """Walk along all tracks at once, so that their rows are in the near caches when they are asked for.

    From row to row the processor waits for the memory; of several tracks it asks for the next rows at the same time.
    """
    n = len(roots)
    for k in range(n):
        walk[k] = roots[k]
    while n > 0:
        left = 0
        for k in range(n):
            after = np.int64(whole[walk[k], FOLLOWING])
            walk[left] = after
            left += int(after >= 0)
        n = left


@kernel()
def take_tracks(roots: Array, whole: Array, frames: Array, rows: Array, starts: Array) -> tuple[int, bool]:
    """Write the rows of each track in the order of their peaks, and mark them as taken (parent -1).

    Return how many, and whether a track of them goes over the end of the turn.

    Parameters
    ----------
    whole
        Of each row.
    frames
        Of each slot.
    rows
        Those of track k are written from starts[k] to starts[k + 1].
    starts
        Shape (tracks + 1,).
    """
    if len(whole) > NEAR:
        _fetch(roots, whole, rows)
    n = 0
    wraps = 0
    for k in range(len(roots)):
        starts[k] = n
        row = np.int64(roots[k])
        wraps |= whole[row, MARKS]
        while row >= 0:
            rows[n] = row
            whole[row, PARENT] = -1
            n += 1
            row = np.int64(whole[row, FOLLOWING])
        _sort_rows(rows, starts[k], n, whole, frames)
    starts[len(roots)] = n
    return n, wraps & WRAPS > 0


@kernel()
def name_tracks(starts: Array, rows: Array, whole: Array, frames: Array, base: int, names: Array) -> None:
    """Write base * frame + peak of the first peak of each track, whose rows are in order."""
    for k in range(len(names)):
        first = rows[starts[k]]
        names[k] = base * frames[whole[first, SLOT], FRAME] + whole[first, PEAK]


@kernel()
def append_rows(
    peak: Array,
    sums: tuple[Array, ...],
    n_pixels: Array,
    n_saturated: Array,
    on_edge: Array,
    on_mask: Array,
    start: int,
    slot: int,
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
    start, slot
        Of the first row, and of the frame.
    whole, numbers
        Of each row.
    """
    total, top, row, col, var_row, var_col, cov = sums
    for k in range(len(peak)):
        i = start + k
        whole[i, PARENT] = i
        whole[i, FOLLOWING] = -1
        whole[i, LAST] = i
        whole[i, WAITING] = 1
        whole[i, SLOT] = slot
        whole[i, PEAK] = peak[k]
        whole[i, MARKS] = ON_EDGE * on_edge[k] | ON_MASK * on_mask[k]
        numbers[i, N_PIXELS] = n_pixels[k]
        whole[i, N_SATURATED] = n_saturated[k]
        numbers[i, SUM] = total[k]
        numbers[i, MAX] = top[k]
        numbers[i, ROW] = row[k]
        numbers[i, COL] = col[k]
        numbers[i, VAR_ROW] = var_row[k]
        numbers[i, VAR_COL] = var_col[k]
        numbers[i, COV] = cov[k]


@kernel()
def sweep_rows(n: int, whole: Array, numbers: Array, place: Array, slots: Array) -> int:
    """Move the rows that are not taken to the front, in their order; return how many.

    Parameters
    ----------
    n
        Rows.
    whole, numbers
        Of each row.
    place
        The new place of each row, -1 of those that were taken; shape (n + 1,), the last one -1.
    slots
        Set to 1 for each slot that a row still has.
    """
    kept = 0
    for row in range(n):
        place[row] = -1
        if whole[row, PARENT] >= 0:
            place[row] = kept
            kept += 1
    place[n] = -1
    for row in range(n):
        to = place[row]
        if to < 0:
            continue
        slots[whole[row, SLOT]] = 1
        # The end of a list, -1, picks the last place, which is -1. Only a root's last row is ever read.
        for k in range(SLOT):
            whole[to, k] = whole[row, k] if k == WAITING else place[whole[row, k]]
        for k in range(SLOT, WIDTH):
            whole[to, k] = whole[row, k]
        for k in range(WIDTH):
            numbers[to, k] = numbers[row, k]
    return kept


@kernel()
def sweep_slots(n: int, whole: Array, used: Array, frames: Array, motors: Array) -> int:
    """Move the slots that are used to the front, in their order, and tell n rows; return how many."""
    kept = 0
    for slot in range(len(used)):
        if used[slot]:
            for k in range(frames.shape[1]):
                frames[kept, k] = frames[slot, k]
            for k in range(motors.shape[1]):
                motors[kept, k] = motors[slot, k]
            used[slot] = kept
            kept += 1
    for row in range(n):
        whole[row, SLOT] = used[whole[row, SLOT]]
    return kept


@kernel()
def summaries(
    order: Array,
    starts: Array,
    rows: Array,
    names: Array,
    whole: Array,
    numbers: Array,
    frames: Array,
    motors: Array,
    back: float,
    long: Array,
    counts: Array,
    told: Array,
    sums: Array,
    members: Array,
    peaks: Array,
) -> None:
    """Write what a track is, and its peaks, for tracks in the order given.

    Sums run over the peaks in their order, mean first and moments about it after: one pass in place of forty calls of
    numpy, which took 0.5 ms a frame of 500 peaks; this takes 0.01.

    Parameters
    ----------
    order
        Tracks, as numbered in starts.
    starts, rows
        The rows of track k, in order, are those from starts[k] to starts[k + 1].
    names
        Of each track.
    whole, numbers
        Of each row.
    frames, motors
        Of each slot; motors are omega_start, omega_end, then the others.
    back
        The turn to go back for rows that lie behind its end, degrees.
    long
        Name, first and last frame, pixels, saturated pixels (-1 if unknown) of each track; int64, shape (5, tracks).
    counts
        Peaks and frames; int32, shape (2, tracks).
    told
        on_edge, wraps, on_mask, at_scan_end and beside_missing; bool, shape (5, tracks).
    sums
        omega, omega_min, omega_max, omega_width, row, col, sum_intensity, max_intensity, var_row, var_col, cov_row_col,
        var_omega, cov_row_omega, cov_col_omega, omega_sigma, then mean and variance of each motor; float64, shape
        (15 + 2 * motors, tracks).
    members, peaks
        Track and frame, and peak, of each row; shapes (2, rows of all tracks) and (rows of all tracks,).
    """
    n_motors = motors.shape[1] - 2
    n = 0
    last = len(rows) - 1
    for t in range(len(order)):
        first, end = starts[order[t]], starts[order[t] + 1]
        name = names[order[t]]
        one = rows[first]
        start_omega = motors[whole[one, SLOT], 0] - (back if whole[one, MARKS] & BEHIND else 0.0)
        total = omega = row = col = 0.0
        highest = numbers[one, MAX]
        low = high = start_omega
        n_frames = n_pixels = n_saturated = 0
        unknown = False
        marks = flags = 0
        before = np.int64(-1)
        for k in range(first, end):
            i = rows[k]
            # Mostly the tracks lie in this order.
            prefetch(numbers, rows[min(k + 24, last)] * WIDTH)
            slot = whole[i, SLOT]
            frame = frames[slot, FRAME]
            members[0, n] = name
            members[1, n] = frame
            peaks[n] = whole[i, PEAK]
            n += 1
            turn = back if whole[i, MARKS] & BEHIND else 0.0
            omega_start, omega_end = motors[slot, 0] - turn, motors[slot, 1] - turn
            w = numbers[i, SUM]
            omega += w * (0.5 * (omega_start + omega_end))
            row += w * numbers[i, ROW]
            col += w * numbers[i, COL]
            total += w
            highest = max(highest, numbers[i, MAX])
            for bound in (omega_start, omega_end):
                # A rotation that never came makes the extremes unknown.
                if np.isnan(bound) or bound < low:
                    low = bound
                if np.isnan(bound) or bound > high:
                    high = bound
            n_frames += frame != before
            before = frame
            n_pixels += np.int64(numbers[i, N_PIXELS])
            unknown |= whole[i, N_SATURATED] < 0
            n_saturated += whole[i, N_SATURATED]
            marks |= whole[i, MARKS]
            flags |= frames[slot, FLAGS]
        omega, row, col = omega / total, row / total, col / total
        var_row = var_col = cov_row_col = var_omega = cov_row_omega = cov_col_omega = width = 0.0
        for k in range(first, end):
            i = rows[k]
            slot = whole[i, SLOT]
            turn = back if whole[i, MARKS] & BEHIND else 0.0
            omega_start, omega_end = motors[slot, 0] - turn, motors[slot, 1] - turn
            w = numbers[i, SUM]
            d_row, d_col = numbers[i, ROW] - row, numbers[i, COL] - col
            d_omega = 0.5 * (omega_start + omega_end) - omega
            var_row += w * (numbers[i, VAR_ROW] + d_row * d_row)
            var_col += w * (numbers[i, VAR_COL] + d_col * d_col)
            cov_row_col += w * (numbers[i, COV] + d_row * d_col)
            var_omega += w * (d_omega * d_omega)
            cov_row_omega += w * (d_row * d_omega)
            cov_col_omega += w * (d_col * d_omega)
            span = omega_end - omega_start
            width += w * (span * span)
        long[0, t] = name
        long[1, t] = frames[whole[one, SLOT], FRAME]
        long[2, t] = before
        long[3, t] = n_pixels
        # One unknown full scale makes all unknown: -1 of every peak, not a sum of them.
        long[4, t] = -1 if unknown else n_saturated
        counts[0, t] = end - first
        counts[1, t] = n_frames
        told[0, t] = marks & ON_EDGE > 0
        told[1, t] = marks & WRAPS > 0
        told[2, t] = marks & ON_MASK > 0
        told[3, t] = flags & 1 > 0
        told[4, t] = flags & 2 > 0
        sums[0, t] = omega
        sums[1, t] = low
        sums[2, t] = high
        sums[3, t] = high - low
        sums[4, t] = row
        sums[5, t] = col
        sums[6, t] = total
        sums[7, t] = highest
        sums[8, t] = var_row / total
        sums[9, t] = var_col / total
        sums[10, t] = cov_row_col / total
        sums[11, t] = var_omega / total
        sums[12, t] = cov_row_omega / total
        sums[13, t] = cov_col_omega / total
        # Sheppard's correction: a frame gathers what lies within its width s, which adds s^2 / 12 to the variance.
        narrow = var_omega / total - width / total / 12
        sums[14, t] = np.sqrt(narrow) if narrow > 0 else narrow - narrow
        for motor in range(n_motors):
            mean = variance = 0.0
            for k in range(first, end):
                mean += numbers[rows[k], SUM] * motors[whole[rows[k], SLOT], 2 + motor]
            mean /= total
            for k in range(first, end):
                away = motors[whole[rows[k], SLOT], 2 + motor] - mean
                variance += numbers[rows[k], SUM] * (away * away)
            sums[15 + 2 * motor, t] = mean
            sums[16 + 2 * motor, t] = variance / total
