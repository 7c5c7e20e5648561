"""Slow, obvious twins of corrections and medians: plain Python, one pixel at a time."""

import math

import numpy as np


def naive_transformed(image, transforms):
    """MIDAS ImTransOpt, each done as its own copy, in order."""
    lines = np.asarray(image).tolist()
    for each in transforms:
        if each == 1:
            lines = [line[::-1] for line in lines]
        elif each == 2:
            lines = lines[::-1]
        elif each == 3:
            lines = [list(column) for column in zip(*lines, strict=True)]
    return lines


def naive_invalid(shape, transforms, mask=None, flat=None, panels=()):
    """True where a pixel of the transformed frame is never lit."""
    good = [[True] * shape[1] for _ in range(shape[0])]
    for r in range(shape[0]):
        for c in range(shape[1]):
            if mask is not None and mask[r, c] != 0:
                good[r][c] = False
            if flat is not None and not (math.isfinite(flat[r, c]) and flat[r, c] > 0):
                good[r][c] = False
    turned = naive_transformed(np.array(good), transforms)
    for r, line in enumerate(turned):
        for c, valid in enumerate(line):
            inside = not panels or any(a <= r < b and d <= c < e for a, b, d, e in panels)
            turned[r][c] = not (valid and inside)
    return turned


def naive_edge(shape, panels):
    return [
        [
            any(a <= r < b and d <= c < e and (r in (a, b - 1) or c in (d, e - 1)) for a, b, d, e in panels)
            for c in range(shape[1])
        ]
        for r in range(shape[0])
    ]


def naive_lit(raws, invalid, background, threshold, flat=None):
    """(row, col) to intensity of the lit pixels; everything in the transformed orientation, in lists."""
    lit = {}
    for r, line in enumerate(raws):
        for c, raw in enumerate(line):
            response = 1.0 if flat is None else flat[r][c]
            if not invalid[r][c] and raw > math.floor(background[r][c] + threshold * response):
                above = raw - background[r][c]
                lit[r, c] = above if flat is None else above / response
    return lit


def naive_median(frames):
    """The median of each pixel's numbers, NaN left out; NaN where there is none."""
    rows, cols = frames[0].shape
    median = np.full((rows, cols), np.nan)
    for r in range(rows):
        for c in range(cols):
            values = sorted(float(frame[r, c]) for frame in frames if not math.isnan(frame[r, c]))
            if values:
                median[r, c] = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
    return median


def naive_running(start, frames, step=1.0, every=1, invalid=None):
    """The background after all frames: one step towards each, and never beyond it."""
    background = np.asarray(start, float).tolist()
    for number, frame in enumerate(frames, 1):
        for r, line in enumerate(background):
            for c, old in enumerate(line):
                value = float(frame[r, c])
                if number % every or math.isnan(value):
                    continue
                if value > old + step:
                    line[c] = old + step
                elif value < old - step:
                    line[c] = old - step
                else:
                    line[c] = value
    return np.where(False if invalid is None else invalid != 0, np.nan, background)
