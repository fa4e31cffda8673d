"""softmax_attention: the mean of the values under the softmax of each query's products with the keys.

    x_ij = s <q_i, k_j> + b_ij (-inf where i may not attend to j),  A = softmax(x) by rows,  O = A V

and with W = G V^T for a cotangent G, and * the place of the row's largest x,

    dx_ij = A_ij ((W_ij - W_i*) + D_i),   D_i = sum_j A_ij (W_i* - W_ij)
    dQ = s dx K,   dK = s dx^T Q,   dV = A^T G,   d bias = dx

Neither x nor A nor W is ever written to memory. The textbook's dx = A (W - <G, O>) is a difference of two nearly
equal numbers where a query has made up its mind; D is summed of differences, which is why W is computed once more.

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_query        the definition: a thread takes a query (or a key) and four columns of the result,
                                and forms every product anew from memory
    block_per_query_tile        queries, keys and values go through shared memory, where each number is used many
                                times; maximum, sum and output are carried along (the state of log-sum-exp with a
                                weighted sum of values riding on it), so keys and values are walked over once

No atomics: the gradient of the queries is made by one kernel that walks over the keys, that of keys and values by
another that walks over the queries, and every run adds in the same order.

A NaN or +inf makes its own query's row NaN, and so does a query that may attend to nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype
from lossref_cuda.instructions import SIMULATED, device_function, exp, fma, load, load_at, real, store, store_at
from lossref_cuda.launching import THREADS, chosen, configured
from lossref_cuda.log_sum_exp_state import absorb, add, empty, finite_or_zero, merge, settle
from lossref_cuda.reductions import add_exactly

# A tile has SIDE rows; a thread of the block makes four of the 4 SIDE entries of one of them.
SIDE = 4 if SIMULATED else 16
WIDE = 4 * SIDE
# One column more than needed keeps the threads of a warp off each other's banks.
PADDED, WIDE_PADDED = SIDE + 1, WIDE + 1

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The same in NumPy, without bias and mask."""
    x = queries @ keys.T / math.sqrt(queries.shape[1])
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True) @ values


# ============================================================================================================
# Rungs
# ============================================================================================================
# A product is always summed in the same order by the same instruction, so that wherever it is formed anew it is the
# same number: x - m is exactly 0 at the maximum, W - W_* at its place.


@device_function
def product(a, i, b, j):
    total = real(a, 0.0)
    c = 0
    while c < a.shape[1]:
        total = fma(load(a, i, c), load(b, j, c), total)
        c += 1
    return total


@device_function
def logit(product, bias, biased, mask, masked, causal, factor, i, j, keys):
    """x_ij from the product of query i and key j; a NaN stays NaN also where it is masked."""
    x = product * real(product, factor)
    if biased:
        x += real(product, load(bias, i, j))
    allowed = True
    if masked:
        allowed = mask[i * keys + j]
    if causal and j > i:
        allowed = False
    if not allowed and x == x:
        x = real(product, -math.inf)
    return x


@device_function
def slope(x, w, m, scale, high, low):
    """dx_ij = A_ij ((W_ij - W_*) + D), where W_* - D is high + low."""
    return exp(x - m) * scale * ((w - high) - low)


@device_function
def entry(table, row, column):
    """0 beyond the edges."""
    if row < table.shape[0] and column < table.shape[1]:
        return load(table, row, column)
    return real(table, 0.0)


@device_function
def store_within(table, row, column, number):
    if row < table.shape[0] and column < table.shape[1]:
        store(table, row, column, number)


@device_function
def keep_state(maxima, factors, i, m, r):
    """Of a query that attends to nothing m is -inf, and x - m will be NaN."""
    store_at(maxima, i, m)
    store_at(factors, i, real(m, 1.0) / (real(m, 1.0) + r))


@device_function
def keep_centre(highs, lows, i, w, difference):
    """w - difference to twice the precision."""
    high = w - difference
    store_at(highs, i, high)
    store_at(lows, i, (w - high) - difference)


# ---- one_thread_per_query ----------------------------------------------------------------------------------


@cuda.jit
def states_by_threads(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents, wanted,
    maxima, factors, highs, lows, pivots,
):  # fmt: skip
    """m and 1 / (1 + r) of each query; if a gradient is wanted, also W_* - D and the place *."""
    i = cuda.grid(1)
    if i >= queries.shape[0]:
        return
    count = keys.shape[0]
    m, r, lost, reference = empty(queries)
    pivot = 0
    j = 0
    while j < count:
        x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, count)
        if x > m:
            pivot = j
        m, r, lost, reference = absorb(m, r, lost, reference, x)
        j += 1
    m, r = settle(m, r, lost, reference)
    keep_state(maxima, factors, i, m, r)
    if wanted:
        w_there = product(cotangents, i, values, pivot)
        total = real(queries, 0.0)
        lost = real(queries, 0.0)
        j = 0
        while j < count:
            x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, count)
            difference = w_there - product(cotangents, i, values, j)
            total, lost = add_exactly(total, lost, exp(x - finite_or_zero(m)) * difference)
            j += 1
        keep_centre(highs, lows, i, w_there, (total - lost) * load_at(factors, i))
        pivots[i] = pivot


@device_function
def add_four(a, b, c, d, a_lost, b_lost, c_lost, d_lost, weight, table, row, column):
    """Four neighbours of a row of the table, times the weight, to four compensated sums."""
    a, a_lost = add(a, a_lost, weight * entry(table, row, column))
    b, b_lost = add(b, b_lost, weight * entry(table, row, column + 1))
    c, c_lost = add(c, c_lost, weight * entry(table, row, column + 2))
    d, d_lost = add(d, d_lost, weight * entry(table, row, column + 3))
    return a, b, c, d, a_lost, b_lost, c_lost, d_lost


@cuda.jit
def output_by_threads(queries, keys, values, bias, biased, mask, masked, causal, factor, maxima, factors, output):
    i = cuda.grid(1)
    column = 4 * cuda.blockIdx.y
    if i >= queries.shape[0]:
        return
    m = load_at(maxima, i)
    zero = real(queries, 0.0)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    j = 0
    while j < keys.shape[0]:
        x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, keys.shape[0])
        p = exp(x - m) * load_at(factors, i)
        a, b, c, d, a_lost, b_lost, c_lost, d_lost = add_four(
            a, b, c, d, a_lost, b_lost, c_lost, d_lost, p, values, j, column
        )
        j += 1
    store_within(output, i, column, a - a_lost)
    store_within(output, i, column + 1, b - b_lost)
    store_within(output, i, column + 2, c - c_lost)
    store_within(output, i, column + 3, d - d_lost)


@cuda.jit
def queries_by_threads(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents,
    maxima, factors, highs, lows, pivots, of_queries, of_bias,
):  # fmt: skip
    """The slopes of a row sum to 0. What rounding has left of their sum is taken off at *: so an offset of all keys
    changes nothing."""
    i = cuda.grid(1)
    column = 4 * cuda.blockIdx.y
    if i >= queries.shape[0]:
        return
    m, scale, high, low = load_at(maxima, i), load_at(factors, i), load_at(highs, i), load_at(lows, i)
    zero = real(queries, 0.0)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    left_over = zero
    left_over_lost = zero
    j = 0
    while j < keys.shape[0]:
        x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, keys.shape[0])
        dx = slope(x, product(cotangents, i, values, j), m, scale, high, low)
        left_over, left_over_lost = add_exactly(left_over, left_over_lost, dx)
        a, b, c, d, a_lost, b_lost, c_lost, d_lost = add_four(
            a, b, c, d, a_lost, b_lost, c_lost, d_lost, dx, keys, j, column
        )
        if biased and column == 0:
            store(of_bias, i, j, dx)
        j += 1
    off = -(left_over - left_over_lost)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = add_four(
        a, b, c, d, a_lost, b_lost, c_lost, d_lost, off, keys, pivots[i], column
    )
    s = real(queries, factor)
    store_within(of_queries, i, column, (a - a_lost) * s)
    store_within(of_queries, i, column + 1, (b - b_lost) * s)
    store_within(of_queries, i, column + 2, (c - c_lost) * s)
    store_within(of_queries, i, column + 3, (d - d_lost) * s)


@cuda.jit
def keys_by_threads(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents,
    maxima, factors, highs, lows, of_keys,
):  # fmt: skip
    j = cuda.grid(1)
    column = 4 * cuda.blockIdx.y
    if j >= keys.shape[0]:
        return
    zero = real(queries, 0.0)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    i = 0
    while i < queries.shape[0]:
        x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, keys.shape[0])
        w = product(cotangents, i, values, j)
        dx = slope(x, w, load_at(maxima, i), load_at(factors, i), load_at(highs, i), load_at(lows, i))
        a, b, c, d, a_lost, b_lost, c_lost, d_lost = add_four(
            a, b, c, d, a_lost, b_lost, c_lost, d_lost, dx, queries, i, column
        )
        i += 1
    s = real(queries, factor)
    store_within(of_keys, j, column, (a - a_lost) * s)
    store_within(of_keys, j, column + 1, (b - b_lost) * s)
    store_within(of_keys, j, column + 2, (c - c_lost) * s)
    store_within(of_keys, j, column + 3, (d - d_lost) * s)


@cuda.jit
def values_by_threads(
    queries, keys, bias, biased, mask, masked, causal, factor, cotangents, maxima, factors, of_values
):  # fmt: skip
    j = cuda.grid(1)
    column = 4 * cuda.blockIdx.y
    if j >= keys.shape[0]:
        return
    zero = real(queries, 0.0)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    i = 0
    while i < queries.shape[0]:
        x = logit(product(queries, i, keys, j), bias, biased, mask, masked, causal, factor, i, j, keys.shape[0])
        p = exp(x - load_at(maxima, i)) * load_at(factors, i)
        a, b, c, d, a_lost, b_lost, c_lost, d_lost = add_four(
            a, b, c, d, a_lost, b_lost, c_lost, d_lost, p, cotangents, i, column
        )
        i += 1
    store_within(of_values, j, column, a - a_lost)
    store_within(of_values, j, column + 1, b - b_lost)
    store_within(of_values, j, column + 2, c - c_lost)
    store_within(of_values, j, column + 3, d - d_lost)


# ---- block_per_query_tile ----------------------------------------------------------------------------------
# A block has SIDE x SIDE threads. Thread (x, y) works for row y of the tile, on columns x, x + SIDE, x + 2 SIDE and
# x + 3 SIDE of what is WIDE: the keys (or queries) of one step, and the columns of the result. `maxima` also says
# what the dtype of the arithmetic is. A device function with shared memory must be called from one place of the call
# graph only: the linker would meet its memory twice.


@device_function
def four_products(a, row, b, column, maxima):
    """<a[row + y], b[column + x + SIDE k]> for k = 0..3; every number read from memory is used SIDE times or more."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    some = cuda.shared.array((SIDE, PADDED), maxima.dtype)
    others = cuda.shared.array((WIDE, PADDED), maxima.dtype)
    p = real(a, 0.0)
    q = real(a, 0.0)
    r = real(a, 0.0)
    s = real(a, 0.0)
    start = 0
    while start < a.shape[1]:
        some[y, x] = entry(a, row + y, start + x)
        others[y, x] = entry(b, column + y, start + x)
        others[y + SIDE, x] = entry(b, column + y + SIDE, start + x)
        others[y + 2 * SIDE, x] = entry(b, column + y + 2 * SIDE, start + x)
        others[y + 3 * SIDE, x] = entry(b, column + y + 3 * SIDE, start + x)
        cuda.syncthreads()
        c = 0
        while c < SIDE:
            number = some[y, c]
            p = fma(number, others[x, c], p)
            q = fma(number, others[x + SIDE, c], q)
            r = fma(number, others[x + 2 * SIDE, c], r)
            s = fma(number, others[x + 3 * SIDE, c], s)
            c += 1
        cuda.syncthreads()
        start += SIDE
    return p, q, r, s


@device_function
def weighted_columns(p, q, r, s, table, row, column, maxima):
    """sum_j weight[y, j] table[row + j, column + x + SIDE k] over the WIDE rows of a step, for k = 0..3; this thread
    brings four of the weights."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    weights = cuda.shared.array((SIDE, WIDE_PADDED), maxima.dtype)
    some = cuda.shared.array((SIDE, WIDE), maxima.dtype)
    weights[y, x] = p
    weights[y, x + SIDE] = q
    weights[y, x + 2 * SIDE] = r
    weights[y, x + 3 * SIDE] = s
    a = real(table, 0.0)
    b = real(table, 0.0)
    c = real(table, 0.0)
    d = real(table, 0.0)
    start = 0
    while start < WIDE:
        some[y, x] = entry(table, row + start + y, column + x)
        some[y, x + SIDE] = entry(table, row + start + y, column + x + SIDE)
        some[y, x + 2 * SIDE] = entry(table, row + start + y, column + x + 2 * SIDE)
        some[y, x + 3 * SIDE] = entry(table, row + start + y, column + x + 3 * SIDE)
        cuda.syncthreads()
        j = 0
        while j < SIDE:
            weight = weights[y, start + j]
            a = fma(weight, some[j, x], a)
            b = fma(weight, some[j, x + SIDE], b)
            c = fma(weight, some[j, x + 2 * SIDE], c)
            d = fma(weight, some[j, x + 3 * SIDE], d)
            j += 1
        cuda.syncthreads()
        start += SIDE
    return a, b, c, d


@device_function
def maximum_of_row(number, maxima):
    """Over the SIDE threads of a row; a NaN never wins."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    numbers = cuda.shared.array((SIDE, PADDED), maxima.dtype)
    numbers[y, x] = number
    cuda.syncthreads()
    c = 0
    while c < SIDE:
        if numbers[y, c] > number:
            number = numbers[y, c]
        c += 1
    cuda.syncthreads()
    return number


@device_function
def sum_of_row(number, maxima):
    """The same sum in all threads of a row, added up from left to right."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    numbers = cuda.shared.array((SIDE, PADDED), maxima.dtype)
    numbers[y, x] = number
    cuda.syncthreads()
    total = real(number, 0.0)
    c = 0
    while c < SIDE:
        total += numbers[y, c]
        c += 1
    cuda.syncthreads()
    return total


@device_function
def state_of_row(m, r, maxima):
    """The states of the threads of a row, merged from left to right."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    numbers = cuda.shared.array((SIDE, PADDED), maxima.dtype)
    rests = cuda.shared.array((SIDE, PADDED), maxima.dtype)
    numbers[y, x] = m
    rests[y, x] = r
    cuda.syncthreads()
    m = numbers[y, 0]
    r = rests[y, 0]
    c = 1
    while c < SIDE:
        m, r = merge(m, r, numbers[y, c], rests[y, c])
        c += 1
    cuda.syncthreads()
    return m, r


@device_function
def first_of_row(place):
    """The smallest of the places that the threads of a row name."""
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    places = cuda.shared.array((SIDE, PADDED), np.int64)
    places[y, x] = place
    cuda.syncthreads()
    c = 0
    while c < SIDE:
        if places[y, c] < place:
            place = places[y, c]
        c += 1
    cuda.syncthreads()
    return place


@device_function
def logit_within(product, bias, biased, mask, masked, causal, factor, i, j, queries, keys):
    """-inf beyond the edges: what is not there weighs nothing."""
    if i < queries and j < keys:
        return logit(product, bias, biased, mask, masked, causal, factor, i, j, keys)
    return real(product, -math.inf)


@device_function
def four_logits(p, q, r, s, i, start, bias, biased, mask, masked, causal, factor, queries, keys):
    """x of query i + y with keys start + x + SIDE k, from their products."""
    n, count = queries.shape[0], keys.shape[0]
    row, j = i + cuda.threadIdx.y, start + cuda.threadIdx.x
    p = logit_within(p, bias, biased, mask, masked, causal, factor, row, j, n, count)
    q = logit_within(q, bias, biased, mask, masked, causal, factor, row, j + SIDE, n, count)
    r = logit_within(r, bias, biased, mask, masked, causal, factor, row, j + 2 * SIDE, n, count)
    s = logit_within(s, bias, biased, mask, masked, causal, factor, row, j + 3 * SIDE, n, count)
    return p, q, r, s


@device_function
def end_of_keys(keys, causal, i):
    """Past the last key that a query of the tile at i may attend to."""
    if causal:
        return min(keys.shape[0], i + SIDE)
    return keys.shape[0]


@cuda.jit
def output_by_tiles(queries, keys, values, bias, biased, mask, masked, causal, factor, maxima, factors, output):
    """State and output in one walk. The maximum rises at most once a step, and then the sums are shrunk."""
    i = cuda.blockIdx.x * SIDE
    column = cuda.blockIdx.y * WIDE
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    zero = real(queries, 0.0)
    m = real(queries, -math.inf)
    total, lost = zero, zero
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    stop = end_of_keys(keys, causal, i)
    start = 0
    while start < stop:
        p, q, r, s = four_products(queries, i, keys, start, maxima)
        p, q, r, s = four_logits(
            p, q, r, s, i, start, bias, biased, mask, masked, causal, factor, queries, keys
        )  # fmt: skip
        top = m
        if p > top:
            top = p
        if q > top:
            top = q
        if r > top:
            top = r
        if s > top:
            top = s
        top = maximum_of_row(top, maxima)
        if top > m:
            shrink = exp(m - top)
            total, lost = total * shrink, lost * shrink
            a, b, c, d = a * shrink, b * shrink, c * shrink, d * shrink
            a_lost, b_lost, c_lost, d_lost = a_lost * shrink, b_lost * shrink, c_lost * shrink, d_lost * shrink
            m = top
        shift = finite_or_zero(m)
        p, q, r, s = exp(p - shift), exp(q - shift), exp(r - shift), exp(s - shift)
        total, lost = add(total, lost, sum_of_row((p + q) + (r + s), maxima))
        p, q, r, s = weighted_columns(p, q, r, s, values, start, column, maxima)
        a, a_lost = add(a, a_lost, p)
        b, b_lost = add(b, b_lost, q)
        c, c_lost = add(c, c_lost, r)
        d, d_lost = add(d, d_lost, s)
        start += WIDE
    scale = real(queries, math.nan)
    if total != zero:  # of a query that attends to nothing it is 0
        scale = real(queries, 1.0) / (total - lost)
    if x == 0 and column == 0 and i + y < queries.shape[0]:
        store_at(maxima, i + y, m)
        store_at(factors, i + y, scale)
    store_within(output, i + y, column + x, (a - a_lost) * scale)
    store_within(output, i + y, column + x + SIDE, (b - b_lost) * scale)
    store_within(output, i + y, column + x + 2 * SIDE, (c - c_lost) * scale)
    store_within(output, i + y, column + x + 3 * SIDE, (d - d_lost) * scale)


@device_function
def absorb_with_place(m, r, lost, reference, place, x, j):
    if x > m:
        place = j
    m, r, lost, reference = absorb(m, r, lost, reference, x)
    return m, r, lost, reference, place


@cuda.jit
def states_by_tiles(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents, wanted,
    maxima, factors, highs, lows, pivots,
):  # fmt: skip
    """m, 1 / (1 + r), W_* - D and the place *. Each thread walks over its own share of the keys, twice: D wants to
    be counted from *."""
    i = cuda.blockIdx.x * SIDE
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    m, rest, lost, reference = empty(queries)
    place = keys.shape[0]
    stop = end_of_keys(keys, causal, i)
    start = 0
    while start < stop:
        p, q, r, s = four_products(queries, i, keys, start, maxima)
        p, q, r, s = four_logits(
            p, q, r, s, i, start, bias, biased, mask, masked, causal, factor, queries, keys
        )  # fmt: skip
        j = start + x
        m, rest, lost, reference, place = absorb_with_place(m, rest, lost, reference, place, p, j)
        m, rest, lost, reference, place = absorb_with_place(m, rest, lost, reference, place, q, j + SIDE)
        m, rest, lost, reference, place = absorb_with_place(m, rest, lost, reference, place, r, j + 2 * SIDE)
        m, rest, lost, reference, place = absorb_with_place(m, rest, lost, reference, place, s, j + 3 * SIDE)
        start += WIDE
    own, rest = settle(m, rest, lost, reference)
    m, rest = state_of_row(own, rest, maxima)
    place = first_of_row(place if own == m else keys.shape[0])
    if place >= keys.shape[0]:
        place = 0
    inside = i + y < queries.shape[0]
    w_there = product(cotangents, i + y if inside else 0, values, place)
    shift = finite_or_zero(m)

    total = real(queries, 0.0)
    lost = real(queries, 0.0)
    start = 0
    while start < stop:
        p, q, r, s = four_products(queries, i, keys, start, maxima)
        p, q, r, s = four_logits(
            p, q, r, s, i, start, bias, biased, mask, masked, causal, factor, queries, keys
        )  # fmt: skip
        wp, wq, wr, ws = four_products(cotangents, i, values, start, maxima)
        total, lost = add_exactly(total, lost, exp(p - shift) * (w_there - wp))
        total, lost = add_exactly(total, lost, exp(q - shift) * (w_there - wq))
        total, lost = add_exactly(total, lost, exp(r - shift) * (w_there - wr))
        total, lost = add_exactly(total, lost, exp(s - shift) * (w_there - ws))
        start += WIDE
    difference = sum_of_row(total - lost, maxima)
    if x == 0 and inside:
        keep_state(maxima, factors, i + y, m, rest)
        keep_centre(highs, lows, i + y, w_there, difference * load_at(factors, i + y))
        pivots[i + y] = place


@device_function
def store_slope(of_bias, wanted, i, j, dx):
    if wanted:
        store_within(of_bias, i, j, dx)


@cuda.jit
def queries_by_tiles(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents,
    maxima, factors, highs, lows, pivots, of_queries, of_bias,
):  # fmt: skip
    i = cuda.blockIdx.x * SIDE
    column = cuda.blockIdx.y * WIDE
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    row = i + y if i + y < queries.shape[0] else 0
    m, scale, high, low = load_at(maxima, row), load_at(factors, row), load_at(highs, row), load_at(lows, row)
    zero = real(queries, 0.0)
    left_over, left_over_lost = zero, zero
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    # The slopes of the bias are written also where no query of the tile may attend: they are 0 there.
    stop = keys.shape[0] if biased else end_of_keys(keys, causal, i)
    start = 0
    while start < stop:
        p, q, r, s = four_products(queries, i, keys, start, maxima)
        p, q, r, s = four_logits(
            p, q, r, s, i, start, bias, biased, mask, masked, causal, factor, queries, keys
        )  # fmt: skip
        wp, wq, wr, ws = four_products(cotangents, i, values, start, maxima)
        p = slope(p, wp, m, scale, high, low)
        q = slope(q, wq, m, scale, high, low)
        r = slope(r, wr, m, scale, high, low)
        s = slope(s, ws, m, scale, high, low)
        left_over, left_over_lost = add_exactly(left_over, left_over_lost, p)
        left_over, left_over_lost = add_exactly(left_over, left_over_lost, q)
        left_over, left_over_lost = add_exactly(left_over, left_over_lost, r)
        left_over, left_over_lost = add_exactly(left_over, left_over_lost, s)
        wanted = biased and column == 0
        store_slope(of_bias, wanted, i + y, start + x, p)
        store_slope(of_bias, wanted, i + y, start + x + SIDE, q)
        store_slope(of_bias, wanted, i + y, start + x + 2 * SIDE, r)
        store_slope(of_bias, wanted, i + y, start + x + 3 * SIDE, s)
        p, q, r, s = weighted_columns(p, q, r, s, keys, start, column, maxima)
        a, a_lost = add(a, a_lost, p)
        b, b_lost = add(b, b_lost, q)
        c, c_lost = add(c, c_lost, r)
        d, d_lost = add(d, d_lost, s)
        start += WIDE
    off = sum_of_row(left_over - left_over_lost, maxima)
    pivot = pivots[row]
    factor_here = real(queries, factor)
    a = (a - a_lost) - off * entry(keys, pivot, column + x)
    b = (b - b_lost) - off * entry(keys, pivot, column + x + SIDE)
    c = (c - c_lost) - off * entry(keys, pivot, column + x + 2 * SIDE)
    d = (d - d_lost) - off * entry(keys, pivot, column + x + 3 * SIDE)
    store_within(of_queries, i + y, column + x, a * factor_here)
    store_within(of_queries, i + y, column + x + SIDE, b * factor_here)
    store_within(of_queries, i + y, column + x + 2 * SIDE, c * factor_here)
    store_within(of_queries, i + y, column + x + 3 * SIDE, d * factor_here)


@device_function
def weight_and_slope(
    product, w, bias, biased, mask, masked, causal, factor, maxima, factors, highs, lows, i, j, queries, keys
):
    """A_ij and dx_ij, 0 beyond the edges."""
    if i < queries and j < keys:
        x = logit(product, bias, biased, mask, masked, causal, factor, i, j, keys)
        m, scale = load_at(maxima, i), load_at(factors, i)
        return exp(x - m) * scale, slope(x, w, m, scale, load_at(highs, i), load_at(lows, i))
    return real(product, 0.0), real(product, 0.0)


@cuda.jit
def keys_and_values_by_tiles(
    queries, keys, values, bias, biased, mask, masked, causal, factor, cotangents,
    maxima, factors, highs, lows, of_keys, of_values,
):  # fmt: skip
    """The rows of the tile are keys; a step takes WIDE queries, which none of these keys precedes if causal."""
    j = cuda.blockIdx.x * SIDE
    column = cuda.blockIdx.y * WIDE
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    n, count = queries.shape[0], keys.shape[0]
    zero = real(queries, 0.0)
    a, b, c, d, a_lost, b_lost, c_lost, d_lost = zero, zero, zero, zero, zero, zero, zero, zero
    e, f, g, h, e_lost, f_lost, g_lost, h_lost = zero, zero, zero, zero, zero, zero, zero, zero
    start = 0
    if causal:
        start = j
    while start < n:
        i = start + x
        p, q, r, s = four_products(keys, j, queries, start, maxima)
        wp, wq, wr, ws = four_products(values, j, cotangents, start, maxima)
        p, wp = weight_and_slope(
            p, wp, bias, biased, mask, masked, causal, factor, maxima, factors, highs, lows, i, j + y, n, count
        )
        q, wq = weight_and_slope(
            q, wq, bias, biased, mask, masked, causal, factor, maxima, factors, highs, lows, i + SIDE, j + y, n, count
        )
        i += 2 * SIDE
        r, wr = weight_and_slope(
            r, wr, bias, biased, mask, masked, causal, factor, maxima, factors, highs, lows, i, j + y, n, count
        )
        s, ws = weight_and_slope(
            s, ws, bias, biased, mask, masked, causal, factor, maxima, factors, highs, lows, i + SIDE, j + y, n, count
        )
        p, q, r, s = weighted_columns(p, q, r, s, cotangents, start, column, maxima)
        a, a_lost = add(a, a_lost, p)
        b, b_lost = add(b, b_lost, q)
        c, c_lost = add(c, c_lost, r)
        d, d_lost = add(d, d_lost, s)
        p, q, r, s = weighted_columns(wp, wq, wr, ws, queries, start, column, maxima)
        e, e_lost = add(e, e_lost, p)
        f, f_lost = add(f, f_lost, q)
        g, g_lost = add(g, g_lost, r)
        h, h_lost = add(h, h_lost, s)
        start += WIDE
    store_within(of_values, j + y, column + x, a - a_lost)
    store_within(of_values, j + y, column + x + SIDE, b - b_lost)
    store_within(of_values, j + y, column + x + 2 * SIDE, c - c_lost)
    store_within(of_values, j + y, column + x + 3 * SIDE, d - d_lost)
    factor_here = real(queries, factor)
    store_within(of_keys, j + y, column + x, (e - e_lost) * factor_here)
    store_within(of_keys, j + y, column + x + SIDE, (f - f_lost) * factor_here)
    store_within(of_keys, j + y, column + x + 2 * SIDE, (g - g_lost) * factor_here)
    store_within(of_keys, j + y, column + x + 3 * SIDE, (h - h_lost) * factor_here)


# ============================================================================================================
# Launch
# ============================================================================================================

RUNGS = ("one_thread_per_query", "block_per_query_tile")
KERNELS = {
    "one_thread_per_query": (
        states_by_threads, output_by_threads, queries_by_threads, keys_by_threads, values_by_threads,
    ),
    "block_per_query_tile": (output_by_tiles, states_by_tiles, queries_by_tiles, keys_and_values_by_tiles),
}  # fmt: skip


class Problem:
    """The arguments as the kernels see them, and how the kernels of a rung are launched."""

    def __init__(
        self, queries: Any, keys: Any, values: Any, bias: Any, mask: Any, *others: Any,
        scale: float | None, causal: bool, rung: str | None, stream: Any,
    ):  # fmt: skip
        self.call = Call(queries, keys, values, bias, mask, *others, stream=stream)
        self.rung = chosen(rung or "block_per_query_tile", RUNGS, True)
        self.queries, self.dtype, _ = self.call.rows(queries)
        self.keys, self.values = self.call.rows(keys)[0], self.call.rows(values)[0]
        (self.n, self.d), (self.m, self.e) = self.queries.shape, self.values.shape
        if self.m == 0:  # the place of a query's largest product would be nowhere
            raise ValueError(f"keys: expected at least one key, got shape {tuple(self.keys.shape)}")
        self.biased, self.masked = bias is not None, mask is not None
        self.bias = self.call.rows(bias)[0] if self.biased else self.queries
        self.mask = self.call.vector(mask) if self.masked else self.call.new((1,), np.dtype(bool))
        self.factor = 1 / math.sqrt(self.d) if scale is None else float(scale)
        self.causal = bool(causal)

    @property
    def how(self) -> tuple:
        """What every kernel takes after queries, keys and values."""
        return self.bias, self.biased, self.mask, self.masked, self.causal, self.factor

    @property
    def tables(self) -> list:
        """All that the kernels read."""
        return [self.queries, self.keys, self.values, self.bias, self.mask]

    def numbers(self) -> Any:
        """One number for each query, in the dtype of the arithmetic."""
        return self.call.new((self.n,), arithmetic_dtype(self.dtype))

    def launch(self, kernel: Any, rows: int, columns: int, *arrays: Any) -> None:
        """A thread (or a row of threads) for each row, and as many groups of columns as there must be."""
        if rows == 0:
            return
        grid: tuple
        block: int | tuple
        if self.rung == "one_thread_per_query":
            grid, block = (-(-rows // THREADS), max(1, -(-columns // 4))), THREADS
        else:
            grid, block = (-(-rows // SIDE), max(1, -(-columns // WIDE))), (SIDE, SIDE)
        configured(kernel, grid, block, self.call.stream)(*arrays)

    def value(self, out: Any) -> Any:
        output = self.call.output(out, (self.n, self.e), self.dtype, reads=self.tables, in_place=False)
        maxima, factors = self.numbers(), self.numbers()
        inputs = (self.queries, self.keys, self.values)
        if self.rung == "one_thread_per_query":
            unused = (
                self.values,
                False,
                maxima,
                factors,
                maxima,
                factors,
                self.call.new((self.n,), np.dtype(np.int64)),
            )
            self.launch(states_by_threads, self.n, 1, *inputs, *self.how, *unused)
            kernel = output_by_threads
        else:
            kernel = output_by_tiles
        self.launch(kernel, self.n, self.e, *inputs, *self.how, maxima, factors, output)
        return self.call.result(output, self.dtype, (self.n, self.e), out=out)

    def gradients(self, cotangent: Any, outs: Any) -> tuple:
        call, inputs = self.call, (self.queries, self.keys, self.values)
        shapes = [tuple(x.shape) for x in inputs] + ([(self.n, self.m)] if self.biased else [])
        outs = call.check_outs(outs, [(shape, self.dtype) for shape in shapes])
        cotangents = call.rows(call.cotangent(cotangent, (self.n, self.e), self.dtype))[0]
        states = tuple(self.numbers() for _ in range(4))
        pivots = call.new((self.n,), np.dtype(np.int64))
        threads = self.rung == "one_thread_per_query"
        summarise = states_by_threads if threads else states_by_tiles
        self.launch(summarise, self.n, 1, *inputs, *self.how, cotangents, True, *states, pivots)

        found = [
            call.output(out, shape, self.dtype, reads=[*self.tables, cotangents], in_place=False)
            for out, shape in zip(outs, shapes, strict=True)
        ]
        of_queries, of_keys, of_values, *rest = found
        of_bias = rest[0] if rest else of_queries
        by_queries = queries_by_threads if threads else queries_by_tiles
        results = pivots, of_queries, of_bias
        self.launch(by_queries, self.n, self.d, *inputs, *self.how, cotangents, *states, *results)
        if threads:
            self.launch(keys_by_threads, self.m, self.d, *inputs, *self.how, cotangents, *states, of_keys)
            two = (self.queries, self.keys)
            self.launch(values_by_threads, self.m, self.e, *two, *self.how, cotangents, *states[:2], of_values)
        else:
            both = max(self.d, self.e)
            arrays = (*inputs, *self.how, cotangents, *states, of_keys, of_values)
            self.launch(keys_and_values_by_tiles, self.m, both, *arrays)
        ready = zip(found, shapes, outs, strict=True)
        return tuple(call.result(array, self.dtype, shape, out=out) for array, shape, out in ready)


def value(
    queries: Any, keys: Any, values: Any, bias: Any = None, mask: Any = None, *, scale: float | None = None,
    causal: bool = False, block_size: int | None = None, out: Any = None, rung: str | None = None, stream: Any = None,
) -> Any:  # fmt: skip
    """The output, one row for each query. How many keys a block takes at a time is a constant of the kernel here."""
    problem = Problem(queries, keys, values, bias, mask, out, scale=scale, causal=causal, rung=rung, stream=stream)
    return problem.value(out)


def vjp(
    queries: Any, keys: Any, values: Any, bias: Any = None, mask: Any = None, *, cotangent: Any,
    scale: float | None = None, causal: bool = False, block_size: int | None = None, out: Any = None,
    rung: str | None = None, stream: Any = None,
) -> tuple:  # fmt: skip
    """The gradients of queries, keys and values, and of the bias where there is one (`out` likewise)."""
    given = tuple(out) if isinstance(out, tuple | list) else ()
    problem = Problem(
        queries, keys, values, bias, mask, cotangent, *given, scale=scale, causal=causal, rung=rung, stream=stream
    )
    return problem.gradients(cotangent, out)


def value_and_vjp(*arrays: Any, cotangent: Any, out: Any = None, **options: Any) -> tuple[Any, tuple]:
    """Both, one after the other; `out` is for the gradients."""
    return value(*arrays, **options), vjp(*arrays, cotangent=cotangent, out=out, **options)
