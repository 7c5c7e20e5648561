"""Warnings of metadata from a real RunEngine: heard in the session, seen in Tiled while the scan goes on, archived."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import pytest
import yaml
from bluesky import RunEngine
from bluesky.preprocessors import msg_mutator
from bluesky.utils import Msg

from hedmlive.callbacks import HedmLive, Problem, RunResult, load_settings, make_sink, open_source, process
from hedmlive.devices import step_scan
from hedmlive.simulators import SimulatedStation, simulated_station
from hedmlive.tiled_config import connect, disconnect, latest_reduction

N = 24
KEY = "guardstestkey0123456789"


@pytest.fixture
def station(tmp_path: Path) -> SimulatedStation:
    return simulated_station(tmp_path / "frames", detector="stream", shape=(64, 64), n_grains=6)


def settings(station: SimulatedStation, folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "det", "image": station.image_key}],
        "recipe": {"threshold": 30, "background_level": 60},
        "archive": {"folder": str(folder)},
        **changes,
    }


def stuck_at(station: SimulatedStation, frame: int, then: Callable[[], Iterator[Msg]] | None = None) -> Any:
    """A scan whose rotation stands still from a frame on; `then` is done three frames later."""
    moves = 0

    def change(msg: Msg) -> Msg | None:
        nonlocal moves
        if msg.command != "set" or msg.obj is not station.rotation:
            return msg
        moves += 1
        return msg if moves <= frame else msg._replace(args=(station.rotation.position,))

    def inner() -> Iterator[Msg]:
        plan = step_scan([station.detector], station.rotation, -10.0, 0.5, N, baseline=station.baseline)
        done = False
        for msg in msg_mutator(plan, change):
            yield msg
            if then is not None and not done and moves > frame + 4 and msg.command == "checkpoint":
                done = True
                yield from then()

    return inner()


def test_a_motor_that_is_stuck_is_named_everywhere(station: SimulatedStation, tmp_path: Path) -> None:
    live = HedmLive(settings(station, tmp_path))
    heard: list[Problem] = []
    live.on_warning(heard.append)
    engine = RunEngine({})
    engine.subscribe(live)
    try:
        result = _scan(engine, live, station, lambda station: stuck_at(station, 9))
    finally:
        live.close()
    [warning] = result.warnings
    assert (warning.kind, warning.frame, warning.last, warning.times) == ("omega-stuck", 9, N - 1, N - 9)
    assert [each.kind for each in heard] == ["omega-stuck"]
    assert result.progress.n_frames == N
    assert result.raw is not None
    assert result.reduced is not None
    for path, place in ((result.raw, "entry"), (result.reduced, "reduction_0000")):
        with h5py.File(path) as file:
            attributes = file[place].attrs
            lines = attributes["problems"] if place == "entry" else json.loads(attributes["warnings"])
            assert "omega-stuck: omega stays at" in lines[0]
    source = open_source(str(result.raw))
    again = process(source.documents, load_settings(settings(station, tmp_path / "again")), stem="again")
    assert again.digests == result.digests
    assert again.warnings == result.warnings


def test_a_client_of_the_server_sees_it_while_the_scan_goes_on(station: SimulatedStation, tmp_path: Path) -> None:
    with _server(tmp_path) as started:
        # Kernels are compiled and the client is imported while the server starts, which takes longest: it loads Tiled
        # twice, once in a process of its own that makes the catalogue.
        HedmLive(settings(station, tmp_path, tiled={"uri": "http://127.0.0.1:9"})).ready(120)
        uri = started()
        plain = settings(station, tmp_path, tiled={"uri": uri, "latency": 0.05})
        live = HedmLive(plain, sink=lambda: make_sink("tiled", uri, KEY))
        client = connect(uri, KEY)
        seen: list[dict[str, Any]] = []

        def look() -> Iterator[Msg]:
            deadline = time.monotonic() + 60
            while not seen and time.monotonic() < deadline:
                yield from bps.sleep(0.05)
                try:
                    metadata = latest_reduction(client, live.uids[-1]).metadata
                except KeyError:
                    continue
                if metadata.get("guards"):
                    seen.append(dict(metadata))

        engine = RunEngine({})
        engine.subscribe(live)
        try:
            result = _scan(engine, live, station, lambda station: stuck_at(station, 9, look))
            after = dict(latest_reduction(client, result.uid).metadata)
        finally:
            live.close()
            disconnect(client)
    assert seen[0]["status"] == "running"
    assert [each["kind"] for each in seen[0]["guards"]] == ["omega-stuck"]
    assert after["status"] == "complete"
    assert after["warnings"] == list(result.problems)
    assert after["guards"] == [warning.as_dict() for warning in result.warnings]


def test_what_never_came_is_said_before_the_end(station: SimulatedStation, tmp_path: Path) -> None:
    plain = settings(station, tmp_path)
    plain["roles"] |= {"energy": "nowhere"}
    live = HedmLive(plain)
    heard: list[str] = []
    live.on_warning(lambda problem: heard.append(problem.kind))
    at_the_stop: list[str] = []

    def look() -> Iterator[Msg]:
        deadline = time.monotonic() + 30
        while not heard and time.monotonic() < deadline:
            yield from bps.sleep(0.01)
        at_the_stop.extend(heard)

    def plan(station: SimulatedStation) -> Iterator[Msg]:
        for msg in step_scan([station.detector], station.rotation, 0.0, 0.5, N, baseline=station.baseline):
            if msg.command == "close_run":
                yield from look()
            yield msg

    engine = RunEngine({})
    engine.subscribe(live)
    try:
        result = _scan(engine, live, station, plan)
    finally:
        live.close()
    assert at_the_stop == ["role-missing"]
    assert len(result.problems) == 1
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        assert "energy" in list(file["entry/hedm"].attrs["missing"])
        assert "energy" not in file["entry/hedm"]


def _scan(engine: RunEngine, live: HedmLive, station: SimulatedStation, plan: Callable[..., Any]) -> RunResult:
    # The client is imported and the kernels are compiled before the beam is on.
    live.ready(120)
    engine(plan(station))
    return live.wait(60)[live.uids[-1]]


@contextmanager
def _server(folder: Path) -> Generator[Callable[[], str]]:
    """A server in a process of its own; gives what waits until it answers and returns its address."""
    file = folder / "serve.yml"
    file.write_text(yaml.safe_dump({"folder": "tiled", "readable": ["."], "port": 0, "api_key": KEY}))
    command = [sys.executable, "-m", "hedmlive.tiled_config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        stdout = process.stdout
        assert stdout is not None
        try:
            yield lambda: stdout.readline().strip()
        finally:
            process.kill()
