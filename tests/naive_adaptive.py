"""Slow, obvious twin of the noise-adaptive lit finder: plain Python, pixel by pixel."""

import math
from collections import Counter
from typing import Any

import numpy as np
from scipy import ndimage

FEWEST, SAMPLE = 16, 256


def ring_numbers(shape, centre, valid, n_bins):
    radius = {
        (r, c): math.sqrt((r - centre[0]) * (r - centre[0]) + (c - centre[1]) * (c - centre[1]))
        for r in range(shape[0]) for c in range(shape[1])
    }  # fmt: skip
    known = [radius[p] for p in valid]
    if not known:
        return {}
    width = (max(known) - min(known)) / n_bins if max(known) > min(known) else 1.0
    narrow = {p: min(int((radius[p] - min(known)) / width), n_bins - 1) for p in valid}
    count = Counter(narrow.values())
    wide: list[list[int]] = [[]]
    for k in range(n_bins):
        if sum(count[j] for j in wide[-1]) >= FEWEST:
            wide.append([])
        wide[-1].append(k)
    if len(wide) > 1 and sum(count[j] for j in wide[-1]) < FEWEST:
        last = wide.pop()
        wide[-1] += last
    number = {k: ring for ring, ks in enumerate(wide) for k in ks}
    return {p: number[k] for p, k in narrow.items()}


def level_of(values, cycles, noise):
    """Level and standard deviation of one sample."""
    if len(values) < FEWEST:
        return math.nan, math.nan
    low, total = min(values), 0.0
    for each in values:
        total += each - low
    width = 2.0 * total / len(values)
    for _ in range(10):
        width /= 2
        if 2 * sum(each <= low + width for each in values) < len(values):
            low += width
    centre, total, kept = low + width, 0.0, len(values)
    for each in values:
        if each < centre:
            total += (centre - each) * (centre - each)
    variance = 2.0 * total / len(values)
    for _ in range(cycles):
        limit = math.sqrt(2.0 * math.log(kept / math.sqrt(2.0 * math.pi))) * math.sqrt(variance + noise * noise)
        inside = [each - centre for each in values if abs(each - centre) <= limit]
        if len(inside) < FEWEST:
            break
        total = square = 0.0
        for each in inside:
            total += each
            square += each * each
        mean = total / len(inside)
        variance = max(square / len(inside) - mean * mean, 0.0)
        centre += mean
        if len(inside) == kept:
            break
        kept = len(inside)
    return centre, math.sqrt(variance)


def between(tiles, size, r, c):
    """Interpolate between the centres of tiles: down the rows first, then along the line between two columns."""
    at = min(max((r + 0.5) / size - 0.5, 0.0), len(tiles) - 1.0)
    i = int(at)
    line = [a + (at - i) * (b - a) for a, b in zip(tiles[i], tiles[min(i + 1, len(tiles) - 1)], strict=True)]
    t = (c - size // 2) // size
    a, b = max(t, 0), min(t + 1, len(line) - 1)
    rise = (line[b] - line[a]) / size
    return line[a] - rise * (t * size + 0.5 * size - 0.5) + rise * c


def naive_adaptive(image, *, n_sigma, beam_centre, n_bins, window, cycles, noise, min_counts, invalid, sentinels, dark):
    """(row, col) to (raw, intensity), in raster order; and the level."""
    shape = image.shape
    raw = {(r, c): v for r, line in enumerate(image.tolist()) for c, v in enumerate(line)}
    under = {p: 0.0 if dark is None or (invalid is not None and invalid[p]) else float(dark[p]) for p in raw}
    valid = [p for p in raw if invalid is None or not invalid[p]]
    n_tiles = (math.ceil(shape[0] / window), math.ceil(shape[1] / window))
    if beam_centre is None:
        zone = {(r, c): r // window * n_tiles[1] + c // window for r, c in valid}
        n = n_tiles[0] * n_tiles[1]
    else:
        zone = ring_numbers(shape, beam_centre, valid, n_bins)
        n = max(zone.values(), default=0) + 1
    level, cut, weight = [], [], []
    for k in range(n):
        all_of_zone = [p for p in valid if zone[p] == k]
        weight.append(float(len(all_of_zone)))
        sample = all_of_zone[:: max(1, math.ceil(len(all_of_zone) / SAMPLE))]
        good = [p for p in sample if math.isfinite(raw[p]) and raw[p] not in sentinels]
        mean, sigma = level_of([raw[p] - under[p] for p in good], cycles, noise)
        level.append(mean)
        cut.append(mean + max(n_sigma * math.sqrt(sigma * sigma + noise * noise), min_counts))
    levels = cuts = []
    if beam_centre is None:
        places = np.arange(n).reshape(n_tiles)
        empty = np.isnan(level).reshape(n_tiles)
        if empty.any() and not empty.all():
            places = places[tuple(ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True))]
        tiles: Any = places.tolist()
        levels, cuts = ([[each[k] for k in line] for line in tiles] for each in (level, cut))
    lit = {}
    for p in valid:
        mine, limit = (
            (level[zone[p]], cut[zone[p]]) if beam_centre is not None
            else (between(levels, window, *p), between(cuts, window, *p))
        )  # fmt: skip
        if math.isfinite(raw[p]) and raw[p] not in sentinels and raw[p] - under[p] > limit:
            lit[p] = (float(raw[p]), max(float(raw[p]) - (mine + under[p]), 2.0**-10))
    total = seen = dark_total = 0.0
    for mean, count in zip(level, weight, strict=True):
        if not math.isnan(mean):
            total, seen = total + mean * count, seen + count
    for p in valid:
        dark_total += under[p]
    if not seen:
        return lit, math.nan
    return lit, (dark_total / len(valid) if dark is not None else 0.0) + total / seen
