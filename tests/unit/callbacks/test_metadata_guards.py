"""The guards of metadata: every fault of the corpus gives its one warning, right scans none, a replay the same."""

import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty
import faulty_scans
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hedmlive.callbacks import HedmLive, Problem, Problems, RunResult, load_settings, open_source, process
from hedmlive.callbacks.fakes import KeepingSink
from hedmlive.callbacks.guard_settings import K_EDGES, KINDS, GuardSettings
from hedmlive.callbacks.guards import Guards
from hedmlive.callbacks.guards_omega import OmegaGuard, Plan
from hedmlive.streaming import SettingsError

ONE_OF_EACH = list({fault.kind: fault for fault in faulty.FAULTS}.values())


def reduced(scan: faulty_scans.Scan, folder: Path, **changes: Any) -> RunResult:
    plain = {**faulty_scans.settings(scan, folder), **changes}
    return process(faulty_scans.documents(scan), load_settings(plain), stem="run", write_raw=True)


def said(result: RunResult) -> list[dict[str, Any]]:
    return [warning.as_dict() for warning in result.warnings]


@pytest.mark.parametrize("name", list(faulty_scans.CLEAN))
def test_nothing_is_said_of_a_right_scan(name: str, tmp_path: Path) -> None:
    result = reduced(faulty_scans.CLEAN[name], tmp_path)
    assert result.problems == ()
    assert result.warnings == ()
    assert result.progress.n_frames == len(faulty_scans.CLEAN[name])


@pytest.mark.parametrize("fault", faulty.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_gives_its_warning_and_loses_nothing(fault: faulty.Fault, tmp_path: Path) -> None:
    result = reduced(fault.scan, tmp_path / "a")
    [warning] = result.warnings
    assert (warning.kind, warning.frame, warning.last, warning.times) == (
        fault.kind,
        fault.frame,
        fault.last,
        fault.times,
    )
    assert fault.says in warning.message
    assert warning.message.startswith(f"{fault.kind}: ") or fault.kind == "off-plan"
    [line] = result.problems
    assert warning.message in line
    assert result.progress.n_frames == len(fault.scan)
    quiet = reduced(fault.scan, tmp_path / "b", guards={"enabled": False})
    assert quiet.digests == result.digests
    # Without guards only the trajectory itself says that frames are elsewhere.
    assert all("away from where" in line or line.startswith("and ") for line in quiet.problems)


@pytest.mark.parametrize("fault", ONE_OF_EACH, ids=lambda fault: fault.kind)
def test_archives_say_it_and_a_replay_says_the_same(fault: faulty.Fault, tmp_path: Path) -> None:
    plain = faulty_scans.settings(fault.scan, tmp_path)
    live = HedmLive(plain)
    heard: list[Problem] = []
    live.on_warning(heard.append)
    try:
        for name, doc in faulty_scans.documents(fault.scan):
            live(name, doc)
        [result] = live.wait(120).values()
    finally:
        live.close()
    assert [each.kind for each in heard] == [fault.kind]
    assert result.raw is not None
    assert result.reduced is not None
    with h5py.File(result.reduced) as file:
        assert json.loads(file["reduction_0000"].attrs["guards"]) == said(result)
        assert json.loads(file["reduction_0000"].attrs["warnings"]) == list(result.problems)
    with h5py.File(result.raw) as file:
        assert list(file["entry"].attrs["problems"]) == list(result.problems)
    again = process(open_source(str(result.raw)).documents, load_settings(plain), stem="again")
    assert said(again) == said(result)
    assert again.digests == result.digests


# Scans of every kind


def _grid(rows: int, cols: int, snaked: bool) -> np.ndarray:
    line = np.arange(cols)
    return np.concatenate([line[::-1] if snaked and row % 2 else line for row in range(rows)])


def _passes(n: int, passes: int, flip: bool) -> np.ndarray:
    parts = [np.arange(first, n, passes) for first in range(passes)]
    return np.concatenate([part[::-1] if flip and at % 2 else part for at, part in enumerate(parts)])


@st.composite
def omegas(draw: st.DrawFn) -> np.ndarray:
    n = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["sweep", "grid", "passes", "irrational", "turns"]))
    step = draw(st.sampled_from([0.01, 0.1, 0.25, 1.0, 5.0])) * draw(st.sampled_from([1, -1]))
    start = draw(st.floats(-180, 180))
    if kind == "grid":
        places = _grid(draw(st.integers(1, 6)), draw(st.integers(1, 25)), draw(st.booleans()))
    elif kind == "passes":
        places = _passes(n, draw(st.integers(1, 4)), draw(st.booleans()))
    elif kind == "irrational":
        places, step = np.arange(n), draw(st.sampled_from([math.pi, math.sqrt(2) * 100, 137.50776405, 222.4922359]))
    else:
        places = np.arange(n)
    made = start + step * places
    # Encoders have noise, and some count one turn only.
    made = made + abs(step) * 0.02 * np.random.default_rng(n).standard_normal(len(made))
    return np.mod(made, 360.0) if draw(st.booleans()) else made


def through(omega: np.ndarray, plan: np.ndarray | None, step: float = 0.0, width: float = math.nan) -> list[str]:
    guard = OmegaGuard(0.5, 360.0)
    found = []
    position = {} if plan is None else dict(enumerate(plan.tolist()))
    made = Plan(position=lambda frame: position.get(frame, math.nan), step=step, relative=False)
    for i, each in enumerate(omega.tolist()):
        found += guard.followed(i, i, each, width) if plan is None else guard.planned(i, i, each, made)
    return [each.kind for each in (*found, *guard.finish())]


@hypothesis_settings(max_examples=300, deadline=None)
@given(omegas())
def test_no_way_of_omega_is_wrong_by_itself(omega: np.ndarray) -> None:
    assert through(omega, None) == []


@hypothesis_settings(max_examples=200, deadline=None)
@given(omegas(), st.floats(0.01, 0.4))
def test_a_way_that_was_planned_is_right(omega: np.ndarray, off: float) -> None:
    places = np.sort(np.mod(omega, 360.0))
    moves = np.diff(places)[np.diff(places) > 1e-3]
    step = float(np.median(moves)) if len(moves) else 0.0
    wobble = off * step * np.cos(np.arange(len(omega)))
    assert through(omega + wobble + 360.0, omega, step) == []


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    n=st.integers(12, 60),
    at=st.integers(6, 55),
    step=st.sampled_from([0.1, 0.25, -0.5, 2.0]),
    fault=st.sampled_from(["omega-missing", "omega-repeated", "omega-backwards", "omega-stuck", "omega-sign"]),
    told=st.booleans(),
)
def test_a_fault_of_omega_is_found_wherever_it_is(n: int, at: int, step: float, fault: str, told: bool) -> None:
    at = min(at, n - 4)
    plan = 30.0 + step * np.arange(n)
    omega = plan.copy()
    if fault == "omega-missing":
        omega[at:] += step
    elif fault == "omega-repeated":
        omega[at:] -= step
    elif fault == "omega-backwards":
        omega[at] -= 2 * step
    elif fault == "omega-stuck":
        omega[at:] = omega[at - 1]
    else:
        omega = 60.0 - plan
    width = step if fault == "omega-sign" else math.nan
    assert set(through(omega, plan if told else None, abs(step), width)) == {fault}


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["settings", "documents", "positions", "order"]),
    rows=st.integers(1, 3),
    cols=st.integers(2, 12),
    snaked=st.booleans(),
    sign=st.sampled_from([1, -1]),
)
def test_right_scans_of_every_trajectory(
    kind: str, rows: int, cols: int, snaked: bool, sign: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Grids of omega and dty, whose positions are told in each of the ways."""
    omega, dty = 0.5 * _grid(rows, cols, snaked), 0.1 * np.repeat(np.arange(rows), cols)
    trajectory: dict[str, Any] = {"source": kind}
    if kind == "settings":
        axes = {
            "omega": {"start": 0, "step": 0.5, "count": cols},
            "dty": {"start": 0, "step": 0.1, "count": rows},
        }
        trajectory |= {"axes": axes, "order": ["dty", "omega"], "snaked": snaked}
    start = {
        "motors": ["dty", "omega"],
        "shape": [rows, cols],
        "extents": [[0, 0.1 * (rows - 1)], [0, 0.5 * (cols - 1)]],
        "snaking": [False, snaked],
        "num_points": rows * cols,
    }
    scan = faulty_scans.Scan(
        omega=omega, read={"dty": dty}, start=start, settings={"trajectory": trajectory, "omega_sign": sign}
    )
    assert reduced(scan, tmp_path_factory.mktemp("grid")).problems == ()


# Around


def test_a_stream_of_warnings_disturbs_nothing(tmp_path: Path) -> None:
    scan = faulty.FAULTS[0].scan
    docs = faulty_scans.documents(scan)
    uid, key = faulty_scans.UID, {"source": "S", "dtype": "string", "shape": []}
    name, doc = faulty_scans._descriptor(uid, "warnings", {"w": key})
    with_stream = [*docs[:3], (name, doc)]
    for i, each in enumerate(docs[3:]):
        text = {"w": "energy-mismatch: look"}
        with_stream += [each, faulty_scans._event(uid, "warnings", i, text, faulty_scans.T0 + i)]
    with_stream = [each for each in with_stream if each[0] != "stop"] + docs[-1:]
    plain = load_settings(faulty_scans.settings(scan, tmp_path))
    results = [process(each, plain, stem=f"s{n}", write_raw=True) for n, each in enumerate((docs, with_stream))]
    assert results[0].digests == results[1].digests
    assert said(results[0]) == said(results[1])
    assert results[1].raw is not None
    again = process(open_source(str(results[1].raw)).documents, plain, stem="again")
    assert again.digests == results[0].digests
    assert said(again) == said(results[0])


def test_a_dark_of_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "dark.npy", np.zeros(faulty_scans.SHAPE, np.uint16))
    plain = faulty_scans.settings(faulty_scans.sweep(), tmp_path)
    plain["detectors"][0]["dark"] = str(tmp_path / "dark.npy")
    plain["recipe"] = {"threshold": 200.0, "background": "dark"}
    result = process(faulty_scans.documents(faulty_scans.sweep()), load_settings(plain))
    [warning] = result.warnings
    assert (warning.kind, warning.frame) == ("dark-zero", None)
    assert "the dark of det is zero" in warning.message


def test_ignored_kinds_are_silent(tmp_path: Path) -> None:
    fault = faulty.FAULTS[0]
    result = reduced(fault.scan, tmp_path, guards={**fault.scan.guards, "ignore": ["energy-mismatch"]})
    assert result.problems == ()


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"ignore": ["omega-wrong"]}, "ignore holds omega-wrong; wanted some of"),
        ({"energy_edge": "Xx"}, "energy_edge is 'Xx'; wanted one of Ti"),
        ({"energy_tolerance": 0}, "guards.energy_tolerance"),
        ({"tolerance": 1}, "not permitted"),
    ],
)
def test_errors_of_settings(block: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(faulty_scans.settings(replace(faulty_scans.sweep(), guards=block), tmp_path))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_energy_in_ev(tmp_path: Path) -> None:
    scan = replace(faulty_scans.sweep(), baseline={"energy": 63313.8}, guards={"energy_edge": "Lu"})
    docs = faulty_scans.documents(scan)
    docs[1][1]["data_keys"]["energy"] = {**docs[1][1]["data_keys"]["energy"], "units": "eV"}
    assert process(docs, load_settings(faulty_scans.settings(scan, tmp_path))).problems == ()


def test_edges_rise_with_the_atomic_number() -> None:
    assert list(K_EDGES.values()) == sorted(K_EDGES.values())
    # Moseley: the square root of the energy is nearly linear in the number of the element.
    assert math.isclose(math.sqrt(K_EDGES["Lu"] / K_EDGES["Mo"]), (71 - 1) / (42 - 1) * 1.04, rel_tol=0.03)


def test_a_guard_that_fails_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> Iterator[Any]:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Guards, "frame", broken)
    result = reduced(faulty_scans.sweep(), tmp_path)
    assert [(each.kind, each.times) for each in result.warnings] == [("guard", faulty_scans.N)]
    assert result.progress.n_frames == faulty_scans.N


def test_listeners_hear_at_once_and_may_fail(tmp_path: Path) -> None:
    fault = next(fault for fault in faulty.FAULTS if fault.name == "distance jumps")
    live = HedmLive(faulty_scans.settings(fault.scan, tmp_path))
    heard, came = [], threading.Event()

    def fails(problem: Problem) -> None:
        raise RuntimeError("nobody listens")

    def listens(problem: Problem) -> None:
        heard.append((problem.kind, threading.current_thread().name))
        came.set()

    live.on_warning(fails)
    live.on_warning(listens)
    docs = faulty_scans.documents(fault.scan)
    try:
        for name, doc in docs[:-3]:
            live(name, doc)
        # Before the run is over.
        assert came.wait(20)
        assert [each.kind for each in live.progress().warnings] == ["distance-mismatch"]
        for name, doc in docs[-3:]:
            live(name, doc)
        [result] = live.wait(120).values()
    finally:
        live.close()
    assert heard == [("distance-mismatch", f"hedmlive-{faulty_scans.UID[:8]}")]
    assert len(result.problems) == 1


def test_a_server_has_it_before_the_run_is_over(tmp_path: Path) -> None:
    fault = next(fault for fault in faulty.FAULTS if fault.name == "distance jumps")
    sink = KeepingSink()
    plain = faulty_scans.settings(fault.scan, tmp_path) | {"tiled": {"uri": "http://127.0.0.1:9", "latency": 0.01}}
    live = HedmLive(plain, sink=lambda: sink)
    docs = faulty_scans.documents(fault.scan)
    try:
        for name, doc in docs[:-3]:
            live(name, doc)
        deadline = time.monotonic() + 20
        while "guards" not in sink.metadata and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert [each["kind"] for each in sink.metadata["guards"]] == ["distance-mismatch"]
        assert sink.metadata["status"] == "running"
        for name, doc in docs[-3:]:
            live(name, doc)
        [result] = live.wait(120).values()
    finally:
        live.close()
    assert sink.metadata["guards"] == said(result)
    assert sink.metadata["warnings"] == list(result.problems)


def test_counts_are_told_and_bounded() -> None:
    problems = Problems("run")
    assert problems.warn("scaling", "a", "first", 3)
    assert not problems.warn("scaling", "a", "second", 5)
    assert problems.warn("scaling", "b", "third")
    problems.repeat("frame", 2)
    assert problems.counts["scaling"] == 3
    assert problems.lines() == [
        "run run, frame 3: first (2 frames, the last is 5)",
        "run run: third",
        "and 2 more",
    ]
    for number in range(1000):
        problems.add("frame", "many", number)
    assert problems.warn("scaling", "c", "too many")
    assert not problems.warn("scaling", "c", "too many")
    assert problems.lines()[-1] == "and 6 more"


def test_every_kind_says_what_to_do() -> None:
    assert GuardSettings(ignore=tuple(KINDS)).ignore == tuple(KINDS)
    assert {fault.kind for fault in faulty.FAULTS} >= set(KINDS) - {"guard", "frame-lost"}
