"""What the raw archive says of a finished run, for people and for programs that know no documents."""

import math
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from .detector_files import PLACES, write_detector_files
from .hdf5 import dataset, nexus_group, subgroup
from .hedm_group import (
    SCAN_MEANING,
    RunSummary,
    Taken,
    image_place,
    is_changing,
    iso_time,
    unit_of,
    write_hedm,
    write_value,
)
from .near_field import write_near_field
from .raw_frames import source_of, write_pixel_axes
from .settings import Settings

FORMAT = "hedmlive-raw-2"
FORMATS = ("hedmlive-raw-1", FORMAT)
"""Formats that can be read."""

__all__ = ["FORMAT", "FORMATS", "RunSummary", "Taken", "image_place", "read_line", "write_summary"]

_DEGREES = 1e-3
"Omegas that differ by no more than this are one, degrees."
_DISTANCES = ("distance", "L1", "L2")
_LAYERS = ("layer",)


def write_summary(file: h5py.File, path: Path, settings: Settings, summary: RunSummary, taken: Taken) -> list[str]:
    """Write motors, roles and NeXus groups into a raw archive, which will lie at `path`.

    Returns
    -------
    What could not be written as it should, a line each.
    """
    entry = subgroup(file, "entry")
    _write_titles(entry, summary)
    _write_scan(entry, settings, summary, taken)
    problems = write_hedm(entry, settings, summary, taken)
    problems += summary.places.write(file, path, settings.hedm.frames, summary.resources)
    for detector in settings.detectors:
        if files := summary.files.get(detector.name):
            group = nexus_group(subgroup(entry, "instrument"), detector.name, "NXdetector")
            write_detector_files(group, detector, files)
    write_near_field(entry, path, settings)
    _write_sample(entry)
    if "hedm/energy" in entry:
        monochromator = nexus_group(subgroup(entry, "instrument"), "monochromator", "NXmonochromator")
        monochromator["energy"] = h5py.SoftLink("/entry/hedm/energy")
    _write_plots(entry, path, settings)
    _write_modules(entry, path, settings)
    _write_exchange(file, settings)
    entry.attrs["problems"] = [*summary.problems, *problems] or [""]
    return problems


def read_line(file: h5py.File, index: int) -> bytes:
    """Return document number `index` as it was encoded."""
    ends = dataset(file, "entry/documents/end")
    first = int(ends[index - 1]) if index else 0
    return dataset(file, "entry/documents/bytes")[first : int(ends[index])].tobytes()


def _write_titles(entry: h5py.Group, summary: RunSummary) -> None:
    entry["title"] = str(summary.start.get("title") or summary.start.get("plan_name") or "HEDM scan")
    entry["entry_identifier"] = str(summary.start.get("uid", ""))
    if "scan_id" in summary.start:
        entry["scan_id"] = int(summary.start["scan_id"])
    for name, doc in (("start_time", summary.start), ("end_time", summary.stop)):
        if iso := iso_time(float(doc.get("time", math.nan))):
            entry[name] = iso
    entry.attrs["exit_status"] = str(summary.stop.get("exit_status", "no stop document"))
    sample = nexus_group(entry, "sample", "NXsample")
    for key in ("sample_name", "sample"):
        if isinstance(summary.start.get(key), str):
            sample["name"] = summary.start[key]
            break


# The scan


def _write_scan(entry: h5py.Group, settings: Settings, summary: RunSummary, taken: Taken) -> None:
    if "scan" in entry:
        # What grew while the run went on knew no more than the documents so far.
        del entry["scan"]
    scan = nexus_group(entry, "scan", "NXcollection")
    scan.attrs["meaning"] = SCAN_MEANING
    columns = dict(summary.columns) | dict(taken.per_frame)
    for name, values in columns.items():
        if name in ("frame", "point"):
            write_value(scan, name, values.astype(np.int64), "")
        elif np.isfinite(values).any():
            of_role = "omega" if name in ("omega_start", "omega_end") and name not in summary.sources else name
            write_value(scan, name, values, unit_of(name, summary.sources), summary.sources.get(of_role))
            if name in taken.per_frame:
                scan[name].attrs["meaning"] = f"when {name.removesuffix('_time')} was read, since 1970"
    for name, meaning in (
        ("frame", "number of the frame of the first detector, in the order of acquisition"),
        ("point", "scan point of the frame, numbered from 0"),
        ("time", "when the event was, since 1970"),
    ):
        if name in scan:
            scan[name].attrs["meaning"] = meaning
    _write_steps(scan, settings, summary)
    for name, roles in (("distance", _DISTANCES), ("layer", _LAYERS)):
        _write_places(scan, name, roles, settings, summary)


def _write_steps(scan: h5py.Group, settings: Settings, summary: RunSummary) -> None:
    """Write which frames were taken at one place: row i is event `event[i]` of step `step[i]`.

    A step may have any number of events: those of step s are rows `step_start[s]` to `step_start[s + 1]`, exclusive.
    """
    columns = summary.columns
    n = len(columns["frame"])
    moved = np.zeros(n, bool)
    moved[:1] = True
    moving = [role for role in (*_DISTANCES, *_LAYERS, "dty", *settings.trajectory.axes) if role in columns]
    for name in ("omega_start", "omega_end", *dict.fromkeys(moving)):
        tolerance = _DEGREES if name.startswith("omega") else settings.recipe.place_tolerance
        # Not a number differs from everything: of frames without a place each has a step of its own.
        if name.startswith("omega") or np.isfinite(columns[name]).any():
            moved[1:] |= ~(np.abs(np.diff(columns[name])) <= tolerance)
    starts = np.append(np.flatnonzero(moved), n)
    step = np.cumsum(moved) - 1
    scan["step"], scan["event"], scan["step_start"] = step, np.arange(n) - starts[step], starts
    for name, meaning in (
        ("step", "place in the scan, numbered from 0; all its events were taken without a move"),
        ("event", "number of the frame within its step"),
        ("step_start", "first row of each step, and after the last step the number of rows"),
    ):
        scan[name].attrs["meaning"] = meaning


def _write_places(scan: h5py.Group, name: str, roles: tuple[str, ...], settings: Settings, summary: RunSummary) -> None:
    """Write which distance, or layer, each frame belongs to, and where that is, if a role or the plan tells."""
    known = {role: summary.columns[role] for role in roles if role in summary.columns}
    known |= {role: values for role, values in summary.planned.items() if role in roles and role not in known}
    usable = {role: values for role, values in known.items() if len(values) and np.isfinite(values).all()}
    if not usable:
        return
    # Of L1 and L2 the one that moves says where the detector is; where none does there is one distance.
    role = next((role for role, values in usable.items() if is_changing(values)), next(iter(usable)))
    values, tolerance = usable[role], settings.recipe.place_tolerance
    ordered = np.sort(values)
    places = ordered[np.append(True, np.diff(ordered) > tolerance)]
    index = np.abs(values[:, None] - places[None, :]).argmin(axis=1) if len(places) < 1000 else None
    if index is None:
        return
    scan[f"{name}_index"] = index
    scan[f"{name}_index"].attrs["meaning"] = f"number of the {name} among those in {name}s, from the smallest"
    source = summary.sources.get(role)
    write_value(scan, f"{name}s", np.array([np.median(values[index == i]) for i in range(len(places))]), "", source)
    if unit := unit_of(role, summary.sources):
        scan[f"{name}s"].attrs["units"] = unit


def _write_sample(entry: h5py.Group) -> None:
    sample, hedm = subgroup(entry, "sample"), subgroup(entry, "hedm")
    if "lattice_parameters" in hedm:
        cell = np.asarray(dataset(hedm, "lattice_parameters"))
        # The NeXus definition has them apart, each with a unit of its own.
        write_value(sample, "unit_cell_abc", cell[:3], "angstrom")
        write_value(sample, "unit_cell_alphabetagamma", cell[3:], "degree")
    if "space_group" in hedm:
        sample["space_group"] = str(int(dataset(hedm, "space_group")[()]))
    if "omega_per_frame" in hedm:
        turns = nexus_group(sample, "transformations", "NXtransformations")
        write_value(turns, "omega", np.asarray(dataset(hedm, "omega_per_frame")).mean(axis=1), "degree")
        turns["omega"].attrs.update(transformation_type="rotation", vector=[0.0, 1.0, 0.0], depends_on=".")
        turns["omega"].attrs["meaning"] = "middle of each frame; right-handed about the vertical axis y"
        sample["depends_on"] = "/entry/sample/transformations/omega"


# Frames


def _write_plots(entry: h5py.Group, path: Path, settings: Settings) -> None:
    """Write a plot for each detector, the first one the default."""
    first = True
    for detector in settings.detectors:
        group = entry.get(f"instrument/{detector.name}")
        if not isinstance(group, h5py.Group) or group.get("data", getlink=True) is None:
            continue
        name = "data" if first else f"data_{detector.name}"
        plot = nexus_group(entry, name, "NXdata")
        plot["data"] = h5py.SoftLink(f"/entry/instrument/{detector.name}/data")
        plot.attrs["signal"] = "data"
        omega, frames = _omega_of(entry, group), source_of(group, path.absolute().parent)
        if omega is not None:
            write_value(plot, "omega", omega.mean(axis=1), "degree")
            plot["omega"].attrs["meaning"] = "middle of each frame"
            # hexrd takes start and end of each frame from the attributes of the group that it is given.
            group.attrs["omega"] = omega
        pixels = (".", ".") if frames is None else write_pixel_axes(plot, frames.shape)
        plot.attrs["axes"] = ["." if omega is None else "omega", *pixels]
        if first:
            entry.attrs["default"] = name
            first = False


def _write_modules(entry: h5py.Group, path: Path, settings: Settings) -> None:
    """Show the frames of several detectors of one kind as one stack: frame, module, row, column."""
    groups = [entry.get(f"instrument/{detector.name}") for detector in settings.detectors]
    whole = [each for each in groups if isinstance(each, h5py.Group) and "frame" in each]
    sources = [source_of(each, path.absolute().parent) for each in whole]
    found = [each for each in sources if each is not None]
    if len(groups) < 2 or len(found) < len(groups):
        return
    numbers = [np.asarray(each["frame"]) for each in whole]
    alike = {(each.shape[1:], each.dtype) for each in found}
    if len(alike) > 1 or any(not np.array_equal(each, numbers[0]) for each in numbers):
        return
    layout = h5py.VirtualLayout((len(numbers[0]), len(found), *found[0].shape[1:]), found[0].dtype)
    for module, source in enumerate(found):
        layout[:, module] = source[: len(numbers[0])]
    modules = nexus_group(entry, "modules", "NXdata")
    modules.create_virtual_dataset("data", layout).attrs["units"] = "counts"
    modules["module"] = [detector.name for detector in settings.detectors]
    modules["frame"] = numbers[0]
    modules.attrs.update(signal="data", axes=["frame", "module", *write_pixel_axes(modules, found[0].shape)])


def _omega_of(entry: h5py.Group, detector: h5py.Group) -> np.ndarray | None:
    """Return omega at start and end of each row of a detector's frames; None if it is not known of all."""
    if "hedm/omega_per_frame" not in entry or "frame" not in detector:
        return None
    both = np.asarray(dataset(entry, "hedm/omega_per_frame"))
    numbers = np.asarray(dataset(entry, "scan/frame"))
    of_number: Mapping[int, list[float]] = dict(zip(numbers.tolist(), both.tolist(), strict=True))
    unknown = [math.nan, math.nan]
    found = np.array([of_number.get(number, unknown) for number in np.asarray(dataset(detector, "frame")).tolist()])
    return found if len(found) and np.isfinite(found).all() else None


def _write_exchange(file: h5py.File, settings: Settings) -> None:
    """Write ``/exchange`` as APS Data Exchange has it, links to the first detector, for programs that know that."""
    entry = subgroup(file, "entry")
    detector = entry.get(f"instrument/{settings.detectors[0].name}")
    if not isinstance(detector, h5py.Group) or detector.get("data", getlink=True) is None:
        return
    # Of no class: NeXus knows nothing but entries at the root.
    exchange = file.require_group("exchange")
    exchange.attrs["meaning"] = "links, for programs that read APS Data Exchange; @omega: start and end of each frame"
    exchange["data"] = h5py.SoftLink(str(detector.name) + "/data")
    # Of two, the one of the settings' file is what was subtracted.
    dark = next((name for name in PLACES["dark"] if detector.get(name, getlink=True) is not None), None)
    if dark is not None:
        exchange["data_dark"] = exchange["dark"] = h5py.SoftLink(f"{detector.name}/{dark}")
    if "data/omega" in entry:
        exchange["theta"] = h5py.SoftLink("/entry/data/omega")
        exchange.attrs["omega"] = detector.attrs["omega"]
    file["implements"] = "exchange"
