"""From plans and settings to trajectories."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bluesky.plans as bp
import hostile
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd.sim import SynAxis, SynSignal
from planned_runs import SHAPE, settings

from hedmlive.callbacks import (
    Problems,
    ReducedArchiveReader,
    load_settings,
    process,
)
from hedmlive.callbacks.plans import moves_of
from hedmlive.callbacks.trajectory import RunTrajectory
from hedmlive.streaming import (
    DocumentError,
    SettingsError,
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
