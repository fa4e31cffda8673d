"""softmax of the rows of a matrix: p_j = e**x_j / sum_k e**x_k.

Rungs, from the obvious kernel to the fast one, each with its reason:

  algorithm="three_pass": the maximum, then the sum, then the result
    one_thread_per_row           the definition: one thread walks a row three times, loads do not coalesce
    one_warp_per_row             32 lanes read 32 neighbours; five shuffles find the maximum, five the sum
    block_per_row_three_pass     a block for a long row; three reads of it and one write
    row_on_chip                  the same three passes, but over a copy in shared memory: one read and one
                                 write, the least there can be. Up to 47 KB a row
    row_in_registers             a thread keeps 32 numbers to itself: 128-bit loads, eight under way at a time,
                                 and one exponential a number instead of two. Up to 32768 numbers a row, not float64

  algorithm="online": maximum and sum in one pass
    block_per_row_online         two reads and one write, whatever the length
    vectorised                   128-bit loads and stores, ex2.approx for the exponentials
    long_row_split_over_blocks   several blocks a row, states merged in a fixed order; for few long rows

  algorithm="two_pass": every e**x as mantissa * 2**exponent, so that nothing can overflow
    two_pass_mantissa_exponent   no maximum at all: two reads, one write, and x - m is never rounded

The algorithm changes rounding only. The vector-Jacobian product is p_j (w_j - <p, w>), written so that
nothing cancels: with * the place of the maximum, w_j - <p, w> = (w_j - w_*) + sum_k p_k (w_* - w_k).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype, empty_result, starts_on_16_bytes
from lossref_cuda.instructions import (
    SIMULATED,
    as_row,
    device_function,
    exp,
    fast_exp,
    fma,
    full_block_kernel,
    is_float32,
    load,
    load4,
    power_of_two,
    real,
    rint,
    shuffle_xor,
    store,
    store4,
)
from lossref_cuda.launching import (
    CHIP_BYTES,
    THREADS,
    bytes_on_chip,
    chosen,
    configured,
    geometry,
    pieces_for,
    rung_below_a_block,
)
from lossref_cuda.log_sum_exp_state import (
    absorb,
    add,
    aligned_part,
    empty,
    merge_over_block,
    merge_over_team,
    settle,
    walk,
    walk4,
)
from lossref_cuda.logsumexp import merge_pieces, summarise_piece
from lossref_cuda.reductions import (
    BLOCK,
    add_exactly,
    maximum_over_block,
    maximum_over_team,
    minimum_over_team,
    sum_over_block,
    sum_over_team,
)

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(x: np.ndarray) -> np.ndarray:
    """The same in NumPy."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def reference_vjp(x: np.ndarray, cotangent: np.ndarray) -> np.ndarray:
    """The same in NumPy: differences of the cotangent first."""
    p = reference(x)
    at_maximum = np.take_along_axis(cotangent, x.argmax(axis=-1)[..., None], axis=-1)
    return p * ((cotangent - at_maximum) + (p * (at_maximum - cotangent)).sum(axis=-1, keepdims=True))


# ============================================================================================================
# Rungs: three passes
# ============================================================================================================
# Every kernel takes (x, y). A comparison with NaN is false, so a NaN never becomes the maximum; it enters the
# sum, and from there every entry of its row.


@device_function
def three_passes(x, y, row, first, step, team):
    m = real(x, -math.inf)
    j = first
    while j < x.shape[1]:
        v = load(x, row, j)
        if v > m:
            m = v
        j += step
    m = maximum_over_team(team, m)

    total = real(x, 0.0)
    lost = real(x, 0.0)
    j = first
    while j < x.shape[1]:
        total, lost = add(total, lost, exp(load(x, row, j) - m))
        j += step
    total, lost = sum_over_team(team, total, lost)
    scale = real(x, 1.0) / (total - lost)

    j = first
    while j < x.shape[1]:
        store(y, row, j, exp(load(x, row, j) - m) * scale)
        j += step


@cuda.jit
def one_thread_per_row(x, y):
    row = cuda.grid(1)
    if row < x.shape[0]:
        three_passes(x, y, row, 0, 1, 1)


@cuda.jit
def one_warp_per_row(x, y):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        three_passes(x, y, row, cuda.threadIdx.x, 32, 32)


@cuda.jit
def block_per_row_three_pass(x, y):
    three_passes(x, y, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK)


@cuda.jit
def row_on_chip(x, y):
    """A thread only ever looks at its own elements of the copy, so no barrier guards it."""
    row = cuda.blockIdx.x
    thread = cuda.threadIdx.x
    step = THREADS
    chip = as_row(cuda.shared.array(0, x.dtype), x.shape[1])  # as many bytes as the launch asks for

    m = real(x, -math.inf)
    j = thread
    while j < x.shape[1]:
        v = load(x, row, j)
        store(chip, 0, j, v)
        if v > m:
            m = v
        j += step
    m = maximum_over_block(m)

    total = real(x, 0.0)
    lost = real(x, 0.0)
    j = thread
    while j < x.shape[1]:
        total, lost = add(total, lost, exp(load(chip, 0, j) - m))
        j += step
    total, lost = sum_over_team(BLOCK, total, lost)
    scale = real(x, 1.0) / (total - lost)

    j = thread
    while j < x.shape[1]:
        store(y, row, j, exp(load(chip, 0, j) - m) * scale)
        j += step


REGISTER_THREADS = 32 if SIMULATED else 1024
GROUPS = 8  # of four numbers, which a thread keeps
LONGEST_IN_REGISTERS = 4 * GROUPS * REGISTER_THREADS


@device_function
def larger(a, b):
    return a if a > b else b


@full_block_kernel
def row_in_registers(x, y):
    """The loops over `GROUPS` are unrolled, so that every index of `kept` is a constant and it lives in registers. All
    loads come before the first use of any: a multiprocessor, however long its rows, waits for 128 KB at a time."""
    row = cuda.blockIdx.x
    first = cuda.threadIdx.x
    step = 4 * cuda.blockDim.x
    begin, end = aligned_part(x, row, 0, x.shape[1])
    nothing = real(x, -math.inf)
    kept = cuda.local.array((GROUPS, 4), numba.float32)
    head, tail = nothing, nothing  # of the row, where it is not aligned
    if first < begin:
        head = load(x, row, first)
    if end + first < x.shape[1]:
        tail = load(x, row, end + first)
    for k in range(GROUPS):
        kept[k, 0], kept[k, 1], kept[k, 2], kept[k, 3] = nothing, nothing, nothing, nothing
        j = begin + 4 * first + k * step
        if j < end:
            kept[k, 0], kept[k, 1], kept[k, 2], kept[k, 3] = load4(x, row, j)

    m = larger(head, tail)
    for k in range(GROUPS):
        m = larger(larger(larger(kept[k, 0], kept[k, 1]), larger(kept[k, 2], kept[k, 3])), m)
    m = maximum_over_block(m)

    head, tail = fast_exp(head - m), fast_exp(tail - m)
    total = head + tail
    for k in range(GROUPS):
        for i in range(4):
            kept[k, i] = fast_exp(kept[k, i] - m)
        total += (kept[k, 0] + kept[k, 1]) + (kept[k, 2] + kept[k, 3])
    total, lost = sum_over_block(total, real(x, 0.0))
    scale = real(x, 1.0) / (total - lost)

    if first < begin:
        store(y, row, first, head * scale)
    if end + first < x.shape[1]:
        store(y, row, end + first, tail * scale)
    for k in range(GROUPS):
        j = begin + 4 * first + k * step
        if j < end:
            store4(y, row, j, kept[k, 0] * scale, kept[k, 1] * scale, kept[k, 2] * scale, kept[k, 3] * scale)


# ============================================================================================================
# Rungs: online
# ============================================================================================================
# One pass for the state (m, r) of `log_sum_exp_state`, a second one to write e**(x - m) / (1 + r).


@cuda.jit
def block_per_row_online(x, y):
    row = cuda.blockIdx.x
    step = THREADS
    m, r = walk(x, row, 0, x.shape[1], cuda.threadIdx.x, step)
    m, r = merge_over_block(m, r)
    scale = real(x, 1.0) / (real(x, 1.0) + r)
    j = cuda.threadIdx.x
    while j < x.shape[1]:
        store(y, row, j, exp(load(x, row, j) - m) * scale)
        j += step


@device_function
def write4(x, y, row, m, r, start, stop, first, step):
    """y[row, start:stop] with 128-bit accesses; what is not aligned at its two ends goes one by one."""
    scale = real(x, 1.0) / (real(x, 1.0) + r)
    begin, end = aligned_part(x, row, start, stop)
    if start + first < begin:
        store(y, row, start + first, fast_exp(load(x, row, start + first) - m) * scale)
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(x, row, j)
        a, b = fast_exp(a - m) * scale, fast_exp(b - m) * scale
        c, d = fast_exp(c - m) * scale, fast_exp(d - m) * scale
        store4(y, row, j, a, b, c, d)
        j += 4 * step
    if end + first < stop:
        store(y, row, end + first, fast_exp(load(x, row, end + first) - m) * scale)


@cuda.jit
def vectorised(x, y):
    row = cuda.blockIdx.x
    m, r = walk4(x, row, 0, x.shape[1], cuda.threadIdx.x, THREADS)
    m, r = merge_over_block(m, r)
    write4(x, y, row, m, r, 0, x.shape[1], cuda.threadIdx.x, THREADS)


@cuda.jit
def write_piece(x, y, pieces_m, pieces_r, length):
    """long_row_split_over_blocks, after `summarise_piece`: each warp merges the few states for itself."""
    row = cuda.blockIdx.y
    while row < x.shape[0]:
        m, r = merge_pieces(pieces_m, pieces_r, row)
        start = cuda.blockIdx.x * length
        stop = min(start + length, x.shape[1])
        write4(x, y, row, m, r, start, stop, cuda.threadIdx.x, THREADS)
        row += cuda.gridDim.y


# ============================================================================================================
# Rungs: two passes, mantissa and exponent
# ============================================================================================================
# e**x = P(t) * 2**n with n = rint(x / ln 2) and t = x - n ln 2, |t| <= ln 2 / 2. The exponent n is a whole
# number *stored as a float*, so it cannot overflow, and scaling by a power of two is exact. The polynomials
# have 1 + t fixed and were fitted for this project: 0.9 ulp in float32, 1.3e-16 in float64.


LOG2_E_32, LOG2_E_64 = float.fromhex("0x1.715476p+0"), float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH_32, LN2_LOW_32 = float.fromhex("0x1.62e43p-1"), float.fromhex("-0x1.05c61p-29")
LN2_HIGH_64, LN2_LOW_64 = float.fromhex("0x1.62e42fefa39efp-1"), float.fromhex("0x1.abc9e3b39803fp-56")
# P(t) = 1 + t + t**2 (c[0] + c[1] t + ...)
C32 = tuple(map(float.fromhex, ("0x1.0p-1", "0x1.5554dep-3", "0x1.55551ap-5", "0x1.120b62p-7", "0x1.6d10fcp-10")))
C64 = tuple(
    map(
        float.fromhex,
        (
            "0x1.0000000000001p-1",
            "0x1.5555555555556p-3",
            "0x1.5555555553d68p-5",
            "0x1.11111111109b5p-7",
            "0x1.6c16c17889ef1p-10",
            "0x1.a01a01a7c2efep-13",
            "0x1.a019b9149a41cp-16",
            "0x1.71de0db2f6b19p-19",
            "0x1.28917c89a43a7p-22",
            "0x1.af389ecfc4b9cp-26",
        ),
    )
)


@device_function
def mantissa_and_exponent(x):
    # A mask of -inf would give n = -inf and t = NaN. Whatever lies below the limit contributes 0 in every row
    # that passes the test of range below. NaN is not smaller than the limit, and passes through.
    if is_float32(x):
        limit = real(x, -131072.0)
        x = limit if x < limit else x
        n = rint(x * real(x, LOG2_E_32))
        # Two fused steps: the first is exact, because its result is a short multiple of ulp(ln 2).
        t = fma(-n, real(x, LN2_HIGH_32), x)
        t = fma(-n, real(x, LN2_LOW_32), t)
        p = fma(real(x, C32[4]), t, real(x, C32[3]))
        p = fma(p, t, real(x, C32[2]))
        p = fma(p, t, real(x, C32[1]))
        p = fma(p, t, real(x, C32[0]))
    else:
        limit = real(x, -2199023255552.0)
        x = limit if x < limit else x
        n = rint(x * real(x, LOG2_E_64))
        t = fma(-n, real(x, LN2_HIGH_64), x)
        t = fma(-n, real(x, LN2_LOW_64), t)
        p = fma(real(x, C64[9]), t, real(x, C64[8]))
        p = fma(p, t, real(x, C64[7]))
        p = fma(p, t, real(x, C64[6]))
        p = fma(p, t, real(x, C64[5]))
        p = fma(p, t, real(x, C64[4]))
        p = fma(p, t, real(x, C64[3]))
        p = fma(p, t, real(x, C64[2]))
        p = fma(p, t, real(x, C64[1]))
        p = fma(p, t, real(x, C64[0]))
    return fma(p * t, t, t) + real(x, 1.0), n


@device_function
def scaled(x, n):
    """x 2**n, which may lie below the normal numbers, where one factor cannot go."""
    least = real(x, -126.0) if is_float32(x) else real(x, -1022.0)
    high = n if n > least else least
    return x * power_of_two(n - high) * power_of_two(high)


@device_function
def merge_mantissas(mantissa1, exponent1, mantissa2, exponent2):
    exponent = exponent1
    if exponent2 > exponent:
        exponent = exponent2
    total = mantissa1 * power_of_two(exponent1 - exponent) + mantissa2 * power_of_two(exponent2 - exponent)
    return total, exponent


@device_function
def merge_mantissas_over_warp(mantissa, exponent):
    step = 16
    while step > 0:
        mantissa, exponent = merge_mantissas(
            mantissa, exponent, shuffle_xor(mantissa, step), shuffle_xor(exponent, step)
        )
        step >>= 1
    return mantissa, exponent


@device_function
def merge_mantissas_over_block(mantissa, exponent):
    mantissa, exponent = merge_mantissas_over_warp(mantissa, exponent)
    mantissas = cuda.shared.array(32, numba.float64)
    exponents = cuda.shared.array(32, numba.float64)
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        mantissas[cuda.threadIdx.x >> 5] = mantissa
        exponents[cuda.threadIdx.x >> 5] = exponent
    cuda.syncthreads()
    other_mantissa = real(mantissa, 0.0)
    other_exponent = real(mantissa, -1e30)
    if lane < THREADS >> 5:
        other_mantissa = real(mantissa, mantissas[lane])
        other_exponent = real(mantissa, exponents[lane])
    return merge_mantissas_over_warp(other_mantissa, other_exponent)


@cuda.jit
def two_pass_mantissa_exponent(x, y):
    row = cuda.blockIdx.x
    step = THREADS
    mantissa = real(x, 0.0)
    lost = real(x, 0.0)
    exponent = real(x, -1e30)
    j = cuda.threadIdx.x
    while j < x.shape[1]:
        p, n = mantissa_and_exponent(load(x, row, j))
        if n > exponent:
            scale = power_of_two(exponent - n)
            mantissa = mantissa * scale
            lost = lost * scale
            exponent = n
        mantissa, lost = add(mantissa, lost, p * power_of_two(n - exponent))
        j += step
    mantissa, exponent = merge_mantissas_over_block(mantissa - lost, exponent)

    # x / ln 2 is rounded, so n is off by one or more where |x| is large. Written so that NaN fails too.
    reach = real(x, 94548.0) if is_float32(mantissa) else real(x, 1586259972792.0)
    if abs(exponent) <= reach:
        scale = real(x, 1.0) / mantissa
        j = cuda.threadIdx.x
        while j < x.shape[1]:
            p, n = mantissa_and_exponent(load(x, row, j))
            store(y, row, j, scaled(p * scale, n - exponent))
            j += step
    else:
        three_passes(x, y, row, cuda.threadIdx.x, step, BLOCK)


# ============================================================================================================
# Rungs of the vector-Jacobian product
# ============================================================================================================


@device_function
def vjp_of_row(x, cotangents, gradient, row, first, step, team):
    """Three walks: the state and the place of the maximum; the scalar product; the result."""
    columns = x.shape[1]
    m, r, lost, reference = empty(x)
    place = 0
    j = first
    while j < columns:
        v = load(x, row, j)
        if v > m:
            place = j
        m, r, lost, reference = absorb(m, r, lost, reference, v)
        j += step
    own_m, r = settle(m, r, lost, reference)
    m, r = merge_over_team(team, own_m, r)
    # Of several equal maxima the first, so that the result does not depend on the rung.
    place = minimum_over_team(team, place if own_m == m else columns)
    if place >= columns:
        place = 0
    w_at_maximum = load(cotangents, row, place)
    scale = real(x, 1.0) / (real(x, 1.0) + r)

    total = real(x, 0.0)
    lost = real(x, 0.0)
    j = first
    while j < columns:
        difference = w_at_maximum - load(cotangents, row, j)
        total, lost = add_exactly(total, lost, exp(load(x, row, j) - m) * difference)
        j += step
    total, lost = sum_over_team(team, total, lost)
    common = (total - lost) * scale

    j = first
    while j < columns:
        p = exp(load(x, row, j) - m) * scale
        store(gradient, row, j, p * ((load(cotangents, row, j) - w_at_maximum) + common))
        j += step


@cuda.jit
def vjp_one_thread_per_row(x, cotangents, gradient):
    row = cuda.grid(1)
    if row < x.shape[0]:
        vjp_of_row(x, cotangents, gradient, row, 0, 1, 1)


@cuda.jit
def vjp_one_warp_per_row(x, cotangents, gradient):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        vjp_of_row(x, cotangents, gradient, row, cuda.threadIdx.x, 32, 32)


@cuda.jit
def vjp_block_per_row(x, cotangents, gradient):
    vjp_of_row(x, cotangents, gradient, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK)


# ============================================================================================================
# Launch
# ============================================================================================================

ALGORITHMS = {
    "three_pass": (
        "one_thread_per_row",
        "one_warp_per_row",
        "block_per_row_three_pass",
        "row_on_chip",
        "row_in_registers",
    ),
    "online": ("block_per_row_online", "vectorised", "long_row_split_over_blocks"),
    "two_pass": ("two_pass_mantissa_exponent",),
}
RUNGS = tuple(rung for rungs in ALGORITHMS.values() for rung in rungs)
VJP_RUNGS = ("one_thread_per_row", "one_warp_per_row", "block_per_row")
KERNELS = {
    "one_thread_per_row": (one_thread_per_row, vjp_one_thread_per_row),
    "one_warp_per_row": (one_warp_per_row, vjp_one_warp_per_row),
    "block_per_row_three_pass": (block_per_row_three_pass,),
    "row_on_chip": (row_on_chip,),
    "row_in_registers": (row_in_registers,),
    "block_per_row_online": (block_per_row_online,),
    "vectorised": (vectorised,),
    "long_row_split_over_blocks": (summarise_piece, write_piece),
    "two_pass_mantissa_exponent": (two_pass_mantissa_exponent,),
    "block_per_row": (vjp_block_per_row,),
}


def best_rung(rows: int, columns: int, itemsize: int, algorithm: str, aligned: bool = True) -> str:
    """By algorithm, then by length: short rows a warp each, a row that fits on the chip is read once. A longer one is
    done online whoever asked for three passes: that subtracts the same maximum, and reads once less."""
    if algorithm == "two_pass":
        return "two_pass_mantissa_exponent"
    if algorithm == "three_pass":
        if columns <= 256:
            return "one_thread_per_row" if columns <= 32 else "one_warp_per_row"
        if aligned and columns <= LONGEST_IN_REGISTERS and itemsize < 8:
            return "row_in_registers"
        if columns * itemsize <= CHIP_BYTES:
            return "row_on_chip"
    if not aligned:
        return "block_per_row_online"
    return "long_row_split_over_blocks" if rows < 64 and columns >= 65536 else "vectorised"


def threads_for_registers(columns: int, dtype: np.dtype) -> int:
    """Full warps, enough of them for the row."""
    if dtype == np.float64:
        raise ValueError("rung 'row_in_registers' does not take float64")
    if columns > LONGEST_IN_REGISTERS:
        raise ValueError(f"a row of {columns} does not fit into registers ({LONGEST_IN_REGISTERS} numbers)")
    return 32 * -(-columns // (32 * 4 * GROUPS))


def launch(
    call: Call,
    x: Any,
    y: Any,
    *,
    algorithm: str = "three_pass",
    rung: str | None = None,
    pieces: tuple[int, int] | None = None,
) -> None:
    """Run one rung on kernel views x and y of shape (rows, columns). A rung named wins over the algorithm."""
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, got {algorithm!r}")
    rows, columns = x.shape
    itemsize = np.dtype(x.dtype).itemsize
    aligned = starts_on_16_bytes(x) and starts_on_16_bytes(y)
    rung = chosen(rung or best_rung(rows, columns, itemsize, algorithm, aligned), RUNGS, aligned)
    if rung == "long_row_split_over_blocks":
        count, length = pieces or pieces_for(rows, columns)
        state = arithmetic_dtype(np.dtype(x.dtype))
        pieces_m, pieces_r = call.new((rows, count), state), call.new((rows, count), state)
        grid = (count, min(rows, 65535))
        configured(summarise_piece, grid, THREADS, call.stream)(x, pieces_m, pieces_r, length)
        configured(write_piece, grid, THREADS, call.stream)(x, y, pieces_m, pieces_r, length)
        return
    blocks, threads = geometry(rung, rows)
    if rung == "row_in_registers":
        threads = threads_for_registers(columns, np.dtype(x.dtype))
    on_chip = bytes_on_chip(columns, itemsize) if rung == "row_on_chip" else 0
    configured(KERNELS[rung][0], blocks, threads, call.stream, on_chip)(x, y)


def launch_vjp(
    call: Call,
    x: Any,
    cotangents: Any,
    gradient: Any,
    *,
    rung: str | None = None,
) -> None:
    rows, columns = x.shape
    rung = rung or rung_below_a_block(rows, columns, aligned=False) or "block_per_row"  # none has wide loads
    rung = chosen(rung, VJP_RUNGS, True)
    kernel = KERNELS[rung][-1]
    configured(kernel, *geometry(rung, rows), call.stream)(x, cotangents, gradient)


def value(
    x: Any, *, axis: int = -1, algorithm: str = "three_pass", out: Any = None, stream: Any = None, **options: Any
) -> Any:  # fmt: skip
    """softmax along `axis`. `rung=` and `stream=` choose how it runs."""
    call = Call(x, out, stream=stream)
    rows, dtype, shape = call.rows(x, axis)
    if rows.size == 0:
        return empty_result(call, tuple(x.shape), dtype, out)
    y = call.output(out, tuple(x.shape), dtype, axis, reads=[rows])
    launch(call, rows, y, algorithm=algorithm, **options)
    return call.result(y, dtype, shape, axis, out)


def vjp(
    x: Any,
    *,
    cotangent: Any,
    axis: int = -1,
    algorithm: str = "three_pass",
    out: Any = None,
    stream: Any = None,
    **options: Any,
) -> Any:
    """p (w - <p, w>). The algorithm makes no difference here."""
    call = Call(x, cotangent, out, stream=stream)
    rows, dtype, shape = call.rows(x, axis)
    if rows.size == 0:
        return empty_result(call, tuple(x.shape), dtype, out)
    cotangents, _, _ = call.rows(call.cotangent(cotangent, tuple(x.shape), dtype), axis)
    gradient = call.output(out, tuple(x.shape), dtype, axis, reads=[rows, cotangents])
    launch_vjp(call, rows, cotangents, gradient, **options)
    return call.result(gradient, dtype, shape, axis, out)


def value_and_vjp(
    x: Any, *, cotangent: Any, axis: int = -1, algorithm: str = "three_pass", out: Any = None, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Both, one after the other; `out` is for the gradient."""
    result = value(x, axis=axis, algorithm=algorithm, **options)
    vjp_options = {**options, "rung": options.get("rung") if options.get("rung") in VJP_RUNGS else None}
    vjp_options.pop("pieces", None)
    return result, vjp(x, cotangent=cotangent, axis=axis, out=out, **vjp_options)


def reduced_value(x: Any, **options: Any) -> Any:
    """For device arrays, where the caller does not reduce: there is nothing to reduce here."""
    return value(x, **options)


def reduced_value_and_vjp(x: Any, *, cotangent: Any = 1.0, **options: Any) -> tuple[Any, Any]:
    return value_and_vjp(x, cotangent=cotangent, **options)
