"""Settings of the guards of metadata: what may differ by how much, and which warnings are not wanted."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

K_EDGES: dict[str, float] = {
    "Ti": 4.9664,
    "Fe": 7.1120,
    "Ni": 8.3328,
    "Cu": 8.9789,
    "Zr": 17.9976,
    "Nb": 18.9856,
    "Mo": 19.9995,
    "Rh": 23.2199,
    "Pd": 24.3503,
    "Ag": 25.5140,
    "Cd": 26.7112,
    "In": 27.9399,
    "Sn": 29.2001,
    "Sb": 30.4912,
    "Te": 31.8138,
    "I": 33.1694,
    "Cs": 35.9846,
    "Ba": 37.4406,
    "La": 38.9246,
    "Ce": 40.4430,
    "Pr": 41.9906,
    "Nd": 43.5689,
    "Sm": 46.8342,
    "Eu": 48.5190,
    "Gd": 50.2391,
    "Tb": 51.9957,
    "Dy": 53.7885,
    "Ho": 55.6177,
    "Er": 57.4855,
    "Tm": 59.3896,
    "Yb": 61.3323,
    "Lu": 63.3138,
    "Hf": 65.3508,
    "Ta": 67.4164,
    "W": 69.5250,
    "Re": 71.6764,
    "Os": 73.8708,
    "Ir": 76.1110,
    "Pt": 78.3948,
    "Au": 80.7249,
    "Tl": 85.5304,
    "Pb": 88.0045,
    "Bi": 90.5259,
    "Th": 109.6509,
    "U": 115.6061,
}
"""Element to its K absorption edge, keV: Bearden and Burr, Rev. Mod. Phys. 39, 125 (1967), as NIST lists them."""

KINDS: dict[str, str] = {
    "energy-mismatch": "look at the monochromator and at the foil before the next scan; energy is in no frame's image",
    "distance-mismatch": "look where the detector stands; distances of this run are not what they say",
    "dark-zero": "look at the dark's file and dataset; subtracting it does nothing",
    "dark-saturated": "close the shutter and take the darks anew",
    "dark-bright": "take the darks anew, with the shutter closed and the exposure of the frames",
    "no-pedestal": "the detector subtracts a dark already: take the dark out of the recipe, or switch that off",
    "omega-repeated": "a frame more than there are steps: look at the trigger; all later frames are a step off",
    "omega-missing": "a frame was lost: look at the trigger and the file writer; all later frames are a step off",
    "omega-backwards": "look at the rotation and at what else moves it; measure these frames again",
    "omega-sign": "set omega_sign, or the plan's start and step; a wrong sign mirrors the microstructure",
    "omega-stuck": "look at the rotation: its amplifier, limits and brake; then repeat the scan",
    "stale-timestamp": "look at the PV's IOC or gateway; do not trust what it says until its time moves",
    "frame-count": "look at the detector's file and trigger before the sample is changed",
    "frame-lost": "look at the file writer's queue and disk; reduce the file itself if it holds omega of each frame, "
    "else repeat the scan",
    "frame-saturated": "put in an attenuator or take shorter exposures; intensities of these peaks are too low",
    "frame-dark": "look at shutter, ring current and monitor; repeat these frames",
    "scaling": "set the detector's format as it was, or say count_step and full_scale, and look at the threshold",
    "run-failed": "what came until then is reduced and archived; mend what failed, and measure the rest",
    "guard": "everything else goes on; correct the setting if it names one, else please report it",
}
"""Kind of a warning to what to do about it."""


class GuardSettings(BaseModel):
    """What the guards compare, and how far it may differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = True
    "Whether metadata are watched at all."
    ignore: tuple[str, ...] = ()
    "Kinds of warnings that are not wanted, such as `frame-dark`."
    energy_edge: str | None = None
    "Element of the foil whose K edge the energy stands at, such as `Lu`."
    energy_value: float | None = Field(default=None, gt=0)
    "Energy that is wanted, keV."
    energy_setpoint: str = "energy_setpoint"
    "Role of the monochromator's set-point; compared if there is such a role."
    energy_tolerance: float = Field(default=0.002, gt=0)
    "How far the role energy may be from any of these, as a fraction of it."
    energy_drift: float = Field(default=0.001, gt=0)
    "How far it may drift during a run, as a fraction of it."
    distance_stage: str = "detector_z"
    "Role of the stage that moves the detector; its differences are compared with those of L1 and L2."
    distance_tolerance: float | None = Field(default=None, gt=0)
    "How far distances may be apart, in their own unit; absent, a thousandth of the largest."
    omega_tolerance: float = Field(default=0.5, gt=0, lt=1)
    "How far omega may be from where the plan, or the steps before, put it, as a fraction of a step."
    dark_tolerance: float = Field(default=0.05, gt=0, lt=1)
    "How far the median of a frame may lie below that of the dark, as a fraction of it."
    stale_roles: tuple[str, ...] = ("monitor",)
    "Roles whose time stamps move with every frame, whether their value changes or not."
    stale_frames: int = Field(default=3, ge=1)
    "Frames during which a time stamp may stand still."
    stale_seconds: float | None = Field(default=None, gt=0)
    "How much older than its event a reading may be, seconds; absent, any age: a motor that rests is not read anew."
    frame_period: str | None = None
    "Data key of the detector's acquisition period, seconds, in the configuration of a device or in the start document."
    period_tolerance: float = Field(default=0.2, gt=0)
    "How far the period may be from the differences of the events' times, as a fraction of it."
    lost_beam: float = Field(default=0.1, gt=0, lt=1)
    "The beam is lost where the monitor, or what the frame has above its dark, falls below this fraction of usual."
    frame_ids: str | None = None
    "Dataset of the detector's HDF5 file with the camera's number of each frame; absent, where beamlines put it."
    saturated: float = Field(default=0.01, ge=0, lt=1)
    "Fraction of a frame's lit pixels that may be saturated; the recipe's `saturation` says what that is."
    count_step: int | None = Field(default=None, ge=1)
    "What all counts are multiples of, such as 64 where 10 bits are stored as 16; absent, 1."
    full_scale: float | None = Field(default=None, gt=0)
    "Counts that no pixel exceeds."

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        unknown = sorted(set(self.ignore) - set(KINDS))
        if unknown:
            raise ValueError(f"ignore holds {' and '.join(unknown)}; wanted some of {', '.join(KINDS)}")
        if self.energy_edge is not None and self.energy_edge not in K_EDGES:
            raise ValueError(f"energy_edge is {self.energy_edge!r:.20}; wanted one of {', '.join(K_EDGES)}")
        return self

    @property
    def energies(self) -> dict[str, float]:
        """What the energy is compared with, keV, by what it is called."""
        edge = K_EDGES.get(self.energy_edge or "")
        said = {f"the K edge of {self.energy_edge}": edge, "the settings": self.energy_value}
        return {name: value for name, value in said.items() if value is not None}
