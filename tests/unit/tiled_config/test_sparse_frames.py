"""Sparse frames as a dense array: against numpy, while they grow, and from documents."""

from collections import namedtuple

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiled.adapters.utils import DataNotReadyError, IncompatibleShapeError
from tiled.ndslice import NDBlock, NDSlice
from tiled.storage import parse_storage, register_storage, unregister_storage
from tiled.structures.array import ArrayStructure

from hedmlive.streaming import DocumentError
from hedmlive.tiled_config import SPARSE_FRAMES, register_consolidators
from hedmlive.tiled_config.adapters import SparseFramesAdapter

SHAPE = (4, 5, 7)
Node = namedtuple("Node", ["metadata_", "specs"])


@pytest.fixture(scope="module")
def dense():
    rng = np.random.default_rng(3)
    frames = rng.integers(1, 60000, SHAPE).astype(np.uint16)
    frames[rng.random(SHAPE) < 0.7] = 0
    frames[2] = 0
    return frames


def make_group(file, shape=SHAPE[1:], dtype="<u2"):
    group = file.create_group("entry/sparse")
    group.attrs["shape"], group.attrs["dtype"] = shape, dtype
    group.create_dataset("frame_start", data=np.zeros(1, np.int64), maxshape=(None,), chunks=(16,))
    for name in ("row", "col", "value"):
        group.create_dataset(name, (0,), np.uint16, maxshape=(None,), chunks=(16,))
    return group


def add(group, frame):
    rows, cols = np.nonzero(frame)
    for name, values in (("row", rows), ("col", cols), ("value", frame[rows, cols])):
        old = len(group[name])
        group[name].resize(old + len(values), axis=0)
        group[name][old:] = values
    starts = group["frame_start"]
    starts.resize(len(starts) + 1, axis=0)
    starts[-1] = len(group["row"])


@pytest.fixture(scope="module")
def path(dense, tmp_path_factory):
    path = tmp_path_factory.mktemp("sparse") / "run_raw.h5"
    with h5py.File(path, "w", libver="latest") as file:
        group = make_group(file)
        for frame in dense:
            add(group, frame)
    # A server does this for its folders.
    folder = parse_storage(f"file://localhost{path.parent}")
    register_storage(folder)
    yield path
    unregister_storage(folder)


def adapter(path, shape=SHAPE):
    structure = ArrayStructure.from_array(np.empty(shape, np.uint16), chunks=(1, *shape[1:]))
    return SparseFramesAdapter(f"file://localhost{path}", structure, "/entry/sparse")


def slices(size):
    places = st.none() | st.integers(-size - 1, size + 1)
    steps = st.none() | st.integers(-3, 3).filter(bool)
    return st.integers(-size, size - 1) | st.builds(slice, places, places, steps)


@given(index=st.tuples(*map(slices, SHAPE)))
def test_any_part_is_what_numpy_gives(path, dense, index):
    part = adapter(path).read(NDSlice(*index))
    wanted = dense[index]
    assert part.dtype == wanted.dtype
    np.testing.assert_array_equal(part, wanted)


def test_the_whole_and_each_block(path, dense):
    served = adapter(path)
    np.testing.assert_array_equal(served.read(), dense)
    np.testing.assert_array_equal(served.read(NDSlice()), dense)
    for i in range(SHAPE[0]):
        np.testing.assert_array_equal(served.read_block(NDBlock(i, 0, 0)), dense[i : i + 1])
    np.testing.assert_array_equal(served.read_block(NDBlock(1, 0, 0), NDSlice(0, slice(2))), dense[1, :2])


def test_a_growing_file_gives_what_it_holds(dense, tmp_path):
    path = tmp_path / "growing.h5"
    served = adapter(path)
    with h5py.File(path, "w", libver="latest") as file:
        group = make_group(file)
        file.swmr_mode = True
        for i, frame in enumerate(dense):
            add(group, frame)
            file.flush()
            np.testing.assert_array_equal(served.read(NDSlice(i)), frame)
            if i + 1 < len(dense):
                with pytest.raises(DataNotReadyError, match=rf"{i + 1} frames came; wanted {i + 2}"):
                    served.read(NDSlice(i + 1))


def test_frames_of_another_shape_are_refused(path):
    with pytest.raises(IncompatibleShapeError, match=r"frames of \(5, 7\) came"):
        adapter(path, (4, 5, 8)).read()


def documents(shape=(5, 7), parameters=None):
    resource = {
        "uid": "r", "data_key": "det", "mimetype": SPARSE_FRAMES, "uri": "file://localhost/x_raw.h5",
        "parameters": {"dataset": "/entry/sparse", "chunk_shape": [4]} if parameters is None else parameters,
    }  # fmt: skip
    key = {"source": "sim", "dtype": "array", "shape": list(shape), "dtype_numpy": "<u2", "external": "STREAM:"}
    return resource, {"uid": "d", "data_keys": {"det": key}}


def consolidator(*arguments, **more):
    from bluesky_tiled_plugins.writing.consolidators import consolidator_factory

    register_consolidators()
    return consolidator_factory(*documents(*arguments, **more))


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7)])
def test_documents_become_one_array_that_can_be_read(path, dense, shape):
    made = consolidator(shape)
    for i in range(4):
        seq, index = {"start": i + 1, "stop": i + 2}, {"start": i, "stop": i + 1}
        made.consume_stream_datum({"indices": index, "seq_nums": seq, "uid": f"r/{i}"})
    source = made.get_data_source()
    assert (source.structure.shape, source.structure.chunks) == (SHAPE, ((1, 1, 1, 1), (5,), (7,)))
    source.assets[0].data_uri = f"file://localhost{path}"
    served = SparseFramesAdapter.from_catalog(source, Node({"a": 1}, []), **source.parameters)
    np.testing.assert_array_equal(served.read(), dense)
    assert served.metadata() == {"a": 1}


@pytest.mark.parametrize("shape", [(7,), (3, 5, 7)])
def test_a_data_key_that_is_no_image_is_refused(shape):
    with pytest.raises(DocumentError, match="data key det has shape"):
        consolidator(shape)


def test_a_resource_without_its_group_is_refused():
    with pytest.raises(DocumentError, match="stream_resource r: no parameter dataset"):
        consolidator(parameters={})
