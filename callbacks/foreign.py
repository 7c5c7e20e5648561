"""Foreign files as documents: what was measured by something that told no documents becomes a run like any other."""

import math
from bisect import bisect_left
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from event_model import compose_run

from .foreign_files import first_of
from .foreign_groups import detectors_of
from .foreign_look import Look
from .foreign_scan import Finished, Follow, Scan, ScanLook, content_uid, resource_of
from .problems import Problems
from .settings import Settings

IMAGE = "image"
_BLOCK = 64

Documents = Iterator[tuple[str, Mapping[str, Any]]]
Result = TypeVar("Result")


class Aside:
    """What the maker of documents says beside them; deaf until `process` lets it say its problems."""

    def __init__(self) -> None:
        self._problems: Problems | None = None

    def join(self, problems: Problems) -> None:
        """Say where problems go."""
        self._problems = problems

    def problem(self, message: str) -> None:
        """Name a problem of a file."""
        if self._problems is not None:
            self._problems.add("foreign-file", message)


def scan_of(path: Path, settings: Settings | None = None) -> Scan:
    """Return the scan that a file belongs to, with the files of the other detectors beside it.

    Raises
    ------
    SettingsError
        The settings have several detectors, and no pattern that says which files are theirs.
    """
    path = first_of(path)
    if settings is None:
        return Scan(paths={IMAGE: path}, folder=path.parent)
    return Scan(
        paths=detectors_of(path, settings),
        folder=path.parent,
        settings=settings.watch,
        dark_stream=settings.dark_stream,
    )


def default_settings(look: ScanLook) -> dict[str, Any]:
    """Return the settings, but for recipe and archive, that go with the documents of a file alone."""
    roles = {key: key for key in look.values if key in ("omega", "omega_start", "omega_end", "dty")}
    (each,) = look.looks.values()
    recipe = {"sentinels": list(each.sentinels)} if each.sentinels else {}
    return {"roles": roles, "detectors": [{"name": each.name, "image": IMAGE}], "recipe": recipe}


def frame_cache_documents(path: Path) -> tuple[int, Documents]:
    """Return the number of frames of a file, as a HEXRD frame-cache, and the documents of a run that recorded it.

    The uid follows from the file's content, so that the same file is always the same run; events are dated by the file.

    Raises
    ------
    ReplayError
        The file is not a frame-cache, or its omega does not fit its frames.
    """
    scan = scan_of(path)
    return Finished(scan=scan)().n_frames, scan_documents(scan)


def scan_documents(scan: Scan, aside: Aside | None = None) -> Documents:
    """Give the documents of a scan whose files are finished.

    Parameters
    ----------
    scan
        Its files.
    aside
        Takes what is said beside the documents.

    Raises
    ------
    ReplayError
        A file is broken.
    """
    look = Finished(scan=scan)()
    uid = result_of(content_uid(look))
    return (each for each in followed_documents(scan, look, Finished(scan=scan), aside or Aside(), uid) if each)


def followed_documents(
    scan: Scan, look: ScanLook, follow: Follow, aside: Aside, uid: str | None = None
) -> Iterator[tuple[str, Mapping[str, Any]] | None]:
    """Give the documents of a scan, frame after frame as the files grow, and None when nothing new is there.

    Parameters
    ----------
    scan
        Its files.
    look
        What is there of them.
    follow
        Says what there is later.
    aside
        Takes what is said beside the documents.
    uid
        Of the run; absent, that of the file whatever it is going to hold.

    Raises
    ------
    ReplayError
        A file is broken.
    """
    composed = _Composed(scan, look, uid)
    yield from composed.begin()
    while True:
        yield from composed.frames(look)
        if look.finished:
            break
        while (later := follow(composed.n_told)) is None:
            yield None
        look = later
    for note in look.notes:
        aside.problem(note)
    yield "stop", composed.stop(look)


class _Composed:
    """The documents of one scan so far."""

    def __init__(self, scan: Scan, look: ScanLook, uid: str | None) -> None:
        self._scan = scan
        self.n_told = 0
        self._per_frame = {key: each for key, each in look.values.items() if each.per_frame}
        self._fixed = {key: each for key, each in look.values.items() if not each.per_frame}
        self._first = look
        self._when = scan.first.stat().st_mtime
        identity = scan.identity(look)
        files = [str(scan.paths[key].absolute()) for key in look.looks]
        formats = [each.format for each in look.looks.values()]
        metadata = {
            "plan_name": formats[0],
            "scan_id": 0,
            "title": scan.first.name,
            "detectors": list(look.looks),
            "foreign": {"files": files, "identity": identity, "followed": not look.finished},
        }
        self._run: Any = compose_run(uid=uid or identity, time=self._when, metadata=metadata)
        self._descriptor: Any = None
        self._resources: dict[str, Any] = {}

    def begin(self) -> Documents:
        """Give all that comes before the first frame."""
        yield "start", self._run.start_doc
        yield from self._darks()
        numbers = {
            key: {"source": each.source, "dtype": "number", "shape": [], "units": each.unit}
            for key, each in self._per_frame.items()
        }
        keys = numbers | {key: _image_key(each) for key, each in self._first.looks.items()}
        self._descriptor = self._run.compose_descriptor(
            name="primary", data_keys=keys, time=self._when, configuration=self._configuration()
        )
        yield "descriptor", self._descriptor.descriptor_doc

    def frames(self, look: ScanLook) -> Documents:
        """Give the frames that have come since."""
        end = look.n_ready
        time = look.time
        for first in range(self.n_told, end, _BLOCK):
            numbers = range(first, min(first + _BLOCK, end))
            for key, each in look.looks.items():
                yield from self._datums(key, each, numbers)
            for frame in numbers:
                data = {key: look.values[key].of(frame) if key in look.values else math.nan for key in self._per_frame}
                said = float(time[frame]) if time is not None and frame < len(time) else math.nan
                when = self._when if math.isnan(said) else said
                # When a value was read nobody knows, if the file does not say when its frames were taken.
                stamps = dict.fromkeys(data, said)
                # The first is as good as all others, and to look at each would take longer than to reduce some.
                yield (
                    "event",
                    self._descriptor.compose_event(
                        data=data, timestamps=stamps, time=when, seq_num=frame + 1, validate=frame == 0
                    ),
                )
        self.n_told = max(self.n_told, end)

    def stop(self, look: ScanLook) -> Mapping[str, Any]:
        """Return the end."""
        return self._run.compose_stop(time=max(self._when, self._scan.first.stat().st_mtime))

    def _darks(self) -> Documents:
        darks = {key: each.darks for key, each in self._first.looks.items() if each.darks is not None}
        if not any(len(piece.present) for piece in darks.values()):
            return
        keys = {key: _image_key(self._first.looks[key]) for key in darks}
        descriptor = self._run.compose_descriptor(name=self._scan.dark_stream, data_keys=keys, time=self._when)
        yield "descriptor", descriptor.descriptor_doc
        for key, piece in darks.items():
            resource = self._run.compose_stream_resource(**resource_of(piece, key, whole=False))
            yield "stream_resource", resource.stream_resource_doc
            if len(piece.present):
                indices = range(piece.present[0], piece.present[-1] + 1)
                yield "stream_datum", _datum(resource, descriptor, indices, 1)
        for number in range(max(len(piece.present) for piece in darks.values())):
            yield (
                "event",
                descriptor.compose_event(data={}, timestamps={}, time=self._when, seq_num=number + 1, validate=False),
            )

    def _configuration(self) -> dict[str, Any]:
        """Return what holds for the whole scan as the configuration of a device."""
        if not self._fixed:
            return {}
        data = {key: float(each.values) for key, each in self._fixed.items()}
        keys = {
            key: {"source": each.source, "dtype": "number", "shape": [], "units": each.unit}
            for key, each in self._fixed.items()
        }
        return {"file": {"data": data, "timestamps": dict.fromkeys(data, self._when), "data_keys": keys}}

    def _datums(self, key: str, look: Look, numbers: range) -> Documents:
        for piece in look.pieces:
            first, end = (bisect_left(piece.present, edge - piece.first) for edge in (numbers[0], numbers[-1] + 1))
            there = piece.present[first:end]
            if not there:
                continue
            name = f"{key} {piece.uri} {piece.parameters.get('dataset')}"
            if name not in self._resources:
                self._resources[name] = self._run.compose_stream_resource(**resource_of(piece, key, whole=False))
                yield "stream_resource", self._resources[name].stream_resource_doc
            for indices in _runs_of(there):
                yield (
                    "stream_datum",
                    _datum(self._resources[name], self._descriptor, indices, piece.first + indices[0] + 1),
                )


def _datum(resource: Any, descriptor: Any, indices: range, seq_first: int) -> Mapping[str, Any]:
    """Return a StreamDatum of indices, the first of which has the number seq_first."""
    return resource.compose_stream_datum(
        indices={"start": indices[0], "stop": indices[-1] + 1},
        seq_nums={"start": seq_first, "stop": seq_first + len(indices)},
        descriptor=descriptor.descriptor_doc,
        validate=False,
    )


def _image_key(look: Look) -> dict[str, Any]:
    return {
        "source": look.files[0].name,
        "dtype": "array",
        "shape": [1, *look.shape],
        "dtype_numpy": look.dtype.str,
        "external": "STREAM:",
    }


def _runs_of(numbers: Sequence[int]) -> list[range]:
    """Return rising numbers as ranges without a gap."""
    array = np.asarray(numbers)
    parts = np.split(array, np.flatnonzero(np.diff(array) != 1) + 1)
    return [range(int(part[0]), int(part[-1]) + 1) for part in parts]


def result_of(steps: Generator[Any, None, Result]) -> Result:
    """Return what a generator returns at its end, whatever it gives before."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
