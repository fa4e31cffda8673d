r"""softmax(x)_j = e^{x_j} / Σ_k e^{x_k} along an axis, by three algorithms that agree up to rounding; and
its gradient.

Reference
=========
    m = max x,   1 + r = Σ e^{x − m},   p_j = e^{x_j − m} / (1 + r)

    gradient   p_j (ω_j − ⟨p, ω⟩),   ⟨p, ω⟩ = ω_* − Σ_k p_k (ω_* − ω_k),   * the index of the maximum

⟨p, ω⟩ is held as the sum of two numbers: where p_* is nearly 1 it is nearly ω_*, and their difference is
the gradient. −∞ is a legal mask. NaN or +∞ makes its whole row NaN, and so does a row of −∞ alone.

Kernels
=======
Three ways not to overflow: subtract the maximum, carry it along, or never leave the
exponent. Memory traffic for a row of N numbers that no cache holds, writing included:

    three_pass   4N   read for the maximum, read for the sum, read and write
    online       3N   read for the state (m, r), read and write
    two_pass     3N   read for the sum as (mantissa, exponent), read and write

Two-pass needs no maximum and never rounds x − m, so it is also the most accurate of the three.
Two-pass is right for sums within e^±65536 (float32); another row is done by three_pass.
"""

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.exponential import shifted_exponential
from lossref.kernels.exponents import EXPONENT_LIMIT, add_pairs, exponential_over_sum, sum_of_pairs
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
from lossref.kernels.softmax_in_parts import (
    in_two_parts,
    probability_times_difference,
    slopes_of_long_row,
    weighted_differences,
)
from lossref.kernels.streaming_state import (
    absorb,
    finite,
    index_of,
    largest,
    state_of_long_row,
    sum_of_exponentials,
)
from lossref.kernels.writing import write, write_beside

__all__ = ["value", "value_and_vjp", "vjp"]


@inlined
def inverse(total):
    """1/total; NaN for the empty sum of a row that is masked altogether."""
    return 1.0 / total if total != 0.0 else np.nan


@kernel
def three_pass(rows, result, streamed):
    for i in range(rows.shape[0]):
        m = finite(largest(rows[i], None))
        total = sum_of_exponentials(rows[i], m, None)
        write(shifted_exponential, rows[i], (m, inverse(total)), result[i], streamed)
    memory_fence()


@kernel
def online(rows, result, streamed):
    for i in range(rows.shape[0]):
        m, r = absorb(rows[i], -np.inf, 0.0, None)
        total = 1.0 + r if m > -np.inf else r
        write(shifted_exponential, rows[i], (finite(m), inverse(total)), result[i], streamed)
    memory_fence()


@kernel
def two_pass(rows, result, limit, streamed):
    for i in range(rows.shape[0]):
        mantissa, n = sum_of_pairs(rows[i])
        if abs(n) <= limit and mantissa == mantissa:
            write(exponential_over_sum, rows[i], (1.0 / mantissa, n), result[i], streamed)
        else:
            m = finite(largest(rows[i], None))
            total = sum_of_exponentials(rows[i], m, None)
            write(shifted_exponential, rows[i], (m, inverse(total)), result[i], streamed)
    memory_fence()


# One long row: the same passes, each divided among the threads.


@kernel
def largest_of_piece(piece):
    return largest(piece, None)


@kernel
def sum_of_piece(piece, shift):
    return sum_of_exponentials(piece, shift, None)


@kernel
def pairs_of_piece(piece):
    return sum_of_pairs(piece)


@kernel
def write_shifted(piece, shift, factor, result, streamed):
    write(shifted_exponential, piece, (shift, factor), result, streamed)
    memory_fence()


@kernel
def write_over_sum(piece, factor, n, result, streamed):
    write(exponential_over_sum, piece, (factor, n), result, streamed)
    memory_fence()


def three_pass_long(row, result, streamed):
    parts = pieces_of_a_row(row.size)
    m = finite.py_func(max(in_parallel(lambda a, b: largest_of_piece(row[a:b]), parts)))
    total = sum(in_parallel(lambda a, b: sum_of_piece(row[a:b], m), parts))
    factor = inverse.py_func(total)
    in_parallel(lambda a, b: write_shifted(row[a:b], m, factor, result[a:b], streamed), parts)


def online_long(row, result, streamed):
    m, r = state_of_long_row(row)
    factor = inverse.py_func(1.0 + r if m > -np.inf else r)
    in_parallel(
        lambda a, b: write_shifted(row[a:b], finite.py_func(m), factor, result[a:b], streamed),
        pieces_of_a_row(row.size),
    )


def two_pass_long(row, result, streamed):
    parts = pieces_of_a_row(row.size)
    pairs = in_parallel(lambda a, b: pairs_of_piece(row[a:b]), parts)
    mantissa, n = pairs[0]
    for pair in pairs[1:]:
        mantissa, n = add_pairs.py_func(mantissa, n, *pair)
    if abs(n) <= EXPONENT_LIMIT[row.dtype] and mantissa == mantissa:
        in_parallel(lambda a, b: write_over_sum(row[a:b], 1.0 / mantissa, n, result[a:b], streamed), parts)
    else:
        three_pass_long(row, result, streamed)


# The gradient.


@kernel
def softmax_backward(rows, cotangent, result, streamed):
    for i in range(rows.shape[0]):
        row = rows[i]
        m, r = absorb(row, -np.inf, 0.0, None)
        centre = cotangent[i, index_of(row, m)]
        difference = weighted_differences(row, finite(m), cotangent[i], centre) / (1.0 + r)
        # As the probabilities, the gradient of a row that is masked altogether is NaN.
        factor = inverse(1.0 + r if m > -np.inf else 0.0)
        constants = (finite(m), factor, *in_two_parts(centre, difference))
        write_beside(probability_times_difference, row, cotangent[i], constants, result[i], streamed)
    memory_fence()


# Launch
# ======


def by_rows(algorithm, rows, result, streamed):
    if algorithm == "two_pass":
        limit = EXPONENT_LIMIT[rows.dtype]
        in_parallel(lambda a, b: two_pass(rows[a:b], result[a:b], limit, streamed), pieces(*rows.shape))
    else:
        run = {"three_pass": three_pass, "online": online}[algorithm]
        in_parallel(lambda a, b: run(rows[a:b], result[a:b], streamed), pieces(*rows.shape))


@half_in_parts
def value(x, *, axis=-1, algorithm="three_pass", out=None):
    """softmax(x) along `axis`; `algorithm` is "three_pass", "online" or "two_pass"."""
    long_row = {"three_pass": three_pass_long, "online": online_long, "two_pass": two_pass_long}
    if algorithm not in long_row:
        raise ValueError(f"algorithm: expected one of {sorted(long_row)}, got {algorithm!r}")
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    result = empty_result(rows, x, axis, out)
    if split_rows_or_elements(rows):
        for i, row in enumerate(rows):
            long_row[algorithm](row, result[i], around_caches(result))
    else:
        by_rows(algorithm, rows, result, around_caches(result))
    return finish(result, x, axis, out)


@half_in_parts
def vjp(x, *, axis=-1, algorithm="three_pass", cotangent, out=None):
    """p_j (ω_j − ⟨p, ω⟩). The algorithm makes no difference."""
    x = np.asarray(x)
    rows, axis = to_rows("x", x, axis)
    cotangent = np.broadcast_to(np.asarray(cotangent), x.shape)
    weights = read_only(np.moveaxis(cotangent, axis, -1).reshape(rows.shape), rows.dtype)
    result = empty_result(rows, x, axis, out)
    streamed = around_caches(result)
    if split_rows_or_elements(rows):
        for row, weights_of_row, result_of_row in zip(rows, weights, result, strict=True):
            slopes_of_long_row(row, weights_of_row, result_of_row, streamed)
    else:
        in_parallel(lambda a, b: softmax_backward(rows[a:b], weights[a:b], result[a:b], streamed), pieces(*rows.shape))
    return finish(result, x, axis, out)


def value_and_vjp(x, *, axis=-1, algorithm="three_pass", cotangent, out=None):
    """The probabilities, and the gradient (to which `out` belongs)."""
    return value(x, axis=axis, algorithm=algorithm), vjp(x, axis=axis, cotangent=cotangent, out=out)
