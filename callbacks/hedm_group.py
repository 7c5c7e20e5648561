"""What a reconstruction needs to know of a run beside its frames: the group ``/entry/hedm`` of a raw archive.

Every value says its unit, where it comes from (PV, data key, and `event`, stream, `configuration`, `start`,
`trajectory`, `settings` or a far-field result) and when it was taken. What never came has no dataset and is named in
``@missing``: nothing is filled in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import HedmLiveError
from .crystals import APS, cell_of
from .encoding import StoredImage
from .hdf5 import nexus_group
from .raw_frames import FramePlaces
from .roles import RoleSource
from .seeds import FarField, find_seeds, read_far_fields
from .settings import Settings

WANTED = (
    "omega_per_frame", "omega_start", "omega_step", "L1", "L2", "energy", "lattice_parameters", "space_group",
    "seed_orientations",
)  # fmt: skip
"""Names of the unified archive."""

SCAN_MEANING = "a row for each frame of the first detector: when it was taken, and where the motors were"

_MEANINGS = {
    "omega_per_frame": "start and end of each frame",
    "omega_start": "start of the first frame",
    "omega_step": "median of end minus start of a frame",
}
_CRYSTAL = ("lattice_parameters", "space_group")
_CELL_UNITS = "angstrom, degree"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """What is known of a run when it is over."""

    columns: Mapping[str, np.ndarray]
    "Per frame: frame, point, omega_start, omega_end, time, and every scalar role."
    sources: Mapping[str, RoleSource] = field(default_factory=dict[str, RoleSource])
    "Where each role came from."
    scalars: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "Lattice parameters and space group, where they came."
    start: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "The start document."
    stop: Mapping[str, Any] = field(default_factory=dict[str, Any])
    "The stop document, empty if it never came."
    places: FramePlaces = field(default_factory=FramePlaces)
    "Where the frames lie."
    resources: Mapping[int, str] = field(default_factory=dict[int, str])
    "id() of each reader to the uid of its resource document."
    planned: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    "Role, or motor without one, to where the plan put it in each of the columns' frames."
    files: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict[str, Mapping[str, np.ndarray]])
    "Detector to `dark`, `flat` and `mask` of the settings' files, as `read_detector_files` gives them."
    problems: Sequence[str] = ()
    "What went wrong."


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """When values were taken, as the documents say."""

    of_key: Mapping[str, float] = field(default_factory=dict[str, float])
    "Data key to seconds since 1970, of values that no event of a frame holds."
    per_frame: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    "`<role>_time` to a time for each of the columns' frames."


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One value with what is to be said of it."""

    value: Any
    unit: str
    source: RoleSource
    time: str = ""


def write_hedm(entry: h5py.Group, settings: Settings, summary: RunSummary, taken: Taken) -> list[str]:
    """Write ``/entry/hedm``; return what came and cannot be used."""
    group = nexus_group(entry, "hedm", "NXcollection")
    problems: list[str] = []
    far_field = _far_field(settings, problems)
    for name, value in _values(settings, summary, taken, far_field, problems):
        write_value(group, name, value.value, value.unit, value.source, value.time)
    for name in taken.per_frame:
        # Beside each value that changes, when it was read.
        role = name.removesuffix("_time")
        target = "omega_per_frame" if role == "omega" else role
        if target in group and np.ndim(group[target]):
            group[f"{target}_time"] = h5py.SoftLink(f"/entry/scan/{name}")
    _write_seeds(group, settings, far_field, problems)
    group.attrs["missing"] = [name for name in WANTED if name not in group]
    group.attrs["coordinate_frame"] = f"sample and laboratory: {APS}; omega turns right-handed about y"
    group.attrs["meaning"] = "what a reconstruction begins with; what is not known is named in @missing"
    for name, meaning in _MEANINGS.items():
        if name in group:
            group[name].attrs["meaning"] = meaning
    return problems


def write_value(
    group: h5py.Group, name: str, value: Any, unit: str, source: RoleSource | None = None, time: str = ""
) -> None:
    """Write one dataset with what is to be said of it."""
    data = group.create_dataset(name, data=value)
    said = {"units": unit, "time": time}
    if source is not None:
        said |= {"source": source.pv or source.key, "data_key": source.key, "found_in": source.where}
    for attribute, text in said.items():
        if text:
            data.attrs[attribute] = text


def unit_of(name: str, sources: Mapping[str, RoleSource]) -> str:
    """Return the unit of a column of the scan; empty where no document says it."""
    if name in sources and sources[name].unit:
        return sources[name].unit
    return "degree" if name in ("omega_start", "omega_end") else "s" if name.endswith("time") else ""


def iso_time(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC; empty for no time."""
    if not math.isfinite(seconds) or not 0 < seconds < 1e11:
        return ""
    return f"{np.datetime64(round(seconds * 1e6), 'us')}Z"


def is_changing(values: np.ndarray) -> bool:
    """Tell whether a column holds more than one value."""
    return len(np.unique(values[np.isfinite(values)])) > 1


def image_place(stored: StoredImage) -> str:
    """Return the path of the dataset in which an image of an event lies."""
    return f"entry/instrument/{stored.detector}/{stored.dataset}"


def _far_field(settings: Settings, problems: list[str]) -> FarField | None:
    try:
        return read_far_fields(settings.hedm)
    except HedmLiveError as error:
        problems.append(str(error))
        return None


def _values(
    settings: Settings, summary: RunSummary, taken: Taken, far_field: FarField | None, problems: list[str]
) -> list[tuple[str, Value]]:
    found = _omega(summary)
    for role in settings.roles:
        column = summary.columns.get(role)
        if column is None or role.startswith("omega") or not np.isfinite(column).any():
            continue
        source = summary.sources.get(role) or RoleSource(key=settings.roles[role], where="", unit="", pv="")
        value = column if is_changing(column) else column[np.isfinite(column)][0]
        time = _time(source, taken, summary) if np.ndim(value) == 0 else ""
        if np.ndim(value) == 0 and f"{role}_time" in taken.per_frame:
            stamps = taken.per_frame[f"{role}_time"]
            time = iso_time(float(stamps[np.isfinite(stamps)][0]))
        found.append((role, Value(value=value, unit=source.unit, source=source, time=time)))
    for name in _CRYSTAL:
        value = _crystal(name, settings, summary, taken, far_field, problems)
        if value is not None:
            found.append((name, value))
    return found


def _omega(summary: RunSummary) -> list[tuple[str, Value]]:
    start, end = summary.columns["omega_start"], summary.columns["omega_end"]
    source = summary.sources.get("omega") or summary.sources.get("omega_start")
    if not np.isfinite(start).any() or source is None:
        return []
    # Both ends of each frame: the centre alone turned every grain by half a step in more than one program.
    found = [("omega_per_frame", Value(value=np.stack([start, end], axis=1), unit="degree", source=source))]
    found.append(("omega_start", Value(value=start[np.isfinite(start)][0], unit="degree", source=source)))
    width = end - start
    if (np.isfinite(width) & (width != 0)).any():
        of_step = summary.sources.get("omega_step") or source
        found.append(("omega_step", Value(value=np.nanmedian(width), unit="degree", source=of_step)))
    return found


def _crystal(
    name: str,
    settings: Settings,
    summary: RunSummary,
    taken: Taken,
    far_field: FarField | None,
    problems: list[str],
) -> Value | None:
    """Return lattice parameters or space group: from a role, or else the settings, or else a far-field result."""
    unit = _CELL_UNITS if name == "lattice_parameters" else ""
    check = cell_of if name == "lattice_parameters" else _group_of
    if name in summary.scalars:
        value, source = check(summary.scalars[name]), summary.sources.get(name)
        source = source or RoleSource(key=settings.roles[name], where="", unit="", pv="")
        if value is not None:
            return Value(value=value, unit=unit, source=source, time=_time(source, taken, summary))
        wanted = "six numbers that make a cell" if unit else "a number from 1 to 230"
        problems.append(
            f"role {name}: came {summary.scalars[name]!r:.60} from {source.pv or source.key}; wanted {wanted}"
        )
    said = getattr(settings.hedm, name)
    if said is not None:
        return Value(
            value=check(said), unit=unit, source=RoleSource(key=f"hedm.{name}", where="settings", unit="", pv="")
        )
    value = None if far_field is None else getattr(far_field, name)
    if far_field is None or value is None:
        return None
    source = RoleSource(key=far_field.origin, where="far-field result", unit="", pv="")
    return Value(value=value, unit=unit, source=source, time=_file_time(settings.hedm.far_field_result))


def _group_of(value: Any) -> int | None:
    try:
        number = float(np.asarray(value).reshape(()))
    except (TypeError, ValueError):
        return None
    return int(number) if number.is_integer() and 1 <= number <= 230 else None


def _write_seeds(group: h5py.Group, settings: Settings, far_field: FarField | None, problems: list[str]) -> None:
    number = int(group["space_group"][()]) if "space_group" in group else None  # pyright: ignore[reportIndexIssue, reportArgumentType]
    try:
        seeds = find_seeds(settings.hedm, far_field, number)
    except HedmLiveError as error:
        problems.append(str(error))
        return
    if seeds is None:
        return
    data = group.create_dataset("seed_orientations", data=seeds.orientations)
    data.attrs["origin"] = seeds.origin
    data.attrs["meaning"] = (
        "unit quaternions (w, x, y, z), rotation from the crystal's axes (x along a, z along c*) to the sample's"
    )
    if seeds.resolution is not None:
        data.attrs["resolution"] = seeds.resolution
        data.attrs["resolution_units"] = "degree"


def _time(source: RoleSource, taken: Taken, summary: RunSummary) -> str:
    if source.where == "start":
        return iso_time(_seconds(summary.start.get("time")))
    return iso_time(taken.of_key.get(source.key, math.nan))


def _file_time(paths: tuple[Path, ...]) -> str:
    return iso_time(max((path.stat().st_mtime for path in paths if path.exists()), default=math.nan))


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
