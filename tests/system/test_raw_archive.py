"""The raw archive as others see it: while it grows, after kill -9, and read by the programs it is made for."""

import os
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
        assert entry["data"].attrs["axes"].tolist() == ["omega", ".", "."]


# Programs that take raw files


def peer(name: str) -> str:
    python = os.environ.get(f"HEDMLIVE_{name}_PYTHON", "")
    if not python:
        pytest.skip(f"HEDMLIVE_{name}_PYTHON is not set: a Python with that program is wanted")
    return python


def ask(python: str, script: str, *arguments: object) -> str:
    command = [python, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


NEXUS = """
import sys
import hdf5plugin
import silx.io.nxdata
import h5py
from nexusformat.nexus import nxload

plot = nxload(sys.argv[1]).plottable_data
assert plot.nxsignal.nxname == "data" and plot.nxsignal.shape == (12, 64, 64), plot.tree
assert plot.nxaxes[0].nxname == "omega"
with h5py.File(sys.argv[1]) as file:
    found = silx.io.nxdata.get_default(file)
    assert found is not None and found.is_valid
"""


def test_nexusformat_and_silx_find_the_default_plot(finished: Path) -> None:
    ask(peer("NEXUS"), NEXUS, finished)


def test_nexus_definitions_find_no_error(finished: Path) -> None:
    python = peer("NEXUS")
    done = subprocess.run(
        [str(Path(python).parent / "nxcheck"), "-e", str(finished)], capture_output=True, text=True, timeout=120
    )
    assert "Total number of errors: 0" in done.stdout, done.stdout + done.stderr


EXCHANGE = """
import sys
import hdf5plugin
import h5py
import numpy as np
from dxchange.exchange import read_aps_tomoscan_hdf5

data, white, dark, theta = read_aps_tomoscan_hdf5(sys.argv[1])
with h5py.File(sys.argv[1]) as file:
    assert np.array_equal(data, file["exchange/data"][()]) and np.array_equal(dark, file["exchange/dark"][()])
    assert np.allclose(np.degrees(theta), file["exchange/theta"][()])
"""


def test_dxchange_reads_it(finished: Path) -> None:
    ask(peer("DXCHANGE"), EXCHANGE, finished)


PARAMETERS = """
LatticeConstant 4.08 4.08 4.08 90 90 90
SpaceGroup 225
NrPixels 64
px 200
Lsd 1000000
BC 32 32
tx 0
ty 0
tz 0
Wedge 0
RhoD 6400
Wavelength 0.19
OmegaStart 0
OmegaStep 0.25
OmegaRange -180 180
BoxSize -1000000 1000000 -1000000 1000000
RingThresh 1 10
"""

CONVERTED = """
import sys
import hdf5plugin
import h5py
import numpy as np
import zarr

made = zarr.open(sys.argv[1], "r")
with h5py.File(sys.argv[2]) as file:
    for name in ("exchange/data", "exchange/dark"):
        assert np.array_equal(made[name][:], file[name][()]), name
"""


def test_midas_converts_it_for_the_far_field(finished: Path, tmp_path: Path) -> None:
    python = peer("MIDAS_ZIP")
    parameters = tmp_path / "ps.txt"
    parameters.write_text(PARAMETERS)
    where = ["-resultFolder", tmp_path, "-paramFN", parameters, "-dataFN", finished]
    where += ["-dataLoc", "exchange/data", "-darkLoc", "exchange/dark"]
    command = [str(Path(python).parent / "midas-ff-zip"), *map(str, where)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    [made] = tmp_path.glob("*.MIDAS.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    ask(python, CONVERTED, made, finished)
