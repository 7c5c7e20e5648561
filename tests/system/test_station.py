"""The station whole: a soft IOC in its own process, Channel Access, plans, files, live reduction, archive, replay."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.utils import RunEngineInterrupted

from hedmlive.callbacks import HedmLive, RunResult, load_settings, open_source, process
from hedmlive.devices import Station, ff_scan, make_station, nf_scan
from hedmlive.simulators.ioc import run_ioc

SIZE = (96, 96)


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    folder = tmp_path_factory.mktemp("frames")
    with run_ioc(
        folder=folder, prefix="WHOLE:", shape=SIZE, n_grains=6, frames_per_second=200, velocity=5000
    ) as running:
        made = make_station(running.station)
        made.wait_for_connection(60)
        yield made
        for device in made.devices:
            device.destroy()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "not after 60 s"
        time.sleep(0.01)


def at_once(RE: RunEngine, plan: Any) -> None:
    RE(plan)


def scanned(
    station: Station,
    folder: Path,
    plan: Any,
    roles: dict[str, str],
    run: Callable[[RunEngine, Any], None] = at_once,
) -> RunResult:
    live = HedmLive(
        {
            "roles": dict(station.roles) | roles,
            "omega_marks": "start",
            "detectors": [{"name": "det", "image": station.image_key}],
            "recipe": {"threshold": 30, "background": "dark"},
            "archive": {"folder": str(folder)},
        }
    )
    try:
        RE = RunEngine({})
        RE.subscribe(live)
        run(RE, plan)
        return live.wait(120)[live.uids[-1]]
    finally:
        live.close()


def replayed(result: RunResult, folder: Path) -> RunResult:
    source = open_source(str(result.raw))
    assert source.settings is not None
    return process(source.documents, load_settings({**source.settings, "archive": {"folder": str(folder)}}))


def around(station: Station) -> dict[str, Any]:
    return {"dark_frames": 3, "shutter": station.shutter, "baseline": station.baseline}


@pytest.mark.slow
def test_a_far_field_scan_of_720_frames_on_the_fly(station: Station, tmp_path: Path) -> None:
    plan = ff_scan(
        station.detectors,
        station.rotation,
        -180.0,
        0.5,
        720,
        fly=station.fly_controller,
        frame_time=0.02,
        **around(station),
    )
    result = scanned(station, tmp_path, plan, {})
    assert result.problems == ()
    # No device gives seeds, and none are made up.
    assert result.missing == ("seed_orientations",)
    assert result.progress.n_frames == 720
    assert result.progress.n_tracks > 100
    again = replayed(result, tmp_path / "again")
    assert again.digests == result.digests
    with h5py.File(str(result.raw)) as raw:
        hedm: Any = raw["entry/hedm"]
        np.testing.assert_allclose(hedm["omega_per_frame"][:, 0], -180 + 0.5 * np.arange(720), atol=1e-9)
        assert raw["exchange/data"].shape == (720, *SIZE)


def test_a_near_field_scan_of_two_distances_and_two_layers(station: Station, tmp_path: Path) -> None:
    assert station.translation is not None
    plan = nf_scan(
        station.detectors,
        station.rotation,
        -90.0,
        15.0,
        12,
        distance=station.translation.L1,
        distance_start=5.0,
        distance_end=7.0,
        n_distances=2,
        layer=station.motors["samY"],
        layer_start=0.0,
        layer_step=0.1,
        n_layers=2,
        fly=station.fly_controller,
        frame_time=0.02,
        **around(station),
    )
    result = scanned(station, tmp_path, plan, {"layer": "samY"})
    assert result.problems == ()
    assert result.progress.n_frames == 48
    again = replayed(result, tmp_path / "again")
    assert again.digests == result.digests
    with h5py.File(str(result.raw)) as raw, h5py.File(str(result.reduced)) as reduced:
        scan: Any = raw["entry/scan"]
        assert scan["L1"][()].tolist() == [5.0] * 24 + [7.0] * 24
        assert scan["distance_index"][()].tolist() == [0] * 24 + [1] * 24
        assert scan["layer_index"][()].tolist() == ([0] * 12 + [1] * 12) * 2
        links: Any = reduced["reduction_0000/links"]
        # No link leads to another distance or layer: they are twelve frames each.
        assert (links["frame_a"][()] // 12 == links["frame_b"][()] // 12).all()


def test_a_fly_scan_that_is_paused_in_mid_sweep_goes_on(
    station: Station, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rotation, detector, pso = station.rotation, station.detector, station.fly_controller
    assert pso is not None
    kept: list[int] = []

    def run(RE: RunEngine, plan: Any) -> None:
        def pause() -> None:
            wait_for(lambda: rotation.moving and 8 <= detector.hdf5.num_captured.get() < 20)
            RE.request_pause()

        pausing = threading.Thread(target=pause)
        pausing.start()
        with pytest.raises(RunEngineInterrupted):
            RE(plan)
        pausing.join()
        wait_for(lambda: not rotation.moving)
        wait_for(lambda: (detector.cam.acquire.get(), pso.fly.get()) == (0, 0))
        kept.append(detector.hdf5.num_captured.get())
        # What somebody does at the prompt meanwhile.
        rotation.move(33.0, wait=True, timeout=60)
        assert detector.hdf5.num_captured.get() == kept[0]
        RE.resume()

    plan = ff_scan(
        station.detectors,
        rotation,
        -20.0,
        1.0,
        40,
        fly=pso,
        frame_time=0.05,
        **around(station),
    )
    result = scanned(station, tmp_path, plan, {}, run)
    assert "paused in mid-sweep" in caplog.text
    assert result.problems == ()
    assert result.progress.n_frames == 40
    assert replayed(result, tmp_path / "again").digests == result.digests
    with h5py.File(str(result.raw)) as raw:
        omega: Any = raw["entry/hedm/omega_per_frame"]
        np.testing.assert_array_equal(omega[:, 0], -20.0 + np.arange(40))
