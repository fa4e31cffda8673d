"""log-sum-exp of the rows of a matrix: lse = log sum_j e**x_j, with gradient w e**(x_j - lse).

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_row           the definition: one thread walks a row. Neighbouring threads read addresses a
                                 whole row apart, so each load fetches 32 bytes to use 4
    one_warp_per_row             32 lanes read 32 neighbours, the loads coalesce; shuffles merge the states
    one_warp_per_row_vectorised  128-bit loads: a quarter of the load instructions, four loads' worth in
                                 flight; ex2.approx for the exponentials
    block_per_row_online         a long row keeps 8 warps busy instead of one; one read of the row
    vectorised                   the same with 128-bit loads
    long_row_split_over_blocks   few long rows would leave most of the GPU idle: several blocks share a row,
                                 and a second small kernel merges their states in a fixed order

All keep the state (m, r) of `log_sum_exp_state`. The gradient, when asked for, is a second walk over the row
by the threads that have just read it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype, empty_result, starts_on_16_bytes
from lossref_cuda.instructions import (
    device_function,
    exp,
    fast_exp,
    load,
    load4,
    load_at,
    log1p,
    real,
    store,
    store4,
    store_at,
)
from lossref_cuda.launching import THREADS, chosen, configured, geometry, pieces_for, rung_below_a_block
from lossref_cuda.log_sum_exp_state import (
    aligned_part,
    finite_or_zero,
    merge,
    merge_over_block,
    merge_over_team,
    merge_over_warp,
    walk,
    walk4,
)
from lossref_cuda.reductions import BLOCK

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(x: np.ndarray) -> np.ndarray:
    """The same in NumPy: the maximum's own 1 stays out of the sum."""
    winner = x.argmax(axis=-1)[..., None]
    m = np.take_along_axis(x, winner, axis=-1)
    losers = x.copy()
    np.put_along_axis(losers, winner, -np.inf, axis=-1)
    shift = np.where(np.isneginf(m), 0, m)
    return (m + np.log1p(np.exp(losers - shift).sum(axis=-1, keepdims=True)))[..., 0]


# ============================================================================================================
# Rungs
# ============================================================================================================
# Every kernel takes (x, lse, cotangent, gradient, wanted). `wanted` says whether to write the gradient;
# without it, cotangent and gradient are one-element stand-ins.


@device_function
def write_gradient(x, cotangent, gradient, row, m, r, start, stop, first, step):
    """gradient[row, j] = w e**(x_j - m) / (1 + r)."""
    shift = finite_or_zero(m)
    scale = load_at(cotangent, row) / (real(m, 1.0) + r)
    j = start + first
    while j < stop:
        store(gradient, row, j, scale * exp(load(x, row, j) - shift))
        j += step


@device_function
def write_gradient4(x, cotangent, gradient, row, m, r, start, stop, first, step):
    """The same with 128-bit accesses; the ends of a row that are not aligned go one by one."""
    shift = finite_or_zero(m)
    scale = load_at(cotangent, row) / (real(m, 1.0) + r)
    begin, end = aligned_part(x, row, start, stop)
    if start + first < begin:
        store(gradient, row, start + first, scale * fast_exp(load(x, row, start + first) - shift))
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(x, row, j)
        a, b = scale * fast_exp(a - shift), scale * fast_exp(b - shift)
        c, d = scale * fast_exp(c - shift), scale * fast_exp(d - shift)
        store4(gradient, row, j, a, b, c, d)
        j += 4 * step
    if end + first < stop:
        store(gradient, row, end + first, scale * fast_exp(load(x, row, end + first) - shift))


@device_function
def whole_row(x, lse, cotangent, gradient, wanted, row, first, step, team, wide):
    """Everything about one row, by the `team` of threads that share it."""
    if wide:
        m, r = walk4(x, row, 0, x.shape[1], first, step)
    else:
        m, r = walk(x, row, 0, x.shape[1], first, step)
    m, r = merge_over_team(team, m, r)
    if first == 0:
        store_at(lse, row, m + log1p(r))
    if wanted:
        if wide:
            write_gradient4(x, cotangent, gradient, row, m, r, 0, x.shape[1], first, step)
        else:
            write_gradient(x, cotangent, gradient, row, m, r, 0, x.shape[1], first, step)


@cuda.jit
def one_thread_per_row(x, lse, cotangent, gradient, wanted):
    row = cuda.grid(1)
    if row < x.shape[0]:
        whole_row(x, lse, cotangent, gradient, wanted, row, 0, 1, 1, False)


@cuda.jit
def one_warp_per_row(x, lse, cotangent, gradient, wanted):
    # A block is (32, warps): threadIdx.x is the lane, threadIdx.y the warp. A warp without a row leaves as a
    # whole, so the shuffles always find all their lanes.
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        whole_row(x, lse, cotangent, gradient, wanted, row, cuda.threadIdx.x, 32, 32, False)


@cuda.jit
def one_warp_per_row_vectorised(x, lse, cotangent, gradient, wanted):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        whole_row(x, lse, cotangent, gradient, wanted, row, cuda.threadIdx.x, 32, 32, True)


@cuda.jit
def block_per_row_online(x, lse, cotangent, gradient, wanted):
    whole_row(x, lse, cotangent, gradient, wanted, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK, False)


@cuda.jit
def vectorised(x, lse, cotangent, gradient, wanted):
    whole_row(x, lse, cotangent, gradient, wanted, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK, True)


# ---- long_row_split_over_blocks: three kernels ----


@cuda.jit
def summarise_piece(x, pieces_m, pieces_r, length):
    """Block (piece, row) leaves the state of x[row, piece * length : (piece + 1) * length]."""
    piece = cuda.blockIdx.x
    row = cuda.blockIdx.y
    while row < x.shape[0]:
        start = piece * length
        stop = min(start + length, x.shape[1])
        m, r = walk4(x, row, start, stop, cuda.threadIdx.x, THREADS)
        m, r = merge_over_block(m, r)
        if cuda.threadIdx.x == 0:
            store(pieces_m, row, piece, m)
            store(pieces_r, row, piece, r)
        row += cuda.gridDim.y


@device_function
def merge_pieces(pieces_m, pieces_r, row):
    """One warp merges the pieces of a row, always in the same order."""
    m = real(pieces_m, -math.inf)
    r = real(pieces_m, 0.0)
    piece = cuda.threadIdx.x & 31
    while piece < pieces_m.shape[1]:
        m, r = merge(m, r, load(pieces_m, row, piece), load(pieces_r, row, piece))
        piece += 32
    return merge_over_warp(m, r)


@cuda.jit
def finish_row(pieces_m, pieces_r, lse):
    row = cuda.blockIdx.x
    m, r = merge_pieces(pieces_m, pieces_r, row)
    if cuda.threadIdx.x == 0:
        store_at(lse, row, m + log1p(r))


@cuda.jit
def gradient_of_piece(x, pieces_m, pieces_r, cotangent, gradient, length):
    """Each warp merges the few states again: cheaper than a third kernel's launch to store them merged."""
    row = cuda.blockIdx.y
    while row < x.shape[0]:
        start = cuda.blockIdx.x * length
        stop = min(start + length, x.shape[1])
        m, r = merge_pieces(pieces_m, pieces_r, row)
        write_gradient4(x, cotangent, gradient, row, m, r, start, stop, cuda.threadIdx.x, THREADS)
        row += cuda.gridDim.y


# ============================================================================================================
# Launch
# ============================================================================================================

RUNGS = (
    "one_thread_per_row",
    "one_warp_per_row",
    "one_warp_per_row_vectorised",
    "block_per_row_online",
    "vectorised",
    "long_row_split_over_blocks",
)
KERNELS = {
    "one_thread_per_row": (one_thread_per_row,),
    "one_warp_per_row": (one_warp_per_row,),
    "one_warp_per_row_vectorised": (one_warp_per_row_vectorised,),
    "block_per_row_online": (block_per_row_online,),
    "vectorised": (vectorised,),
    "long_row_split_over_blocks": (summarise_piece, finish_row, gradient_of_piece),
}


def best_rung(rows: int, columns: int, aligned: bool = True) -> str:
    """Short rows, or many: a thread or a warp each. Else a block each. Few and very long: several blocks each."""
    if below := rung_below_a_block(rows, columns, aligned):
        return below
    if not aligned:
        return "block_per_row_online"
    if rows < 64 and columns >= 65536:
        return "long_row_split_over_blocks"
    return "vectorised"


def launch(
    call: Call,
    x: Any,
    lse: Any,
    cotangent: Any = None,
    gradient: Any = None,
    *,
    rung: str | None = None,
    pieces: tuple[int, int] | None = None,
) -> None:
    """Run one rung on kernel views: x (rows, columns), lse (rows,), cotangent (rows,), gradient like x."""
    rows, columns = x.shape
    wanted = gradient is not None
    aligned = starts_on_16_bytes(x) and (not wanted or starts_on_16_bytes(gradient))
    rung = chosen(rung or best_rung(rows, columns, aligned), RUNGS, aligned)
    if not wanted:
        cotangent = call.new((1,), arithmetic_dtype(np.dtype(x.dtype)))
        gradient = call.new((1, 1), x.dtype)
    if rung == "long_row_split_over_blocks":
        count, length = pieces or pieces_for(rows, columns)
        state = arithmetic_dtype(np.dtype(x.dtype))
        pieces_m, pieces_r = call.new((rows, count), state), call.new((rows, count), state)
        grid = (count, min(rows, 65535))
        configured(summarise_piece, grid, THREADS, call.stream)(x, pieces_m, pieces_r, length)
        configured(finish_row, rows, 32, call.stream)(pieces_m, pieces_r, lse)
        if wanted:
            configured(gradient_of_piece, grid, THREADS, call.stream)(
                x, pieces_m, pieces_r, cotangent, gradient, length
            )
        return
    configured(KERNELS[rung][0], *geometry(rung, rows), call.stream)(x, lse, cotangent, gradient, wanted)


def _run(x, cotangent, axis, keepdims, want_value, want_gradient, options, out=None):
    call = Call(x, cotangent if want_gradient else None, out, stream=options.pop("stream", None))
    rows, dtype, shape = call.rows(x, axis)
    axis = range(len(shape))[axis]
    original = (*shape[:axis], shape[-1], *shape[axis:-1])
    reduced = (*shape[:axis], 1, *shape[axis:-1]) if keepdims else shape[:-1]
    if rows.shape[0] == 0:
        return empty_result(call, reduced, dtype), empty_result(call, original, dtype, out)
    lse = call.new((rows.shape[0],), dtype)
    gradient = weights = None
    if want_gradient:
        weights = call.vector(call.cotangent(cotangent, reduced, dtype))
        gradient = call.output(out, original, dtype, axis, reads=[rows, weights])
    launch(call, rows, lse, weights, gradient, **options)
    value_out = call.result(lse, dtype, reduced) if want_value else None
    gradient_out = call.result(gradient, dtype, shape, axis, out) if want_gradient else None
    return value_out, gradient_out


def value(x: Any, *, axis: int = -1, keepdims: bool = False, **options: Any) -> Any:
    """log-sum-exp along `axis`. `rung=` and `stream=` choose how it runs."""
    return _run(x, None, axis, keepdims, True, False, options)[0]


def vjp(
    x: Any, *, cotangent: Any, axis: int = -1, keepdims: bool = False, out: Any = None, **options: Any
) -> Any:  # fmt: skip
    """The gradient of the sum of cotangent * value: cotangent times softmax."""
    return _run(x, cotangent, axis, keepdims, False, True, options, out)[1]


def value_and_vjp(
    x: Any, *, cotangent: Any, axis: int = -1, keepdims: bool = False, out: Any = None, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Both, for one read of the row more than the value alone; `out` is for the gradient."""
    return _run(x, cotangent, axis, keepdims, True, True, options, out)


def reduced_value(x: Any, **options: Any) -> Any:
    """For device arrays, where the caller does not reduce: there is nothing to reduce here."""
    return value(x, **options)


def reduced_value_and_vjp(x: Any, *, cotangent: Any = 1.0, **options: Any) -> tuple[Any, Any]:
    return value_and_vjp(x, cotangent=cotangent, **options)
