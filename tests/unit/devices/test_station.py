"""A station made from settings, on fake PVs."""

from pathlib import Path
from typing import Any

import pytest
from ophyd.sim import make_fake_device

from hedmlive.devices import Station, StationSettings, make_station
from hedmlive.streaming.errors import SettingsError

SETTINGS: dict[str, Any] = {
    "rotation": {"name": "aero", "pv": "IOC:m1", "omega_sign": -1},
    "translation": {"name": "det", "l1_pv": "IOC:m7", "l2_pv": "IOC:m8"},
    "energy": {"name": "mono", "pv": "IOC:energy"},
    "detector": {
        "name": "ge",
        "prefix": "IOC:ge:",
        "cam_suffix": "camera:",
        "file_suffix": "FileHDF:",
        "write_path": "/data/%Y",
    },
}


@pytest.fixture
def made() -> Station:
    return make_station(SETTINGS, convert=make_fake_device)


def test_every_name_and_pv_comes_from_the_settings(made: Station) -> None:
    assert made.translation is not None
    assert made.energy is not None
    assert [device.name for device in (made.rotation, made.translation, made.energy, made.detector)] == [
        "aero",
        "det",
        "mono",
        "ge",
    ]
    assert made.rotation.prefix == "IOC:m1"
    assert (made.translation.L1.prefix, made.translation.L2.prefix) == ("IOC:m7", "IOC:m8")
    assert made.energy.prefix == "IOC:energy"
    assert made.detector.cam.prefix == "IOC:ge:camera:"
    assert made.detector.hdf5.prefix == "IOC:ge:FileHDF:"
    assert made.baseline == (made.translation, made.energy)


def test_roles_name_the_keys_that_the_devices_record(made: Station) -> None:
    assert made.roles == {
        "omega": "aero",
        "omega_step": "aero_step",
        "L1": "det_L1",
        "L2": "det_L2",
        "energy": "mono",
    }
    assert made.image_key == "ge_image"
    assert made.translation is not None
    assert made.energy is not None
    assert "aero" in made.rotation.describe()
    assert made.rotation.read_configuration()["aero_step"]["value"] == 0.0
    assert made.rotation.read_configuration()["aero_omega_sign"]["value"] == -1
    assert {"det_L1", "det_L2"} <= set(made.translation.describe())
    assert made.energy.describe()["mono"]["units"] == "keV"


def test_the_detector_writes_swmr_with_every_frame_flushed(made: Station) -> None:
    writer = made.detector.hdf5
    assert writer.filestore_spec == "AD_HDF5_SWMR"
    assert writer.stage_sigs["swmr_mode"] == "On"
    assert writer.stage_sigs["num_frames_flush"] == 1
    assert list(writer.stage_sigs)[-1] == "capture"
    assert Path(writer.write_path_template) == Path("/data/%Y")
    assert Path(writer.read_path_template) == Path("/data/%Y")


def test_settings_can_be_given_checked(made: Station) -> None:
    again = make_station(StationSettings.model_validate(SETTINGS), convert=make_fake_device)
    assert again.roles == made.roles


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("rotation", {"omega_sign": 0}, r"rotation\.omega_sign.*got 0"),
        ("rotation", {"speed": 3}, r"rotation\.speed: .*not permitted"),
        ("energy", {"pv": None}, r"energy\.pv: .*string"),
    ],
)
def test_wrong_settings_name_the_entry(part: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        make_station(SETTINGS | {part: SETTINGS[part] | change}, convert=make_fake_device)


def test_a_missing_part_is_named() -> None:
    with pytest.raises(SettingsError, match="rotation: Field required"):
        make_station({key: value for key, value in SETTINGS.items() if key != "rotation"})
