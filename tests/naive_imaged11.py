"""Slow, obvious twin of how ImageD11 links the peaks of its table (``sinograms/properties.py``)."""

import itertools

TOLERANCE = 0.051  # degrees between frames of neighbouring rows; the program knows no other


def pairs_in_row(omega, frames):
    """Frames next to each other in omega as it stands, however far apart; an empty frame has no pair."""
    order = sorted(range(len(omega)), key=lambda j: omega[j])
    return [(i, j) for i, j in itertools.pairwise(order) if frames[i] and frames[j]]


def pairs_of_rows(omega_a, frames_a, omega_b, frames_b):
    """Each frame of a and that of b which is nearest modulo 360, measured as if 359 and 1 were 358 apart."""
    pairs = []
    for i, omega in enumerate(omega_a):
        away = [abs(omega % 360 - other % 360) for other in omega_b]
        j = away.index(min(away))
        if away[j] <= TOLERANCE and frames_a[i] and frames_b[j]:
            pairs.append((i, j))
    return pairs


def naive_objects(rows):
    """Sets of (row, frame, peak) of a scan: rows of (omega of each frame, {pixel: peak} of each frame)."""
    edges, peaks = [], []

    def join(row_a, a, row_b, b):
        one, other = rows[row_a][1][a], rows[row_b][1][b]
        edges.extend(((row_a, a, one[pixel]), (row_b, b, other[pixel])) for pixel in one.keys() & other.keys())

    for row, (omega, frames) in enumerate(rows):
        peaks += [(row, j, peak) for j, frame in enumerate(frames) for peak in set(frame.values())]
        for a, b in pairs_in_row(omega, frames):
            join(row, a, row, b)
        if row:
            for a, b in pairs_of_rows(omega, frames, *rows[row - 1]):
                join(row, a, row - 1, b)
    objects = {peak: {peak} for peak in peaks}
    for a, b in edges:
        if objects[a] is not objects[b]:
            objects[a] |= objects[b]
            for peak in objects[b]:
                objects[peak] = objects[a]
    return {frozenset(one) for one in objects.values()}
