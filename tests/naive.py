"""Slow, obvious twins of what streaming does: plain Python, no numba, nothing shared but the names of the columns.

Sums run in the order that the package promises (raster order within a peak, relative to its first pixel; order of
(frame, peak) within a track), so that a twin must be equal, not close.
"""

import math
from collections import deque
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from hedmlive.streaming import TABLES, Frame, Recipe, SparseImage

Pixel = tuple[int, int]
Lit = dict[Pixel, tuple[float, float]]
"""(row, col) to (raw, intensity), in raster order."""
Row = dict[str, Any]


class Found(NamedTuple):
    """What there is in one frame."""

    row: Row
    peaks: list[Row]
    groups: list[list[Pixel]]
    lit: Lit


def naive_lit(image, recipe: Recipe, dark=None, mask=None, flat=None) -> Lit:
    lit: Lit = {}
    raws = (image.dense() if isinstance(image, SparseImage) else np.asarray(image)).tolist()
    whole = image.dtype.kind != "f"
    for r, line in enumerate(raws):
        for c, raw in enumerate(line):
            background = recipe.background_level if dark is None else float(dark[r, c])
            response = 1.0 if flat is None else float(flat[r, c])
            cut = background + recipe.threshold * response
            if whole:
                cut = math.floor(cut)
            valid = (mask is None or mask[r, c] == 0) and raw not in recipe.sentinels and math.isfinite(raw)
            if valid and response > 0 and raw > cut:
                lit[r, c] = (float(raw), (float(raw) - background) / response)
    return lit


def neighbours(pixel: Pixel) -> list[Pixel]:
    r, c = pixel
    return [(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1) if (dr, dc) != (0, 0)]


def naive_groups(lit: Lit) -> list[list[Pixel]]:
    """8-connected groups by flood fill, by first pixel; the pixels of each in raster order."""
    groups: list[list[Pixel]] = []
    done: set[Pixel] = set()
    for seed in sorted(lit):
        if seed in done:
            continue
        group, front = {seed}, deque([seed])
        while front:
            for near in neighbours(front.popleft()):
                if near in lit and near not in group:
                    group.add(near)
                    front.append(near)
        done |= group
        groups.append(sorted(group))
    return groups


def is_maximum(lit: Lit, pixel: Pixel) -> bool:
    """No 8-neighbour exceeds it; of equals the first in raster order wins."""
    mine = lit[pixel][1]
    for near in neighbours(pixel):
        if near in lit and (lit[near][1] > mine or (lit[near][1] == mine and near < pixel)):
            return False
    return True


def naive_smooth(lit: Lit) -> dict[Pixel, float]:
    """3 x 3 weights 1 2 4 / 16, unlit pixels 0, in float32: a sixteenth of the pixel, then all nine in raster order."""
    weights = {(dr, dc): 2 ** (2 - abs(dr) - abs(dc)) - (dr == dc == 0) for dr in (-1, 0, 1) for dc in (-1, 0, 1)}
    smoothed: dict[Pixel, float] = {}
    for r, c in lit:
        total = np.float32(lit[r, c][1]) * np.float32(1 / 16)
        for (dr, dc), weight in weights.items():
            if (r + dr, c + dc) in lit:
                total += np.float32(lit[r + dr, c + dc][1]) * np.float32(weight / 16)
        smoothed[r, c] = float(total)
    return smoothed


def naive_climb(values: dict[Pixel, float], pixel: Pixel) -> Pixel:
    """Step to the brightest of the nine, the first in raster order of equals, until it is the pixel itself."""
    while True:
        block = sorted(near for near in [pixel, *neighbours(pixel)] if near in values)
        best = max(block, key=lambda near: values[near])  # the first of equals
        if best == pixel:
            return pixel
        pixel = best


def naive_parts(lit: Lit, groups: list[list[Pixel]], recipe: Recipe) -> list[list[Pixel]]:
    """The groups, split as the recipe says, by first pixel."""
    if recipe.split == "none":
        return groups
    values = naive_smooth(lit) if recipe.smooth else {pixel: w for pixel, (_, w) in lit.items()}
    parts: list[list[Pixel]] = []
    for group in groups:
        if recipe.split == "local-maximum":
            tops = {pixel: naive_climb(values, pixel) for pixel in group}
        else:
            seeds = [p for p in group if all(values[near] <= values[p] for near in neighbours(p) if near in values)]
            brightest = sorted(seeds, key=lambda p: (-values[p], p))[: recipe.max_maxima]
            tops = {
                (r, c): min(sorted(brightest), key=lambda seed: (seed[0] - r) ** 2 + (seed[1] - c) ** 2)
                for r, c in group
            }
        parts += [[pixel for pixel in group if tops[pixel] == top] for top in set(tops.values())]
    return sorted(parts)


def naive_peak(lit: Lit, group: list[Pixel], shape: tuple[int, ...], saturation: float | None) -> Row:
    r0, c0 = group[0]
    w_sum = wr = wc = wrr = wcc = wrc = 0.0
    brightest = group[0]
    for r, c in group:
        w, dr, dc = lit[r, c][1], float(r - r0), float(c - c0)
        w_sum += w
        wr += w * dr
        wc += w * dc
        wrr += w * dr * dr
        wcc += w * dc * dc
        wrc += w * dr * dc
        if w > lit[brightest][1]:
            brightest = (r, c)
    row, col = wr / w_sum, wc / w_sum
    rows, cols = [r for r, _ in group], [c for _, c in group]
    return {
        "n_pixels": len(group),
        "sum_intensity": w_sum,
        "max_intensity": lit[brightest][1],
        "row": r0 + row,
        "col": c0 + col,
        "row_max": brightest[0],
        "col_max": brightest[1],
        "var_row": max(wrr / w_sum - row * row, 0.0),
        "var_col": max(wcc / w_sum - col * col, 0.0),
        "cov_row_col": wrc / w_sum - row * col,
        "row_min": min(rows),
        "row_end": max(rows) + 1,
        "col_min": min(cols),
        "col_end": max(cols) + 1,
        "n_maxima": sum(is_maximum(lit, pixel) for pixel in group),
        "n_saturated": -1 if saturation is None else sum(lit[pixel][0] >= saturation for pixel in group),
        "on_edge": any(r in (0, shape[0] - 1) or c in (0, shape[1] - 1) for r, c in group),
    }


def naive_level(recipe: Recipe, shape: tuple[int, ...], dark, mask) -> float:
    if dark is None:
        return recipe.background_level
    total, n = 0.0, 0
    for r in range(shape[0]):
        for c in range(shape[1]):
            if mask is None or mask[r, c] == 0:
                total += float(dark[r, c])
                n += 1
    return total / n if n else math.nan


def naive_frame(frame: Frame, recipe: Recipe, dark=None, mask=None) -> Found:
    shape = tuple(frame.image.shape)
    lit = naive_lit(frame.image, recipe, dark, mask)
    groups = naive_groups(lit)
    large = [group for group in groups if len(group) >= recipe.min_pixels]
    kept = naive_parts(lit, large, recipe)
    peaks: list[Row] = [
        {"frame": frame.frame, "peak": k, **naive_peak(lit, group, shape, recipe.saturation), "omega": frame.omega}
        for k, group in enumerate(kept)
    ]
    full = recipe.saturation
    row = {
        **{name: frame.roles.get(name, math.nan) for name in ("L1", "L2", "energy", "dty", "monitor")},
        **{name: getattr(frame, name) for name in ("frame", "point", "seq_num", "detector")},
        **{name: getattr(frame, name) for name in ("omega_start", "omega_end", "time")},
        "n_lit": len(lit),
        "n_peaks": len(peaks),
        "n_dropped": len(groups) - len(large),
        "n_saturated": -1 if full is None else sum(raw >= full for raw, _ in lit.values()),
        "max_intensity": max((w for _, w in lit.values()), default=0.0),
        "sum_intensity": math.fsum(peak["sum_intensity"] for peak in peaks),
        "background_level": naive_level(recipe, shape, dark, mask),
    }
    return Found(row, peaks, kept, lit)


def width(frame: Frame) -> float:
    return abs(frame.omega_end - frame.omega_start)


def same_place(a: Frame, b: Frame, tolerance: float) -> bool:
    for role in ("dty", "L1", "L2"):
        x, y = a.roles.get(role, math.nan), b.roles.get(role, math.nan)
        if not (abs(x - y) <= tolerance or (math.isnan(x) and math.isnan(y))):
            return False
    return True


def are_neighbours(a: Frame, b: Frame, recipe: Recipe) -> bool:
    steps = b.frame - a.frame
    if steps > 1 + recipe.max_gap or not same_place(a, b, recipe.place_tolerance):
        return False
    if math.isnan(a.omega) or math.isnan(b.omega):
        return False
    wide = max(width(a), width(b))
    return wide == 0 or abs(b.omega - a.omega) <= (steps + 0.5) * wide


def closes_the_circle(frames: list[Frame], recipe: Recipe) -> bool:
    if not frames or not recipe.wrap:
        return False
    first, last = frames[0], frames[-1]
    steps = last.frame - first.frame
    if steps < 2 or math.isnan(first.omega) or math.isnan(last.omega):
        return False
    swept = abs(last.omega - first.omega)
    step = max(width(first), width(last)) or swept / steps
    left = 360.0 - swept
    return same_place(first, last, recipe.place_tolerance) and 0.5 * step <= left <= (1.5 + recipe.max_gap) * step


def naive_links(a: Found, b: Found, recipe: Recipe) -> list[Row]:
    links: list[Row] = []
    for peak_a, group_a in zip(a.peaks, a.groups, strict=True):
        for peak_b, group_b in zip(b.peaks, b.groups, strict=True):
            shared = len(set(group_a) & set(group_b))
            distance = float(np.hypot(peak_a["row"] - peak_b["row"], peak_a["col"] - peak_b["col"]))
            if shared < recipe.min_shared_pixels:
                continue
            if recipe.max_distance is not None and distance > recipe.max_distance:
                continue
            link = {
                "frame_a": peak_a["frame"],
                "peak_a": peak_a["peak"],
                "frame_b": peak_b["frame"],
                "peak_b": peak_b["peak"],
                "axis": 0,
                "n_shared_pixels": shared,
                "score": shared / min(len(group_a), len(group_b)),
                "distance": distance,
            }
            links.append(link)
    return links


def naive_components(peaks, links: list[Row]) -> list[list[tuple[int, int]]]:
    """Connected peaks by a search over all links, by first peak."""
    near: dict[tuple[int, int], set[tuple[int, int]]] = {peak: set() for peak in peaks}
    for link in links:
        a, b = (link["frame_a"], link["peak_a"]), (link["frame_b"], link["peak_b"])
        near[a].add(b)
        near[b].add(a)
    found: list[list[tuple[int, int]]] = []
    done: set[tuple[int, int]] = set()
    for seed in sorted(near):
        if seed in done:
            continue
        group, front = {seed}, deque([seed])
        while front:
            for other in near[front.popleft()] - group:
                group.add(other)
                front.append(other)
        done |= group
        found.append(sorted(group))
    return found


def naive_track(members: list[tuple[int, int]], peak_of, frame_of, wraps: bool, turn: float) -> Row:
    late = math.inf
    if wraps:
        # What lies after the widest gap in the frames is turned back; all the way round there is no gap.
        steps = [(b - a, b) for (a, _), (b, _) in pairwise(members)]
        widest = max(gap for gap, _ in steps)
        if widest > 1:
            late = next(b for gap, b in steps if gap == widest)
    w_sum = w_row = w_col = w_omega = 0.0
    bounds: list[float] = []
    for frame, peak in members:
        row = peak_of[frame, peak]
        back = turn if frame >= late else 0.0
        start, end = frame_of[frame].omega_start - back, frame_of[frame].omega_end - back
        w = row["sum_intensity"]
        w_row += w * row["row"]
        w_col += w * row["col"]
        w_omega += w * (0.5 * (start + end))
        w_sum += w
        bounds += [start, end]
    # One rotation that never came makes the extremes unknown, whatever Python's min and max make of a NaN.
    low, high = (math.nan, math.nan) if any(map(math.isnan, bounds)) else (min(bounds), max(bounds))
    rows = [peak_of[member] for member in members]
    return {
        "track": members[0][0] * 1_000_000 + members[0][1],
        "n_peaks": len(members),
        "n_frames": len({frame for frame, _ in members}),
        "first_frame": members[0][0],
        "last_frame": members[-1][0],
        "omega": w_omega / w_sum,
        "omega_min": low,
        "omega_max": high,
        "omega_width": high - low,
        "row": w_row / w_sum,
        "col": w_col / w_sum,
        "sum_intensity": w_sum,
        "max_intensity": max(row["max_intensity"] for row in rows),
        "n_pixels": sum(row["n_pixels"] for row in rows),
        "n_saturated": -1 if rows[0]["n_saturated"] < 0 else sum(row["n_saturated"] for row in rows),
        "on_edge": any(row["on_edge"] for row in rows),
        "wraps": wraps,
    }


def naive_reduce(frames: list[Frame], recipe: Recipe, dark=None, mask=None) -> dict[str, dict[str, np.ndarray]]:
    """The whole reduction at once, every table in the order of its key."""
    done = [naive_frame(frame, recipe, dark, mask) for frame in frames]
    links: list[Row] = []
    for (a, found_a), (b, found_b) in pairwise(zip(frames, done, strict=True)):
        if are_neighbours(a, b, recipe):
            links += naive_links(found_a, found_b, recipe)
    wrap_links = naive_links(done[-1], done[0], recipe) if closes_the_circle(frames, recipe) else []
    turn = 360.0 * float(np.sign(frames[-1].omega - frames[0].omega)) if wrap_links else 0.0
    peak_of = {(peak["frame"], peak["peak"]): peak for found in done for peak in found.peaks}
    frame_of = {frame.frame: frame for frame in frames}
    over_the_end = {(link["frame_a"], link["peak_a"]) for link in wrap_links}
    components = naive_components(peak_of, links + wrap_links)
    tracks = [naive_track(each, peak_of, frame_of, bool(over_the_end & set(each)), turn) for each in components]
    rows: dict[str, list[Row]] = {
        "frames": [found.row for found in done],
        "peaks": [peak for found in done for peak in found.peaks],
        "links": links + wrap_links,
        "tracks": tracks,
        "members": [
            {"track": track["track"], "frame": frame, "peak": peak}
            for track, each in zip(tracks, components, strict=True)
            for frame, peak in each
        ],
        "pixels": [
            {"frame": found.row["frame"], "peak": k, "row": r, "col": c, "intensity": found.lit[r, c][0]}
            for found in done
            for k, group in enumerate(found.groups)
            for r, c in group
        ],
    }
    return {name: _columns(name, rows[name]) for name in rows}


def _columns(name: str, rows: list[Row]) -> dict[str, np.ndarray]:
    schema = TABLES[name]
    rows = sorted(rows, key=lambda row: tuple(row[key] for key in schema.key))
    return {c.name: np.array([row[c.name] for row in rows], c.dtype) for c in schema.columns}
