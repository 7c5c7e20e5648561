"""Kernels that decode bitshuffle-lz4: validated by their callers, preallocated output, nothing else in this file.

Bitshuffle cuts a frame into blocks of pixels and writes each block as *planes*: first the lowest bit of all its pixels,
8 pixels a byte, then the next bit, ... . LZ4 packs the planes of one block, so that a block is decoded, and compared
with the cut plane by plane, while it lies in the nearest cache.

What a chunk holds may be anything: each index into it and into the output is checked before it is used.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numpy.typing import NDArray

from .vectors import trailing_zeros

Array = NDArray[Any]

# Numba itself passes the first parameter of an intrinsic, which its types do not say.
intrinsic: Any = extending.intrinsic

SLACK = 64
"""Bytes that a buffer for decoded planes is longer than its planes: copies run over their end by less than this."""

WORDS = 8
"""Words of 64 pixels that are compared at once."""

# A match that begins less than 8 bytes back repeats its own output. The bytes from there, times the factor, are eight
# bytes of the repetition; the stride is the most bytes of it that are whole repetitions. [0] is never used.
_REPEATED = np.array([0, *((1 << 8 * o) - 1 for o in range(1, 9))], np.uint64)
_FACTOR = np.array([0, *(sum(1 << 8 * place for place in range(0, 8, o)) for o in range(1, 9))], np.uint64)
_STRIDE = np.array([0, *(8 - 8 % o for o in range(1, 9))], np.int64)

_ALL = np.uint64((1 << 64) - 1)


@intrinsic
def _load(context: Any, array: Any, place: Any) -> Any:
    """Return 8 bytes of an array of bytes as uint64; they need not be aligned, as numba's own views must."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = context.get_value_type(types.uint64).as_pointer()
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), word), align=1)

    return types.uint64(array, types.int64), generate


@intrinsic
def _store(context: Any, array: Any, place: Any, value: Any) -> Any:
    """Write a uint64 as 8 bytes to an array of bytes; they need not be aligned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = context.get_value_type(types.uint64).as_pointer()
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.bitcast(builder.gep(data, [arguments[1]]), word), align=1)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), generate


@intrinsic
def _above(
    typing: Any, raw: Any, i: Any, pitch: Any, cut: Any, places: Any, j: Any, n_planes: Any, flip: Any, to: Any
) -> Any:
    """Compare GROUP pixels with their cut; bit k of to[i + w] is whether pixel 64 w + k is above.

    The words of plane p are raw[i + p * pitch:] and cut[places[p] + i:], WORDS of each, places being those from j on;
    flip is what the highest plane of raw is turned by.
    """
    signature = types.void(raw, types.intp, types.intp, cut, places, types.intp, types.intp, types.uint64, to)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), WORDS)
        every = ir.Constant(vector, [-1] * WORDS)

        def data(k: int, place: Any) -> Any:
            array = context.make_array(signature.args[k])(context, builder, arguments[k])
            return builder.gep(array.data, [place])

        def words(k: int, place: Any) -> Any:
            return builder.load(builder.bitcast(data(k, place), vector.as_pointer()), align=8)

        _, i, pitch, _, _, j, n_planes, flip, _ = arguments
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), flip, ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), WORDS), [0] * WORDS)
        above = cgutils.alloca_once_value(builder, ir.Constant(vector, [0] * WORDS))
        equal = cgutils.alloca_once_value(builder, every)
        turn = cgutils.alloca_once_value(builder, builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros))
        with cgutils.for_range(builder, n_planes) as loop:
            # From the highest bit down: the first bit that differs decides.
            p = builder.sub(builder.sub(n_planes, loop.index), ir.Constant(loop.index.type, 1))
            ours = builder.xor(words(0, builder.add(i, builder.mul(p, pitch))), builder.load(turn))
            theirs = words(3, builder.add(builder.load(data(4, builder.add(j, p))), i))
            still = builder.load(equal)
            differs = builder.and_(still, builder.xor(ours, theirs))
            builder.store(builder.or_(builder.load(above), builder.and_(differs, ours)), above)
            builder.store(builder.xor(still, differs), equal)
            builder.store(ir.Constant(vector, [0] * WORDS), turn)
        builder.store(builder.load(above), builder.bitcast(data(8, i), vector.as_pointer()), align=8)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _transpose(typing: Any, planes: Any, i: Any, pitch: Any, to: Any, j: Any) -> Any:
    """Write byte b of 64 pixels to 64 bytes from to[j] on: bit k of each is from planes[i + k * pitch:], k = 0 ... 7.

    Blocks of 8 x 8 bits are transposed by three exchanges (H. S. Warren, Hacker's Delight, 7-3), eight at once.
    """
    signature = types.void(planes, types.intp, types.intp, to, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.VectorType(ir.IntType(64), 8), ir.VectorType(ir.IntType(8), 8)

        def data(k: int, place: Any, vector: Any) -> Any:
            array = context.make_array(signature.args[k])(context, builder, arguments[k])
            return builder.bitcast(builder.gep(array.data, [place]), vector.as_pointer())

        def each(number: int) -> Any:
            return ir.Constant(wide, [number] * 8)

        place = arguments[1]
        x = each(0)
        for k in range(8):
            bits = builder.zext(builder.load(data(0, place, narrow), align=1), wide)
            x = builder.or_(x, builder.shl(bits, each(8 * k)))
            place = builder.add(place, arguments[2])
        for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
            differs = builder.and_(builder.xor(x, builder.lshr(x, each(shift))), each(mask))
            x = builder.xor(x, builder.xor(differs, builder.shl(differs, each(shift))))
        builder.store(x, data(3, arguments[4], wide), align=1)
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=True, inline="always")
def _copy_16(source: Array, first: int, target: Array, place: int) -> None:
    low = _load(source, first)
    high = _load(source, first + 8)
    _store(target, place, low)
    _store(target, place + 8, high)


@njit(nogil=True, cache=True)
def _lz4(packed: Array, first: int, end: int, planes: Array, size: int) -> bool:
    """Decode one LZ4 block, packed[first:end], to planes[:size]; tell whether it is exactly that long.

    Needs 0 <= first <= end <= len(packed) and SLACK bytes after planes[:size]. The format is that of
    ``lz4_Block_format.md`` of the LZ4 project: a token, literals, then a match further back in the output.
    """
    i: Any = np.int64(first)
    n: Any = np.int64(0)
    while i < end:
        token = np.int64(packed[i])
        i += 1
        length = token >> 4
        if length < 15 and i + 16 <= end:
            _copy_16(packed, i, planes, n)
        else:
            if length == 15:
                more = np.int64(255)
                while more == 255 and i < end:
                    more = np.int64(packed[i])
                    i += 1
                    length += more
            if length > end - i or length > size - n:
                return False
            k: Any = np.int64(0)
            while k + 16 <= length:
                _copy_16(packed, i + k, planes, n + k)
                k += 16
            while k < length:
                planes[n + k] = packed[i + k]
                k += 1
        i += length
        n += length
        if i >= end:
            # Only the last sequence has no match.
            return i == end and n == size
        if end - i < 2:
            return False
        offset = np.int64(packed[i]) | np.int64(packed[i + 1]) << 8
        i += 2
        length = (token & 15) + 4
        if length == 19:
            more = np.int64(255)
            while more == 255 and i < end:
                more = np.int64(packed[i])
                i += 1
                length += more
        if offset == 0 or offset > n or length > size - n:
            return False
        near = min(offset, 8)
        word = (_load(planes, n - offset) & _REPEATED[near]) * _FACTOR[near]
        # Seven of ten matches end here. No branch asks whether one repeats itself: that cannot be predicted.
        _store(planes, n, word)
        if length > 8:
            if offset >= 16:
                for k in range(0, length, 16):
                    _copy_16(planes, n - offset + k, planes, n + k)
            elif offset >= 8:
                for k in range(0, length, 8):
                    _store(planes, n + k, _load(planes, n - offset + k))
            elif _STRIDE[near] == 8:
                for k in range(0, length, 8):
                    _store(planes, n + k, word)
            else:
                for k in range(0, length, _STRIDE[near]):
                    _store(planes, n + k, word)
        n += length
    return False


@njit(nogil=True, cache=True)
def _block(chunk: Array, i: int, planes: Array, size: int) -> int:
    """Decode the block whose length, big-endian, stands at chunk[i:i+4]; return where it ends, -1 if damaged."""
    if len(chunk) - i < 4:
        return -1
    length: Any = np.int64(0)
    for k in range(4):
        length = length << 8 | np.int64(chunk[i + k])
    i += 4
    if length > len(chunk) - i or not _lz4(chunk, i, i + length, planes, size):
        return -1
    return i + length


@njit(nogil=True, cache=True)
def lit_of_chunk(
    chunk: Array,
    i: int,
    block: int,
    n_pixels: int,
    n_planes: int,
    cut: Array,
    places: Array,
    sign: Any,
    top: Any,
    cols: int,
    scratch: Array,
    row: Array,
    col: Array,
    value: Array,
) -> tuple[int, int]:
    """Find the lit pixels of the blocks that begin at chunk[i], in raster order.

    Parameters
    ----------
    chunk
        uint8, shape (n,).
    block, n_pixels
        Pixels of a block, and of all blocks: multiples of 8. The last block may be shorter.
    n_planes
        Bits of a pixel: 8, 16 or 32.
    cut
        uint64: planes of the cut, exclusive-or `sign`, each filled to a multiple of WORDS words.
    places
        int64: where in cut plane p of block k begins, at [k * n_planes + p].
    sign
        uint64: the bit that is turned to compare signed numbers as unsigned ones, 0 for unsigned numbers.
    top
        uint64: the largest valid number, exclusive-or `sign`.
    cols
        Pixels of a row.
    scratch
        uint64, shape (2, n) with room for a block's planes, filled as those of the cut, and for SLACK.
    row, col, value
        int32, int32 and the unsigned type of a pixel, of equal length.

    Returns
    -------
    n
        How many lit pixels there are, though only len(row) are kept; -1 if the chunk is damaged.
    end
        Where the blocks end in the chunk; -1 if it is damaged.
    """
    capacity = len(row)
    n: Any = 0
    above = np.empty((block + 64 * WORDS - 1) // (64 * WORDS) * WORDS, np.uint64)
    # Byte b of the 64 pixels of a word from 64 b on.
    numbers = np.zeros(256, np.uint8)
    decoded = scratch[0].view(np.uint8)
    flip = _ALL if sign != 0 else np.uint64(0)
    j = 0
    this_row, row_start = 0, 0
    for first in range(0, n_pixels, block):
        n_bytes = min(block, n_pixels - first) // 8
        i = _block(chunk, i, decoded, n_planes * n_bytes)
        if i < 0:
            return -1, -1
        n_words = (n_bytes + 8 * WORDS - 1) // (8 * WORDS) * WORDS
        planes = scratch[0]
        if n_bytes != 8 * n_words:
            planes = scratch[1]
            _pad(decoded, n_planes, n_bytes, planes.view(np.uint8), 8 * n_words, flip)
        for w in range(0, n_words, WORDS):
            _above(planes, w, n_words, cut, places, j, n_planes, flip, above)
        j += n_planes
        bits = planes.view(np.uint8)
        pitch = 8 * n_words
        for w in range(n_words):
            word = above[w]
            if word == 0:
                continue
            for b in range(n_planes // 8):
                _transpose(bits, 8 * (b * pitch + w), pitch, numbers, 64 * b)
            at = first + 64 * w - row_start
            while word != 0:
                k = trailing_zeros(word)
                word &= word - np.uint64(1)
                low = np.uint64(numbers[k]) | np.uint64(numbers[k + np.uint64(64)]) << np.uint64(8)
                high = np.uint64(numbers[k + np.uint64(128)]) | np.uint64(numbers[k + np.uint64(192)]) << np.uint64(8)
                number = low | high << np.uint64(16)
                c = at + np.int64(k)
                while c >= cols:
                    c -= cols
                    at -= cols
                    row_start += cols
                    this_row += 1
                if n < capacity:
                    row[n] = this_row
                    col[n] = c
                    value[n] = number
                n += np.int64(number ^ sign <= top)
    return n, i


@njit(nogil=True, cache=True)
def _pad(planes: Array, n_planes: int, n_bytes: int, padded: Array, pitch: int, flip: Any) -> None:
    """Copy planes of n_bytes to planes of pitch bytes, filled with pixels that are never above a cut."""
    for p in range(n_planes):
        fill = np.uint8(flip & np.uint64(255)) if p == n_planes - 1 else np.uint8(0)
        for m in range(n_bytes):
            padded[p * pitch + m] = planes[p * n_bytes + m]
        for m in range(n_bytes, pitch):
            padded[p * pitch + m] = fill


@njit(nogil=True, cache=True)
def unpack(chunk: Array, i: int, block: int, n_pixels: int, scratch: Array, parts: Array, out: Array) -> int:
    """Decode the blocks that begin at chunk[i] to numbers.

    Parameters
    ----------
    chunk
        uint8, shape (n,).
    block, n_pixels
        Pixels of a block, and of all blocks: multiples of 8. The last block may be shorter.
    scratch
        uint8, with room for a block's planes and for SLACK.
    parts
        uint8, shape (bytes of a pixel, block filled to a multiple of 64).
    out
        uint8, shape (at least n_pixels, bytes of a pixel): the lowest byte first.

    Returns
    -------
    end
        Where the blocks end in the chunk; -1 if it is damaged.
    """
    size = out.shape[1]
    flat = parts.reshape(-1)
    for first in range(0, n_pixels, block):
        n_bytes = min(block, n_pixels - first) // 8
        i = _block(chunk, i, scratch, 8 * size * n_bytes)
        if i < 0:
            return -1
        for b in range(size):
            for m in range(0, n_bytes, 8):
                _transpose(scratch, 8 * b * n_bytes + m, n_bytes, flat, b * parts.shape[1] + 8 * m)
        _interleave(parts, out[first : first + 8 * n_bytes])
    return i


@njit(nogil=True, cache=True)
def _interleave(parts: Array, out: Array) -> None:
    """Write out[j, b] = parts[b, j]."""
    n, size = out.shape
    # Each size by itself: only then does the compiler make vectors of it.
    if size == 1:
        for j in range(n):
            out[j, 0] = parts[0, j]
    elif size == 2:
        for j in range(n):
            out[j, 0] = parts[0, j]
            out[j, 1] = parts[1, j]
    elif size == 4:
        for j in range(n):
            out[j, 0] = parts[0, j]
            out[j, 1] = parts[1, j]
            out[j, 2] = parts[2, j]
            out[j, 3] = parts[3, j]
    else:
        for b in range(size):
            for j in range(n):
                out[j, b] = parts[b, j]
