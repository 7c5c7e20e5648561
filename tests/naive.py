"""Slow, obvious twins of what streaming does: plain Python, no numba, nothing shared but the names of the columns.

Sums run in the order that the package promises (raster order within a peak, relative to its first pixel; order of
(frame, peak) within a track), so that a twin must be equal, not close.
"""

import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from naive_links import naive_distance_limit, naive_valley_cuts

from hedmlive.streaming import Frame, Recipe, SparseImage, Table, tables_with_roles

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


def beside_a_masked_one(group, mask) -> bool:
    if mask is None:
        return False
    rows, cols = mask.shape
    near = {(r + i, c + j) for r, c in group for i in (-1, 0, 1) for j in (-1, 0, 1)}
    return any(0 <= r < rows and 0 <= c < cols and mask[r, c] != 0 for r, c in near)


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
        {
            "frame": frame.frame,
            "peak": k,
            **naive_peak(lit, group, shape, recipe.saturation),
            "omega": frame.omega,
            "on_mask": beside_a_masked_one(group, mask),
        }
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
    """Frames in the order of their numbers, as no frame between them came."""
    if not same_place(a, b, recipe.place_tolerance) or math.isnan(a.omega) or math.isnan(b.omega):
        return False
    wide = max(width(a), width(b))
    return wide == 0 or abs(b.omega - a.omega) <= (b.frame - a.frame + 0.5) * wide


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


@dataclass
class NaiveAxis:
    """One motor of a plan: where each frame is on it."""

    name: str
    at: dict[int, float]
    linked: bool = True
    tolerance: float = 1e-3
    reach: float | None = None
    period: float | None = None


@dataclass
class Neighbours:
    """What a trajectory comes to: who follows whom, and where each frame lies on the circle."""

    after: list[dict[int, int]]
    level: dict[int, int]
    turn: dict[int, float]
    sense: float
    names: list[str]
    in_order: bool = False


def naive_median(values: list[float]) -> float:
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def folded(axis: NaiveAxis) -> tuple[dict[int, float], dict[int, int], dict[int, float], float, float]:
    """Distance ahead of the first frame, rank, whole turns, sense and reach of one axis."""
    numbers = sorted(axis.at)
    moves: list[float] = []
    for a, b in pairwise(numbers):
        move = axis.at[b] - axis.at[a]
        if axis.period is not None:
            move -= axis.period * round(move / axis.period)
        if abs(move) > axis.tolerance:
            moves.append(move)
    sense = float(np.sign(naive_median(moves))) if moves else 1.0
    sense = sense or 1.0
    reach = axis.reach if axis.reach is not None else 1.5 * (naive_median([abs(m) for m in moves]) if moves else 0.0)
    ahead: dict[int, float] = {}
    turn: dict[int, float] = {}
    for number in numbers:
        whole = sense * (axis.at[number] - axis.at[numbers[0]])
        fold = whole
        if axis.period is not None:
            fold = whole % axis.period
            if fold >= axis.period - min(axis.tolerance, axis.period / 4):
                fold -= axis.period
        ahead[number] = fold
        turn[number] = sense * round((whole - fold) / (axis.period or 1.0)) * (axis.period or 0.0)
    level: dict[int, int] = {}
    rank, before = 0, None
    for number in sorted(numbers, key=lambda each: ahead[each]):
        if before is not None and ahead[number] - ahead[before] > axis.tolerance:
            rank += 1
        level[number], before = (0 if math.isinf(axis.tolerance) else rank), number
    return ahead, level, turn, sense, reach


def planned_neighbours(axes: list[NaiveAxis], pairs: list[tuple[int, int]]) -> Neighbours:
    """Who follows whom along each linked axis when no frame is missing."""
    placed = {axis.name: folded(axis) for axis in axes}
    numbers = sorted(axes[0].at)
    chains: list[dict[int, int]] = []
    for axis in axes:
        if not axis.linked:
            continue
        ahead, level, _, _, reach = placed[axis.name]
        lines: dict[tuple[int, ...], list[int]] = {}
        for number in numbers:
            others = tuple(placed[each.name][1][number] for each in axes if each is not axis)
            lines.setdefault(others, []).append(number)
        after: dict[int, int] = {}
        for line in lines.values():
            line.sort(key=lambda number: (level[number], number))
            after |= {a: b for a, b in pairwise(line) if ahead[b] - ahead[a] <= reach}
            first, last = line[0], line[-1]
            if axis.period is not None and len(line) > 2 and axis.period - ahead[last] + ahead[first] <= reach:
                after[last] = first
        chains.append(after)
    chains += [{a: b} for a, b in dict.fromkeys(pairs)]
    names = [axis.name for axis in axes if axis.linked] + ["virtual"] * len(dict.fromkeys(pairs))
    still = dict.fromkeys(numbers, 0)
    _, level, turn, sense, _ = placed.get("omega", ({}, still, still, 1.0, 0.0))
    return Neighbours(chains, level, dict(turn), sense, names)


def in_order(frames: list[Frame], recipe: Recipe) -> Neighbours:
    numbers = [frame.frame for frame in frames]
    upto = range(numbers[-1]) if numbers else range(0)
    sense = float(np.nan_to_num(np.sign(frames[-1].omega - frames[0].omega))) if frames else 0.0
    still = dict.fromkeys(numbers, 0.0)
    return Neighbours([{n: n + 1 for n in upto}], {n: n for n in numbers}, still, sense, ["omega"], in_order=True)


def next_here(after: dict[int, int], frame: int, here: set[int], max_gap: int) -> int | None:
    at = frame
    for _ in range(1 + max_gap):
        at = after.get(at)
        if at is None or at == frame:
            return None
        if at in here:
            return at
    return None


def too_far(a: Row, b: Row, distance: float, recipe: Recipe) -> bool:
    if recipe.max_distance is not None and distance > recipe.max_distance:
        return True
    if recipe.max_distance_by_size is None:
        return False
    shape_a, shape_b = (
        [peak[name] for name in ("row", "col", "n_pixels", "var_row", "var_col", "cov_row_col")] for peak in (a, b)
    )
    by_size, by_width = recipe.max_distance_by_size, recipe.max_distance_by_width
    return distance > naive_distance_limit(shape_a, shape_b, by_size, by_width)


def naive_links(a: Found, b: Found, recipe: Recipe, axis: int = 0) -> list[Row]:
    """Every candidate of two frames, with the reason why it is no link (0 if it is one)."""
    found: list[Row] = []
    for peak_a, group_a in zip(a.peaks, a.groups, strict=True):
        for peak_b, group_b in zip(b.peaks, b.groups, strict=True):
            shared = len(set(group_a) & set(group_b))
            distance = float(np.hypot(peak_a["row"] - peak_b["row"], peak_a["col"] - peak_b["col"]))
            candidate = distance <= (recipe.max_distance or 0.0) if recipe.link == "distance" else shared > 0
            if not candidate:
                continue
            score = shared / min(len(group_a), len(group_b))
            reason = 0
            if recipe.link != "distance" and shared < recipe.min_shared_pixels:
                reason = 1
            elif too_far(peak_a, peak_b, distance, recipe):
                reason = 2
            elif score < recipe.min_score:
                reason = 3
            link = {
                "frame_a": peak_a["frame"],
                "peak_a": peak_a["peak"],
                "frame_b": peak_b["frame"],
                "peak_b": peak_b["peak"],
                "axis": axis,
                "n_shared_pixels": shared,
                "score": score,
                "distance": distance,
                "reason": reason,
            }
            found.append(link)
    if recipe.link != "overlap":

        def worth(link: Row):
            best = (link["distance"], link["peak_a"], link["peak_b"])
            return best if recipe.link == "distance" else (-link["n_shared_pixels"], *best)

        good = [link for link in found if link["reason"] == 0]
        for link in good:
            rivals = [each for each in good if each["peak_a"] == link["peak_a"] or each["peak_b"] == link["peak_b"]]
            if min(rivals, key=worth) is not link:
                link["reason"] = 4
    return found


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


def naive_track(members: list[tuple[int, int]], peak_of, frame_of, wraps: bool, around: Neighbours, endings) -> Row:
    frames_of = [frame for frame, _ in members]
    late = math.inf
    if wraps:
        # What lies after the widest gap on the circle is turned back; all the way round there is no gap.
        taken = sorted({around.level[frame] for frame in frames_of})
        steps = [(b - a, b) for a, b in pairwise(taken)]
        widest = max((gap for gap, _ in steps), default=0)
        if widest > 1:
            late = next(b for gap, b in steps if gap == widest)
    rows = [peak_of[member] for member in members]
    weights = [row["sum_intensity"] for row in rows]

    def mean(values) -> float:
        total = weight = 0.0
        for w, value in zip(weights, values, strict=True):
            total += w * value
            weight += w
        return total / weight

    starts, ends = [], []
    for frame in frames_of:
        back = around.turn.get(frame, 0.0)
        back_too = 360.0 * around.sense if wraps and around.level[frame] >= late else 0.0
        starts.append(frame_of[frame].omega_start - back - back_too)
        ends.append(frame_of[frame].omega_end - back - back_too)
    omegas = [0.5 * (a + b) for a, b in zip(starts, ends, strict=True)]
    row, col, omega = mean(r["row"] for r in rows), mean(r["col"] for r in rows), mean(omegas)
    d_row, d_col, d_omega = [r["row"] - row for r in rows], [r["col"] - col for r in rows], [o - omega for o in omegas]
    var_omega = mean(d * d for d in d_omega)
    dty = [frame_of[frame].roles.get("dty", math.nan) for frame in frames_of]
    mean_dty = mean(dty)
    w_sum = 0.0
    for w in weights:
        w_sum += w
    # One rotation that never came makes the extremes unknown, whatever Python's min and max make of a NaN.
    bounds = starts + ends
    low, high = (math.nan, math.nan) if any(map(math.isnan, bounds)) else (min(bounds), max(bounds))
    added = mean((b - a) ** 2 for a, b in zip(starts, ends, strict=True)) / 12
    return {
        "track": members[0][0] * 1_000_000 + members[0][1],
        "n_peaks": len(members),
        "n_frames": len(set(frames_of)),
        "first_frame": members[0][0],
        "last_frame": members[-1][0],
        "omega": omega,
        "omega_min": low,
        "omega_max": high,
        "omega_width": high - low,
        "row": row,
        "col": col,
        "sum_intensity": w_sum,
        "max_intensity": max(row["max_intensity"] for row in rows),
        "n_pixels": sum(row["n_pixels"] for row in rows),
        "n_saturated": -1 if rows[0]["n_saturated"] < 0 else sum(row["n_saturated"] for row in rows),
        "on_edge": any(row["on_edge"] for row in rows),
        "wraps": wraps,
        "var_row": mean(r["var_row"] + d * d for r, d in zip(rows, d_row, strict=True)),
        "var_col": mean(r["var_col"] + d * d for r, d in zip(rows, d_col, strict=True)),
        "cov_row_col": mean(r["cov_row_col"] + x * y for r, x, y in zip(rows, d_row, d_col, strict=True)),
        "var_omega": var_omega,
        "cov_row_omega": mean(x * y for x, y in zip(d_row, d_omega, strict=True)),
        "cov_col_omega": mean(x * y for x, y in zip(d_col, d_omega, strict=True)),
        "omega_sigma": math.nan if math.isnan(var_omega) else math.sqrt(max(var_omega - added, 0.0)),
        "dty": mean_dty,
        "var_dty": mean((each - mean_dty) ** 2 for each in dty),
        "on_mask": any(row["on_mask"] for row in rows),
        "at_scan_end": any(endings[frame][0] for frame in frames_of),
        "beside_missing": any(endings[frame][1] for frame in frames_of),
    }


def cut_at_valleys(members: list[tuple[int, int]], links: list[Row], peak_of, recipe: Recipe) -> None:
    """Give the links of one component that are to be cut the reason 5."""
    place = {member: k for k, member in enumerate(members)}
    own = [link for link in links if (link["frame_a"], link["peak_a"]) in place]
    own.sort(key=lambda link: [link[name] for name in ("frame_a", "peak_a", "frame_b", "peak_b", "axis")])
    intensity, row, col = ([peak_of[member][name] for member in members] for name in ("sum_intensity", "row", "col"))
    cut = naive_valley_cuts(
        intensity,
        row,
        col,
        [place[link["frame_a"], link["peak_a"]] for link in own],
        [place[link["frame_b"], link["peak_b"]] for link in own],
        [link["distance"] for link in own],
        recipe.valley,
        recipe.valley_apart,
        recipe.valley_sigma,
    )
    for link, parts in zip(own, cut, strict=True):
        if parts:
            link["reason"] = 5


def naive_endings(frames: list[Frame], around: Neighbours, recipe: Recipe, apart: set[int], closes: bool):
    """Whether the scan ends beside a frame, and whether a frame beside it is missing."""
    here = {frame.frame for frame in frames}
    found: dict[int, tuple[bool, bool]] = {}
    for number in here:
        ends, missing, any_line = number in apart, False, False
        for chain, name in zip(around.after, around.names, strict=True):
            before = {b: a for a, b in chain.items()}
            on_line = number in chain or number in before or around.in_order
            any_line |= on_line
            if name == "virtual" or not on_line:
                continue
            for way in (chain, before):
                ends |= number not in way
                missing |= number in way and way[number] not in here
        found[number] = (ends or not any_line, missing)
    if closes and len(here) > 1:
        for number in (min(here), max(here)):
            found[number] = (False, found[number][1])
    return found


def naive_reduce(
    frames: list[Frame],
    recipe: Recipe,
    dark=None,
    mask=None,
    plan: list[NaiveAxis] | None = None,
    pairs: list[tuple[int, int]] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """The whole reduction at once, every table in the order of its key."""
    done = [naive_frame(frame, recipe, dark, mask) for frame in frames]
    found_of = {frame.frame: found for frame, found in zip(frames, done, strict=True)}
    frame_of = {frame.frame: frame for frame in frames}
    around = in_order(frames, recipe) if plan is None else planned_neighbours(plan, pairs or [])
    inside = [frame for frame in frames if plan is None or frame.frame in plan[0].at]
    here = {frame.frame for frame in inside}
    candidates: list[Row] = []
    over_the_end: set[tuple[int, int]] = set()
    wrapping: set[tuple[int, int]] = set()
    apart: set[int] = set()
    axis_of = list(dict.fromkeys(around.names))
    for chain, name in zip(around.after, around.names, strict=True):
        of_axis = replace(recipe, **recipe.along.get(name, {}), along={})
        for number in sorted(here):
            other = next_here(chain, number, here, of_axis.max_gap)
            if other is None:
                continue
            if around.in_order and not are_neighbours(frame_of[number], frame_of[other], of_axis):
                apart |= {number, other}
                continue
            some = naive_links(found_of[number], found_of[other], of_axis, axis_of.index(name))
            candidates += some
            if name != "virtual" and around.level[other] < around.level[number]:
                wrapping.add((number, other))
                over_the_end |= {(x["frame_a"], x["peak_a"]) for x in some if x["reason"] == 0}
    along_omega = replace(recipe, **recipe.along.get("omega", {}), along={})
    closes = around.in_order and closes_the_circle(frames, along_omega)
    if closes:
        some = naive_links(done[-1], done[0], along_omega)
        candidates += some
        wrapping.add((frames[-1].frame, frames[0].frame))
        over_the_end |= {(x["frame_a"], x["peak_a"]) for x in some if x["reason"] == 0}
    links = [link for link in candidates if link["reason"] == 0]
    peak_of = {(peak["frame"], peak["peak"]): peak for found in done for peak in found.peaks}
    inside_peaks = {key: peak for key, peak in peak_of.items() if key[0] in here}
    components = naive_components(inside_peaks, links)
    if recipe.valley is not None:
        for each in components:
            cut_at_valleys(each, links, peak_of, recipe)
        cut = {id(link) for link in links if link["reason"]}
        links = [link for link in links if id(link) not in cut]
        components = naive_components(inside_peaks, links)
        over_the_end = {
            (link["frame_a"], link["peak_a"]) for link in links if (link["frame_a"], link["frame_b"]) in wrapping
        }
    endings = naive_endings(inside, around, recipe, apart, closes)
    tracks = [
        naive_track(each, peak_of, frame_of, bool(over_the_end & set(each)), around, endings) for each in components
    ]
    rows: dict[str, list[Row]] = {
        "frames": [found.row for found in done],
        "peaks": [peak for found in done for peak in found.peaks],
        "links": candidates if recipe.keep_candidates else links,
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
    tables = tables_with_roles({}, candidates=recipe.keep_candidates)
    return {name: _columns(tables[name], rows[name]) for name in rows}


def _columns(schema: Table, rows: list[Row]) -> dict[str, np.ndarray]:
    rows = sorted(rows, key=lambda row: tuple(row[key] for key in schema.key))
    return {c.name: np.array([row[c.name] for row in rows], c.dtype) for c in schema.columns}
