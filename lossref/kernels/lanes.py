"""Lanes: a vector of numbers that the processor works on at once, as a Numba type.

LLVM does not vectorise a running maximum or anything that it may not reorder, so the kernels say what they
mean: `Lanes` is an LLVM vector of 256 bytes (four registers of AVX-512: four independent chains hide the
latency of the arithmetic). LLVM splits it on narrower machines. In a kernel lanes are values like any
other:

    total = spread(row, 0.0)
    for j in range(0, whole(row), width(row)):
        total = total + load(row, j)
    total = total + load_tail(row, whole(row), 0.0)         # the rest of the row, filled up with zeros
    return sum_of(total)

Arithmetic is elementwise and is never contracted or reordered, except where the name says so.
"""

import operator

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import (
    intrinsic,
    models,
    overload,
    register_model,
)

__all__ = [
    "BYTES",
    "HAS_AVX512",
    "Lanes",
    "absolute",
    "closed",
    "exceeds",
    "first_lane",
    "from_table",
    "fused_multiply_add",
    "is_zero",
    "larger",
    "largest_of",
    "load",
    "load_tail",
    "magnitude_is_infinite",
    "memory_fence",
    "misalignment",
    "power_of_two",
    "prefetch",
    "scale_by_power_of_two",
    "select",
    "spread",
    "store",
    "store_around_caches",
    "store_tail",
    "sum_of",
    "whole",
    "widened",
    "width",
]

# What Numba compiles for: this machine, or less where NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX say so.
CHOSEN = numba.config.CPU_FEATURES  # type: ignore[attr-defined] # Numba makes its settings when it is imported
FEATURES = get_host_cpu_features() if CHOSEN is None else CHOSEN
#: 32 registers of 512 bits; `vpermps` and `vscalef`: one number of sixteen, and a·2^⌊x⌋, in one instruction each.
HAS_AVX512 = "+avx512f" in FEATURES.split(",")
# Four registers hold one value; half as many bytes where there are 16 registers of 256 bits instead of 32
# of 512.
BYTES = 256 if HAS_AVX512 else 128
LLVM_ELEMENT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType(), types.boolean: ir.IntType(1)}
SUFFIX = {types.float32: "f32", types.float64: "f64"}
INTEGER = {types.float32: ir.IntType(32), types.float64: ir.IntType(64)}
FRACTION_BITS = {types.float32: 23, types.float64: 52}
BIAS = {types.float32: 127, types.float64: 1023}


class Lanes(types.Type):
    """`count` numbers of type `element`, in registers."""

    def __init__(self, element, count):
        self.element, self.count = element, count
        super().__init__(name=f"Lanes({element} x {count})")


@register_model(Lanes)
class LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, ir.VectorType(LLVM_ELEMENT[lanes.element], lanes.count))


def lanes_of(element):
    return Lanes(element, BYTES * 8 // element.bitwidth)


def float_lanes(*arguments):
    """The type of the lanes among the arguments, if they agree and the others are numbers."""
    found = {a for a in arguments if isinstance(a, Lanes) and a.element is not types.boolean}
    rest = [a for a in arguments if not isinstance(a, Lanes)]
    if len(found) == 1 and all(isinstance(a, types.Float | types.Integer) for a in rest):
        return found.pop()
    return None


def row_lanes(row):
    if isinstance(row, types.Array) and row.ndim == 1 and row.layout == "C" and row.dtype in SUFFIX:
        return lanes_of(row.dtype)
    return None


# ------------------------------------------------------------------------------------------ building blocks


def splat(builder, scalar, count):
    vector = ir.VectorType(scalar.type, count)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), count), [0] * count)
    )


def to_lanes(context, builder, value, given, lanes):
    """Numbers are rounded to the lanes' element type and spread over all lanes."""
    if isinstance(given, Lanes):
        return value
    return splat(builder, context.cast(builder, value, given, lanes.element), lanes.count)


def llvm_function(builder, name, result, arguments):
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


def vector_suffix(lanes):
    return f"v{lanes.count}{SUFFIX[lanes.element]}"


def vector_type(lanes):
    return ir.VectorType(LLVM_ELEMENT[lanes.element], lanes.count)


def call_elementwise(builder, operation, lanes, values):
    vector = vector_type(lanes)
    function = llvm_function(builder, f"llvm.{operation}.{vector_suffix(lanes)}", vector, [vector] * len(values))
    return builder.call(function, values)


def lanes_intrinsic(build, number_of_arguments):
    """An intrinsic on lanes and numbers that gives lanes of the same type; `build(context, builder, lanes,
    values)`."""

    def typed(typing_context, arguments):
        lanes = float_lanes(*arguments)
        if lanes is None:
            return None

        def generate(context, builder, signature, values):
            values = [to_lanes(context, builder, v, t, lanes) for v, t in zip(values, signature.args, strict=True)]
            return build(context, builder, lanes, values)

        return lanes(*arguments), generate

    if number_of_arguments == 1:
        return intrinsic(lambda typing_context, a: typed(typing_context, [a]))
    if number_of_arguments == 2:
        return intrinsic(lambda typing_context, a, b: typed(typing_context, [a, b]))
    return intrinsic(lambda typing_context, a, b, c: typed(typing_context, [a, b, c]))


# ----------------------------------------------------------------------------------------------- arithmetic

_add = lanes_intrinsic(lambda context, builder, lanes, v: builder.fadd(*v), 2)
_subtract = lanes_intrinsic(lambda context, builder, lanes, v: builder.fsub(*v), 2)
_multiply = lanes_intrinsic(lambda context, builder, lanes, v: builder.fmul(*v), 2)
_divide = lanes_intrinsic(lambda context, builder, lanes, v: builder.fdiv(*v), 2)
_negate = lanes_intrinsic(lambda context, builder, lanes, v: builder.fneg(*v), 1)


def means(python_operator, elementwise):
    """In kernels, `python_operator` on lanes is `elementwise`."""

    @overload(python_operator, jit_options={"forceinline": True})
    def on_lanes(a, b):
        if float_lanes(a, b) is not None:
            return lambda a, b: elementwise(a, b)


means(operator.add, _add)
means(operator.sub, _subtract)
means(operator.mul, _multiply)
means(operator.truediv, _divide)


@overload(operator.neg, jit_options={"forceinline": True})
def negated(a):
    if float_lanes(a) is not None:
        return lambda a: _negate(a)


#: a·b + c with one rounding.
fused_multiply_add = lanes_intrinsic(lambda context, builder, lanes, v: call_elementwise(builder, "fma", lanes, v), 3)
absolute = lanes_intrinsic(lambda context, builder, lanes, v: call_elementwise(builder, "fabs", lanes, v), 1)
#: `a if a > b else b`: one instruction, and a NaN in `b` passes through (a NaN in `a` does not).
larger = lanes_intrinsic(lambda context, builder, lanes, v: builder.select(builder.fcmp_ordered(">", *v), *v), 2)


def _scale(context, builder, lanes, values):
    fraction, exponent = values
    if avx512_has(lanes):
        return _scale_avx512(builder, lanes, fraction, exponent)
    # Elsewhere in two factors, each of which is a normal number, so that the second rounds into the
    # subnormals once.
    element, integer = lanes.element, INTEGER[lanes.element]
    vector, integers = vector_type(lanes), ir.VectorType(integer, lanes.count)

    def constant(kind, number):
        return ir.Constant(kind, [number] * lanes.count)

    lowest, highest = constant(vector, float(2 - 2 * BIAS[element])), constant(vector, float(2 * BIAS[element]))
    exponent = builder.select(builder.fcmp_ordered("<", exponent, lowest), lowest, exponent)
    exponent = builder.select(builder.fcmp_ordered(">", exponent, highest), highest, exponent)
    # Adding 1.5·2^fraction_bits puts the integer into the low bits; a NaN gives an arbitrary one, which
    # does no harm.
    magic = constant(vector, 1.5 * 2.0 ** FRACTION_BITS[element])
    whole_number = builder.sub(
        builder.bitcast(builder.fadd(exponent, magic), integers), builder.bitcast(magic, integers)
    )
    half = builder.ashr(whole_number, constant(integers, 1))
    for part in (half, builder.sub(whole_number, half)):
        biased = builder.add(part, constant(integers, BIAS[element]))
        power = builder.bitcast(builder.shl(biased, constant(integers, FRACTION_BITS[element])), vector)
        fraction = builder.fmul(fraction, power)
    return fraction


def _power(context, builder, lanes, values):
    exponent, shared = values
    element, integer = lanes.element, INTEGER[lanes.element]
    vector, integers = vector_type(lanes), ir.VectorType(integer, lanes.count)
    if avx512_has(lanes):
        one = ir.Constant(vector, [1.0] * lanes.count)
        return _scale_avx512(builder, lanes, one, builder.fsub(exponent, shared))

    def constant(kind, number):
        return ir.Constant(kind, [number] * lanes.count)

    # The difference of the representations grows with that of the numbers, and is n − shared where n is an integer of
    # that range: so it is enough to clamp it to the exponents that are stored, those of 0 and ∞ included.
    magic = constant(vector, 1.5 * 2.0 ** FRACTION_BITS[element])
    rounded = builder.bitcast(builder.fadd(exponent, builder.fsub(magic, shared)), integers)
    none = builder.sub(builder.bitcast(magic, integers), constant(integers, BIAS[element]))
    stored = builder.sub(rounded, none)
    lowest, highest = constant(integers, 0), constant(integers, 2 * BIAS[element] + 1)
    stored = builder.select(builder.icmp_signed("<", stored, lowest), lowest, stored)
    stored = builder.select(builder.icmp_signed(">", stored, highest), highest, stored)
    return builder.bitcast(builder.shl(stored, constant(integers, FRACTION_BITS[element])), vector)


def avx512_has(lanes):
    """The lanes fill registers of 512 bits."""
    return HAS_AVX512 and lanes.count * lanes.element.bitwidth % 512 == 0


def _scale_avx512(builder, lanes, fraction, exponent):
    """`vscalef`: one instruction, subnormals and any exponent included."""
    each = 512 // lanes.element.bitwidth
    mask, current_rounding = ir.Constant(ir.IntType(each), -1), ir.Constant(ir.IntType(32), 4)
    name = f"llvm.x86.avx512.mask.scalef.p{'s' if each == 16 else 'd'}.512"

    def scale(fraction, exponent):
        register = fraction.type
        function = llvm_function(builder, name, register, [register, register, register, mask.type, ir.IntType(32)])
        return builder.call(function, [fraction, exponent, fraction, mask, current_rounding])

    return by_register(builder, lanes, scale, [fraction, exponent])


def by_register(builder, lanes, instruction, values):
    """An AVX-512 instruction on lanes: its intrinsic exists for one register only."""
    each = 512 // lanes.element.bitwidth

    def lanes_from(vectors, start, size):
        indices = ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(start, start + size)))
        return builder.shuffle_vector(*vectors, indices)

    undefined = [ir.Constant(value.type, ir.Undefined) for value in values]
    registers = [
        instruction(*[lanes_from(pair, start, each) for pair in zip(values, undefined, strict=True)])
        for start in range(0, lanes.count, each)
    ]
    while len(registers) > 1:
        each *= 2
        registers = [lanes_from(pair, 0, each) for pair in zip(registers[::2], registers[1::2], strict=True)]
    return registers[0]


#: fraction · 2^exponent, the exponent being any integer held as a floating-point number; rounds into the subnormals,
#: to 0 and to ∞. A NaN fraction stays NaN. Where `HAS_AVX512`, the exponent is rounded down to an integer.
scale_by_power_of_two = lanes_intrinsic(_scale, 2)
#: 2^(exponent − shared) for integers held as floating-point numbers: ∞ above the range, 0 or a subnormal below it.
power_of_two = lanes_intrinsic(_power, 2)


@intrinsic
def from_table(typing_context, table, factor, position):
    """factor · table[the last four bits of `position`] in each lane, for a tuple of 16 numbers; only in float32
    where `HAS_AVX512`."""
    if float_lanes(position) is None or position.element is not types.float32 or len(table) != 16:
        return None

    def generate(context, builder, signature, values):
        integers, register = (ir.VectorType(kind, 16) for kind in (ir.IntType(32), ir.FloatType()))
        scale = context.cast(builder, values[1], factor, table.dtype)
        entries = ir.Constant(register, ir.Undefined)
        for k in range(16):
            scaled = builder.fmul(builder.extract_value(values[0], k), scale)
            entry = context.cast(builder, scaled, table.dtype, types.float32)
            entries = builder.insert_element(entries, entry, ir.Constant(ir.IntType(32), k))
        function = llvm_function(builder, "llvm.x86.avx512.permvar.sf.512", register, [register, integers])

        def look_up(position):
            return builder.call(function, [entries, builder.bitcast(position, integers)])

        return by_register(builder, position, look_up, [values[2]])

    return position(table, factor, position), generate


# ---------------------------------------------------------------------------------------------- comparisons


def comparison(build, number_of_arguments):
    def typed(arguments):
        lanes = float_lanes(*arguments)
        if lanes is None:
            return None
        mask = Lanes(types.boolean, lanes.count)

        def generate(context, builder, signature, values):
            values = [to_lanes(context, builder, v, t, lanes) for v, t in zip(values, signature.args, strict=True)]
            return build(builder, lanes, values)

        return mask(*arguments), generate

    if number_of_arguments == 1:
        return intrinsic(lambda typing_context, a: typed([a]))
    return intrinsic(lambda typing_context, a, b: typed([a, b]))


def _infinite(builder, lanes, values):
    magnitude = call_elementwise(builder, "fabs", lanes, values)
    infinity = ir.Constant(vector_type(lanes), [float("inf")] * lanes.count)
    return builder.fcmp_ordered("==", magnitude, infinity)


def _zero(builder, lanes, values):
    return builder.fcmp_ordered("==", values[0], ir.Constant(vector_type(lanes), [0.0] * lanes.count))


#: a > b in each lane, false where either is NaN.
exceeds = comparison(lambda builder, lanes, v: builder.fcmp_ordered(">", *v), 2)
magnitude_is_infinite = comparison(_infinite, 1)
is_zero = comparison(_zero, 1)


@intrinsic
def select(typing_context, condition, yes, no):
    """`yes if condition else no` in each lane."""
    lanes = float_lanes(yes, no)
    if lanes is None or not isinstance(condition, Lanes):
        return None

    def generate(context, builder, signature, values):
        yes, no = (to_lanes(context, builder, values[k], signature.args[k], lanes) for k in (1, 2))
        return builder.select(values[0], yes, no)

    return lanes(condition, yes, no), generate


# --------------------------------------------------------------------------------------------------- memory


def data_pointer(context, builder, row_type, row, index):
    """The address of row[index]; no wrap-around of negative indices, no bounds check."""
    array = context.make_array(row_type)(context, builder, row)
    return builder.gep(array.data, [index])


def tail_mask(builder, count, remaining):
    """Lane k is on where k < remaining."""
    numbers = ir.Constant(ir.VectorType(ir.IntType(64), count), list(range(count)))
    return builder.icmp_signed("<", numbers, splat(builder, remaining, count))


def as_vector_pointer(builder, pointer, lanes):
    return builder.bitcast(pointer, vector_type(lanes).as_pointer())


@intrinsic
def width(typing_context, row):
    """How many lanes a row of this dtype is walked with: a constant of the compiled code."""
    lanes = row_lanes(row)
    if lanes is None:
        return None
    return types.intp(row), lambda context, builder, s, v: ir.Constant(ir.IntType(64), lanes.count)


@intrinsic
def whole(typing_context, row):
    """The length of the row, rounded down to full lanes."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        array = context.make_array(row)(context, builder, values[0])
        size = builder.extract_value(array.shape, 0)
        return builder.and_(size, ir.Constant(size.type, -lanes.count))

    return types.intp(row), generate


@intrinsic
def spread(typing_context, row, number):
    """The number in every lane of lanes that fit the row."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        return to_lanes(context, builder, values[1], number, lanes)

    return lanes(row, number), generate


@intrinsic
def load(typing_context, row, start):
    """row[start : start + width]."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        pointer = as_vector_pointer(builder, data_pointer(context, builder, row, *values), lanes)
        loaded = builder.load(pointer)
        loaded.align = row.dtype.bitwidth // 8
        return loaded

    return lanes(row, types.intp), generate


@intrinsic
def load_tail(typing_context, row, start, fill):
    """row[start:], fewer than `width` numbers, the other lanes filled with `fill`. Memory beyond the row is
    not touched."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        array = context.make_array(row)(context, builder, values[0])
        remaining = builder.sub(builder.extract_value(array.shape, 0), values[1])
        pointer = as_vector_pointer(builder, data_pointer(context, builder, row, values[0], values[1]), lanes)
        mask = tail_mask(builder, lanes.count, remaining)
        vector = vector_type(lanes)
        function = llvm_function(
            builder,
            f"llvm.masked.load.{vector_suffix(lanes)}.p0",
            vector,
            [pointer.type, ir.IntType(32), mask.type, vector],
        )
        alignment = ir.Constant(ir.IntType(32), row.dtype.bitwidth // 8)
        return builder.call(function, [pointer, alignment, mask, to_lanes(context, builder, values[2], fill, lanes)])

    return lanes(row, types.intp, fill), generate


@intrinsic
def prefetch(typing_context, row, start):
    """Ask for row[start : start + width] (and whatever lies there, beyond the row too) to be brought near."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        byte_pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = llvm_function(builder, "llvm.prefetch.p0", ir.VoidType(), [byte_pointer, integer, integer, integer])
        pointer = builder.bitcast(data_pointer(context, builder, row, *values), byte_pointer)
        to_read, keep, data = (ir.Constant(integer, n) for n in (0, 3, 1))
        for line in range(0, BYTES, 64):
            address = builder.gep(pointer, [ir.Constant(ir.IntType(64), line)])
            builder.call(function, [address, to_read, keep, data])
        return context.get_dummy_value()

    return types.void(row, types.intp), generate


def storing(align_to_line):
    def typed(typing_context, row, start, value):
        lanes = row_lanes(row)
        if lanes is None or value != lanes or not row.mutable:
            return None

        def generate(context, builder, signature, values):
            pointer = as_vector_pointer(builder, data_pointer(context, builder, row, values[0], values[1]), lanes)
            instruction = builder.store(values[2], pointer)
            instruction.align = row.dtype.bitwidth // 8
            if align_to_line:
                instruction.align = 64
                one = ir.Constant(ir.IntType(32), 1)
                instruction.set_metadata("nontemporal", builder.module.add_metadata([one]))
            return context.get_dummy_value()

        return types.void(row, types.intp, value), generate

    return intrinsic(typed)


#: row[start : start + width] = value
store = storing(align_to_line=False)
#: The same around the caches: the line is not read before it is written. The address must be a multiple of
#: 64 bytes, and `memory_fence` must come before another thread may read.
store_around_caches = storing(align_to_line=True)


@intrinsic
def store_tail(typing_context, row, start, value):
    """row[start:] = value's first lanes."""
    lanes = row_lanes(row)
    if lanes is None or value != lanes or not row.mutable:
        return None

    def generate(context, builder, signature, values):
        array = context.make_array(row)(context, builder, values[0])
        remaining = builder.sub(builder.extract_value(array.shape, 0), values[1])
        pointer = as_vector_pointer(builder, data_pointer(context, builder, row, values[0], values[1]), lanes)
        mask = tail_mask(builder, lanes.count, remaining)
        function = llvm_function(
            builder,
            f"llvm.masked.store.{vector_suffix(lanes)}.p0",
            ir.VoidType(),
            [vector_type(lanes), pointer.type, ir.IntType(32), mask.type],
        )
        alignment = ir.Constant(ir.IntType(32), row.dtype.bitwidth // 8)
        builder.call(function, [values[2], pointer, alignment, mask])
        return context.get_dummy_value()

    return types.void(row, types.intp, value), generate


@intrinsic
def misalignment(typing_context, row):
    """How many elements of the row come before its first multiple of 64 bytes."""
    lanes = row_lanes(row)
    if lanes is None:
        return None

    def generate(context, builder, signature, values):
        integer = ir.IntType(64)
        address = builder.ptrtoint(data_pointer(context, builder, row, values[0], ir.Constant(integer, 0)), integer)
        to_next = builder.and_(builder.neg(address), ir.Constant(integer, 63))
        return builder.udiv(to_next, ir.Constant(integer, row.dtype.bitwidth // 8))

    return types.intp(row), generate


@intrinsic
def memory_fence(typing_context):
    """What was stored around the caches is visible to the other threads after this."""

    def generate(context, builder, signature, values):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


# ----------------------------------------------------------------------------------- from lanes to a number


@intrinsic
def largest_of(typing_context, value):
    """The largest lane; NaN lanes are passed over while there is another."""
    if not isinstance(value, Lanes):
        return None

    def generate(context, builder, signature, values):
        vector = vector_type(value)
        name = f"llvm.vector.reduce.fmax.{vector_suffix(value)}"
        return builder.call(llvm_function(builder, name, vector.element, [vector]), values)

    return value.element(value), generate


def halves_of(builder, vector):
    half = vector.type.count // 2
    undefined = ir.Constant(vector.type, ir.Undefined)
    return [
        builder.shuffle_vector(
            vector, undefined, ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(start, start + half)))
        )
        for start in (0, half)
    ]


@intrinsic
def sum_of(typing_context, value):
    """The sum of the lanes, pairwise; one register's worth of them is widened to float64 and added there."""
    if not isinstance(value, Lanes):
        return None

    def generate(context, builder, signature, values):
        (vector,) = values
        while vector.type.count > 1:
            if vector.type.element == ir.FloatType() and vector.type.count <= 16:
                vector = builder.fpext(vector, ir.VectorType(ir.DoubleType(), vector.type.count))
            vector = builder.fadd(*halves_of(builder, vector))
        return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

    return types.float64(value), generate


@intrinsic
def closed(typing_context, value):
    """One register's worth of float64 lanes with the same sum: float32 lanes are added pairwise until there are 16."""
    if not isinstance(value, Lanes) or value.element not in SUFFIX:
        return None
    count = 16 if value.element is types.float32 and value.count > 16 else value.count
    wide = Lanes(types.float64, count)

    def generate(context, builder, signature, values):
        (vector,) = values
        while vector.type.count > count:
            vector = builder.fadd(*halves_of(builder, vector))
        return vector if vector.type == vector_type(wide) else builder.fpext(vector, vector_type(wide))

    return wide(value), generate


@intrinsic
def widened(typing_context, value):
    """The same numbers in float64."""
    if not isinstance(value, Lanes) or value.element not in SUFFIX:
        return None
    wide = Lanes(types.float64, value.count)

    def generate(context, builder, signature, values):
        if value == wide:
            return values[0]
        return builder.fpext(values[0], vector_type(wide))

    return wide(value), generate


@intrinsic
def first_lane(typing_context, value):
    if not isinstance(value, Lanes):
        return None

    def generate(context, builder, signature, values):
        return builder.extract_element(values[0], ir.Constant(ir.IntType(32), 0))

    return value.element(value), generate
