"""The table of the scan in a raw archive, written while it goes on: a row for each frame, motors joined by index.

It is made of documents alone, so that it is there when reduction lags or the process is killed; row i is frame i of the
first detector. When the run is over its place is taken by what the reduction knew.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import h5py
import numpy as np
from event_model import unpack_event_page

from ..streaming import SCAN_ROLES, HedmLiveError
from .hdf5 import nexus_group, write_rows
from .hedm_group import SCAN_MEANING, RunSummary, unit_of
from .pending import Described, describe
from .problems import Problems
from .roles import Roles
from .settings import Settings
from .trajectory import Followed, RunTrajectory

PLACE = "entry/scan"

_INTEGERS = ("frame", "point")
_FARTHEST = 1_000_000
"A seq_num so far beyond all others is a mistake, not a frame."


class ScanTable:
    """The growing table of one run.

    Parameters
    ----------
    file
        The archive, not in SWMR mode yet.
    settings
        Streams, roles and detectors.
    start
        The start document.
    """

    def __init__(self, file: h5py.File, settings: Settings, start: Mapping[str, Any]) -> None:
        self._settings = settings
        self._roles = Roles(settings, start)
        self._trajectory = RunTrajectory(settings, start, _Unheard())
        self._followed: Followed | None = None
        self._streams: dict[str, str] = {}
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._described = Described()
        self._resources: dict[str, str] = {}
        start_time = start.get("time")
        self.times: dict[str, float] = {}
        "Data key to when its value was taken, seconds since 1970, for values that no event of a frame holds."
        self._start_time = float(start_time) if isinstance(start_time, int | float) else math.nan
        scalars = tuple(role for role in (*SCAN_ROLES, *settings.further_roles) if role in settings.roles)
        timed = tuple(dict.fromkeys("omega" if role.startswith("omega") else role for role in settings.roles))
        self._scalars = scalars
        self._timed = tuple(role for role in timed if role == "omega" or role in scalars)
        self._stamp_names = tuple(f"{role}_time" for role in self._timed)
        names = ("time", "omega_start", "omega_end", *scalars, *self._stamp_names)
        self._columns = {name: np.full(0, -1, np.int64) for name in _INTEGERS}
        self._columns |= {name: np.full(0, math.nan) for name in names}
        self._n = 0
        self._dirty = [0, 0]
        group = nexus_group(file, PLACE, "NXcollection")
        group.attrs["meaning"] = SCAN_MEANING
        # Kept open: to look them up by name costs more than to write a row into each of them.
        self._data: dict[str, h5py.Dataset] = {}
        self._n_written = 0
        for name, values in self._columns.items():
            made = self._data[name] = group.create_dataset(
                name, (0,), values.dtype, maxshape=(None,), chunks=(1 << 10,)
            )
            # No attribute can come later: units of devices are in the documents until the run is over.
            if unit := unit_of(name, {}):
                made.attrs["units"] = unit

    def push_any(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in one document; a malformed one is left to those who name it."""
        with suppress(KeyError, TypeError, ValueError, IndexError, AttributeError, HedmLiveError):
            self.push(name, doc)

    def push(self, name: str, doc: Mapping[str, Any]) -> None:
        """Take in one document."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "stream_resource":
            self._resources[str(doc["uid"])] = str(doc["data_key"])
        elif name == "stream_datum":
            self._stream_datum(doc)
        elif name == "event":
            self._event(doc)
        elif name == "event_page":
            for event in unpack_event_page(doc):  # pyright: ignore[reportArgumentType]
                self._event(event)

    def flush(self) -> None:
        """Write what changed."""
        first, end = self._dirty
        if first == end:
            return
        for name, values in self._columns.items():
            data = self._data[name]
            if end < self._n_written:
                data[first:end] = values[first:end]
            else:
                write_rows(data, first, values[first:end])
        self._n_written = max(self._n_written, end)
        self._dirty = [end, end]

    def stamps(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """Return when each role's value of each frame was taken, for roles that the frames' events hold."""
        frames = np.where((frames >= 0) & (frames < self._n), frames, -1).astype(np.int64)
        found = {f"{role}_time": self._columns[f"{role}_time"] for role in self._timed}
        made = {name: np.append(values[: self._n], math.nan)[frames] for name, values in found.items()}
        return {name: values for name, values in made.items() if np.isfinite(values).any()}

    def summary(self, start: Mapping[str, Any], stop: Mapping[str, Any]) -> RunSummary:
        """Return what the documents so far say of the run."""
        came = np.flatnonzero(self._columns["frame"][: self._n] >= 0)
        sources = dict(self._roles.sources)
        planned = None
        if self._followed is not None:
            planned = self._trajectory.source_of_omega(self._followed, sources)
        if planned is not None:
            sources["omega"] = planned
        scalars = {role: self._roles.raw(role, {}) for role in ("lattice_parameters", "space_group")}
        return RunSummary(
            columns={name: values[came] for name, values in self._columns.items() if name not in self._stamp_names},
            sources=sources,
            scalars={role: value for role, value in scalars.items() if value is not None},
            start=start,
            stop=stop,
        )

    def is_of_frames(self, key: str) -> bool:
        """Tell whether images of a data key can only be frames so far: no dark stream has told of it."""
        settings = self._settings
        return key in self._keys.get(settings.stream, ()) and key not in self._keys.get(settings.dark_stream, ())

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        stream = str(doc["name"])
        self._streams[str(doc["uid"])], self._keys[stream] = stream, doc["data_keys"]
        self._roles.descriptor(doc)
        self._trajectory.descriptor(doc)
        for device in doc.get("configuration", {}).values():
            for key, time in (device.get("timestamps") or {}).items():
                self._note_time(key, time)
        image = self._settings.detectors[0].image
        if stream == self._settings.stream and image in doc["data_keys"]:
            self._described = describe(doc["data_keys"][image])

    def _event(self, doc: Mapping[str, Any]) -> None:
        stream, data, stamps = self._streams.get(str(doc["descriptor"]), ""), doc["data"], doc.get("timestamps") or {}
        if stream != self._settings.stream:
            if stream and stream != self._settings.dark_stream:
                self._roles.other_event(stream, self._keys[stream], data)
                for key in data.keys() & set(self._settings.roles.values()) - self.times.keys():
                    self._note_time(key, stamps.get(key, doc.get("time")))
            return
        omega = self._roles.interval(data)
        values = {role: self._roles.value(role, data) for role in self._scalars}
        values |= {"time": _number(doc.get("time")), "omega_start": omega[0], "omega_end": omega[1]}
        for role in self._timed:
            key = self._settings.roles.get(role) or self._settings.roles.get("omega_start", "")
            if key in data:
                values[f"{role}_time"] = _number(stamps.get(key))
        self._rows(int(doc["seq_num"]), 1, values)

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        of_frames = self._streams.get(str(doc["descriptor"])) == self._settings.stream
        if not of_frames or self._resources.get(str(doc["stream_resource"])) != self._settings.detectors[0].image:
            return
        first, end = int(doc["seq_nums"]["start"]), int(doc["seq_nums"]["stop"])
        values = {role: self._roles.value(role, {}) for role in self._scalars}
        # An event that came before holds what was read then.
        self._rows(
            first, end - first, {name: each for name, each in values.items() if not math.isnan(each)}, over=False
        )

    def _rows(self, seq_num: int, count: int, values: Mapping[str, float], *, over: bool = True) -> None:
        per_event = self._described.per_event
        first, end = (seq_num - 1) * per_event, (seq_num - 1 + count) * per_event
        if not 0 <= first < end <= self._n + _FARTHEST:
            return
        # Rows between what there was and these are written empty.
        changed = min(first, self._n)
        self._grow(end)
        self._columns["frame"][first:end] = np.arange(first, end)
        self._columns["point"][first:end] = np.arange(first, end) // per_event
        for name, value in values.items():
            rows = self._columns[name][first:end]
            rows[:] = value if over else np.where(np.isnan(rows), value, rows)
        self._plan(first, end)
        clean = self._dirty[0] == self._dirty[1]
        self._dirty = [changed, end] if clean else [min(changed, self._dirty[0]), max(end, self._dirty[1])]

    def _plan(self, first: int, end: int) -> None:
        """Fill in omega where the plan says it and no event does."""
        if self._followed is None:
            # A trajectory that cannot be understood is named by the reduction.
            self._followed = self._trajectory.follow(self._described.per_event, tuple(self._roles.sources))
        if self._trajectory.source_of_omega(self._followed, self._roles.sources) is None or self._followed.path is None:
            return
        for frame in range(first, end):
            start, stop = self._followed.path.interval(frame)
            self._columns["omega_start"][frame], self._columns["omega_end"][frame] = start, stop

    def _grow(self, end: int) -> None:
        room = len(self._columns["frame"])
        if end > room:
            more = max(1024, end, 2 * room) - room
            for name, values in self._columns.items():
                fill = np.full(more, -1 if name in _INTEGERS else math.nan, values.dtype)
                self._columns[name] = np.concatenate([values, fill])
        self._n = max(self._n, end)

    def _note_time(self, key: str, time: Any) -> None:
        number = _number(time)
        if math.isfinite(number) and number > 0:
            self.times[str(key)] = number


class _Unheard(Problems):
    """What the reduction says of the same documents."""

    def add(self, kind: str, message: str, frame: int | None = None, *, run: str = "") -> None:
        """Do nothing."""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float | np.number) else math.nan
