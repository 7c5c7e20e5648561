"""What runs along trajectories give: live, replayed and reduced directly."""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hostile
import numpy as np
import pytest
from planned_runs import RECIPE, ROLES, direct, run, settings

from hedmlive.callbacks import (
    HedmLive,
    Problems,
    ReducedArchiveReader,
    RunReduction,
    load_settings,
    open_source,
    process,
)
from hedmlive.callbacks.trajectory import RunTrajectory
from hedmlive.streaming import (
    Axis,
    FromPositions,
    Planned,
)


class Kind:
    """One kind of scan."""

    def __init__(
        self,
        omega: Iterable[float],
        axes: Callable[["Kind"], list[Axis]],
        *,
        first: int = 0,
        n: int | None = None,
        trajectory: Mapping[str, Any] | None = None,
        others: Mapping[str, Iterable[float]] | None = None,
        **start: Any,
    ) -> None:
        self.omega = np.array(list(omega), np.float64)
        self.others = {role: np.array(list(values)) for role, values in (others or {}).items()}
        self.first, self.n = first, len(self.omega) - first if n is None else n
        self.axes = axes(self)
        self.trajectory, self.start = trajectory or {}, start

    @property
    def planned(self) -> Planned | FromPositions:
        if "source" in self.trajectory:
            return FromPositions(axes=tuple(replace(axis, positions=np.empty(0)) for axis in self.axes))
        return Planned(self.axes, numbers=range(self.first, self.first + self.n))

    @property
    def roles(self) -> dict[str, np.ndarray]:
        return {"omega": self.omega, **self.others}

    def documents(self, **changes: Any) -> hostile.Documents:
        read = {ROLES[role]: values.tolist() for role, values in self.roles.items()}
        return run(read, **self.start, **changes)


def rotation(kind: Kind) -> list[Axis]:
    return [Axis(name="omega", positions=kind.omega[kind.first : kind.first + kind.n], period=360.0)]


def with_dty(kind: Kind) -> list[Axis]:
    return [*rotation(kind), Axis(name="dty", positions=kind.others["dty"])]


def with_distance(kind: Kind) -> list[Axis]:
    return [*rotation(kind), Axis(name="L1", positions=kind.others["L1"], linked=False)]


def following(kind: Kind) -> list[Axis]:
    return [*rotation(kind), Axis(name="dty", positions=kind.others["dty"], linked=False, tolerance=math.inf)]


ROWS = np.concatenate([np.arange(8.0)[:: -1 if row % 2 else 1] for row in range(5)])
STEPS = np.repeat(np.arange(5) * 0.1, 8)
GRID: dict[str, Any] = {"motors": ["dty", "rot"], "shape": [5, 8], "extents": [[0, 0.4], [0, 7]]}
KINDS = {
    "2-D": Kind(np.tile(np.arange(8.0), 5), with_dty, others={"dty": STEPS}, **GRID),
    "2-D, snaked": Kind(ROWS, with_dty, others={"dty": STEPS}, snaking=[False, True], **GRID),
    "2-D, snaked, from settings": Kind(
        ROWS,
        with_dty,
        others={"dty": STEPS},
        trajectory={
            "axes": {"omega": {"start": 0, "step": 1, "count": 8}, "dty": {"start": 0, "step": 0.1, "count": 5}},
            "order": ["dty", "omega"],
            "snaked": True,
        },
    ),
    "2-D, omega slow": Kind(
        np.repeat(np.arange(8.0), 5),
        with_dty,
        others={"dty": np.tile(np.arange(5) * 0.1, 8)},
        motors=["rot", "dty"],
        shape=[8, 5],
        extents=[[0, 7], [0, 0.4]],
    ),
    "full turn backwards": Kind(-30.0 * np.arange(12), rotation, motors=["rot"], shape=[12], extents=[[0, -330]]),
    "interlaced": Kind(
        30.0 * np.concatenate([np.arange(0, 12, 2), np.arange(1, 12, 2)]),
        rotation,
        trajectory={"axes": {"omega": {"start": 0, "step": 30, "count": 12}}, "passes": 2},
    ),
    "interlaced with flip": Kind(
        30.0 * np.concatenate([np.arange(0, 12, 2), np.arange(1, 12, 2)[::-1]]),
        rotation,
        trajectory={"axes": {"omega": {"start": 0, "step": 30, "count": 12}}, "passes": 2, "flip": True},
    ),
    "leading throw-away": Kind(
        [0.0, *(30.0 * np.arange(12))],
        rotation,
        first=1,
        trajectory={"axes": {"omega": {"start": 0, "step": 30, "count": 12}}, "skip_first": 1},
    ),
    "leading throw-away with a position": Kind(
        30.0 * np.arange(-1, 12),
        rotation,
        first=1,
        trajectory={"skip_first": 1, "skipped_in_positions": True},
        motors=["rot"],
        shape=[13],
        extents=[[-30, 330]],
    ),
    "trailing wrap": Kind(30.0 * np.arange(14), rotation, motors=["rot"], shape=[14], extents=[[0, 390]]),
    "frames beyond": Kind(30.0 * np.arange(14), rotation, n=12, motors=["rot"], shape=[12], extents=[[0, 330]]),
    "three irrational turns": Kind(
        math.sqrt(2) * 50 * np.arange(14),
        rotation,
        trajectory={"axes": {"omega": {"start": 0, "step": math.sqrt(2) * 50, "count": 14}}},
    ),
    "listed": Kind([0, 1, 3, 6, 10, 15], rotation, trajectory={"axes": {"omega": {"positions": [0, 1, 3, 6, 10, 15]}}}),
    "dty that follows": Kind(
        30.0 * np.arange(12),
        following,
        others={"dty": np.sin(np.arange(12))},
        trajectory={
            "axes": {
                "omega": {"start": 0, "step": 30, "count": 12},
                "dty": {"positions": np.sin(np.arange(12)).tolist(), "tolerance": math.inf},
            },
            "order": [["omega", "dty"]],
        },
    ),
    "two distances": Kind(
        np.tile(np.arange(8.0), 2),
        with_distance,
        others={"L1": np.repeat([5.0, 7.0], 8)},
        motors=["det_z", "rot"],
        shape=[2, 8],
        extents=[[5, 7], [0, 7]],
    ),
    "positions": Kind(ROWS, with_dty, others={"dty": STEPS}, trajectory={"source": "positions"}),
}
LOSSES: list[dict[str, Any]] = [{"lost": (3, 4)}, {"refused": (0, 5)}, {"lost": (0, 1), "refused": (3,)}]


@pytest.mark.parametrize(("name", "losses"), list(zip(KINDS, itertools.cycle(LOSSES), strict=False)), ids=str)
def test_live_replay_and_reducer_agree(name: str, losses: dict[str, Any], tmp_path: Path) -> None:
    kind = KINDS[name]
    absent = {*losses.get("lost", ()), *losses.get("refused", ())}
    roles = {role: key for role, key in ROLES.items() if role in kind.roles}
    made = settings(tmp_path, kind.trajectory, roles=roles)
    wanted = {0: direct(kind.planned, kind.roles, absent=absent, seed=len(absent))}
    docs = kind.documents(**losses)
    result = process(docs, made, write_raw=True, stem="run")
    assert dict(result.digests) == wanted
    middle = docs[2:-1]
    random.Random(1).shuffle(middle)
    # What comes in another order must be waited for.
    shuffled = process([*docs[:2], *middle, docs[-1]], settings(tmp_path, kind.trajectory, roles=roles, worker={}))
    assert dict(shuffled.digests) == wanted
    source = open_source(str(result.raw))
    again = process(source.documents, load_settings(source.settings or {}), stem="again")
    assert dict(again.digests) == wanted
    said = bool(losses.get("lost")) + len(losses.get("refused", ()))
    # Later frames that are outside are counted only.
    assert len(result.problems) == said + (2 if name == "frames beyond" else 0)


@pytest.mark.parametrize("name", ["2-D, snaked", "interlaced", "leading throw-away", "positions"])
def test_the_callback_gives_the_same(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    roles = {role: key for role, key in ROLES.items() if role in kind.roles}
    live = HedmLive(settings(tmp_path, kind.trajectory, roles=roles))
    live._warming.join()
    try:
        for each in kind.documents(lost=(3,), refused=(5,)):
            live(*each)
        [result] = live.wait(120).values()
    finally:
        live.close(5)
    assert dict(result.digests) == {0: direct(kind.planned, kind.roles, absent=(3, 5))}


def test_several_detectors_share_a_trajectory(tmp_path: Path) -> None:
    kind = KINDS["frames beyond"]
    made = settings(tmp_path, roles={"omega": "rot"}, n_detectors=2)
    result = process(kind.documents(n_detectors=2), made)
    assert dict(result.digests) == {d: direct(kind.planned, kind.roles, detector=d) for d in range(2)}
    assert len(result.problems) == 2
    assert "frame 12: the trajectory ends with frame 11" in result.problems[0]
    assert result.problems[1] == "and 3 more"


@pytest.mark.parametrize("how", ["lost", "refused"])
@pytest.mark.parametrize("trajectory", [{"source": "order"}, {}])
def test_tracks_beside_missing_frames_close_at_once(how: str, trajectory: dict[str, Any], tmp_path: Path) -> None:
    """All tracks of frames 0 to 2 are closed when the one behind them is known to be missing."""
    omega = np.arange(12.0)
    made = settings(tmp_path, trajectory, roles={"omega": "rot"}, recipe={"wrap": False})
    absent: dict[str, Any] = {how: (3,)}
    docs = run({"rot": omega}, motors=["rot"], shape=[12], extents=[[0, 11]], **absent)
    reduction = RunReduction(made, docs[0][1], tmp_path / "reduced.h5")
    closed: list[int] = []
    for name, doc in docs[:-1]:
        reduction.push(name, doc)
        reduction.settle()
        closed.append(reduction.progress.n_tracks)
    # Frames wait for lost ones: three later ones have come with event 7.
    known = 2 + (3 + 4 if how == "lost" else 4)
    before, after = closed[known - 2], closed[known]
    reduction.push(*docs[-1])
    result = reduction.finish()
    reduction.close()
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        last = archive.read(0, "tracks")["last_frame"]
    assert after >= (last <= 2).sum() > before


def test_fly_scan_takes_omega_from_the_settings(tmp_path: Path) -> None:
    """No event ever holds omega: it is what the controller was told, said in its configuration."""
    pso = {"pso_start": -180.0, "pso_delta": 10.0, "pso_n": 36}
    axis = {"start": "pso_start", "step": "pso_delta", "count": "pso_n", "marks": "start"}
    for roles in ({}, {"omega": "rot"}):
        made = settings(tmp_path / str(len(roles)), {"axes": {"omega": axis}, "skip_first": 1}, roles=roles)
        result = process(run({}, num_points=37, configuration=pso), made, write_raw=True)
        assert result.problems == ()
        with ReducedArchiveReader(result.reduced or tmp_path) as archive:
            frames, about = archive.read(0, "frames"), archive.attributes(0)["trajectory"]
        assert math.isnan(frames["omega_start"][0])
        np.testing.assert_allclose(frames["omega_start"][1:], -180.0 + 10.0 * np.arange(36))
        np.testing.assert_allclose(frames["omega_end"][1:], -170.0 + 10.0 * np.arange(36))
        assert (about["source"], about["skip_first"], about["frames"]) == ("settings", 1, 36)
        assert about["axes"][0]["period"] == 360.0
        with h5py.File(result.raw or "") as raw:
            attributes = dict(raw["entry/scan/omega_start"].attrs)
            omega = dict(raw["entry/hedm/omega_per_frame"].attrs)
        assert omega["found_in"] == "trajectory"
        assert omega["data_key"] == "pso_start pso_delta pso_n"
        assert attributes["units"] == "degree"


@pytest.mark.parametrize(
    ("pso", "says"),
    [
        ({}, "start of omega is the data key 'pso_start', which holds None"),
        ({"pso_start": 0.0, "pso_delta": math.nan, "pso_n": 4}, "step of omega"),
        ({"pso_start": 0.0, "pso_delta": 0.0, "pso_n": 4}, "a distance"),
        ({"pso_start": 0.0, "pso_delta": 1.0, "pso_n": 2.5}, "wanted a whole number"),
        ({"pso_start": 0.0, "pso_delta": 1.0, "pso_n": 10**9}, "wanted a whole number, 1 to 2000000"),
        ({"pso_start": [1, 2], "pso_delta": 1.0, "pso_n": 4}, "'pso_start', which holds [1, 2]"),
        ({"pso_start": "far", "pso_delta": 1.0, "pso_n": 4}, "'pso_start', which holds 'far'"),
    ],
)
def test_a_controller_that_tells_nothing_is_named(pso: dict[str, Any], says: str, tmp_path: Path) -> None:
    axis = {"start": "pso_start", "step": "pso_delta", "count": "pso_n"}
    made = settings(tmp_path, {"axes": {"omega": axis}}, roles={"omega": "rot"})
    result = process(run({"rot": range(4)}, configuration=pso), made)
    [problem] = result.problems
    assert says in problem
    assert dict(result.digests) == {0: direct(None, {"omega": range(4)})}


def test_readbacks_go_before_the_settings(tmp_path: Path) -> None:
    omega = np.arange(6.0) + 0.3
    trajectory = {"axes": {"omega": {"start": 0, "step": 1, "count": 6}}}
    result = process(run({"rot": omega}), settings(tmp_path, trajectory, roles={"omega": "rot"}))
    assert result.problems == ()
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        assert archive.read(0, "frames")["omega_start"].tolist() == omega.tolist()


@pytest.mark.parametrize(("sign", "away", "n"), [(1, 0.4, 0), (1, 0.7, 6), (1, 360.0, 0), (-1, 0.0, 0)])
def test_frames_that_are_elsewhere_are_named_once(sign: int, away: float, n: int, tmp_path: Path) -> None:
    """The plan's positions have the sign that readbacks have."""
    made = settings(tmp_path, roles={"omega": "rot"}, omega_sign=sign)
    docs = run({"rot": np.arange(6.0) + away}, motors=["rot"], shape=[6], extents=[[0, 5]])
    problems = Problems(hostile.UID)
    reduction = RunReduction(made, docs[0][1], tmp_path / "reduced.h5", problems=problems)
    for each in docs:
        reduction.push(*each)
    result = reduction.finish()
    reduction.close()
    assert problems.counts["off-plan"] == n
    assert len(problems.kept) == min(n, 1)
    axis = Axis(name="omega", positions=sign * np.arange(6.0), period=360.0)
    assert dict(result.digests) == {0: direct(Planned([axis]), {"omega": sign * (np.arange(6.0) + away)})}


def test_marks_of_a_readback_are_those_of_the_plan(tmp_path: Path) -> None:
    """A readback that is the start of a frame is not half a step away from the plan's position."""
    roles = {"omega": "rot", "omega_step": "pso_delta"}
    for marks in ("start", "end"):
        made = settings(tmp_path / marks, roles=roles, omega_marks=marks)
        docs = run(
            {"rot": np.arange(6.0)}, configuration={"pso_delta": 1.4}, motors=["rot"], shape=[6], extents=[[0, 5]]
        )
        assert process(docs, made).problems == ()


def test_pairs_of_points_are_linked_in_any_trajectory(tmp_path: Path) -> None:
    omega = np.arange(12.0)
    planned = Planned([Axis(name="omega", positions=omega, period=360.0)], pairs=[(1, 9)])
    docs = run({"rot": omega}, motors=["rot"], shape=[12], extents=[[0, 11]])
    links = {"links": [[1, 9], [3, 40]]}
    result = process(docs, settings(tmp_path, links, roles={"omega": "rot"}))
    assert dict(result.digests) == {0: direct(planned, {"omega": omega})}
    [problem] = result.problems
    assert "links holds [3, 40]" in problem
    in_order = process(docs, settings(tmp_path, links | {"source": "order"}, roles={"omega": "rot"}))
    assert (in_order.problems, dict(in_order.digests)) == ((), {1: result.digests[0]})


def test_a_motor_without_a_role_keeps_frames_apart(tmp_path: Path) -> None:
    docs = run({"rot": np.tile(np.arange(4.0), 2)}, motors=["samx", "rot"], shape=[2, 4], extents=[[0, 1], [0, 3]])
    result = process(docs, settings(tmp_path, roles={"omega": "rot"}))
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        links, about = archive.read(0, "links"), archive.attributes(0)
    assert {(3, 4), (0, 4)}.isdisjoint(zip(links["frame_a"].tolist(), links["frame_b"].tolist(), strict=True))
    assert [axis["name"] for axis in about["trajectory"]["axes"]] == ["omega", "samx"]
    assert about["motors"] == []


def test_the_mean_of_a_moved_role_is_in_the_tracks(tmp_path: Path) -> None:
    kind = KINDS["two distances"]
    result = process(kind.documents(), settings(tmp_path, roles={"omega": "rot", "L1": "det_z"}))
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        tracks = archive.read(0, "tracks")
        assert archive.digest(0) == result.digests[0]
    assert set(tracks["L1"].tolist()) == {5.0, 7.0}
    assert set(tracks["var_L1"].tolist()) == {0.0}


def test_candidates_are_kept_when_asked_for(tmp_path: Path) -> None:
    result = process(
        hostile.run(), load_settings(hostile.settings(tmp_path, recipe=RECIPE | {"keep_candidates": True}))
    )
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        assert "reason" in archive.read(0, "links")
        assert archive.digest(0) == result.digests[0]


def test_images_of_one_event_lie_at_one_point(tmp_path: Path) -> None:
    start = {"uid": "u", "motors": ["rot"], "shape": [3], "extents": [[0, 2]]}
    run_trajectory = RunTrajectory(settings(tmp_path, {"links": [[0, 2]]}), start, Problems())
    planned = run_trajectory.follow(2).trajectory
    assert isinstance(planned, Planned)
    pairs = planned.neighbours()
    found = list(zip(*(pairs[name].tolist() for name in ("frame_a", "frame_b", "axis")), strict=True))
    assert found == [(0, 1, 0), (0, 4, 1), (1, 2, 0), (1, 5, 1), (2, 3, 0), (3, 4, 0), (4, 5, 0)]


def test_memory_stays_small_when_points_are_skipped(tmp_path: Path) -> None:
    """A seq_num far ahead makes no list of all the frames before it."""
    made = settings(tmp_path, {"source": "order"}, roles={"omega": "rot"}, recipe={"wrap": False, "max_gap": 2})
    docs = run({"rot": np.arange(4.0)})
    reduction = RunReduction(made, docs[0][1], tmp_path / "reduced.h5")
    for each in docs[:-1]:
        reduction.push(*each)
    detector = reduction._detectors[0]
    assert len(list(detector._gone(10**12))) == 6
    reduction.close()


@pytest.mark.parametrize("start", [0.0, -180.0, 77.3])
@pytest.mark.parametrize("step", [30.0, -30.0])
@pytest.mark.parametrize("n", [7, 12])
def test_a_planned_sweep_has_the_digest_of_the_order(n: int, step: float, start: float) -> None:
    """So a run that was reduced before plans were read keeps its digest, be it a part of a turn or a whole one."""
    omega = start + step * np.arange(n)
    planned = Planned([Axis(name="omega", positions=omega, period=360.0)])
    assert direct(planned, {"omega": omega}, half=15.0) == direct(None, {"omega": omega}, half=15.0)


def test_settling_frames_are_in_no_track_when_the_plan_does_not_tell(tmp_path: Path) -> None:
    docs = run({"rot": np.arange(6.0)})
    result = process(docs, settings(tmp_path, {"skip_first": 2}, roles={"omega": "rot"}))
    assert result.problems == ()
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        assert archive.read(0, "frames")["frame"].tolist() == list(range(6))
        assert set(archive.read(0, "members")["frame"].tolist()) == {2, 3, 4, 5}
        assert archive.attributes(0)["trajectory"]["skip_first"] == 2


@pytest.mark.parametrize("roles", [{"omega": "file_omega"}, {"omega_start": "file_omega", "omega_end": "file_end"}])
def test_the_motor_of_a_role_may_have_another_name(roles: dict[str, str], tmp_path: Path) -> None:
    """As where the angle is read from the detector's file, and the plan moves `aero`."""
    read = {"file_omega": np.arange(6.0), "file_end": np.arange(6.0)}
    docs = run(read, motors=["aero"], shape=[6], extents=[[0, 5]])
    for trajectory, source in (({}, "order"), ({"axes": {"omega": {"motor": "aero"}}}, "documents")):
        result = process(docs, settings(tmp_path / source, trajectory, roles=roles))
        with ReducedArchiveReader(result.reduced or tmp_path) as archive:
            assert archive.attributes(0)["trajectory"]["source"] == source
