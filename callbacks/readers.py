"""Readers of single frames from the files that documents name."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

import h5py
import numpy as np

from ..streaming import CompressedImage, FrameError, SparseImage
from .chunks import CompressedFrames, PlainFrames, is_compressed, is_plain
from .foreign_readers import (
    FABIO_FRAMES,
    FABIO_SERIES,
    FRAME_CACHE_HDF5,
    GE_RAW,
    HEXOMAP_PEAKS,
    IMAGED11_SPARSE,
    FabioFramesReader,
    FrameCacheHDF5Reader,
    ImageD11Reader,
    RawFramesReader,
    load_fabio,
    load_tiff,
    read_hexomap,
    summed,
)
from .hdf5 import NotYet, dataset, open_growing, refresh, subgroup
from .served_frames import SERVED

SPARSE = "application/x-hedm-sparse+hdf5"
FRAME_CACHE = "application/x-hexrd-framecache"
COPIED = (FRAME_CACHE, FRAME_CACHE_HDF5, IMAGED11_SPARSE, HEXOMAP_PEAKS)
"""Files that hold nothing but lit pixels: so small that a raw archive takes their frames in."""

Image = np.ndarray | SparseImage | CompressedImage


class FileLags(FrameError):
    """A file did not hold in time what a document announced."""


class Reader(Protocol):
    """Reads frames of one StreamResource."""

    def read(self, index: int) -> Image | tuple[CompressedImage, ...]:
        """Return the images of one event, shape (k, rows, columns) or (rows, columns); or each of them compressed.

        Raises
        ------
        NotYet
            The file does not hold them yet.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class HDF5Reader:
    """Frames of one HDF5 dataset, which may still grow (SWMR)."""

    def __init__(self, path: Path, parameters: Mapping[str, Any], per_event: int) -> None:
        self.path = path
        self.dataset = str(parameters.get("dataset") or parameters.get("path") or "/entry/data/data")
        self._per_event = per_event
        self._file: h5py.File | None = None
        self._last: tuple[int, np.ndarray | tuple[CompressedImage, ...]] | None = None
        self._way: Literal["compressed", "plain", "library"] | None = None

    def read(self, index: int) -> Image | tuple[CompressedImage, ...]:
        """Return images index*k to (index+1)*k."""
        # The k images of an event are asked for one after the other.
        if self._last is None or self._last[0] != index:
            self._last = (index, self._read(index))
        return self._last[1]

    def file(self) -> h5py.File:
        """Return the file, opened if it is not.

        Raises
        ------
        NotYet
            It is not there, or not readable yet.
        """
        self._file = self._file or open_growing(self.path)
        return self._file

    def close(self) -> None:
        """Close the file."""
        self._last = self._way = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, index: int) -> np.ndarray | tuple[CompressedImage, ...]:
        file = self.file()
        if self.dataset not in file:
            self.close()
            raise NotYet(f"no dataset {self.dataset} in {self.path}")
        data = dataset(file, self.dataset)
        # A dataset of one image an event keeps its leading axis; four axes are (event, k, rows, columns).
        rows = 1 if data.ndim == 4 else self._per_event
        if data.ndim < 3:
            raise ValueError(f"{self.path} {self.dataset} has shape {data.shape}; wanted (images, rows, columns)")
        if len(data) < (index + 1) * rows and not refresh(data):
            self.close()
            file = self._file = open_growing(self.path)
            data = dataset(file, self.dataset)
        n_images = len(data)
        if n_images < (index + 1) * rows:
            raise NotYet(f"{self.path} {self.dataset} holds {n_images}")
        if self._way is None:
            self._way = "compressed" if is_compressed(data) else "plain" if is_plain(data) else "library"
        # With this very dataset, which knows how far the file has grown.
        four = data.ndim == 4
        places = [(index, k) if four else (index * rows + k,) for k in range(data.shape[1] if four else rows)]
        if self._way == "compressed":
            frames = CompressedFrames(data)
            images = [image for place in places if (image := frames.read(*place)) is not None]
            if len(images) == len(places):
                return tuple(images)
        elif self._way == "plain" and (there := PlainFrames(data).read(places)) is not None:
            return there
        return data[index] if four else data[index * rows : (index + 1) * rows]


class SparseReader:
    """Frames of a sparse group of a raw archive."""

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self._path = path
        self._group = str(parameters["dataset"])
        self._file: h5py.File | None = None

    def read(self, index: int) -> Image:
        """Return one frame."""
        file = self._file = self._file or open_growing(self._path)
        group = subgroup(file, self._group)
        starts = dataset(group, "frame_start")
        if len(starts) < index + 2:
            refresh(starts)
        if len(starts) < index + 2:
            raise NotYet(f"{self._path} holds {len(starts) - 1}")
        first, end = (int(place) for place in starts[index : index + 2])
        columns = {name: dataset(group, name) for name in ("row", "col", "value")}
        for data in columns.values():
            if len(data) < end:
                refresh(data)
        rows, cols = (int(n) for n in group.attrs["shape"])
        return SparseImage(shape=(rows, cols), **{name: data[first:end] for name, data in columns.items()})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class FrameCacheReader:
    """Frames of a HEXRD frame-cache (.npz)."""

    def __init__(self, path: Path) -> None:
        # Nothing in a file is ever unpickled.
        self._file = np.load(path, allow_pickle=False)
        rows, cols = (int(n) for n in self._file["shape"])
        self._shape = (rows, cols)
        self._dtype = np.dtype(text(self._file["dtype"]))

    def read(self, index: int) -> Image:
        """Return one frame; pixels that are listed twice are added, as HEXRD's sparse matrices do."""
        row, col, value = (self._file[f"{index}_{name}"] for name in ("row", "col", "data"))
        return summed(self._shape, row, col, value, self._dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FileSeriesReader:
    """Frames of one file an image (TIFF, npy), named by a template and counted from `first`."""

    def __init__(self, base: str, parameters: Mapping[str, Any], load: Callable[[Path], Image]) -> None:
        from bluesky_tiled_plugins.utils import compile_template

        template = str(parameters.get("template", ""))
        self._base = base
        self._template = compile_template(template, str(parameters.get("filename", ""))) if template else ""
        self._first = int(parameters.get("first", 0))
        self._load = load

    def read(self, index: int) -> Image:
        """Return the image of one file."""
        number = self._first + index
        path = file_path(self._base + self._template.format(number) if self._template else self._base)
        if not path.exists():
            raise NotYet(f"no file {path}")
        return self._load(path)

    def close(self) -> None:
        """Nothing stays open."""


_OF_FILES: dict[str, Callable[[Path, Mapping[str, Any]], Reader]] = {
    GE_RAW: RawFramesReader,
    FRAME_CACHE_HDF5: FrameCacheHDF5Reader,
    IMAGED11_SPARSE: ImageD11Reader,
    FABIO_FRAMES: lambda path, parameters: FabioFramesReader(path),
}


def file_path(uri: str) -> Path:
    """Return the path of a `file:` URI or of a bare path.

    Raises
    ------
    FrameError
        It is another kind of URI.
    """
    if "://" not in uri and not uri.startswith("file:"):
        return Path(uri)
    parts = urlsplit(uri)
    if parts.scheme != "file":
        raise FrameError(f"frames lie at {uri}; wanted a file: URI that this machine can read")
    return Path(unquote(parts.path))


def file_uri(path: Path) -> str:
    """Return the `file:` URI of a path, as documents write it."""
    return path.absolute().as_uri().replace("file:///", "file://localhost/", 1)


def make_reader(resource: Mapping[str, Any], per_event: int) -> Reader:
    """Return the reader of a StreamResource document.

    Raises
    ------
    FrameError
        Its mimetype is not known.
    """
    mimetype, parameters = str(resource["mimetype"]), resource.get("parameters", {})
    uri = str(resource["uri"])
    if mimetype == "application/x-hdf5":
        return HDF5Reader(file_path(uri), parameters, per_event)
    if mimetype == SPARSE:
        return SparseReader(file_path(uri), parameters)
    if mimetype == FRAME_CACHE:
        return FrameCacheReader(file_path(uri))
    if mimetype == "multipart/related;type=image/tiff":
        return FileSeriesReader(uri, parameters, load_tiff)
    if mimetype == "multipart/related;type=application/x-npy":
        with_template = {"template": "%s_%d.npy"} | dict(parameters)
        return FileSeriesReader(uri.rstrip("/") + "/", with_template, lambda path: np.load(path, allow_pickle=False))
    if mimetype == FABIO_SERIES:
        return FileSeriesReader(uri, parameters, load_fabio)
    if mimetype == HEXOMAP_PEAKS:
        rows, cols = (int(n) for n in parameters["shape"])
        return FileSeriesReader(uri, parameters, lambda path: read_hexomap(path, (rows, cols)))
    if mimetype == SERVED:
        if "frames" not in parameters:
            raise FrameError(str(parameters["why"]))
        return parameters["frames"]
    if mimetype in _OF_FILES:
        return _OF_FILES[mimetype](file_path(uri), parameters)
    raise FrameError(f"frames have the mimetype {mimetype}; wanted HDF5, TIFF, npy, a frame-cache or another known one")


def read_waiting(
    reader: Reader,
    index: int,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Image | tuple[CompressedImage, ...]:
    """Read a frame that a document announced, waiting for a file that lags behind.

    Raises
    ------
    FileLags
        The frame was not there in time.
    FrameError
        The file cannot be read.
    """
    deadline = clock() + seconds
    while True:
        try:
            return reader.read(index)
        except NotYet as error:
            if clock() >= deadline:
                raise FileLags(f"image {index} is not in its file after {seconds:g} s: {error}") from None
            sleep(0.02)
        except FrameError:
            raise
        except (OSError, KeyError, ValueError, TypeError, IndexError, ImportError) as error:
            raise FrameError(f"image {index} cannot be read: {' '.join(str(error).split())}") from None


def text(value: Any) -> str:
    """Return a string that numpy kept as bytes or text."""
    item = value.item() if isinstance(value, np.ndarray) else value
    return item.decode() if isinstance(item, bytes) else str(item)
