"""Numba intrinsics: several pixels in one vector, where the compiler does not make vectors by itself.

Runs of lit pixels are about as long as one vector, and a loop over so few pixels, of a length that nobody can foretell,
stays scalar and costs a wrong guess of the processor. Here eight pixels are taken whether the run is that long or not,
and what is too much is overwritten, or masked. Each lane does what the scalar formula does, in its order: results are
equal to the bit. The caller sees to it that eight values can be read and written.
"""

# Measured on 2048 x 2048 uint16 frames, one thread, AVX512. Comparing: a loop over single pixels takes 3.0-3.9 ms; 64
# comparisons joined with `or`, which the compiler makes vectors of, 0.33 ms, and then the pixels of every block that
# holds a lit one are looked at singly; one comparison of 64 pixels to a word of 64 bits 0.25-0.30 ms, and runs of lit
# pixels come out of the word by counting zeros, so that 3000 spots a frame cost 0.2 ms more than 50.

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = 64
"""Pixels that are compared at once."""
LANES = 8
"""Pixels that are taken at once by everything else."""

_I1, _I8, _I32, _I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_DOUBLE, _FLOAT = ir.DoubleType(), ir.FloatType()
_INDICES = ir.VectorType(_I32, LANES)
_DOUBLES = ir.VectorType(_DOUBLE, LANES)


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    """Return where a vector begins in a one-dimensional contiguous array."""
    first = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return builder.bitcast(first, vector.as_pointer())


def _load(context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int = LANES) -> Any:
    vector = ir.VectorType(context.get_data_type(array_type.dtype), lanes)
    place = _place(context, builder, array_type, array, index, vector)
    return builder.load(place, align=array_type.dtype.bitwidth // 8)


def _store(context: Any, builder: Any, array_type: Any, array: Any, index: Any, values: Any) -> None:
    place = _place(context, builder, array_type, array, index, values.type)
    builder.store(values, place, align=array_type.dtype.bitwidth // 8)


def _splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _doubles(builder: Any, values: Any, number: Any) -> Any:
    if isinstance(number, types.Float):
        return values if number.bitwidth == 64 else builder.fpext(values, _DOUBLES)
    return builder.sitofp(values, _DOUBLES) if number.signed else builder.uitofp(values, _DOUBLES)


@intrinsic
def _lit_word(typing: Any, raw: Any, i: Any, cut: Any, j: Any, top: Any) -> Any:
    """Compare 64 pixels; bit k of the result is ``cut[j + k] < raw[i + k] <= top``, and 0 where raw is NaN.

    raw and cut are of one type.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        raw_type, _, cut_type, _, _ = signature.args
        number = raw_type.dtype
        if isinstance(number, types.Float):
            compare = builder.fcmp_ordered
        else:
            compare = builder.icmp_signed if number.signed else builder.icmp_unsigned
        pixels = _load(context, builder, raw_type, arguments[0], arguments[1], WORD)
        cuts = _load(context, builder, cut_type, arguments[2], arguments[3], WORD)
        tops = _splat(builder, arguments[4], WORD)
        return builder.bitcast(builder.and_(compare(">", pixels, cuts), compare("<=", pixels, tops)), _I64)

    return types.uint64(raw, types.intp, cut, types.intp, raw.dtype), generate


@intrinsic
def _trailing_zeros(typing: Any, word: Any) -> Any:
    """Count the zeros below the lowest set bit of a word; 64 if none is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_I1, 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _prefetch(typing: Any, array: Any, i: Any) -> Any:
    """Ask for the memory of array[i] to be read soon."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte = _I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        ask = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(builder.module, kind, "llvm.prefetch.p0")
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        # To read, of little further use, data.
        builder.call(ask, [place, ir.Constant(_I32, 0), ir.Constant(_I32, 1), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _list_pixels(
    typing: Any,
    raw: Any,
    i: Any,
    background: Any,
    j: Any,
    shift: Any,
    r: Any,
    c: Any,
    row: Any,
    col: Any,
    value: Any,
    intensity: Any,
    n: Any,
) -> Any:
    """Write of eight pixels row r, columns from c, counts, and counts - (background - shift), all from n on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        pixels = _load(context, builder, kinds[0], arguments[0], arguments[1])
        level = _load(context, builder, kinds[2], arguments[2], arguments[3])
        level = builder.fsub(_doubles(builder, level, kinds[2].dtype), _splat(builder, arguments[4]))
        above = builder.fsub(_doubles(builder, pixels, kinds[0].dtype), level)
        rows = _splat(builder, builder.trunc(arguments[5], _I32))
        cols = builder.add(
            _splat(builder, builder.trunc(arguments[6], _I32)), ir.Constant(_INDICES, list(range(LANES)))
        )
        for k, values in ((7, rows), (8, cols), (9, pixels), (10, above)):
            _store(context, builder, kinds[k], arguments[k], arguments[11], values)
        return context.get_dummy_value()

    signature = types.void(
        raw, types.intp, background, types.intp, types.float64, types.int64, types.int64, row, col, value, intensity,
        types.intp,
    )  # fmt: skip
    return signature, generate


@intrinsic
def _steps(typing: Any, values: Any, i: Any) -> Any:
    """Compare eight values with their neighbours.

    Bit k is set where values[i + k] is above the one before, bit 8 + k where it is not below the one after.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, one = signature.args[0], ir.Constant(_I64, 1)
        here, before, after = (
            _load(context, builder, kind, arguments[0], index)
            for index in (arguments[1], builder.sub(arguments[1], one), builder.add(arguments[1], one))
        )
        rises = builder.zext(builder.bitcast(builder.fcmp_ordered(">", here, before), _I8), _I64)
        falls = builder.zext(builder.bitcast(builder.fcmp_ordered(">=", here, after), _I8), _I64)
        return builder.or_(rises, builder.shl(falls, ir.Constant(_I64, LANES)))

    return types.uint64(values, types.intp), generate


def _make_exceeded(compare: str) -> Any:
    """Return an intrinsic whose comparison of a neighbour with a pixel is this one."""

    @intrinsic
    def exceeded(typing: Any, values: Any, i: Any, near: Any, low: Any, high: Any) -> Any:
        """Compare eight pixels with their three neighbours in another row.

        The neighbour of pixel i + k that is straight above or below lies at near + k. Of the neighbours only those
        count whose k, one less and one more for those to the sides, is at least low and below high. Bit k is set where
        one that counts exceeds the pixel.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            mine = _load(context, builder, signature.args[0], arguments[0], arguments[1])
            found = ir.Constant(ir.VectorType(_I1, LANES), [0] * LANES)
            for others, counts, _ in _three(context, builder, signature, arguments):
                found = builder.or_(found, builder.and_(counts, builder.fcmp_ordered(compare, others, mine)))
            return builder.zext(builder.bitcast(found, _I8), _I64)

        return types.uint64(values, types.intp, types.intp, types.int64, types.int64), generate

    return exceeded


@intrinsic
def _add_moments(typing: Any, weight: Any, i: Any, n: Any, dr: Any, dc: Any, sums: Any, k: Any) -> Any:
    """Add n pixels of one row, from i on, to the six sums at sums[k]: w, w dr, w dc, w dr^2, w dc^2, w dr dc.

    The six are lanes of one vector, so that each is summed pixel by pixel; dc is that of the first pixel. Lanes six and
    seven of sums stay as they are. Return the index of the brightest of them, the first of equals.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        weight_type, sums_type = signature.args[0], signature.args[5]
        data = context.make_array(weight_type)(context, builder, arguments[0]).data
        _, index, count, dr, dc, _, k = arguments
        one, zero = ir.Constant(_DOUBLE, 1.0), ir.Constant(_DOUBLE, 0.0)

        def vector(*lanes: Any) -> Any:
            made = ir.Constant(_DOUBLES, [0.0] * LANES)
            for place, lane in enumerate(lanes):
                made = builder.insert_element(made, lane, ir.Constant(_I32, place))
            return made

        # (w * a) * b: the products in the order of the formulas, where a factor of 1 changes nothing.
        first = vector(one, dr, dc, dr, dc, dr, zero, zero)
        second = vector(one, one, one, dr, dc, dc, one, one)
        first_step = ir.Constant(_DOUBLES, [0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0])
        second_step = ir.Constant(_DOUBLES, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
        place = _place(context, builder, sums_type, arguments[5], k, _DOUBLES)
        start = builder.load(place, align=8)
        before = builder.block
        body, after = builder.append_basic_block("moments"), builder.append_basic_block("moments_end")
        builder.branch(body)
        builder.position_at_end(body)
        at, total, a, b = builder.phi(_I64), builder.phi(_DOUBLES), builder.phi(_DOUBLES), builder.phi(_DOUBLES)
        bright, where = builder.phi(_DOUBLE), builder.phi(_I64)
        place_of_one = builder.add(index, at)
        one_weight = builder.load(builder.gep(data, [place_of_one]))
        brighter = builder.fcmp_ordered(">", one_weight, bright)
        w = _splat(builder, one_weight)
        added = builder.fadd(total, builder.fmul(builder.fmul(w, a), b))
        following = builder.add(at, ir.Constant(_I64, 1))
        pairs = (
            (at, ir.Constant(_I64, 0), following),
            (total, start, added),
            (a, first, builder.fadd(a, first_step)),
            (b, second, builder.fadd(b, second_step)),
            (bright, ir.Constant(_DOUBLE, float("-inf")), builder.select(brighter, one_weight, bright)),
            (where, index, builder.select(brighter, place_of_one, where)),
        )
        for phi, initial, step in pairs:
            phi.add_incoming(initial, before)
            phi.add_incoming(step, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        builder.position_at_end(after)
        builder.store(added, place, align=8)
        return pairs[-1][2]

    double = types.float64
    return types.int64(weight, types.intp, types.int64, double, double, sums, types.intp), generate


def _three(context: Any, builder: Any, signature: Any, arguments: Any) -> list[tuple[Any, Any, Any]]:
    """Return of the three neighbours of eight pixels in one row: their values, whether they count, and their indices.

    Arguments are values, i, near, low, high as those of `exceeded`.
    """
    found: list[tuple[Any, Any, Any]] = []
    low, high = (_splat(builder, builder.trunc(each, _I32)) for each in arguments[3:5])
    for side in (-1, 0, 1):
        index = builder.add(arguments[2], ir.Constant(_I64, side))
        places = ir.Constant(_INDICES, [k + side for k in range(LANES)])
        counts = builder.and_(builder.icmp_signed(">=", places, low), builder.icmp_signed("<", places, high))
        values = _load(context, builder, signature.args[0], arguments[0], index)
        indices = builder.add(_splat(builder, builder.trunc(arguments[2], _I32)), places)
        found.append((values, counts, indices))
    return found


@intrinsic
def _add_near(
    typing: Any, values: Any, i: Any, near: Any, low: Any, high: Any, side: Any, middle: Any, sums: Any
) -> Any:
    """Add to eight sums, float32, from i on, three neighbours in a row: side, middle and side times their values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total = _load(context, builder, signature.args[7], arguments[7], arguments[1])
        weights = (arguments[5], arguments[6], arguments[5])
        for (others, counts, _), weight in zip(_three(context, builder, signature, arguments), weights, strict=True):
            nothing = ir.Constant(others.type, [0.0] * LANES)
            others = builder.select(counts, others, nothing)
            total = builder.fadd(total, builder.fmul(others, _splat(builder, weight)))
        _store(context, builder, signature.args[7], arguments[7], arguments[1], total)
        return context.get_dummy_value()

    index, number = types.intp, types.float32
    return types.void(values, index, index, types.int64, types.int64, number, number, sums), generate


@intrinsic
def _take_brighter(typing: Any, values: Any, i: Any, near: Any, low: Any, high: Any, best: Any, where: Any) -> Any:
    """Let eight pixels, from i on, take what is brighter than their best so far of three neighbours in a row.

    best holds values, where indices.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        top = _load(context, builder, signature.args[5], arguments[5], arguments[1])
        place = _load(context, builder, signature.args[6], arguments[6], arguments[1])
        # Selections, not branches: where the brightest neighbour lies cannot be predicted.
        for others, counts, indices in _three(context, builder, signature, arguments):
            brighter = builder.and_(counts, builder.fcmp_ordered(">", others, top))
            top = builder.select(brighter, others, top)
            place = builder.select(brighter, indices, place)
        _store(context, builder, signature.args[5], arguments[5], arguments[1], top)
        _store(context, builder, signature.args[6], arguments[6], arguments[1], place)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.intp, types.int64, types.int64, best, where), generate


# A type checker takes an intrinsic for the function that generates it, with one argument more.
lit_word: Any = _lit_word
trailing_zeros: Any = _trailing_zeros
prefetch: Any = _prefetch
list_pixels: Any = _list_pixels
steps: Any = _steps
exceeded: Any = _make_exceeded(">")
reached: Any = _make_exceeded(">=")
add_moments: Any = _add_moments
add_near: Any = _add_near
take_brighter: Any = _take_brighter
