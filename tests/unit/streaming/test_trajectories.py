"""Planned scans of every kind: what comes out is the naive graph's answer, whatever the order in which frames come."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import NaiveAxis, naive_reduce, planned_neighbours
from unit.streaming.strategies import images, recipes
from unit.streaming.test_reducer import assert_same, digest_of, in_order, pushed

from hedmlive.streaming import (
    VIRTUAL,
    Axis,
    Frame,
    FrameError,
    FromPositions,
    Planned,
    Recipe,
    Reducer,
    SettingsError,
    join,
    tables_with_roles,
)


def interlaced(n, flip):
    even, odd = list(range(0, n, 2)), list(range(1, n, 2))
    return even + (odd[::-1] if flip else odd)


@st.composite
def axes(draw):
    """Positions of a scan: name to (positions, what else the axis says)."""
    kind = draw(st.sampled_from(["sweep", "turns", "irrational", "interlaced", "grid", "layers", "sinus", "noisy"]))
    n = draw(st.integers(1, 9))
    sense = draw(st.sampled_from([1, -1]))
    begin = draw(st.sampled_from([0.0, -180.0, 33.25]))
    step = draw(st.sampled_from([1.0, 45.0, 360.0 / n]))
    period = draw(st.sampled_from([None, 360.0]))
    omega = {"period": period, "reach": draw(st.sampled_from([None, None, 50.0]))}
    places = np.arange(n) * step
    dty = None
    if kind == "turns":
        places = np.arange(2 * n) * (360.0 / n)
    elif kind == "irrational":
        places = np.arange(n) * draw(st.sampled_from([np.sqrt(2) * 100, np.pi * 30, 137.50776405]))
        omega["reach"] = draw(st.sampled_from([None, 90.0]))
    elif kind == "interlaced":
        places = step * np.array(interlaced(n, draw(st.booleans())), float)
    elif kind in ("grid", "layers"):
        rows = draw(st.integers(1, 4))
        n = min(n, 5)
        places, dty = np.arange(n) * step, np.arange(rows) * 0.5
        outer, inner = (places, dty) if draw(st.booleans()) else (dty, places)
        snaked = draw(st.booleans())
        points = [(slow, fast) for k, slow in enumerate(outer) for fast in (inner[::-1] if snaked and k % 2 else inner)]
        if outer is dty:
            points = [(b, a) for a, b in points]
        places, dty = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    elif kind == "sinus":
        dty = np.sin(np.radians(places))
    elif kind == "noisy":
        # Readings of one place differ a little.
        places = places + 1e-4 * np.array(draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n)))
    found = {"omega": (begin + sense * places, omega)}
    if dty is not None:
        more = {"grid": {}, "layers": {"linked": False}, "sinus": {"linked": False, "tolerance": np.inf}}[kind]
        found["dty"] = (dty, more)
    return found


@st.composite
def scans(draw):
    """A plan, the frames that come of it, and pairs that the user gives."""
    planned = draw(axes())
    n = len(planned["omega"][0])
    first = draw(st.sampled_from([0, 0, 1]))
    numbers = range(first, first + n)
    shape = draw(st.sampled_from([(1, 1), (2, 3), (4, 4)]))
    missing = draw(st.sets(st.sampled_from(numbers), max_size=3))
    width = draw(st.sampled_from([0.0, 1.0]))
    frames = []
    # One frame before the scan where there is one, and one behind it.
    for number in range(first + n + 1):
        if number in missing:
            continue
        inside = number in numbers
        omega = planned["omega"][0][number - first] if inside else 7.0
        roles = {"dty": float(planned["dty"][0][number - first])} if "dty" in planned and inside else {}
        image = draw(images(shape))
        ends = omega - width / 2, omega + width / 2
        frames.append(
            Frame(frame=number, point=number, image=image, omega_start=ends[0], omega_end=ends[1], roles=roles)
        )
    some = st.sampled_from(numbers)
    pairs = draw(st.lists(st.tuples(some, some).filter(lambda pair: pair[0] != pair[1]), max_size=2))
    return planned, numbers, frames, pairs


def trajectory(planned, numbers, pairs):
    made = [Axis(name=name, positions=np.asarray(at, float), **more) for name, (at, more) in planned.items()]
    return Planned(made, numbers=numbers, pairs=pairs)


def naive_plan(planned, numbers):
    return [
        NaiveAxis(name, dict(zip(numbers, map(float, at), strict=True)), **more) for name, (at, more) in planned.items()
    ]


@settings(max_examples=200)
@given(scan=scans(), recipe=recipes(), data=st.data())
def test_it_is_the_graph_whatever_the_order(scan, recipe, data):
    planned, numbers, frames, pairs = scan
    wanted = naive_reduce(frames, recipe, plan=naive_plan(planned, numbers), pairs=pairs)
    reducer = Reducer(recipe, trajectory=trajectory(planned, numbers, pairs))
    batches = []
    lost = sorted(set(numbers) - {frame.frame for frame in frames})
    for each in data.draw(st.permutations([*frames, *(lost if data.draw(st.booleans()) else [])])):
        batches.append(reducer.missing(each) if isinstance(each, int) else reducer.push(each))
        if data.draw(st.booleans()):
            frame = each if isinstance(each, Frame) else Frame(frame=each, point=0, image=np.ones((1, 1), np.uint16))
            with pytest.raises(FrameError, match="came"):
                reducer.push(frame)
    batches.append(reducer.flush())
    assert reducer.n_open_tracks == 0
    assert_same(in_order(batches, recipe), wanted)


@settings(max_examples=100)
@given(scan=scans(), recipe=recipes(), data=st.data())
def test_what_has_closed_never_changes_and_closes_at_the_first_moment(scan, recipe, data):
    planned, numbers, frames, pairs = scan
    plan = naive_plan(planned, numbers)
    whole = naive_reduce(frames, recipe, plan=plan, pairs=pairs)["members"]
    names = {(frame, peak): track for track, frame, peak in zip(*(whole[key].tolist() for key in whole), strict=True)}
    # Where tracks are cut, all parts of what is linked close together: the cuts depend on all of it.
    linked = naive_reduce(frames, replace(recipe, valley=None), plan=plan, pairs=pairs)["members"]
    around = planned_neighbours(plan, pairs)
    gaps = [{"max_gap": recipe.max_gap, **recipe.along.get(name, {})}["max_gap"] for name in around.names]
    reducer = Reducer(recipe, trajectory=trajectory(planned, numbers, pairs))
    come: set[int] = set()
    closed: dict[tuple[int, int], int] = {}
    order = data.draw(st.permutations([*frames, *sorted(set(numbers) - {frame.frame for frame in frames})]))
    for each in order:
        lost = isinstance(each, int)
        batch = reducer.missing(each) if lost else reducer.push(each)
        come.add(each if lost else each.frame)
        members = batch.get("members", {"track": [], "frame": [], "peak": []})
        rows = zip(members["track"], members["frame"], members["peak"], strict=True)
        closed |= {(int(frame), int(peak)): int(track) for track, frame, peak in rows}
        # A track is closed exactly when nobody is waited for by any of its frames.
        here = {frame.frame for frame in frames} & come
        waits = {
            number
            for number in here & set(numbers)
            for chain, gap in zip(around.after, gaps, strict=True)
            for way in (chain, {b: a for a, b in chain.items()})
            if waits_for(way, number, here, come, gap)
        }
        together: dict[int, set[tuple[int, int]]] = {}
        for track, frame, peak in zip(*(linked[key].tolist() for key in linked), strict=True):
            together.setdefault(track, set()).add((frame, peak))
        for peaks in together.values():
            of_it = {frame for frame, _ in peaks}
            final = of_it <= come and not of_it & waits
            assert all(closed.get(peak) == (names[peak] if final else None) for peak in peaks)


def waits_for(way, number, here, come, max_gap) -> bool:
    at = number
    for _ in range(1 + max_gap):
        at = way.get(at)
        if at is None or at == number or at in here:
            return False
        if at not in come:
            return True
    return False


@settings(max_examples=60)
@given(scan=scans(), recipe=recipes())
def test_from_positions_alone_is_planned_when_nothing_is_missing(scan, recipe):
    planned, numbers, frames, _ = scan
    frames = [frame for frame in frames if frame.frame in numbers]
    here = [frame.frame for frame in frames]
    at = {name: [values[k - numbers[0]] for k in here] for name, (values, _) in planned.items()}
    known = trajectory({name: (at[name], planned[name][1]) for name in planned}, here, []) if here else None
    free = FromPositions(axes=tuple(Axis(name=name, **more) for name, (_, more) in planned.items()))
    if known is not None:
        batches = pushed(frames, recipe, trajectory=free)
        assert not any("links" in batch or "tracks" in batch for batch in batches[:-1])
        assert_same(in_order(batches, recipe), in_order(pushed(frames, recipe, trajectory=known), recipe))


def test_frames_without_a_position_stand_alone():
    image = np.full((1, 1), 5, np.uint16)
    omega = [0.0, 1.0, np.nan, 2.0]
    frames = [Frame(frame=k, point=k, image=image, omega_start=at, omega_end=at) for k, at in enumerate(omega)]
    tracks = join(pushed(frames, Recipe(threshold=0), trajectory=FromPositions(axes=(Axis(name="omega"),))))["tracks"]
    assert sorted(tracks["n_peaks"].tolist()) == [1, 3]


@settings(max_examples=60)
@given(scan=scans())
def test_neighbours_are_those_of_the_naive_plan(scan):
    planned, numbers, _, pairs = scan
    made = trajectory(planned, numbers, pairs)
    around = planned_neighbours(naive_plan(planned, numbers), pairs)
    names = list(dict.fromkeys(around.names))
    wanted = {
        (a, b, names.index(name))
        for chain, name in zip(around.after, around.names, strict=True)
        for a, b in chain.items()
    }
    got = made.neighbours()
    assert set(zip(*(got[key].tolist() for key in ("frame_a", "frame_b", "axis")), strict=True)) == wanted
    assert made.axes == tuple(names)
    assert (VIRTUAL in made.axes) == bool(pairs)


@settings(max_examples=40)
@given(scan=scans(), recipe=recipes(), data=st.data())
def test_open_tracks_are_what_has_come_of_them(scan, recipe, data):
    planned, numbers, frames, pairs = scan
    reducer = Reducer(recipe, trajectory=trajectory(planned, numbers, pairs))
    n_members = n_peaks = 0
    for frame in data.draw(st.permutations(frames)):
        batch = reducer.push(frame)
        inside = frame.frame in numbers
        n_peaks += len(batch["peaks"]["peak"]) if "peaks" in batch and inside else 0
        n_members += len(batch["members"]["peak"]) if "members" in batch else 0
        rows = reducer.open_tracks()
        assert len(rows["track"]) == reducer.n_open_tracks == len(set(rows["track"].tolist()))
        assert rows["n_peaks"].sum() == n_peaks - n_members


def test_the_memory_of_a_grid_is_its_frontier():
    n, rows = 30, 6
    omega, dty = np.tile(np.arange(n) * 1.0, rows), np.repeat(np.arange(rows) * 1.0, n)
    planned = Planned([Axis(name="omega", positions=omega, period=360.0), Axis(name="dty", positions=dty)])
    reducer = Reducer(Recipe(threshold=0), trajectory=planned)
    image = np.zeros((3, 3), np.uint16)
    for k in range(n * rows):
        image[1, 1] = k % n < 20
        reducer.push(Frame(frame=k, point=k, image=image, omega_start=omega[k], omega_end=omega[k]))
        assert reducer.n_waiting_frames <= n + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Planned([]), "no positions"),
        (
            lambda: Planned([Axis(name="omega", positions=np.zeros(2)), Axis(name="dty", positions=np.zeros(3))]),
            "wanted 2",
        ),
        (lambda: Axis(name="omega", positions=np.array([0.0, np.nan])), "finite"),
        (lambda: Axis(name="omega", positions=np.zeros(2), tolerance=-1.0), "tolerance"),
        (lambda: Planned([Axis(name="omega", positions=np.arange(3.0))], pairs=[(0, 3)]), r"pair \[0, 3\]"),
        (lambda: Planned([Axis(name="omega", positions=np.arange(3.0))], pairs=[(1, 1)]), r"pair \[1, 1\]"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_motors_of_the_scan_have_their_moments():
    tables = tables_with_roles({"load": "N"}, motors=["load"])
    image = np.full((1, 1), 4, np.uint16)
    frames = [
        Frame(frame=k, point=k, image=image, omega_start=k, omega_end=k + 1.0, roles={"load": 10.0 * k, "dty": 0.5})
        for k in range(3)
    ]
    tracks = join(pushed(frames, Recipe(threshold=0), tables=tables))["tracks"]
    assert tracks["load"].tolist() == [10.0]
    np.testing.assert_allclose(tracks["var_load"], 200 / 3)
    assert (tracks["dty"].tolist(), tracks["var_dty"].tolist()) == ([0.5], [0.0])
    np.testing.assert_allclose(tracks["var_omega"], 2 / 3)
    np.testing.assert_allclose(tracks["omega_sigma"], np.sqrt(2 / 3 - 1 / 12))
    assert digest_of([{"tracks": tracks}])
