"""The raw archive: one HDF5 file a run that can be replayed alone, and is readable up to the last flush after kill -9.

While it grows the file is in SWMR mode, which allows no new group and no text of variable length: documents are kept
as bytes of JSON lines with an index of their ends. What NeXus wants besides is written when the run is over.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from event_model import unpack_event_page

from ..streaming import ArchiveError, SettingsError, SparseImage
from .encoding import StoredImage, decode, encode
from .raw_layout import RunSummary, write_summary
from .readers import FRAME_CACHE, SPARSE, make_reader, open_growing
from .settings import DetectorSettings, Settings, load_settings

FORMAT = "hedmlive-raw-1"
_FLUSH_BYTES = 1 << 20


class RawArchive:
    """Writes the raw archive of one run.

    Parameters
    ----------
    path
        The file; it must not exist.
    settings
        Streams, roles and detectors; kept in the file.
    start
        The start document.
    clock
        Gives seconds, to flush in time.

    Raises
    ------
    ArchiveError
        The file exists, or cannot be written.
    """

    def __init__(
        self, path: Path, settings: Settings, start: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._settings = settings
        self._clock = clock
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._n_flushed = 0
        self._n_bytes = 0
        self._flushed_at = clock()
        self._streams: dict[str, str] = {}
        self._detector_keys = {detector.image: detector for detector in settings.detectors}
        self._external: set[str] = set()
        self._copied: dict[str, tuple[Any, str]] = {}
        self._data: dict[tuple[str, str], h5py.Dataset] = {}
        self._sparse: dict[str, h5py.Group] = {}
        self._laid_out = False
        self._finished: h5py.File | None = None
        self._file: h5py.File | None = self._create(start)

    def __len__(self) -> int:
        """Return how many documents there are."""
        return self._n_flushed + len(self._lines)

    def append(self, name: str, doc: Mapping[str, Any]) -> None:
        """Append one document; images in events are stored apart.

        Raises
        ------
        ArchiveError
            It cannot be written.
        """
        with self._lock:
            try:
                self._lines.append(encode(name, self._without_images(name, doc)))
                if self._due():
                    self.flush()
            except (OSError, ValueError, RuntimeError) as error:
                if isinstance(error, ArchiveError):
                    raise
                raise ArchiveError(f"{self.path}: cannot be written: {' '.join(str(error).split())}") from error

    def flush(self) -> None:
        """Write what waits in memory so that a reader, or a restart after a crash, sees it."""
        with self._lock:
            self._flushed_at = self._clock()
            if not self._lines or self._file is None:
                return
            documents = self._file["entry/documents"]
            sizes = np.array([len(line) for line in self._lines], np.int64)
            _extend(documents["bytes"], np.frombuffer(b"".join(self._lines), np.uint8))
            # The end goes last: a reader that sees it finds the bytes there.
            _extend(documents["end"], self._n_bytes + np.cumsum(sizes))
            self._n_bytes += int(sizes.sum())
            self._n_flushed += len(self._lines)
            self._lines.clear()
            if not self._file.swmr_mode:
                self._file.swmr_mode = True
            self._file.flush()

    def flush_if_due(self) -> None:
        """Flush if documents have waited for `ArchiveSettings.flush_seconds`."""
        with self._lock:
            if self._lines and self._due():
                self.flush()

    @property
    def n_flushed(self) -> int:
        """Documents that other processes can read."""
        return self._n_flushed

    @property
    def copied(self) -> dict[str, str]:
        """Data key to name of the detectors whose frames were copied from a frame-cache."""
        return {key: self._detector_keys[key].name for key in self._sparse}

    def document(self, index: int) -> tuple[str, Any]:
        """Return one document as it was archived, with `StoredImage` in the place of images."""
        with self._lock:
            if index >= self._n_flushed:
                return decode(self._lines[index - self._n_flushed])
            return decode(_line(self._readable(), index))

    def image(self, stored: StoredImage) -> np.ndarray:
        """Return an image that came in an event."""
        with self._lock:
            return self._readable()[_place(stored)][stored.index]

    def finish(self, summary: RunSummary) -> None:
        """Write the rest, as NeXus wants it, and close the file."""
        with self._lock:
            if self._file is None:
                return
            self.flush()
            self._file.close()
            self._file = None
            with h5py.File(self.path, "r+", libver="latest") as file:
                write_summary(file, self._settings, summary)
                file["entry"].attrs["finished"] = True

    def release(self) -> None:
        """Close what `document` and `image` opened after the end."""
        with self._lock:
            if self._finished is not None:
                self._finished.close()
                self._finished = None

    def _readable(self) -> h5py.File:
        """Return the file that is written, or when that is over the finished one."""
        if self._file is not None:
            return self._file
        if self._finished is None:
            self._finished = h5py.File(self.path, "r", libver="latest", locking=False)
        return self._finished

    def _create(self, start: Mapping[str, Any]) -> h5py.File:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = h5py.File(self.path, "x", libver="latest")
        except OSError as error:
            what = "exists already" if self.path.exists() else f"cannot be made: {error}"
            raise ArchiveError(f"{self.path}: {what}; choose another folder or stem") from None
        file.attrs["default"] = "entry"
        entry = _group(file, "entry", "NXentry")
        entry.attrs["format"] = FORMAT
        entry.attrs["hedmlive_version"] = version("hedmlive")
        entry.attrs["run_uid"] = str(start["uid"])
        entry.attrs["settings"] = self._settings.to_json()
        entry.attrs["finished"] = False
        documents = _group(entry, "documents", "NXcollection")
        documents.create_dataset("bytes", (0,), np.uint8, maxshape=(None,), chunks=(1 << 16,))
        documents.create_dataset("end", (0,), np.int64, maxshape=(None,), chunks=(1 << 10,))
        _group(entry, "instrument", "NXinstrument")
        return file

    def _open_file(self) -> h5py.File:
        if self._file is None:
            raise ArchiveError(f"{self.path}: closed already")
        return self._file

    def _due(self) -> bool:
        if not self._laid_out:
            return False
        waiting = sum(len(line) for line in self._lines[-64:])
        return self._clock() - self._flushed_at >= self._settings.archive.flush_seconds or waiting > _FLUSH_BYTES

    # Images

    def _without_images(self, name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        if name == "descriptor":
            self._streams[doc["uid"]] = str(doc.get("name", ""))
            self._external |= {key for key, value in doc["data_keys"].items() if "external" in value}
        elif name == "stream_resource" and doc.get("mimetype") == FRAME_CACHE:
            self._open_copied(doc)
        elif name == "stream_datum":
            self._laid_out = True
            if doc["stream_resource"] in self._copied:
                self._copy(doc)
        elif name in ("event", "event_page") and doc["descriptor"] in self._streams:
            return self._event_without_images(name, doc)
        return doc

    def _event_without_images(self, name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        stream = self._streams[doc["descriptor"]]
        if stream not in (self._settings.stream, self._settings.dark_stream):
            return doc
        inside = [key for key in doc["data"] if key in self._detector_keys and key not in self._external]
        if not self._laid_out:
            events = [doc] if name == "event" else list(unpack_event_page(doc))  # pyright: ignore[reportArgumentType]
            self._lay_out({key: events[0]["data"][key] for key in inside}, stream)
        dataset = "dark" if stream == self._settings.dark_stream else "data"
        data = dict(doc["data"])
        for key in inside:
            if name == "event":
                data[key] = self._store(key, dataset, data[key])
            else:
                data[key] = [self._store(key, dataset, image) for image in data[key]]
        return dict(doc) | {"data": data}

    def _lay_out(self, images: Mapping[str, Any], stream: str) -> None:
        """Make the datasets of images that come in events; from the first flush on nothing can be added."""
        self._laid_out = True
        for key, image in images.items():
            array = _as_image(image)
            if array is None:
                continue
            group = self._detector_group(self._detector_keys[key])
            rows, columns = array.shape[-2:]
            # Darks come before the frames, and look like them.
            for name in ("data", "dark") if stream == self._settings.dark_stream else ("data",):
                self._data[key, name] = group.create_dataset(
                    name,
                    (0, rows, columns),
                    array.dtype,
                    maxshape=(None, rows, columns),
                    chunks=(1, rows, columns),
                    **hdf5plugin.Bitshuffle(cname="lz4"),
                )
                group[name].attrs["units"] = "counts"

    def _detector_group(self, detector: DetectorSettings) -> h5py.Group:
        group = _group(self._open_file()["entry/instrument"], detector.name, "NXdetector")
        group.attrs["data_key"] = detector.image
        return group

    def _store(self, key: str, dataset: str, image: Any) -> Any:
        """Store an image and return what stands for it; one that does not fit stays in the document."""
        array = _as_image(image)
        data = self._data.get((key, dataset))
        if array is None or data is None or array.shape[-2:] != data.shape[1:] or array.dtype != data.dtype:
            return image
        index = len(data)
        stack = array.reshape(-1, *array.shape[-2:])
        _extend(data, stack)
        name = self._detector_keys[key].name
        stored = [
            StoredImage(detector=name, dataset=dataset, index=index + i, stack=array.ndim == 3)
            for i in range(len(stack))
        ]
        return stored if array.ndim == 3 else stored[0]

    def _open_copied(self, doc: Mapping[str, Any]) -> None:
        detector = self._detector_keys.get(str(doc["data_key"]))
        if detector is None:
            return
        reader = make_reader(doc, 1)
        first = reader.read(0)
        if not isinstance(first, SparseImage) or self._laid_out:
            raise ArchiveError(f"{self.path}: frames of {doc['uri']} come too late to be copied; reduce the file anew")
        group = _group(self._detector_group(detector), "sparse", "NXcollection")
        group.attrs["shape"], group.attrs["dtype"] = first.shape, first.dtype.str
        group.create_dataset("frame_start", data=np.zeros(1, np.int64), maxshape=(None,), chunks=(1 << 10,))
        for name, dtype in (("row", np.uint16), ("col", np.uint16), ("value", first.dtype)):
            # Not compressed: a compressed chunk that grows is written anew, and under SWMR its old place is lost.
            group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1 << 14,))
        self._sparse[detector.image] = group
        self._copied[doc["uid"]] = (reader, detector.image)

    def _copy(self, doc: Mapping[str, Any]) -> None:
        reader, key = self._copied[doc["stream_resource"]]
        group = self._sparse[key]
        for index in range(int(doc["indices"]["start"]), int(doc["indices"]["stop"])):
            if index != len(group["frame_start"]) - 1:
                raise ArchiveError(f"{self.path}: frame {index} of {key} came out of order; wanted them as in the file")
            image = reader.read(index)
            for name in ("row", "col", "value"):
                _extend(group[name], getattr(image, name))
            _extend(group["frame_start"], np.array([len(group["row"])]))


class RawArchiveReader:
    """Reads a raw archive: finished, still growing, or left behind by a killed process.

    Raises
    ------
    ArchiveError
        The file is not a raw archive, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise ArchiveError(f"{path}: no such file; wanted a raw archive")
        try:
            self._file = open_growing(path)
            entry = self._file["entry"].attrs
            if entry.get("format") != FORMAT:
                raise KeyError("format")
            self.run_uid = str(entry["run_uid"])
            self._settings = str(entry["settings"])
            self.finished = bool(entry["finished"])
        except Exception as error:
            raise ArchiveError(f"{path}: not a raw archive that can be read ({' '.join(str(error).split())})") from None

    def __enter__(self) -> "RawArchiveReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return how many documents there are."""
        return len(self._file["entry/documents/end"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def n_points(self) -> int | None:
        """Return the number of scan points of a finished archive."""
        frame = self._file.get("entry/scan/frame")
        return None if frame is None else len(frame)

    def settings(self) -> Settings:
        """Return the settings with which the run was archived.

        Raises
        ------
        SettingsError
            They are of another version.
        """
        try:
            return load_settings(json.loads(self._settings))
        except SettingsError as error:
            raise SettingsError(f"{self.path}: settings inside: {error}") from None

    def documents(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give the documents as they came, with images as arrays; references to files that were copied lead here."""
        for index in range(len(self)):
            name, doc = decode(_line(self._file, index), self._image)
            yield name, self._to_copy(doc) if name == "stream_resource" else doc

    def _image(self, stored: StoredImage) -> np.ndarray:
        return self._file[_place(stored)][stored.index]

    def _to_copy(self, doc: dict[str, Any]) -> dict[str, Any]:
        for name, detector in self._file["entry/instrument"].items():
            if detector.attrs.get("data_key") == doc["data_key"] and "sparse" in detector:
                return copied_resource(doc, self.path, name)
        return doc


def copied_resource(doc: Mapping[str, Any], path: Path, detector: str) -> dict[str, Any]:
    """Return a StreamResource of a frame-cache as one of the copy in the raw archive."""
    place = {"dataset": f"/entry/instrument/{detector}/sparse", "chunk_shape": [1]}
    return dict(doc) | {"mimetype": SPARSE, "uri": _uri(path), "parameters": place}


class ExternalDocuments:
    """Turns archived documents into such that refer to the raw archive for every image that lies in it.

    Parameters
    ----------
    path
        The raw archive.
    copied
        Data key to name of the detectors whose frames were copied from a frame-cache.
    """

    def __init__(self, path: Path, copied: Mapping[str, str]) -> None:
        self._path = path
        self._copied = copied
        self._descriptors: dict[str, dict[str, Any]] = {}
        self._resources: set[str] = set()

    def push(self, name: str, doc: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Give what one document becomes; a descriptor waits for the first event of its stream."""
        if name == "descriptor":
            self._descriptors[doc["uid"]] = doc
        elif name in ("event", "event_page"):
            for event in [doc] if name == "event" else unpack_event_page(doc):  # pyright: ignore[reportArgumentType]
                yield from self._event(dict(event))
        else:
            if name != "start":
                yield from self._waiting()
            if name == "stream_resource" and doc["data_key"] in self._copied:
                doc = copied_resource(doc, self._path, self._copied[doc["data_key"]])
            yield name, doc

    def _waiting(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for uid in list(self._descriptors):
            yield "descriptor", self._descriptors.pop(uid)

    def _event(self, doc: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        inside = {key: value for key, value in doc["data"].items() if isinstance(_first(value), StoredImage)}
        descriptor = self._descriptors.get(doc["descriptor"])
        if descriptor is not None:
            keys = {
                key: _external_key(value) if key in inside else value for key, value in descriptor["data_keys"].items()
            }
            self._descriptors[doc["descriptor"]] = descriptor | {"data_keys": keys}
        yield from self._waiting()
        for key, value in inside.items():
            yield from self._reference(doc, key, value)
        rest = {part: {k: v for k, v in doc[part].items() if k not in inside} for part in ("data", "timestamps")}
        yield "event", doc | rest

    def _reference(self, doc: dict[str, Any], key: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        stored: StoredImage = _first(value)
        per_event = len(value) if isinstance(value, list) else 1
        uid = f"{doc['descriptor']}-{key}"
        if uid not in self._resources:
            self._resources.add(uid)
            yield (
                "stream_resource",
                {
                    "uid": uid,
                    "data_key": key,
                    "mimetype": "application/x-hdf5",
                    "uri": _uri(self._path),
                    "parameters": {"dataset": f"/{_place(stored)}", "chunk_shape": [1]},
                },
            )
        index, seq_num = stored.index // per_event, int(doc["seq_num"])
        yield (
            "stream_datum",
            {
                "uid": f"{uid}/{index}",
                "stream_resource": uid,
                "descriptor": doc["descriptor"],
                "indices": {"start": index, "stop": index + 1},
                "seq_nums": {"start": seq_num, "stop": seq_num + 1},
            },
        )


def _external_key(key: Mapping[str, Any]) -> dict[str, Any]:
    shape = [int(n) for n in key.get("shape", [])]
    return dict(key) | {"external": "STREAM:", "shape": shape if len(shape) == 3 else [1, *shape]}


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _place(stored: StoredImage) -> str:
    return f"entry/instrument/{stored.detector}/{stored.dataset}"


def _uri(path: Path) -> str:
    return path.absolute().as_uri().replace("file:///", "file://localhost/", 1)


def _as_image(image: Any) -> np.ndarray | None:
    """Return an array of rows and columns, or a stack of them; None for what is neither."""
    try:
        array = np.asarray(image)
    except ValueError:
        return None
    return array if array.ndim in (2, 3) and array.size and array.dtype.kind in "uif" else None


def _group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    group = parent.require_group(name)
    group.attrs["NX_class"] = nx_class
    return group


def _extend(data: h5py.Dataset, values: np.ndarray | Sequence[Any]) -> None:
    first = data.shape[0]
    data.resize(first + len(values), axis=0)
    data[first:] = values


def _line(file: h5py.File, index: int) -> bytes:
    ends = file["entry/documents/end"]
    first = int(ends[index - 1]) if index else 0
    return file["entry/documents/bytes"][first : int(ends[index])].tobytes()
