"""Plans, a real RunEngine and live reduction: what a fly scan, a near-field scan and a wrapped plan come to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import h5py
import numpy as np
import pytest
from bluesky import RunEngine

from hedmlive.callbacks import HedmLive, RunResult, hedm_live_init, load_settings, open_source, process
from hedmlive.devices import (
    FileFrames,
    FrameStream,
    LiveWarnings,
    PluginFrames,
    ff_scan,
    fly_run_wrapper,
    nf_scan,
    step_scan,
    warnings_wrapper,
)
from hedmlive.simulators import (
    FrameSource,
    SimAxis,
    SimFlyController,
    SimTriggeredDetector,
    SimulatedStation,
    simulated_station,
)

N = 24
FROM_CONTROLLER = {
    "axes": {"omega": {"start": "pso_start", "step": "pso_step", "count": "pso_frames", "marks": "start"}}
}


class Beamline:
    """A station that flies, a RunEngine, and live reductions of several settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.station: SimulatedStation = simulated_station(
            folder / "frames", detector="stream", shape=(48, 40), n_grains=4
        )
        self.samy = SimAxis(name="samy", egu="mm")
        source = FrameSource(
            simulator=self.station.simulator, rotation=self.station.rotation, shutter=self.station.shutter
        )
        self.ge = SimTriggeredDetector(name="ge", source=source, folder=folder / "frames")
        self.pso = SimFlyController(
            name="pso", rotation=self.station.rotation, detectors=[self.station.detector, self.ge]
        )
        self.RE = RunEngine({})
        self._live: list[HedmLive] = []

    def subscribe(self, **changes: Any) -> HedmLive:
        settings = {
            "roles": {**self.station.roles, "layer": "samy"},
            "omega_marks": "start",
            "detectors": [{"name": "det", "image": "detector_image"}],
            "recipe": {"threshold": 30, "background_level": 60},
            "archive": {"folder": str(self.folder)},
        }
        live = hedm_live_init(self.RE, settings | changes)
        assert live is not None
        self._live.append(live)
        return live

    @property
    def darks(self) -> dict[str, Any]:
        return {
            "dark_frames": 3,
            "dark_frames_after": 2,
            "shutter": self.station.shutter,
            "baseline": self.station.baseline,
        }

    @property
    def near_field(self) -> dict[str, Any]:
        return {
            "distance": self.station.translation.L1,
            "distance_start": 7.0,
            "distance_end": 9.0,
            "n_distances": 2,
            "layer": self.samy,
            "layer_start": 8.04,
            "layer_step": 0.01,
            "n_layers": 2,
        }

    def close(self) -> None:
        for live in self._live:
            live.close()


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[Beamline]:
    made = Beamline(tmp_path)
    yield made
    made.close()


def reduced(live: HedmLive, n_frames: int = N) -> RunResult:
    result = live.wait(60)[live.uids[-1]]
    assert result.problems == ()
    assert result.progress.n_frames == n_frames
    assert result.progress.n_peaks > 10
    return result


def replayed(result: RunResult, folder: Path) -> dict[int, str]:
    source = open_source(str(result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(folder)}})
    return dict(process(source.documents, made).digests)


def columns(result: RunResult, table: str, *names: str) -> dict[str, Any]:
    with h5py.File(str(result.reduced)) as file:
        group: Any = file[f"{next(iter(file))}/{table}"]
        return {name: group[name][:] for name in names}


@pytest.mark.parametrize("darks", [False, True])
def test_a_fly_scan_is_the_step_scan(beamline: Beamline, tmp_path: Path, *, darks: bool) -> None:
    station = beamline.station
    recipe = {"threshold": 30, **({"background": "dark"} if darks else {"background_level": 60})}
    live = beamline.subscribe(recipe=recipe, roles=dict(station.roles))
    options: dict[str, Any] = beamline.darks if darks else {"baseline": station.baseline}
    results: list[RunResult] = []
    modes: list[dict[str, Any]] = [{}, {"fly": beamline.pso, "frame_time": 0.01}]
    for mode in modes:
        beamline.RE(ff_scan([station.detector], station.rotation, 10.0, -2.0, N, **mode, **options))
        results.append(reduced(live))
    stepped, flown = results
    assert flown.digests == stepped.digests
    assert replayed(flown, tmp_path / "again") == dict(flown.digests)
    omega = columns(flown, "frames", "omega_start", "omega_end")
    np.testing.assert_array_equal(omega["omega_start"], 10.0 - 2.0 * np.arange(N))
    np.testing.assert_array_equal(omega["omega_end"], 8.0 - 2.0 * np.arange(N))


def test_leading_and_wrapping_frames(beamline: Beamline) -> None:
    station = beamline.station
    live = beamline.subscribe(roles=dict(station.roles), trajectory={"skip_first": 1, "skipped_in_positions": True})
    plan = ff_scan(
        [station.detector],
        station.rotation,
        -180.0,
        15.0,
        N,
        fly=beamline.pso,
        frame_time=0.01,
        lead_frames=1,
        wrap_frames=2,
        baseline=station.baseline,
    )
    beamline.RE(plan)
    result = reduced(live, N + 3)
    omega = columns(result, "frames", "omega_start")["omega_start"]
    np.testing.assert_array_equal(omega, -195.0 + 15.0 * np.arange(N + 3))
    members = columns(result, "members", "frame", "track")
    assert 0 not in members["frame"]
    # Frames 1 and 25 are at one position, a turn apart.
    assert set(members["track"][members["frame"] == 1]) & set(members["track"][members["frame"] == N + 1])


@pytest.mark.parametrize("flies", [False, True])
@pytest.mark.parametrize("snake", [False, True])
def test_a_near_field_scan_in_one_run(beamline: Beamline, tmp_path: Path, *, snake: bool, flies: bool) -> None:
    station = beamline.station
    live = beamline.subscribe(recipe={"threshold": 30, "background": "dark"})
    mode: dict[str, Any] = {"fly": beamline.pso, "frame_time": 0.01} if flies else {}
    options = {**beamline.near_field, **beamline.darks, **mode}
    beamline.RE(nf_scan([station.detector], station.rotation, -10.0, 2.0, N, snake=snake, **options))
    result = reduced(live, 4 * N)
    assert replayed(result, tmp_path / "again") == dict(result.digests)
    frames = columns(result, "frames", "omega_start", "omega_end", "L1", "layer")
    sweep = -10.0 + 2.0 * np.arange(N)
    omega = np.concatenate([sweep, sweep[::-1] if snake else sweep] * 2)
    np.testing.assert_array_equal(frames["omega_start"], omega)
    np.testing.assert_array_equal(frames["omega_end"], omega + 2.0)
    np.testing.assert_allclose(frames["L1"], np.repeat([7.0, 9.0], 2 * N))
    np.testing.assert_allclose(frames["layer"], np.tile(np.repeat([8.04, 8.05], N), 2))
    links = columns(result, "links", "frame_a", "frame_b")
    assert len(links["frame_a"]) > 20
    np.testing.assert_array_equal(links["frame_a"] // N, links["frame_b"] // N)


def test_a_near_field_scan_in_four_runs(beamline: Beamline) -> None:
    station = beamline.station
    live = beamline.subscribe(recipe={"threshold": 30, "background": "dark"})
    mode: dict[str, Any] = {"fly": beamline.pso, "frame_time": 0.01, "one_run": False, "snake": True}
    options = {**beamline.near_field, **beamline.darks, **mode}
    beamline.RE(nf_scan([station.detector], station.rotation, -10.0, 2.0, N, **options))
    results = list(live.wait(60).values())
    assert [(result.progress.n_frames, result.problems) for result in results] == [(N, ())] * 4
    places = [columns(result, "frames", "L1", "layer", "omega_start") for result in results]
    assert [(each["L1"][0], each["layer"][0]) for each in places] == [
        (7.0, 8.04),
        (7.0, pytest.approx(8.05)),
        (9.0, 8.04),
        (9.0, pytest.approx(8.05)),
    ]
    # The way back begins where the way there ended.
    assert [each["omega_start"][0] for each in places] == [-10.0, 38.0, -10.0, 38.0]


@pytest.mark.parametrize("way", ["plugin", "files"])
def test_a_published_plan_is_reduced_with_omega_from_the_controller(
    beamline: Beamline, tmp_path: Path, way: str
) -> None:
    station, pso, ge = beamline.station, beamline.pso, beamline.ge
    follower = (
        PluginFrames(ge.hdf5, name="ge") if way == "plugin" else FileFrames(tmp_path / "frames", "ge_*.h5", name="ge")
    )
    live = beamline.subscribe(
        roles={role: key for role, key in station.roles.items() if not role.startswith("omega")},
        omega_marks=None,
        detectors=[{"name": "ge", "image": "ge_image"}],
        trajectory=FROM_CONTROLLER,
    )
    flown: list[tuple[float, float]] = []
    take = station.simulator.frame

    def seen(start: float, end: float, index: int, **place: float) -> Any:
        flown.append((start, end))
        return take(start, end, index, **place)

    station.simulator.frame = seen  # type: ignore[method-assign]

    def plan() -> Any:
        yield from bps.mv(pso.start, 10.0, pso.end, -38.0, pso.delta, 2.0, pso.slew_speed, 100.0)
        yield from bps.mv(ge.hdf5.capture, 1)
        yield from bps.mv(ge.cam.acquire, 1)
        station.detector.stage()
        yield from bps.mv(pso.taxi, 1)
        yield from bps.mv(pso.fly, 1)
        station.detector.unstage()
        yield from bps.mv(ge.cam.acquire, 0, ge.hdf5.capture, 0)

    stream = FrameStream([follower], name="frames", controller=pso)
    beamline.RE(fly_run_wrapper(plan(), stream, baseline=station.baseline, period=0.02))
    result = reduced(live)
    assert replayed(result, tmp_path / "again") == dict(result.digests)
    omega = columns(result, "frames", "omega_start", "omega_end", "L1")
    truth = np.array(flown[1::2])
    np.testing.assert_allclose(np.column_stack([omega["omega_start"], omega["omega_end"]]), truth, atol=1e-12)
    assert omega["L1"][0] == 600.0
    with h5py.File(str(result.raw)) as file:
        hedm: Any = file["entry/hedm"]
        assert hedm["omega_per_frame"].attrs["found_in"] == "trajectory"


def test_omega_of_a_flyer_from_the_controller(beamline: Beamline, tmp_path: Path) -> None:
    station = beamline.station
    roles = {role: key for role, key in station.roles.items() if not role.startswith("omega")}
    live = beamline.subscribe(roles=roles, omega_marks=None, trajectory=FROM_CONTROLLER)
    mode: dict[str, Any] = {"fly": beamline.pso, "frame_time": 0.01, "baseline": station.baseline}
    beamline.RE(ff_scan([station.detector], station.rotation, 10.0, -2.0, N, **mode))
    result = reduced(live)
    assert replayed(result, tmp_path / "again") == dict(result.digests)
    np.testing.assert_array_equal(columns(result, "frames", "omega_start")["omega_start"], 10 - 2.0 * np.arange(N))


def test_warnings_of_the_reduction_are_in_the_run(beamline: Beamline, tmp_path: Path) -> None:
    station = beamline.station
    live = beamline.subscribe(recipe={"threshold": 30, "background": "dark"})
    warnings = LiveWarnings()
    documents: list[tuple[str, Any]] = []
    beamline.RE.subscribe(lambda name, doc: documents.append((name, doc)))

    def report(name: str, doc: Any) -> None:
        # Stands for the reduction, which puts its problems here from its own thread.
        if name == "event" and "rotation" in doc["data"] and doc["seq_num"] == 3:
            live.problems.add("omega-backwards", "omega went back", 2)
            warnings.put(live.problems.kept[-1])

    beamline.RE.subscribe(report)
    plan = step_scan(
        [station.detector],
        station.rotation,
        0.0,
        1.0,
        N,
        dark_frames=2,
        shutter=station.shutter,
        baseline=station.baseline,
    )
    beamline.RE(warnings_wrapper(plan, warnings))
    [event] = [doc["data"] for name, doc in documents if name == "event" and "live_warnings_kind" in doc["data"]]
    assert event == {
        "live_warnings_kind": "omega-backwards",
        "live_warnings_frame": 2.0,
        "live_warnings_message": "omega went back",
    }
    result = live.wait(60)[live.uids[-1]]
    assert result.progress.n_frames == N
    assert replayed(result, tmp_path / "again") == dict(result.digests)
