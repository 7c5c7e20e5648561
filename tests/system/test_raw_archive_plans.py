"""What raw archives of the plans hold: each distance and layer of a near-field scan, and omega while a scan flies."""

from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from unit.devices.scanning import Session, controller, station

from hedmlive.callbacks import RawArchive, load_settings, process
from hedmlive.callbacks.doctor import examine, lacks
from hedmlive.devices import ff_scan, nf_scan
from hedmlive.simulators import SimAxis, SimulatedStation

N = 4


@pytest.fixture
def made(tmp_path: Path) -> SimulatedStation:
    return station(tmp_path / "frames")


def settings(made: SimulatedStation, folder: Path, **changes: Any) -> Any:
    said = {
        "roles": {**made.roles, "layer": "samy"},
        "omega_marks": "start",
        "detectors": [{"name": "det", "image": made.image_key}],
        "recipe": {"threshold": 30, "background": "dark"},
        "hedm": {"space_group": 225, "lattice_parameters": [4.08, 4.08, 4.08, 90, 90, 90], "seed_resolution": 30},
        "archive": {"folder": str(folder)},
    }
    return load_settings(said | changes)


@pytest.mark.parametrize("flies", [False, True])
def test_each_distance_and_layer_of_a_near_field_scan(made: SimulatedStation, tmp_path: Path, *, flies: bool) -> None:
    session = Session()
    options: dict[str, Any] = {"fly": controller(made), "frame_time": 0.01} if flies else {}
    plan = nf_scan(
        [made.detector], made.rotation, -10.0, 2.0, N,
        distance=made.translation.L1, distance_start=7.0, distance_end=9.0, n_distances=2,
        layer=SimAxis(name="samy", egu="mm"), layer_start=8.04, layer_step=0.01, n_layers=2,
        dark_frames=2, shutter=made.shutter, baseline=made.baseline, snake=True, **options,
    )  # fmt: skip
    session(plan)
    result = process(session.documents, settings(made, tmp_path), stem="scan", write_raw=True)
    assert result.problems == ()
    assert result.raw is not None
    found = examine(result.raw)
    assert lacks(found, "near-field") == []
    assert {each.item: each.value for each in found}["near-field stacks"] == f"4 sweeps of {N} frames"
    there = -10.0 + 2.0 * np.arange(N)
    with h5py.File(result.raw) as file:
        entry: Any = file["entry"]
        scan, frames = entry["scan"], entry["instrument/det/data"][()]
        assert scan["distance_index"][()].tolist() == np.repeat([0, 1], 2 * N).tolist()
        assert scan["layer_index"][()].tolist() == np.tile(np.repeat([0, 1], N), 2).tolist()
        np.testing.assert_allclose(scan["L1"], np.repeat([7.0, 9.0], 2 * N))
        np.testing.assert_allclose(scan["L2"], np.full(4 * N, 800.0))
        for number, (i, j) in enumerate(product(range(2), range(2))):
            place = entry[f"hedm/near_field/distance_{i}_layer_{j}"]
            first = number * N
            np.testing.assert_array_equal(place["frame"], np.arange(first, first + N))
            np.testing.assert_array_equal(place["data"], frames[first : first + N])
            start = there[::-1] if number % 2 else there
            np.testing.assert_allclose(place["omega_per_frame"], np.stack([start, start + 2.0], axis=1))
            np.testing.assert_allclose(place["omega"], start + 1.0)
            assert (place["L1"][()], place["L1"].attrs["units"]) == (7.0 + 2.0 * i, "mm")
            assert place["layer"][()] == pytest.approx(8.04 + 0.01 * j)
        assert frames.any()


@pytest.mark.parametrize("source", ["events", "controller"])
def test_omega_of_a_fly_scan_is_there_while_it_goes_on(made: SimulatedStation, tmp_path: Path, source: str) -> None:
    session = Session()
    fly = {"fly": controller(made), "frame_time": 0.01, "baseline": made.baseline}
    session(ff_scan([made.detector], made.rotation, 10.0, -2.0, 3 * N, **fly))
    changes: dict[str, Any] = {}
    if source == "controller":
        roles = {role: key for role, key in made.roles.items() if not role.startswith("omega")}
        axis = {"start": "pso_start", "step": "pso_step", "count": "pso_frames", "marks": "start"}
        changes = {"roles": roles, "omega_marks": None, "trajectory": {"axes": {"omega": axis}}}
    raw = RawArchive(tmp_path / "scan_raw.h5", settings(made, tmp_path, **changes), session.of("start")[0])
    for name, doc in session.documents:
        if name != "stop":
            raw.append(name, doc)
    raw.flush()
    with h5py.File(raw.path, "r", libver="latest", swmr=True) as file:
        scan: Any = file["entry/scan"]
        np.testing.assert_array_equal(scan["frame"], np.arange(3 * N))
        np.testing.assert_array_equal(scan["omega_start"], 10.0 - 2.0 * np.arange(3 * N))
        np.testing.assert_array_equal(scan["omega_end"], 8.0 - 2.0 * np.arange(3 * N))
        np.testing.assert_array_equal(scan["L1"], np.full(3 * N, 600.0))
    raw.close()
