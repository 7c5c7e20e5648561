"""Motors and energies from the logs that lie beside frames: lines of fields parted by blanks, as SPEC macros write.

The first five fields of a line are its date. Layouts are those of APS 1-ID: ``<beamtime>_FF.par`` and ``_NF.par`` have
a line a frame, ``FileCount.txt`` a line a sweep, ``fastsweep_Emon.txt`` a line now and then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ..streaming import ReplayError
from .watch_settings import LogSettings

_NAME_FIELD = {"ff": 7, "nf": 7, "sweeps": 15}
_DATE_FIELDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """What a log says of the frames of one file or series."""

    values: Mapping[str, np.ndarray]
    "Data key to values: shape (frames,), NaN where no line speaks of a frame; or shape ()."
    sources: Mapping[str, str]
    "Data key to file and field."
    notes: tuple[str, ...] = ()
    "What was wrong: lines that contradict each other, frames of which no line speaks."


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesOf:
    """Which frames are looked for in a log."""

    folder: Path
    "Folder that is watched, or that the file lies in."
    name: str
    "Name of the file without suffix; of a series, what stands before the number."
    number: int | None
    "Number at the end of that name; of a series, that of its first file."
    numbers: Sequence[int]
    "Numbers of the files of a series, or 1, 2, 3 ... for the frames of one file."
    time: float
    "When the file was written, seconds since 1970."


def read_log(settings: LogSettings, frames: FramesOf) -> Logged | None:
    """Return what a log says; None if there is no such log yet.

    Raises
    ------
    ReplayError
        The log cannot be read, or a line of these frames has no number in a field.
    """
    path = _find(settings.file, frames.folder)
    if path is None:
        return None
    try:
        # Some of these files end their lines as DOS does; blanks at the end of a line are stripped with it.
        lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}") from None
    lines = [line for line in lines if line and not line[0].startswith("#")]
    if settings.layout == "dated":
        return _last_before(path, settings, lines, frames)
    if settings.layout == "sweeps":
        return _of_sweeps(path, settings, lines, frames)
    return _of_frames(path, settings, lines, frames)


def _find(file: Path, folder: Path) -> Path | None:
    if file.is_absolute():
        return file if file.is_file() else None
    for place in (folder, *folder.absolute().parents):
        found = sorted(place.glob(str(file)))
        if found:
            return found[-1]
    return None


def _of_frames(path: Path, settings: LogSettings, lines: list[list[str]], frames: FramesOf) -> Logged:
    """A line a frame: in the far field with the number of the file and of its frame, else with that of the image."""
    far_field = settings.layout == "ff"
    rows: dict[int, list[float]] = {}
    notes: list[str] = []
    n_twice = 0
    for line in lines:
        if not _names(line, _NAME_FIELD[settings.layout], frames.name):
            continue
        if far_field and _whole(line, 20) != frames.number:
            continue
        number = _whole(line, 21 if far_field else 8)
        values = [_number(path, line, field) for field in settings.fields.values()]
        if number is None:
            continue
        if number in rows:
            n_twice += 1
            if rows[number] != values:
                notes.append(f"{path.name}: image {number} is logged twice, with {rows[number]} and {values}")
        # The first line of a sweep is logged a second time when the sweep begins: the later one counts.
        rows[number] = values
    if n_twice and not notes:
        notes.append(f"{path.name}: {n_twice} lines stand there twice, with the same values; each counts once")
    table = np.array([rows.get(n, [np.nan] * len(settings.fields)) for n in frames.numbers], np.float64)
    lacking = int(np.isnan(table).any(axis=1).sum()) if len(table) else 0
    if lacking:
        notes.append(f"{path.name}: no line for {lacking} of {len(table)} frames of {frames.name}")
    return _logged(path, settings, {key: table[:, i] for i, key in enumerate(settings.fields)}, notes)


def _of_sweeps(path: Path, settings: LogSettings, lines: list[list[str]], frames: FramesOf) -> Logged:
    numbers = np.asarray(frames.numbers)
    found = {key: np.full(len(numbers), np.nan) for key in settings.fields}
    n_said = 0
    for line in lines:
        first, end = _whole(line, 16), _whole(line, 17)
        if first is None or end is None or not _names(line, _NAME_FIELD["sweeps"], frames.name):
            continue
        n_said = max(n_said, end)
        inside = (numbers >= first) & (numbers < end)
        for key, field in settings.fields.items():
            found[key][inside] = _number(path, line, field)
    notes: list[str] = []
    if n_said and len(numbers) and numbers[-1] + 1 != n_said:
        notes.append(f"{path.name}: images of {frames.name} end before {n_said}, files before {numbers[-1] + 1}")
    return _logged(path, settings, found, notes)


def _last_before(path: Path, settings: LogSettings, lines: list[list[str]], frames: FramesOf) -> Logged | None:
    dated = [(when, line) for line in lines if (when := _date(line)) is not None]
    before = [line for when, line in dated if when <= frames.time]
    if not before:
        return None
    values = {key: np.float64(_number(path, before[-1], field)) for key, field in settings.fields.items()}
    return _logged(path, settings, {key: np.asarray(value) for key, value in values.items()}, [])


def _logged(path: Path, settings: LogSettings, values: Mapping[str, np.ndarray], notes: Sequence[str]) -> Logged:
    known = {key: each for key, each in values.items() if np.isfinite(each).any()}
    sources = {key: f"{path}: field {settings.fields[key]}" for key in known}
    return Logged(values=known, sources=sources, notes=tuple(notes))


def _names(line: list[str], field: int, name: str) -> bool:
    """Tell whether a line is of this file: some macros log the whole name, some what stands before the number."""
    if len(line) < field:
        return False
    logged = line[field - 1].rpartition("/")[2].rstrip("_")
    return bool(logged) and (name == logged or name.rstrip("_0123456789") == logged or name.startswith(f"{logged}_"))


def _whole(line: list[str], field: int) -> int | None:
    try:
        return int(float(line[field - 1]))
    except (IndexError, ValueError, OverflowError):
        return None


def _number(path: Path, line: list[str], field: int) -> float:
    try:
        return float(line[field - 1])
    except (IndexError, ValueError):
        came = line[field - 1] if field <= len(line) else "nothing"
        raise ReplayError(f"{path}: field {field} holds {came}; wanted a number, in {' '.join(line)[:60]}") from None


def _date(line: list[str]) -> float | None:
    try:
        # Without a time zone, as the clock of the machine that wrote it.
        return datetime.strptime(" ".join(line[:_DATE_FIELDS]), "%a %b %d %H:%M:%S %Y").timestamp()
    except ValueError:
        return None
