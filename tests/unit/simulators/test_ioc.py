"""The parts of the soft IOC that need no process: its PVs and its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedmlive.devices import CAMS, GE_HEADER
from hedmlive.simulators.ioc import IocSettings, simulated_station_settings
from hedmlive.simulators.ioc.beamline import Beamline
from hedmlive.simulators.ioc.files import GeFile, Taken


@pytest.mark.parametrize("kind", sorted(CAMS))
def test_every_pv_of_the_detector_is_served(kind: str) -> None:
    station = simulated_station_settings("/data", "X:", kind=kind)
    pvs = Beamline(IocSettings(station=station, shape=(16, 16), n_grains=3)).pvs
    wanted = ("cam1:Acquire", "cam1:Acquire_RBV", "HDF1:Capture", "HDF1:NumCaptured_RBV", "HDF1:SWMRMode")
    assert {f"X:ff1:{name}" for name in wanted} <= set(pvs)
    assert {"X:m1", "X:omega_step", "X:lattice", "X:PSOFly1:taxi", "X:shutter", "SIM:fault:stuck"} <= set(pvs)


def test_a_ge_file_is_a_header_and_frames(tmp_path: Path) -> None:
    frames = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    file = GeFile(tmp_path / "a.ge", GE_HEADER)
    for i, image in enumerate(frames):
        common: dict[str, Any] = {"omega": 0.0, "time": 0.0, "dataset": ""}
        file.append(Taken(image=image, unique_id=i, **common))
    file.close()
    read = np.fromfile(tmp_path / "a.ge", dtype="<u2", offset=GE_HEADER)
    np.testing.assert_array_equal(read.reshape(frames.shape), frames)
