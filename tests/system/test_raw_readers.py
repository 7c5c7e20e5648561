"""Raw archives, read and validated by the programs that they are made for, each in an environment of its own.

HEDMLIVE_<NAME>_PYTHON names the Python of that environment; without it the test says so and is left out.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hostile
import pytest
from unit.devices.scanning import Session

from hedmlive.callbacks import load_settings, process
from hedmlive.devices import nf_scan, step_scan
from hedmlive.simulators import SimAxis, SimulatedStation, simulated_station

Archives = Mapping[str, Path]

FAR = ("link", "copy")
PANELS = ("panels-link", "panels-copy")
SWEEPS = [f"/entry/hedm/near_field/distance_{i}_layer_{j}" for i in (0, 1) for j in (0, 1)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Archives:
    """Far field with three darks, near field of two distances and two layers, and two detectors."""
    folder = tmp_path_factory.mktemp("raw")
    made = {"near-field": near_field(folder / "near")}
    station = simulated_station(folder / "far", detector="stream", shape=(64, 64), n_grains=4)
    session = Session()
    darks: dict[str, Any] = {"baseline": station.baseline, "dark_frames": 3, "shutter": station.shutter}
    session(step_scan([station.detector], station.rotation, 0, 0.25, 12, **darks))
    for how in FAR:
        made[how] = written(session.documents, folder / how, settings_of(station, hedm={"frames": how}))
        panels = folder / f"panels-{how}"
        panels.mkdir()
        made[panels.name] = written(
            hostile.run("stream", panels, n_detectors=2),
            panels,
            hostile.settings(panels, n_detectors=2, hedm={"frames": how}),
        )
    return made


def near_field(folder: Path) -> Path:
    station = simulated_station(folder / "frames", detector="stream", shape=(16, 12), n_grains=3)
    session = Session()
    plan = nf_scan(
        [station.detector], station.rotation, -10.0, 2.0, 4,
        distance=station.translation.L1, distance_start=7.0, distance_end=9.0, n_distances=2,
        layer=SimAxis(name="samy", egu="mm"), layer_start=8.04, layer_step=0.01, n_layers=2,
        dark_frames=2, shutter=station.shutter, baseline=station.baseline,
    )  # fmt: skip
    session(plan)
    roles = {**station.roles, "layer": "samy"}
    hedm = {"space_group": 225, "lattice_parameters": [4.08, 4.08, 4.08, 90, 90, 90], "seed_resolution": 30}
    return written(session.documents, folder, settings_of(station, roles=roles, hedm=hedm))


def settings_of(station: SimulatedStation, **changes: Any) -> dict[str, Any]:
    said = {
        "roles": dict(station.roles),
        "omega_marks": "start",
        "detectors": [{"name": "ge1", "image": station.image_key}],
        "recipe": {"threshold": 30, "background_level": 60},
    }
    return said | changes


def written(documents: hostile.Documents, folder: Path, said: dict[str, Any]) -> Path:
    settings = load_settings({**said, "archive": {"folder": str(folder)}})
    result = process(documents, settings, stem="scan", write_raw=True)
    assert result.problems == ()
    assert result.raw is not None
    return result.raw


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


# HDF5 older than ours


def test_hdf5s_own_tool_lists_everything(archives: Archives) -> None:
    """What it cannot open it shows as *ERROR*; distributions have it of HDF5 1.10 to 1.14."""
    if shutil.which("h5ls") is None:
        pytest.skip("h5ls is not on the path: HDF5's tools are wanted")
    for path in (*archives.values(), archives["link"].with_name("scan_reduced.h5")):
        done = subprocess.run(["h5ls", "-r", str(path)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        assert [place for place, what in listed.items() if "*ERROR*" in what] == []
        if path == archives["near-field"]:
            assert {listed[f"{place}/data"] for place in SWEEPS} == {"Dataset {4, 16, 12}"}


READ_ALL = """
import sys
import h5py
import hdf5plugin

for path in sys.argv[1:]:
    places = []
    with h5py.File(path) as file:
        file.visit(places.append)
        read = [file[place][()] for place in places if isinstance(file[place], h5py.Dataset)]
    assert len(read) > 20, path
"""


def test_an_older_hdf5_reads_everything(archives: Archives) -> None:
    python = peer("PUNX")
    major = ask(python, "import h5py; print(h5py.version.hdf5_version_tuple[0])")
    if int(major) > 1:
        pytest.skip("HEDMLIVE_PUNX_PYTHON has HDF5 2: an h5py before 3.15 is wanted there")
    ask(python, READ_ALL, *archives.values(), archives["link"].with_name("scan_reduced.h5"))


# NeXus

PUNX = """
import sys
import hdf5plugin
from punx import finding, validate

validator = validate.Data_File_Validator()
for path in sys.argv[1:]:
    validator.validate(path)
    wrong = [(each.h5_address, each.comment) for each in validator.validations if each.status == finding.ERROR]
    plot = [each.status for each in validator.validations if each.test_name == "NeXus default plot"]
    assert (wrong, plot) == ([], [finding.OK]), (path, wrong, plot)
validator.close()
"""


def test_punx_finds_no_error(archives: Archives) -> None:
    ask(peer("PUNX"), PUNX, *archives.values())


NEXUS = """
import sys
import hdf5plugin
import silx.io.nxdata
import h5py
from nexusformat.nexus import nxload

for path in sys.argv[1:]:
    plot = nxload(path).plottable_data
    with h5py.File(path) as file:
        assert plot.nxsignal.nxname == "data" and plot.nxsignal.shape == file["entry/data/data"].shape, plot.tree
        assert [axis.nxname for axis in plot.nxaxes] == ["omega", "row", "col"], plot.tree
        found = silx.io.nxdata.get_default(file)
        assert found is not None and found.is_valid, path
        assert found.axes_dataset_names == ["omega", "row", "col"], path
"""


def test_nexusformat_and_silx_find_the_default_plot(archives: Archives) -> None:
    ask(peer("NEXUS"), NEXUS, *archives.values())


@pytest.mark.parametrize("name", ["link", "copy", "near-field"])
def test_nexus_definitions_find_no_error(archives: Archives, name: str) -> None:
    # Not of several detectors: nexusformat takes a virtual dataset for as many images as it has sources.
    command = [str(Path(peer("NEXUS")).parent / "nxcheck"), "-e", str(archives[name])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Total number of errors: 0" in done.stdout, done.stdout + done.stderr


# Frames and omega

HEXRD = """
import sys
import h5py
import hdf5plugin
import numpy as np
from hexrd.core import imageseries
from hexrd.core.imageseries.omega import OmegaImageSeries

for argument in sys.argv[1:]:
    path, group, omega = argument.split(":")
    turning = OmegaImageSeries(imageseries.open(path, "hdf5", path=group, dataname="data"))
    with h5py.File(path) as file:
        frames, wanted = file[group]["data"][()], file[omega][()]
    assert (len(turning), turning.nwedges) == (len(frames), 1), argument
    assert all(np.array_equal(turning[i], frames[i]) for i in range(len(frames))), argument
    assert turning.omega.shape == (len(frames), 2) and np.array_equal(turning.omega, wanted), argument
"""


def test_hexrd_reads_frames_and_omega(archives: Archives) -> None:
    omega = "/entry/hedm/omega_per_frame"
    wanted = [f"{archives[name]}:{group}:{omega}" for name in FAR for group in ("/exchange", "/entry/instrument/ge1")]
    wanted += [f"{archives[name]}:/entry/instrument/det{i}:{omega}" for name in PANELS for i in (0, 1)]
    wanted += [f"{archives['near-field']}:{sweep}:{sweep}/omega_per_frame" for sweep in SWEEPS]
    ask(peer("HEXRD"), HEXRD, *wanted)


FALLING = """
import sys
import hdf5plugin
import numpy as np
from hexrd.core import imageseries
from hexrd.core.imageseries.omega import OmegaImageSeries
from hexrd.core.imageseries.process import ProcessedImageSeries

frames = imageseries.open(sys.argv[1], "hdf5", path="/entry/instrument/ge1", dataname="data")
rising = ProcessedImageSeries(frames, [], frame_list=range(len(frames))[::-1])
rising.metadata["omega"] = frames.metadata["omega"][::-1, ::-1]
turning = OmegaImageSeries(rising)
assert turning.omega.tolist() == [[6.0 + 0.5 * i, 6.5 + 0.5 * i] for i in range(8)], turning.omega
assert all(np.array_equal(turning[i], frames[7 - i]) for i in range(8))
"""


def test_hexrd_reads_a_sweep_that_falls_from_its_end(tmp_path: Path) -> None:
    python = peer("HEXRD")
    station = simulated_station(tmp_path / "frames", detector="stream", shape=(16, 12), n_grains=3)
    session = Session()
    session(step_scan([station.detector], station.rotation, 10.0, -0.5, 8, baseline=station.baseline))
    ask(python, FALLING, written(session.documents, tmp_path, settings_of(station)))


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


@pytest.mark.parametrize("name", FAR)
def test_dxchange_reads_it(archives: Archives, name: str) -> None:
    ask(peer("DXCHANGE"), EXCHANGE, archives[name])


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


@pytest.mark.parametrize("name", FAR)
def test_midas_converts_it_for_the_far_field(archives: Archives, name: str, tmp_path: Path) -> None:
    python, raw = peer("MIDAS_ZIP"), archives[name]
    parameters = tmp_path / "ps.txt"
    parameters.write_text(PARAMETERS)
    where = ["-resultFolder", tmp_path, "-paramFN", parameters, "-dataFN", raw]
    where += ["-dataLoc", "exchange/data", "-darkLoc", "exchange/dark"]
    command = [str(Path(python).parent / "midas-ff-zip"), *map(str, where)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    [made] = tmp_path.glob("*.MIDAS.zip")
    assert done.returncode == 0, done.stdout + done.stderr
    ask(python, CONVERTED, made, raw)
