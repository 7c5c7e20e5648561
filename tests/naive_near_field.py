"""Slow, obvious twin of the near-field lit finder: plain Python and exact fractions."""

import math
from fractions import Fraction

from naive import naive_groups, neighbours

STEP = 2**18


def bell(sigma):
    """Whole-number weights, in units of 1 / STEP: of a Gaussian and of its second derivative."""
    radius = int(4 * sigma + 0.5)
    x = range(-radius, radius + 1)
    raw = [math.exp(-0.5 * (i / sigma) ** 2) for i in x]
    raw = [each / math.fsum(raw) for each in raw]
    smooth = [round(each * STEP) for each in raw]
    curved = [round(each * (i * i - sigma * sigma) / sigma**4 * STEP) for i, each in zip(x, raw, strict=True)]
    smooth[radius] += STEP - sum(smooth)
    curved[radius] -= sum(curved)
    return dict(zip(x, smooth, strict=True)), dict(zip(x, curved, strict=True))


def convolved(image, rows, cols):
    """image: {(row, col): Fraction}, 0 elsewhere."""
    return {
        (r, c): sum((v * rows.get(r - i, 0) * cols.get(c - j, 0) for (i, j), v in image.items() if v), Fraction(0))
        / STEP**2
        for r, c in image
    }


def median_of_blocks(image):
    return {
        pixel: v if any(n not in image for n in neighbours(pixel))
        else sorted([v, *(image[n] for n in neighbours(pixel))])[4]
        for pixel, v in image.items()
    }  # fmt: skip


def with_holes(region, image):
    outside = [p for p in image if p not in region and any(n not in image for n in neighbours(p))]
    seen = set(outside)
    for r, c in outside:
        for near in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            if near in image and near not in region and near not in seen:
                seen.add(near)
                outside.append(near)
    return {p for p in image if p not in seen}


def region_of(smooth, threshold, kind, sigmas):
    if kind == "none":
        return {p for p, v in smooth.items() if v > threshold}
    if kind == "gaussian":
        rows, _ = bell(sigmas[0])
        return {p for p, v in convolved(smooth, rows, rows).items() if v > threshold}
    excess = {p: max(v - threshold, Fraction(0)) for p, v in smooth.items()}
    lit = set()
    for sigma in sigmas:
        smoothing, curved = bell(sigma)
        a, b = convolved(excess, smoothing, curved), convolved(excess, curved, smoothing)
        lit |= {p for p in excess if a[p] + b[p] < 0}
    return lit


def naive_near_field(
    image,
    threshold,
    background,
    invalid,
    sentinels,
    *,
    filter,  # noqa: A002
    sigma,
    medians,
    rim,
    fill_holes,
    fraction,
):
    """(row, col) to (raw, intensity), in raster order."""
    raw = {(r, c): v for r, line in enumerate(image.tolist()) for c, v in enumerate(line)}
    level = {p: float(background[p]) if hasattr(background, "shape") else background for p in raw}
    counts = {
        p for p, v in raw.items()
        if math.isfinite(v) and v not in sentinels and (invalid is None or not invalid[p])
    }  # fmt: skip
    residual = {p: Fraction(v) - Fraction(level[p]) if p in counts else Fraction(0) for p, v in raw.items()}
    smooth, threshold = residual, Fraction(threshold)
    for _ in range(medians):
        smooth = median_of_blocks(smooth)
    region = region_of(smooth, threshold, filter, sigma if isinstance(sigma, tuple) else (sigma,))
    region = {p for p in raw if any(abs(p[0] - q[0]) <= rim and abs(p[1] - q[1]) <= rim for q in region)}
    if fill_holes:
        region = with_holes(region, raw)
    if fraction:
        kept = set()
        for group in naive_groups(dict.fromkeys(region, (0.0, 0.0))):
            height = max(smooth[p] for p in group)
            if height > threshold:
                kept |= {p for p in group if residual[p] > max(fraction * float(height), 1)}
        region = kept
    elif filter == "log":
        region = {p for p in region if smooth[p] > threshold}
    return {p: (float(raw[p]), max(float(residual[p]), 2.0**-10)) for p in sorted(region & counts)}
