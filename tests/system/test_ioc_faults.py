"""Each fault of the soft IOC, over real Channel Access and with a real RunEngine: its one warning, and nothing lost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import pytest
from bluesky import RunEngine
from bluesky.utils import Msg
from ophyd import EpicsSignal
from ophyd.utils import DisconnectedError

from hedmlive.callbacks import HedmLive, Problem, RunResult, load_settings, open_source, process
from hedmlive.devices import Station, make_station, step_scan
from hedmlive.simulators.ioc import RunningIoc, run_ioc

N = 12
PREFIX = "FLT:"


@pytest.fixture(scope="module")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningIoc]:
    folder = tmp_path_factory.mktemp("frames")
    options: dict[str, Any] = {
        "shape": (48, 40),
        "n_grains": 4,
        "frames_per_second": 500,
        "velocity": 5000,
        "reading_period": 0.05,
    }
    with run_ioc(folder=folder, prefix=PREFIX, **options) as running:
        yield running


@pytest.fixture(scope="module")
def station(ioc: RunningIoc) -> Iterator[Station]:
    made = make_station(ioc.station)
    made.wait_for_connection(60)
    yield made
    for device in made.devices:
        device.destroy()


@dataclass
class Scanned:
    """A scan, and when what was said of it."""

    result: RunResult
    heard: list[tuple[float, Problem]]
    "Clock, and what was said."
    frames: dict[int, float]
    "When the document of each frame was handed over."
    failed: str
    "What the plan raised."

    def seconds_after(self, frame: int) -> float:
        """Return how long after the document of a frame the first was said."""
        when, _ = self.heard[0]
        return when - self.frames[frame]


def scanned(station: Station, folder: Path, plan: Any, **changes: Any) -> Scanned:
    plain = {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "det", "image": station.image_key}],
        "recipe": {"threshold": 30, "background": "dark"},
        "archive": {"folder": str(folder)},
        "worker": {"file_seconds": 2},
        **changes,
    }
    live = HedmLive(plain)
    live.ready(120)
    heard: list[tuple[float, Problem]] = []
    frames: dict[int, float] = {}
    live.on_warning(lambda problem: heard.append((time.monotonic(), problem)))
    primary: set[str] = set()

    def keep(name: str, doc: Any) -> None:
        if name == "descriptor" and doc["name"] == "primary":
            primary.add(doc["uid"])
        elif name == "event" and doc["descriptor"] in primary:
            frames[doc["seq_num"] - 1] = time.monotonic()

    engine = RunEngine({})
    engine.subscribe(live)
    engine.subscribe(keep)
    failed = ""
    try:
        try:
            engine(plan)
        except Exception as error:
            failed = repr(error)
        return Scanned(live.wait(60)[live.uids[-1]], heard, frames, failed)
    finally:
        live.close()


def steps(station: Station, *more: Any) -> Any:
    return step_scan(
        [station.detector, *more],
        station.rotation,
        -6.0,
        1.0,
        N,
        dark_frames=2,
        shutter=station.shutter,
        baseline=station.baseline,
    )


def at_point(plan: Any, point: int, do: Callable[[], None]) -> Iterator[Msg]:
    """Do something when so many points of the scan are taken."""
    taken, of_scan = 0, False
    for msg in plan:
        if msg.command == "create":
            of_scan = msg.kwargs["name"] == "primary"
        yield msg
        if msg.command == "save" and of_scan:
            taken += 1
            if taken == point:
                do()


def slowly(plan: Any, reading: Any = None) -> Iterator[Msg]:
    """Wait before each point, as long as exposures take; and until a `reading` is a new one, unless none comes."""
    last = 0.0
    for msg in plan:
        if msg.command == "create":
            deadline = time.monotonic() + 0.3
            while reading is not None and _stamp(reading) == last and time.monotonic() < deadline:
                yield from bps.sleep(0.02)
            last = 0.0 if reading is None else _stamp(reading)
            yield from bps.sleep(0.05)
        yield msg


def _stamp(device: Any) -> float:
    [reading] = device.read().values()
    return float(reading["timestamp"])


def kinds(found: Scanned) -> list[str]:
    return [problem.kind for _, problem in found.heard]


def archived(result: RunResult) -> list[str]:
    with h5py.File(str(result.raw)) as file:
        return list(file["entry"].attrs["problems"])


def test_a_right_scan_gives_none(station: Station, tmp_path: Path) -> None:
    found = scanned(station, tmp_path, steps(station))
    assert found.result.problems == ()
    assert found.result.progress.n_frames == N


def test_a_frame_that_the_writer_lost(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    ioc.fault("drop_frame", 4)
    try:
        found = scanned(station, tmp_path, slowly(steps(station)))
    finally:
        ioc.fault("drop_frame", -1)
    [warning] = found.result.warnings
    assert (warning.kind, warning.frame, warning.last, warning.times) == ("frame-lost", 4, N - 1, N - 4)
    assert kinds(found) == ["frame-lost"]
    assert found.seconds_after(4) < 10
    assert (found.result.progress.n_frames, found.result.progress.n_rejected) == (N - 1, 1)
    assert "frame-lost: det: 1 frame lost before this one" in archived(found.result)[0]


def test_a_motor_that_stands_and_says_that_it_has_arrived(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    """Its record gives up, as one does whose brake is on: readback and time stamp stay."""
    rotation = station.rotation
    stop = EpicsSignal(f"{rotation.prefix}.STOP", name="stop")
    stop.wait_for_connection(timeout=20)
    stuck: list[bool] = []

    def give_up(*, value: Any, **_: Any) -> None:
        if value and stuck:
            stop.put(1, wait=False)

    def sticks() -> None:
        stuck.append(True)
        ioc.fault("stuck", rotation.prefix)

    watching = rotation.motor_is_moving.subscribe(give_up, run=False)
    try:
        found = scanned(station, tmp_path, at_point(steps(station), 5, sticks))
    finally:
        rotation.motor_is_moving.unsubscribe(watching)
        ioc.fault("stuck", "")
        stop.destroy()
    [warning] = found.result.warnings
    assert (warning.kind, warning.frame, warning.last, warning.times) == ("omega-stuck", 5, N - 1, N - 5)
    assert "with its time stamp: the motor stands, or its PV is dead" in warning.message
    assert kinds(found) == ["omega-stuck"]
    # Three frames tell what it is.
    assert found.seconds_after(7) < 10
    assert found.result.progress.n_frames == N
    assert archived(found.result) == list(found.result.problems)


def test_a_pv_that_is_stale(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    monitor: Any = station.monitor
    plan = slowly(at_point(steps(station, monitor), 3, lambda: ioc.fault("stale", monitor.prefix)), monitor)
    try:
        found = scanned(station, tmp_path, plan)
    finally:
        ioc.fault("stale", "")
    [warning] = found.result.warnings
    assert (warning.kind, warning.last) == ("stale-timestamp", N - 1)
    assert "the time stamp of monitor stands still" in warning.message
    assert kinds(found) == ["stale-timestamp"]
    assert warning.frame is not None
    assert found.seconds_after(warning.frame) < 10
    assert found.result.progress.n_frames == N
    assert len(found.result.problems) == 1


def test_a_file_that_is_late_and_waited_for(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    ioc.fault("file_late", 0.5)
    try:
        found = scanned(station, tmp_path, steps(station), worker={"file_seconds": 60})
    finally:
        ioc.fault("file_late", 0.0)
    assert found.result.problems == ()
    assert found.result.progress.n_frames == N


def test_a_file_that_is_too_late(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    plan = step_scan([station.detector], station.rotation, -6.0, 1.0, N, baseline=station.baseline)
    recipe = {"threshold": 30, "background_level": 60}
    ioc.fault("file_late", 2.0)
    try:
        found = scanned(station, tmp_path, plan, worker={"file_seconds": 0.1}, recipe=recipe)
    finally:
        ioc.fault("file_late", 0.0)
    assert found.result.warnings == ()
    assert kinds(found)[0] == "frame"
    assert "is not in its file after 0.1 s" in found.result.problems[0]
    assert found.result.progress.n_frames + found.result.progress.n_rejected == N
    # What came too late is in the file, and a replay has it.
    source = open_source(str(found.result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(tmp_path / "again")}})
    again = process(source.documents, made)
    assert again.problems == ()
    assert again.progress.n_frames == N


def test_an_ioc_that_is_gone_for_a_while(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    def goes() -> None:
        # The plan goes on once it is gone: a move that is under way then would never be reported as done.
        ioc.fault("disconnect", 2.0)
        deadline = time.monotonic() + 30
        while station.rotation.connected:
            assert time.monotonic() < deadline, "the IOC is still there"
            time.sleep(0.01)

    found = scanned(station, tmp_path, at_point(steps(station), 5, goes))
    assert found.failed
    [warning] = found.result.warnings
    assert warning.kind == "run-failed"
    assert "the plan failed after 5 points" in warning.message
    assert kinds(found) == ["run-failed"]
    assert found.result.progress.n_frames == 5
    assert archived(found.result) == list(found.result.problems)
    # And back: the next scan goes through.
    for device in station.devices:
        device.wait_for_connection(timeout=60)
    again = scanned(station, tmp_path / "again", steps(station))
    assert again.result.problems == ()
    assert again.result.progress.n_frames == N


def test_an_ioc_that_goes_in_the_middle_of_a_move(
    ioc: RunningIoc, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation = station.rotation
    monkeypatch.setattr(type(rotation), "lost_after", 0.5)
    ioc.fault("stuck", rotation.prefix)
    status = rotation.set(rotation.position + 3.0)
    ioc.fault("disconnect", 2.0)
    with pytest.raises(DisconnectedError, match=r"is gone for 0\.5 s in the middle of a move"):
        status.wait(30)
    for device in station.devices:
        device.wait_for_connection(timeout=60)
    ioc.fault("stuck", "")
    rotation.stop()
    rotation.set(0.0).wait(30)
    assert rotation.position == 0.0
