"""Kernels that decode bitshuffle-lz4: validated by their callers, preallocated output, nothing else in this file.

Bitshuffle cuts a frame into blocks of pixels and writes each block as *planes*: first the lowest bit of all its pixels,
8 pixels a byte, then the next bit, ... . LZ4 packs the planes of one block, so that a block is decoded, and compared
with the cut plane by plane, while it lies in the nearest cache.

What a chunk holds may be anything: each index into it and into the output is checked before it is used.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending, types
from numpy.typing import NDArray

from .compiled import compiled
from .vectors import prefetch, trailing_zeros

Array = NDArray[Any]

# Numba itself passes the first parameter of an intrinsic, which its types do not say.
intrinsic: Any = extending.intrinsic

SLACK = 64
"""Bytes that a buffer for decoded planes is longer than its planes: copies and loads run over their end by less."""

WORDS = 8
"""Words of 64 pixels that are compared at once."""

LANES = 8
"""Lit pixels that are listed at once."""

_STRIDE = 64
"""Bytes that are copied at once; what is too much, the next copy overwrites."""

_NEAR = 16
# A match that begins less than 16 bytes back repeats its own output. [16 o + k] is where byte k of it comes from, if it
# begins o bytes back; [o] is the smallest multiple of o from which 16 bytes can be copied at once. 0 is never used.
_REPEATED = np.array([k % o if o else 0 for o in range(_NEAR + 1) for k in range(16)], np.uint8)
_BACK = np.array([_NEAR, *(-(-_NEAR // o) * o for o in range(1, _NEAR + 1))], np.int64)

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BYTES, _SIXTEEN = ir.IntType(8), ir.VectorType(ir.IntType(8), 16)


def _at(context: Any, builder: Any, signature: Any, arguments: Any, k: int, place: Any, kind: Any) -> Any:
    """Return the address of arguments[k][place] as one of this kind."""
    array = context.make_array(signature.args[k])(context, builder, arguments[k])
    return builder.bitcast(builder.gep(array.data, [place]), kind.as_pointer())


def _make_load(bits: int) -> Any:
    """Return an intrinsic that loads so many bits; they need not be aligned, as numba's own views must."""

    @intrinsic
    def load(typing: Any, array: Any, place: Any) -> Any:
        """Return the little-endian number that begins at a place of an array of bytes, which may not be negative."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at = _at(context, builder, signature, arguments, 0, arguments[1], ir.IntType(bits))
            return builder.zext(builder.load(at, align=1), _I64)

        return types.int64(array, types.int64), generate

    return load


def _make_copy(n: int) -> Any:
    """Return an intrinsic that copies so many bytes."""

    @intrinsic
    def copy(typing: Any, source: Any, i: Any, target: Any, j: Any) -> Any:
        """Copy the bytes from source[i] on to target[j]."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            vector = ir.VectorType(_BYTES, n)
            values = builder.load(_at(context, builder, signature, arguments, 0, arguments[1], vector), align=1)
            builder.store(values, _at(context, builder, signature, arguments, 2, arguments[3], vector), align=1)
            return context.get_dummy_value()

        return types.void(source, types.int64, target, types.int64), generate

    return copy


@intrinsic
def _repeat(typing: Any, planes: Any, i: Any, order: Any, k: Any, j: Any) -> Any:
    """Write to planes[j + m] the byte planes[i + order[k + m]], m = 0 ... 15.

    The compiler makes one shuffle of it where the processor has such a thing, as those of x86 do.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(_at(context, builder, signature, arguments, 0, arguments[1], _SIXTEEN), align=1)
        places = builder.load(_at(context, builder, signature, arguments, 2, arguments[3], _SIXTEEN), align=1)
        made = ir.Constant(_SIXTEEN, ir.Undefined)
        for m in range(16):
            lane = ir.Constant(_I32, m)
            byte = builder.extract_element(values, builder.extract_element(places, lane))
            made = builder.insert_element(made, byte, lane)
        builder.store(made, _at(context, builder, signature, arguments, 0, arguments[4], _SIXTEEN), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.int64, order, types.int64, types.int64), generate


@intrinsic
def _fill(typing: Any, planes: Any, i: Any, j: Any) -> Any:
    """Write the 8 bytes at planes[i] to the 64 from planes[j] on, again and again."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(_I64, 8)
        word = builder.load(_at(context, builder, signature, arguments, 0, arguments[1], _I64), align=1)
        nothing = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(nothing, word, ir.Constant(_I32, 0))
        words = builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, 8), [0] * 8))
        builder.store(words, _at(context, builder, signature, arguments, 0, arguments[2], vector), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.int64, types.int64), generate


@intrinsic
def _above(
    typing: Any, raw: Any, i: Any, pitch: Any, cut: Any, places: Any, j: Any, above: Any, w: Any, pixels: Any
) -> Any:
    """Compare 64 WORDS pixels with their cut; bit k of above[w + m] is whether pixel 64 m + k is above.

    Plane p of raw begins at raw[i + p * pitch], bytes, and that of the cut at cut[places[j + p] + w], words. There are
    as many planes as pixels has bits; if it is signed, the highest of raw is turned.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, vector = signature.args[8].dtype, ir.VectorType(_I64, WORDS)
        _, i, pitch, _, _, j, _, w, _ = arguments
        above, equal = ir.Constant(vector, [0] * WORDS), ir.Constant(vector, [-1] * WORDS)
        # From the highest bit down: the first bit that differs decides.
        for p in reversed(range(number.bitwidth)):
            place = builder.add(i, builder.mul(pitch, ir.Constant(_I64, p)))
            ours = builder.load(_at(context, builder, signature, arguments, 0, place, vector), align=1)
            if number.signed and p == number.bitwidth - 1:
                ours = builder.not_(ours)
            place = builder.add(j, ir.Constant(_I64, p))
            place = builder.load(_at(context, builder, signature, arguments, 4, place, _I64))
            place = builder.add(place, w)
            theirs = builder.load(_at(context, builder, signature, arguments, 3, place, vector), align=8)
            differs = builder.and_(equal, builder.xor(ours, theirs))
            above = builder.or_(above, builder.and_(differs, ours))
            equal = builder.xor(equal, differs)
        builder.store(above, _at(context, builder, signature, arguments, 6, w, vector), align=8)
        return context.get_dummy_value()

    signature = types.void(
        raw, types.int64, types.int64, cut, places, types.int64, above, types.int64, pixels
    )  # fmt: skip
    return signature, generate


@intrinsic
def _numbers(typing: Any, planes: Any, i: Any, pitch: Any, to: Any, j: Any) -> Any:
    """Write 64 numbers from to[j] on; plane p of theirs begins at planes[i + p * pitch].

    Blocks of 8 x 8 bits are transposed by three exchanges (H. S. Warren, Hacker's Delight, 7-3), eight at once.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide, narrow = ir.VectorType(_I64, 8), ir.VectorType(_BYTES, 8)
        number = ir.IntType(signature.args[3].dtype.bitwidth)
        numbers = ir.VectorType(number, 64)

        def each(value: int) -> Any:
            return ir.Constant(wide, [value] * 8)

        _, place, pitch, _, j = arguments
        total = ir.Constant(numbers, [0] * 64)
        for shift_of_byte in range(0, number.width, 8):
            x = each(0)
            for k in range(8):
                bits = builder.load(_at(context, builder, signature, arguments, 0, place, narrow), align=1)
                x = builder.or_(x, builder.shl(builder.zext(bits, wide), each(8 * k)))
                place = builder.add(place, pitch)
            for shift, mask in ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0)):
                differs = builder.and_(builder.xor(x, builder.lshr(x, each(shift))), each(mask))
                x = builder.xor(x, builder.xor(differs, builder.shl(differs, each(shift))))
            part = builder.bitcast(x, ir.VectorType(_BYTES, 64))
            if number.width > 8:
                part = builder.zext(part, numbers)
            total = builder.or_(total, builder.shl(part, ir.Constant(numbers, [shift_of_byte] * 64)))
        builder.store(total, _at(context, builder, signature, arguments, 3, j, numbers), align=1)
        return context.get_dummy_value()

    return types.void(planes, types.int64, types.int64, to, types.int64), generate


@intrinsic
def _list(
    typing: Any, raw: Any, i: Any, background: Any, j: Any, shift: Any, r: Any, c: Any,
    row: Any, col: Any, value: Any, intensity: Any, n: Any,
) -> Any:  # fmt: skip
    """Write of LANES pixels row r, columns from c, counts, and counts - (background - shift), all from n on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        doubles, indices = ir.VectorType(ir.DoubleType(), LANES), ir.VectorType(_I32, LANES)

        def vector(k: int) -> Any:
            return ir.VectorType(context.get_data_type(signature.args[k].dtype), LANES)

        def load(k: int) -> Any:
            return builder.load(_at(context, builder, signature, arguments, k, arguments[k + 1], vector(k)), align=1)

        def as_doubles(values: Any, number: Any) -> Any:
            if isinstance(number, types.Float):
                return values if number.bitwidth == 64 else builder.fpext(values, doubles)
            return builder.sitofp(values, doubles) if number.signed else builder.uitofp(values, doubles)

        def splat(value: Any) -> Any:
            nothing = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
            one = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
            return builder.shuffle_vector(one, nothing, ir.Constant(indices, [0] * LANES))

        counts = load(0)
        level = builder.fsub(as_doubles(load(2), signature.args[2].dtype), splat(arguments[4]))
        above = builder.fsub(as_doubles(counts, signature.args[0].dtype), level)
        rows, first = (splat(builder.trunc(each, _I32)) for each in arguments[5:7])
        cols = builder.add(first, ir.Constant(indices, list(range(LANES))))
        for k, values in ((7, rows), (8, cols), (9, counts), (10, above)):
            at = _at(context, builder, signature, arguments, k, arguments[11], values.type)
            builder.store(values, at, align=1)
        return context.get_dummy_value()

    index, number = types.int64, types.float64
    return types.void(raw, index, background, index, number, index, index, row, col, value, intensity, index), generate


# A type checker takes an intrinsic for the function that generates it, with one argument more.
byte_at: Any = _make_load(8)
pair_at: Any = _make_load(16)
copy_16: Any = _make_copy(16)
copy_stride: Any = _make_copy(_STRIDE)
repeat: Any = _repeat
fill: Any = _fill
above_of: Any = _above
numbers_of: Any = _numbers
list_of: Any = _list


@compiled()
def _lz4(packed: Array, first: int, end: int, planes: Array, size: int) -> bool:
    """Decode one LZ4 block, packed[first:end], to planes[:size]; tell whether it is exactly that long.

    Needs 0 <= first <= end <= len(packed) and SLACK bytes after planes[:size]. The format is that of
    ``lz4_Block_format.md`` of the LZ4 project: a token, literals, then a match further back in the output.

    What costs time is a branch that cannot be predicted. So the usual few literals, and up to 16 bytes of a match
    whether it repeats itself or not, are written without asking how many they are.
    """
    i: Any = np.int64(first)
    n: Any = np.int64(0)
    while i < end:
        token = byte_at(packed, i)
        i += 1
        length = token >> 4
        if length < 15 and i + 18 <= end and n + 15 <= size:
            copy_16(packed, i, planes, n)
            i += length
            n += length
        else:
            if length == 15:
                more = np.int64(255)
                while more == 255 and i < end:
                    more = byte_at(packed, i)
                    i += 1
                    length += more
            if length > end - i or length > size - n:
                return False
            k: Any = np.int64(0)
            while k < length and i + k + _STRIDE <= len(packed):
                copy_stride(packed, i + k, planes, n + k)
                k += _STRIDE
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
        offset = pair_at(packed, i)
        i += 2
        length = (token & 15) + 4
        if length == 19:
            more = np.int64(255)
            while more == 255 and i < end:
                more = byte_at(packed, i)
                i += 1
                length += more
        if offset == 0 or offset > n or length > size - n:
            return False
        near = min(offset, _NEAR)
        repeat(planes, n - offset, _REPEATED, 16 * near, n)
        if length > 16:
            if offset >= _STRIDE:
                for k in range(16, length, _STRIDE):
                    copy_stride(planes, n - offset + k, planes, n + k)
            elif offset <= 2 or offset == 4 or offset == 8:
                # Planes of nothing but zeros. To read what was just written, as below, would wait for it each time.
                for k in range(16, length, 64):
                    fill(planes, n, n + k)
            else:
                back = max(offset, _BACK[near])
                for k in range(16, length, 16):
                    copy_16(planes, n - back + k, planes, n + k)
        n += length
    return False


@compiled()
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


@compiled()
def lit_of_chunk(
    chunk: Array,
    i: int,
    block: int,
    planes: Array,
    places: Array,
    cut: Array,
    top: Any,
    sentinels: Array,
    background: Array,
    shift: float,
    scratch: Array,
    above: Array,
    pixels: Array,
    runs: Array,
    row: Array,
    col: Array,
    value: Array,
    intensity: Array,
) -> tuple[int, int, int]:
    """List the lit pixels of the blocks that begin at chunk[i], and the runs that they form, as `lit_pixels` does.

    Parameters
    ----------
    chunk
        uint8, shape (n,).
    block
        Pixels of a block, a multiple of 8. The last block may be shorter; up to 7 pixels after it are as they are.
    planes
        uint64: planes of the cut, each filled to a multiple of WORDS words, the highest turned for signed numbers.
    places
        int64: where in them plane p of block k begins, at [k * planes + p].
    cut
        Lit where raw is above it, of the type of a pixel, shape (rows, columns), C-contiguous.
    top, sentinels
        Largest valid counts, and other counts that are never lit, of the type of a pixel.
    background, shift
        Intensity is raw - (background - shift); shape (rows or 1, columns), C-contiguous.
    scratch
        uint8: room for a block's planes and SLACK.
    above
        uint64: room for as many words as a plane of `planes` has.
    pixels
        Room for 64 pixels a word of `above`, and LANES more, shape (2, n): a block is listed when the next is decoded.
    runs, row, col, value, intensity
        As those of `lit_pixels`.

    Returns
    -------
    n_runs, n
        How many runs and lit pixels there are; what is written when there is no room, `lit_pixels` says.
    end
        Where the blocks end in the chunk; -1 if it is damaged, when all this is of no use.
    """
    cols = cut.shape[1]
    cuts, backgrounds = cut.reshape(-1), background.reshape(-1)
    pitch = cols if background.shape[0] > 1 else 0
    run_row, run_col, first = runs[0], runs[1], runs[2]
    capacity, bits = len(run_row) - 1, 8 * pixels.itemsize
    n_pixels = len(cuts)
    n_blocked = n_pixels // 8 * 8
    n_runs, j, end = 0, 0, -1
    n: Any = 0
    r, row_start, start = 0, 0, 0
    listed, before = 0, 0
    numbers, others = pixels[0], pixels[1]
    while start < n_pixels:
        blocked = start < n_blocked
        stop = min(start + block, n_blocked) if blocked else n_pixels
        n_bytes = (stop - start) // 8
        if blocked:
            i = _block(chunk, i, scratch, bits * n_bytes)
            if i < 0:
                return 0, 0, -1
            _compare(scratch, n_bytes, planes, places, j, above, numbers)
            j += bits
        elif len(chunk) - i < (n_pixels - n_blocked) * pixels.itemsize:
            return 0, 0, i
        else:
            above[0] = _compare_rest(chunk, i, cuts, n_blocked, numbers)
        listed_to, n_to = n_runs, n
        for w in range((stop - start + 63) // 64):
            word = above[w]
            if word == 0:
                continue
            if blocked:
                numbers_of(scratch, 8 * w, n_bytes, numbers, 64 * w)
            word = _valid(word, numbers, 64 * w, top, sentinels)
            at = start + 64 * w - row_start
            while word != 0:
                skip = trailing_zeros(word)
                word >>= skip
                at += np.int64(skip)
                if at >= cols:
                    rows = at // cols
                    r += rows
                    row_start += rows * cols
                    at -= rows * cols
                length = min(np.int64(trailing_zeros(~word)), cols - at)
                if at == 0 or row_start + at != end:
                    if n_runs < capacity:
                        run_row[n_runs] = r
                        run_col[n_runs] = at
                        first[n_runs] = n
                        # No pass over the frame has brought the background near.
                        prefetch(backgrounds, r * pitch + at)
                    n_runs += 1
                n += length
                at += length
                end = row_start + at
                if length == 64:
                    break
                word >>= np.uint64(length)
            if end > start and n_runs <= capacity:
                prefetch(backgrounds, r * pitch + end - 1 - row_start)
        if n_runs <= capacity and n <= len(row):
            # One block late: what was asked for has come.
            first[n_runs] = n
            _list_block(
                others, before, cols, backgrounds, pitch, shift, run_row, run_col, first, listed, listed_to, n_to,
                row, col, value, intensity,
            )  # fmt: skip
            # The last run may go on in the next block.
            listed = max(listed_to - 1, 0)
        before = start
        numbers, others = others, numbers
        start = stop
    first[min(n_runs, capacity)] = n
    if n_runs <= capacity and n <= len(row):
        _list_block(
            others, before, cols, backgrounds, pitch, shift, run_row, run_col, first, listed, n_runs, n,
            row, col, value, intensity,
        )  # fmt: skip
    return n_runs, n, i


@compiled(forceinline=True)
def _compare(scratch: Array, n_bytes: int, planes: Array, places: Array, j: int, above: Array, pixels: Array) -> None:
    """Write whether each pixel of a block is above its cut."""
    n_words = (8 * n_bytes + 63) // 64
    for w in range(0, n_words, WORDS):
        above_of(scratch, 8 * w, n_bytes, planes, places, j, above, w, pixels)
    if n_bytes % 8:
        # What was compared beyond the end of the planes is no pixel.
        above[n_words - 1] &= (np.uint64(1) << np.uint64(8 * (n_bytes % 8))) - np.uint64(1)


@compiled()
def _compare_rest(chunk: Array, i: int, cuts: Array, first: int, pixels: Array) -> Any:
    """Copy the pixels that are not compressed, from cuts[first] on, to `pixels`; tell by bits which are above."""
    n = len(cuts) - first
    numbers = pixels.view(np.uint8)
    word = np.uint64(0)
    for k in range(n * pixels.itemsize):
        numbers[k] = chunk[i + k]
    for k in range(n):
        if pixels[k] > cuts[first + k]:
            word |= np.uint64(1) << np.uint64(k)
    return word


@compiled(forceinline=True)
def _valid(word: Any, pixels: Array, i: int, top: Any, sentinels: Array) -> Any:
    """Clear the bits of pixels that are above `top` or hold a sentinel."""
    if top == np.iinfo(pixels.dtype).max and len(sentinels) == 0:
        return word
    left = word
    while left != 0:
        k = trailing_zeros(left)
        left &= left - np.uint64(1)
        number = pixels[i + np.int64(k)]
        wrong = number > top
        for each in sentinels:
            wrong |= number == each
        if wrong:
            word &= ~(np.uint64(1) << k)
    return word


@compiled()
def _list_block(
    pixels: Array,
    start: int,
    cols: int,
    backgrounds: Array,
    pitch: int,
    shift: float,
    run_row: Array,
    run_col: Array,
    first: Array,
    begin: int,
    stop: int,
    n_stop: int,
    row: Array,
    col: Array,
    value: Array,
    intensity: Array,
) -> None:
    """List the lit pixels of runs begin ... stop that lie from pixel `start` on and come before the n_stop-th."""
    for k in range(begin, stop):
        r, c = np.int64(run_row[k]), np.int64(run_col[k])
        n, end = np.int64(first[k]), min(np.int64(first[k + 1]), n_stop)
        i = r * cols + c - start
        if i < 0:
            # It began in a block before, which is listed.
            c -= i
            n -= i
            i = 0
        j = r * pitch + c
        while n < end:
            if j + LANES <= len(backgrounds) and n + LANES <= len(row):
                # What is too much, the next run overwrites.
                list_of(pixels, i, backgrounds, j, shift, r, c, row, col, value, intensity, n)
            else:
                for m in range(min(LANES, end - n)):
                    row[n + m] = r
                    col[n + m] = c + m
                    value[n + m] = pixels[i + m]
                    intensity[n + m] = float(pixels[i + m]) - (float(backgrounds[j + m]) - shift)
            n += LANES
            i += LANES
            j += LANES
            c += LANES


@compiled()
def unpack(chunk: Array, i: int, block: int, scratch: Array, out: Array) -> int:
    """Decode the blocks that begin at chunk[i] to numbers.

    Parameters
    ----------
    chunk
        uint8, shape (n,).
    block
        Pixels of a block, a multiple of 8. The last block may be shorter; up to 7 pixels after it are left as they are.
    scratch
        uint8: room for a block's planes and SLACK.
    out
        Unsigned numbers of the size of a pixel, shape (n,).

    Returns
    -------
    end
        Where the blocks end in the chunk; -1 if it is damaged.
    """
    n_blocked = len(out) // 8 * 8
    last = np.empty(64, out.dtype)
    for first in range(0, n_blocked, block):
        n = min(block, n_blocked - first)
        i = _block(chunk, i, scratch, n * out.itemsize)
        if i < 0:
            return -1
        whole = n // 64 * 64
        for k in range(0, whole, 64):
            numbers_of(scratch, k // 8, n // 8, out, first + k)
        if whole < n:
            numbers_of(scratch, whole // 8, n // 8, last, 0)
            for k in range(n - whole):
                out[first + whole + k] = last[k]
    return i
