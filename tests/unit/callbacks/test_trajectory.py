"""From plans and settings to trajectories, and what runs along them give: live, replayed and reduced directly."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import h5py
import hostile
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynSignal

from hedmlive.callbacks import (
    HedmLive,
    Problems,
    ReducedArchiveReader,
    RunReduction,
    load_settings,
    open_source,
    process,
)
from hedmlive.callbacks.plans import moves_of
from hedmlive.callbacks.trajectory import RunTrajectory
from hedmlive.streaming import (
    Axis,
    Batches,
    DocumentError,
    Frame,
    FromPositions,
    Planned,
    Recipe,
    Reducer,
    SettingsError,
    digest,
    tables_with_roles,
)

SHAPE = (9, 10)
RECIPE: dict[str, Any] = {"threshold": 10.0}
ROLES = {"omega": "rot", "dty": "dty", "L1": "det_z"}


def settings(folder: Path, trajectory: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    detectors = changes.pop("n_detectors", 1)
    return load_settings(
        {
            "roles": ROLES,
            "detectors": [{"name": f"det{d}", "image": f"det{d}_image"} for d in range(detectors)],
            "recipe": RECIPE | changes.pop("recipe", {}),
            "archive": {"folder": str(folder)},
            "worker": {"reorder_points": 3, "role_points": 2},
            "trajectory": trajectory or {},
            **changes,
        }
    )


# ---------------------------------------------------------------- settings

OMEGA = {"start": 0, "step": 1, "count": 4}
WRONG = [
    ({"axes": {"omega": {"start": 0, "step": 1}}}, "count is missing"),
    ({"axes": {"omega": {**OMEGA, "positions": [1]}}}, "one or the other"),
    ({"axes": {"omega": {**OMEGA, "step": 0}}}, "step is 0"),
    ({"axes": {"omega": {**OMEGA, "count": 0}}}, "wanted 1 to 2000000"),
    ({"axes": {"omega": {**OMEGA, "count": 20_000_000}}}, "wanted 1 to 2000000"),
    ({"axes": {"omega": {**OMEGA, "start": math.inf}}}, "finite"),
    ({"axes": {"omega": {"positions": [0, math.nan]}}}, "finite"),
    ({"axes": {"omega": {"tolerance": -1}}}, "greater than or equal to 0"),
    ({"axes": {"dty": {"tolerance": math.inf, "link": True}}}, "nothing can be linked along it"),
    ({"axes": {"omgea": {"link": True}}}, "axis omgea is not a role; wanted one of L1 and dty and omega"),
    ({"axes": {"omega": OMEGA, "dty": OMEGA}}, "which of dty and omega is slow"),
    ({"axes": {"omega": OMEGA, "dty": OMEGA}, "order": ["omega"]}, "order holds omega; wanted each axis"),
    ({"axes": {"omega": OMEGA}, "order": ["omega", "omega"]}, "order holds omega and omega"),
    (
        {"axes": {"omega": {**OMEGA, "count": 5000}, "dty": {**OMEGA, "count": 5000}}, "order": ["dty", "omega"]},
        "25000000",
    ),
    ({"axes": {"omega": OMEGA}, "source": "documents"}, "source is documents; wanted settings"),
    ({"axes": {"omega": OMEGA}, "snaked": ["dty"]}, "snaked holds dty"),
    ({"axes": {"omega": OMEGA}, "flip": True}, "say passes too"),
    ({"source": "settings"}, "no axis has positions"),
    ({"source": "plan"}, "source"),
    ({"passes": 2}, "wanted axes with positions"),
    ({"order": ["omega"]}, "wanted axes with positions"),
    ({"links": [[1, 1]]}, "two different scan points"),
    ({"links": [[-1, 1]]}, "two different scan points"),
    ({"skip_first": 1, "source": "positions"}, "does not go with source positions"),
    ({"skip": 1}, "not permitted"),
]


@pytest.mark.parametrize(("block", "says"), WRONG)
def test_errors_of_settings_say_what_to_do(block: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(tmp_path, block)
    assert says in str(caught.value)
    assert "trajectory" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "block",
    [
        {},
        {"axes": {"dty": {"tolerance": math.inf}, "omega": {"period": 0, "reach": 2.5}}},
        {"axes": {"omega": {"start": "pso_start", "step": "pso_delta", "count": "pso_n", "marks": "start"}}},
        {
            "axes": {"omega": OMEGA, "dty": {"positions": [0.0, 0.1]}, "L1": {"link": False}},
            "order": ["dty", "omega"],
            "snaked": True,
            "passes": 2,
            "flip": True,
            "links": [[0, 7]],
        },
        {"axes": {"omega": OMEGA, "dty": OMEGA}, "order": [["omega", "dty"]]},
    ],
)
def test_settings_come_back_from_their_archive(block: dict[str, Any], tmp_path: Path) -> None:
    made = settings(tmp_path, block)
    assert load_settings(json.loads(made.to_json())) == made
    if any(set(axis) & {"start", "positions"} for axis in block.get("axes", {}).values()):
        assert made.trajectory.source == "settings"


# ---------------------------------------------------------------- plans


def documents_of(plan: Callable[..., Any], *args: Any, **keywords: Any) -> hostile.Documents:
    """The documents of a plan of bluesky; motors are given by their name."""
    devices = {name: SynAxis(name=name) for name in ("rot", "dty", "det_z")}
    devices["dty"].set(3.25)
    detector = SynSignal(func=lambda: np.full(SHAPE, 3, np.uint16), name="det0_image")
    documents: hostile.Documents = []
    given = [devices.get(each, each) if isinstance(each, str) else each for each in args]
    if "snake_axes" in keywords and isinstance(keywords["snake_axes"], list):
        keywords["snake_axes"] = [devices[name] for name in keywords["snake_axes"]]
    engine = RunEngine({}, context_managers=[])
    engine(plan([detector], *given, **keywords), lambda name, doc: documents.append((name, dict(doc))))
    return documents


ROT, DTY = ("rot", 0, 3, 4), ("dty", 1, 2, 3)
PLANS: dict[str, tuple[Any, ...]] = {
    "scan": (bp.scan, "rot", -1, 2, 7),
    "scan of two": (bp.scan, "rot", -1, 2, "dty", 0, 0.5, 4),
    "list_scan": (bp.list_scan, "rot", [0, 1.4, 2.8]),
    "list_scan of an array": (bp.list_scan, "rot", np.array([0, 1.4, 2.8]), "dty", np.array([1, 1, 2])),
    "grid_scan": (bp.grid_scan, *DTY, *ROT),
    "grid_scan of three": (bp.grid_scan, "det_z", 5, 7, 2, *DTY, *ROT),
    "list_grid_scan": (bp.list_grid_scan, "dty", [1, 2], "rot", [0, 1, 3]),
    "rel_scan": (bp.rel_scan, "rot", -1, 2, 7),
    "rel_list_scan": (bp.rel_list_scan, "rot", [0, 1.4, 2.8]),
    "rel_grid_scan": (bp.rel_grid_scan, *DTY, *ROT),
    "rel_list_grid_scan": (bp.rel_list_grid_scan, "dty", [1, 2], "rot", [0, 1, 3]),
    "log_scan": (bp.log_scan, "rot", 0, 2, 4),
}
SNAKED: dict[str, tuple[Any, ...]] = {
    "grid_scan": (bp.grid_scan, "det_z", 5, 7, 2, *DTY, *ROT),
    "list_grid_scan": (bp.list_grid_scan, "det_z", [5, 7, 9], "dty", [1, 2], "rot", [0, 1, 3]),
}
WAYS = [
    *(pytest.param(plan, args, {}, id=name) for name, (plan, *args) in PLANS.items()),
    *(
        pytest.param(plan, args, {"snake_axes": axes}, id=f"{name} {axes}")
        for name, (plan, *args) in SNAKED.items()
        for axes in (True, ["rot"], ["rot", "dty"], [])
    ),
]


@pytest.mark.parametrize(("plan", "args", "keywords"), WAYS)
def test_a_plan_tells_where_its_motors_go(plan: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    documents = documents_of(plan, *args, **keywords)
    for start in (documents[0][1], json.loads(json.dumps(documents[0][1], default=np.ndarray.tolist))):
        moves = moves_of(start)
        assert moves is not None
        assert moves.relative == plan.__name__.startswith("rel_")
        for motor, positions in moves.positions.items():
            went = np.array([doc["data"][f"{motor}_setpoint"] for name, doc in documents if name == "event"])
            start_at = went[0] - positions[0] if moves.relative else 0.0
            np.testing.assert_allclose(positions + start_at, went, atol=1e-12)


def test_a_relative_plan_tells_no_omega(tmp_path: Path) -> None:
    """Its neighbours are those of the plan; omega is what is read, and an offset of all frames is no deviation."""
    documents = documents_of(bp.rel_scan, "rot", 10, 13, 4)
    documents = [
        (name, {**doc, "data": {**doc["data"], "rot": doc["data"]["rot"] + 77.0}} if name == "event" else doc)
        for name, doc in documents
    ]
    result = process(documents, settings(tmp_path, roles={"omega": "rot"}))
    assert result.problems == ()
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        assert archive.attributes(0)["trajectory"]["relative"] is True
        assert archive.read(0, "frames")["omega_start"].tolist() == [87.0, 88.0, 89.0, 90.0]


@pytest.mark.parametrize(
    ("plan", "args", "says"),
    [
        (bp.spiral_square, ("rot", "dty", 0, 0, 1, 1, 3, 3), "plan_pattern 'spiral_square' is not known"),
        (bp.spiral, ("rot", "dty", 0, 0, 1, 1, 0.3, 5), "plan_pattern 'spiral' is not known"),
        (bp.spiral_square, ("det_z", "dty", 0, 0, 1, 1, 3, 3), ""),
        (bp.scan, ("dty", 0, 1, 4), ""),
        (bp.count, (), ""),
    ],
)
def test_other_plans_go_on_in_order(plan: Any, args: tuple[Any, ...], says: str, tmp_path: Path) -> None:
    result = process(documents_of(plan, *args), settings(tmp_path, roles={"omega": "rot"}))
    problems = [problem for problem in result.problems if "role omega" not in problem]
    assert [says in problem for problem in problems] == [True] * bool(says)
    with ReducedArchiveReader(result.reduced or tmp_path) as archive:
        assert archive.attributes(0)["trajectory"]["source"] == "order"


def start_of(**said: Any) -> dict[str, Any]:
    return {"uid": "u", "time": 0.0, "motors": ["rot"], **said}


LIES = [
    {"shape": [5], "extents": [[0, 4]], "num_points": 4},
    {"shape": [5, 5], "extents": [[0, 4], [0, 4]]},
    {"shape": [5], "extents": [[0, math.nan]]},
    {"shape": [5], "extents": [[0, math.inf]]},
    {"shape": [5], "extents": [[0, "far"]]},
    {"shape": [5], "extents": [0, 4]},
    {"shape": 5, "extents": 4},
    {"shape": [0], "extents": [[0, 1]]},
    {"shape": [-3], "extents": [[0, 1]]},
    {"shape": [2.5], "extents": [[0, 1]]},
    {"shape": [10**12], "extents": [[0, 1]]},
    {"shape": [10**400], "extents": [[0, 1]]},
    {"motors": ["rot", "dty"], "shape": [4000, 4000], "extents": [[0, 1], [0, 1]]},
    {"plan_pattern": "inner_product", "plan_pattern_args": {"num": 10**9, "args": ["m", 0, 1]}},
    {"plan_pattern": "inner_product", "plan_pattern_args": {"num": 3, "args": ["m", 0]}},
    {"plan_pattern": "inner_product", "plan_pattern_args": {"num": None, "args": ["m", 0, 1]}},
    {"plan_pattern": "inner_product", "plan_pattern_args": 7},
    {"plan_pattern": "inner_product", "plan_pattern_args": {"num": 3, "args": ["m", 0, 1]}, "shape": [4]},
    {"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["m", "text"]}},
    {"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["m", []]}},
    {"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["m", [[1, 2], [3]]]}},
    {"plan_pattern": "inner_list_product", "plan_pattern_args": {"args": ["m", 3]}},
    {"plan_pattern": "outer_list_product", "plan_pattern_args": {"args": ["m", [1]], "snake_axes": "<generator>"}},
    {"plan_pattern": "outer_product", "plan_pattern_args": {"args": [["m"]] * 4}},
    {"plan_pattern": "linspace", "plan_pattern_args": {}},
    {"plan_pattern": "logspace", "plan_pattern_args": {"start": 0, "stop": 400, "num": 3}},
    {"plan_pattern": {"a": "mapping"}},
]


@pytest.mark.parametrize("said", LIES)
def test_a_plan_that_makes_no_sense_is_named_once(said: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="cannot be used"):
        moves_of(start_of(**said))
    problems = Problems("u")
    run = RunTrajectory(settings(tmp_path), start_of(**said), problems)
    assert [run.follow(each).trajectory for each in (1, 1, 2)] == [None] * 3
    assert dict(problems.counts) == {"trajectory": 1}
    assert len(problems.lines()[0]) < 400


@pytest.mark.parametrize(
    "said",
    [
        {"motors": None},
        {"motors": 3, "shape": [4]},
        {"motors": [None, 3.5], "hints": 7},
        {"motors": [], "hints": {"dimensions": [3, [], [[]], [["time"], "primary"]]}},
        {"num_points": 10**15},
        {"motors": ["rot"] * 50},
    ],
)
def test_a_plan_that_does_not_tell_is_no_problem(said: dict[str, Any], tmp_path: Path) -> None:
    problems = Problems("u")
    run = RunTrajectory(settings(tmp_path), start_of(**said), problems)
    assert run.follow(1).trajectory is None
    assert problems.lines() == []


# ---------------------------------------------------------------- runs


def image(frame: int, detector: int = 0) -> np.ndarray:
    """A few spots here and there: any two images share some, so that the digest says which were neighbours."""
    noise = np.random.default_rng([frame, detector])
    made = np.full(SHAPE, 3, np.uint16)
    for row, col in zip(noise.integers(0, 8, 8), noise.integers(0, 9, 8), strict=True):
        made[row : row + 2, col] = noise.integers(20, 90)
    return made


def run(
    read: Mapping[str, Iterable[float]],
    /,
    *,
    lost: Iterable[int] = (),
    refused: Iterable[int] = (),
    n_detectors: int = 1,
    configuration: Mapping[str, Any] | None = None,
    **start: Any,
) -> hostile.Documents:
    """A run of events with images inside; those that are lost never come, refused ones have another shape."""
    uid = hostile.UID
    columns = {key: list(values) for key, values in read.items()}
    n = len(next(iter(columns.values()))) if columns else int(start["num_points"])
    keys = [f"det{d}_image" for d in range(n_detectors)]
    numbers = {key: {"source": "SIM", "dtype": "number", "shape": []} for key in columns}
    described = {"source": "SIM", "dtype": "array", "shape": list(SHAPE), "dtype_numpy": "<u2"}
    descriptor = {
        "uid": f"{uid}-primary",
        "run_start": uid,
        "name": "primary",
        "time": 1.0,
        "data_keys": {**numbers, **dict.fromkeys(keys, described)},
        "configuration": {"pso": {"data": configuration or {}, "timestamps": {}, "data_keys": {}}},
    }
    docs: hostile.Documents = [("start", {"uid": uid, "time": 1.0, **start}), ("descriptor", descriptor)]
    for i in sorted(set(range(n)) - set(lost)):
        data: dict[str, Any] = {key: values[i] for key, values in columns.items()}
        data |= {key: image(i, d)[: 4 if i in set(refused) else None] for d, key in enumerate(keys)}
        docs.append(("event", hostile.event(uid, i, data)))
    stop = {"uid": f"{uid}-stop", "run_start": uid, "time": 9.0, "exit_status": "success", "num_events": {"primary": n}}
    return [*docs, ("stop", stop)]


def direct(
    trajectory: Planned | FromPositions | None,
    roles: Mapping[str, Iterable[float]],
    *,
    absent: Iterable[int] = (),
    detector: int = 0,
    half: float = 0.0,
    seed: int = 0,
) -> str:
    """The digest of the reducer alone, its frames in any order, told of no missing one before the end."""
    reducer = Reducer(Recipe(**RECIPE), trajectory=trajectory)
    columns = {role: list(values) for role, values in roles.items()}
    frames = sorted(set(range(len(columns["omega"]))) - set(absent))
    random.Random(seed).shuffle(frames)
    pushed: dict[int, Batches] = {}
    for i in frames:
        others = {role: values[i] for role, values in columns.items() if role != "omega"}
        start, end = columns["omega"][i] - half, columns["omega"][i] + half
        pushed[i] = reducer.push(
            Frame(
                frame=i,
                point=i,
                image=image(i, detector),
                detector=detector,
                omega_start=start,
                omega_end=end,
                roles=others,
            )
        )
    batches = [*(pushed[i] for i in sorted(pushed)), reducer.flush()]
    return digest(tables_with_roles({}), lambda name: [batch[name] for batch in batches if name in batch])


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
        [result] = live.wait(20).values()
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
