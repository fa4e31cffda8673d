"""The softmax of the k largest scores of each row, 0 elsewhere: the gate of a mixture of experts.

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_row     the definition: one thread walks a row, loads do not coalesce
    one_warp_per_row       32 lanes read 32 neighbours, five shuffles find the best of a walk

The scores of a row are put in order, the largest first and of equal ones the one further left. Walk t finds the
best score that comes after the t - 1 found before: k walks, and not a byte of scratch. Rows of experts are short,
so all walks but the first read from the cache. What is chosen is then whatever does not come after the k-th.

With u = score + bias, g = e**(u - u_*) / (1 + r), * the largest chosen u, r the sum over all other chosen ones; the
gradient is g_j ((w_j - w_*) - sum_k g_k (w_k - w_*)), and that of the bias is its sum over the rows. Both parts of
u, as rounded and what rounding took, enter the difference: an offset of scores or bias changes nothing.

NaN and +inf make their own row NaN, and so does a row of -inf alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype, empty_result
from lossref_cuda.instructions import device_function, exp, load, real, store, wait_for_warp
from lossref_cuda.launching import THREADS, chosen, configured, geometry
from lossref_cuda.reductions import add_exactly, maximum_over_warp, minimum_over_warp, sum_over_warp

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(scores: np.ndarray, k: int, bias: np.ndarray | float = 0.0) -> np.ndarray:
    """The same in NumPy."""
    order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
    gates = np.full(scores.shape, -np.inf)
    np.put_along_axis(gates, order, np.take_along_axis(scores + bias, order, -1), -1)
    e = np.exp(gates - gates.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# ============================================================================================================
# Rungs
# ============================================================================================================
# `team` threads share a row, 1 or the 32 of a warp; this one takes the columns first, first + step, ...


@device_function
def maximum_of_team(team, number):
    return number if team == 1 else maximum_over_warp(number)


@device_function
def minimum_of_team(team, number):
    return number if team == 1 else minimum_over_warp(number)


@device_function
def sum_of_team(team, total, lost):
    if team == 1:
        return total, lost
    return sum_over_warp(total, lost)


@device_function
def comes_after(x, j, last, place):
    """In the order of scores: behind the score `last` at `place`."""
    return x < last or (x == last and j > place)


@device_function
def next_best(scores, row, last, place, first, step, team):
    """The first score that comes after (last, place), and where it stands. NaN comes nowhere."""
    columns = scores.shape[1]
    best = real(scores, -math.inf)
    at = columns
    j = first
    while j < columns:
        x = load(scores, row, j)
        if comes_after(x, j, last, place) and (x > best or at == columns):
            best = x
            at = j
        j += step
    top = maximum_of_team(team, best)
    return top, minimum_of_team(team, at if best == top else columns)


@device_function
def sum_of_both(scores, bias, biased, row, j):
    """score + bias as total - lost."""
    x = load(scores, row, j)
    if biased:
        return add_exactly(x, real(scores, 0.0), real(scores, load(bias, 0, j)))
    return x, real(scores, 0.0)


@device_function
def gates_of_row(scores, bias, biased, k, row, first, step, team):
    """What a gate of this row needs: the k-th score and its place, the largest sum and its place, 1 / (1 + r)."""
    columns = scores.shape[1]
    last = real(scores, math.inf)
    place = columns
    t = 0
    while t < k:
        last, place = next_best(scores, row, last, place, first, step, team)
        t += 1

    largest = real(scores, -math.inf)
    at = columns
    j = first
    while j < columns:
        if not comes_after(load(scores, row, j), j, last, place):
            total, lost = sum_of_both(scores, bias, biased, row, j)
            if total > largest:
                largest = total
                at = j
        j += step
    top = maximum_of_team(team, largest)
    at = minimum_of_team(team, at if largest == top else columns)
    if at == columns:
        at = 0  # nothing but masks, or NaN: the row becomes NaN below
    total, lost = sum_of_both(scores, bias, biased, row, at)

    r = real(scores, 0.0)
    r_lost = real(scores, 0.0)
    j = first
    while j < columns:
        x = load(scores, row, j)
        if not x < math.inf:
            r = real(scores, math.nan)
        elif j != at and not comes_after(x, j, last, place):
            other, other_lost = sum_of_both(scores, bias, biased, row, j)
            r, r_lost = add_exactly(r, r_lost, exp((other - total) - (other_lost - lost)))
        j += step
    r, r_lost = sum_of_team(team, r, r_lost)
    scale = real(scores, 1.0) / (real(scores, 1.0) + (r - r_lost))
    if total == -math.inf:
        scale = real(scores, math.nan)
    return last, place, total, lost, at, scale


@device_function
def gate(scores, bias, biased, row, j, last, place, total, lost, scale):
    """0 * scale where nothing was chosen: it is NaN where the row is."""
    if comes_after(load(scores, row, j), j, last, place):
        return real(scores, 0.0) * scale
    other, other_lost = sum_of_both(scores, bias, biased, row, j)
    return exp((other - total) - (other_lost - lost)) * scale


@device_function
def forward_row(scores, bias, biased, k, gates, row, first, step, team):
    last, place, total, lost, _, scale = gates_of_row(scores, bias, biased, k, row, first, step, team)
    j = first
    while j < scores.shape[1]:
        store(gates, row, j, gate(scores, bias, biased, row, j, last, place, total, lost, scale))
        j += step


@device_function
def backward_row(scores, bias, biased, k, cotangents, gradient, slopes, row, first, step, team):
    """`slopes` is the gradient once more, in the dtype of the arithmetic, for the sum over the rows."""
    last, place, total, lost, at, scale = gates_of_row(scores, bias, biased, k, row, first, step, team)
    centre = load(cotangents, row, at)
    mean = real(scores, 0.0)
    mean_lost = real(scores, 0.0)
    j = first
    while j < scores.shape[1]:
        p = gate(scores, bias, biased, row, j, last, place, total, lost, scale)
        mean, mean_lost = add_exactly(mean, mean_lost, p * (load(cotangents, row, j) - centre))
        j += step
    mean, mean_lost = sum_of_team(team, mean, mean_lost)
    if team == 32:  # the gradient may be written over scores that other lanes still read
        wait_for_warp()
    j = first
    while j < scores.shape[1]:
        p = gate(scores, bias, biased, row, j, last, place, total, lost, scale)
        slope = p * ((load(cotangents, row, j) - centre) - (mean - mean_lost))
        store(gradient, row, j, slope)
        if biased:
            store(slopes, row, j, slope)
        j += step


@cuda.jit
def one_thread_per_row(scores, bias, biased, k, gates):
    row = cuda.grid(1)
    if row < scores.shape[0]:
        forward_row(scores, bias, biased, k, gates, row, 0, 1, 1)


@cuda.jit
def one_warp_per_row(scores, bias, biased, k, gates):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < scores.shape[0]:
        forward_row(scores, bias, biased, k, gates, row, cuda.threadIdx.x, 32, 32)


@cuda.jit
def vjp_one_thread_per_row(scores, bias, biased, k, cotangents, gradient, slopes):
    row = cuda.grid(1)
    if row < scores.shape[0]:
        backward_row(scores, bias, biased, k, cotangents, gradient, slopes, row, 0, 1, 1)


@cuda.jit
def vjp_one_warp_per_row(scores, bias, biased, k, cotangents, gradient, slopes):
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < scores.shape[0]:
        backward_row(scores, bias, biased, k, cotangents, gradient, slopes, row, cuda.threadIdx.x, 32, 32)


@cuda.jit
def sum_over_rows(slopes, strips):
    """strips[s, j] = the sum of slopes[s::S, j], S strips. A thread makes one: neighbours read neighbours, and the
    order of the sum never changes."""
    j = cuda.grid(1)
    if j < slopes.shape[1]:
        total = real(slopes, 0.0)
        lost = real(slopes, 0.0)
        row = cuda.blockIdx.y
        while row < slopes.shape[0]:
            total, lost = add_exactly(total, lost, load(slopes, row, j))
            row += cuda.gridDim.y
        store(strips, cuda.blockIdx.y, j, real(strips, total - lost))


# ============================================================================================================
# Launch
# ============================================================================================================

RUNGS = ("one_thread_per_row", "one_warp_per_row")
STRIPS = 256
KERNELS = {
    "one_thread_per_row": (one_thread_per_row, vjp_one_thread_per_row),
    "one_warp_per_row": (one_warp_per_row, vjp_one_warp_per_row),
    "sum_over_rows": (sum_over_rows,),
}


class Problem:
    """The arguments as the kernels see them."""

    def __init__(self, scores: Any, k: int, bias: Any, stream: Any, *others: Any):
        self.call = Call(scores, bias, *others, stream=stream)
        self.scores, self.dtype, self.shape = self.call.rows(scores)
        if not 1 <= k <= self.shape[1]:
            raise ValueError(f"k: expected an integer from 1 to {self.shape[1]}, got {k}")
        self.biased = bias is not None
        self.bias = self.call.rows(bias)[0] if self.biased else self.scores
        self.k = k

    def launch(self, number: int, rung: str | None, *arrays: Any) -> None:
        """One of the two kernels of a rung."""
        rows, columns = self.scores.shape
        rung = chosen(rung or ("one_thread_per_row" if columns <= 32 else "one_warp_per_row"), RUNGS, True)
        run = configured(KERNELS[rung][number], *geometry(rung, rows), self.call.stream)
        run(self.scores, self.bias, self.biased, self.k, *arrays)


def value(
    scores: Any, *, k: int, bias: Any = None, out: Any = None, rung: str | None = None, stream: Any = None
) -> Any:  # fmt: skip
    """The gates. `rung=` and `stream=` choose how it runs."""
    problem = Problem(scores, k, bias, stream, out)
    call, dtype, shape = problem.call, problem.dtype, problem.shape
    if problem.scores.size == 0:
        return empty_result(call, shape, dtype, out)
    gates = call.output(out, shape, dtype, reads=[problem.scores, problem.bias])
    problem.launch(0, rung, gates)
    return call.result(gates, dtype, shape, out=out)


def vjp(
    scores: Any, *, k: int, cotangent: Any, bias: Any = None, out: Any = None, rung: str | None = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """The gradient of the scores, or of the scores and of the bias where there is one (`out` likewise)."""
    given = tuple(out) if isinstance(out, tuple | list) else (out,)
    problem = Problem(scores, k, bias, stream, cotangent, *given)
    call, dtype, shape = problem.call, problem.dtype, problem.shape
    for_bias = None
    if problem.biased:
        out, for_bias = call.check_outs(out, [(shape, dtype), (shape[1:], dtype)])
    if problem.scores.size == 0:
        empty = empty_result(call, shape, dtype, out)
        return (empty, zero_bias(call, shape[1], dtype, for_bias)) if problem.biased else empty
    cotangents = call.rows(call.cotangent(cotangent, shape, dtype))[0]
    gradient = call.output(out, shape, dtype, reads=[problem.scores, problem.bias, cotangents])
    slopes = gradient
    if problem.biased and arithmetic_dtype(dtype) != dtype:
        slopes = call.new(shape, arithmetic_dtype(dtype))
    problem.launch(1, rung, cotangents, gradient, slopes)
    of_bias = summed_over_rows(call, slopes, dtype) if problem.biased else None
    result = call.result(gradient, dtype, shape, out=out)
    return (result, call.result(of_bias, dtype, shape[1:], out=for_bias)) if problem.biased else result


def summed_over_rows(call: Call, slopes: Any, dtype: np.dtype) -> Any:
    """Many rows of few experts would keep a few threads busy for long: a strip of rows for each block, then the
    strips."""
    rows, experts = slopes.shape
    blocks = -(-experts // THREADS)
    if rows > STRIPS:
        strips = call.new((STRIPS, experts), slopes.dtype)
        configured(sum_over_rows, (blocks, STRIPS), THREADS, call.stream)(slopes, strips)
        slopes = strips
    sums = call.new((1, experts), dtype)
    configured(sum_over_rows, (blocks, 1), THREADS, call.stream)(slopes, sums)
    return sums


def zero_bias(call: Call, experts: int, dtype: np.dtype, out: Any) -> Any:
    """The sum over no rows."""
    return call.result(call.full((experts,), dtype, 0.0), dtype, (experts,), out=out)


def value_and_vjp(
    scores: Any, *, k: int, cotangent: Any, bias: Any = None, out: Any = None, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Both, one after the other; `out` is for the gradient."""
    gates = value(scores, k=k, bias=bias, **options)
    return gates, vjp(scores, k=k, cotangent=cotangent, bias=bias, out=out, **options)
