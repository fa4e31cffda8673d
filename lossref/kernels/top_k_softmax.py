r"""The softmax of the k largest scores of each row, and 0 elsewhere; and its gradient.

Reference
=========
    T = the k largest scores v_j, of equal ones those further left,    u_j = v_j + b_j,    * the largest u of T

    1 + r = Σ_T e^{u_j − u_*},    g_j = e^{u_j − u_*} / (1 + r) on T, else 0

    gradient    g_j ((ω_j − ω_*) − Σ_T g_k (ω_k − ω_*)),    ∂b its sum over the rows

u_j − u_* is taken of the exact sums, so offsets of the scores or of the bias change nothing. NaN or +∞ makes
its whole row NaN, and so does a row of −∞ alone.

Kernels
=======
One pass over a row with the k best scores so far in order: most scores of a long row lose against the weakest of
them, by one comparison. For the few experts of a gate that is faster than a heap, which would win from some hundreds
on. All else concerns k numbers.
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.rows import check_outs, empty_result, finish, in_parallel, pieces, read_only, to_rows
from lossref.kernels.sums import compensated

__all__ = ["value", "value_and_vjp", "vjp"]


@inlined
def choose(scores, best, chosen):
    """The largest scores in falling order, as many as `best` holds, and their places."""
    for j in range(scores.size):
        score, t = scores[j], min(j, best.size - 1)
        if j < best.size or score > best[t]:  # of equal scores the one that came first stays
            while t > 0 and best[t - 1] < score:
                best[t], chosen[t] = best[t - 1], chosen[t - 1]
                t -= 1
            best[t], chosen[t] = score, j


@inlined
def all_below_infinity(scores):
    sound = True
    for j in range(scores.size):
        sound &= scores[j] < np.inf
    return sound


@inlined
def biased(scores, bias, j):
    """scores[j] + bias[j] as the rounded sum and what rounding has taken from it (of a mask, nothing)."""
    if bias is None:
        return float(scores[j]), 0.0
    total, lost = compensated(float(scores[j]), 0.0, bias[j])
    return total, lost if total > -np.inf else 0.0


@inlined
def strongest(scores, bias, chosen):
    """Where the largest of the chosen sums stands, of the exact ones: rounded, they may all be equal."""
    best = 0
    largest, largest_lost = biased(scores, bias, chosen[0])
    for t in range(1, chosen.size):
        total, lost = biased(scores, bias, chosen[t])
        if (total - largest) + (lost - largest_lost) > 0.0:
            best, largest, largest_lost = t, total, lost
    return best


@inlined
def gates_of(scores, bias, chosen, best, gates):
    """gates[t] = the gate of place chosen[t]."""
    largest, largest_lost = biased(scores, bias, chosen[best])
    rest, lost = 0.0, 0.0
    for t in range(chosen.size):
        total, total_lost = biased(scores, bias, chosen[t])
        gates[t] = math.exp((total - largest) + (total_lost - largest_lost))
        if t != best:
            rest, lost = compensated(rest, lost, gates[t])
    for t in range(chosen.size):
        gates[t] /= 1.0 + (rest + lost)


@inlined
def slopes_of(cotangent, chosen, best, gates):
    """gates[t] becomes the derivative by the score at chosen[t]."""
    centre = cotangent[chosen[best]]
    mean, lost = 0.0, 0.0
    for t in range(chosen.size):
        mean, lost = compensated(mean, lost, gates[t] * (float(cotangent[chosen[t]]) - centre))
    for t in range(chosen.size):
        gates[t] *= (float(cotangent[chosen[t]]) - centre) - (mean + lost)


@inlined
def spread_over_row(numbers, chosen, sound, row):
    row[:] = 0.0 if sound else np.nan
    if sound:
        for t in range(chosen.size):
            row[chosen[t]] = numbers[t]


@kernel
def gate_rows(scores, bias, buffers, gates):
    best_scores, chosen, numbers = buffers
    for i in range(scores.shape[0]):
        row = scores[i]
        choose(row, best_scores, chosen)
        best = strongest(row, bias, chosen)
        gates_of(row, bias, chosen, best, numbers)
        spread_over_row(numbers, chosen, all_below_infinity(row), gates[i])


@kernel
def gate_rows_backward(scores, bias, buffers, cotangent, gates, slopes, sums, lost):
    """The slopes; their sums over the rows, if there is a bias; and the gates, if they are wanted."""
    best_scores, chosen, numbers = buffers
    for i in range(scores.shape[0]):
        row = scores[i]
        sound = all_below_infinity(row)
        choose(row, best_scores, chosen)
        best = strongest(row, bias, chosen)
        gates_of(row, bias, chosen, best, numbers)
        if gates is not None:
            spread_over_row(numbers, chosen, sound, gates[i])
        slopes_of(cotangent[i], chosen, best, numbers)
        spread_over_row(numbers, chosen, sound, slopes[i])
        if bias is not None:
            for t in range(chosen.size):
                j = chosen[t]
                sums[j], lost[j] = compensated(sums[j], lost[j], numbers[t] if sound else np.nan)


# Launch
# ======


def buffers_for(k, rows):
    """Room for the best scores of a row, their places, and a number for each."""
    return np.empty(k, rows.dtype), np.empty(k, np.int64), np.empty(k)


def value(scores, *, k, bias=None, out=None):
    """The gates, in the shape of the scores."""
    scores = np.asarray(scores)
    rows, _ = to_rows("scores", scores, -1)
    check_k(k, rows)
    offsets = None if bias is None else read_only(bias, np.float64)
    gates = empty_result(rows, scores, 1, out)
    in_parallel(lambda a, b: gate_rows(rows[a:b], offsets, buffers_for(k, rows), gates[a:b]), pieces(*rows.shape))
    return finish(gates, scores, 1, out)


def vjp(scores, *, k, cotangent, bias=None, out=None):
    """∂scores, or (∂scores, ∂bias) where there is a bias; `out` is a buffer for it, or a tuple of two."""
    return gradients(scores, k, bias, cotangent, None, out)


def value_and_vjp(scores, *, k, cotangent, bias=None, out=None):
    """The gates, and the gradient (to which `out` belongs)."""
    scores = np.asarray(scores)
    rows, _ = to_rows("scores", scores, -1)
    gates = empty_result(rows, scores, 1, None)
    found = gradients(scores, k, bias, cotangent, gates, out)
    return finish(gates, scores, 1, None), found


def gradients(scores, k, bias, cotangent, gates, out):
    scores = np.asarray(scores)
    rows, _ = to_rows("scores", scores, -1)
    check_k(k, rows)
    offsets = None if bias is None else read_only(bias, np.float64)
    weights = read_only(np.broadcast_to(np.asarray(cotangent), scores.shape), rows.dtype)
    if bias is not None and out is not None:
        check_outs(out, [scores, np.asarray(bias)])
    for_scores, for_bias = (out, None) if bias is None else (out or (None, None))
    slopes = empty_result(rows, scores, 1, for_scores)
    parts = pieces(*rows.shape)
    sums, lost = np.zeros((2, len(parts), 0 if bias is None else rows.shape[1]))

    def work(number, a, b):
        part = None if gates is None else gates[a:b]
        buffers = buffers_for(k, rows)
        gate_rows_backward(rows[a:b], offsets, buffers, weights[a:b], part, slopes[a:b], sums[number], lost[number])

    in_parallel(work, [(number, *part) for number, part in enumerate(parts)])
    slopes = finish(slopes, scores, 1, for_scores)
    if bias is None:
        return slopes
    of_bias = (sums + lost).sum(0).astype(np.asarray(bias).dtype)
    if for_bias is None:
        return slopes, of_bias
    for_bias[...] = of_bias
    return slopes, for_bias


def check_k(k, rows):
    if not 1 <= k <= rows.shape[1]:
        raise ValueError(f"k: expected an integer from 1 to {rows.shape[1]}, got {k}")
