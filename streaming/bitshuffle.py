"""Frames as detectors compress them, bitshuffle-lz4: to numbers, or straight to lit pixels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import bitshuffle_kernels as kernels
from .errors import FrameError, SettingsError
from .frame import check_flood

# A chunk of HDF5's filter 32008 with lz4, big-endian: 8 bytes, how many bytes it holds; 4 bytes, how many a block holds
# (0: the default); the blocks, the last one shorter, each a multiple of 8 pixels: 4 bytes, its compressed length, and
# LZ4 of its bit planes; the up to 7 pixels that are left, as they are.
_HEADER = 12
_DEFAULT_BLOCK = 8192  # bytes
_LEAST_BLOCK = 128  # pixels

_FIRST_CAPACITY = 1 << 16
_GROUP = 64 * kernels.WORDS
"Pixels that are compared at once."

Chunk = bytes | bytearray | memoryview | np.ndarray
"""The bytes of a chunk as they lie in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedImage:
    """One image as it lies in its file, bitshuffle-lz4."""

    shape: tuple[int, int]
    "Rows and columns."
    dtype: np.dtype
    "Type of a count, in the byte order of the file."
    chunk: Chunk
    "The chunk, with the header of HDF5's filter 32008."

    def dense(self, out: np.ndarray | None = None) -> np.ndarray:
        """Return the raw counts, shape `shape`, as `decompress` does."""
        return decompress(self.chunk, self.shape, self.dtype, out=out)


def decompress(chunk: Chunk, shape: tuple[int, ...], dtype: Any, *, out: np.ndarray | None = None) -> np.ndarray:
    """Return the numbers of a bitshuffle-lz4 chunk, while other threads run.

    Parameters
    ----------
    chunk
        With the header of HDF5's filter 32008.
    shape
        Shape of the chunk.
    dtype
        Type of its numbers, in the byte order of the file.
    out
        Where they are written: C-contiguous, of this shape and type. To ask the system for memory for each frame can
        cost more than the decoding.

    Raises
    ------
    FrameError
        The chunk is damaged, or of another size; what `out` holds then is of no use.
    """
    if out is None:
        out = np.empty(shape, dtype)
    elif out.shape != tuple(shape) or out.dtype != dtype or not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError(f"out is {out.dtype} of shape {out.shape}; wanted {np.dtype(dtype)} of shape {shape}, C order")
    data = _bytes(chunk)
    block = _block_of(data, out.size, out.itemsize)
    numbers = out.reshape(-1).view(f"u{out.itemsize}")
    end = kernels.unpack(data, _HEADER, block, _scratch(block, out.itemsize), numbers)
    rest = _rest(data, end, out.size % 8 * out.itemsize)
    numbers[out.size // 8 * 8 :] = rest.view(numbers.dtype)
    return out


def stored(image: np.ndarray) -> CompressedImage:
    """Return an image in the form of a compressed one, of one block and no smaller: for who needs one without a file.

    Parameters
    ----------
    image
        Numbers, shape (rows, columns), their product a multiple of 8.
    """
    held = np.ascontiguousarray(image).reshape(-1, 1).view(np.uint8)
    bits = np.unpackbits(held, axis=1, bitorder="little")
    planes = np.packbits(bits.T, axis=1, bitorder="little").tobytes()
    # LZ4's last sequence: how many literals, by a number of 15 at most and then of 255 at most each, and no match.
    more = len(planes) - 15
    length = bytes([len(planes) << 4]) if more < 0 else b"\xf0" + b"\xff" * (more // 255) + bytes([more % 255])
    lz4 = length + planes
    header = image.nbytes.to_bytes(8, "big") + image.nbytes.to_bytes(4, "big") + len(lz4).to_bytes(4, "big")
    return CompressedImage(shape=(image.shape[0], image.shape[1]), dtype=image.dtype, chunk=header + lz4)


class ChunkCut:
    """Finds the pixels above a cut in bitshuffle-lz4 chunks, without making numbers of the others.

    Each block is decoded to its bit planes, and while they are in the nearest cache they are compared with the planes
    of the cut from the highest bit down, 512 pixels at once. Several threads may use one at the same time.

    Parameters
    ----------
    cut
        A pixel is lit where its counts are above it; integers of 8, 16 or 32 bits, of the type of the frames, shape
        (rows, columns); it may be broadcast. Masked pixels hold the type's largest number.
    top
        Largest counts of a valid pixel; the type's largest number when absent.
    sentinels
        Counts that are never lit.

    Raises
    ------
    SettingsError
        The cut holds other numbers, or `top` is none of its type.
    """

    def __init__(self, cut: np.ndarray, *, top: int | None = None, sentinels: Iterable[int] = ()) -> None:
        if cut.ndim != 2 or cut.dtype.kind not in "ui" or cut.dtype.itemsize > 4:
            raise SettingsError(
                f"the cut is {cut.dtype} of shape {cut.shape}; wanted integers of 8, 16 or 32 bits in rows and columns"
            )
        info = np.iinfo(cut.dtype)
        self._top = int(info.max if top is None else top)
        if not info.min <= self._top <= info.max:
            raise SettingsError(f"top is {top}; wanted {info.min} ... {info.max} as {cut.dtype}")
        self._shape = (int(cut.shape[0]), int(cut.shape[1]))
        self._dtype = cut.dtype.newbyteorder("=")
        self._unsigned = np.dtype(f"u{info.bits // 8}")
        # With this bit turned, signed numbers are in the order of unsigned ones.
        self._sign = 1 << info.bits - 1 if info.min < 0 else 0
        self._cut = np.ascontiguousarray(cut, self._dtype)
        self._sentinels = np.array([each for each in sentinels if info.min <= each <= info.max], self._dtype)
        self._planes: tuple[int, np.ndarray, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""
        return self._shape

    @property
    def dtype(self) -> np.dtype:
        """Type of a count, in this machine's byte order, which the file's must be too."""
        return self._dtype

    def push(self, chunk: Chunk, *, max_lit: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows (int32), columns (int32) and raw counts of the lit pixels, each shape (n,), in raster order.

        Parameters
        ----------
        chunk
            One frame, with the header of HDF5's filter 32008.
        max_lit
            A frame with more lit pixels is flooded; no limit when absent.

        Raises
        ------
        FrameError
            The chunk is damaged, or of another size than the cut; or the frame is flooded.
        """
        capacity = _FIRST_CAPACITY
        while True:
            runs = np.empty((3, capacity + 1), np.int32)
            row, col = np.empty((2, capacity), np.int32)
            value, intensity = np.empty(capacity, self._dtype), np.empty(capacity)
            n_runs, n = self.lit_pixels(chunk, self._cut[:1], 0.0, runs, row, col, value, intensity)
            if max_lit is not None:
                check_flood(n, max_lit, self._shape)
            if max(n_runs, n) <= capacity:
                return row[:n].copy(), col[:n].copy(), value[:n].copy()
            capacity = n

    def lit_pixels(
        self,
        chunk: Chunk,
        background: np.ndarray,
        shift: float,
        runs: np.ndarray,
        row: np.ndarray,
        col: np.ndarray,
        value: np.ndarray,
        intensity: np.ndarray,
    ) -> tuple[int, int]:
        """List the lit pixels, and the runs that they form, just as `lit_kernels.lit_pixels` does of numbers.

        Parameters
        ----------
        chunk
            One frame, with the header of HDF5's filter 32008.
        background, shift
            Intensity is raw - (background - shift), counts; shape (rows or 1, columns), C-contiguous.
        runs
            Row, column and index of the first pixel of each run, int32, shape (3, room for runs + 1).
        row, col, value, intensity
            int32, int32, `dtype` and float64, of one length.

        Returns
        -------
        n_runs, n
            How many runs and pixels there are. If there is no room for all runs, only these numbers count; for all
            pixels, only the runs besides.

        Raises
        ------
        FrameError
            The chunk is damaged, or of another size than the cut.
        """
        data, size = _bytes(chunk), self._dtype.itemsize
        block = _block_of(data, self._cut.size, size)
        _, planes, places = self._planes_for(block)
        above = np.empty(_words(block), np.uint64)
        pixels = np.empty((2, 64 * len(above) + kernels.LANES), self._dtype)
        n_runs, n, end = kernels.lit_of_chunk(
            data, _HEADER, block, planes, places, self._cut, self._dtype.type(self._top), self._sentinels,
            background, shift, _scratch(block, size), above, pixels, runs, row, col, value, intensity,
        )  # fmt: skip
        _rest(data, end, self._cut.size % 8 * size)
        return n_runs, n

    def _planes_for(self, block: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the bit planes of the cut for blocks of this size, made anew when the size is another."""
        planes = self._planes
        if planes is None or planes[0] != block:
            numbers = self._cut.reshape(-1)[: self._cut.size // 8 * 8].view(self._unsigned) ^ self._unsigned.type(
                self._sign
            )
            planes = self._planes = (block, *_planes(numbers, block))
        return planes


def _planes(numbers: np.ndarray, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return planes of bits, uint64, and where in them plane p of block k begins, int64, at [k * planes + p].

    A plane of nothing but zeros or ones is there once for all blocks. Of a cut most planes are, and what is not read
    from memory costs nothing.
    """
    n_planes, n_blocks, n_words = 8 * numbers.itemsize, -(-len(numbers) // block), _words(block)
    filled = np.zeros(n_blocks * block, numbers.dtype)
    filled[: len(numbers)] = numbers
    # So that the last plane can be one of ones, too.
    filled[len(numbers) :] = numbers[-1:]
    stored = [np.repeat(np.array([[0], [255]], np.uint8), 8 * n_words, axis=1)]
    places = np.empty((n_blocks, n_planes), np.int64)
    n_stored = 2
    for p in range(n_planes):
        bits = (filled >> numbers.dtype.type(p) & numbers.dtype.type(1)).astype(np.bool_).reshape(n_blocks, block)
        ones = bits.all(axis=1)
        mixed = bits.any(axis=1) & ~ones
        planes = np.zeros((int(mixed.sum()), 8 * n_words), np.uint8)
        planes[:, : block // 8] = np.packbits(bits[mixed], axis=1, bitorder="little")
        places[:, p] = ones
        places[mixed, p] = n_stored + np.arange(len(planes))
        n_stored += len(planes)
        stored.append(planes)
    return np.concatenate(stored).reshape(-1).view(np.uint64), places.reshape(-1) * n_words


def _words(block: int) -> int:
    """Return how many words of 64 bits one plane of a block takes, filled to whole groups."""
    return -(-block // _GROUP) * kernels.WORDS


def _bytes(chunk: Chunk) -> np.ndarray:
    """Return a chunk as bytes of which the kernels know the type: read-only whatever it was."""
    data = np.frombuffer(chunk, np.uint8)
    data.flags.writeable = False
    return data


def _scratch(block: int, size: int) -> np.ndarray:
    """Return room for the planes of a block of pixels of this size."""
    room = np.empty(block * size + kernels.SLACK + 64, np.uint8)
    # From a multiple of 64 bytes on, so that a vector of a plane lies in one line of the cache.
    return room[-room.ctypes.data % 64 :]


def _block_of(data: np.ndarray, n_pixels: int, size: int) -> int:
    """Return from the header how many pixels a block holds."""
    if len(data) < _HEADER:
        raise FrameError(f"the chunk is damaged: it has {len(data)} bytes; wanted a header of {_HEADER}")
    n_bytes, block_bytes = (int.from_bytes(part.tobytes(), "big") for part in (data[:8], data[8:_HEADER]))
    if n_bytes != n_pixels * size:
        raise FrameError(f"the chunk is damaged: its header says {n_bytes} bytes; wanted {n_pixels * size} of a frame")
    block = block_bytes // size or max(_DEFAULT_BLOCK // size // 8 * 8, _LEAST_BLOCK)
    if block % 8:
        raise FrameError(f"the chunk is damaged: its header says blocks of {block} pixels; wanted a multiple of 8")
    # Longer than the frame a block cannot be, and what it takes to decode one should not depend on a wrong header.
    return min(block, max(n_pixels // 8 * 8, 8))


def _rest(data: np.ndarray, end: int, n_bytes: int) -> np.ndarray:
    """Return the bytes after the blocks, which are not compressed."""
    if end < 0:
        raise FrameError("the chunk is damaged: a block does not decode to its length; write the frame anew")
    if end + n_bytes > len(data):
        raise FrameError(f"the chunk is damaged: it has {len(data)} bytes; wanted {end + n_bytes}")
    return data[end : end + n_bytes]
