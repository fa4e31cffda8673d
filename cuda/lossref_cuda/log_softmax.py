"""log-softmax of the rows of a matrix: y_j = x_j - lse(x), computed as (x_j - m) - log1p(r).

The difference with the maximum comes first: where all logits lie near 1e8, lse itself is rounded to 8, while
x_j - m is exact. For the maximum's own entry the result is -log1p(r): 4e-18 where it leads by 40, not 0.

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_row           the definition: one thread walks a row, loads do not coalesce
    one_warp_per_row             32 lanes read 32 neighbours; shuffles merge the states
    one_warp_per_row_vectorised  128-bit loads and stores
    block_per_row_online         a long row keeps a whole block busy; two reads and one write
    vectorised                   the same with 128-bit loads and stores
    long_row_split_over_blocks   several blocks a row, states merged in a fixed order; for few long rows

The vector-Jacobian product is w_j (1 - p_j) - p_j sum_{k != j} w_k: never w_j - p_j sum_k w_k, which loses
the winner's entry where p_j has rounded to 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype, empty_result, starts_on_16_bytes
from lossref_cuda.instructions import device_function, exp, load, load4, log1p, real, store, store4
from lossref_cuda.launching import THREADS, chosen, configured, geometry, pieces_for, rung_below_a_block
from lossref_cuda.log_sum_exp_state import (
    aligned_part,
    merge_over_block,
    merge_over_team,
    merge_over_warp,
    walk,
    walk4,
)
from lossref_cuda.logsumexp import merge_pieces, summarise_piece
from lossref_cuda.reductions import BLOCK, add_exactly, sum_over_team

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(x: np.ndarray) -> np.ndarray:
    """The same in NumPy."""
    winner = x.argmax(axis=-1)[..., None]
    shifted = x - np.take_along_axis(x, winner, axis=-1)
    losers = np.exp(shifted)
    np.put_along_axis(losers, winner, 0, axis=-1)
    return shifted - np.log1p(losers.sum(axis=-1, keepdims=True))


# ============================================================================================================
# Rungs
# ============================================================================================================


@device_function
def log_softmax_of_row(x, y, row, first, step, team):
    m, r = walk(x, row, 0, x.shape[1], first, step)
    m, r = merge_over_team(team, m, r)
    log_norm = log1p(r)
    j = first
    while j < x.shape[1]:
        store(y, row, j, (load(x, row, j) - m) - log_norm)
        j += step


@cuda.jit
def one_thread_per_row(x, y):
    row = cuda.grid(1)
    if row < x.shape[0]:
        log_softmax_of_row(x, y, row, 0, 1, 1)


@cuda.jit
def one_warp_per_row(x, y):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        log_softmax_of_row(x, y, row, cuda.threadIdx.x, 32, 32)


@cuda.jit
def block_per_row_online(x, y):
    log_softmax_of_row(x, y, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK)


@device_function
def write4(x, y, row, m, r, start, stop, first, step):
    """y[row, start:stop] with 128-bit accesses; what is not aligned at its two ends goes one by one."""
    log_norm = log1p(r)
    begin, end = aligned_part(x, row, start, stop)
    if start + first < begin:
        store(y, row, start + first, (load(x, row, start + first) - m) - log_norm)
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(x, row, j)
        store4(y, row, j, (a - m) - log_norm, (b - m) - log_norm, (c - m) - log_norm, (d - m) - log_norm)
        j += 4 * step
    if end + first < stop:
        store(y, row, end + first, (load(x, row, end + first) - m) - log_norm)


@cuda.jit
def one_warp_per_row_vectorised(x, y):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < x.shape[0]:
        m, r = walk4(x, row, 0, x.shape[1], cuda.threadIdx.x, 32)
        m, r = merge_over_warp(m, r)
        write4(x, y, row, m, r, 0, x.shape[1], cuda.threadIdx.x, 32)


@cuda.jit
def vectorised(x, y):
    row = cuda.blockIdx.x
    m, r = walk4(x, row, 0, x.shape[1], cuda.threadIdx.x, THREADS)
    m, r = merge_over_block(m, r)
    write4(x, y, row, m, r, 0, x.shape[1], cuda.threadIdx.x, THREADS)


@cuda.jit
def write_piece(x, y, pieces_m, pieces_r, length):
    """long_row_split_over_blocks, after `summarise_piece`."""
    row = cuda.blockIdx.y
    while row < x.shape[0]:
        m, r = merge_pieces(pieces_m, pieces_r, row)
        start = cuda.blockIdx.x * length
        stop = min(start + length, x.shape[1])
        write4(x, y, row, m, r, start, stop, cuda.threadIdx.x, THREADS)
        row += cuda.gridDim.y


# ---- the vector-Jacobian product ----


@device_function
def cotangent_of(x, cotangents, row, j):
    """A masked class has the constant value -inf: its cotangent means nothing."""
    if load(x, row, j) == -math.inf:
        return real(x, 0.0)
    return real(x, load(cotangents, row, j))


@device_function
def vjp_of_row(x, cotangents, gradient, row, first, step, team):
    columns = x.shape[1]
    m, r = walk(x, row, 0, columns, first, step)
    m, r = merge_over_team(team, m, r)
    total = real(x, 0.0)
    lost = real(x, 0.0)
    j = first
    while j < columns:
        total, lost = add_exactly(total, lost, cotangent_of(x, cotangents, row, j))
        j += step
    total, lost = sum_over_team(team, total, lost)

    scale = real(x, 1.0) / (real(x, 1.0) + r)
    j = first
    while j < columns:
        w = cotangent_of(x, cotangents, row, j)
        e = exp(load(x, row, j) - m)
        # 1 - p_j = ((1 - e) + r) / (1 + r), exact at the maximum, where e = 1. And because the sum is known
        # to twice the precision, taking w_j out of it again leaves the sum of the others.
        others = (real(x, 1.0) - e) + r
        store(gradient, row, j, scale * (w * others - e * ((total - w) - lost)))
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

RUNGS = (
    "one_thread_per_row",
    "one_warp_per_row",
    "one_warp_per_row_vectorised",
    "block_per_row_online",
    "vectorised",
    "long_row_split_over_blocks",
)
VJP_RUNGS = ("one_thread_per_row", "one_warp_per_row", "block_per_row")
KERNELS = {
    "one_thread_per_row": (one_thread_per_row, vjp_one_thread_per_row),
    "one_warp_per_row": (one_warp_per_row, vjp_one_warp_per_row),
    "one_warp_per_row_vectorised": (one_warp_per_row_vectorised,),
    "block_per_row_online": (block_per_row_online,),
    "vectorised": (vectorised,),
    "long_row_split_over_blocks": (summarise_piece, write_piece),
    "block_per_row": (vjp_block_per_row,),
}


def best_rung(rows: int, columns: int, aligned: bool = True) -> str:
    if below := rung_below_a_block(rows, columns, aligned):
        return below
    if not aligned:
        return "block_per_row_online"
    return "long_row_split_over_blocks" if rows < 64 and columns >= 65536 else "vectorised"


def launch(
    call: Call,
    x: Any,
    y: Any,
    *,
    rung: str | None = None,
    pieces: tuple[int, int] | None = None,
) -> None:
    """Run one rung on kernel views x and y of shape (rows, columns)."""
    rows, columns = x.shape
    aligned = starts_on_16_bytes(x) and starts_on_16_bytes(y)
    rung = chosen(rung or best_rung(rows, columns, aligned), RUNGS, aligned)
    if rung == "long_row_split_over_blocks":
        count, length = pieces or pieces_for(rows, columns)
        state = arithmetic_dtype(np.dtype(x.dtype))
        pieces_m, pieces_r = call.new((rows, count), state), call.new((rows, count), state)
        grid = (count, min(rows, 65535))
        configured(summarise_piece, grid, THREADS, call.stream)(x, pieces_m, pieces_r, length)
        configured(write_piece, grid, THREADS, call.stream)(x, y, pieces_m, pieces_r, length)
        return
    configured(KERNELS[rung][0], *geometry(rung, rows), call.stream)(x, y)


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


def value(x: Any, *, axis: int = -1, out: Any = None, stream: Any = None, **options: Any) -> Any:
    """log-softmax along `axis`. `rung=` and `stream=` choose how it runs."""
    call = Call(x, out, stream=stream)
    rows, dtype, shape = call.rows(x, axis)
    if rows.size == 0:
        return empty_result(call, tuple(x.shape), dtype, out)
    y = call.output(out, tuple(x.shape), dtype, axis, reads=[rows])
    launch(call, rows, y, **options)
    return call.result(y, dtype, shape, axis, out)


def vjp(x: Any, *, cotangent: Any, axis: int = -1, out: Any = None, stream: Any = None, **options: Any) -> Any:
    """w_j (1 - p_j) - p_j sum_{k != j} w_k."""
    call = Call(x, cotangent, out, stream=stream)
    rows, dtype, shape = call.rows(x, axis)
    if rows.size == 0:
        return empty_result(call, tuple(x.shape), dtype, out)
    cotangents, _, _ = call.rows(call.cotangent(cotangent, tuple(x.shape), dtype), axis)
    gradient = call.output(out, tuple(x.shape), dtype, axis, reads=[rows, cotangents])
    launch_vjp(call, rows, cotangents, gradient, **options)
    return call.result(gradient, dtype, shape, axis, out)


def value_and_vjp(
    x: Any, *, cotangent: Any, axis: int = -1, out: Any = None, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Both, one after the other; `out` is for the gradient."""
    result = value(x, axis=axis, **options)
    vjp_options = {**options, "rung": options.get("rung") if options.get("rung") in VJP_RUNGS else None}
    vjp_options.pop("pieces", None)
    return result, vjp(x, cotangent=cotangent, axis=axis, out=out, **vjp_options)


def reduced_value(x: Any, **options: Any) -> Any:
    """For device arrays, where the caller does not reduce: there is nothing to reduce here."""
    return value(x, **options)


def reduced_value_and_vjp(x: Any, *, cotangent: Any = 1.0, **options: Any) -> tuple[Any, Any]:
    return value_and_vjp(x, cotangent=cotangent, **options)
