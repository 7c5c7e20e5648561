"""A station from its settings: which devices it has, how they are called and which PVs they have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ophyd import Device
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..streaming.errors import SettingsError
from .area_detector import area_detector_class
from .stages import DetectorTranslation, MonochromatorEnergy, RotationStage


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RotationSettings(_Settings):
    """The rotation stage."""

    name: str = Field(description="name of the device and key of its readback")
    pv: str = Field(description="PV of the motor record")
    omega_sign: Literal[1, -1] = Field(description="+1: readback rises right-handed about the upward axis; else -1")


class TranslationSettings(_Settings):
    """The detector's translation."""

    name: str = Field(description="name of the device")
    l1_pv: str = Field(description="PV of the motor record of L1")
    l2_pv: str = Field(description="PV of the motor record of L2; may be the same")


class EnergySettings(_Settings):
    """The monochromator's energy."""

    name: str = Field(description="name of the device and key of its reading")
    pv: str = Field(description="PV that holds the energy")
    units: str = Field(default="keV", description="unit of that PV")


class AreaDetectorSettings(_Settings):
    """The area detector."""

    name: str = Field(description="name of the device; its images are `<name>_image`")
    prefix: str = Field(description="prefix of its PVs")
    cam_suffix: str = Field(description="what follows the prefix for the camera")
    file_suffix: str = Field(description="what follows the prefix for the HDF5 plugin")
    write_path: str = Field(description="absolute folder as the detector's computer sees it; strftime codes allowed")
    read_path: str | None = Field(default=None, description="the same folder as this computer sees it")


class StationSettings(_Settings):
    """Every name and PV of a station."""

    rotation: RotationSettings
    translation: TranslationSettings
    energy: EnergySettings
    detector: AreaDetectorSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """The devices of a station, and the roles their keys play."""

    rotation: Device
    "omega"
    translation: Device
    "L1 and L2"
    energy: Device
    "photon energy"
    detector: Device
    "the area detector"
    roles: Mapping[str, str]
    "role -> data key"
    image_key: str
    "data key of the images"

    @property
    def baseline(self) -> tuple[Device, ...]:
        """What a scan records once before and once after."""
        return (self.translation, self.energy)


def roles_of(rotation: str, translation: str, energy: str) -> dict[str, str]:
    """Roles -> data keys for devices of the given names, real or simulated."""
    return {
        "omega": rotation,
        "omega_step": f"{rotation}_step",
        "L1": f"{translation}_L1",
        "L2": f"{translation}_L2",
        "energy": energy,
    }


def make_station(
    settings: StationSettings | Mapping[str, Any], *, convert: Callable[[type[Device]], type[Device]] | None = None
) -> Station:
    """Make the devices of a station; none of them is connected yet.

    Parameters
    ----------
    settings
        The settings, or a plain mapping of the same form.
    convert
        Applied to each class before its device is made: `ophyd.sim.make_fake_device` gives a station without PVs.

    Raises
    ------
    SettingsError
        A setting is missing, unknown or wrong.
    """
    checked = settings if isinstance(settings, StationSettings) else _check(settings)
    rotation, translation, energy, detector = checked.rotation, checked.translation, checked.energy, checked.detector
    change: Callable[[type[Device]], Any] = convert or (lambda cls: cls)
    return Station(
        rotation=change(RotationStage)(rotation.pv, name=rotation.name, omega_sign=rotation.omega_sign),
        translation=change(DetectorTranslation)(
            name=translation.name, l1_pv=translation.l1_pv, l2_pv=translation.l2_pv
        ),
        energy=change(MonochromatorEnergy)(energy.pv, name=energy.name, units=energy.units),
        detector=change(area_detector_class(detector.cam_suffix, detector.file_suffix))(
            detector.prefix, name=detector.name, write_path=detector.write_path, read_path=detector.read_path
        ),
        roles=roles_of(rotation.name, translation.name, energy.name),
        image_key=f"{detector.name}_image",
    )


def _check(settings: Mapping[str, Any]) -> StationSettings:
    try:
        return StationSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"station settings: {where}: {first['msg']}, got {first['input']!r}") from None
