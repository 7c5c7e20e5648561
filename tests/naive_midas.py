"""Slow, obvious twins of MIDAS's two link rules, and of what its programs make of them."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peak:
    row: float
    col: float
    radius: float
    eta: float
    intensity: float = 100.0
    pixels: list = field(default_factory=list)  # (row, col)


def by_angle(frame):
    """The peaks of a frame that are kept, in the order in which they are asked."""
    return sorted((i for i, peak in enumerate(frame) if peak.intensity >= 1), key=lambda i: frame[i].eta)


def distance_of(p, q):
    return math.sqrt((p.col - q.col) ** 2 + (p.row - q.row) ** 2)


def naive_distance(a, order, b, margin, *, port=False):
    """{peak of a: peak of b}; port: of equally near ones the lowest angle, as MIDAS's Python port has it."""
    ranks = {j: rank for rank, j in enumerate(by_angle(b))}
    free_a, free_b, partner = set(order), set(ranks), {}

    def square(j):
        return math.floor(b[j].col / margin), math.floor(b[j].row / margin)

    for i in order:
        near = [
            (distance_of(a[i], b[j]), *((0, 0, ranks[j]) if port else (*square(j), -ranks[j])), j)
            for j in free_b
            if distance_of(a[i], b[j]) < margin and abs(a[i].radius - b[j].radius) <= margin
        ]
        if not near:
            continue
        least, *_, j = min(near)
        if any(distance_of(a[k], b[j]) < least and abs(a[k].radius - b[j].radius) <= margin for k in free_a):
            continue
        partner[i] = j
        free_a.remove(i)
        free_b.remove(j)
    return partner


def naive_overlap(a, order, b, *, as_midas=False, port=False):
    """{peak of a: peak of b}; as_midas: comparing the pixels that MIDAS's program in C compares.

    It keeps the lists of pixels in the order of its file, and takes them by the places of the open spots and of the
    peaks by angle, from which faint ones are missing. port: of those with as many pixels, the first in order, as
    MIDAS's Python port has it.
    """
    asked = by_angle(b)
    lists_a = [peak.pixels for peak in a] if as_midas else [a[i].pixels for i in order]
    lists_b = [peak.pixels for peak in b] if as_midas else [b[j].pixels for j in asked]
    painted = {pixel: place for place, pixels in enumerate(lists_a) for pixel in pixels}
    wanted = {}
    for number, pixels in enumerate(lists_b[: len(asked)]):
        counts, best, most = {}, -1, 0
        for pixel in pixels:
            if pixel in painted:
                place = painted[pixel]
                counts[place] = counts.get(place, 0) + 1
                if counts[place] > most or (port and counts[place] == most and place < best):
                    best, most = place, counts[place]
        if 0 <= best < len(order):
            wanted.setdefault(best, []).append((-most, number))
    return {order[place]: asked[min(numbers)[1]] for place, numbers in wanted.items()}


def naive_next_order(order, partner, b):
    taken = [partner[i] for i in order if i in partner]
    return taken + [j for j in by_angle(b) if j not in taken]


def naive_spots(frames, rule):
    """Sets of (frame, peak), linked by rule(a, order, b)."""
    spots, order = {}, []
    for number, b in enumerate(frames):
        a = frames[number - 1] if number else []
        partner = rule(a, order, b)
        order = naive_next_order(order, partner, b)
        before = {j: i for i, j in partner.items()}
        for j in order:
            spot = spots[number - 1, before[j]] if j in before else []
            spot.append((number, j))
            spots[number, j] = spot
    return {frozenset(spot) for spot in spots.values()}
