"""The frame assembler: documents in, frames with their motors out, joined by index and in the order of their numbers.

Nothing is joined by arrival or by time. An image belongs to the ``seq_num`` that its event, or the pairing of
``indices`` and ``seq_nums`` of its StreamDatum, says; point ``p`` is ``seq_num p + 1``, and frame ``p k + j`` is image
``j`` of the ``k`` that an event of the detector holds. Frames come out in the order of their numbers: one that is not
there yet is waited for until `WorkerSettings.reorder_points` later points are, and then counts as missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from event_model import unpack_event_page

from ..streaming import SCAN_ROLES, FrameError
from .encoding import StoredImage
from .problems import Problems
from .readers import Image, Reader, make_reader
from .roles import Roles
from .settings import DetectorSettings, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An image that came inside its event, or lies in the raw archive."""

    image: Any
    "Array, or `StoredImage`; with a stack of images, which of them is said by `part`."
    part: int | None
    "Which image of a stack; None if the event held one image."


@dataclass(frozen=True, slots=True, kw_only=True)
class InFile:
    """An image that lies in a file."""

    reader: Reader
    "Reader of the file."
    index: int
    "Index of the event in the file."
    part: int
    "Which image of the event."


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A frame whose motors are known and whose image can be read."""

    detector: int
    "Number of the detector in the settings."
    frame: int
    "Number of the frame; of the dark frame, if it is one."
    point: int
    "Scan point."
    seq_num: int
    "seq_num of the event, 0 if it never came."
    source: Held | InFile
    "Where the image is."
    shape: tuple[int, ...] = ()
    "Rows and columns as the descriptor says them; empty if it does not."
    is_dark: bool = False
    "Whether it is a frame of the dark stream."
    omega: tuple[float, float] = (math.nan, math.nan)
    "Rotation at the start and the end, degrees; NaN where it never came."
    time: float = math.nan
    "Time of the event, seconds since 1970."
    roles: Mapping[str, float] = field(default_factory=dict[str, float])
    "Every other scalar role's value."


@dataclass(slots=True, kw_only=True)
class _Lane:
    """The images of one detector in one stream, and how far they have come."""

    detector: int
    key: str
    is_dark: bool
    per_event: int = 1
    external: bool = False
    images: dict[int, tuple[Any, int]] = field(default_factory=dict[int, tuple[Any, int]])
    without_image: set[int] = field(default_factory=set[int])
    next_seq: int = 1
    frame_shape: tuple[int, ...] = ()


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
        self._streams: dict[str, str] = {}
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._events: dict[str, dict[int, tuple[float, Mapping[str, Any]]]] = {}
        self._has_events: dict[str, bool] = {}
        self._readers: dict[str, tuple[Reader, str]] = {}
        self._early: list[Mapping[str, Any]] = []
        self._waited_roles: bool = False
        self._normalizer: Any = None
        self._event_being_normalized: int | None = None

    def push(self, name: str, doc: Mapping[str, Any]) -> list[Pending]:
        """Take in one document and return the frames that it completed.

        Raises
        ------
        FrameError
            The document names images that cannot be read; all other documents go on.
        """
        if name in ("resource", "datum", "datum_page"):
            self._normalize(name, doc)
        elif name == "descriptor":
            self._descriptor(doc)
        elif name == "event_page":
            for event in unpack_event_page(doc):  # pyright: ignore[reportArgumentType]
                self._event(event)
        elif name == "event":
            self._event(doc)
        elif name == "stream_resource":
            self._stream_resource(doc)
        elif name == "stream_datum":
            self._stream_datum(doc)
        elif name == "stop":
            self._check_counts(doc)
        return self._ready()

    def flush(self) -> list[Pending]:
        """Return what can still be reduced, and name what never came."""
        pending = [frame for lane in self._lanes.values() for frame in self._advance(lane, to_the_end=True)]
        for doc in self._early:
            self._problems.add("datum-without-resource", f"stream_datum {doc.get('uid')} names an unknown resource")
        for role in self.roles.missing:
            key = self._settings.roles[role]
            self._problems.add("role-missing", f"role {role}: data key {key!r} never came; its column is left empty")
        return pending

    def close(self) -> None:
        """Close the files."""
        for reader, _ in self._readers.values():
            reader.close()

    def darks_complete(self, detector: int, n_darks: int) -> bool:
        """Tell whether n_darks are all the dark frames that the dark stream's events announced."""
        stream = self._settings.dark_stream
        lane = self._lanes.get((stream, self._settings.detectors[detector].image))
        return lane is not None and n_darks > 0 and n_darks >= len(self._events.get(stream, {})) * lane.per_event

    # Documents

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        stream = str(doc["name"])
        self._streams[doc["uid"]] = stream
        self._keys[stream] = doc["data_keys"]
        self.roles.descriptor(doc)
        if stream in (self._settings.stream, self._settings.dark_stream):
            for number, detector in enumerate(self._settings.detectors):
                if detector.image in doc["data_keys"]:
                    self._lane(stream, number, detector, doc["data_keys"][detector.image])
            self._has_events[stream] = any("external" not in key for key in doc["data_keys"].values())
        if self._normalizer is not None:
            self._normalizer("descriptor", doc)

    def _lane(self, stream: str, number: int, detector: DetectorSettings, key: Mapping[str, Any]) -> None:
        shape = [int(n) for n in (key.get("shape") or ()) if n is not None]
        lane = self._lanes.setdefault(
            (stream, detector.image),
            _Lane(detector=number, key=detector.image, is_dark=stream == self._settings.dark_stream),
        )
        lane.per_event = shape[0] if len(shape) == 3 else 1
        lane.frame_shape = tuple(shape[-2:]) if len(shape) >= 2 and all(shape[-2:]) else ()
        lane.external = "external" in key

    def _event(self, doc: Mapping[str, Any]) -> None:
        stream = self._streams.get(doc["descriptor"])
        if stream is None:
            raise FrameError(f"event {doc['seq_num']} names the unknown descriptor {doc['descriptor']}; it is left out")
        seq_num = int(doc["seq_num"])
        data = doc["data"]
        if stream not in (self._settings.stream, self._settings.dark_stream):
            self.roles.other_event(stream, self._keys[stream], data)
            return
        image_keys = {detector.image for detector in self._settings.detectors}
        motors = {key: value for key, value in data.items() if key not in image_keys}
        # The first of two events with one number counts, because its frame may have been reduced already.
        known = self._events.setdefault(stream, {})
        if seq_num in known:
            self._problems.add("event-twice", f"event {seq_num} of stream {stream} came twice; the first counts")
            return
        known[seq_num] = (float(doc.get("time", math.nan)), motors)
        for lane in self._lanes_of(stream):
            self._image_of_event(lane, seq_num, doc)

    def _image_of_event(self, lane: _Lane, seq_num: int, doc: Mapping[str, Any]) -> None:
        data, key = doc["data"], lane.key
        filled = doc.get("filled", {}).get(key, True)
        if lane.external and isinstance(data.get(key), str) and filled in (False, True):
            self._normalize_event(seq_num, doc)
        elif key in data:
            lane.images.setdefault(seq_num, (data[key], -1))
        elif not lane.external:
            lane.without_image.add(seq_num)

    def _stream_resource(self, doc: Mapping[str, Any]) -> None:
        key = str(doc["data_key"])
        lanes = [lane for lane in self._lanes.values() if lane.key == key]
        if not lanes and key not in {detector.image for detector in self._settings.detectors}:
            return
        per_event = lanes[0].per_event if lanes else 1
        self._readers[doc["uid"]] = (make_reader(doc, per_event), key)
        early, self._early = self._early, []
        for datum in early:
            self._stream_datum(datum)

    def _stream_datum(self, doc: Mapping[str, Any]) -> None:
        stream = self._streams.get(doc["descriptor"])
        if stream is not None and stream not in (self._settings.stream, self._settings.dark_stream):
            return
        if doc["stream_resource"] not in self._readers or stream is None:
            self._early.append(doc)
            return
        reader, key = self._readers[doc["stream_resource"]]
        lane = self._lanes[stream, key]
        first, end = int(doc["indices"]["start"]), int(doc["indices"]["stop"])
        seq_first, seq_end = int(doc["seq_nums"]["start"]), int(doc["seq_nums"]["stop"])
        # Indices beyond the seq_nums are frames that the detector took and the run skipped.
        for offset in range(min(end - first, seq_end - seq_first)):
            lane.images.setdefault(seq_first + offset, (reader, first + offset))

    def _check_counts(self, doc: Mapping[str, Any]) -> None:
        expected = (doc.get("num_events") or {}).get(self._settings.stream)
        events = self._events.get(self._settings.stream, {})
        if expected is not None and self._has_events.get(self._settings.stream) and len(events) != expected:
            self._problems.add(
                "event-count", f"{len(events)} events of stream {self._settings.stream} came; stop says {expected}"
            )

    # Resource and Datum, which RunNormalizer of bluesky-tiled-plugins turns into StreamResource and StreamDatum

    def _normalize(self, name: str, doc: Mapping[str, Any]) -> None:
        if self._normalizer is None:
            # Imported when needed: it brings Tiled's client, which is slow to import.
            from bluesky_tiled_plugins.writing.tiled_writer import RunNormalizer

            self._normalizer = RunNormalizer()
            self._normalizer.subscribe(self._normalized)
            for uid, stream in self._streams.items():
                self._normalizer("descriptor", self._bare_descriptor(uid, stream))
        self._normalizer(name, doc)

    def _bare_descriptor(self, uid: str, stream: str) -> dict[str, Any]:
        keys = {key: dict(value) for key, value in self._keys[stream].items()}
        return {"uid": uid, "name": stream, "run_start": "", "time": 0.0, "data_keys": keys, "configuration": {}}

    def _normalize_event(self, seq_num: int, doc: Mapping[str, Any]) -> None:
        self._event_being_normalized = seq_num
        keys = {lane.key for lane in self._lanes_of(self._streams[doc["descriptor"]]) if lane.external}
        bare = {key: {k: v for k, v in doc[key].items() if k in keys} for key in ("data", "timestamps")}
        self._normalize("event", dict(doc) | bare | {"filled": dict.fromkeys(keys, False)})
        self._event_being_normalized = None

    def _normalized(self, name: str, doc: dict[str, Any]) -> None:
        if name == "stream_resource":
            self._stream_resource(doc)
        elif name == "stream_datum":
            seq_num = self._event_being_normalized
            # The event itself names its datum, which says more than the count that the normalizer goes by.
            if seq_num is not None and doc["indices"]["stop"] - doc["indices"]["start"] == 1:
                doc = doc | {"seq_nums": {"start": seq_num, "stop": seq_num + 1}}
            self._stream_datum(doc)

    # Frames

    def _lanes_of(self, stream: str) -> list[_Lane]:
        return [lane for (name, _), lane in self._lanes.items() if name == stream]

    def _ready(self) -> list[Pending]:
        return [frame for lane in self._lanes.values() for frame in self._advance(lane, to_the_end=False)]

    def _advance(self, lane: _Lane, *, to_the_end: bool) -> list[Pending]:
        stream = self._settings.dark_stream if lane.is_dark else self._settings.stream
        events = self._events.get(stream, {})
        pending: list[Pending] = []
        while lane.images or lane.without_image or (to_the_end and any(seq >= lane.next_seq for seq in events)):
            seq_num = lane.next_seq
            complete = seq_num in lane.images and (seq_num in events or not self._has_events[stream])
            patient = not to_the_end and len(lane.images) <= self._settings.worker.reorder_points
            if seq_num not in lane.without_image and patient and (not complete or self._waits_for_roles(lane)):
                break
            pending += self._take(lane, seq_num, events.get(seq_num))
            lane.next_seq += 1
        return pending

    def _waits_for_roles(self, lane: _Lane) -> bool:
        """Hold the first frames back while a role is still unknown: the baseline may come a little later."""
        if self._waited_roles or lane.is_dark or not self.roles.missing:
            return False
        self._waited_roles = len(lane.images) > self._settings.worker.role_points
        return not self._waited_roles

    def _take(self, lane: _Lane, seq_num: int, event: tuple[float, Mapping[str, Any]] | None) -> list[Pending]:
        first = (seq_num - 1) * lane.per_event
        what = "dark frame" if lane.is_dark else "frame"
        if seq_num not in lane.images:
            lane.without_image.discard(seq_num)
            came = "its event came without it" if event is not None else "neither it nor its event came"
            self._problems.add("frame-missing", f"{what} of {lane.key!r} is missing: {came}; it is left out", first)
            return []
        image, index = lane.images.pop(seq_num)
        if event is None and self._has_events[self._settings.dark_stream if lane.is_dark else self._settings.stream]:
            self._problems.add(
                "motors-missing", f"event {seq_num} with its motors never came; the {what} is reduced without", first
            )
        time, motors = event or (math.nan, {})
        if not lane.is_dark:
            self._name_missing_motors(first, motors if event else None)
        return [
            Pending(
                detector=lane.detector,
                frame=first + part,
                point=seq_num - 1,
                seq_num=seq_num if event else 0,
                source=_source(image, index, part, lane.per_event),
                shape=lane.frame_shape,
                is_dark=lane.is_dark,
                omega=self.roles.interval(motors),
                time=time,
                roles=self._scalar_roles(motors),
            )
            for part in range(lane.per_event)
        ]

    def _name_missing_motors(self, frame: int, motors: Mapping[str, Any] | None) -> None:
        for role in self.roles.from_events if motors is not None else ():
            if role in self._settings.roles and not math.isfinite(self.roles.value(role, motors or {})):
                key = self._settings.roles[role]
                self._problems.add(
                    "motor-missing", f"role {role}: the event holds no number under {key!r}; left empty", frame
                )

    def _scalar_roles(self, motors: Mapping[str, Any]) -> dict[str, float]:
        names = [role for role in (*SCAN_ROLES, *self._settings.further_roles) if role in self._settings.roles]
        return {role: self.roles.value(role, motors) for role in names}


def _source(image: Any, index: int, part: int, per_event: int) -> Held | InFile:
    if index >= 0:
        return InFile(reader=image, index=index, part=part)
    return Held(image=image, part=part if per_event > 1 else None)


def image_of(pending: Pending, read: Any, stored: Any) -> Image:
    """Return the image of a frame.

    Parameters
    ----------
    pending
        The frame.
    read
        Reads from a reader: (reader, index) -> images of one event.
    stored
        Reads from the raw archive: (StoredImage) -> image.

    Raises
    ------
    FrameError
        There is none, or it is not an image.
    """
    source = pending.source
    if isinstance(source, InFile):
        images = read(source.reader, source.index)
        return images if not isinstance(images, np.ndarray) or images.ndim == 2 else images[source.part]
    image = stored(source.image) if isinstance(source.image, StoredImage) else source.image
    try:
        array = np.asarray(image)
    except ValueError:
        raise FrameError("the image is a ragged list; wanted an array of rows and columns") from None
    if array.ndim == 3 and (source.part is not None or len(array) == 1):
        return array[source.part or 0]
    return array
