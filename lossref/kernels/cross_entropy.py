r"""Cross-entropy of logits and integer labels, value and gradient in one sweep over the logits.

Reference
=========
A row of C logits x with the label y; u = c tanh(x/c) under a soft-cap c, else u = x;
class weights w, smoothing ε, z weight ζ:

    ℓ = (1 − ε) w_y (−log p_y) + ε/C Σ_k w_k (−log p_k) + ζ w_y L²,        p = softmax(u),  L = log Σ e^u

    ∂ℓ/∂u_j = p_j A − ε/C w_j − δ_jy (1 − ε) w_y,        A = (1 − ε) w_y + ε/C Σ_k w_k + 2 ζ w_y L

*The label is left out of the stream.* Let (m, r) be the state of the other logits, L' = m + log1p(r), and d
= L' − u_y:

    −log p_y = softplus(d),    1 − p_y = σ(d),    p_j = σ(d) e^{u_j − m} / (1 + r)  for j ≠ y

so nothing is ever subtracted from 1, and a right answer that leads by 40 or by 700 keeps all the digits of
its loss and of its gradient, which in the usual form L − u_y and p_y − 1 are 0. Only differences of logits
are formed: a common offset changes nothing.

The smoothing term is a sum of positive numbers, Σ_k w_k (−log p_k) = w_y softplus(d) + Σ_{k≠y} w_k ((m −
u_k) + (L − m)).

An ignored row has the term 0 and the gradient 0, whatever its logits. A masked logit (−∞) has the gradient
0, if it is the label the loss is +∞; with ε > 0 a masked class of positive weight makes the loss +∞. NaN or
+∞ makes the term of its row NaN.

Kernels
=======
Per row one pass for the state, and a second for the gradient while the row is in the cache.
The label's entry is written last. The gradient may be written over the logits.
"""

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.exponential import capped_slope, scaled_exponential
from lossref.kernels.lanes import (
    first_lane,
    fused_multiply_add,
    is_zero,
    load,
    load_tail,
    magnitude_is_infinite,
    memory_fence,
    select,
    spread,
    sum_of,
    whole,
    width,
)
from lossref.kernels.rows import (
    around_caches,
    empty_result,
    finish,
    in_parallel,
    pieces,
    pieces_of_a_row,
    read_only,
    split_rows_or_elements,
    to_rows,
)
from lossref.kernels.streaming_state import RUN, absorb, compensated, finite, merged, seen
from lossref.kernels.writing import write, write_beside

__all__ = ["value", "value_and_vjp", "vjp"]


@inlined
def softplus(d):
    """log(1 + e^d)."""
    return max(d, 0.0) + np.log1p(np.exp(-abs(d)))


@inlined
def logistic(d):
    """1 / (1 + e^{−d}), with full relative accuracy on both sides."""
    if d >= 0.0:
        return 1.0 / (1.0 + np.exp(-d))
    return np.exp(d) / (1.0 + np.exp(d))


@inlined
def seen_number(row, j, cap):
    """The capped row[j]: the same number as in the stream, for it comes from the same code."""
    return float(first_lane(seen(spread(row, row[j]), cap)))


@inlined
def state_without_label(row, label, cap):
    """(m, r, d): the state of the other classes, and d = L' − u_label."""
    m, r = state_of_others(row, label, cap)
    return m, r, lead_of_others(m, r, seen_number(row, label, cap))


@inlined
def state_of_others(row, label, cap):
    """(m, r) of the row without the label, which may lie outside of it."""
    before, after = without(row, label)
    m, r = absorb(before, -np.inf, 0.0, cap)
    return absorb(after, m, r, cap)


@inlined
def lead_of_others(m, r, target):
    """d = L' − u_label."""
    return (m - target) + np.log1p(r) if target < np.inf else np.nan


@inlined
def without(row, j):
    """The row before and after its entry j; all of it in one of them if j lies outside."""
    return row[: min(max(j, 0), row.size)], row[min(max(j + 1, 0), row.size) :]


@inlined
def log_sum(m, r, d, target):
    """L, from the larger one of L' and u_label."""
    return m + (np.log1p(r) + np.log1p(np.exp(-d))) if d > 0.0 else target + np.log1p(np.exp(d))


@inlined
def weighted(weight, term):
    """weight · term, where 0 · ∞ is 0: a masked class that does not count."""
    return 0.0 if weight == 0.0 and term == np.inf else weight * term


@inlined
def weighted_gaps(row, weights, m, cap):
    """Σ_k weights[k] (m − u_k)."""
    total, lost = 0.0, 0.0
    for start in range(0, row.size, RUN):
        run = row[start : min(start + RUN, row.size)]
        beside = weights[start : min(start + RUN, row.size)]
        gaps = spread(run, 0.0)
        for j in range(0, whole(run), width(run)):
            gaps = gaps + weighted_gap(load(run, j), load(beside, j), m, cap)
        if whole(run) < run.size:
            gaps = gaps + weighted_gap(load_tail(run, whole(run), 0.0), load_tail(beside, whole(run), 0.0), m, cap)
        total, lost = compensated(total, lost, sum_of(gaps))
    return total if total == np.inf else total + lost


@inlined
def gaps_of_others(row, weights, label, m, cap):
    """Σ_{k≠label} weights[k] (m − u_k), 0 if there are no weights."""
    if weights is None:
        return 0.0
    before, after = without(row, label)
    weights_before, weights_after = without(weights, label)
    return weighted_gaps(before, weights_before, finite(m), cap) + weighted_gaps(after, weights_after, finite(m), cap)


@inlined
def weighted_gap(x, weight, m, cap):
    return select(is_zero(weight), 0.0, weight * (m - seen(x, cap)))


@inlined
def smoothing_term(weight, sum_of_other_weights, r, d, gaps):
    """Σ_k w_k (−log p_k), given the label's weight and Σ_{k≠y} w_k (m − u_k)."""
    term = weighted(weight, softplus(d))
    if sum_of_other_weights > 0.0:
        to_sum = np.log1p(r) + softplus(-d)  # L − m
        term += gaps + sum_of_other_weights * to_sum
    return term


@inlined
def term_of_row(row, label, label_weight, weights, sums_of_others, smoothing, z_weight, cap, state, gaps):
    m, r, d = state
    value = weighted((1.0 - smoothing) * label_weight, softplus(d))
    if weights is not None:
        smooth = smoothing_term(float(weights[label]), sums_of_others[label], r, d, gaps)
        value += smoothing / row.size * smooth
    if z_weight != 0.0:
        value += z_weight * label_weight * log_sum(m, r, d, seen_number(row, label, cap)) ** 2
    return value


# The gradient of the classes other than the label: one formula for each pair of options, so that nobody
# pays for another's.


@inlined
def plain(x, constants):
    m, factor = constants
    return scaled_exponential(x - m, factor)


@inlined
def under_cap(x, constants):
    m, factor, cap = constants
    slope = select(magnitude_is_infinite(x), 0.0, capped_slope(x, cap))
    return scaled_exponential(seen(x, cap) - m, factor) * slope


@inlined
def smoothed(x, weight, constants):
    m, factor, share = constants
    slope = select(magnitude_is_infinite(x), 0.0, fused_multiply_add(weight, -share, plain(x, (m, factor))))
    return slope


@inlined
def smoothed_under_cap(x, weight, constants):
    m, factor, share, cap = constants
    slope = select(magnitude_is_infinite(x), 0.0, capped_slope(x, cap))
    return fused_multiply_add(weight, -share, plain(seen(x, cap), (m, factor))) * slope


@inlined
def slope_at(row, j, cap):
    """du/dx at row[j]."""
    if cap is None:
        return 1.0
    return float(first_lane(capped_slope(spread(row, row[j]), cap)))


@inlined
def write_others(row, weights, cap, constants, gradient, streamed):
    """The gradient of the classes other than the label, written over the label's too."""
    shift, factor, share = constants
    if weights is None:
        if cap is None:
            write(plain, row, (shift, factor), gradient, streamed)
        else:
            write(under_cap, row, (shift, factor, cap), gradient, streamed)
    elif cap is None:
        write_beside(smoothed, row, weights, (shift, factor, share), gradient, streamed)
    else:
        write_beside(smoothed_under_cap, row, weights, (shift, factor, share, cap), gradient, streamed)


@inlined
def slopes(row, label, label_weight, weights, sums_of_others, smoothing, z_weight, cap, scale, state):
    """scale · ∂ℓ/∂x: (constants of `write_others`, at the label, k, at k), k being a wrong class whose gradient
    has a formula of its own (−1 if there is none)."""
    m, r, d = state
    wrong, right = logistic(d), logistic(-d)  # 1 − p_y and p_y
    slope = slope_at(row, label, cap)
    hard = (1.0 - smoothing) * label_weight
    z_part = 0.0
    if z_weight != 0.0:
        z_part = 2.0 * z_weight * label_weight * log_sum(m, r, d, seen_number(row, label, cap))
    at_label = -hard * wrong + z_part * right
    at_others = hard + z_part
    share, total, leader, at_leader = 0.0, at_others, -1, 0.0
    if weights is not None:
        share = smoothing / row.size
        own, others = float(weights[label]), sums_of_others[label]
        at_label += share * (right * others - own * wrong)
        total += share * (own + others)
        leader, at_leader = leading_wrong_class(
            row, label, weights, sums_of_others, share, at_others, state, seen_number(row, label, cap)
        )
        if leader >= 0:
            at_leader *= scale * slope_at(row, leader, cap)
    constants = (finite(m), scale * total * wrong / (1.0 + r), scale * share)
    return constants, scale * at_label * slope, leader, at_leader


@inlined
def write_gradient(row, label, weights, cap, found, gradient, streamed):
    """gradient = scale · ∂ℓ/∂x, the slopes having been found. It may overwrite the row."""
    constants, at_label, leader, at_leader = found
    write_others(row, weights, cap, constants, gradient, streamed)
    if leader >= 0:
        gradient[leader] = at_leader
    gradient[label] = at_label


@inlined
def leading_wrong_class(row, label, weights, sums_of_others, share, at_others, state, target):
    """(k, ∂ℓ/∂u_k) for a wrong class k with p_k > 2/3 that bears most of the class weight; else (−1, 0).

    Its p_k Σw − w_k is a difference of two nearly equal numbers: p_k (Σw − w_k) − w_k (1 − p_k) is not.
    """
    m, r, _ = state
    rest = r + np.exp(min(target - m, 0.0))
    if target > m or not rest < 0.5 or m == -np.inf:
        return -1, 0.0
    leader, top = -1, -np.inf
    for k in range(row.size):
        if k != label and row[k] > top:
            leader, top = k, row[k]
    own, others = float(weights[leader]), sums_of_others[leader]
    if own < others:
        return -1, 0.0
    right, wrong = 1.0 / (1.0 + rest), rest / (1.0 + rest)
    return leader, at_others * right + share * (right * others - own * wrong)


@kernel
def cross_entropy_forward(
    logits, labels, keep, label_weights, weights, sums_of_others, smoothing, z_weight, cap, terms
):
    for i in range(logits.shape[0]):
        terms[i] = 0.0
        if keep[i]:
            row, label = logits[i], labels[i]
            state = state_without_label(row, label, cap)
            gaps = gaps_of_others(row, weights, label, state[0], cap)
            terms[i] = term_of_row(
                row, label, label_weights[i], weights, sums_of_others, smoothing, z_weight, cap, state, gaps
            )


@kernel
def cross_entropy_forward_and_backward(
    logits,
    labels,
    keep,
    label_weights,
    weights,
    sums_of_others,
    smoothing,
    z_weight,
    cap,
    terms,
    cotangent,
    gradient,
    streamed,
):
    for i in range(logits.shape[0]):
        if keep[i]:
            row, label, weight = logits[i], labels[i], label_weights[i]
            state = state_without_label(row, label, cap)
            gaps = gaps_of_others(row, weights, label, state[0], cap)
            terms[i] = term_of_row(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, state, gaps)
            found = slopes(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, cotangent[i], state)
            write_gradient(row, label, weights, cap, found, gradient[i], streamed)
        else:
            terms[i] = 0.0
            gradient[i, :] = 0.0
    memory_fence()


# One long row: the same passes, each divided among the threads. The label lies in one of the parts, and the
# scalars of the whole row are computed in between.


@kernel
def state_of_piece(piece, label, cap):
    return state_of_others(piece, label, cap)


@kernel
def gaps_of_piece(piece, weights, label, m, cap):
    return gaps_of_others(piece, weights, label, m, cap)


@kernel
def write_piece(piece, weights, cap, constants, gradient, streamed):
    write_others(piece, weights, cap, constants, gradient, streamed)
    memory_fence()


@kernel
def lead_in_long_row(row, label, cap, m, r):
    return lead_of_others(m, r, seen_number(row, label, cap))


@kernel
def term_of_long_row(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, state, gaps):
    return term_of_row(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, state, gaps)


@kernel
def slopes_of_long_row(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, scale, state):
    return slopes(row, label, weight, weights, sums_of_others, smoothing, z_weight, cap, scale, state)


def part_of(weights, start, stop):
    return None if weights is None else weights[start:stop]


def long_row(problem, i, scale=None, gradient=None, streamed=False):
    """The term of row i; its gradient times `scale` is written to `gradient`, if there is one."""
    row, label, keep = problem.logits[i], int(problem.labels[i]), problem.keep[i]
    if not keep:
        if gradient is not None:
            gradient[:] = 0.0
        return 0.0
    parts, weights, cap = pieces_of_a_row(row.size), problem.weights, problem.cap
    m, r = merged(in_parallel(lambda a, b: state_of_piece(row[a:b], label - a, cap), parts))
    state = m, r, lead_in_long_row(row, label, cap, m, r)
    gaps = 0.0
    if weights is not None:
        gaps = sum(in_parallel(lambda a, b: gaps_of_piece(row[a:b], weights[a:b], label - a, m, cap), parts))
    options = (problem.label_weights[i], weights, problem.sums_of_others, problem.smoothing, problem.z_weight, cap)
    term = term_of_long_row(row, label, *options, state, gaps)
    if gradient is not None:
        constants, at_label, leader, at_leader = slopes_of_long_row(row, label, *options, scale, state)
        in_parallel(
            lambda a, b: write_piece(row[a:b], part_of(weights, a, b), cap, constants, gradient[a:b], streamed),
            parts,
        )
        if leader >= 0:
            gradient[leader] = at_leader
        gradient[label] = at_label
    return term


# Launch
# ======


class Problem:
    """The arguments as the kernels take them."""

    def __init__(self, logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight, classes, dtype):
        self.logits = logits
        self.labels = np.ascontiguousarray(labels, np.int64)
        # `None`: nothing is ignored (the caller has left those rows out).
        self.keep = np.ones(self.labels.shape, bool) if ignore_index is None else self.labels != ignore_index
        if weight is None:
            self.label_weights = np.ones(self.labels.size)
        else:
            weight = np.asarray(weight, np.float64)
            self.label_weights = weight[np.where(self.keep, self.labels, 0)] if self.labels.size else np.ones(0)
        self.weights = self.sums_of_others = None
        if label_smoothing != 0.0:
            if weight is None:
                self.weights = read_only(np.ones(classes, dtype), dtype)
                self.sums_of_others = np.full(classes, classes - 1.0)
            else:
                self.weights = read_only(weight, dtype)
                self.sums_of_others = sums_of_others(self.weights.astype(np.float64))
        self.smoothing, self.z_weight = float(label_smoothing), float(z_loss_weight)
        self.cap = None if softcap is None else float(softcap)

    def rows(self, start, stop):
        """The kernels' leading arguments for these rows."""
        return (
            self.logits[start:stop],
            self.labels[start:stop],
            self.keep[start:stop],
            self.label_weights[start:stop],
            self.weights,
            self.sums_of_others,
            self.smoothing,
            self.z_weight,
            self.cap,
        )


def sums_of_others(weights):
    """Σ_{k≠c} w_k for each class c, without subtracting."""
    before = np.concatenate([[0.0], np.cumsum(weights[:-1])])
    after = np.concatenate([np.cumsum(weights[:0:-1])[::-1], [0.0]])
    return before + after


def value(logits, labels, *, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None, z_loss_weight=0.0):
    """The N terms."""
    logits = np.asarray(logits)
    rows, _ = to_rows("logits", logits, -1)
    problem = Problem(
        rows, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight, rows.shape[1], rows.dtype
    )
    terms = np.empty(rows.shape[0], rows.dtype)
    if split_rows_or_elements(rows):
        for i in range(rows.shape[0]):
            terms[i] = long_row(problem, i)
    else:
        in_parallel(lambda a, b: cross_entropy_forward(*problem.rows(a, b), terms[a:b]), pieces(*rows.shape))
    return terms.astype(logits.dtype, copy=False)


def value_and_vjp(
    logits,
    labels,
    *,
    cotangent,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    softcap=None,
    z_loss_weight=0.0,
    out=None,
):
    """The N terms, and the gradient of Σ_i cotangent[i] · term[i]."""
    logits = np.asarray(logits)
    rows, axis = to_rows("logits", logits, -1)
    problem = Problem(
        rows, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight, rows.shape[1], rows.dtype
    )
    terms = np.empty(rows.shape[0], rows.dtype)
    gradient = empty_result(rows, logits, axis, out)
    scales = read_only(np.broadcast_to(np.asarray(cotangent), terms.shape), np.float64)
    streamed = around_caches(gradient)
    if split_rows_or_elements(rows):
        for i in range(rows.shape[0]):
            terms[i] = long_row(problem, i, float(scales[i]), gradient[i], streamed)
    else:
        in_parallel(
            lambda a, b: cross_entropy_forward_and_backward(
                *problem.rows(a, b), terms[a:b], scales[a:b], gradient[a:b], streamed
            ),
            pieces(*rows.shape),
        )
    return terms.astype(logits.dtype, copy=False), finish(gradient, logits, axis, out)


def vjp(
    logits,
    labels,
    *,
    cotangent,
    weight=None,
    ignore_index=-100,
    label_smoothing=0.0,
    softcap=None,
    z_loss_weight=0.0,
    out=None,
):
    """The gradient of Σ_i cotangent[i] · term[i]."""
    return value_and_vjp(
        logits,
        labels,
        cotangent=cotangent,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        softcap=softcap,
        z_loss_weight=z_loss_weight,
        out=out,
    )[1]
