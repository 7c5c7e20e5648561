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
_MOST_KEPT = 1 << 20
"Pixels of buffers that are used again: memory does not stay as large as the worst frame made it."
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
    n_pixels, size = out.size, out.itemsize
    data = _bytes(chunk)
    block, n_blocked = _blocks(data, n_pixels, size)
    numbers = out.reshape(-1).view(np.uint8).reshape(n_pixels, size)
    scratch = np.empty(block * size + kernels.SLACK, np.uint8)
    parts = np.empty((size, -(-block // 64) * 64), np.uint8)
    end = kernels.unpack(data, _HEADER, block, n_blocked, scratch, parts, numbers)
    numbers[n_blocked:] = _rest(data, end, (n_pixels - n_blocked) * size).reshape(-1, size)
    return out


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
        self._cut = np.ascontiguousarray(cut, self._dtype).reshape(-1)
        self._sentinels = np.array([each for each in sentinels if info.min <= each <= info.max], self._dtype)
        self._planes: tuple[int, np.ndarray, np.ndarray] | None = None
        # One of these for each thread that is at work; taking from and adding to a list needs no lock.
        self._buffers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

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
        n_pixels, size = self._cut.size, self._dtype.itemsize
        data = _bytes(chunk)
        block, n_blocked = _blocks(data, n_pixels, size)
        _, planes, places = self._planes_for(block, n_blocked)
        scratch = np.empty((2, 8 * size * _words(block) + kernels.SLACK // 8), np.uint64)
        given = (data, _HEADER, block, n_blocked, 8 * size, planes, places)
        limits = (np.uint64(self._sign), np.uint64((self._top % (1 << 8 * size)) ^ self._sign), self._shape[1])
        buffers = self._buffers.pop() if self._buffers else self._room(_FIRST_CAPACITY)
        while True:
            n, end = kernels.lit_of_chunk(*given, *limits, scratch, *buffers)
            if max_lit is not None:
                check_flood(n, max_lit, self._shape)
            if n <= len(buffers[0]):
                break
            buffers = self._room(2 * n)
        rest = _rest(data, end, (n_pixels - n_blocked) * size).view(self._dtype)
        row, col, value = (each[:n].copy() for each in buffers)
        if len(buffers[0]) <= _MOST_KEPT:
            self._buffers.append(buffers)
        row, col, value = self._with_rest(row, col, value.view(self._dtype), rest)
        if len(self._sentinels):
            keep = ~np.isin(value, self._sentinels)
            row, col, value = row[keep], col[keep], value[keep]
        if max_lit is not None:
            check_flood(len(row), max_lit, self._shape)
        return row, col, value

    def _room(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, self._unsigned)

    def _with_rest(
        self, row: np.ndarray, col: np.ndarray, value: np.ndarray, rest: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """Add the lit ones of the pixels that are not compressed, which are the last of the frame."""
        first = self._cut.size - len(rest)
        lit = np.flatnonzero((rest > self._cut[first:]) & (rest <= self._top))
        if len(lit) == 0:
            return row, col, value
        rest_row, rest_col = (each.astype(np.int32) for each in np.divmod(first + lit, self._shape[1]))
        pairs = ((row, rest_row), (col, rest_col), (value, rest[lit]))
        return tuple(np.concatenate(pair) for pair in pairs)

    def _planes_for(self, block: int, n_blocked: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the bit planes of the cut for blocks of this size, made anew when the size is another."""
        planes = self._planes
        if planes is None or planes[0] != block:
            numbers = self._cut[:n_blocked].view(self._unsigned) ^ self._unsigned.type(self._sign)
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


def _blocks(data: np.ndarray, n_pixels: int, size: int) -> tuple[int, int]:
    """Return from the header how many pixels a block holds, and how many all of them hold."""
    if len(data) < _HEADER:
        raise FrameError(f"the chunk is damaged: it has {len(data)} bytes; wanted a header of {_HEADER}")
    n_bytes, block_bytes = (int.from_bytes(part.tobytes(), "big") for part in (data[:8], data[8:_HEADER]))
    if n_bytes != n_pixels * size:
        raise FrameError(f"the chunk is damaged: its header says {n_bytes} bytes; wanted {n_pixels * size} of a frame")
    block = block_bytes // size or max(_DEFAULT_BLOCK // size // 8 * 8, _LEAST_BLOCK)
    if block % 8:
        raise FrameError(f"the chunk is damaged: its header says blocks of {block} pixels; wanted a multiple of 8")
    n_blocked = n_pixels // 8 * 8
    # Longer than the frame a block cannot be, and what it takes to decode one should not depend on a wrong header.
    return min(block, max(n_blocked, 8)), n_blocked


def _rest(data: np.ndarray, end: int, n_bytes: int) -> np.ndarray:
    """Return the bytes after the blocks, which are not compressed."""
    if end < 0:
        raise FrameError("the chunk is damaged: a block does not decode to its length; write the frame anew")
    if end + n_bytes > len(data):
        raise FrameError(f"the chunk is damaged: it has {len(data)} bytes; wanted {end + n_bytes}")
    return data[end : end + n_bytes]
