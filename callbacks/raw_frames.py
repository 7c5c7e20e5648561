"""The frames that detectors wrote to files of their own, as the raw archive shows them: linked, joined, or copied.

Whatever the way, row i of ``data`` is the i-th frame of the scan that came and row i of ``dark`` the i-th dark frame,
in the order of their numbers: settling frames of another stream, darks in the same file and files of other lengths are
sorted out by what the documents say.
"""

import json
import math
import os
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from ..streaming import ArchiveError, CompressedImage, HedmLiveError
from .encoding import ArchivedImage
from .hdf5 import BITSHUFFLE, NotYet, check_room, dataset, nexus_group, open_growing, subgroup
from .pending import InFile, Pending
from .readers import HDF5Reader, Reader

PIXEL_AXES = ("row", "col")


@dataclass(slots=True)
class _Places:
    """Where the frames of one detector lie, in the order of their numbers."""

    readers: list[Reader] = field(default_factory=list[Reader])
    reader: "array[int]" = field(default_factory=lambda: array("q"))
    index: "array[int]" = field(default_factory=lambda: array("q"))
    part: "array[int]" = field(default_factory=lambda: array("q"))
    frame: "array[int]" = field(default_factory=lambda: array("q"))
    per_event: int = 1


class FramePlaces:
    """Remembers where each frame of a run lies."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Places] = {}
        self._inside: dict[tuple[str, str], dict[int, int]] = {}

    def add(self, detector: str, pending: Pending) -> None:
        """Note one frame, or dark frame."""
        key = (detector, "dark" if pending.is_dark else "data")
        if isinstance(pending.source, InFile):
            places = self._places.setdefault(key, _Places(per_event=pending.described.per_event))
            if pending.source.reader not in places.readers:
                places.readers.append(pending.source.reader)
            places.reader.append(places.readers.index(pending.source.reader))
            places.index.append(pending.source.index)
            places.part.append(pending.source.part)
            places.frame.append(pending.frame)
            return
        held = pending.source.image if pending.source.archived is None else pending.source.archived
        image = held[pending.source.part or 0] if isinstance(held, list) and held else held
        if isinstance(image, ArchivedImage):
            self._inside.setdefault(key, {})[image.stored.index] = pending.frame

    def write(self, file: h5py.File, archive: Path, how: str, resources: Mapping[int, str]) -> list[str]:
        """Write links, virtual datasets or copies into an archive; return what could not be.

        Parameters
        ----------
        file, archive
            The archive, and where it will lie.
        how
            `link`, `virtual` or `copy`.
        resources
            id() of a reader to the uid of its resource document.
        """
        problems: list[str] = []
        for (detector, name), numbers in self._inside.items():
            group = nexus_group(subgroup(file, "entry/instrument"), detector, "NXdetector")
            if name in group:
                rows = np.full(len(dataset(group, name)), -1, np.int64)
                rows[list(numbers)] = list(numbers.values())
                _number(group, name, rows)
        for (detector, name), places in self._places.items():
            group = nexus_group(subgroup(file, "entry/instrument"), detector, "NXdetector")
            if "sparse" in group:
                continue
            try:
                _write(group, name, places, archive, how, resources)
            except (HedmLiveError, NotYet, OSError, KeyError, ValueError, TypeError) as error:
                files = _hdf5(places)
                if files and not any(map(_is_there, files)):
                    # No file holds what was announced: its frames have said so, and hedmlive doctor does.
                    continue
                why = " ".join(str(error).split())
                problems.append(
                    f"{name} of {detector} cannot be shown in the raw archive: {why}; the documents lead to it"
                )
        return problems


def _write(
    group: h5py.Group, name: str, places: _Places, archive: Path, how: str, resources: Mapping[int, str]
) -> None:
    order = np.argsort(np.asarray(places.frame), kind="stable")
    columns = (places.reader, places.index, places.part, places.frame)
    reader, index, part, frame = (np.asarray(each)[order] for each in columns)
    _number(group, name, frame)
    if how == "copy":
        _copy(group, name, places, (reader, index, part), archive, resources)
        return
    if not all(isinstance(each, HDF5Reader) for each in places.readers):
        kind = next(type(each).__name__ for each in places.readers if not isinstance(each, HDF5Reader))
        raise ArchiveError(f"its files are no HDF5 ({kind}), which nothing can link to; say hedm: {{frames: copy}}")
    files = [_File.of(each, archive.absolute().parent) for each in _hdf5(places)]
    rows = index * places.per_event + part
    # Frames that were announced and never came to their file: the reduction has named them.
    here = (index if len(files[0].shape) == 4 else rows) < np.array([each.shape[0] for each in files])[reader]
    if not here.any():
        return
    reader, index, part, frame, rows = (each[here] for each in (reader, index, part, frame, rows))
    _number(group, name, frame)
    if how == "link" and len(files) == 1 and files[0].is_just(rows):
        _replace(group, name, h5py.ExternalLink(files[0].relative, files[0].dataset))
        return
    if len({(each.shape[1:], each.dtype) for each in files}) > 1:
        raise ArchiveError("its files hold images of several shapes or types")
    layout = h5py.VirtualLayout((len(rows), *files[0].shape[-2:]), files[0].dtype)
    four = len(files[0].shape) == 4
    beside = (np.diff(index) == 0) & (np.diff(part) == 1) if four else np.diff(rows) == 1
    breaks = np.flatnonzero(~(beside & (np.diff(reader) == 0))) + 1
    for first, end in pairwise([0, *breaks.tolist(), len(rows)]):
        file = files[reader[first]]
        source = h5py.VirtualSource(file.relative, file.dataset, shape=file.shape, dtype=file.dtype)
        if four:
            layout[first:end] = source[index[first], part[first] : part[first] + end - first]
        else:
            layout[first:end] = source[rows[first] : rows[first] + end - first]
    if name in group:
        del group[name]
    group.create_virtual_dataset(name, layout).attrs["units"] = "counts"


def _is_there(reader: HDF5Reader) -> bool:
    try:
        with open_growing(reader.path) as file:
            return reader.dataset in file
    except (NotYet, OSError):
        return False


def _hdf5(places: _Places) -> list[HDF5Reader]:
    return [each for each in places.readers if isinstance(each, HDF5Reader)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A dataset in a file of the detector."""

    relative: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, reader: HDF5Reader, folder: Path) -> "_File":
        with open_growing(reader.path) as file:
            data = dataset(file, reader.dataset)
            if data.ndim not in (3, 4):
                raise ArchiveError(f"{reader.path} {reader.dataset} has shape {data.shape}; wanted images")
            return cls(
                relative=relative_path(reader.path, folder), dataset=reader.dataset, shape=data.shape, dtype=data.dtype
            )

    def is_just(self, rows: np.ndarray) -> bool:
        """Tell whether it holds these rows in this order, and nothing else."""
        return len(self.shape) == 3 and self.shape[0] == len(rows) and bool((rows == np.arange(len(rows))).all())


def _copy(
    group: h5py.Group,
    name: str,
    places: _Places,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    archive: Path,
    resources: Mapping[int, str],
) -> None:
    """Copy frames one after the other, and note which resource's images lie where, for a replay from here alone."""
    numbers, indices, parts = rows
    for row, (number, index, part) in enumerate(zip(numbers, indices, parts, strict=True)):
        image = places.readers[number].read(int(index))
        if isinstance(image, tuple) or (isinstance(image, np.ndarray) and image.ndim > 2):
            image = image[part]
        if row == 0:
            check_room(archive, image.dtype.itemsize * math.prod(image.shape) * len(numbers) // 4)
            _make_stack(group, name, (len(numbers), *image.shape), image.dtype)
        if isinstance(image, CompressedImage):
            # As it lies in its file: the filter is the same.
            dataset(group, name).id.write_direct_chunk((row, 0, 0), image.chunk)
        else:
            dataset(group, name)[row] = image if isinstance(image, np.ndarray) else image.dense()
    _note_copied(group, name, places, rows, resources)


def _make_stack(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if name in group:
        del group[name]
    made = group.create_dataset(name, shape, dtype, chunks=(1, *shape[1:]), **BITSHUFFLE)
    made.attrs["units"] = "counts"


def _note_copied(
    group: h5py.Group,
    name: str,
    places: _Places,
    rows: tuple[np.ndarray, np.ndarray, np.ndarray],
    resources: Mapping[int, str],
) -> None:
    """Say for each resource where its images are; where they are not row by row, show them as its file had them."""
    data = dataset(group, name)
    copied: dict[str, str] = json.loads(str(group.attrs.get("copied", "{}")))
    for number, reader in enumerate(places.readers):
        mine = np.flatnonzero(rows[0] == number)
        at = rows[1][mine] * places.per_event + rows[2][mine]
        target = data
        if not (len(mine) == len(data) and (at == np.arange(len(data))).all()):
            layout = h5py.VirtualLayout((int(at.max()) + 1, *data.shape[1:]), data.dtype)
            source = h5py.VirtualSource(".", str(data.name), shape=data.shape, dtype=data.dtype)
            for row, place in zip(mine, at, strict=True):
                layout[int(place)] = source[int(row)]
            as_written = nexus_group(group, "as_written", "NXcollection")
            target = as_written.create_virtual_dataset(f"{name}_{number:04d}", layout)
        copied[resources.get(id(reader), "")] = str(target.name)
    group.attrs["copied"] = json.dumps(copied)


def source_of(group: h5py.Group, folder: Path) -> h5py.VirtualSource | None:
    """Return the images of a detector as a part of a virtual dataset; None if there are none to be had."""
    link = group.get("data", getlink=True)
    if not isinstance(link, h5py.ExternalLink):
        return None if link is None else h5py.VirtualSource(".", f"{group.name}/data", *_form(dataset(group, "data")))
    try:
        # Not through the link: the detector, or a reader of ours, may have its file open.
        with open_growing(folder / str(link.filename)) as file:
            return h5py.VirtualSource(str(link.filename), str(link.path), *_form(dataset(file, str(link.path))))
    except (NotYet, KeyError):
        return None


def write_pixel_axes(plot: h5py.Group, shape: tuple[int, ...]) -> tuple[str, str]:
    """Write the axes of images into a group that shows them, and return their names."""
    for name, size in zip(PIXEL_AXES, shape[-2:], strict=True):
        plot[name] = np.arange(size)
        plot[name].attrs.update(units="pixel", meaning="centre of the pixel, from 0, as in the tables of peaks")
    return PIXEL_AXES


def _form(data: h5py.Dataset) -> tuple[tuple[int, ...], np.dtype]:
    return data.shape, data.dtype


def relative_path(path: Path, folder: Path) -> str:
    """Return a path that still leads there when both are moved together; far away, the absolute one."""
    path = path.absolute()
    near = path.is_relative_to(folder) or path.is_relative_to(folder.parent)
    return os.path.relpath(path, folder) if near else str(path)


def _number(group: h5py.Group, name: str, numbers: np.ndarray) -> None:
    """Say which frame each row of a stack of images is."""
    place = "frame" if name == "data" else f"{name}_frame"
    _replace(group, place, numbers)
    where = "as in /entry/scan/frame; -1: none" if name == "data" else "in the order of acquisition; -1: none"
    group[place].attrs["meaning"] = f"number of the frame that each row of {name} is, {where}"


def _replace(group: h5py.Group, name: str, value: np.ndarray | h5py.ExternalLink) -> None:
    if group.get(name, getlink=True) is not None:
        del group[name]
    group[name] = value
