"""Numba kernels of filters and local levels: validated by their callers, preallocated output, nothing else here."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

Array = NDArray[Any]


@compiled()
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


@compiled()
def _counts(value: Any, sentinels: Array) -> bool:
    """Tell whether a raw value is a number and no sentinel."""
    for s in sentinels:
        if value == s:
            return False
    return np.isfinite(value)


@compiled()
def _middle(values: Array) -> Any:
    """Return the median, but for 2^-10 of twice the mean above the lowest value.

    Half of the values lie within twice the mean above the lowest, so halving that range finds it: a start for what
    follows, at a third of the cost of selecting.
    """
    low = values.min()
    total = 0.0
    for value in values:
        total += value - low
    width = 2.0 * total / len(values)
    for _ in range(10):
        width *= 0.5
        middle = low + width
        below = 0
        for value in values:
            below += value <= middle
        if 2 * below < len(values):
            low = middle
    return low + width


@compiled()
def zone_levels(
    raw: Array,
    dark: Array,
    sentinels: Array,
    place: Array,
    start: Array,
    fewest: int,
    cycles: int,
    noise: float,
    values: Array,
    level: Array,
    sigma: Array,
) -> None:
    """Write level and standard deviation of each zone's sample, without what stands out; NaN if fewer count.

    raw and dark are flat (dark may be one number); zone k's sample is ``place[start[k]:start[k + 1]]``, values has room
    for the largest. Sums run in the order of the sample.
    """
    for k in range(len(start) - 1):
        n = 0
        for i in range(start[k], start[k + 1]):
            p = place[i]
            if _counts(raw[p], sentinels):
                values[n] = raw[p] - (dark[p] if len(dark) > 1 else dark[0])
                n += 1
        level[k] = np.nan
        sigma[k] = np.nan
        if n < fewest:
            continue
        centre = _middle(values[:n])
        # Spots only ever add counts, so the first width is that of the lower half.
        total = 0.0
        for i in range(n):
            if values[i] < centre:
                total += (centre - values[i]) * (centre - values[i])
        variance = 2.0 * total / n
        kept = n
        for _ in range(cycles):
            # Chauvenet's limit, nearly: beyond it less than one of `kept` normal values is expected.
            limit = math.sqrt(2.0 * math.log(kept / math.sqrt(2.0 * math.pi))) * math.sqrt(variance + noise * noise)
            inside = 0
            total = 0.0
            square = 0.0
            for i in range(n):
                d = values[i] - centre
                if abs(d) <= limit:
                    inside += 1
                    total += d
                    square += d * d
            if inside < fewest:
                break
            mean = total / inside
            variance = max(square / inside - mean * mean, 0.0)
            centre += mean
            if inside == kept:
                break
            kept = inside
        level[k] = centre
        sigma[k] = math.sqrt(variance)


@compiled()
def lit_by_zone(
    raw: Array,
    dark: Array,
    sentinels: Array,
    zone: Array,
    level: Array,
    cut: Array,
    row: Array,
    col: Array,
    below: Array,
) -> int:
    """Find pixels above dark and the cut of their zone, in raster order; return how many, though len(row) are kept.

    below is what lies below a pixel: dark and level. dark has one pixel if it is one number.
    """
    n = 0
    one = dark.size == 1
    for r in range(raw.shape[0]):
        for c in range(raw.shape[1]):
            under = dark[0, 0] if one else dark[r, c]
            k = zone[r, c]
            if raw[r, c] - under > cut[k] and _counts(raw[r, c], sentinels):
                if n < len(row):
                    row[n] = r
                    col[n] = c
                    below[n] = level[k] + under
                n += 1
    return n


@compiled()
def lit_by_tile(
    raw: Array,
    dark: Array,
    sentinels: Array,
    zone: Array,
    n_zones: int,
    size: int,
    level: Array,
    cut: Array,
    row: Array,
    col: Array,
    below: Array,
) -> int:
    """As `lit_by_zone`, with level and cut interpolated linearly between the centres of square tiles of size pixels.

    Pixels of zone n_zones are masked.
    """
    n = 0
    one = dark.size == 1
    n_rows, n_cols = level.shape
    levels = np.empty(n_cols)
    cuts = np.empty(n_cols)
    for r in range(raw.shape[0]):
        at = min(max((r + 0.5) / size - 0.5, 0.0), n_rows - 1.0)
        i = int(at)
        j = min(i + 1, n_rows - 1)
        for t in range(n_cols):
            levels[t] = level[i, t] + (at - i) * (level[j, t] - level[i, t])
            cuts[t] = cut[i, t] + (at - i) * (cut[j, t] - cut[i, t])
        # From the middle of one tile to that of the next the cut is a line.
        for t in range(-1, n_cols):
            a, b = max(t, 0), min(t + 1, n_cols - 1)
            rise = (cuts[b] - cuts[a]) / size
            first = max(t * size + size // 2, 0)
            last = min(first + size if t >= 0 else size // 2, raw.shape[1])
            base = cuts[a] - rise * (t * size + 0.5 * size - 0.5)
            found = False
            for c in range(first, last):
                found |= raw[r, c] - (dark[0, 0] if one else dark[r, c]) > base + rise * c
            if not found:
                continue
            climb = (levels[b] - levels[a]) / size
            foot = levels[a] - climb * (t * size + 0.5 * size - 0.5)
            for c in range(first, last):
                under = dark[0, 0] if one else dark[r, c]
                if raw[r, c] - under > base + rise * c and zone[r, c] < n_zones and _counts(raw[r, c], sentinels):
                    if n < len(row):
                        row[n] = r
                        col[n] = c
                        below[n] = foot + climb * c + under
                    n += 1
    return n
