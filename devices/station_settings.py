"""The settings of a station: every name and PV it has, as `station.yml` holds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..streaming.errors import SettingsError
from .area_detector import CAMS, NEXUS_DATASET

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Pv = Annotated[str, Field(min_length=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RotationSettings(_Settings):
    """The rotation stage."""

    name: Name = Field(description="name of the device and key of its readback")
    pv: Pv = Field(description="PV of the motor record")
    omega_sign: Literal[1, -1] = Field(description="+1: readback rises right-handed about the upward axis; else -1")
    step_pv: Pv | None = Field(default=None, description="PV that takes the sweep of one frame, where there is one")


class TranslationSettings(_Settings):
    """The detector's translation."""

    name: Name = Field(description="name of the device")
    l1_pv: Pv | None = Field(default=None, description="PV of the motor record of L1")
    l2_pv: Pv | None = Field(default=None, description="PV of the motor record of L2; may be the same")
    distances: Mapping[Name, Pv] = Field(
        default_factory=dict, description="any number of distances: name, as L3, and PV of its motor record"
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.pvs:
            raise ValueError("no distance: give distances, or l1_pv and l2_pv")
        return self

    @property
    def pvs(self) -> dict[str, str]:
        """PV of each distance."""
        short = {"L1": self.l1_pv, "L2": self.l2_pv}
        return {name: pv for name, pv in short.items() if pv is not None} | dict(self.distances)


class ReadingSettings(_Settings):
    """A number that is only read."""

    name: Name = Field(description="name of the device and key of its reading")
    pv: Pv = Field(description="PV that holds it")
    units: str = Field(default="", description="unit of that PV, if the record has none")


class EnergySettings(ReadingSettings):
    """The monochromator's energy."""

    units: str = Field(default="keV", description="unit of that PV, if the record has none")
    setpoint_pv: Pv | None = Field(default=None, description="PV of the energy that was asked for")


class SampleSettings(_Settings):
    """What is known of the sample's phase."""

    name: Name = Field(description="name of the device")
    lattice_pv: Pv | None = Field(default=None, description="waveform: a, b, c [Angstrom], alpha, beta, gamma [deg]")
    lattice_pvs: tuple[Pv, Pv, Pv, Pv, Pv, Pv] | None = Field(default=None, description="or six PVs, in that order")
    space_group_pv: Pv = Field(description="PV of the space group's number")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.lattice_pv is None) == (self.lattice_pvs is None):
            raise ValueError("give one of lattice_pv (a waveform) and lattice_pvs (six PVs)")
        return self


class ShutterSettings(_Settings):
    """The shutter."""

    name: Name = Field(description="name of the device")
    pv: Pv = Field(description="PV that opens and closes it")
    status_pv: Pv | None = Field(default=None, description="PV that says where it is, if another")
    values: tuple[str | int | float, str | int | float] = Field(
        default=(1, 0), description="what to write to open and to close it"
    )
    states: tuple[str | int | float, str | int | float] | None = Field(
        default=None, description="what the status reads then, if something else"
    )


class FlyControllerSettings(_Settings):
    """The PSO fly controller."""

    name: Name = Field(description="name of the device")
    prefix: Pv = Field(description="prefix of its PVs, as `...PSOFly1:`")


class AreaDetectorSettings(_Settings):
    """One area detector; a pair of panels is two."""

    name: Name = Field(description="name of the device; its images are `<name>_image`")
    kind: str = Field(default="any", description=f"camera: {', '.join(sorted(CAMS))}")
    prefix: Pv = Field(description="prefix of its PVs")
    cam_suffix: str = Field(description="what follows the prefix for the camera")
    file_suffix: str = Field(description="what follows the prefix for the file writer")
    writer: Literal["hdf5", "ge"] = Field(default="hdf5", description="what writes its files")
    write_path: str = Field(description="absolute folder as the detector's computer sees it; strftime codes allowed")
    read_path: str | None = Field(default=None, description="the same folder as this computer sees it")
    dataset: str = Field(default=NEXUS_DATASET, pattern="^/", description="where the frames lie in its HDF5 files")
    dataset_by_frame_type: bool = Field(default=False, description="the camera's FrameType names the dataset instead")
    step: Mapping[str, Any] = Field(default_factory=dict, description="signals to stage for frames one by one")
    fly: Mapping[str, Any] = Field(default_factory=dict, description="signals to stage for frames on pulses")

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        if kind not in CAMS:
            raise ValueError(f"wanted one of {', '.join(sorted(CAMS))}")
        return kind


class StationSettings(_Settings):
    """Every name and PV of a station; what it does not have is left out."""

    rotation: RotationSettings
    translation: TranslationSettings | None = None
    energy: EnergySettings | None = None
    sample: SampleSettings | None = None
    monitor: ReadingSettings | None = None
    ring_current: ReadingSettings | None = None
    shutter: ShutterSettings | None = None
    motors: Mapping[Name, Pv] = Field(default_factory=dict, description="further motors: name, as dty, and PV")
    fly_controller: FlyControllerSettings | None = None
    detector: AreaDetectorSettings | None = None
    detectors: tuple[AreaDetectorSettings, ...] = Field(default=(), description="several, instead of `detector`")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.detector is not None and self.detectors:
            raise ValueError("detector and detectors are both given; wanted one of them")
        names = self.names()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"name {twice[0]!r} is given to two devices; wanted another for each")
        return self

    @property
    def all_detectors(self) -> tuple[AreaDetectorSettings, ...]:
        """The detectors, under whichever key they stand."""
        return self.detectors if self.detector is None else (self.detector,)

    def names(self) -> list[str]:
        """Return the names of all devices."""
        single = (self.rotation, self.translation, self.energy, self.sample, self.monitor, self.ring_current)
        others = (*single, self.shutter, self.fly_controller, *self.all_detectors)
        return [device.name for device in others if device is not None] + list(self.motors)


def load_station(source: StationSettings | Mapping[str, Any] | str | Path) -> StationSettings:
    """Read the settings of a station from `station.yml`, or check a mapping of the same form.

    Raises
    ------
    SettingsError
        The file cannot be read or is no YAML mapping; an entry is missing, unknown or wrong. One line.
    """
    if isinstance(source, StationSettings):
        return source
    if isinstance(source, Mapping):
        return _checked(source, "station settings")
    try:
        read = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise SettingsError(f"station settings {source}: {reason}; wanted a YAML file") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"station settings {source}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict):
        raise SettingsError(f"station settings {source}: holds {type(read).__name__}; wanted `rotation: ...` and more")
    return _checked(read, f"station settings {source}")


def _checked(settings: Mapping[str, Any], what: str) -> StationSettings:
    try:
        return StationSettings.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "all"
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] == "missing" or not first["loc"] else f", got {first['input']!r}"
        raise SettingsError(f"{what}: {where}: {message}{got}") from None
