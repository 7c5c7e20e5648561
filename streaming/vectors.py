"""Numba intrinsics: several pixels in one vector, where the compiler does not make vectors by itself.

Runs of lit pixels are about as long as one vector, and a loop over so few pixels, of a length that nobody can foretell,
stays scalar and costs a wrong guess of the processor. Here 16 pixels are taken whether the run is that long or not.
Lanes that do not count are not read, so nothing has to exist beyond a list; what is written too much, the next run
overwrites, and the caller gives room for it. Results are equal to the bit to those of the scalar formulas, in their
order or where no order matters.
"""

# Measured on 2048 x 2048 uint16 frames, one thread, AVX512. Comparing: a loop over single pixels takes 3.0-3.9 ms; 64
# comparisons joined with `or`, which the compiler makes vectors of, 0.33 ms, and then the pixels of every block that
# holds a lit one are looked at singly; one comparison of 64 pixels to a word of 64 bits 0.25-0.30 ms, and runs of lit
# pixels come out of the word by counting zeros, so that 3000 spots a frame cost 0.2 ms more than 50. Asking first
# whether any of 256 pixels is lit saves a tenth where the frame is in the cache, and nothing where it is not.
#
# What 3000 spots a frame (27 000 runs, 170 000 pixels) cost beyond that, ms, as minima of repeats; 16 lanes instead of
# 8, masked loads instead of a scalar loop for the ends of the lists, and no counting of references, are in each:
# listing 0.71 -> 0.33; groups and their maxima 1.10 -> 0.74 (one comparison of two rows instead of two, bits of a run
# in one word); moments 0.79 -> 0.42 (a vector of pixels, where sums are exact, instead of one pixel after the other
# with its six products in a vector); splitting 3.2 -> 1.8.

from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compiled import compiled

WORD = 64
"""Pixels that are compared at once."""
LANES = 8
"""Pixels that are taken at once where sums or indices are kept of each."""
WIDE = 16
"""Pixels that are taken at once where they are compared, or summed to few numbers: few runs are longer."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[_Function], _Function]:
    """Compile a function that makes no array and keeps none: `compiled` without counting who uses which array.

    Numba counts up and down, an atomic operation of some 5 ns each, wherever a function that is put into another is
    given arrays, inlined or not: a dozen times for each run of pixels, a third of the time of a crowded frame.
    """
    return compiled(_nrt=False, **options)


_I1, _I8, _I32, _I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_DOUBLE, _FLOAT = ir.DoubleType(), ir.FloatType()
_DOUBLES = ir.VectorType(_DOUBLE, LANES)


def _place(context: Any, builder: Any, array_type: Any, array: Any, index: Any, vector: Any) -> Any:
    """Return where a vector begins in a one-dimensional contiguous array."""
    first = builder.gep(context.make_array(array_type)(context, builder, array).data, [index])
    return builder.bitcast(first, vector.as_pointer())


def _load(context: Any, builder: Any, array_type: Any, array: Any, index: Any, lanes: int = LANES) -> Any:
    vector = ir.VectorType(context.get_data_type(array_type.dtype), lanes)
    place = _place(context, builder, array_type, array, index, vector)
    return builder.load(place, align=array_type.dtype.bitwidth // 8)


def _load_some(context: Any, builder: Any, array_type: Any, array: Any, index: Any, flags: Any) -> Any:
    """Load the lanes whose flag is set, 0 in the others, whose memory need not exist."""
    vector = ir.VectorType(context.get_data_type(array_type.dtype), flags.type.count)
    place = _place(context, builder, array_type, array, index, vector)
    kind = "f" if isinstance(array_type.dtype, types.Float) else "i"
    name = f"llvm.masked.load.v{vector.count}{kind}{array_type.dtype.bitwidth}.p0"
    function = ir.FunctionType(vector, [place.type, _I32, flags.type, vector])
    load = builder.module.globals.get(name) or ir.Function(builder.module, function, name)
    align = ir.Constant(_I32, array_type.dtype.bitwidth // 8)
    return builder.call(load, [place, align, flags, ir.Constant(vector, None)])


def _flags(builder: Any, word: Any, lanes: int = WIDE) -> Any:
    """Return the lowest bits of a word as flags of lanes."""
    return builder.bitcast(builder.trunc(word, ir.IntType(lanes)), ir.VectorType(_I1, lanes))


def _store(context: Any, builder: Any, array_type: Any, array: Any, index: Any, values: Any) -> None:
    place = _place(context, builder, array_type, array, index, values.type)
    builder.store(values, place, align=array_type.dtype.bitwidth // 8)


def _splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _doubles(builder: Any, values: Any, number: Any) -> Any:
    vector = ir.VectorType(_DOUBLE, values.type.count)
    if isinstance(number, types.Float):
        return values if number.bitwidth == 64 else builder.fpext(values, vector)
    return builder.sitofp(values, vector) if number.signed else builder.uitofp(values, vector)


def _first(builder: Any, n: Any) -> Any:
    """Return flags of the first n of 16 lanes."""
    lanes = ir.Constant(ir.VectorType(_I32, WIDE), list(range(WIDE)))
    return builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(n, _I32), WIDE))


def _from(builder: Any, number: Any) -> Any:
    """Return number, number + 1 ... in 16 lanes."""
    lanes = ir.Constant(ir.VectorType(_I32, WIDE), list(range(WIDE)))
    return builder.add(_splat(builder, builder.trunc(number, _I32), WIDE), lanes)


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
def _over_word(typing: Any, raw: Any, i: Any, least: Any, excess: Any, j: Any) -> Any:
    """Compare 64 pixels; bit k is set where ``raw[i + k] > least + excess[j + k]``, of floating-point numbers ``>=``.

    least is of the type of raw, excess uint8; 0 where raw is NaN.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        raw_type, _, number, excess_type, _ = signature.args
        pixels = _load(context, builder, raw_type, arguments[0], arguments[1], WORD)
        excess = _load(context, builder, excess_type, arguments[3], arguments[4], WORD)
        levels = _splat(builder, arguments[2], WORD)
        if isinstance(number, types.Float):
            excess = builder.uitofp(excess, pixels.type)
            return builder.bitcast(builder.fcmp_ordered(">=", builder.fsub(pixels, levels), excess), _I64)
        # What lies too far off to be held stays above 255, or below 0.
        kind, compare = ("s", builder.icmp_signed) if number.signed else ("u", builder.icmp_unsigned)
        name = f"llvm.{kind}sub.sat.v{WORD}i{number.bitwidth}"
        function = ir.FunctionType(pixels.type, [pixels.type, pixels.type])
        minus = builder.module.globals.get(name) or ir.Function(builder.module, function, name)
        over = builder.call(minus, [pixels, levels])
        excess = excess if number.bitwidth == 8 else builder.zext(excess, pixels.type)
        return builder.bitcast(compare(">", over, excess), _I64)

    return types.uint64(raw, types.intp, raw.dtype, excess, types.intp), generate


@intrinsic
def _any_of(typing: Any, marks: Any, i: Any, n: Any) -> Any:
    """Tell whether one of up to 16 of n numbers, uint8, from i on, is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        some = _load_some(
            context, builder, signature.args[0], arguments[0], arguments[1], _first(builder, arguments[2])
        )
        found = builder.bitcast(builder.icmp_unsigned("!=", some, ir.Constant(some.type, None)), ir.IntType(WIDE))
        return builder.icmp_unsigned("!=", found, ir.Constant(ir.IntType(WIDE), 0))

    return types.boolean(marks, types.intp, types.int64), generate


@intrinsic
def _trailing_zeros(typing: Any, word: Any) -> Any:
    """Count the zeros below the lowest set bit of a word; 64 if none is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(_I1, 0))

    return types.uint64(types.uint64), generate


@intrinsic
def _count_ones(typing: Any, word: Any) -> Any:
    """Count the set bits of a word."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


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
        builder.call(ask, [place, ir.Constant(_I32, 0), ir.Constant(_I32, 2), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _list_pixels(
    typing: Any,
    raw: Any,
    i: Any,
    n: Any,
    background: Any,
    j: Any,
    shift: Any,
    r: Any,
    c: Any,
    row: Any,
    col: Any,
    value: Any,
    intensity: Any,
    k: Any,
) -> Any:
    """Write of up to 16 of n pixels row r, columns from c, counts, and counts - (background - shift), all from k on.

    There must be 16 places.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        flags = _first(builder, arguments[2])
        pixels = _load_some(context, builder, kinds[0], arguments[0], arguments[1], flags)
        level = _load_some(context, builder, kinds[3], arguments[3], arguments[4], flags)
        level = builder.fsub(_doubles(builder, level, kinds[3].dtype), _splat(builder, arguments[5], WIDE))
        above = builder.fsub(_doubles(builder, pixels, kinds[0].dtype), level)
        rows = _splat(builder, builder.trunc(arguments[6], _I32), WIDE)
        for place, values in ((8, rows), (9, _from(builder, arguments[7])), (10, pixels), (11, above)):
            _store(context, builder, kinds[place], arguments[place], arguments[12], values)
        return context.get_dummy_value()

    index, number = types.intp, types.float64
    signature = types.void(
        raw, index, types.int64, background, index, number, types.int64, types.int64, row, col, value, intensity, index
    )
    return signature, generate


@intrinsic
def _keep_pixels(
    typing: Any,
    raw: Any,
    i: Any,
    n: Any,
    label: Any,
    r: Any,
    c: Any,
    labels: Any,
    row: Any,
    col: Any,
    value: Any,
    k: Any,
) -> Any:
    """Write of up to 16 of n pixels their label, row r, columns from c, and counts as float64, all from k on.

    There must be 16 places.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        flags = _first(builder, arguments[2])
        pixels = _load_some(context, builder, kinds[0], arguments[0], arguments[1], flags)
        labels, rows = (_splat(builder, builder.trunc(each, _I32), WIDE) for each in arguments[3:5])
        values = (labels, rows, _from(builder, arguments[5]), _doubles(builder, pixels, kinds[0].dtype))
        for place, each in enumerate(values, 6):
            _store(context, builder, kinds[place], arguments[place], arguments[10], each)
        return context.get_dummy_value()

    index, whole = types.intp, types.int64
    return types.void(raw, index, whole, whole, whole, whole, labels, row, col, value, index), generate


@intrinsic
def _steps(typing: Any, values: Any, i: Any, here: Any, before: Any, after: Any) -> Any:
    """Say of 16 pixels, from i on, whether they exceed the one before and are not below the one after.

    Only those count whose bit of here is set, and the one before or after only where the pixel's bit in before or after
    is set.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, index, *words) = signature.args[0], arguments
        here, before, after = (_flags(builder, each) for each in words)
        one = ir.Constant(_I64, 1)
        mine = _load_some(context, builder, kind, array, index, here)
        others = _load_some(context, builder, kind, array, builder.sub(index, one), before)
        below = builder.and_(before, builder.fcmp_ordered("<=", mine, others))
        others = _load_some(context, builder, kind, array, builder.add(index, one), after)
        below = builder.or_(below, builder.and_(after, builder.fcmp_ordered("<", mine, others)))
        return _word(builder, builder.and_(here, builder.not_(below)))

    return types.int64(values, types.intp, types.int64, types.int64, types.int64), generate


@intrinsic
def _reached(typing: Any, values: Any, i: Any, near: Any, left: Any, straight: Any, right: Any) -> Any:
    """Compare 16 pixels, from i on, with three neighbours in another row.

    Bits k, 16 + k and 32 + k are set where values[near + k - 1], [near + k] and [near + k + 1] are at least
    values[i + k], and where bit k is set in left, straight or right. Others need not exist.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, index, near, *words) = signature.args[0], arguments
        flags = [_flags(builder, each) for each in words]
        here = builder.or_(builder.or_(flags[0], flags[1]), flags[2])
        mine = _load_some(context, builder, kind, array, index, here)
        word: Any = ir.Constant(_I64, 0)
        for place, counts in enumerate(flags):
            at = builder.add(near, ir.Constant(_I64, place - 1))
            others = _load_some(context, builder, kind, array, at, counts)
            bits = _word(builder, builder.and_(counts, builder.fcmp_ordered(">=", others, mine)))
            word = builder.or_(word, builder.shl(bits, ir.Constant(_I64, place * WIDE)))
        return word

    signature = types.int64(values, types.intp, types.intp, types.int64, types.int64, types.int64)
    return signature, generate


def _word(builder: Any, flags: Any) -> Any:
    """Return the flags of 16 lanes as bits of a word."""
    return builder.zext(builder.bitcast(flags, ir.IntType(WIDE)), _I64)


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


@intrinsic
def _sum_whole(typing: Any, weight: Any, i: Any, n: Any, dc: Any) -> Any:
    """Sum n <= 16 pixels of one row, from i on: w, w dc, w dc^2, the largest w, its index (the first of equals).

    dc is that of the first pixel. The last of the result says whether every w is a whole number and none is below 0.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(_DOUBLE, WIDE)
        w = _load_some(context, builder, signature.args[0], arguments[0], arguments[1], _first(builder, arguments[2]))
        dc = builder.fadd(_splat(builder, arguments[3], WIDE), ir.Constant(wide, [float(k) for k in range(WIDE)]))
        by_col = builder.fmul(w, dc)
        near = builder.call(_unary(builder, "llvm.rint.v16f64", wide), [w])
        near = builder.call(_unary(builder, "llvm.fabs.v16f64", wide), [near])
        odd = builder.bitcast(builder.fcmp_unordered("!=", near, w), ir.IntType(WIDE))
        most = _fold(builder, w, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
        is_most = builder.bitcast(builder.fcmp_ordered("==", w, _splat(builder, most, WIDE)), ir.IntType(WIDE))
        where = builder.cttz(builder.zext(is_most, _I64), ir.Constant(_I1, 0))
        values = [
            _fold(builder, w, builder.fadd),
            _fold(builder, by_col, builder.fadd),
            _fold(builder, builder.fmul(by_col, dc), builder.fadd),
            most,
            builder.add(arguments[1], where),
            builder.icmp_unsigned("==", odd, ir.Constant(ir.IntType(WIDE), 0)),
        ]
        return context.make_tuple(builder, signature.return_type, values)

    number = types.float64
    found = types.Tuple((number, number, number, number, types.int64, types.boolean))
    return found(weight, types.intp, types.int64, number), generate


@intrinsic
def _sum_products(typing: Any, rows: Any, weight: Any, a: Any, b: Any, c: Any, d: Any, n: Any) -> Any:
    """Sum n products of numbers from five places of an array on: weight a c, weight a d, weight b c, weight b d.

    Number k goes into the sum of lane k % 16, and the lanes are joined half with half: no compiler has a choice.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind, (array, *places, count) = signature.args[0], arguments
        wide = ir.VectorType(_DOUBLE, WIDE)
        zero, before = ir.Constant(_I64, 0), builder.block
        body, after = builder.append_basic_block("products"), builder.append_basic_block("products_end")
        builder.branch(body)
        builder.position_at_end(body)
        at, totals = builder.phi(_I64), [builder.phi(wide) for _ in range(4)]
        at.add_incoming(zero, before)
        flags = _first(builder, builder.sub(count, at))
        weight, a, b, c, d = (
            _load_some(context, builder, kind, array, builder.add(place, at), flags) for place in places
        )
        a, b = builder.fmul(weight, a), builder.fmul(weight, b)
        sums: list[Any] = []
        for total, (one, other) in zip(totals, ((a, c), (a, d), (b, c), (b, d)), strict=True):
            total.add_incoming(ir.Constant(wide, [0.0] * WIDE), before)
            sums.append(builder.fadd(total, builder.fmul(one, other)))
            total.add_incoming(sums[-1], body)
        following = builder.add(at, ir.Constant(_I64, WIDE))
        at.add_incoming(following, body)
        builder.cbranch(builder.icmp_signed("<", following, count), body, after)
        builder.position_at_end(after)
        values = [_fold(builder, each, builder.fadd) for each in sums]
        return context.make_tuple(builder, signature.return_type, values)

    index, number = types.intp, types.float64
    return types.UniTuple(number, 4)(rows, index, index, index, index, index, types.int64), generate


def _unary(builder: Any, name: str, vector: Any) -> Any:
    return builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(vector, [vector]), name)


def _fold(builder: Any, vector: Any, join: Any) -> Any:
    """Join the lanes of a vector to one number, half with half."""
    size = vector.type.count
    while size > 1:
        size //= 2
        nothing = ir.Constant(vector.type, ir.Undefined)
        half = ir.VectorType(_I32, size)
        low, high = (
            builder.shuffle_vector(vector, nothing, ir.Constant(half, list(range(start, start + size))))
            for start in (0, size)
        )
        vector = join(low, high)
    return builder.extract_element(vector, ir.Constant(_I32, 0))


def _three(context: Any, builder: Any, signature: Any, arguments: Any) -> list[tuple[Any, Any, Any]]:
    """Return of the three neighbours of 16 pixels in one row: their values, whether they count, and their indices.

    Arguments are values, i, near, low, high. The neighbour of pixel i + k that is straight above or below lies at
    near + k. Of the neighbours only those count whose k, one less and one more for those to the sides, is at least low
    and below high.
    """
    found: list[tuple[Any, Any, Any]] = []
    low, high = (_splat(builder, builder.trunc(each, _I32), WIDE) for each in arguments[3:5])
    for side in (-1, 0, 1):
        index = builder.add(arguments[2], ir.Constant(_I64, side))
        places = ir.Constant(ir.VectorType(_I32, WIDE), [k + side for k in range(WIDE)])
        counts = builder.and_(builder.icmp_signed(">=", places, low), builder.icmp_signed("<", places, high))
        values = _load_some(context, builder, signature.args[0], arguments[0], index, counts)
        indices = builder.add(_splat(builder, builder.trunc(arguments[2], _I32), WIDE), places)
        found.append((values, counts, indices))
    return found


@intrinsic
def _set_scaled(typing: Any, values: Any, i: Any, n: Any, factor: Any, sums: Any) -> Any:
    """Set 16 sums, float32, from i on: the first n to factor times their values, the others to 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        mine = _load_some(context, builder, kinds[0], arguments[0], arguments[1], _first(builder, arguments[2]))
        scaled = builder.fmul(mine, _splat(builder, arguments[3], WIDE))
        _store(context, builder, kinds[4], arguments[4], arguments[1], scaled)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.int64, types.float32, sums), generate


@intrinsic
def _set_lowest(typing: Any, values: Any, i: Any) -> Any:
    """Set 16 values, from i on, to minus infinity."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_data_type(signature.args[0].dtype)
        lowest = ir.Constant(ir.VectorType(kind, WIDE), [float("-inf")] * WIDE)
        _store(context, builder, signature.args[0], arguments[0], arguments[1], lowest)
        return context.get_dummy_value()

    return types.void(values, types.intp), generate


@intrinsic
def _add_near(
    typing: Any, values: Any, i: Any, near: Any, low: Any, high: Any, side: Any, middle: Any, sums: Any
) -> Any:
    """Add to 16 sums, float32, from i on, three neighbours in a row: side, middle and side times their values."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        total = _load(context, builder, signature.args[7], arguments[7], arguments[1], WIDE)
        weights = (arguments[5], arguments[6], arguments[5])
        for (others, _, _), weight in zip(_three(context, builder, signature, arguments), weights, strict=True):
            total = builder.fadd(total, builder.fmul(others, _splat(builder, weight, WIDE)))
        _store(context, builder, signature.args[7], arguments[7], arguments[1], total)
        return context.get_dummy_value()

    index, number = types.intp, types.float32
    return types.void(values, index, index, types.int64, types.int64, number, number, sums), generate


@intrinsic
def _take_brighter(typing: Any, values: Any, i: Any, near: Any, low: Any, high: Any, best: Any, where: Any) -> Any:
    """Let 16 pixels, from i on, take what is brighter than their best so far of three neighbours in a row.

    best holds values, where indices.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        top = _load(context, builder, signature.args[5], arguments[5], arguments[1], WIDE)
        place = _load(context, builder, signature.args[6], arguments[6], arguments[1], WIDE)
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
over_word: Any = _over_word
any_of: Any = _any_of
trailing_zeros: Any = _trailing_zeros
prefetch: Any = _prefetch
list_pixels: Any = _list_pixels
keep_pixels: Any = _keep_pixels
steps: Any = _steps
reached: Any = _reached
count_ones: Any = _count_ones
sum_whole: Any = _sum_whole
add_moments: Any = _add_moments
sum_products: Any = _sum_products
add_near: Any = _add_near
set_scaled: Any = _set_scaled
set_lowest: Any = _set_lowest
take_brighter: Any = _take_brighter
