"""The images in a raw archive: those that came inside events, and those copied from a foreign file."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import h5py
import numpy as np
from event_model import unpack_event_page

from ..streaming import FrameError, SparseImage
from .encoding import ArchivedImage, StoredImage
from .hdf5 import BITSHUFFLE, NotYet, dataset, nexus_group, subgroup, write_rows
from .pending import Described, cast_exactly, describe
from .readers import COPIED, Reader, make_reader
from .settings import Settings


class ImageStore:
    """Takes the images out of documents and stores them apart.

    Parameters
    ----------
    file
        The archive, not in SWMR mode yet.
    settings
        Streams and detectors.
    read
        Reads a stored image.
    """

    def __init__(self, file: h5py.File, settings: Settings, read: Callable[[StoredImage], np.ndarray]) -> None:
        self._file = file
        self._settings = settings
        self._read = read
        self._names = {detector.image: detector.name for detector in settings.detectors}
        self._streams: dict[str, str] = {}
        self._inside: dict[str, dict[str, Described]] = {}
        self._resources: dict[str, tuple[Reader, str]] = {}
        self._data: dict[tuple[str, str], h5py.Dataset] = {}
        self._sparse: dict[str, h5py.Group] = {}
        self.laid_out = False

    @property
    def copied(self) -> dict[str, str]:
        """Data key to name of the detectors whose frames were copied from a frame-cache."""
        return {key: self._names[key] for key in self._sparse}

    def push(self, name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store the images of a document and return it with `ArchivedImage` in their place."""
        if name == "descriptor":
            self._descriptor(doc)
        elif name == "stream_resource" and doc.get("mimetype") in COPIED:
            self._begin_copy(doc)
        elif name == "stream_datum":
            self.laid_out = True
            if doc.get("stream_resource") in self._resources:
                self._copy(doc)
        elif name in ("event", "event_page") and doc.get("descriptor") in self._streams:
            return self._event(name, doc)
        return doc

    def _descriptor(self, doc: Mapping[str, Any]) -> None:
        stream = str(doc.get("name", ""))
        if stream not in (self._settings.stream, self._settings.dark_stream):
            return
        self._streams[doc["uid"]] = stream
        inside = self._inside.setdefault(stream, {})
        for key in self._names.keys() & doc["data_keys"].keys():
            if "external" not in doc["data_keys"][key]:
                try:
                    inside[key] = describe(doc["data_keys"][key])
                except FrameError:
                    inside[key] = Described()

    def _event(self, name: str, doc: Mapping[str, Any]) -> Mapping[str, Any]:
        stream = self._streams[doc["descriptor"]]
        keys = [key for key in self._inside.get(stream, {}) if key in doc["data"]]
        if not self.laid_out:
            events = [doc] if name == "event" else list(unpack_event_page(doc))  # pyright: ignore[reportArgumentType]
            self._lay_out(stream, events[0]["data"] if events else {})
        if not keys:
            return doc
        dataset_name = "dark" if stream == self._settings.dark_stream else "data"
        data = dict(doc["data"])
        for key in keys:
            if name == "event":
                data[key] = self._store(key, dataset_name, data[key])
            else:
                data[key] = [self._store(key, dataset_name, image) for image in data[key]]
        return dict(doc) | {"data": data}

    def _lay_out(self, stream: str, first: Mapping[str, Any]) -> None:
        """Make the datasets of images that come in events; from the first flush on nothing can be added."""
        self.laid_out = True
        for key, described in self._inside.get(stream, {}).items():
            image = _as_image(first.get(key))
            shape = described.shape or (image.shape[-2:] if image is not None else ())
            dtype = described.dtype if described.dtype is not None else image.dtype if image is not None else None
            if not shape or dtype is None:
                continue
            group = nexus_group(subgroup(self._file, "entry/instrument"), self._names[key], "NXdetector")
            group.attrs["data_key"] = key
            # Darks come before the frames, and look like them.
            for name in ("data", "dark") if stream == self._settings.dark_stream else ("data",):
                self._data[key, name] = group.create_dataset(
                    name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape), **BITSHUFFLE
                )
                self._data[key, name].attrs["units"] = "counts"

    def _store(self, key: str, name: str, image: Any) -> Any:
        """Store an image and return what stands for it; one that does not fit stays in the document."""
        if isinstance(image, np.ndarray) and image.dtype.hasobject:
            # The reducer refuses it and names the frame, here and in a replay.
            return "(lost: array of Python objects)"
        array = _as_image(image)
        data = self._data.get((key, name))
        if array is None or data is None or array.shape[-2:] != data.shape[1:]:
            return image
        try:
            array = cast_exactly(array, data.dtype)
        except FrameError:
            return image
        index = len(data)
        images = array.reshape(-1, *array.shape[-2:])
        write_rows(data, index, images)
        archived = [
            ArchivedImage(
                stored=StoredImage(detector=self._names[key], dataset=name, index=index + i, stack=array.ndim == 3),
                read=self._read,
            )
            for i in range(len(images))
        ]
        return archived if array.ndim == 3 else archived[0]

    def close(self) -> None:
        """Close the files that are copied from."""
        for reader, _ in self._resources.values():
            reader.close()

    def _begin_copy(self, doc: Mapping[str, Any]) -> None:
        key = str(doc["data_key"])
        if key not in self._names or key in self._sparse or self.laid_out:
            return
        try:
            reader = make_reader(doc, 1)
            first = reader.read(0)
        except (FrameError, NotYet, OSError, KeyError, ValueError, TypeError):
            # The reference stays as it is; whoever reduces its frames says what is wrong with it.
            return
        if not isinstance(first, SparseImage):
            reader.close()
            return
        detector = nexus_group(subgroup(self._file, "entry/instrument"), self._names[key], "NXdetector")
        detector.attrs["data_key"] = key
        group = nexus_group(detector, "sparse", "NXcollection")
        group.attrs["shape"], group.attrs["dtype"] = first.shape, first.dtype.str
        group.attrs["meaning"] = "lit pixels: row, col and value of image i are frame_start[i] to frame_start[i + 1]"
        group.create_dataset("frame_start", data=np.zeros(1, np.int64), maxshape=(None,), chunks=(1 << 10,))
        for name, dtype in (("row", np.uint16), ("col", np.uint16), ("value", first.dtype)):
            # Not compressed: a compressed chunk that grows is written anew, and under SWMR its old place is lost.
            made = group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(1 << 14,))
            made.attrs["units"] = "counts" if name == "value" else "pixel"
        self._sparse[key] = group
        self._resources[doc["uid"]] = (reader, key)

    def _copy(self, doc: Mapping[str, Any]) -> None:
        reader, key = self._resources[doc["stream_resource"]]
        group = self._sparse[key]
        starts = dataset(group, "frame_start")
        images: list[SparseImage] = []
        # In the order of the file, whatever the order of the documents, so that an index means the same in both.
        for index in range(len(starts) - 1, int(doc["indices"]["stop"])):
            try:
                images.append(cast(SparseImage, reader.read(index)))
            except KeyError:
                break
            except NotYet:
                # A number that is missing in a series of files: no document speaks of it.
                images.append(_nothing(group))
        if images:
            first = len(dataset(group, "row"))
            for name in ("row", "col", "value"):
                write_rows(dataset(group, name), first, np.concatenate([getattr(image, name) for image in images]))
            write_rows(starts, len(starts), first + np.cumsum([len(image.row) for image in images]))


def _nothing(group: h5py.Group) -> SparseImage:
    rows, cols = (int(n) for n in group.attrs["shape"])
    columns = {name: np.zeros(0, dataset(group, name).dtype) for name in ("row", "col", "value")}
    return SparseImage(shape=(rows, cols), **columns)


def _as_image(image: Any) -> np.ndarray | None:
    """Return an array of rows and columns, or a stack of them; None for what is neither."""
    try:
        array = np.asarray(image)
    except (ValueError, OverflowError, TypeError):
        return None
    return array if array.ndim in (2, 3) and array.size and array.dtype.kind in "uif" else None
