"""Images taken from HDF5 files past the library: the same as it reads, or left to it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from unit.callbacks.test_chunks import WRITER_OF_PLAIN, growing

from hedmlive.callbacks.chunks import PlainFrames, is_plain
from hedmlive.callbacks.hdf5 import open_growing
from hedmlive.callbacks.readers import HDF5Reader

TYPES = ["uint8", "uint16", "uint32", "int32", "float32", "float64", ">u2", ">f4"]


def frames(shape: tuple[int, ...] = (3, 20, 30), dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def written(folder: Path, images: np.ndarray, **given: Any) -> Path:
    with h5py.File(folder / "frames.h5", "w", userblock_size=given.pop("userblock_size", 0)) as file:
        file.create_dataset("data", data=images, **given)
    return folder / "frames.h5"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("chunks", [None, (1, 20, 30)], ids=["in one piece", "in chunks"])
def test_images_are_what_h5py_reads(tmp_path: Path, dtype: str, chunks: tuple[int, ...] | None) -> None:
    images = frames(dtype=dtype)
    with h5py.File(written(tmp_path, images, chunks=chunks)) as file:
        assert is_plain(file["data"])
        found = PlainFrames(file["data"]).read([(2,), (0,)])
        assert found is not None
        assert found.dtype == images.dtype
        assert np.array_equal(found, images[[2, 0]])


@pytest.mark.parametrize("chunks", [None, (1, 1, 4, 5)])
def test_images_have_a_place_along_each_leading_axis(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    images = frames((2, 3, 4, 5))
    with h5py.File(written(tmp_path, images, chunks=chunks)) as file:
        found = PlainFrames(file["data"]).read([(1, 2), (0, 1)])
    assert found is not None
    assert np.array_equal(found, [images[1, 2], images[0, 1]])


@pytest.mark.parametrize(
    "given",
    [
        {"chunks": (3, 20, 30)},
        {"chunks": (1, 10, 30)},
        {"chunks": (1, 20, 30), "compression": "gzip"},
        {"chunks": (1, 20, 30), "shuffle": True},
        {"chunks": (1, 20, 30), "fletcher32": True},
        {"dtype": "bool"},
        {"userblock_size": 512},
    ],
    ids=str,
)
def test_what_lies_otherwise_is_left_to_the_library(tmp_path: Path, given: dict[str, Any]) -> None:
    with h5py.File(written(tmp_path, frames(), **given)) as file:
        assert not is_plain(file["data"])


def compact(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(file.id, b"data", h5py.h5t.STD_U16LE, h5py.h5s.create_simple((2, 3, 4)), properties)


def twelve_bits(file: h5py.File) -> None:
    kind = h5py.h5t.STD_U16LE.copy()
    kind.set_precision(12)
    h5py.h5d.create(file.id, b"data", kind, h5py.h5s.create_simple((2, 3, 4)))


def virtual(file: h5py.File) -> None:
    source = file.create_dataset("source", data=frames())
    layout = h5py.VirtualLayout(source.shape, source.dtype)
    layout[:] = h5py.VirtualSource(source)
    file.create_virtual_dataset("data", layout)


def outside(file: h5py.File) -> None:
    file.create_dataset("data", (2, 3, 4), "uint16", external=[("frames.raw", 0, 48)])


def flat(file: h5py.File) -> None:
    file.create_dataset("data", data=frames((20, 30)))


@pytest.mark.parametrize("make", [compact, twelve_bits, virtual, outside, flat])
def test_another_kind_of_dataset_is_left_to_the_library(tmp_path: Path, make: Callable[[h5py.File], None]) -> None:
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        make(file)
        assert not is_plain(file["data"])


def test_what_was_never_written_or_lies_outside_is_left_to_the_library(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "frames.h5", "w") as file:
        file.create_dataset("chunked", (3, 4, 5), "uint16", chunks=(1, 4, 5), fillvalue=7)[1] = 1
        file.create_dataset("whole", (3, 4, 5), "uint16", fillvalue=7)
    with h5py.File(tmp_path / "frames.h5") as file:
        reader = PlainFrames(file["chunked"])
        assert reader.read([(1,)]) is not None
        assert [reader.read([place]) for place in ((0,), (2,), (3,), (-1,))] == [None] * 4
        assert PlainFrames(file["whole"]).read([(0,)]) is None
    reader = HDF5Reader(tmp_path / "frames.h5", {"dataset": "chunked"}, 1)
    assert [int(np.asarray(reader.read(index)).max()) for index in range(3)] == [7, 1, 7]
    reader.close()


def test_a_file_that_is_cut_short_is_left_to_the_library(tmp_path: Path) -> None:
    path = written(tmp_path, frames((40, 100, 100)))
    with h5py.File(path) as file:
        with path.open("r+b") as cut:
            cut.truncate(path.stat().st_size // 2)
        assert PlainFrames(file["data"]).read([(39,)]) is None


def test_what_this_process_writes_itself_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, images = tmp_path / "frames.h5", frames()
    with h5py.File(path, "w", libver="latest") as file:
        data = file.create_dataset("data", (0, 20, 30), "uint16", maxshape=(None, 20, 30), chunks=(1, 20, 30))
        file.swmr_mode = True
        reader = HDF5Reader(path, {"dataset": "data"}, 1)
        for index, image in enumerate(images):
            data.resize(index + 1, axis=0)
            data[index] = image  # and no flush
            assert np.array_equal(np.asarray(reader.read(index))[0], image)
        reader.close()


def test_what_another_process_writes_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    with growing(path, WRITER_OF_PLAIN) as write:
        write()
        with open_growing(path) as file:
            data = file["data"]
            assert is_plain(data)
            reader = PlainFrames(data)
            for index in range(1, 5):
                write()
                assert reader.read([(index,)]) is None
                data.refresh()
                found = reader.read([(index,), (0,)])
                wanted = [np.random.default_rng(i).integers(0, 200, (37, 111)) for i in (index, 0)]
                assert np.array_equal(np.asarray(found), wanted)
