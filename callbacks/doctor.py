"""What a raw archive has, and what it lacks, for a near-field and a far-field reconstruction."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from .detector_files import PLACES, copy_of
from .hdf5 import dataset, subgroup
from .raw_layout import FORMAT, RunSummary, Taken, write_summary
from .raw_reader import RawArchiveReader
from .raw_scan import ScanTable
from .settings import DetectorSettings, Settings

State = Literal["ok", "missing", "doubtful"]
Reconstruction = Literal["near-field", "far-field"]

_BOTH: tuple[Reconstruction, ...] = ("near-field", "far-field")
_NEEDED: Mapping[str, tuple[tuple[Reconstruction, ...], str]] = {
    "omega_per_frame": (_BOTH, "name the role omega, or say axes: omega in the block trajectory, and replay"),
    "omega_step": (_BOTH, "name the role omega_step with omega_marks, or roles omega_start and omega_end"),
    "L1": (_BOTH, "name the role L1: the distance from sample to detector, from a PV or the start document"),
    "L2": (("near-field",), "name the role L2: near field needs a second distance"),
    "energy": (_BOTH, "name the role energy, from the monochromator's PV"),
    "lattice_parameters": (_BOTH, "name the role, or say hedm: lattice_parameters or far_field_result"),
    "space_group": (_BOTH, "name the role, or say hedm: space_group or far_field_result"),
    "seed_orientations": (("near-field",), "say hedm: far_field_result or seed_resolution"),
}
_MAY_SHARE = {"L1", "L2"}
"One translation may visit all distances."
_STALE = 86_400.0
"A value taken longer before the run, seconds, may be of another beamtime."
_LOOKED_AT = 8
_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    item: str
    "What."
    state: State
    "How it is."
    value: str = ""
    "Its value with unit."
    source: str = ""
    "PV or key, and where that was found."
    time: str = ""
    "When it was taken."
    advice: str = ""
    "What to do, if it is not ok."
    needed: tuple[Reconstruction, ...] = ()
    "What cannot be reconstructed without."


def examine(path: Path) -> list[Finding]:
    """Look a raw archive through: finished, still growing, left behind by a killed process, or of an older format.

    Raises
    ------
    ArchiveError
        It is no raw archive that can be read.
    SettingsError
        The settings inside are of another version.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(RawArchiveReader(path))
        settings = reader.settings()
        start, stop, table = _told(reader, settings, stack)
        file = reader.file
        if not reader.finished or subgroup(file, "entry").attrs["format"] != FORMAT:
            # What its end would say is made from the documents, beside the file.
            file = stack.enter_context(_memory())
            nexus = file.create_group("entry")
            nexus.create_group("instrument")
            summary = table.summary(start, stop)
            write_summary(file, path, settings, summary, _taken(table, summary))
        entry = subgroup(file, "entry")
        found = [_finding_of_end(reader, stop)]
        found += _of_values(subgroup(entry, "hedm"), start)
        found += _of_omega(entry, settings, start)
        found += _of_counts(entry, settings, start, stop)
        found += _of_places(entry)
        for detector in settings.detectors:
            found += _of_images(reader.file, detector.name)
            found += _of_files(reader.file, detector)
        found += _of_problems(subgroup(reader.file, "entry"))
    return found


def lacks(findings: Sequence[Finding], reconstruction: Reconstruction) -> list[str]:
    """Return the items without which a reconstruction cannot be made."""
    return [each.item for each in findings if each.state == "missing" and reconstruction in each.needed]


def _told(
    reader: RawArchiveReader, settings: Settings, stack: ExitStack
) -> tuple[Mapping[str, Any], Mapping[str, Any], ScanTable]:
    """Return start and stop document, and the scan as the documents tell it."""
    start: Mapping[str, Any] = {}
    stop: Mapping[str, Any] = {}
    table: ScanTable | None = None
    for name, doc in reader.documents(lazy=True):
        if name == "start" and table is None:
            start = doc
        elif name == "stop":
            stop = doc
        table = table or ScanTable(stack.enter_context(_memory()), settings, start)
        table.push_any(name, doc)
    return start, stop, table or ScanTable(stack.enter_context(_memory()), settings, start)


def _memory() -> h5py.File:
    # In memory alone; but two that are open want two names.
    return h5py.File(f"hedmlive-doctor-{next(_NUMBERS)}", "w", driver="core", backing_store=False)


def _taken(table: ScanTable, summary: RunSummary) -> Taken:
    return Taken(of_key=table.times, per_frame=table.stamps(summary.columns["frame"]))


# The run


def _finding_of_end(reader: RawArchiveReader, stop: Mapping[str, Any]) -> Finding:
    if reader.finished and stop.get("exit_status") == "success":
        return Finding(item="run", state="ok", value="finished, success")
    if not stop or not reader.finished:
        value = "finished without a stop document" if reader.finished else "not finished: still running, or killed"
        advice = "replay it to reduce what came; its documents are whole up to the last flush"
        return Finding(item="run", state="doubtful", value=value, advice=advice)
    value = f"ended with {stop.get('exit_status')}: {stop.get('reason', '')}".rstrip(": ")
    return Finding(item="run", state="doubtful", value=value, advice="look whether the scan is whole")


def _of_values(hedm: h5py.Group, start: Mapping[str, Any]) -> Iterator[Finding]:
    used: dict[str, str] = {}
    names = [*_NEEDED, *(name for name in hedm if name not in _NEEDED and name != "near_field")]
    for name in names:
        needed, advice = _NEEDED.get(name, ((), ""))
        if name not in hedm:
            yield Finding(item=name, state="missing", advice=advice, needed=needed)
            continue
        if name in ("omega_start", "seed_orientations") or name.endswith("_time"):
            if name == "seed_orientations":
                yield _of_seeds(dataset(hedm, name), needed)
            continue
        yield _of_value(name, dataset(hedm, name), start, used, needed)


def _of_value(
    name: str, data: h5py.Dataset, start: Mapping[str, Any], used: dict[str, str], needed: tuple[Reconstruction, ...]
) -> Finding:
    said = {key: str(value) for key, value in data.attrs.items()}
    source, unit = said.get("source", ""), said.get("units", "")
    doubts: list[str] = []
    if not unit and name != "space_group":
        doubts.append("no unit: its data key should say `units`")
    other = used.setdefault(source, name) if source else name
    if other != name and not {other, name} <= _MAY_SHARE and not _same_kind(other, name):
        doubts.append(f"has the same source as {other}: a placeholder that was copied?")
    if name in ("energy", "L1", "L2") and not (np.asarray(data) > 0).all():
        doubts.append("is not positive")
    taken, began = _seconds(said.get("time", "")), start.get("time")
    if isinstance(began, int | float) and began - taken > _STALE:
        doubts.append("was taken more than a day before the run")
    where = f" ({said['found_in']})" if said.get("found_in") else ""
    return Finding(
        item=name,
        state="doubtful" if doubts else "ok",
        value=f"{_text(np.asarray(data))} {unit}".strip(),
        source=f"{source}{where}",
        time=said.get("time", "") or (f"each frame, {name}_time" if f"{name}_time" in data.parent else ""),
        advice="; ".join(doubts),
        needed=needed,
    )


def _same_kind(one: str, other: str) -> bool:
    return one.startswith("omega") and other.startswith("omega")


def _of_seeds(data: h5py.Dataset, needed: tuple[Reconstruction, ...]) -> Finding:
    resolution = f", none further than {data.attrs['resolution']:g} degree" if "resolution" in data.attrs else ""
    value = f"{len(data)} orientations{resolution}"
    return Finding(item="seed_orientations", state="ok", value=value, source=str(data.attrs["origin"]), needed=needed)


def _of_omega(entry: h5py.Group, settings: Settings, start: Mapping[str, Any]) -> Iterator[Finding]:
    """Look for angles that come twice at one place, and for steps that were left out."""
    if "hedm/omega_per_frame" not in entry:
        return
    omega = np.asarray(dataset(entry, "hedm/omega_per_frame"))
    scan = subgroup(entry, "scan")
    unknown = int((~np.isfinite(omega)).any(axis=1).sum())
    if unknown:
        yield Finding(
            item="omega of each frame", state="doubtful", value=f"{unknown} of {len(omega)} frames have none",
            advice="those frames are in no reconstruction",
        )  # fmt: skip
    place = np.zeros(len(omega), np.int64)
    # A motor that the plan moves is a place too, whatever role it plays.
    moved = [str(name) for name in start.get("motors") or ()]
    others = [role for role, key in settings.roles.items() if key in moved and not role.startswith("omega")]
    for name in dict.fromkeys(["distance_index", "layer_index", "dty", *others]):
        if name in scan:
            place = place * 100_003 + np.unique(np.asarray(dataset(scan, name)), return_inverse=True)[1]
    first = np.round(np.mod(omega[:, 0], 360.0), 3) % 360.0
    keys = np.stack([place, first], axis=1)[np.isfinite(first)]
    twice = len(keys) - len(np.unique(keys, axis=0))
    if twice:
        yield Finding(
            item="omega mod 360", state="doubtful", value=f"{twice} frames repeat an angle at the same place",
            advice="a trailing wrap, a repeated sweep, or a stuck motor: look at /entry/scan/omega_start",
        )  # fmt: skip
    else:
        yield Finding(item="omega mod 360", state="ok", value=f"{len(keys)} angles, none twice at one place")


def _of_counts(
    entry: h5py.Group, settings: Settings, start: Mapping[str, Any], stop: Mapping[str, Any]
) -> Iterator[Finding]:
    points = np.asarray(dataset(entry, "scan/point")) if "scan/point" in entry else np.empty(0, np.int64)
    came, per_point = len(points), max(1, int(np.bincount(points).max(initial=1)) if len(points) else 1)
    told = {
        "the plan": start.get("num_points"),
        "the stop document": (stop.get("num_events") or {}).get(settings.stream),
    }
    wrong = [f"{who} says {n * per_point}" for who, n in told.items() if isinstance(n, int) and n * per_point != came]
    state: State = "missing" if not came else "doubtful" if wrong else "ok"
    said = [who for who, n in told.items() if isinstance(n, int)]
    value = f"{came}, as {' and '.join(said)} say" if said and not wrong else "; ".join([str(came), *wrong])
    advice = "" if state == "ok" else "frames were lost or are extra: compare /entry/scan/frame with the plan"
    yield Finding(item="frames", state=state, value=value, advice=advice, needed=_BOTH)
    for name in ("distance", "layer"):
        if f"scan/{name}s" in entry:
            places = dataset(entry, f"scan/{name}s")
            unit = str(places.attrs.get("units", ""))
            yield Finding(item=f"{name}s", state="ok", value=f"{_text(np.asarray(places))} {unit}".strip())


def _of_places(entry: h5py.Group) -> Iterator[Finding]:
    """Look whether each sweep of a near-field scan has its stack, and all have as many frames."""
    if "hedm/near_field" not in entry:
        return
    places = subgroup(entry, "hedm/near_field")
    sizes = {name: len(dataset(places, f"{name}/frame")) for name in places}
    advice = ""
    if without := [name for name in places if "data" not in subgroup(places, name)]:
        advice = f"{without[0]} has no stack: the detector's frames are not there"
    elif len(set(sizes.values())) > 1:
        least = min(sizes, key=lambda name: sizes[name])
        advice = f"{least} has {sizes[least]} frames, others up to {max(sizes.values())}: lost, or stopped early?"
    value = f"{len(sizes)} sweeps of {max(sizes.values())} frames"
    yield Finding(item="near-field stacks", state="doubtful" if advice else "ok", value=value, advice=advice)


# Images


def _of_images(file: h5py.File, detector: str) -> Iterator[Finding]:
    group = file.get(f"entry/instrument/{detector}")
    if not isinstance(group, h5py.Group):
        yield Finding(
            item=f"{detector} images", state="missing", needed=_BOTH,
            advice="the archive holds no link: its documents lead to the files, if those are still there; replay it",
        )  # fmt: skip
        return
    if "sparse" in group:
        n = len(dataset(group, "sparse/frame_start")) - 1
        yield Finding(item=f"{detector} images", state="ok", value=f"{n} of lit pixels only", needed=_BOTH)
        return
    yield _of_stack(group, detector, "data")
    dark = _of_stack(group, detector, "dark")
    if dark.state == "missing":
        none = group.get("dark", getlink=True) is None
        advice = "no dark frames: the background must come from elsewhere" if none else dark.advice
        dark = Finding(item=dark.item, state="doubtful", source=dark.source, advice=advice)
    yield dark


def _of_files(file: h5py.File, detector: DetectorSettings) -> Iterator[Finding]:
    """Look for what the settings' files held: in the archive, or else where they were."""
    group = file.get(f"entry/instrument/{detector.name}")
    for key in PLACES:
        item, spec = f"{detector.name} {key} file", getattr(detector, key)
        copy = copy_of(group, key) if isinstance(group, h5py.Group) else None
        if copy is not None:
            value = f"{copy.shape[-2]} x {copy.shape[-1]} {copy.dtype}, in the archive"
            if key == "mask":
                value = f"{np.count_nonzero(copy[()])} of {copy.size} pixels masked, in the archive"
            yield Finding(item=item, state="ok", value=value, source=str(copy.attrs["source"]))
        elif spec is not None:
            there = Path(str(spec).partition(":/")[0]).exists()
            advice = "not in the archive: keep the file with it" if there else "neither in the archive nor where it was"
            yield Finding(item=item, state="doubtful" if there else "missing", source=str(spec), advice=advice)


def _of_stack(group: h5py.Group, detector: str, name: str) -> Finding:
    item = f"{detector} {'images' if name == 'data' else 'darks'}"
    link = group.get(name, getlink=True)
    where = ""
    if isinstance(link, h5py.ExternalLink):
        where = f"{link.filename} {link.path}"
    if link is None:
        advice = "no images in the archive: say hedm: {frames: copy}, or replay from the files"
        return Finding(item=item, state="missing", needed=_BOTH, advice=advice)
    try:
        data = dataset(group, name)
    except KeyError:
        advice = f"the link leads to {where or 'a file'}, which is not there: move the file back beside the archive"
        return Finding(item=item, state="missing", source=where, needed=_BOTH, advice=advice)
    lost = sorted({each.file_name for each in data.virtual_sources()} if data.is_virtual else set[str]())
    folder = Path(str(data.file.filename)).parent
    lost = [each for each in lost if each != "." and not (folder / each).exists()]
    if lost:
        advice = f"{len(lost)} of its files are not there, as {lost[0]}: they would be read as zeros"
        return Finding(item=item, state="missing", source=lost[0], needed=_BOTH, advice=advice)
    value = f"{len(data)} of {data.shape[-2]} x {data.shape[-1]} {data.dtype}"
    source = where or ("joined from the detector's files" if data.is_virtual else "in the archive")
    return _judged(
        item, data, value, source, len(dataset(group, "frame")) if name == "data" and "frame" in group else -1
    )


def _judged(item: str, data: h5py.Dataset, value: str, source: str, wanted: int) -> Finding:
    """Look at some of the images."""
    needed = _BOTH if item.endswith("images") else ()
    if not len(data):
        return Finding(item=item, state="missing", value=value, source=source, needed=_BOTH, advice="there are none")
    looked = np.unique(np.linspace(0, len(data) - 1, _LOOKED_AT).astype(int))
    zero = [int(i) for i in looked if not np.any(data[int(i)])]
    advice = ""
    if len(zero) == len(looked):
        advice = "all that were looked at are zero: a placeholder? the right ones may have another name in the file"
    elif zero:
        advice = f"number {zero[0]} is all zero: lost by the detector?"
    if wanted >= 0 and wanted != len(data):
        advice = f"{len(data)} images and {wanted} frames: rows do not belong together"
    return Finding(
        item=item, state="doubtful" if advice else "ok", value=value, source=source, advice=advice, needed=needed
    )


def _of_problems(entry: h5py.Group) -> Iterator[Finding]:
    lines = [str(line) for line in entry.attrs.get("problems", []) if line]
    if lines:
        yield Finding(item="problems", state="doubtful", value=f"{len(lines)} were named", advice=lines[0])


def _text(values: np.ndarray) -> str:
    if values.size == 1:
        return f"{values.reshape(-1)[0]:.8g}"
    if values.ndim == 1 and values.size <= 6:
        return " ".join(f"{value:.8g}" for value in values)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return f"{len(values)} without a value"
    rows = values.reshape(len(values), -1)
    return f"{rows[0, 0]:.8g} to {rows[-1, -1]:.8g}, {len(values)} values"


def _seconds(iso: str) -> float:
    return math.nan if not iso else float(np.datetime64(iso.rstrip("Z"), "us").astype(np.int64)) * 1e-6
