"""The raw archive as others see it: while it grows, after kill -9, and when it is finished."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hedmlive.callbacks import RunResult, open_source, process
from hedmlive.callbacks.doctor import examine
from hedmlive.callbacks.settings import load_settings

SCAN = """
import sys
from bluesky import RunEngine
from hedmlive.callbacks import HedmLive
from hedmlive.devices import step_scan
from hedmlive.simulators import simulated_station

folder, n, exposure, darks, frames = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
station = simulated_station(folder + "/frames", detector="stream", shape=(64, 64), n_grains=4, exposure=exposure)
live = HedmLive({
    "roles": dict(station.roles), "omega_marks": "start",
    "detectors": [{"name": "ge1", "image": station.image_key}],
    "recipe": {"threshold": 30, "background_level": 60},
    "hedm": {"space_group": 225, "lattice_parameters": [4.08, 4.08, 4.08, 90, 90, 90], "seed_resolution": 20,
             "frames": frames},
    "archive": {"folder": folder, "stem": "scan", "flush_seconds": 0.02},
})
RE = RunEngine({})
RE.subscribe(live)
RE(step_scan([station.detector], station.rotation, 0, 0.25, n, baseline=station.baseline, dark_frames=darks,
             shutter=station.shutter))
live.wait()
live.close()
"""

# A reader of its own: nothing but h5py, in SWMR mode.
FOLLOW = """
import sys, time
import h5py
import hdf5plugin

seen, deadline = 0, time.monotonic() + 60
while time.monotonic() < deadline:
    try:
        with h5py.File(sys.argv[1], "r", libver="latest", swmr=True) as file:
            scan = file["entry/scan"]
            while time.monotonic() < deadline:
                for name in ("omega_start", "omega_time", "L1", "frame"):
                    scan[name].refresh()
                n = len(scan["omega_start"])
                # A frame may be announced a moment before the event with its motors.
                while n and scan["omega_start"][n - 1] != scan["omega_start"][n - 1]:
                    n -= 1
                if n > seen:
                    seen = n
                    print(n, scan["frame"][n - 1], scan["omega_start"][n - 1], scan["L1"][n - 1], flush=True)
                time.sleep(0.01)
    except (OSError, KeyError):
        time.sleep(0.02)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reader_follows_the_scan_and_kill_9_leaves_it_readable(tmp_path: Path) -> None:
    raw = tmp_path / "scan_raw.h5"
    running = start(SCAN, tmp_path, 5000, 0.005, 0, "link")
    wait_for(raw.exists, running)
    follower = start(FOLLOW, raw)
    assert follower.stdout is not None
    try:
        rows = [follower.stdout.readline().split() for _ in range(5)]
    finally:
        running.kill()
        running.communicate()
        follower.kill()
        follower.communicate()
    numbers = [int(row[0]) for row in rows]
    assert numbers == sorted(set(numbers))
    for n, frame, omega, distance in rows:
        assert (int(frame), float(omega), float(distance)) == (int(n) - 1, 0.25 * (int(n) - 1), 600.0)
    with h5py.File(raw, "r", libver="latest", swmr=True, locking=False) as file:
        scan: Any = file["entry/scan"]
        assert len(scan["omega_start"]) >= numbers[-1]
        # The frames' own file is linked from the first moment.
        link = file["entry/instrument/ge1"].get("data", getlink=True)  # type: ignore[union-attr]
        assert isinstance(link, h5py.ExternalLink)
        assert len(file["entry/instrument/ge1/data"]) > 0  # type: ignore[arg-type]
    found = {each.item: each for each in examine(raw)}
    assert (found["run"].state, "not finished" in found["run"].value) == ("doubtful", True)
    assert {found[name].state for name in ("omega_per_frame", "L1", "L2", "energy", "frames")} == {"ok", "doubtful"}
    assert found["L1"].value == "600 mm"


@pytest.fixture(scope="module", params=["link", "copy"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a scan with three darks."""
    folder = tmp_path_factory.mktemp(request.param)
    running = start(SCAN, folder, 12, 0.0, 3, request.param)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, out + err
    if request.param == "copy":
        shutil.rmtree(folder / "frames")
    return folder / "scan_raw.h5"


def replayed(raw: Path, folder: Path) -> RunResult:
    source = open_source(str(raw))
    return process(source.documents, load_settings({**(source.settings or {}), "archive": {"folder": str(folder)}}))


def test_everything_is_in_the_archive(finished: Path, tmp_path: Path) -> None:
    assert [each for each in examine(finished) if each.state != "ok"] == []
    assert replayed(finished, tmp_path).problems == ()
    with h5py.File(finished) as file:
        entry: Any = file["entry"]
        exchange: Any = file["exchange"]
        assert exchange["data"].shape == (12, 64, 64)
        assert exchange["data_dark"].shape == exchange["dark"].shape == (3, 64, 64)
        np.testing.assert_allclose(exchange["theta"], 0.25 * (np.arange(12) + 0.5))
        # hexrd reads start and stop of each frame here, and wants them to rise and to meet.
        np.testing.assert_allclose(exchange.attrs["omega"], np.stack([np.arange(12), np.arange(1, 13)], axis=1) * 0.25)
        for name in ("L1", "L2", "energy"):
            said = dict(entry[f"hedm/{name}"].attrs)
            assert said["units"]
            assert said["source"].startswith("SIM:")
            assert said["time"].startswith("20")
            assert said["found_in"] == "baseline"
        assert len(entry["hedm/omega_per_frame_time"]) == 12
        assert (np.diff(entry["hedm/omega_per_frame_time"]) > 0).all()
        assert (file.attrs["default"], entry.attrs["default"]) == ("entry", "data")
        assert entry["data"].attrs["axes"].tolist() == ["omega", "row", "col"]
        assert [len(entry["data"][name]) for name in ("row", "col")] == [64, 64]
