"""Slow twins of what cuts tracks, in plain Python."""

import math

import numpy as np


def naive_valley_cuts(intensity, row, col, member_a, member_b, distance, fraction, apart, n_sigma):
    """Cut links, with sets of members instead of a forest."""
    links = list(zip(member_a, member_b, distance, strict=True))
    spots: list[set[int]] = []

    def spot_of(i):
        return next(each for each in spots if i in each)

    def top(spot):
        return min(spot, key=lambda i: (-intensity[i], i))

    seen: set[int] = set()
    for v in sorted(range(len(intensity)), key=lambda i: (-intensity[i], i)):
        reached = [(a + b - v, d) for a, b, d in links if v in (a, b) and a != b and a + b - v in seen]
        seen.add(v)
        if not reached:
            spots.append({v})
            continue
        spot_of(min(reached, key=lambda each: each[1])[0]).add(v)
        for u, _ in reached:
            mine, other = spot_of(v), spot_of(u)
            p, q = top(mine), top(other)
            low = min(intensity[p], intensity[q])
            dip = low - intensity[v]
            away = math.sqrt((row[p] - row[q]) ** 2 + (col[p] - col[q]) ** 2)
            part = 1.0 if away >= apart else fraction + (1 - fraction) * (away / apart)
            deep = intensity[v] < part * low and dip > n_sigma * math.sqrt(low + intensity[v])
            if mine is not other and not deep:
                spots.remove(other)
                mine |= other
    return [spot_of(a) is not spot_of(b) for a, b, _ in links]


def naive_distance_limit(a, b, by_size, by_width):
    """Limit for one pair of peaks (row, column, pixels, and the three variances)."""
    down, right = b[0] - a[0], b[1] - a[1]
    square, width = down * down + right * right, 0.0
    # The square of a distance may be too small for a number where the distance is not.
    if square > 0:
        along = [p[3] * down * down + p[4] * right * right + 2 * p[5] * down * right for p in (a, b)]
        width = math.sqrt(max(*along, 0) / square)
    return by_size * (max(a[2], b[2]) / min(a[2], b[2])) + by_width * width


def naive_weight(a, b, shared, least, far, by_size, by_width, low):
    """Reason, score and distance of one pair of peaks (row, column, pixels, and the three variances)."""
    score, distance = shared / min(a[2], b[2]), float(np.hypot(a[0] - b[0], a[1] - b[1]))
    too_far = distance > far or (by_size < math.inf and distance > naive_distance_limit(a, b, by_size, by_width))
    reasons = [k for k, bad in ((1, shared < least), (2, too_far), (3, score < low)) if bad]
    return min(reasons, default=0), score, distance
