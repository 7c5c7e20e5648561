"""A station from its settings: which devices it has, how they are called and which PVs they have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ophyd import Device

from ..streaming.errors import SettingsError
from .area_detector import HedmAreaDetector, area_detector_class
from .fly_controller import PsoFlyController
from .readings import MonochromatorEnergy, MonochromatorWithSetpoint, Sample, SampleOfSixPvs, ScalarReading
from .shutter import Shutter
from .stages import Motor, RotationStage, SweepingRotationStage, translation_class
from .station_settings import (
    AreaDetectorSettings,
    EnergySettings,
    RotationSettings,
    SampleSettings,
    StationSettings,
    load_station,
)

Convert = Callable[[type[Device]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """The devices of a station, and the roles their keys play; what it does not have is None."""

    rotation: Device
    "omega"
    translation: Device | None = None
    "L1, L2, ..."
    energy: Device | None = None
    "photon energy"
    sample: Device | None = None
    "lattice parameters and space group"
    monitor: Device | None = None
    "the incident beam"
    ring_current: Device | None = None
    "current of the storage ring"
    shutter: Device | None = None
    'takes "open" and "close"'
    fly_controller: PsoFlyController | None = None
    "fires the pulses of a fly scan"
    motors: Mapping[str, Device] = field(default_factory=dict[str, Device])
    "further motors by name, as dty"
    detectors: tuple[HedmAreaDetector, ...] = ()
    "the area detectors"
    roles: Mapping[str, str]
    "role -> data key, as `roles` of the settings wants them"

    @property
    def detector(self) -> HedmAreaDetector:
        """The only detector, or the first of several.

        Raises
        ------
        SettingsError
            There is none.
        """
        if not self.detectors:
            raise SettingsError("the station has no detector: give `detector` or `detectors` in its settings")
        return self.detectors[0]

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Data key of the images of each detector."""
        return tuple(f"{detector.name}_image" for detector in self.detectors)

    @property
    def image_key(self) -> str:
        """Data key of the images of the only detector, or of the first."""
        return f"{self.detector.name}_image"

    @property
    def baseline(self) -> tuple[Device, ...]:
        """What a scan records once before and once after."""
        readings = (self.translation, self.energy, self.sample, self.monitor, self.ring_current)
        return (*(device for device in readings if device is not None), *self.motors.values())

    @property
    def devices(self) -> tuple[Device, ...]:
        """All of them."""
        others = (self.shutter, self.fly_controller, *self.detectors)
        return (self.rotation, *self.baseline, *(device for device in others if device is not None))

    def wait_for_connection(self, timeout: float = 10.0) -> None:
        """Wait until every device is connected.

        Raises
        ------
        SettingsError
            One is not after `timeout` seconds: it is named, with the PVs that do not answer.
        """
        for device in self.devices:
            try:
                device.wait_for_connection(timeout=timeout)
            except TimeoutError as error:
                reason = " ".join(str(error).split())
                raise SettingsError(
                    f"device {device.name!r} is not connected after {timeout:g} s: {reason}; is its IOC running?"
                ) from None


def roles_of(rotation: str, translation: str, energy: str) -> dict[str, str]:
    """Roles -> data keys for devices of the given names, real or simulated."""
    return {
        "omega": rotation,
        "omega_step": f"{rotation}_step",
        "L1": f"{translation}_L1",
        "L2": f"{translation}_L2",
        "energy": energy,
    }


def station_roles(settings: StationSettings) -> dict[str, str]:
    """Roles -> data keys of a station, for what it has."""
    rotation, moves, sample = settings.rotation.name, settings.translation, settings.sample
    roles = {"omega": rotation, "omega_step": f"{rotation}_step"}
    if moves is not None:
        roles |= {name: f"{moves.name}_{name}" for name in moves.pvs}
    for role in ("energy", "monitor", "ring_current"):
        device = getattr(settings, role)
        roles |= {} if device is None else {role: device.name}
    if sample is not None:
        roles |= {key: f"{sample.name}_{key}" for key in ("lattice_parameters", "space_group")}
    return roles | {name: name for name in settings.motors}


def make_station(
    settings: StationSettings | Mapping[str, Any] | str | Path, *, convert: Convert | None = None
) -> Station:
    """Make the devices of a station; none of them is connected yet.

    Parameters
    ----------
    settings
        The settings, a plain mapping of the same form, or the path of `station.yml`.
    convert
        Applied to each class before its device is made: `ophyd.sim.make_fake_device` gives a station without PVs.

    Raises
    ------
    SettingsError
        A setting is missing, unknown or wrong.
    """
    checked = load_station(settings)
    change: Convert = convert or (lambda cls: cls)
    moves, shutter, fly = checked.translation, checked.shutter, checked.fly_controller
    return Station(
        rotation=_rotation(checked.rotation, change),
        translation=None if moves is None else change(translation_class(moves.pvs))("", name=moves.name),
        energy=None if checked.energy is None else _energy(checked.energy, change),
        sample=None if checked.sample is None else _sample(checked.sample, change),
        monitor=_reading(checked.monitor, change),
        ring_current=_reading(checked.ring_current, change),
        shutter=None
        if shutter is None
        else change(Shutter)(
            shutter.pv,
            name=shutter.name,
            status_pv=shutter.status_pv,
            values=shutter.values,
            states=shutter.states,
        ),
        fly_controller=None if fly is None else change(PsoFlyController)(fly.prefix, name=fly.name),
        motors={name: change(Motor)(pv, name=name) for name, pv in checked.motors.items()},
        detectors=tuple(_detector(each, change) for each in checked.all_detectors),
        roles=station_roles(checked),
    )


def _rotation(settings: RotationSettings, change: Convert) -> Device:
    common = {"name": settings.name, "omega_sign": settings.omega_sign}
    if settings.step_pv is None:
        return change(RotationStage)(settings.pv, **common)
    return change(SweepingRotationStage)(settings.pv, step_pv=settings.step_pv, **common)


def _energy(settings: EnergySettings, change: Convert) -> Device:
    common = {"name": settings.name, "units": settings.units}
    if settings.setpoint_pv is None:
        return change(MonochromatorEnergy)(settings.pv, **common)
    return change(MonochromatorWithSetpoint)(settings.pv, setpoint_pv=settings.setpoint_pv, **common)


def _sample(settings: SampleSettings, change: Convert) -> Device:
    common = {"name": settings.name, "space_group_pv": settings.space_group_pv}
    if settings.lattice_pvs is not None:
        return change(SampleOfSixPvs)(lattice_pvs=settings.lattice_pvs, **common)
    return change(Sample)(lattice_pv=settings.lattice_pv, **common)


def _reading(settings: Any, change: Convert) -> Device | None:
    return None if settings is None else change(ScalarReading)(settings.pv, name=settings.name, units=settings.units)


def _detector(settings: AreaDetectorSettings, change: Convert) -> HedmAreaDetector:
    cls = area_detector_class(settings.cam_suffix, settings.file_suffix, kind=settings.kind, writer=settings.writer)
    made: HedmAreaDetector = change(cls)(
        settings.prefix,
        name=settings.name,
        write_path=settings.write_path,
        read_path=settings.read_path,
        step_signals=settings.step,
        fly_signals=settings.fly,
    )
    if settings.writer == "hdf5":
        made.hdf5.dataset = settings.dataset
        made.hdf5.dataset_by_frame_type = settings.dataset_by_frame_type
    return made
