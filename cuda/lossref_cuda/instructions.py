"""The machine instructions that the kernels need beyond plain Numba, and their twins in the simulator.

Everything that depends on LLVM or PTX is in this file; a port to another compiler touches nothing else. The
kernels call

    load, store          one element, any storage dtype; the arithmetic is float32, or float64 for float64
    load4, store4        four neighbours at once: a 128-bit access for float32
    load_at, store_at    the same for an array of one dimension
    as_row               an array of one dimension, as the only row of a matrix
    real, lowest         a constant in the arithmetic's dtype (Numba would make a plain 1.0 a float64);
                         the most negative finite number
    exp, log1p, tanh     accurate
    fast_exp             one multiplication and ex2.approx: 2 ulp, plus the rounding of the product
    fma, rint, power_of_two     for numbers held as mantissa and exponent
    shuffle_xor          the value of the lane whose number differs in the given bits
    count_lanes          in how many lanes of the warp something is true
    wait_for_warp        what the lanes have read, or written, lies behind all of them
    pack_bfloat16        two numbers rounded to bfloat16, in one 32-bit word
    multiply_tiles       a warp multiplies two tiles of bfloat16 on the tensor cores

bfloat16 is stored as uint16: widening is a shift, and no conversion needs a library or a minimum GPU. Indices
are 64 bits wide everywhere: row * columns passes 2**31 on an ordinary language model.
"""

from numba.cuda.core import config

SIMULATED = bool(config.ENABLE_CUDASIM)

if SIMULATED:
    from lossref_cuda.simulated_instructions import (
        as_row,
        count_lanes,
        device_function,
        exp,
        fast_exp,
        fma,
        full_block_kernel,
        is_float32,
        load,
        load4,
        load_at,
        log1p,
        lowest,
        multiply_tiles,
        pack_bfloat16,
        power_of_two,
        real,
        rint,
        shuffle_xor,
        store,
        store4,
        store_at,
        tanh,
        wait_for_warp,
    )
else:
    import math

    from llvmlite import ir
    from numba import cuda
    from numba.cuda import libdevice, types
    from numba.cuda.core.errors import TypingError
    from numba.cuda.extending import intrinsic
    from numba.cuda.np.arrayobj import populate_array

    exp = math.exp
    log1p = math.log1p
    tanh = math.tanh

    # A call in an inner loop costs more than the arithmetic it calls, so nothing here stays a call.
    device_function = cuda.jit(device=True, forceinline=True)
    # The promise of no more than 1024 threads a block: the compiler may then use 64 registers a thread, and no more.
    full_block_kernel = cuda.jit(launch_bounds=1024)

    def _arithmetic(storage):
        """The dtype in which values of a storage dtype are computed with."""
        if storage in (types.float32, types.float64):
            return storage
        if storage in (types.float16, types.uint16):
            return types.float32
        raise TypingError(f"no arithmetic for arrays of {storage}")

    def _storage(like):
        return like.dtype if isinstance(like, types.Array) else like

    # ---- one element ---------------------------------------------------------------------------------

    def _address(context, builder, array_type, array, indices):
        """A pointer to array[indices], C-contiguous, without Numba's wrap-around of negative indices. That
        the memory is global, or shared, the compiler finds out by itself once everything is inlined."""
        view = context.make_array(array_type)(context, builder, array)
        offset = indices[0]
        if len(indices) == 2:
            columns = builder.extract_value(view.shape, 1)
            offset = builder.add(builder.mul(offset, columns), indices[1])
        element = context.get_data_type(array_type.dtype)
        return builder.gep(view.data, [offset]), element

    def _widen(context, builder, storage, bits):
        if storage is types.uint16:  # bfloat16: the upper half of a float32
            word = builder.zext(bits, ir.IntType(32))
            return builder.bitcast(builder.shl(word, ir.Constant(ir.IntType(32), 16)), ir.FloatType())
        return context.cast(builder, bits, storage, _arithmetic(storage))

    def _narrow(context, builder, storage, value):
        if storage is types.uint16:
            # Round to nearest, ties to even: add just under half of the last kept bit, plus that bit. A NaN
            # would round to infinity that way, so it becomes the quiet NaN.
            word = ir.IntType(32)
            bits = builder.bitcast(value, word)
            last = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
            rounded = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), last)
            nan = builder.fcmp_unordered("uno", value, value)
            kept = builder.select(nan, ir.Constant(word, 0x7FC00000), rounded)
            return builder.trunc(builder.lshr(kept, ir.Constant(word, 16)), ir.IntType(16))
        return context.cast(builder, value, _arithmetic(storage), storage)

    def _check(array, dimensions, name):
        if not (isinstance(array, types.Array) and array.ndim == dimensions and array.layout == "C"):
            raise TypingError(f"{name} takes a C-contiguous array of {dimensions} dimension(s), not {array}")

    @intrinsic
    def load(typing_context, array, row, column):
        """array[row, column] in the arithmetic's dtype."""
        _check(array, 2, "load")

        def generate(context, builder, signature, arguments):
            pointer, _ = _address(context, builder, array, arguments[0], arguments[1:])
            return _widen(context, builder, array.dtype, builder.load(pointer))

        return _arithmetic(array.dtype)(array, types.int64, types.int64), generate

    @intrinsic
    def store(typing_context, array, row, column, value):
        """array[row, column] = value, rounded once."""
        _check(array, 2, "store")

        def generate(context, builder, signature, arguments):
            pointer, _ = _address(context, builder, array, arguments[0], arguments[1:3])
            builder.store(_narrow(context, builder, array.dtype, arguments[3]), pointer)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64, _arithmetic(array.dtype)), generate

    @intrinsic
    def load_at(typing_context, array, index):
        """array[index] in the arithmetic's dtype."""
        _check(array, 1, "load_at")

        def generate(context, builder, signature, arguments):
            pointer, _ = _address(context, builder, array, arguments[0], arguments[1:])
            return _widen(context, builder, array.dtype, builder.load(pointer))

        return _arithmetic(array.dtype)(array, types.int64), generate

    @intrinsic
    def store_at(typing_context, array, index, value):
        """array[index] = value, rounded once."""
        _check(array, 1, "store_at")

        def generate(context, builder, signature, arguments):
            pointer, _ = _address(context, builder, array, arguments[0], arguments[1:2])
            builder.store(_narrow(context, builder, array.dtype, arguments[2]), pointer)
            return context.get_dummy_value()

        return types.void(array, types.int64, _arithmetic(array.dtype)), generate

    @intrinsic
    def as_row(typing_context, array, columns):
        """The first `columns` elements of an array, as a matrix of one row."""
        _check(array, 1, "as_row")
        result = types.Array(array.dtype, 2, "C")

        def generate(context, builder, signature, arguments):
            flat = context.make_array(array)(context, builder, arguments[0])
            row = context.make_array(result)(context, builder)
            one = context.get_constant(types.intp, 1)
            width = context.get_constant(types.intp, array.dtype.bitwidth // 8)
            populate_array(
                row,
                data=flat.data,
                shape=(one, arguments[1]),
                strides=(builder.mul(arguments[1], width), width),
                itemsize=width,
                meminfo=flat.meminfo,
                parent=flat.parent,
            )
            return row._getvalue()

        return result(array, types.intp), generate

    # ---- four neighbours -----------------------------------------------------------------------------
    # The compiler does not merge four scalar accesses, because it cannot know that the address is a multiple
    # of 16 bytes. We do: the launcher has looked. float64 needs two accesses of 128 bits, the 16-bit
    # dtypes one of 64.

    def _vector_pieces(element, base, builder):
        bits = 64 if isinstance(element, ir.DoubleType) else 32 if isinstance(element, ir.FloatType) else 16
        width = 2 if bits == 64 else 4
        vector = ir.PointerType(ir.VectorType(element, width))
        alignment = min(16, width * bits // 8)
        for start in range(0, 4, width):
            piece = builder.gep(base, [ir.Constant(ir.IntType(64), start)])
            yield start, width, builder.bitcast(piece, vector), alignment

    @intrinsic
    def load4(typing_context, array, row, column):
        """array[row, column : column + 4]; the address is a multiple of 4 elements."""
        _check(array, 2, "load4")
        result = types.UniTuple(_arithmetic(array.dtype), 4)

        def generate(context, builder, signature, arguments):
            base, element = _address(context, builder, array, arguments[0], arguments[1:])
            values = []
            for _, width, pointer, alignment in _vector_pieces(element, base, builder):
                loaded = builder.load(pointer, align=alignment)
                for lane in range(width):
                    bits = builder.extract_element(loaded, ir.Constant(ir.IntType(32), lane))
                    values.append(_widen(context, builder, array.dtype, bits))
            return context.make_tuple(builder, result, values)

        return result(array, types.int64, types.int64), generate

    @intrinsic
    def store4(typing_context, array, row, column, a, b, c, d):
        """array[row, column : column + 4] = a, b, c, d; the address is a multiple of 4 elements."""
        _check(array, 2, "store4")
        number = _arithmetic(array.dtype)

        def generate(context, builder, signature, arguments):
            base, element = _address(context, builder, array, arguments[0], arguments[1:3])
            values = [_narrow(context, builder, array.dtype, value) for value in arguments[3:]]
            for start, width, pointer, alignment in _vector_pieces(element, base, builder):
                vector = ir.Constant(ir.VectorType(element, width), ir.Undefined)
                for lane in range(width):
                    index = ir.Constant(ir.IntType(32), lane)
                    vector = builder.insert_element(vector, values[start + lane], index)
                builder.store(vector, pointer, align=alignment)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.int64, number, number, number, number), generate

    # ---- numbers -------------------------------------------------------------------------------------

    @intrinsic
    def real(typing_context, like, number):
        """number in the dtype in which values of `like` (an array or a number) are computed with."""
        result = _arithmetic(_storage(like))

        def generate(context, builder, signature, arguments):
            return context.cast(builder, arguments[1], number, result)

        return result(like, number), generate

    @intrinsic
    def lowest(typing_context, like):
        """The most negative finite number of the dtype in which values of `like` are computed with."""
        result = _arithmetic(_storage(like))
        number = -3.4028234663852886e38 if result is types.float32 else -1.7976931348623157e308

        def generate(context, builder, signature, arguments):
            return context.get_constant(result, number)

        return result(like), generate

    @intrinsic
    def _exp2_approx(typing_context, x):
        # Without .ftz: results below 2**-126 keep the digits they have.
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [ir.FloatType()])
            return builder.asm(kind, "ex2.approx.f32 $0, $1;", "=f,f", arguments, side_effect=False)

        return types.float32(types.float32), generate

    @intrinsic
    def is_float32(typing_context, x):
        """Known to the compiler, so that the branch not taken is not compiled."""

        def generate(context, builder, signature, arguments):
            return context.get_constant(types.boolean, x is types.float32)

        return types.boolean(x), generate

    @device_function
    def fast_exp(x):
        """e**x; the branch is decided by the compiler."""
        if is_float32(x):
            return real(x, _exp2_approx(x * real(x, 1.4426950408889634)))
        return exp(x)

    @intrinsic
    def fma(typing_context, a, b, c):
        """a * b + c, rounded once."""

        def generate(context, builder, signature, arguments):
            return builder.fma(*arguments)

        return a(a, a, a), generate

    @device_function
    def rint(x):
        """The nearest integer, ties to even, as a floating-point number."""
        if is_float32(x):
            return real(x, libdevice.rintf(x))
        return real(x, libdevice.rint(x))

    @intrinsic
    def power_of_two(typing_context, n):
        """2**n for an integral n <= 0, built from its bits; 0 below the smallest normal number."""
        wide = n is types.float64
        word = ir.IntType(64 if wide else 32)
        bias, mantissa_bits = (1023, 52) if wide else (127, 23)

        def generate(context, builder, signature, arguments):
            lowest = ir.Constant(context.get_value_type(n), float(-bias))
            clamped = builder.select(builder.fcmp_ordered("<", arguments[0], lowest), lowest, arguments[0])
            biased = builder.add(builder.fptosi(clamped, word), ir.Constant(word, bias))
            shifted = builder.shl(biased, ir.Constant(word, mantissa_bits))
            return builder.bitcast(shifted, context.get_value_type(n))

        return n(n), generate

    # ---- lanes ---------------------------------------------------------------------------------------

    @device_function
    def shuffle_xor(value, bits):
        """The value of the lane whose number differs from this lane's in `bits`; all 32 lanes take part."""
        return cuda.shfl_xor_sync(0xFFFFFFFF, value, bits)

    @device_function
    def count_lanes(condition):
        """In how many of the 32 lanes it holds; all take part."""
        return cuda.popc(cuda.ballot_sync(0xFFFFFFFF, condition))

    @device_function
    def wait_for_warp():
        """A barrier of the 32 lanes. A shuffle is none: it orders no access to memory."""
        cuda.syncwarp()

    # ---- tensor cores --------------------------------------------------------------------------------

    @intrinsic
    def pack_bfloat16(typing_context, low, high):
        """Both rounded to nearest; `low` in the lower half. From compute capability 8.0."""

        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.IntType(32), [ir.FloatType(), ir.FloatType()])
            text = "cvt.rn.bf16x2.f32 $0, $2, $1;"  # the instruction names the upper half first
            return builder.asm(kind, text, "=r,f,f", arguments, side_effect=False)

        return types.uint32(types.float32, types.float32), generate

    @intrinsic
    def multiply_tiles(typing_context, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        """d = a b + c for a of 16 x 16, b of 16 x 8 bfloat16, c and d of 16 x 8 float32.

        Each of the 32 lanes holds a few entries of each tile. With group = lane // 4 and member = lane % 4,
        and two neighbours along the depth k in one word:

            a0: row group,     k = 2 member, + 1      b0: k = 2 member, + 1, column group
            a1: row group + 8                         b1: k = 2 member + 8, + 9
            a2: row group,     k = 2 member + 8, + 9  c0, c1: row group,     columns 2 member, + 1
            a3: row group + 8                         c2, c3: row group + 8
        """
        result = types.UniTuple(types.float32, 4)
        word, number = ir.IntType(32), ir.FloatType()

        def generate(context, builder, signature, arguments):
            four = ir.LiteralStructType([number] * 4)
            kind = ir.FunctionType(four, [word] * 6 + [number] * 4)
            text = (
                "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
            )
            # The lanes exchange data: it has a side effect, and must not be moved into a branch.
            answer = builder.asm(kind, text, "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", arguments, side_effect=True)
            return context.make_tuple(builder, result, [builder.extract_value(answer, k) for k in range(4)])

        return result(*[types.uint32] * 6, *[types.float32] * 4), generate
