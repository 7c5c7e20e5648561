"""Slow, obvious twin of rocking curves and sinograms."""

import math


def position_of(frame, motor):
    return 0.5 * (frame["omega_start"] + frame["omega_end"]) if motor == "omega" else frame[motor]


def rows(columns):
    return [dict(zip(columns, each, strict=True)) for each in zip(*(v.tolist() for v in columns.values()), strict=True)]


def naive_unwrapped(frames, own, motor, period, tolerance):
    """{frame: position}, whole turns away from what was read, so that those of a track go up from their widest gap."""
    read = {frame["frame"]: position_of(frame, motor) for frame in frames}
    if period is None:
        return read
    first = read[min(number for number in own if not math.isnan(read[number]))]

    def ahead(position):
        way = (position - first) % period
        return way - period if way >= period - tolerance else way

    taken = sorted({ahead(read[number]) for number in own if not math.isnan(read[number])})
    gaps = [b - a for a, b in zip(taken, [*taken[1:], taken[0] + period], strict=True)]
    begin = [way for way, gap in zip(taken, gaps, strict=True) if gap >= max(gaps) - tolerance][-1]
    found = {}
    for number, position in read.items():
        way = ahead(position) if not math.isnan(position) else math.nan
        way = way - period if way > begin + tolerance else way
        turns = 0 if math.isnan(way) else round((way - (position - first)) / period)
        found[number] = position + period * turns
    return found


def naive_points(tables, tracks, motors, bounds, periods, tolerance):
    """Rows of frame, each motor, intensity, n_pixels, n_peaks."""
    frames = sorted(rows(tables["frames"]), key=lambda frame: frame["frame"])
    peaks = {(each["frame"], each["peak"]): each for each in rows(tables["peaks"])}
    members = [each for each in rows(tables["members"]) if each["track"] in tracks]
    members.sort(key=lambda each: (each["track"], each["frame"], each["peak"]))
    own = {each["frame"] for each in members}
    at = {m: naive_unwrapped(frames, own, m, periods.get(m), tolerance) for m in {*motors, *bounds}
          if any(not math.isnan(position_of(f, m)) for f in frames if f["frame"] in own)}  # fmt: skip
    found = []
    for frame in frames:
        number = frame["frame"]
        inside = True
        for motor, position in at.items():
            taken = [position[each] for each in own if not math.isnan(position[each])]
            here = position[number]
            if here < min(taken) - tolerance or here > max(taken) + tolerance:
                inside = False
            if math.isnan(here) and motor in motors:
                inside = False
        if inside:
            mine = [peaks[each["frame"], each["peak"]] for each in members if each["frame"] == number]
            total = 0.0
            for peak in mine:
                total += peak["sum_intensity"]
            place = [at[motor][number] for motor in motors]
            found.append((number, *place, total, sum(peak["n_pixels"] for peak in mine), len(mine)))
    return found


def naive_grid(points, n_motors, tolerance):
    """{levels: [intensity, n_pixels, n_peaks, n_frames]} and the positions of each motor's levels."""
    levels, positions = [], []
    for motor in range(n_motors):
        ascending = sorted(point[1 + motor] for point in points)
        starts = [p for i, p in enumerate(ascending) if i == 0 or p - ascending[i - 1] > tolerance]
        level = [max(i for i, start in enumerate(starts) if start <= point[1 + motor]) for point in points]
        levels.append(level)
        positions.append([next(p[1 + motor] for p, k in zip(points, level, strict=True) if k == i)
                          for i in range(len(starts))])  # fmt: skip
    cells = {}
    for point, *where in zip(points, *levels, strict=True):
        cell = cells.setdefault(tuple(where), [0.0, 0, 0, 0])
        for i, value in enumerate((*point[1 + n_motors :], 1)):
            cell[i] += value
    return cells, positions
