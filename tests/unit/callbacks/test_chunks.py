"""Images taken from HDF5 files without decompressing them."""

import subprocess
import sys
from contextlib import contextmanager

import h5py
import hdf5plugin
import numpy as np
import pytest

from hedmlive.callbacks.chunks import CompressedFrames, is_compressed
from hedmlive.callbacks.hdf5 import BITSHUFFLE, open_growing


@pytest.fixture
def file(tmp_path):
    with h5py.File(tmp_path / "frames.h5", "w", libver="latest") as file:
        yield file


def frames(shape=(3, 20, 30), dtype="uint16"):
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


def written(file, images, name="data", **given):
    chunks = (1,) * (images.ndim - 2) + images.shape[-2:]
    return file.create_dataset(name, data=images, **{"chunks": chunks} | BITSHUFFLE | given)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64", ">u2", ">i4"])
@pytest.mark.parametrize("shape", [(2, 20, 30), (2, 1, 1), (2, 37, 111), (1, 100, 100)])
@pytest.mark.parametrize("block", [0, 64, 1000])
def test_an_image_is_what_h5py_reads(file, dtype, shape, block):
    data = written(file, frames(shape, dtype), **hdf5plugin.Bitshuffle(nelems=block, cname="lz4"))
    assert is_compressed(data)
    for index in range(len(data)):
        image = CompressedFrames(data).read(index)
        assert image is not None
        assert (image.shape, image.dtype) == (data.shape[1:], data.dtype)
        assert np.array_equal(image.dense(), data[index])


def test_images_have_a_place_along_each_leading_axis(file):
    images = frames((2, 3, 4, 5))
    data = written(file, images)
    image = CompressedFrames(data).read(1, 2)
    assert image is not None
    assert np.array_equal(image.dense(), images[1, 2])


@pytest.mark.parametrize(
    "given",
    [
        {"chunks": None, "compression": None, "compression_opts": None},
        {"chunks": (2, 20, 30)},
        {"chunks": (1, 10, 30)},
        {"chunks": (1, 20, 31), "maxshape": (None, 20, 31)},
        {"shuffle": True},
        {"fletcher32": True},
        {"dtype": "bool"},
        {"compression": "gzip", "compression_opts": 4},
        {"compression": 32008, "compression_opts": None},
        dict(hdf5plugin.Bitshuffle(cname="none")),
        dict(hdf5plugin.Bitshuffle(cname="zstd")),
        dict(hdf5plugin.LZ4()),
    ],
    ids=str,
)
def test_a_dataset_of_another_kind_is_read_the_plain_way(file, given):
    assert not is_compressed(written(file, frames(), **given))


def test_a_single_image_is_read_the_plain_way(file):
    assert not is_compressed(written(file, frames((20, 30))))


def test_a_virtual_dataset_is_read_the_plain_way(file):
    source = written(file, frames())
    layout = h5py.VirtualLayout(source.shape, source.dtype)
    layout[:] = h5py.VirtualSource(source)
    assert not is_compressed(file.create_virtual_dataset("virtual", layout))


def test_a_type_that_numpy_does_not_know_is_read_the_plain_way(file):
    twelve_bits = h5py.h5t.STD_U16LE.copy()
    twelve_bits.set_precision(12)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 20, 30))
    properties.set_filter(32008, h5py.h5z.FLAG_MANDATORY, (0, 2))
    h5py.h5d.create(file.id, b"data", twelve_bits, h5py.h5s.create_simple((3, 20, 30)), properties)
    assert not is_compressed(file["data"])


def test_an_image_that_was_not_written_or_not_filtered_is_read_the_plain_way(file):
    images = frames()
    data = file.create_dataset("data", (4, 20, 30), "uint16", chunks=(1, 20, 30), **BITSHUFFLE)
    data[0] = images[0]
    data.id.write_direct_chunk((1, 0, 0), images[1].tobytes(), filter_mask=1)
    reader = CompressedFrames(data)
    assert reader.read(0) is not None
    assert [reader.read(index) for index in (1, 2, 3, 4, -1)] == [None] * 5
    assert np.array_equal(data[1], images[1])


WRITER = """
import sys
import h5py, hdf5plugin, numpy as np
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    given = dict(hdf5plugin.Bitshuffle(cname="lz4"), chunks=(1, 37, 111), maxshape=(None, 37, 111))
    data = file.create_dataset("data", (0, 37, 111), "uint16", **given)
    file.swmr_mode = True
    for index, _ in enumerate(sys.stdin):
        data.resize(index + 1, axis=0)
        data[index] = np.random.default_rng(index).integers(0, 200, (37, 111))
        data.flush()
        print(index, flush=True)
"""
WRITER_OF_PLAIN = WRITER.replace('hdf5plugin.Bitshuffle(cname="lz4"), ', "")


@contextmanager
def growing(path, script=WRITER):
    """Run another process that writes a file; give what makes it write one more image."""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        order, done = writer.stdin, writer.stdout

        def write():
            order.write("\n")
            assert done.readline()

        yield write
        order.close()
        assert writer.wait() == 0


def test_a_file_that_another_process_writes_gives_its_images_as_they_come(tmp_path):
    path = tmp_path / "frames.h5"
    with growing(path) as write:
        write()
        with open_growing(path) as file:
            data = file["data"]
            assert file.swmr_mode
            assert is_compressed(data)
            reader = CompressedFrames(data)
            for index in range(1, 5):
                write()
                assert reader.read(index) is None
                data.refresh()
                image = reader.read(index)
                assert image is not None
                wanted = np.random.default_rng(index).integers(0, 200, (37, 111))
                assert np.array_equal(image.dense(), wanted)
