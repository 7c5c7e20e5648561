"""Slow twins of what cuts tracks, in plain Python."""

import math


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
