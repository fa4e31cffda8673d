r"""log softmax(x)_j = x_j − log Σ_k e^{x_k} along an axis, and its gradient.

Reference
=========
    m = max x,   r = Σ e^{x − m} without the maximum's own 1
    value      (x_j − m) − log1p(r)
    gradient   ω_j − p_j Σ_k ω_k;  at the maximum  ω_* (1 − p_*) − p_* Σ_{k≠*} ω_k,   1 − p_* = r / (1 + r)

The second form of the gradient is the same number; only at the maximum can p be so near to 1 that the first
one loses it. A masked entry (−∞) has the value −∞ and the gradient 0, and its cotangent is ignored. NaN or
+∞ makes its whole row NaN, and so does a row of −∞ alone.

Kernels
=======
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.exponential import scaled_exponential
from lossref.kernels.lanes import (
    magnitude_is_infinite,
    memory_fence,
    select,
    spread,
    widened,
)
from lossref.kernels.rows import (
    around_caches,
    empty_result,
    finish,
    half_in_parts,
    in_parallel,
    pieces,
    pieces_of_a_row,
    read_only,
    split_rows_or_elements,
    to_rows,
)
from lossref.kernels.streaming_state import (
    absorb,
    finite,
    index_of,
    state_and_leader_of_long_row,
    state_of_long_row,
)
from lossref.kernels.sums import sum_beside
from lossref.kernels.writing import write, write_beside

__all__ = ["value", "value_and_vjp", "vjp"]


@inlined
def log_probability(x, constants):
    shift, log_total = constants
    return (x - shift) - log_total


@kernel
def log_softmax_forward(rows, result, streamed):
    for i in range(rows.shape[0]):
        m, r = absorb(rows[i], -np.inf, 0.0, None)
        log_total = np.log1p(r) if m > -np.inf else np.nan
        write(log_probability, rows[i], (m, log_total), result[i], streamed)
    memory_fence()


@kernel
def write_log_probabilities(piece, m, log_total, result, streamed):
    write(log_probability, piece, (m, log_total), result, streamed)
    memory_fence()


@inlined
def add_unmasked(terms, x, cotangent, _):
    return terms + widened(select(magnitude_is_infinite(x), 0.0, cotangent))


@inlined
def sum_of_unmasked(row, cotangent):
    """Σ cotangent[k] over the entries that are not masked, in float64: the numbers may have both signs."""
    total, lost = sum_beside(add_unmasked, row, cotangent, None, widened(spread(row, 0.0)))
    return total + lost


@inlined
def sum_of_others(row, cotangent, j):
    """The same without entry j (which may lie outside of the row: then it is the sum of all)."""
    left, right = min(max(j, 0), row.size), min(max(j + 1, 0), row.size)
    return sum_of_unmasked(row[:left], cotangent[:left]) + sum_of_unmasked(row[right:], cotangent[right:])


@inlined
def cotangent_minus_share(x, cotangent, constants):
    """ω_j − p_j Σω, and 0 at a mask."""
    shift, minus_total_over_sum = constants
    share = scaled_exponential(x - shift, minus_total_over_sum)
    return select(magnitude_is_infinite(x), 0.0, cotangent + share)


@kernel
def log_softmax_backward(rows, cotangent, result, streamed):
    for i in range(rows.shape[0]):
        row, weights = rows[i], cotangent[i]
        m, r = absorb(row, -np.inf, 0.0, None)
        star = index_of(row, m)
        rest = sum_of_others(row, weights, star)
        constants = (finite(m), -(rest + weights[star]) / (1.0 + r))
        write_beside(cotangent_minus_share, row, weights, constants, result[i], streamed)
        if r == r and m > -np.inf:
            result[i, star] = slope_at_maximum(weights[star], rest, r)
        else:
            result[i, :] = np.nan  # its masks too: any place of a NaN row tells that it is one
    memory_fence()


@inlined
def slope_at_maximum(own, rest, r):
    return own * (r / (1.0 + r)) - rest / (1.0 + r)


# One long row: the same passes, each divided among the threads.


@kernel
def others_of_piece(piece, cotangent, j):
    return sum_of_others(piece, cotangent, j)


@kernel
def write_slopes(piece, cotangent, constants, result, streamed):
    write_beside(cotangent_minus_share, piece, cotangent, constants, result, streamed)
    memory_fence()


def forward_of_long_row(row, result, streamed):
    m, r = state_of_long_row(row)
    log_total = math.log1p(r) if m > -math.inf else math.nan
    in_parallel(
        lambda a, b: write_log_probabilities(row[a:b], m, log_total, result[a:b], streamed),
        pieces_of_a_row(row.size),
    )


def backward_of_long_row(row, cotangent, result, streamed):
    parts = pieces_of_a_row(row.size)
    m, r, star = state_and_leader_of_long_row(row)
    rest = sum(in_parallel(lambda a, b: others_of_piece(row[a:b], cotangent[a:b], star - a), parts))
    own = float(cotangent[star])
    constants = (finite.py_func(m), -(rest + own) / (1.0 + r))
    in_parallel(lambda a, b: write_slopes(row[a:b], cotangent[a:b], constants, result[a:b], streamed), parts)
    if r == r and m > -math.inf:
        result[star] = slope_at_maximum.py_func(own, rest, r)
    else:
        result[:] = math.nan


# Launch
# ======


@half_in_parts
def value(x, *, axis=-1, out=None):
    """log softmax(x) along `axis`."""
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    result = empty_result(rows, x, axis, out)
    streamed = around_caches(result)
    if split_rows_or_elements(rows):
        for row, result_of_row in zip(rows, result, strict=True):
            forward_of_long_row(row, result_of_row, streamed)
    else:
        in_parallel(lambda a, b: log_softmax_forward(rows[a:b], result[a:b], streamed), pieces(*rows.shape))
    return finish(result, x, axis, out)


@half_in_parts
def vjp(x, *, axis=-1, cotangent, out=None):
    """ω_j − p_j Σ_k ω_k, without cancellation at the maximum."""
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    cotangent = np.broadcast_to(np.asarray(cotangent), x.shape)
    weights = read_only(np.moveaxis(cotangent, axis, -1).reshape(rows.shape), rows.dtype)
    result = empty_result(rows, x, axis, out)
    streamed = around_caches(result)
    if split_rows_or_elements(rows):
        for row, weights_of_row, result_of_row in zip(rows, weights, result, strict=True):
            backward_of_long_row(row, weights_of_row, result_of_row, streamed)
    else:
        in_parallel(
            lambda a, b: log_softmax_backward(rows[a:b], weights[a:b], result[a:b], streamed), pieces(*rows.shape)
        )
    return finish(result, x, axis, out)


def value_and_vjp(x, *, axis=-1, cotangent, out=None):
    """The log-probabilities, and the gradient (to which `out` belongs)."""
    return value(x, axis=axis), vjp(x, axis=axis, cotangent=cotangent, out=out)
