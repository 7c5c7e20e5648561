"""Far-field and near-field scans: start documents, streams, darks, pauses and what is refused."""

from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
import pytest
from bluesky.utils import RunEngineInterrupted
from unit.devices.scanning import Session, after, controller, station

from hedmlive.devices import ff_scan, nf_scan, step_scan
from hedmlive.simulators import SimAxis, SimulatedStation
from hedmlive.streaming.errors import SettingsError


@pytest.fixture
def made(tmp_path: Path) -> SimulatedStation:
    return station(tmp_path)


def near_field(made: SimulatedStation, **options: Any) -> Any:
    values: dict[str, Any] = {
        "distance": made.translation.L1,
        "distance_start": 7.0,
        "distance_end": 11.0,
        "n_distances": 3,
        "layer": SimAxis(name="samy"),
        "layer_start": 8.0,
        "layer_step": -0.5,
        "n_layers": 2,
        "baseline": made.baseline,
    }
    return nf_scan([made.detector], made.rotation, 0.0, 1.0, 4, **(values | options))


def positions(session: Session, *keys: str) -> list[tuple[float, ...]]:
    primary = {doc["uid"] for doc in session.stream("primary")}
    events = [doc for doc in session.of("event") if doc["descriptor"] in primary]
    rows = [tuple(event["data"][key] for key in keys) for event in events]
    for page in session.of("event_page"):
        rows += list(zip(*(page["data"][key] for key in keys), strict=True))
    return rows


@pytest.mark.parametrize("flies", [False, True])
def test_far_field_start_document_and_streams(made: SimulatedStation, *, flies: bool) -> None:
    session = Session()
    mode: dict[str, Any] = {"fly": controller(made), "frame_time": 0.01} if flies else {}
    session(
        ff_scan(
            [made.detector],
            made.rotation,
            90.0,
            -0.5,
            6,
            lead_frames=1,
            wrap_frames=2,
            dark_frames=2,
            dark_frames_after=1,
            shutter=made.shutter,
            baseline=made.baseline,
            md={"sample_name": "gold"},
            **mode,
        )
    )
    [start] = session.of("start")
    assert start["plan_name"] == "ff_scan"
    assert start["sample_name"] == "gold"
    assert (start["motors"], start["shape"], start["extents"]) == (["rotation"], [9], [[90.5, 86.5]])
    assert (start["snaking"], start["num_points"]) == ([False], 9)
    assert start["hints"]["dimensions"] == [[["rotation"], "primary"]]
    assert (start["omega_step"], start["omega_marks"]) == (-0.5, "start")
    assert start["plan_args"]["fly"] == ("pso" if flies else None)
    [stop] = session.of("stop")
    assert stop["num_events"] == {"baseline": 2, "dark": 2, "primary": 9, "dark_after": 1}
    assert positions(session, "rotation") == [(90.5 - 0.5 * i,) for i in range(9)]
    # Both kinds have the same keys: one settings file serves both.
    [descriptor] = session.stream("primary")
    said = {key: value for device in descriptor["configuration"].values() for key, value in device["data"].items()}
    assert said["rotation_step"] == -0.5
    assert descriptor["data_keys"]["detector_image"]["external"] == "STREAM:"
    assert made.shutter.get() == "close"


@pytest.mark.parametrize("flies", [False, True])
@pytest.mark.parametrize("snake", [False, True])
def test_near_field_is_distances_by_layers_by_omega(made: SimulatedStation, *, snake: bool, flies: bool) -> None:
    session = Session()
    mode: dict[str, Any] = {"fly": controller(made), "frame_time": 0.01} if flies else {}
    session(near_field(made, snake=snake, **mode))
    [start] = session.of("start")
    assert start["motors"] == ["translation_L1", "samy", "rotation"]
    assert (start["shape"], start["snaking"]) == ([3, 2, 4], [False, False, snake])
    assert start["extents"] == [[7.0, 11.0], [8.0, 7.5], [0.0, 3.0]]
    expected: list[tuple[float, ...]] = []
    for number, (distance, layer) in enumerate((z, y) for z in (7.0, 9.0, 11.0) for y in (8.0, 7.5)):
        turned = range(3, -1, -1) if snake and number % 2 else range(4)
        expected += [(distance, layer, float(i)) for i in turned]
    np.testing.assert_allclose(positions(session, "translation_L1", "samy", "rotation"), expected)
    assert session.of("stop")[0]["num_events"] == {"baseline": 2, "primary": 24}


def test_near_field_in_a_run_for_each_sweep(made: SimulatedStation) -> None:
    session = Session()
    [uids] = [session(near_field(made, one_run=False, n_layers=1, layer=None, snake=True))]
    starts = session.of("start")
    assert uids == tuple(start["uid"] for start in starts)
    assert [start["grid_positions"] for start in starts] == [[7.0], [9.0], [11.0]]
    assert [start["extents"] for start in starts] == [[[0.0, 3.0]], [[3.0, 0.0]], [[0.0, 3.0]]]
    assert len({start["scan_group"] for start in starts}) == 1
    baseline = {doc["uid"] for doc in session.stream("baseline")}
    read = [doc["data"]["translation_L1"] for doc in session.of("event") if doc["descriptor"] in baseline]
    assert read == [7.0, 7.0, 9.0, 9.0, 11.0, 11.0]


@pytest.mark.parametrize("kind", ["array", "hdf5", "stream"])
@pytest.mark.parametrize("command", ["set", "trigger", "read", "save"])
def test_a_step_scan_goes_on_after_a_pause(tmp_path: Path, kind: str, command: str) -> None:
    made, session = station(tmp_path, kind), Session()
    plan = step_scan([made.detector], made.rotation, 0.0, 1.0, 6, shutter=made.shutter)
    with pytest.raises(RunEngineInterrupted):
        session(after(plan, command, 4, bps.pause))
    session.RE.resume()
    [stop] = session.of("stop")
    assert (stop["exit_status"], stop["num_events"]) == ("success", {"primary": 6})
    # A point that was told of before the pause is repeated under its own number.
    events = {doc["seq_num"]: doc["data"]["rotation"] for doc in session.of("event")}
    assert events == {i + 1: float(i) for i in range(6)}
    assert {datum["indices"]["stop"] - datum["indices"]["start"] for datum in session.of("stream_datum")} <= {1}


@pytest.mark.parametrize("how", ["abort", "stop"])
def test_a_paused_scan_that_is_given_up(made: SimulatedStation, how: str) -> None:
    session = Session()
    plan = ff_scan([made.detector], made.rotation, 0.0, 1.0, 6, shutter=made.shutter)
    with pytest.raises(RunEngineInterrupted):
        session(after(plan, "save", 3, bps.pause))
    getattr(session.RE, how)()
    [stop] = session.of("stop")
    assert stop["exit_status"] == {"abort": "abort", "stop": "success"}[how]
    assert stop["num_events"] == {"primary": 3}
    assert made.shutter.get() == "close"
    assert made.detector._staged.value == "no"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_distances": 0}, "0 distances"),
        ({"layer": None}, "several layers need the motor"),
        ({"layer_step": 0.0}, "several layers need the motor"),
        ({"fly": SimAxis(name="pso")}, "frame_time is None"),
        ({"wrap_frames": -1}, "-1 behind"),
        ({"dark_frames_after": 2}, "without a shutter"),
    ],
)
def test_what_makes_no_near_field_scan_is_refused(made: SimulatedStation, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Session()(near_field(made, **options))


def test_a_detector_that_cannot_fly_is_named(tmp_path: Path) -> None:
    made = station(tmp_path, "array")
    with pytest.raises(SettingsError, match="'detector' cannot fly"):
        Session()(ff_scan([made.detector], made.rotation, 0, 1, 4, fly=controller(made), frame_time=0.1))
