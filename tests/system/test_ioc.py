"""A soft IOC in its own process, real Channel Access, a real RunEngine, live reduction; each fault as what it is."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd import EpicsSignalRO

from hedmlive.callbacks import HedmLive, RunResult, load_settings, open_source, process
from hedmlive.devices import GE_HEADER, HedmAreaDetector, Station, ff_scan, load_station, make_station, step_scan
from hedmlive.simulators.ioc import RunningIoc, run_ioc, simulated_station_settings

N = 12
PREFIX = "TST:"
WARM_UP = 180.0
"Seconds in which the kernels are compiled, if no earlier test has."


@pytest.fixture(scope="module")
def ioc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningIoc]:
    folder = tmp_path_factory.mktemp("frames")
    settings = simulated_station_settings(folder, PREFIX).model_dump()
    raw = simulated_station_settings(folder, PREFIX, kind="ge", writer="ge").all_detectors[0].model_dump()
    settings["detectors"] = [*settings["detectors"], raw | {"name": "ge1", "prefix": f"{PREFIX}ge1:"}]
    small: dict[str, Any] = {"shape": (48, 40), "n_grains": 4, "frames_per_second": 500, "velocity": 5000}
    with run_ioc(load_station(settings), folder=folder, prefix=PREFIX, **small) as running:
        yield running


@pytest.fixture(scope="module")
def station(ioc: RunningIoc) -> Iterator[Station]:
    made = make_station(ioc.station)
    made.wait_for_connection(60)
    yield made
    for device in made.devices:
        device.destroy()


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not after {seconds} s"
        time.sleep(0.01)


def scanned(
    station: Station, folder: Path, plan: Any, image: str | None = None, **more: Any
) -> tuple[RunResult, list[tuple[str, Any]]]:
    live = HedmLive(
        {
            "roles": dict(station.roles),
            "omega_marks": "start",
            "detectors": [{"name": "det", "image": image or station.image_key}],
            "recipe": {"threshold": 30, "background": "dark"},
            "archive": {"folder": str(folder)},
            "worker": {"file_seconds": 2},
            **more,
        }
    )
    documents: list[tuple[str, Any]] = []

    def keep(name: str, doc: Any) -> None:
        documents.append((name, doc))

    live.ready(WARM_UP)
    RE = RunEngine({})
    RE.subscribe(live)
    RE.subscribe(keep)
    try:
        RE(plan)
        return live.wait(60)[live.uids[-1]], documents
    finally:
        live.close()


def steps(station: Station, n: int = N, detector: HedmAreaDetector | None = None) -> Any:
    return step_scan(
        [detector or station.detector],
        station.rotation,
        -6.0,
        1.0,
        n,
        dark_frames=2,
        shutter=station.shutter,
        baseline=station.baseline,
    )


def replayed(result: RunResult, folder: Path) -> dict[int, str]:
    source = open_source(str(result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(folder)}})
    return dict(process(source.documents, made).digests)


def omegas(documents: list[tuple[str, Any]]) -> list[float]:
    return [doc["data"]["aero"] for name, doc in documents if name == "event" and "aero" in doc["data"]]


def frames_file(documents: list[tuple[str, Any]]) -> Path:
    resource = [doc for name, doc in documents if name == "resource"][-1]
    return Path(resource["root"]) / resource["resource_path"]


def test_a_step_scan_over_channel_access_replays_to_the_same_digest(station: Station, tmp_path: Path) -> None:
    result, documents = scanned(station, tmp_path, steps(station))
    assert result.problems == ()
    assert result.progress.n_frames == N
    assert result.progress.n_peaks > 10
    assert omegas(documents) == [-6.0 + i for i in range(N)]
    assert replayed(result, tmp_path / "again") == dict(result.digests)
    with h5py.File(str(result.raw)) as raw:
        hedm: Any = raw["entry/hedm"]
        assert hedm["L1"][()] == 600.0
        assert hedm["energy"][()] == pytest.approx(65.351)
        np.testing.assert_allclose(hedm["lattice_parameters"], [4.0782, 4.0782, 4.0782, 90, 90, 90])
        assert hedm["space_group"][()] == 225
        assert f"{PREFIX}energy" in hedm["energy"].attrs["source"]


def test_the_file_has_the_layout_of_beamlines(station: Station, tmp_path: Path) -> None:
    _, documents = scanned(station, tmp_path, steps(station, 3))
    with h5py.File(frames_file(documents)) as file:
        assert file["exchange/data"].shape == (3, 48, 40)
        assert {file[f"exchange/{name}"].shape[0] for name in ("dark", "bright")} == {0}
        np.testing.assert_allclose(file["measurement/instrument/SMS/aero"], [-6, -5, -4])
        assert file["measurement/instrument/SMS/L2"][()] == 800.0
        assert set(file["measurement/process/scan_parameters"]) == {
            "stage",
            "start",
            "step",
            "end",
            "speed",
            "steptime",
        }
        assert list(file["WM/NDArrayUniqueId"]) == [0, 1, 2]


def test_a_fly_scan_takes_a_frame_at_each_pulse(station: Station, tmp_path: Path) -> None:
    plan = ff_scan(
        [station.detector],
        station.rotation,
        -5.0,
        0.5,
        20,
        fly=station.fly_controller,
        frame_time=0.01,
        dark_frames=2,
        shutter=station.shutter,
        baseline=station.baseline,
    )
    result, _ = scanned(station, tmp_path, plan)
    assert result.problems == ()
    assert result.progress.n_frames == 20
    assert result.progress.n_peaks > 10
    assert replayed(result, tmp_path / "again") == dict(result.digests)


def test_frames_in_ge_raw_files_are_reduced_alike(station: Station, tmp_path: Path) -> None:
    detector = station.detectors[1]
    copied = {"hedm": {"frames": "copy"}}  # HDF5 cannot link to them
    result, documents = scanned(station, tmp_path, steps(station, 6, detector), "ge1_image", **copied)
    assert {doc["spec"] for name, doc in documents if name == "resource"} == {"AD_GE"}
    assert result.problems == ()
    assert result.progress.n_frames == 6
    assert result.progress.n_peaks > 5
    assert frames_file(documents).stat().st_size == GE_HEADER + 6 * 48 * 40 * 2
    assert replayed(result, tmp_path / "again") == dict(result.digests)


def test_frame_type_says_where_a_frame_goes(station: Station) -> None:
    detector = station.detector
    detector.cam.frame_type.set("/exchange/dark").wait(10)
    try:
        detector.stage()
        detector.trigger().wait(20)
        assets = list(detector.collect_asset_docs())
        path = detector.file_path
        detector.unstage()
    finally:
        detector.cam.frame_type.set("/exchange/data").wait(10)
    assert assets[0][1]["resource_kwargs"]["dataset"] == "/exchange/dark"
    with h5py.File(path) as file:
        assert file["exchange/dark"].shape[0] == 1
        assert file["exchange/data"].shape[0] == 0


def test_a_lost_frame_is_counted_and_leaves_a_gap_in_the_ids(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    ioc.fault("drop_frame", 4)
    try:
        result, documents = scanned(station, tmp_path, steps(station))
    finally:
        ioc.fault("drop_frame", -1)
    assert len(omegas(documents)) == N
    assert result.progress.n_frames == N - 1
    assert result.problems  # the frame that the last event announces never comes
    with h5py.File(frames_file(documents)) as file:
        assert list(file["WM/NDArrayUniqueId"]) == [i for i in range(N) if i != 4]
    assert station.detector.hdf5.dropped_arrays.get() == 1


def test_late_frames_are_waited_for(ioc: RunningIoc, station: Station, tmp_path: Path) -> None:
    ioc.fault("file_late", 0.5)
    try:
        result, _ = scanned(station, tmp_path, steps(station, 4))
    finally:
        ioc.fault("file_late", 0.0)
    assert result.problems == ()
    assert result.progress.n_frames == 4


def test_a_stuck_motor_moves_again_when_it_is_free(ioc: RunningIoc, station: Station) -> None:
    rotation = station.rotation
    rotation.move(0.0, wait=True, timeout=20)
    ioc.fault("stuck", rotation.prefix)
    try:
        moving = rotation.move(7.0, wait=False)
        wait_for(lambda: rotation.moving)
        assert not moving.done
        assert rotation.position == 0.0
    finally:
        ioc.fault("stuck", "")
    moving.wait(20)
    assert rotation.position == 7.0


def test_a_stale_pv_keeps_value_and_time(ioc: RunningIoc, station: Station) -> None:
    energy, ring = station.energy, station.ring_current
    assert energy is not None
    assert ring is not None
    ioc.fault("stale", energy.prefix)
    try:
        old, other = energy.read()["mono"], ring.read()["ring"]["timestamp"]
        wait_for(lambda: ring.read()["ring"]["timestamp"] > other + 1.0)
        assert energy.read()["mono"] == old
    finally:
        ioc.fault("stale", "")
    wait_for(lambda: energy.read()["mono"]["timestamp"] > old["timestamp"])


def test_a_disconnected_ioc_comes_back(ioc: RunningIoc) -> None:
    signal = EpicsSignalRO(f"{PREFIX}energy", name="watched")
    signal.wait_for_connection(timeout=20)
    ioc.fault("disconnect", 0.5)
    wait_for(lambda: not signal.connected)
    wait_for(lambda: signal.connected, 60)
    signal.destroy()
