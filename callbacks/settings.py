"""Settings: one YAML file, or a block of one, read into frozen models that forbid unknown keys."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from ..streaming import SCAN_ROLES, Recipe, SettingsError
from .guard_settings import GuardSettings
from .watch_settings import WatchSettings

BLOCK = "HEDM_LIVE"
"""Name of our block in an ``iconfig.yml``."""

_OMEGA_ROLES = ("omega", "omega_start", "omega_end", "omega_step")
_OTHER_ROLES = ("lattice_parameters", "space_group")

MOST_FRAMES = 2_000_000
"""A plan of more frames than this is a mistake, and would fill the memory."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DetectorSettings(_Model):
    """One detector, or one panel of it."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    "Name in the archives."
    image: str
    "Data key of its image."
    dark: Path | None = None
    "File of dark frames (.npy, TIFF, or `file.h5:/path/to/dataset`); of several the mean is taken. With \
`background: dark` and no file, the run's dark stream is used."
    flat: Path | None = None
    "File of the flat field: the relative response of each pixel."
    mask: Path | None = None
    "File of the mask, 0 where a pixel is valid."
    bad_intensity: int | None = None
    "Counts by which the detector marks a bad pixel in any image, as MIDAS `BadPxIntensity`."
    gap_intensity: int | None = None
    "Counts by which it marks the gaps between its modules, as MIDAS `GapIntensity`."
    transforms: tuple[Literal[0, 1, 2, 3], ...] = ()
    "How its images are turned before all else, as MIDAS `ImTransOpt`: 1 mirror columns, 2 mirror rows, 3 transpose."
    panels: tuple[tuple[int, int, int, int], ...] = ()
    "[row_min, row_end, col_min, col_end] of each panel of the turned image; what lies outside all is masked."


class ArchiveSettings(_Model):
    """Where the archives go."""

    folder: Path
    "Folder of the archives; made if it is not there."
    stem: str = "{scan_id}_{uid:.8}"
    "Name of a run's files without `_raw.h5`; a format of the start document's `scan_id` and `uid`."
    critical: bool = True
    "Whether a raw archive that cannot be written stops the plan."
    flush_seconds: float = Field(default=0.5, gt=0)
    "Longest time that documents wait in memory."
    write_raw: bool = True
    "Whether to write a raw archive; a replay has one already."


class HedmSettings(_Model):
    """What a reconstruction needs beside the frames, where no device tells it, and how the raw archive holds frames."""

    space_group: int | None = Field(default=None, ge=1, le=230)
    "Number of the space group; a role `space_group` goes before it."
    lattice_parameters: tuple[float, float, float, float, float, float] | None = None
    "a, b, c in angstrom, alpha, beta, gamma in degrees; a role `lattice_parameters` goes before them."
    far_field_result: tuple[Path, ...] = ()
    "Results of a far-field reconstruction, from which comes what neither a role nor the settings say, and seed \
orientations: `Grains.csv` of MIDAS, `grains.out` of hexrd, `.map` or `.par` of ImageD11; a file, or a list of them."
    seed_resolution: float | None = Field(default=None, gt=0, le=90)
    "Without a far-field result, seed orientations are generated from the space group so that nothing is further than \
this from one, degrees; absent, none are."
    frames: Literal["link", "virtual", "copy"] = "link"
    "How the archive holds frames that the detector wrote to files of its own: as a link where a file holds just the \
scan's frames and else as a virtual dataset, always as a virtual dataset, or copied into the archive at the run's end."

    @field_validator("far_field_result", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class WorkerSettings(_Model):
    """Bounds of what waits in memory."""

    memory_mb: float = Field(default=512, gt=0)
    "Images that wait for the worker; beyond it they are read back from the raw archive."
    documents: int = Field(default=10_000, ge=1)
    "Documents that wait for the worker."
    threads: int = Field(default=2, ge=1, le=256)
    "Threads that find peaks when several frames wait; what comes out does not depend on it."
    reorder_points: int = Field(default=256, ge=1)
    "Later points that are waited for before one that did not come counts as missing."
    role_points: int = Field(default=16, ge=0)
    "Points that are waited for a role that did not come with the first."
    file_seconds: float = Field(default=10, ge=0)
    "How long to wait for a frame that a document announced and the file does not hold yet."


class TiledSettings(_Model):
    """The Tiled server to publish to."""

    uri: str
    "Address of the server, as `http://127.0.0.1:8000`."
    api_key_env: str = "HEDMLIVE_TILED_KEY"
    "Environment variable that holds the key; keys do not belong in a settings file."
    latency: float = Field(default=0.2, gt=0)
    "Longest time that new rows wait, seconds."
    rows: int = Field(default=50_000, ge=1)
    "Most rows in one batch."
    raw: bool = True
    "Whether the run itself is published too."


class AxisSettings(_Model):
    """One motor of the trajectory."""

    link: bool | None = None
    "Whether peaks are linked along it; absent, they are along omega and dty only."
    tolerance: float | None = Field(default=None, ge=0)
    "Positions that differ by no more than this are one, in the motor's unit; `.inf` for a motor that follows another \
and decides nothing. Absent, 0.001 for omega, and the recipe's `place_tolerance` for any other."
    reach: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    "Neighbours are no further apart than this; absent, one and a half of the motor's usual move."
    period: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    "Positions so far apart are one, and the last is a neighbour of the first; 0 says that turns are apart. Absent, \
360 for omega, unless the recipe says `wrap: false`."
    motor: str = ""
    "Name of the motor in the plan, where it is not the data key of the role."
    start: float | str | None = None
    "First position, or the data key that holds it in the configuration of a device or in the start document."
    step: float | str | None = None
    "Way from one position to the next, of either sign, or its data key."
    count: int | str | None = None
    "How many positions, or its data key."
    positions: tuple[float, ...] = ()
    "The positions themselves, in the place of start, step and count."
    marks: Literal["start", "centre", "end"] = "centre"
    "Which end of a frame's step its position is: a position that fires a frame is the `start`."
    width: float | None = Field(default=None, allow_inf_nan=False)
    "Way during one frame, if it is not the step."

    @property
    def has_positions(self) -> bool:
        """Whether it says where the motor goes."""
        return bool(self.positions) or self.start is not None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        said = {"start": self.start, "step": self.step, "count": self.count}
        lacks = [name for name, value in said.items() if value is None]
        if self.positions and len(lacks) < 3:
            raise ValueError("positions are given, and so are start, step or count; wanted one or the other")
        if lacks and len(lacks) < 3:
            raise ValueError(f"start, step and count belong together; {' and '.join(lacks)} is missing")
        if not all(map(math.isfinite, (*self.positions, *(v for v in said.values() if isinstance(v, float))))):
            raise ValueError("start, step and positions must be finite numbers")
        if self.step == 0:
            raise ValueError("step is 0; leave the motor out if it does not move")
        if isinstance(self.count, int) and not 1 <= self.count <= MOST_FRAMES:
            raise ValueError(f"count is {self.count}; wanted 1 to {MOST_FRAMES}")
        if self.link and self.tolerance == math.inf:
            raise ValueError("a motor with tolerance .inf decides nothing: nothing can be linked along it")
        return self


class TrajectorySettings(_Model):
    """Which frames are neighbours."""

    source: Literal["documents", "settings", "positions", "order"] = "documents"
    "Where the positions come from: the run's own plan if it tells, else the order of the frames (`documents`); the \
axes below (`settings`, which need not be said where an axis has positions); what each event reads, once the run is \
over (`positions`); or the order of the frames (`order`)."
    skip_first: int = Field(default=0, ge=0, le=MOST_FRAMES)
    "Frames before the scan's first position, such as a settling frame: reduced, but in no track."
    skipped_in_positions: bool = False
    "Whether the positions begin with those of the frames that `skip_first` skips."
    axes: dict[str, AxisSettings] = {}
    "Role to what is known of its motor."
    order: tuple[str | tuple[str, ...], ...] = ()
    "With positions from here: the roles from slow to fast; those that move together in a list of their own."
    snaked: bool | tuple[str, ...] = False
    "Whether every second pass goes back: all but the slowest, or the named roles."
    passes: int = Field(default=1, ge=1, le=10_000)
    "Interlaced passes of the fastest motor: with 2, positions 0, 2, 4, ... come first, and 1, 3, 5, ... then."
    flip: bool = False
    "Whether every second of these passes goes back."
    links: tuple[tuple[int, int], ...] = ()
    "Further pairs of scan points that are neighbours, counted from 0 as in the column `point`."

    @model_validator(mode="before")
    @classmethod
    def _source_of_positions(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "source" not in value and isinstance(value.get("axes"), Mapping):
            axes = [axis for axis in value["axes"].values() if isinstance(axis, Mapping)]
            if any("start" in axis or "positions" in axis for axis in axes):
                return {**value, "source": "settings"}
        return value

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for a, b in self.links:
            if a == b or min(a, b) < 0:
                raise ValueError(f"links holds [{a}, {b}]; wanted two different scan points, counted from 0")
        if self.flip and self.passes == 1:
            raise ValueError("flip turns every second of several passes; say passes too")
        if self.skip_first and self.source == "positions":
            raise ValueError("skip_first does not go with source positions, where each frame has its own")
        given = {role for role, axis in self.axes.items() if axis.has_positions}
        if self.source == "settings":
            self._check_order(given)
        elif given:
            raise ValueError(f"axes give positions of {_listed(given)}, but source is {self.source}; wanted settings")
        elif self.order or self.snaked or self.passes > 1:
            raise ValueError("order, snaked and passes say how positions follow each other; wanted axes with positions")
        return self

    @property
    def nesting(self) -> tuple[tuple[str, ...], ...]:
        """The roles from slow to fast, those that move together in one group."""
        if not self.order:
            return tuple((role,) for role, axis in self.axes.items() if axis.has_positions)
        return tuple((group,) if isinstance(group, str) else group for group in self.order)

    def _check_order(self, given: set[str]) -> None:
        if not given:
            raise ValueError(
                "source is settings, and no axis has positions; "
                "wanted, for example, axes: {omega: {start: -180, step: 0.25, count: 1440}}"
            )
        if not self.order and len(given) > 1:
            raise ValueError(f"order does not say which of {_listed(given)} is slow and which is fast")
        ordered = [role for group in self.nesting for role in group]
        if sorted(ordered) != sorted(given):
            raise ValueError(f"order holds {_listed(ordered)}; wanted each axis with positions once: {_listed(given)}")
        if not isinstance(self.snaked, bool) and not set(self.snaked) <= set(ordered):
            raise ValueError(f"snaked holds {_listed(self.snaked)}; wanted some of {_listed(ordered)}")
        counts = [
            len(axis.positions) or axis.count
            for role, axis in self.axes.items()
            if role in {g[0] for g in self.nesting}
        ]
        n = math.prod(count for count in counts if isinstance(count, int))
        if n > MOST_FRAMES:
            raise ValueError(f"the axes have {n} positions altogether; wanted {MOST_FRAMES} at most")


def _listed(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "nothing"


class Settings(_Model):
    """Everything that `hedmlive.yml` says."""

    stream: str = "primary"
    "Stream that holds the frames."
    dark_stream: str = "dark"
    "Stream that holds dark frames, if there is one."
    roles: dict[str, str] = {}
    "Role to data key: omega, or omega_start and omega_end; omega_step, L1, L2, energy, dty, monitor, or any other."
    omega_marks: Literal["start", "centre", "end"] | None = None
    "What the role omega is within the frame; to be said exactly when there is a role omega_step."
    omega_sign: Literal[1, -1] = 1
    "-1 where the rotation's positive sense is the other one, as `aero` of APS 1-ID."
    detectors: tuple[DetectorSettings, ...] = Field(min_length=1)
    "The detectors; each gets a reduction of its own."
    recipe: Recipe
    "Every number that decides the reduction."
    archive: ArchiveSettings
    "Where the archives go."
    trajectory: TrajectorySettings = TrajectorySettings()
    "Which frames are neighbours."
    hedm: HedmSettings = HedmSettings()
    "What a reconstruction needs beside the frames."
    worker: WorkerSettings = WorkerSettings()
    "Bounds of what waits in memory."
    tiled: TiledSettings | None = None
    "The Tiled server to publish to."
    guards: GuardSettings = GuardSettings()
    "What is watched for metadata that cannot be true."
    watch: WatchSettings = WatchSettings()
    "Foreign files: where things lie in them, for `hedmlive watch` and `hedmlive reduce`."

    @field_validator("recipe", mode="before")
    @classmethod
    def _known_recipe_keys(cls, value: Any) -> Any:
        # A dataclass ignores what it does not know; a misspelt threshold must not be silent.
        return Recipe.from_dict(dict(value)) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _roles_make_sense(self) -> Self:
        roles = self.roles
        if ("omega_step" in roles) != (self.omega_marks is not None):
            raise ValueError("omega_marks must be said (start, centre or end) exactly when there is a role omega_step")
        if "omega_step" in roles and "omega" not in roles:
            raise ValueError("role omega_step needs the role omega")
        if ("omega_start" in roles) != ("omega_end" in roles):
            raise ValueError("roles omega_start and omega_end belong together")
        if "omega" in roles and "omega_start" in roles:
            raise ValueError("give either the role omega, or omega_start and omega_end")
        names = [detector.name for detector in self.detectors]
        if len(set(names)) < len(names):
            raise ValueError(f"detectors share a name: {names}")
        self._axes_are_roles()
        return self

    def _axes_are_roles(self) -> None:
        known = {*self.roles, *(["omega"] if "omega_start" in self.roles else [])}
        for role, axis in self.trajectory.axes.items():
            # What only the settings move needs no readback.
            if role not in known and not axis.has_positions and not axis.motor:
                raise ValueError(
                    f"trajectory: axis {role} is not a role; wanted one of {_listed(known)}, or its motor or positions"
                )

    @property
    def further_roles(self) -> tuple[str, ...]:
        """Scalar roles beside omega that are not among `SCAN_ROLES`."""
        known = (*_OMEGA_ROLES, *_OTHER_ROLES, *SCAN_ROLES)
        return tuple(role for role in self.roles if role not in known)

    def to_json(self) -> str:
        """Return the settings as JSON, as the raw archive keeps them."""
        plain = self.model_dump(mode="json", exclude={"recipe"})
        return json.dumps(plain | {"recipe": self.recipe.as_dict()})


def load_settings(source: "Settings | Mapping[str, Any] | str | Path") -> Settings:
    """Return settings from a YAML file, a mapping, or a mapping with a block `HEDM_LIVE`.

    Raises
    ------
    SettingsError
        The file cannot be read, or a key is unknown, missing or wrong: the message names file, key, what came and
        what was wanted.
    """
    if isinstance(source, Settings):
        return source
    origin = "settings" if isinstance(source, Mapping) else str(source)
    numbers = source if isinstance(source, Mapping) else _read_yaml(Path(source))
    if BLOCK in numbers:
        numbers, origin = numbers[BLOCK], f"{origin}, block {BLOCK}"
        if not isinstance(numbers, Mapping):
            raise SettingsError(f"{origin}: holds {numbers!r:.80}; wanted keys and values, as `recipe:`")
    numbers = {key: value for key, value in numbers.items() if key != "ENABLE"}
    try:
        return TypeAdapter(Settings).validate_python(numbers)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole)"
        came = "" if first["type"] == "missing" else f", came {first['input']!r:.80}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise SettingsError(f"{origin}: {key}: {first['msg']}{came}{more}") from None
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from None


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; wanted a YAML file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, Mapping):
        raise SettingsError(f"{path}: holds {type(loaded).__name__}; wanted keys and values, as `recipe:`")
    return loaded
