"""The parts a station may have, on fake PVs: what they record, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest
from ophyd.sim import make_fake_device

from hedmlive.devices import CAMS, PsoFlyController, Station, load_station, make_station
from hedmlive.simulators.ioc import simulated_station_settings
from hedmlive.streaming.errors import SettingsError

ROTATION = {"rotation": {"name": "aero", "pv": "IOC:m1", "omega_sign": -1}}


@pytest.fixture
def made() -> Station:
    return make_station(simulated_station_settings("/data", "X:", n_detectors=2), convert=make_fake_device)


def test_everything_beyond_the_rotation_is_optional() -> None:
    made = make_station(ROTATION, convert=make_fake_device)
    assert made.roles == {"omega": "aero", "omega_step": "aero_step"}
    assert made.baseline == ()
    with pytest.raises(SettingsError, match="no detector"):
        _ = made.detector


def test_roles_of_all_parts(made: Station) -> None:
    assert made.roles == {
        "omega": "aero",
        "omega_step": "aero_step",
        "L1": "detz_L1",
        "L2": "detz_L2",
        "energy": "mono",
        "monitor": "monitor",
        "ring_current": "ring",
        "lattice_parameters": "sample_lattice_parameters",
        "space_group": "sample_space_group",
        "dty": "dty",
        "samY": "samY",
    }
    described = {key for device in made.baseline for key in device.describe()}
    assert set(made.roles.values()) - {"aero", "aero_step"} <= described
    assert made.image_keys == ("ff1_image", "ff2_image")


def test_any_number_of_distances() -> None:
    distances = {"L1": "IOC:m7", "L2": "IOC:m7", "L3": "IOC:m8"}
    made = make_station({**ROTATION, "translation": {"name": "nf", "distances": distances}}, convert=make_fake_device)
    assert made.translation is not None
    assert {f"nf_{name}" for name in distances} <= set(made.translation.describe())
    assert made.roles["L3"] == "nf_L3"


def test_six_pvs_are_one_array() -> None:
    pvs = [f"IOC:{name}" for name in "abcdef"]
    sample = {"name": "s", "lattice_pvs": pvs, "space_group_pv": "IOC:g"}
    device: Any = make_station({**ROTATION, "sample": sample}, convert=make_fake_device).sample
    for part, value in zip(("a", "b", "c", "alpha", "beta", "gamma"), (1, 2, 3, 90, 91, 92), strict=True):
        getattr(device, part).sim_put(float(value))
    assert device.read()["s_lattice_parameters"]["value"] == [1, 2, 3, 90, 91, 92]
    assert device.describe()["s_lattice_parameters"]["source"].endswith("IOC:f")


def test_a_fly_scan_is_set_up_without_the_sign_of_its_step() -> None:
    fly: Any = make_fake_device(PsoFlyController)("IOC:PSOFly1:", name="pso")
    values = {signal.name: value for signal, value in fly.set_scan(10.0, -10.0, 40, 0.1).items()}
    assert values == {"pso_start": 10.0, "pso_end": -10.0, "pso_delta": 0.5, "pso_slew_speed": 5.0}
    assert {"pso_start", "pso_end", "pso_delta"} <= set(fly.read_configuration())
    with pytest.raises(SettingsError, match="0 frames"):
        fly.set_scan(0.0, 1.0, 0, 0.1)


@pytest.mark.parametrize("kind", sorted(CAMS))
def test_every_kind_of_detector_flies_and_steps(kind: str) -> None:
    settings = simulated_station_settings("/data", "X:", kind=kind)
    detector = make_station(settings, convert=make_fake_device).detector
    detector.use_fly(720)
    assert detector.stage_sigs["cam.num_images"] == 720
    assert detector.stage_sigs["cam.trigger_mode"] == "External"
    detector.use_step()
    assert detector.stage_sigs["cam.num_images"] == 1
    assert detector.stage_sigs["cam.trigger_mode"] == "Internal"


def test_the_shutter_takes_two_words(made: Station) -> None:
    assert made.shutter is not None
    with pytest.raises(SettingsError, match="'ajar'"):
        made.shutter.set("ajar")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2]", "holds list"),
        ("rotation: {name: a, pv: x}", "rotation.omega_sign: Field required"),
        ("rotation: [", "no YAML"),
        ("rotation: {name: a, pv: x, omega_sign: 1}\nmotors: {a: y}", "'a' is given to two devices"),
        ("rotation: {name: a, pv: x, omega_sign: 1}\nsample: {name: s, space_group_pv: g}", "one of lattice_pv"),
    ],
)
def test_a_wrong_file_gives_one_line_that_names_it(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "station.yml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words) as caught:
        load_station(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
