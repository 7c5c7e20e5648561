"""The step scan: what it says in its start document, in which order it acts, what it refuses."""

from pathlib import Path
from typing import Any

import pytest
from bluesky import RunEngine
from bluesky.utils import Msg

from hedmlive.devices import step_scan
from hedmlive.simulators import SimAxis, SimulatedStation, simulated_station
from hedmlive.streaming.errors import SettingsError


@pytest.fixture
def made(tmp_path: Path) -> SimulatedStation:
    return simulated_station(tmp_path, detector="array", shape=(16, 16), n_grains=3, seed=1)


def execute(plan: Any) -> list[tuple[str, dict[str, Any]]]:
    documents: list[tuple[str, dict[str, Any]]] = []

    def keep(name: str, doc: Any) -> None:
        documents.append((name, doc))

    RunEngine({}, context_managers=[])(plan, keep)
    return documents


def test_start_document(made: SimulatedStation) -> None:
    (_, start), *_ = execute(
        step_scan([made.detector], made.rotation, 90, -0.25, 5, md={"sample_name": "gold", "motors": ["other"]})
    )
    assert start["plan_name"] == "step_scan"
    assert start["sample_name"] == "gold"
    assert start["motors"] == ["other"]  # the caller knows better
    assert start["detectors"] == ["detector"]
    assert start["omega_step"] == -0.25
    assert start["hints"]["dimensions"] == [[["rotation"], "primary"]]
    assert start["shape"] == [5]
    assert start["extents"] == [[90, 89.0]]
    assert start["num_points"] == 5
    assert start["num_intervals"] == 4
    assert start["num_dark_frames"] == 0
    assert start["plan_args"] == {
        "detectors": ["detector"],
        "rotation": "rotation",
        "start": 90,
        "step": -0.25,
        "n_points": 5,
        "dark_frames": 0,
    }


def test_a_plain_scan_has_one_stream_and_moves_to_exact_positions(made: SimulatedStation) -> None:
    documents = execute(step_scan([made.detector], made.rotation, 0, 0.1, 12))
    assert documents[-1][1]["num_events"] == {"primary": 12}
    omega = [doc["data"]["rotation"] for name, doc in documents if name == "event"]
    assert omega == [i * 0.1 for i in range(12)]


def test_the_shutter_closes_for_darks_opens_for_the_scan_and_closes_at_the_end(made: SimulatedStation) -> None:
    plan = step_scan([made.detector], made.rotation, 0, 1, 2, dark_frames=3, shutter=made.shutter)
    steps: list[str] = []

    def watch() -> Any:
        response = None
        while True:
            try:
                message: Msg = plan.send(response)
            except StopIteration:
                return
            if message.command == "set" and message.obj is made.shutter:
                steps.append(message.args[0])
            elif message.command in ("open_run", "close_run", "stage", "unstage"):
                steps.append(message.command)
            elif message.command == "create":
                steps.append(message.kwargs["name"])
            response = yield message

    execute(watch())
    dark = ["close", "stage", "dark", "dark", "dark", "unstage"]
    light = ["open", "stage", "stage", "primary", "primary", "unstage", "unstage"]
    assert steps == ["open_run", *dark, *light, "close_run", "close"]


def test_the_shutter_closes_even_when_the_scan_fails(made: SimulatedStation) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("stage stuck")

    made.rotation.set = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="stage stuck"):
        execute(step_scan([made.detector], made.rotation, 0, 1, 2, shutter=made.shutter))
    assert made.shutter.get() == "close"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": 0.0}, "step 0.0 degrees makes no scan"),
        ({"step": 361.0}, "at most 360"),
        ({"n_points": 0}, "0 points"),
        ({"dark_frames": -1}, "-1 dark frames"),
        ({"dark_frames": 1}, "without a shutter"),
        ({"rotation": SimAxis(name="plain")}, "'plain' has no signal 'step'"),
    ],
)
def test_what_makes_no_scan_is_refused(made: SimulatedStation, options: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"rotation": made.rotation, "start": 0.0, "step": 1.0, "n_points": 2} | options
    with pytest.raises(SettingsError, match=words):
        execute(step_scan([made.detector], **settings))
