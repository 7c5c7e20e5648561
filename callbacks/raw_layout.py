"""What the raw archive says of a finished run, for people and for programs that know no documents."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .encoding import StoredImage
from .hdf5 import dataset, nexus_group, subgroup
from .roles import RoleSource
from .settings import Settings

FORMAT = "hedmlive-raw-1"


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
    frame_files: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    "Detector to (HDF5 file, dataset) where the detector wrote its own file."
    problems: Sequence[str] = ()
    "What went wrong."


def write_summary(file: h5py.File, path: Path, settings: Settings, summary: RunSummary) -> None:
    """Write motors, roles and NeXus groups into a raw archive, which will lie at `path`.

    ``/entry/hedm`` has the names of the unified archive: a role that never came has no dataset, and is named in the
    attribute ``missing``; nothing is filled in.
    """
    entry = subgroup(file, "entry")
    _write_titles(entry, summary)
    scan = nexus_group(entry, "scan", "NXcollection")
    for name, values in summary.columns.items():
        if values.dtype.kind != "f" or np.isfinite(values).any():
            _dataset(scan, name, values, _unit(name, summary.sources), summary.sources.get(name))
    hedm = nexus_group(entry, "hedm", "NXcollection")
    _write_omega(hedm, summary)
    for role in settings.roles:
        if role in summary.columns and np.isfinite(summary.columns[role]).any() and not role.startswith("omega"):
            values = np.unique(summary.columns[role][np.isfinite(summary.columns[role])])
            value = values[0] if len(values) == 1 else summary.columns[role]
            _dataset(hedm, role, value, _unit(role, summary.sources), summary.sources.get(role))
    for role, value in summary.scalars.items():
        _dataset(hedm, role, value, _unit(role, summary.sources), summary.sources.get(role))
    wanted = ("omega_per_frame", "omega_start", "omega_step", "L1", "L2", "energy", "lattice_parameters", "space_group")
    hedm.attrs["missing"] = [name for name in wanted if name not in hedm]
    if "energy" in hedm:
        monochromator = nexus_group(subgroup(entry, "instrument"), "monochromator", "NXmonochromator")
        monochromator["energy"] = h5py.SoftLink("/entry/hedm/energy")
    _link_frames(file, path, summary)
    entry.attrs["problems"] = list(summary.problems) or [""]


def _write_titles(entry: h5py.Group, summary: RunSummary) -> None:
    sample = nexus_group(entry, "sample", "NXsample")
    for key in ("sample_name", "sample"):
        if isinstance(summary.start.get(key), str):
            sample["name"] = summary.start[key]
            break
    entry["title"] = str(summary.start.get("title") or summary.start.get("plan_name") or "HEDM scan")
    entry["entry_identifier"] = str(summary.start.get("uid", ""))
    if "scan_id" in summary.start:
        entry["scan_id"] = int(summary.start["scan_id"])
    for name, doc in (("start_time", summary.start), ("end_time", summary.stop)):
        if "time" in doc:
            stamp = np.datetime64(round(float(doc["time"]) * 1e6), "us")
            entry[name] = f"{stamp}Z"
    entry.attrs["exit_status"] = str(summary.stop.get("exit_status", "no stop document"))


def _write_omega(hedm: h5py.Group, summary: RunSummary) -> None:
    start, end = summary.columns["omega_start"], summary.columns["omega_end"]
    if not np.isfinite(start).any():
        return
    source = summary.sources.get("omega") or summary.sources.get("omega_start")
    # Both ends of each frame: the centre alone turned every grain by half a step in more than one program.
    _dataset(hedm, "omega_per_frame", np.stack([start, end], axis=1), "degree", source)
    _dataset(hedm, "omega_start", start[0], "degree", source)
    if "omega_step" in summary.sources or "omega_start" in summary.sources:
        _dataset(hedm, "omega_step", np.median(end - start), "degree", summary.sources.get("omega_step") or source)


def _link_frames(file: h5py.File, archive: Path, summary: RunSummary) -> None:
    for detector, (path, place) in summary.frame_files.items():
        group = nexus_group(subgroup(file, "entry/instrument"), detector, "NXdetector")
        if "data" not in group:
            group["data"] = h5py.ExternalLink(_relative(Path(path), archive.absolute().parent), place)
    instrument = subgroup(file, "entry/instrument")
    # Looked up as links: what they lead to may not be there yet.
    detectors = [name for name in instrument if instrument.get(f"{name}/data", getlink=True) is not None]
    if detectors:
        data = nexus_group(subgroup(file, "entry"), "data", "NXdata")
        data["data"] = h5py.SoftLink(f"/entry/instrument/{detectors[0]}/data")
        data.attrs["signal"] = "data"
        subgroup(file, "entry").attrs["default"] = "data"


def _relative(path: Path, folder: Path) -> str:
    """Return a path that still leads there when both are moved together; far away, the absolute one."""
    path = path.absolute()
    near = path.is_relative_to(folder) or path.is_relative_to(folder.parent)
    return os.path.relpath(path, folder) if near else str(path)


def _dataset(group: h5py.Group, name: str, value: Any, unit: str, source: RoleSource | None) -> None:
    data = group.create_dataset(name, data=value)
    if unit:
        data.attrs["units"] = unit
    if source is not None:
        data.attrs["source"] = source.pv or source.key
        data.attrs["data_key"] = source.key
        data.attrs["found_in"] = source.where


def _unit(name: str, sources: Mapping[str, RoleSource]) -> str:
    if name in sources and sources[name].unit:
        return sources[name].unit
    return "degree" if name.startswith("omega") else "s" if name == "time" else ""


def image_place(stored: StoredImage) -> str:
    """Return the path of the dataset in which an image of an event lies."""
    return f"entry/instrument/{stored.detector}/{stored.dataset}"


def read_line(file: h5py.File, index: int) -> bytes:
    """Return document number `index` as it was encoded."""
    ends = dataset(file, "entry/documents/end")
    first = int(ends[index - 1]) if index else 0
    return dataset(file, "entry/documents/bytes")[first : int(ends[index])].tobytes()
