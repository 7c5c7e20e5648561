"""Runs of a Tiled catalogue as documents, over HTTP: tables and images come in bulk, images when they are needed.

Nothing is opened that the server names: the documents lead to the server for every image. They are made from the run's
nodes, and not by the server's exporter, which would write the images of events as text.
"""

import heapq
import json
import re
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from ..streaming import FrameError, ReplayError
from .pending import describe
from .served_frames import BLOCK_BYTES, SERVED, ServedFrames, ServedImage

Document = tuple[str, dict[str, Any]]

SCHEMES = ("tiled", "tiled+http", "tiled+https")
_RAW, _REDUCED = "raw", "reduced"
_WANTED = "wanted tiled://HOST:PORT/UID, tiled+https://HOST/PATH/TO/RUN or tiled://PROFILE/UID"
_API = re.compile(r"(?P<prefix>.*?)/api/v1(?:/metadata)?(?P<path>/.*|)")
_INTERNAL = "internal"
_STAMP = "ts_"
_LEAST_IMAGE = 3
"Axes of an array of images."


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledRun:
    """A run that a Tiled server holds."""

    run: Any
    "Client of the run."
    settings: Mapping[str, Any] | None
    "Settings of a reduction of it, as plain values; None if it has none."
    from_files: bool
    "Whether images are to be read from the files that the server names, which lie on this machine."


def open_tiled(where: str, api_key: str | None) -> TiledRun:
    """Find a run.

    Parameters
    ----------
    where
        ``tiled://HOST:PORT/UID``, or the whole path of a run or of a reduction of it, whose settings are then taken;
        ``tiled+https://`` where the server speaks TLS; the name of a Tiled profile in the place of HOST:PORT.
        ``?frames=files`` reads images from the detector's own files, where these lie on this machine.
    api_key
        The key; None leaves it to Tiled: the profile, or the environment variable ``TILED_API_KEY``.

    Raises
    ------
    ReplayError
        There is no such run, or it must not be read.
    """
    parts = urlsplit(where)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    asked = parse_qs(parts.query)
    if "@" in parts.netloc or any("key" in name for name in asked):
        raise ReplayError(f"{shown}: a key stands in the address; give it as HEDMLIVE_TILED_KEY, or in a Tiled profile")
    frames = asked.pop("frames", ["served"])[-1]
    if asked or frames not in ("served", "files") or parts.scheme not in SCHEMES or not parts.netloc:
        raise ReplayError(f"{shown}: {parts.query!r} came after it; {_WANTED}, with ?frames=files or nothing behind")
    client = None
    try:
        client, path = _connected(parts, api_key)
        node = _found(client, [unquote(each) for each in path.split("/") if each])
        settings = _settings(client, node)
        node = client[_RAW, str(node.metadata["raw_run_uid"])] if "raw_run_uid" in node.metadata else node
        if "start" not in node.metadata:
            raise KeyError(f"{'/'.join(node.path_parts)} is no run")
    except Exception as error:
        if client is not None:
            client.context.close()
        # Tiled goes on with how its own client is called.
        why = " ".join(f"{type(error).__name__}: {error}".split()).partition(" Set an api_key")[0][:300]
        raise ReplayError(
            f"{shown}: cannot be read ({why}); {_WANTED}, and a valid key by --key-file or HEDMLIVE_TILED_KEY"
        ) from None
    # Closed with the last image that waits to be fetched.
    weakref.finalize(client.context, client.context.http_client.close)
    return TiledRun(run=node, settings=settings, from_files=frames == "files")


def tiled_documents(run: Any, *, block_bytes: int = BLOCK_BYTES) -> Iterator[Document]:
    """Give the documents of a run, those of a frame before its event, each event in its turn.

    Parameters
    ----------
    run
        Tiled's client of it, of version 3: as bluesky-tiled-plugins writes it.
    block_bytes
        Bytes of a request for images at most; the streams share it.

    Raises
    ------
    ReplayError
        It is no such run, or the server went away for good.
    """
    start = dict(run.metadata["start"])
    uid = str(start.get("uid"))
    yield "start", start
    streams = [_Stream(node, name, uid) for name, node in _streams(run)]
    n_images = sum(map(len, (stream.images for stream in streams)))
    served = [frames for stream in streams for frames in stream.served(block_bytes // max(1, n_images))]
    for stream in streams:
        for descriptor in stream.descriptors:
            yield "descriptor", descriptor
    for stream in streams:
        yield from stream.resources()
    # By their times, as they came: the first of two streams that tell a position counts.
    for _, name, doc in heapq.merge(*(stream.events() for stream in streams), key=lambda item: item[0]):
        yield name, doc
        if lost := next((each.lost for each in served if each.lost), ""):
            raise ReplayError(f"run {uid[:8]}: {lost}")
    if stop := run.metadata.get("stop"):
        yield "stop", dict(stop)


class _Stream:
    """One stream of a run: its descriptors, its events, and where the images of its keys are."""

    def __init__(self, node: Any, name: str, uid: str) -> None:
        from bluesky_tiled_plugins.exporters import build_descriptor_docs

        self._parts: dict[str, Any] = dict(_bare(node).items())
        self.name, self._uid = name, uid
        self.descriptors = build_descriptor_docs(dict(node.metadata), stream_name=name, run_start_uid=uid)
        self._keys: Mapping[str, Any] = self.descriptors[0]["data_keys"]
        self.images = [key for key in self._keys if self._is_image(key)]
        self._frames: dict[str, ServedFrames] = {}
        self._why: dict[str, str] = {}

    def served(self, block_bytes: int) -> list[ServedFrames]:
        """Return what fetches the images of each key."""
        for key in self.images:
            try:
                per_event = describe(self._keys[key]).per_event
                self._frames[key] = ServedFrames(self._parts[key], per_event, block_bytes=block_bytes)
            except KeyError:
                self._why[key] = "Tiled serves no frames of it; replay the raw archive"
            except FrameError as error:
                self._why[key] = str(error)
        return list(self._frames.values())

    def resources(self) -> Iterator[Document]:
        """Give a StreamResource for each key whose images lie outside the events, which leads to the server."""
        for key in self._outside():
            about = {"frames": self._frames[key]} if key in self._frames else {"why": self._why[key]}
            yield (
                "stream_resource",
                {
                    "uid": self._resource(key),
                    "data_key": key,
                    "run_start": self._uid,
                    "mimetype": SERVED,
                    "uri": f"tiled:{self.name}/{key}",
                    "parameters": about,
                },
            )

    def events(self) -> Iterator[tuple[float, str, dict[str, Any]]]:
        """Give each event, the StreamDatum of its images before it, with its time."""
        rows, arrays = self._rows(), self._arrays()
        numbers = [int(row["seq_num"]) for row in rows]
        if len(set(numbers)) < len(numbers) and self._outside():
            raise ReplayError(
                f"run {self._uid[:8]}: events of stream {self.name} came twice, and Tiled does not say which image is "
                "whose; replay the raw archive"
            )
        n_outside = max((self._frames[key].n_events for key in self._outside() if key in self._frames), default=0)
        if not rows and arrays:
            numbers = list(range(1, 1 + min(map(len, arrays.values()))))
            rows = [{"seq_num": number, "time": 0.0} for number in numbers]
        for place, row in enumerate(rows):
            for name, doc in self._datums(numbers[place]):
                yield float(row["time"]), name, doc
            yield float(row["time"]), "event", self._event(row, {key: each[place] for key, each in arrays.items()})
        # Images without events: of a detector that tells no motors, or that went on after the last event.
        last = float(rows[-1]["time"]) if rows else float(self.descriptors[-1]["time"])
        for number in range(max(numbers, default=0) + 1, 1 + n_outside):
            for name, doc in self._datums(number):
                yield last, name, doc

    def _is_image(self, key: str) -> bool:
        if key in self._parts:
            return self._parts[key].structure_family == "array" and len(self._parts[key].shape) >= _LEAST_IMAGE
        return "external" in self._keys[key] and len(describe(self._keys[key]).shape) == _LEAST_IMAGE - 1

    def _outside(self) -> list[str]:
        return [key for key in self.images if "external" in self._keys[key]]

    def _rows(self) -> list[dict[str, Any]]:
        if _INTERNAL not in self._parts:
            return []
        from dask.config import set as dask_with

        # Else lists would come as text.
        with dask_with({"dataframe.convert-string": False}):
            return self._parts[_INTERNAL].read().to_dict("records")

    def _arrays(self) -> dict[str, Any]:
        """Return what lies beside the table because it is an array: images to be fetched, and small ones whole."""
        inside = {
            key: part
            for key, part in self._parts.items()
            if key != _INTERNAL and part.structure_family == "array" and "external" not in self._keys.get(key, {})
        }
        return {
            key: _Images(self._frames[key]) if key in self._frames else _plain(part.read())
            for key, part in inside.items()
        }

    def _event(self, row: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
        number, came = int(row["seq_num"]), float(row["time"])
        data = {key: value for key, value in row.items() if key not in ("seq_num", "time") and not _is_stamp(key)}
        # The table has the time stamp of an array too.
        stamps = {key: row.get(f"{_STAMP}{key}", came) for key in (*data, *arrays)}
        described = [each for each in self.descriptors if each["time"] <= came] or self.descriptors[:1]
        return {
            "uid": f"event-{described[-1]['uid']}-{number}",
            "descriptor": described[-1]["uid"],
            "seq_num": number,
            "time": came,
            "data": {key: _item(value) for key, value in data.items()} | dict(arrays),
            "timestamps": stamps,
        }

    def _datums(self, number: int) -> Iterator[Document]:
        for key in self._outside():
            if key in self._frames and number > self._frames[key].n_events:
                continue
            yield (
                "stream_datum",
                {
                    "uid": f"{self._resource(key)}/{number}",
                    "stream_resource": self._resource(key),
                    "descriptor": self.descriptors[0]["uid"],
                    "indices": {"start": number - 1, "stop": number},
                    "seq_nums": {"start": number, "stop": number + 1},
                },
            )

    def _resource(self, key: str) -> str:
        return f"{self.descriptors[0]['uid']}-{key}"


class _Images:
    """The images of the events of a stream, one after the other."""

    def __init__(self, frames: ServedFrames) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return self._frames.n_events

    def __getitem__(self, place: int) -> ServedImage:
        return ServedImage(self._frames, place)


def _bare(node: Any) -> Any:
    """Return a node as a plain container: clients of runs and streams show other things than what lies below."""
    from tiled.client.container import Container

    return Container(node.context, item=node.item, structure_clients=node.structure_clients)


def _streams(run: Any) -> list[tuple[str, Any]]:
    found = dict(_bare(run).items())
    # As runs were laid out formerly.
    below = found.get("streams")
    if below is not None and not any(spec.name == "BlueskyEventStream" for spec in below.specs):
        found = dict(_bare(below).items())
    return list(found.items())


def _is_stamp(column: str) -> bool:
    return column.startswith(_STAMP)


def _plain(array: np.ndarray) -> Any:
    return array if array.ndim > 1 and array.dtype.kind in "buif" else array.tolist()


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _connected(parts: Any, api_key: str | None) -> tuple[Any, str]:
    """Return the root of the catalogue, or what a profile says instead, and the path from there."""
    # Imported when needed: Tiled's client is slow to import.
    from tiled.client import from_profile
    from tiled.client.constructors import from_context
    from tiled.client.context import Context
    from tiled.profiles import list_profiles

    key = {} if api_key is None else {"api_key": api_key}
    if ":" not in parts.netloc and parts.netloc in list_profiles():
        return from_profile(parts.netloc, **key), parts.path
    scheme = parts.scheme.partition("+")[2] or "http"
    said = _API.fullmatch(parts.path)
    prefix, path = (said["prefix"], said["path"]) if said else ("", parts.path)
    context, _ = Context.from_any_uri(f"{scheme}://{parts.netloc}{prefix}/api/v1", **key)
    try:
        return from_context(context), path
    except BaseException:
        # Where a key is refused, `from_uri` leaves the connection open.
        context.close()
        raise


def _found(client: Any, path: list[str]) -> Any:
    if not path:
        raise KeyError("no run is named")
    if len(path) == 1:
        # A uid alone lies where bluesky-tiled-plugins and `hedmlive serve` put runs, unless a profile leads there. What
        # is no uid is a ValueError there.
        with suppress(KeyError, ValueError):
            return client[_RAW][path[0]]
    node = client
    for each in path:
        node = node[each]
    return node


def _settings(client: Any, node: Any) -> Mapping[str, Any] | None:
    """Return the settings of a reduction: of the one that was named, or else of the run's first."""
    try:
        if "settings" in node.metadata:
            said = node.metadata["settings"]
        else:
            uid = node.metadata.get("raw_run_uid") or node.metadata["start"]["uid"]
            said = client[_REDUCED][str(uid)].values().first().metadata["settings"]
        return json.loads(said) if isinstance(said, str) else said
    except (KeyError, IndexError, TypeError, ValueError):
        return None
