"""The frame assembler: documents in, frames with their motors out, joined by index and in the order of their numbers.

Nothing is joined by arrival or by time. An image belongs to the ``seq_num`` that its event, or the pairing of
``indices`` and ``seq_nums`` of its StreamDatum, says; point ``p`` is ``seq_num p + 1``, and frame ``p k + j`` is image
``j`` of the ``k`` that an event of the detector holds. Frames come out in the order of their numbers: one that is not
there yet is waited for until `WorkerSettings.reorder_points` later points are, and then counts as missing.
"""

import math
from collections.abc import Mapping
from typing import Any

from event_model import unpack_event_page

from ..streaming import SCAN_ROLES, DocumentError, FrameError
from .lanes import Events, Lane
from .pending import Held, InFile, Pending, describe
from .problems import Problems
from .readers import Reader, make_reader
from .references import LegacyReferences
from .roles import Roles
from .settings import Settings

_MOST_POINTS = 1 << 31
_MOST_AT_ONCE = 1 << 24


class FrameAssembler:
    """Joins the images and motors of one run.

    Parameters
    ----------
    settings
        Streams, roles and detectors.
    start
        The start document.
    problems
        Where to say what went wrong.
    """

    def __init__(self, settings: Settings, start: Mapping[str, Any], problems: Problems) -> None:
        self._settings = settings
        self._problems = problems
        self.roles = Roles(settings, start)
        self.n_lost = 0
        self._image_keys = {detector.image: number for number, detector in enumerate(settings.detectors)}
        self._streams: dict[str, str] = {}
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._events = {stream: Events() for stream in (settings.stream, settings.dark_stream)}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._readers: list[Reader] = []
        self._resources: dict[str, tuple[Reader | str, str]] = {}
        self._early: dict[str, list[Mapping[str, Any]]] = {}
        self._references = LegacyReferences(tuple(self._image_keys), self._stream_document)
        self._waited_for_roles = False
        self._named_roles: set[str] = set()
        self._num_events: Mapping[str, int] = {}

    def push(self, name: str, doc: Mapping[str, Any], archived: Mapping[str, Any] | None = None) -> list[Pending]:
        """Take in one document and return the frames that it completed.

        Parameters
        ----------
        name, doc
            The document.
        archived
            The same with `ArchivedImage` in the place of images, for those that have to wait.

        Raises
        ------
        DocumentError, FrameError
            The document cannot be used; all other documents go on.
        """
        if name in ("resource", "datum", "datum_page"):
            self._references.push(name, doc)
        elif name == "descriptor":
            self._descriptor(doc)
        elif name == "event_page":
            pages = [doc] if archived is None else [doc, archived]
            for events in zip(*(unpack_event_page(page) for page in pages), strict=True):  # pyright: ignore[reportArgumentType]
                self._event(*events)
        elif name == "event":
            self._event(doc, archived)
        elif name == "stop":
            self._num_events = doc.get("num_events") or {}
        else:
            self._stream_document(name, doc)
        ready = [frame for lane in self._lanes.values() for frame in self._advance(lane, to_the_end=False)]
        for lane in self._lanes.values():
            lane.shed()
        return ready

    def flush(self) -> list[Pending]:
        """Return what can still be reduced, and name what never came."""
        for resource, datums in self._early.items():
            for datum in datums:
                self._note_unknown_resource(resource, datum)
        for event, resource in self._references.orphans():
            for lane in self._lanes_of(self._streams[event["descriptor"]]):
                if lane.key in event["data"]:
                    lane.reasons[int(event["seq_num"])] = f"its datum names the unknown resource {resource}"
        pending = [frame for lane in self._lanes.values() for frame in self._advance(lane, to_the_end=True)]
        self._check_counts()
        self.name_missing_roles()
        return pending

    def name_missing_roles(self) -> None:
        """Name each role that has not come, once: when the first frame goes without it, or at the end."""
        for role in self.roles.missing:
            if role not in self._named_roles:
                self._named_roles.add(role)
                key = self._settings.roles[role]
                message = f"role {role}: data key {key!r} never came; its column is left empty"
                self._problems.add("role-missing", message)

    def resources(self) -> dict[int, str]:
        """Return id() of each reader, and the uid of the resource document that it reads."""
        return {id(reader): uid for uid, (reader, _) in self._resources.items() if not isinstance(reader, str)}

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def darks_complete(self, detector: int, n_darks: int) -> bool:
        """Tell whether n_darks are all the dark frames that the dark stream's events announced."""
        stream = self._settings.dark_stream
        lane = self._lanes.get((stream, self._settings.detectors[detector].image))
        return lane is not None and 0 < self._events[stream].n_came * lane.described.per_event <= n_darks

    def n_points(self, detector: int) -> int:
        """Return how many points of a detector have been returned, or will never come."""
        lane = self._lanes.get((self._settings.stream, self._settings.detectors[detector].image))
        return 0 if lane is None else lane.next_seq - 1

    def gone_past(self, detector: int) -> int:
        """Return the number before which each frame of a detector has been returned, or will never come."""
        lane = self._lanes.get((self._settings.stream, self._settings.detectors[detector].image))
        return 0 if lane is None else self._frame_number(lane, lane.next_seq)

    # Documents

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        stream = str(doc["name"])
        self._streams[doc["uid"]] = stream
        self._keys[stream] = doc["data_keys"]
        self.roles.descriptor(doc)
        if stream not in self._events:
            return
        self._references.descriptor(doc)
        for key in self._image_keys.keys() & doc["data_keys"].keys():
            lane = self._lanes.setdefault((stream, key), Lane(key=key, is_dark=stream != self._settings.stream))
            lane.described = describe(doc["data_keys"][key])
            lane.external = "external" in doc["data_keys"][key]
        self._events[stream].hold_motors = any("external" not in key for key in doc["data_keys"].values())
        early, self._early = self._early, {}
        for datum in (datum for datums in early.values() for datum in datums):
            self._stream_document("stream_datum", datum)

    def _event(self, doc: Mapping[str, Any], archived: Mapping[str, Any] | None = None) -> None:
        stream = self._streams.get(doc["descriptor"])
        if stream is None:
            raise DocumentError(f"event {doc['seq_num']} names the unknown descriptor {doc['descriptor']}")
        data = doc["data"]
        if stream not in self._events:
            self.roles.other_event(stream, self._keys[stream], data)
            return
        seq_num = _within(int(doc["seq_num"]), 1, _MOST_POINTS, "seq_num")
        motors = {key: value for key, value in data.items() if key not in self._image_keys}
        # The first of two events with one number counts, because its frame may have been reduced already.
        why = self._events[stream].add(seq_num, (_time(doc), motors, _stamps(doc)))
        if why:
            frame = min((self._frame_number(lane, seq_num) for lane in self._lanes_of(stream)), default=None)
            self._problems.add("event-twice", f"event {seq_num} of stream {stream} {why}", frame)
            return
        for lane in self._lanes_of(stream):
            self._image_of_event(lane, seq_num, doc)
            if archived is not None and not lane.external and lane.key in archived["data"]:
                lane.archived[seq_num] = archived["data"][lane.key]

    def _image_of_event(self, lane: Lane, seq_num: int, doc: Mapping[str, Any]) -> None:
        data, key = doc["data"], lane.key
        if lane.external and isinstance(data.get(key), str):
            lane.reasons[seq_num] = f"its datum {data[key]} never came"
            self._references.event(doc, key)
        elif key in data:
            lane.add(seq_num, data[key], -1)
        elif not lane.external:
            lane.give_up(seq_num, "its event came without it")

    def _stream_document(self, name: str, doc: Mapping[str, Any]) -> None:
        if name == "stream_resource":
            self._stream_resource(doc)
        elif name == "stream_datum":
            self._stream_datum(doc)

    def _stream_resource(self, doc: Mapping[str, Any]) -> None:
        key, uid = str(doc["data_key"]), str(doc["uid"])
        if key not in self._image_keys:
            return
        lane = next((lane for lane in self._lanes.values() if lane.key == key), None)
        try:
            reader: Reader | str = make_reader(doc, 1 if lane is None else lane.described.per_event)
            self._readers.append(reader)
        except (FrameError, OSError, KeyError, TypeError, ValueError) as error:
            reader = f"{' '.join(str(error).split())}; so are all frames of stream_resource {uid}"
        self._resources[uid] = (reader, key)
        for datum in self._early.pop(uid, []):
            self._stream_datum(datum)

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        stream = self._streams.get(doc["descriptor"])
        if stream is not None and stream not in self._events:
            return
        resource = str(doc["stream_resource"])
        if resource not in self._resources or stream is None:
            self._early.setdefault(resource, []).append(doc)
            return
        reader, key = self._resources[resource]
        if (stream, key) not in self._lanes:
            raise DocumentError(f"stream_datum {doc.get('uid')} is of {key!r}, which stream {stream} does not describe")
        lane = self._lanes[stream, key]
        first, seq_first, count = _pairs(doc)
        for offset in range(count):
            if isinstance(reader, str):
                lane.give_up(seq_first + offset, reader, once=resource)
            else:
                lane.add(seq_first + offset, reader, first + offset)

    def _note_unknown_resource(self, resource: str, datum: Mapping[str, Any]) -> None:
        stream = self._streams.get(datum["descriptor"])
        for lane in self._lanes_of(stream or ""):
            if lane.external:
                _, seq_first, count = _pairs(datum)
                for seq_num in range(seq_first, seq_first + count):
                    lane.reasons[seq_num] = f"its stream_datum names the unknown resource {resource}"

    def _check_counts(self) -> None:
        for stream, events in self._events.items():
            last = max((lane.next_seq - 1 for lane in self._lanes_of(stream)), default=0)
            expected = self._num_events.get(stream)
            if isinstance(expected, int) and last and last != expected:
                what = "the others never came" if last < expected else "more than that came"
                frame = min((self._frame_number(lane, last + 1) for lane in self._lanes_of(stream)), default=None)
                self._problems.add(
                    "event-count",
                    f"stop says {expected} events of stream {stream}, the last that came is {last}; {what}",
                    frame if last < expected else None,
                )
            events.clear()

    # Frames

    def _lanes_of(self, stream: str) -> list[Lane]:
        return [lane for (name, _), lane in self._lanes.items() if name == stream]

    def _frame_number(self, lane: Lane, seq_num: int) -> int:
        return (seq_num - 1) * lane.described.per_event

    def _advance(self, lane: Lane, *, to_the_end: bool) -> list[Pending]:
        stream = self._settings.dark_stream if lane.is_dark else self._settings.stream
        events = self._events[stream]
        pending: list[Pending] = []
        while lane.images or lane.lost or (to_the_end and events.last >= lane.next_seq):
            seq_num = lane.next_seq
            complete = lane.is_complete(seq_num, events)
            if seq_num in lane.lost:
                self._lose(lane, seq_num, seq_num + 1)
            elif complete and (to_the_end or not self._wait_for_roles(lane, events)):
                pending += self._take(lane, seq_num, events)
            elif not to_the_end and (complete or not lane.overtaken(events, self._settings.worker.reorder_points)):
                break
            elif seq_num in lane.images:
                pending += self._take(lane, seq_num, events)
            else:
                self._lose(lane, seq_num, lane.next_known(events))
        events.forget(min((each.next_seq for each in self._lanes_of(stream)), default=1))
        return pending

    def _wait_for_roles(self, lane: Lane, events: Events) -> bool:
        """Hold the first frames back while a role is still unknown: the baseline may come a little later."""
        if self._waited_for_roles or lane.is_dark or not self.roles.missing:
            return False
        self._waited_for_roles = lane.overtaken(events, self._settings.worker.role_points)
        return not self._waited_for_roles

    def _lose(self, lane: Lane, first: int, end: int) -> None:
        """Name points first to end (exclusive), of which no image came, and go on behind them."""
        lane.next_seq = end
        reason, once = lane.lost.pop(first, ("", ""))
        reason = reason or lane.reasons.pop(first, "neither it nor its event came")
        frames, what = (end - first) * lane.described.per_event, "dark frame" if lane.is_dark else "frame"
        self.n_lost += 0 if lane.is_dark else frames
        if once and once in lane.told:
            self._problems.repeat("frame-missing", frames)
            return
        lane.told.add(once)
        number = self._frame_number(lane, first)
        which = (
            f"{what} of {lane.key!r} is"
            if frames == 1
            else f"{what}s {number} to {number + frames - 1} of {lane.key!r} are"
        )
        self._problems.add("frame-missing", f"{which} missing: {reason}; left out", number)

    def _take(self, lane: Lane, seq_num: int, events: Events) -> list[Pending]:
        archived = lane.archived.pop(seq_num, None)
        image, index = lane.take(seq_num)
        event = events.get(seq_num) if events.hold_motors else None
        first = self._frame_number(lane, seq_num)
        if event is None and events.hold_motors:
            self._problems.add("motors-missing", f"event {seq_num} with its motors never came; reduced without", first)
        time, motors, stamps = event or (math.nan, {}, {})
        if event is not None and not lane.is_dark:
            self._name_missing_motors(first, motors)
        return [
            Pending(
                detector=self._image_keys[lane.key],
                frame=first + part,
                point=seq_num - 1,
                seq_num=seq_num if event else 0,
                source=_source(image, index, archived, part, lane.described.per_event),
                described=lane.described,
                is_dark=lane.is_dark,
                omega=self.roles.interval(motors),
                time=time,
                roles=self._scalar_roles(motors),
                stamps=self._stamps_of_roles(stamps),
            )
            for part in range(lane.described.per_event)
        ]

    def _name_missing_motors(self, frame: int, motors: Mapping[str, Any]) -> None:
        for role in self.roles.from_events:
            if math.isnan(self.roles.value(role, motors)) and role not in ("lattice_parameters", "space_group"):
                key = self._settings.roles[role]
                self._problems.add(
                    "motor-missing", f"role {role}: the event holds no number under {key!r}; left empty", frame
                )

    def _scalar_roles(self, motors: Mapping[str, Any]) -> dict[str, float]:
        names = [role for role in (*SCAN_ROLES, *self._settings.further_roles) if role in self._settings.roles]
        return {role: self.roles.value(role, motors) for role in names}

    def _stamps_of_roles(self, stamps: Mapping[str, Any]) -> dict[str, float]:
        """Return when each role of an event was read; lattice and group are no motors."""
        names = (*SCAN_ROLES, *self._settings.further_roles, "omega", "omega_start")
        keys = {role: key for role, key in self._settings.roles.items() if key in stamps and role in names}
        return {role: float(stamps[key]) for role, key in keys.items() if isinstance(stamps[key], int | float)}


def _source(image: Any, index: int, archived: Any, part: int, per_event: int) -> Held | InFile:
    if index >= 0:
        return InFile(reader=image, index=index, part=part)
    return Held(image=image, part=part if per_event > 1 else None, archived=archived)


def _pairs(doc: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return first index, first seq_num, and how many pairs a StreamDatum has."""
    first, end = int(doc["indices"]["start"]), int(doc["indices"]["stop"])
    seq_first, seq_end = int(doc["seq_nums"]["start"]), int(doc["seq_nums"]["stop"])
    # Indices beyond the seq_nums are frames that the detector took and the run skipped.
    count = _within(max(0, min(end - first, seq_end - seq_first)), 0, _MOST_AT_ONCE, "number of frames")
    _within(first, 0, _MOST_POINTS, "index")
    return first, _within(seq_first, 1, _MOST_POINTS, "seq_num"), count


def _within(value: int, least: int, end: int, what: str) -> int:
    if not least <= value < end:
        raise DocumentError(f"{what} is {value}; wanted {least} to {end - 1}")
    return value


def _stamps(doc: Mapping[str, Any]) -> Mapping[str, Any]:
    stamps = doc.get("timestamps")
    return stamps if isinstance(stamps, Mapping) else {}


def _time(doc: Mapping[str, Any]) -> float:
    try:
        return float(doc.get("time", math.nan))
    except (TypeError, ValueError):
        return math.nan
