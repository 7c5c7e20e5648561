"""A real RunEngine, simulated devices, and the three ways in which a frame comes."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.plans import count, scan
from ophyd.sim import det, motor

from hedmlive.callbacks import HedmLive, RunResult, hedm_live_init, load_settings, open_source, process
from hedmlive.devices import step_scan
from hedmlive.simulators import SimulatedStation, simulated_station

N = 24
WAYS = ("array", "hdf5", "stream")


def settings(station: SimulatedStation, folder: Path, darks: int = 0, **changes: Any) -> dict[str, Any]:
    background = {"background": "dark"} if darks else {"background_level": 60}
    return {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "det", "image": station.image_key}],
        "recipe": {"threshold": 30, **background},
        "archive": {"folder": str(folder)},
        **changes,
    }


def measure(station: SimulatedStation, live: Any, darks: int = 0) -> RunResult:
    RE = RunEngine({})
    RE.subscribe(live)
    plan = step_scan(
        [station.detector],
        station.rotation,
        -10.0,
        2.0,
        N,
        dark_frames=darks,
        shutter=station.shutter,
        baseline=station.baseline,
    )
    RE(plan)
    return live.wait(120)[live.uids[-1]]


def scanned(way: str, folder: Path, darks: int = 0, **changes: Any) -> RunResult:
    station = simulated_station(folder / "frames", detector=way, shape=(48, 40), n_grains=4)  # type: ignore[arg-type]
    live = HedmLive(settings(station, folder, darks, **changes))
    try:
        result = measure(station, live, darks)
        assert live.problems.lines() == []
    finally:
        live.close()
    assert result.problems == ()
    assert result.progress.n_frames == N
    assert result.progress.n_peaks > 10
    return result


def replayed(result: RunResult, folder: Path, documents: Any = None, **changes: Any) -> dict[int, str]:
    assert result.raw is not None
    source = open_source(str(result.raw))
    assert source.settings is not None
    made = load_settings({**source.settings, "archive": {"folder": str(folder)}, **changes})
    again = process(source.documents if documents is None else documents, made)
    assert again.problems == result.problems
    return dict(again.digests)


@pytest.mark.parametrize("darks", [0, 3])
def test_live_is_replay_whatever_the_way(darks: int, tmp_path: Path) -> None:
    results = {way: scanned(way, tmp_path / way, darks) for way in WAYS}
    for way, result in results.items():
        assert replayed(result, tmp_path / way / "again") == dict(result.digests)
    assert len({result.digests[0] for result in results.values()}) == 1


def test_frames_read_back_from_the_archive_give_the_same(tmp_path: Path) -> None:
    plain = scanned("array", tmp_path / "plain")
    tiny = scanned("array", tmp_path / "tiny", worker={"memory_mb": 0.001, "documents": 2})
    assert tiny.digests == plain.digests


def test_other_plans_cost_nothing(tmp_path: Path) -> None:
    station = simulated_station(tmp_path / "frames", detector="array", shape=(8, 8), n_grains=4)
    RE = RunEngine({})
    live = hedm_live_init(RE, {"HEDM_LIVE": settings(station, tmp_path)})
    assert live is not None
    try:
        RE(count([det], 3))
        RE(scan([det], motor, 0, 1, 3))
        assert (live.uids, live.problems.lines(), list(tmp_path.glob("*.h5"))) == ((), [], [])
    finally:
        live.close()


def test_waiting_inside_a_plan(tmp_path: Path) -> None:
    station = simulated_station(tmp_path / "frames", detector="array", shape=(16, 16), n_grains=4)
    live = HedmLive(settings(station, tmp_path))
    RE = RunEngine({})
    RE.subscribe(live.receiver)

    def plan() -> Any:
        yield from step_scan([station.detector], station.rotation, 0, 1.0, 5, baseline=station.baseline)
        yield from live.wait_writer_plan_stub()
        assert len(live.results) == 1

    try:
        RE(plan())
    finally:
        live.close()


def test_an_aborted_scan_is_reduced_as_far_as_it_came(tmp_path: Path) -> None:
    station = simulated_station(tmp_path / "frames", detector="array", shape=(16, 16), n_grains=4)
    live = HedmLive(settings(station, tmp_path))
    RE = RunEngine({})
    RE.subscribe(live)
    take = station.detector.trigger
    left = iter(range(4))

    def trigger() -> Any:
        if next(left, None) is None:
            raise RuntimeError("the shutter fell")
        return take()

    station.detector.trigger = trigger  # type: ignore[method-assign]
    try:
        with pytest.raises(Exception, match="shutter fell"):
            RE(step_scan([station.detector], station.rotation, 0, 1.0, 9, baseline=station.baseline))
        [result] = live.wait(120).values()
    finally:
        live.close()
    assert result.progress.n_frames == 4
    [problem] = result.problems
    assert "run-failed: the plan failed after 4 points: the shutter fell" in problem
    assert replayed(result, tmp_path / "again") == dict(result.digests)


def test_what_the_raw_archive_holds(tmp_path: Path) -> None:
    result = scanned("stream", tmp_path)
    assert result.raw is not None
    with h5py.File(result.raw) as file:
        entry: Any = file["entry"]
        assert entry.attrs["NX_class"] == "NXentry"
        assert entry.attrs["finished"]
        assert entry.attrs["exit_status"] == "success"
        hedm = entry["hedm"]
        omega = hedm["omega_per_frame"]
        np.testing.assert_allclose(omega[:, 0], -10 + 2.0 * np.arange(N))
        np.testing.assert_allclose(omega[:, 1] - omega[:, 0], 2.0)
        units = [hedm[name].attrs["units"] for name in ("omega_per_frame", "L1", "L2", "energy")]
        assert units == ["degree", "mm", "mm", "keV"]
        assert hedm["omega_step"][()] == 2.0
        assert hedm["omega_start"][()] == -10.0
        assert all("source" in hedm[name].attrs for name in ("omega_per_frame", "omega_step", "L1", "L2", "energy"))
        assert hedm["L1"][()] == 600.0
        assert list(hedm.attrs["missing"]) == ["lattice_parameters", "space_group", "seed_orientations"]
        link = entry["instrument/det"].get("data", getlink=True)
        assert isinstance(link, h5py.ExternalLink)
        assert not Path(link.filename).is_absolute()
        assert entry["instrument/det/data"].shape == (N, 48, 40)
        assert (file.attrs["default"], entry.attrs["default"]) == ("entry", "data")
        assert entry["data/data"].shape == (N, 48, 40)
        assert entry["instrument/monochromator/energy"][()] > 60
        assert len(entry["scan/frame"]) == N
