"""Bitshuffle-lz4 chunks against their naive twin, and damaged ones."""

from concurrent.futures import ThreadPoolExecutor

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive_bitshuffle import Damaged, naive_compress, naive_decompress, naive_lit, naive_lz4, naive_runs, sequence

from hedmlive.streaming import FrameError, SettingsError
from hedmlive.streaming.bitshuffle import ChunkCut, CompressedImage, decompress, stored
from hedmlive.streaming.bitshuffle_kernels import SLACK, _lz4

COUNTS = ("uint8", "uint16", "uint32", "int8", "int16", "int32")
ANY = (*COUNTS, "uint64", "int64", "float32", "float64", ">u2", ">f4")


def packed(image, block=0) -> bytes:
    """The image as hdf5plugin's own filter compresses it."""
    with h5py.File.in_memory() as file:
        filters = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
        data = file.create_dataset("data", data=image, chunks=image.shape, **filters)
        return data.id.read_direct_chunk((0,) * image.ndim)[1]


def drawn_image(data, dtype, most=70):
    """Counts in which some planes are empty, some noise and some in between."""
    shape = data.draw(st.tuples(st.integers(1, most), st.integers(1, most)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    bits = 8 * np.dtype(dtype).itemsize
    kept = rng.integers(0, 2**64, shape, np.uint64) & np.uint64(data.draw(st.integers(0, 2**bits - 1)))
    kept[rng.random(shape) < data.draw(st.sampled_from([0.0, 0.5, 0.99]))] = data.draw(st.integers(0, 2**bits - 1))
    return kept.astype(f"u{bits // 8}").view(dtype)


def drawn_cut(data, image):
    """A cut of a level, of levels around those of the image, or of a mask as well."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    cut = np.full(image.shape, image.flat[0])
    if data.draw(st.booleans()):
        cut = rng.permutation(image.reshape(-1)).reshape(image.shape)
    if data.draw(st.booleans()):
        cut[rng.random(image.shape) < 0.3] = np.iinfo(image.dtype).max
    return cut


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_chunk_gives_the_numbers_that_were_written(data):
    image = drawn_image(data, data.draw(st.sampled_from(ANY)))
    chunk = packed(image, data.draw(st.sampled_from([0, 0, 8, 64, 128, 1000, 4096])))
    numbers = decompress(chunk, image.shape, image.dtype)
    assert numbers.dtype == image.dtype
    assert numbers.tobytes() == image.tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_stored_without_a_file_is_read_by_the_filter(data):
    rows, cols, dtype = data.draw(st.integers(1, 20)), 8 * data.draw(st.integers(1, 9)), data.draw(st.sampled_from(ANY))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    image = rng.integers(0, 256, (rows, cols * np.dtype(dtype).itemsize), np.uint8).view(dtype)
    made = stored(image)
    assert (made.shape, made.dtype) == (image.shape, image.dtype)
    assert made.dense().tobytes() == image.tobytes()
    with h5py.File.in_memory() as file:
        filters = hdf5plugin.Bitshuffle(cname="lz4")
        data_set = file.create_dataset("data", image.shape, image.dtype, chunks=image.shape, **filters)
        data_set.id.write_direct_chunk((0, 0), made.chunk)
        assert data_set[()].tobytes() == image.tobytes()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_twin_reads_what_the_filter_wrote(data):
    image = drawn_image(data, data.draw(st.sampled_from(ANY)), most=20)
    chunk = packed(image, data.draw(st.sampled_from([0, 8, 64])))
    assert naive_decompress(chunk, image.shape, image.dtype).tobytes() == image.tobytes()


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_lit_pixels_of_a_chunk_are_those_of_the_image(data):
    image = drawn_image(data, data.draw(st.sampled_from(COUNTS)))
    cut = drawn_cut(data, image)
    top = data.draw(st.sampled_from([None, int(image.max()), int(image.flat[-1])]))
    sentinels = data.draw(st.sampled_from([(), (int(image.flat[0]), -1, 2**32 - 1)]))
    chunk = packed(image, data.draw(st.sampled_from([0, 0, 8, 64, 512, 1000, 4096])))
    row, col, raw = ChunkCut(cut, top=top, sentinels=sentinels).push(chunk)
    assert (row.dtype, col.dtype, raw.dtype) == (np.int32, np.int32, image.dtype)
    found = list(zip(row.tolist(), col.tolist(), raw.tolist(), strict=True))
    assert found == naive_lit(image, cut, top, sentinels)


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_runs_and_intensities_are_listed_with_the_pixels(data):
    image = drawn_image(data, data.draw(st.sampled_from(["uint16", "int32"])))
    cut = drawn_cut(data, image)
    chunk = packed(image, data.draw(st.sampled_from([0, 8, 64, 512])))
    lit = naive_lit(image, cut)
    runs = naive_runs(lit)
    n_runs, n = len(runs) + data.draw(st.integers(-2, 9)), len(lit) + data.draw(st.integers(-2, 40))
    # Each type more is a kernel more to compile.
    others = [(cut[:1] * 0.37, 0.0), (cut * 0.37, 0.0)] if image.dtype == np.uint16 else []
    background, shift = data.draw(st.sampled_from([(cut, 3.0), *others]))
    room, row, col = np.full((3, max(n_runs, 0) + 1), -1, np.int32), *np.full((2, max(n, 0)), -1, np.int32)
    value, intensity = np.zeros(len(row), image.dtype), np.zeros(len(row))
    given_room = (room, row, col, value, intensity)
    assert ChunkCut(cut).lit_pixels(chunk, background, shift, *given_room) == (len(runs), len(lit))
    if n_runs >= len(runs):
        assert list(zip(*room[:, : len(runs)].tolist(), strict=True)) == runs
        assert room[2, len(runs)] == len(lit)
    if n_runs >= len(runs) and n >= len(lit):
        found = (each[: len(lit)] for each in (row, col, value, intensity))
        levels = np.broadcast_to(background, image.shape)
        assert list(zip(*(each.tolist() for each in found), strict=True)) == [
            (r, c, raw, raw - (float(levels[r, c]) - shift)) for r, c, raw in lit
        ]


@pytest.mark.parametrize("dtype", COUNTS)
def test_one_cut_takes_chunks_of_any_block_size_and_any_number_of_lit_pixels(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 100, (301, 503)).astype(dtype)
    for level in (99, 98, 50, -1):
        cut = np.full(image.shape, max(level, np.iinfo(dtype).min), dtype)
        chunk_cut = ChunkCut(cut)
        for block in (0, 64, 0, 8, 2000):
            row, col, raw = chunk_cut.push(packed(image, block))
            wanted = np.nonzero(image > cut)
            assert np.array_equal((row, col), wanted)
            assert np.array_equal(raw, image[wanted])


def test_threads_share_a_cut():
    rng = np.random.default_rng(0)
    images = [rng.poisson(100, (200, 333)).astype(np.uint16) for _ in range(12)]
    chunks = [packed(image, block) for image, block in zip(images, 4 * (0, 64, 800), strict=True)]
    cut = rng.integers(90, 130, images[0].shape).astype(np.uint16)
    chunk_cut = ChunkCut(cut)
    with ThreadPoolExecutor(4) as pool:
        for image, (row, col, raw) in zip(images, pool.map(chunk_cut.push, chunks), strict=True):
            assert np.array_equal((row, col), np.nonzero(image > cut))
            assert np.array_equal(raw, image[row, col])


@st.composite
def lz4_blocks(draw):
    """A block of sequences of every kind, long and short, far and near matches, and the length it decodes to."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block, n = b"", 0
    for _ in range(draw(st.integers(0, 12))):
        literals = rng.bytes(int(rng.choice([0, 1, 5, 14, 15, 16, 40, 269, 270, 271, 600])))
        n += len(literals)
        if n == 0:
            continue
        near = draw(st.booleans())
        offset = int(rng.integers(1, min(n, 40 if near else 65535) + 1))
        length = int(rng.choice([4, 5, 8, 9, 16, 17, 18, 19, 20, 100, 273, 274, 1000]))
        block += sequence(literals, offset, length)
        n += length
    last = rng.bytes(draw(st.integers(0, 40)))
    return block + sequence(last), n + len(last)


def kernel_lz4(block, size):
    """Decode with the kernel, amid bytes that must stay as they are; None if it says that the block is damaged."""
    chunk = np.frombuffer(b"\x11" * 9 + block + b"\x11" * 9, np.uint8)
    planes = np.full(size + SLACK + 8, 77, np.uint8)
    good = _lz4(chunk, 9, 9 + len(block), planes[:-8], size)
    assert (planes[-8:] == 77).all()
    return planes[:size].tobytes() if good else None


def twin_lz4(block, size):
    try:
        return naive_lz4(block, size)
    except Damaged:
        return None


@settings(max_examples=300, deadline=None)
@given(drawn=lz4_blocks(), wrong=st.sampled_from([0, 0, -3, -1, 1, 20]))
def test_lz4_is_its_twin(drawn, wrong):
    block, size = drawn
    size = max(size + wrong, 0)
    assert kernel_lz4(block, size) == twin_lz4(block, size)
    assert (twin_lz4(block, size) is None) == (size != drawn[1])


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_damaged_lz4_block_is_refused_as_the_twin_refuses_it(data):
    block = bytearray(data.draw(st.binary(min_size=1, max_size=60)))
    size = data.draw(st.integers(0, 200))
    assert kernel_lz4(bytes(block), size) == twin_lz4(bytes(block), size)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_chunk_is_read_as_the_twin_reads_it_or_refused(data):
    image = drawn_image(data, data.draw(st.sampled_from(["uint8", "uint16", "int32"])), most=24)
    chunk = bytearray(packed(image, data.draw(st.sampled_from([0, 8, 64]))))
    for _ in range(data.draw(st.integers(0, 3))):
        chunk[data.draw(st.integers(0, len(chunk) - 1))] = data.draw(st.integers(0, 255))
    del chunk[data.draw(st.integers(0, 2 * len(chunk))) :]
    cut = ChunkCut(np.full(image.shape, image.flat[0]))
    try:
        wanted = naive_decompress(bytes(chunk), image.shape, image.dtype)
    except Damaged:
        for read in (lambda: decompress(chunk, image.shape, image.dtype), lambda: cut.push(chunk)):
            with pytest.raises(FrameError, match=r"^the chunk is damaged: "):
                read()
        return
    assert decompress(chunk, image.shape, image.dtype).tobytes() == wanted.tobytes()
    row, col, raw = cut.push(chunk)
    assert np.array_equal((row, col), np.nonzero(wanted > image.flat[0]))
    assert np.array_equal(raw, wanted[row, col])


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=300), block=st.sampled_from([0, 16, 1 << 20, 2**32 - 16]))
def test_junk_behind_a_good_header_is_refused_or_read(junk, block):
    chunk = (2 * 20 * 30).to_bytes(8, "big") + block.to_bytes(4, "big") + junk
    try:
        decompress(chunk, (20, 30), np.uint16)
    except FrameError:
        with pytest.raises(FrameError, match="damaged"):
            ChunkCut(np.zeros((20, 30), np.uint16)).push(chunk)


@pytest.mark.parametrize(
    ("chunk", "said"),
    [
        (b"", "it has 0 bytes; wanted a header of 12"),
        (bytes(12), "its header says 0 bytes; wanted 24 of a frame"),
        (
            (24).to_bytes(8, "big") + (6).to_bytes(4, "big"),
            "its header says blocks of 3 pixels; wanted a multiple of 8",
        ),
        (bytes((*bytes(7), 24, *bytes(4))), "a block does not decode to its length; write the frame anew"),
    ],
)
def test_the_error_says_what_is_wrong(chunk, said):
    with pytest.raises(FrameError, match=said):
        decompress(chunk, (3, 4), np.uint16)


def test_uncompressed_last_pixels_may_not_be_missing():
    chunk = packed(np.arange(11, dtype=np.uint16).reshape(1, 11))
    with pytest.raises(FrameError, match=f"it has {len(chunk) - 1} bytes; wanted {len(chunk)}"):
        decompress(chunk[:-1], (1, 11), np.uint16)


def test_a_damaged_chunk_leaves_nothing_behind():
    image = np.random.default_rng(0).integers(0, 50, (40, 60)).astype(np.uint16)
    chunk, cut = packed(image), np.full(image.shape, 25, np.uint16)
    chunk_cut = ChunkCut(cut)
    with pytest.raises(FrameError, match="damaged"):
        chunk_cut.push(chunk[:-100])
    assert np.array_equal(chunk_cut.push(chunk)[:2], np.nonzero(image > cut))


def test_literals_alone_are_read_too():
    image = np.random.default_rng(0).integers(0, 2**16, (40, 60)).astype(np.uint16)
    chunk = naive_compress(image, 512, sequence)
    assert np.array_equal(CompressedImage(shape=image.shape, dtype=image.dtype, chunk=chunk).dense(), image)


def test_numbers_are_written_where_they_are_wanted():
    image = np.random.default_rng(0).integers(0, 50, (40, 61)).astype(np.uint16)
    compressed = CompressedImage(shape=image.shape, dtype=image.dtype, chunk=packed(image))
    out = np.zeros_like(image)
    assert compressed.dense(out) is out
    assert np.array_equal(out, image)
    for wrong in (out[:-1], out.astype(np.int16), np.asfortranarray(out), np.zeros((40, 122), np.uint16)[:, ::2]):
        with pytest.raises(ValueError, match="wanted uint16 of shape"):
            compressed.dense(wrong)


@pytest.mark.parametrize("cut", [np.zeros((2, 2)), np.zeros((2, 2), np.uint64), np.zeros(4, np.uint16)])
def test_a_cut_of_another_kind_is_refused(cut):
    with pytest.raises(SettingsError, match="wanted integers of 8, 16 or 32 bits in rows and columns"):
        ChunkCut(cut)


def test_a_top_that_the_type_cannot_hold_is_refused():
    with pytest.raises(SettingsError, match=r"top is 65536; wanted 0 \.\.\. 65535 as uint16"):
        ChunkCut(np.zeros((2, 2), np.uint16), top=65536)


def test_a_cut_knows_what_it_takes():
    cut = ChunkCut(np.zeros((2, 3), np.int32))
    assert (cut.shape, cut.dtype) == ((2, 3), np.dtype(np.int32))
