r"""log Σ_k e^{x_k} along an axis, and its gradient ω softmax(x).

Reference
=========
    m = max x,   r = Σ e^{x − m} without the maximum's own 1
    value     = m + log1p(r)
    gradient  = ω e^{x − m} / (1 + r)

−∞ is a legal mask; a row of −∞ alone has the value −∞ and the gradient 0. NaN or +∞ makes the value of its
row NaN.

Kernels
=======
One pass, block by block (see `streaming_state`); the gradient is a second pass. A long row
is divided among the threads and the states are merged.
"""

import math

import numpy as np

from lossref.kernels.compilation import kernel
from lossref.kernels.exponential import shifted_exponential
from lossref.kernels.lanes import memory_fence
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
from lossref.kernels.streaming_state import absorb, finite, state_of_long_row
from lossref.kernels.writing import write

__all__ = ["value", "value_and_vjp", "vjp"]


@kernel
def lse_forward(rows, values):
    """values[i] = log Σ_k e^{rows[i, k]}."""
    for i in range(rows.shape[0]):
        m, r = absorb(rows[i], -np.inf, 0.0, None)
        values[i] = m + np.log1p(r)


@kernel
def write_gradient(piece, m, factor, gradient, streamed):
    """gradient[j] = factor e^{piece[j] − m}."""
    write(shifted_exponential, piece, (finite(m), factor), gradient, streamed)
    memory_fence()


@kernel
def lse_forward_and_backward(rows, cotangent, values, gradient, streamed):
    """Both, a row at a time: the second pass finds the row in the cache."""
    for i in range(rows.shape[0]):
        m, r = absorb(rows[i], -np.inf, 0.0, None)
        values[i] = m + np.log1p(r)
        write(shifted_exponential, rows[i], (finite(m), cotangent[i] / (1.0 + r)), gradient[i], streamed)
    memory_fence()


# Launch
# ======


@half_in_parts
def value(x, *, axis=-1, keepdims=False):
    """log Σ e^x along `axis`."""
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    values = np.empty(rows.shape[0], rows.dtype)
    if split_rows_or_elements(rows):
        for i, row in enumerate(rows):
            m, r = state_of_long_row(row)
            values[i] = m + math.log1p(r)
    else:
        in_parallel(lambda start, stop: lse_forward(rows[start:stop], values[start:stop]), pieces(*rows.shape))
    return shaped(values, x, axis, keepdims)


@half_in_parts
def value_and_vjp(x, *, axis=-1, keepdims=False, cotangent, out=None):
    """The value, and ω softmax(x)."""
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    weights = weights_of_rows(cotangent, x, axis, keepdims)
    values = np.empty(rows.shape[0], rows.dtype)
    gradient = empty_result(rows, x, axis, out)
    streamed = around_caches(gradient)
    if split_rows_or_elements(rows):
        for i, row in enumerate(rows):
            m, r = state_of_long_row(row)
            values[i] = m + math.log1p(r)
            factor = float(weights[i]) / (1.0 + r)
            in_parallel(
                lambda a, b, i=i, m=m, factor=factor: write_gradient(
                    rows[i, a:b], m, factor, gradient[i, a:b], streamed
                ),
                pieces_of_a_row(row.size),
            )
    else:
        in_parallel(
            lambda a, b: lse_forward_and_backward(rows[a:b], weights[a:b], values[a:b], gradient[a:b], streamed),
            pieces(*rows.shape),
        )
    return shaped(values, x, axis, keepdims), finish(gradient, x, axis, out)


def vjp(x, *, axis=-1, keepdims=False, cotangent, out=None):
    """ω softmax(x)."""
    return value_and_vjp(x, axis=axis, keepdims=keepdims, cotangent=cotangent, out=out)[1]


def weights_of_rows(cotangent, x, axis, keepdims):
    """The cotangent, which has the value's shape, as one float64 a row."""
    shape = x.shape[:axis] + ((1,) if keepdims else ()) + x.shape[axis + 1 :]
    return read_only(np.broadcast_to(np.asarray(cotangent), shape).reshape(-1), np.float64)


def shaped(values, x, axis, keepdims):
    shape = x.shape[:axis] + ((1,) if keepdims else ()) + x.shape[axis + 1 :]
    return values.reshape(shape).astype(x.dtype, copy=False)
