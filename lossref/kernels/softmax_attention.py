r"""Attention: the mean of the values under the softmax of each query's products with the keys; and its gradient.

Reference
=========
    x_ij = s ⟨q_i, k_j⟩ + b_ij (−∞ where i may not attend to j),    A = softmax(x) by rows,    O = A V

    W = G Vᵀ for a cotangent G,    dx_ij = A_ij ((W_ij − W_i*) + D_i),    D_i = Σ_j A_ij (W_i* − W_ij),
    * the place of the row's largest x

    ∂Q = s dx K,    ∂K = s dxᵀ Q,    ∂V = Aᵀ G,    ∂b = dx

The textbook's dx = A ∘ (W − ⟨G, O⟩) is a difference of two nearly equal numbers wherever a query has made up its
mind, and its A = e^{x − L}, from the rounded log-sum-exp L alone, is off by |L| roundings. So of each query three
numbers are kept: the state (m, r) of its log-sum-exp, and D. A row of dx sums to 0; what rounding has left of that
sum is taken off at *, so that an offset of all keys changes nothing.

Kernels
=======
The table x never exists. Some queries at a time walk over the keys block by block. A block is one
product; then the state of log-sum-exp takes it in, and what rides along is shrunk as the state is: in the forward
walk the sum of values, before the gradient the sum of differences of W, whose centre moves with the maximum.

    value       two products of a pair of blocks: x, and e^{x − m} V
    gradient    two for the state: x and W; five more: x and W again, ∂Q, ∂K, ∂V

That is what attention costs forward and backward anyway, since ⟨G, O⟩ is not needed, and O only where the caller
wants it. All products go through `numpy.matmul`; the kernels divide the rows of a block among the threads. Beyond
inputs and outputs there are one block of x and of W, and a few numbers for each query of a block.
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.rows import apart, check_out, check_outs, computed_in, in_parallel, pieces, read_only
from lossref.kernels.softmax import inverse, probability_times_difference, shifted_exponential, weighted_differences
from lossref.kernels.streaming_state import absorb, finite, index_of
from lossref.kernels.sums import sum_of_numbers
from lossref.kernels.writing import write, write_beside

__all__ = ["value", "value_and_vjp", "vjp"]

# A block of this many queries and keys is 1 MB of float32: it stays in the second cache, and the products are large
# enough to be bound by arithmetic.
QUERIES, KEYS = 256, 1024


@inlined
def products_to_logits(row, scale, bias, mask, query, first_key, causal):
    """row[j] = x of this query and key first_key + j; −∞ where it may not attend."""
    if bias is None:
        for j in range(row.size):
            row[j] = row[j] * scale
    else:
        beside = bias[first_key : first_key + row.size]
        for j in range(row.size):
            row[j] = row[j] * scale + beside[j]
    if mask is not None:
        allowed = mask[first_key : first_key + row.size]
        for j in range(row.size):
            row[j] = row[j] if allowed[j] else -np.inf
    if causal:
        for j in range(max(query + 1 - first_key, 0), row.size):
            row[j] = -np.inf


@inlined
def row_of(table, i):
    """Row i of an optional table."""
    return None if table is None else table[i]


@inlined
def shrinkage(before, after):
    """e^{before − after}, by which sums relative to the old maximum are to be multiplied."""
    return math.exp(before - after) if before > -np.inf else 0.0


@kernel
def take_in(
    products, w, bias, mask, maxima, rests, centres, differences, pivots, shrinks, scale, first_query, first_key, causal
):
    """The states after a block of keys, and Σ e^{x − m} (centre − W) if w is given. The products become logits, and
    e^{x − m} if `shrinks` is given, which then says how much the sums of values shrink."""
    for i in range(products.shape[0]):
        row, before = products[i], maxima[i]
        products_to_logits(row, scale, row_of(bias, i), row_of(mask, i), first_query + i, first_key, causal)
        m, r = absorb(row, before, rests[i], None)
        shrink = shrinkage(before, m)
        if w is not None:
            if m > before:
                place = index_of(row, m)
                centre = float(w[i, place])
                # Σ e (centre − W) of what came before, counted from the new centre.
                moved = (centre - centres[i]) * (1.0 + rests[i]) if before > -np.inf else 0.0
                differences[i] = (differences[i] + moved) * shrink
                centres[i], pivots[i] = centre, first_key + place
            differences[i] += weighted_differences(row, finite(m), w[i], centres[i])
        if shrinks is not None:
            write(shifted_exponential, row, (finite(m), 1.0), row, False)
            shrinks[i] = shrink
        maxima[i], rests[i] = m, r


@kernel
def add_shrunk(sums, shrinks, part):
    for i in range(sums.shape[0]):
        for c in range(sums.shape[1]):
            sums[i, c] = sums[i, c] * shrinks[i] + part[i, c]


@kernel
def weights_and_slopes(
    products, w, bias, mask, maxima, rests, centres, differences, left_over, scale, first_query, first_key, causal
):
    """The products become A, w becomes dx, and left_over what the rows of dx sum to."""
    for i in range(products.shape[0]):
        row = products[i]
        products_to_logits(row, scale, row_of(bias, i), row_of(mask, i), first_query + i, first_key, causal)
        m, factor = finite(maxima[i]), inverse(1.0 + rests[i] if maxima[i] > -np.inf else rests[i])
        # high + low = centre − D, to twice the precision.
        difference = differences[i] * factor
        high = float(row.dtype.type(centres[i] - difference))
        low = (centres[i] - high) - difference
        write_beside(probability_times_difference, row, w[i], (m, factor, high, low), w[i], False)
        write(shifted_exponential, row, (m, factor), row, False)
        left_over[i] += sum_of_numbers(w[i])


# Launch
# ======


class Attention:
    """The arguments, and how they are cut into blocks."""

    def __init__(self, queries, keys, values, bias, mask, scale, causal, block_size):
        named = {"queries": queries, "keys": keys, "values": values, "bias": bias}
        self.given = {name: np.asarray(array) for name, array in named.items() if array is not None}
        self.dtype = np.result_type(*[computed_in(name, array) for name, array in self.given.items()])
        self.queries, self.keys, self.values = (self.given[name] for name in ("queries", "keys", "values"))
        self.bias, self.mask = self.given.get("bias"), None if mask is None else np.asarray(mask)
        features = self.queries.shape[1]
        self.scale = self.dtype.type(1 / math.sqrt(features) if scale is None else scale)
        self.causal = bool(causal)
        self.keys_each = min(block_size or KEYS, len(self.keys))

    def is_sound(self):
        """No NaN, and no infinity but masks in the bias; also where no query attends to it, which the kernels never
        see."""
        below = all(array.max(initial=-np.inf) < np.inf for array in self.given.values())  # NaN is not
        return below and all(a.min(initial=np.inf) > -np.inf for name, a in self.given.items() if name != "bias")

    def tables(self):
        """All arrays that are read."""
        return [*self.given.values(), *([] if self.mask is None else [self.mask])]

    def tiles(self):
        """Some queries at a time."""
        return [slice(a, min(a + QUERIES, len(self.queries))) for a in range(0, len(self.queries), QUERIES)]

    def blocks(self, tile):
        """The blocks of keys that some query of the tile may attend to."""
        stop = min(len(self.keys), tile.stop) if self.causal else len(self.keys)
        return [slice(a, min(a + self.keys_each, len(self.keys))) for a in range(0, stop, self.keys_each)]

    def part(self, array, rows):
        """Rows of an array in the dtype in which the kernel computes; a copy only where it must be."""
        return read_only(array[rows], self.dtype)

    def buffers(self, count):
        rows = min(QUERIES, len(self.queries))
        return [np.empty(rows * self.keys_each, self.dtype) for _ in range(count)]


class Tile:
    """Some queries, the states of their log-sum-exps, and their products with a block of keys or of values."""

    def __init__(self, problem, rows, cotangent, buffers):
        self.problem, self.rows, self.buffers = problem, rows, buffers
        self.count = rows.stop - rows.start
        self.queries = problem.part(problem.queries, rows)
        self.cotangent = None if cotangent is None else problem.part(cotangent, rows)
        self.bias = None if problem.bias is None else problem.part(problem.bias, rows)
        self.mask = None if problem.mask is None else read_only(problem.mask[rows], bool)
        self.maxima, self.rests = np.full(self.count, -np.inf), np.zeros(self.count)
        self.centres, self.differences = np.zeros(self.count), np.zeros(self.count)
        self.pivots = np.zeros(self.count, np.int64)

    def products(self, block):
        """Queries times keys, and cotangents times values."""
        problem, shape = self.problem, (self.count, block.stop - block.start)
        into = [buffer[: math.prod(shape)].reshape(shape) for buffer in self.buffers]
        np.matmul(self.queries, problem.part(problem.keys, block).T, out=into[0])
        if self.cotangent is None:
            return into[0], None
        np.matmul(self.cotangent, problem.part(problem.values, block).T, out=into[1])
        return into

    def each_row(self, run, block, *tables_and_states):
        """run on the rows of tables and states, divided among the threads."""
        problem = self.problem

        def work(a, b):
            rows = [None if array is None else array[a:b] for array in tables_and_states]
            run(*rows, problem.scale, self.rows.start + a, block.start, problem.causal)

        in_parallel(work, pieces(self.count, block.stop - block.start))

    def walk(self, wants_output):
        """The states of the queries, and the output if it is wanted."""
        problem = self.problem
        output = np.zeros((self.count, problem.values.shape[1])) if wants_output else None
        shrinks = np.empty(self.count) if wants_output else None
        states = (self.maxima, self.rests, self.centres, self.differences, self.pivots, shrinks)
        for block in problem.blocks(self.rows):
            products, w = self.products(block)
            self.each_row(take_in, block, products, w, self.bias, self.mask, *states)
            if wants_output:
                add_shrunk(output, shrinks, np.matmul(products, problem.part(problem.values, block)))
        if wants_output:
            totals = np.where(self.maxima > -np.inf, 1 + self.rests, self.rests)
            output /= np.where(totals == 0, np.nan, totals)[:, None]
        return output

    def walk_back(self, gradients):
        """Adds what these queries contribute to the gradients."""
        problem, scale = self.problem, float(self.problem.scale)
        of_queries, left_over = np.zeros(self.queries.shape), np.zeros(self.count)
        states = (self.maxima, self.rests, self.centres, self.differences, left_over)
        for block in problem.blocks(self.rows):
            weights, slopes = self.products(block)
            self.each_row(weights_and_slopes, block, weights, slopes, self.bias, self.mask, *states)
            of_queries += np.matmul(slopes, problem.part(problem.keys, block))
            gradients["keys"][block] += np.matmul(slopes.T, self.queries)
            gradients["values"][block] += np.matmul(weights.T, self.cotangent)
            if "bias" in gradients:
                gradients["bias"][self.rows, block] = slopes
        of_queries -= left_over[:, None] * problem.keys[self.pivots].astype(np.float64)
        gradients["queries"][self.rows] = of_queries * scale


def value(queries, keys, values, bias=None, mask=None, *, scale=None, causal=False, block_size=None, out=None):
    """The output, one row for each query."""
    problem = Attention(queries, keys, values, bias, mask, scale, causal, block_size)
    target = empty_output(problem, out)
    output = apart(target, problem.tables())
    if problem.is_sound():
        buffers = problem.buffers(1)
        for rows in problem.tiles():
            output[rows] = Tile(problem, rows, None, buffers).walk(True)
    else:
        output.fill(np.nan)
    return delivered(output, target)


def value_and_vjp(
    queries, keys, values, bias=None, mask=None, *, cotangent, scale=None, causal=False, block_size=None, out=None
):
    """The output, and (∂queries, ∂keys, ∂values) or (∂queries, ∂keys, ∂values, ∂bias); `out` is a tuple of arrays
    for them."""
    problem = Attention(queries, keys, values, bias, mask, scale, causal, block_size)
    output = empty_output(problem, None)
    return output, gradients(problem, cotangent, out, output)


def vjp(queries, keys, values, bias=None, mask=None, *, cotangent, scale=None, causal=False, block_size=None, out=None):
    """(∂queries, ∂keys, ∂values) or (∂queries, ∂keys, ∂values, ∂bias)."""
    return gradients(Attention(queries, keys, values, bias, mask, scale, causal, block_size), cotangent, out, None)


def empty_output(problem, out):
    shape, dtype = (len(problem.queries), problem.values.shape[1]), problem.queries.dtype
    if out is None:
        return np.empty(shape, dtype)
    check_out(out, shape, dtype)
    return out


def gradients(problem, cotangent, out, output):
    shape = (len(problem.queries), problem.values.shape[1])
    weights = np.broadcast_to(np.asarray(cotangent), shape)
    targets = empty_gradients(problem, out)
    results = {name: apart(target, [*problem.tables(), weights]) for name, target in targets.items()}
    if not problem.is_sound():
        for result in [*targets.values()] + [output] * (output is not None):
            result.fill(np.nan)
        return tuple(targets.values())
    # Of these every query adds its share, in the dtype in which the kernel computes.
    sums = {name: results[name].astype(problem.dtype, copy=False) for name in ("keys", "values")}
    for total in sums.values():
        total.fill(0)
    buffers = problem.buffers(2)
    for rows in problem.tiles():
        tile = Tile(problem, rows, weights, buffers)
        found = tile.walk(output is not None)
        if output is not None:
            output[rows] = found
        if "bias" in results:
            results["bias"][rows] = 0  # causal: blocks that no query of the tile may attend to are not visited
        tile.walk_back({**results, **sums})
    for name, total in sums.items():
        np.multiply(total, problem.scale if name == "keys" else 1, out=results[name], casting="unsafe")
    return tuple(delivered(results[name], target) for name, target in targets.items())


def delivered(result, target):
    """The result where the caller wants it."""
    if result is not target:
        target[...] = result
    return target


def empty_gradients(problem, out):
    if out is None:
        return {name: np.empty(array.shape, array.dtype) for name, array in problem.given.items()}
    check_outs(out, list(problem.given.values()))
    return dict(zip(problem.given, out, strict=True))
