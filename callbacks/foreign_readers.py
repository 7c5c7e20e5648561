"""Readers of frames in the files of other programs and detectors.

Layouts: the GE files of APS 1-ID (a header, then frames of plain counts); HEXRD's frame-cache in HDF5
(``imageseries.load.framecache``); ImageD11's sparse frames (``sparseframe.SparseScan``); HEXOMAP's reduced peaks
(``IntBin``); whatever fabio reads.
"""

import bz2
import gzip
import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..streaming import FrameError, SparseImage
from .hdf5 import NotYet, dataset, open_growing, subgroup

GE_RAW = "application/x-ge-raw"
FRAME_CACHE_HDF5 = "application/x-hexrd-framecache+hdf5"
IMAGED11_SPARSE = "application/x-imaged11-sparse+hdf5"
HEXOMAP_PEAKS = "multipart/related;type=application/x-hexomap-peaks"
FABIO_SERIES = "multipart/related;type=application/x-fabio"
FABIO_FRAMES = "application/x-fabio"

_WINDOW = 1 << 20
_BLOCK = struct.Struct("<I4HI2H")
_BLOCK_MARK = 0xFEEDBEEF
_BLOCK_NAMES = ("PeakFile", "PixelCoord0", "PixelCoord1", "Intensity", "PeakID")


def summed(shape: tuple[int, int], row: np.ndarray, col: np.ndarray, value: np.ndarray, dtype: np.dtype) -> SparseImage:
    """Return a sparse image in raster order; pixels that are listed twice are added."""
    place = row.astype(np.int64) * shape[1] + col
    if len(place) > 1 and not (np.diff(place) > 0).all():
        place, inverse = np.unique(place, return_inverse=True)
        total = np.zeros(len(place), np.int64 if dtype.kind in "ui" else np.float64)
        np.add.at(total, inverse, value)
        row, col, value = place // shape[1], place % shape[1], total
    return SparseImage(shape=shape, row=row, col=col, value=value.astype(dtype))


class RawFramesReader:
    """Frames of plain counts behind a header (GE); the file may still grow."""

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self._path = path
        rows, cols = (int(n) for n in parameters["shape"])
        self._shape, self._dtype = (rows, cols), np.dtype(str(parameters["dtype"]))
        self._header = int(parameters["header_bytes"])

    def read(self, index: int) -> np.ndarray:
        """Return one frame."""
        n_pixels = self._shape[0] * self._shape[1]
        size = n_pixels * self._dtype.itemsize
        try:
            with self._path.open("rb") as file:
                file.seek(self._header + index * size)
                content = file.read(size)
        except FileNotFoundError:
            raise NotYet(f"no file {self._path}") from None
        if len(content) < size:
            raise NotYet(f"{self._path} ends before frame {index}")
        return np.frombuffer(content, self._dtype).reshape(self._shape)

    def close(self) -> None:
        """Nothing stays open."""


class _HDF5Lists:
    """A file with lists of lit pixels, opened when the first frame is asked for."""

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        self._path = path
        self._group = str(parameters.get("dataset") or "/")
        self._file: h5py.File | None = None
        self._window = (0, 0)
        self._columns: list[np.ndarray] = []

    def _opened(self) -> h5py.Group:
        self._file = self._file or open_growing(self._path)
        return self._file if self._group == "/" else subgroup(self._file, self._group)

    def _listed(self, group: h5py.Group, names: Sequence[str], first: int, end: int) -> list[np.ndarray]:
        """Return rows first to end (exclusive) of columns, read a million at a time.

        Their chunks are larger than HDF5 keeps: to read a few rows anew means to decompress a whole one each time.
        """
        if not self._columns or not self._window[0] <= first <= end <= self._window[1]:
            self._window = (first, max(end, min(first + _WINDOW, len(dataset(group, names[0])))))
            self._columns = [dataset(group, name)[slice(*self._window)] for name in names]
        start = self._window[0]
        return [column[first - start : end - start] for column in self._columns]

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class FrameCacheHDF5Reader(_HDF5Lists):
    """Frames of a HEXRD frame-cache (.fch5): values in `data`, rows and columns in `indices`."""

    def read(self, index: int) -> SparseImage:
        """Return one frame."""
        group = self._opened()
        first, end = (int(place) for place in dataset(group, "frame_ids")[2 * index : 2 * index + 2])
        values, places = self._listed(group, ("data", "indices"), first, end)
        rows, cols = (int(n) for n in dataset(group, "shape")[()])
        return summed((rows, cols), places[:, 0], places[:, 1], values.reshape(-1), values.dtype)


class ImageD11Reader(_HDF5Lists):
    """Frames of a scan in ImageD11's sparse layout: `nnz` says how many of the listed pixels each frame has."""

    def __init__(self, path: Path, parameters: Mapping[str, Any]) -> None:
        super().__init__(path, parameters)
        self._ends: np.ndarray | None = None

    def read(self, index: int) -> SparseImage:
        """Return one frame."""
        group = self._opened()
        if self._ends is None:
            self._ends = np.cumsum(dataset(group, "nnz")[()], dtype=np.int64)
        end = int(self._ends[index])
        first = int(self._ends[index - 1]) if index else 0
        row, col, value = self._listed(group, ("row", "col", "intensity"), first, end)
        shape = int(group.attrs["shape0"]), int(group.attrs["shape1"])
        return summed(shape, row, col, value, value.dtype)


def read_hexomap(path: Path, shape: tuple[int, int]) -> SparseImage:
    """Return one frame of HEXOMAP's reduced peaks (.bin0, .bin1, ...); x counts from the last column.

    Raises
    ------
    FrameError
        It is no such file.
    """
    content = path.read_bytes()
    columns: dict[str, np.ndarray] = {}
    at = 4
    try:
        for name in _BLOCK_NAMES:
            mark, _, _, _, name_size, data_size, *_ = _BLOCK.unpack_from(content, at)
            said = content[at + _BLOCK.size : at + _BLOCK.size + name_size]
            if mark != _BLOCK_MARK or said != name.encode() + b"\0":
                raise ValueError(f"block {said[:20]!r} in the place of {name}")
            first = at + _BLOCK.size + name_size
            # The size of a block counts its name in; that of the first counts all the others in.
            end = first + 20 if name == "PeakFile" else at + _BLOCK.size + data_size
            dtype = {"PeakFile": "<u4", "Intensity": "<f4"}.get(name, "<u2")
            columns[name] = np.frombuffer(content[first:end], dtype)
            at = end
        row, x = columns["PixelCoord1"], columns["PixelCoord0"]
        if not len(row) == len(x) == len(columns["Intensity"]):
            raise ValueError(f"{len(x)} columns, {len(row)} rows and {len(columns['Intensity'])} intensities")
        if len(row) and (x.max() >= shape[1] or row.max() >= shape[0]):
            raise ValueError(f"pixel {row.max()}, {x.max()} lies outside the shape {shape} that the profile says")
    except (struct.error, ValueError) as error:
        raise FrameError(f"{path}: no peaks as HEXOMAP writes them ({error})") from None
    col = shape[1] - 1 - x.astype(np.int64)
    return summed(shape, row.astype(np.int64), col, columns["Intensity"], np.dtype("<f4"))


def open_fabio(path: Path) -> Any:
    """Return an image file as fabio reads it.

    Raises
    ------
    FrameError
        fabio is not installed, or cannot read the file.
    """
    try:
        import fabio
    except ImportError:
        raise FrameError(f"{path}: needs the package fabio; install hedmlive[fabio]") from None
    try:
        return fabio.open(str(path))
    except Exception as error:
        # A damaged file makes its reader raise anything.
        raise FrameError(f"{path}: cannot be read ({type(error).__name__}: {' '.join(str(error).split())})") from None


def load_fabio(path: Path) -> np.ndarray:
    """Return the only image of a CBF or EDF file, which may be compressed as .gz or .bz2."""
    with open_fabio(path) as image:
        return _native(np.asarray(image.data))


def load_tiff(path: Path) -> np.ndarray:
    """Return the image of a TIFF file, which may be compressed as .gz or .bz2.

    Raises
    ------
    FrameError
        tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError:
        raise FrameError(f"{path}: TIFF needs the package tifffile; install it") from None
    opener = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix)
    if opener is None:
        return tifffile.imread(path)
    with opener(path) as file:
        return tifffile.imread(io.BytesIO(file.read()))


class FabioFramesReader:
    """Frames of one file that holds several, as EDF does."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, index: int) -> np.ndarray:
        """Return one frame."""
        with open_fabio(self._path) as image:
            if index >= image.nframes:
                raise NotYet(f"{self._path} holds {image.nframes}")
            return _native(np.asarray(image.get_frame(index).data))

    def close(self) -> None:
        """Nothing stays open."""


def _native(image: np.ndarray) -> np.ndarray:
    return image.astype(image.dtype.newbyteorder("="), copy=False)
