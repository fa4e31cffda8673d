r"""Cross-entropy of one row of logits and its label: the formulas.

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

This file has the formulas of one row; `cross_entropy` and `cross_entropy_in_parts` have the kernels.
"""

import numpy as np

from lossref.kernels.compilation import inlined
from lossref.kernels.exponential import capped_slope, scaled_exponential
from lossref.kernels.lanes import (
    first_lane,
    fused_multiply_add,
    is_zero,
    magnitude_is_infinite,
    select,
    spread,
)
from lossref.kernels.streaming_state import absorb, finite, seen
from lossref.kernels.sums import sum_beside
from lossref.kernels.writing import write, write_beside

__all__ = [
    "gaps_of_others",
    "largest_but",
    "lead_of_others",
    "logistic",
    "rest_under_leader",
    "seen_number",
    "slope_at",
    "slope_of_leader",
    "slopes_of_row",
    "state_of_others",
    "state_without_label",
    "term_of_row",
    "without",
    "write_others",
]


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
def add_weighted_gap(terms, x, weight, constants):
    m, cap = constants
    return terms + select(is_zero(weight), 0.0, weight * (m - seen(x, cap)))


@inlined
def weighted_gaps(row, weights, m, cap):
    """Σ_k weights[k] (m − u_k)."""
    total, lost = sum_beside(add_weighted_gap, row, weights, (m, cap), spread(row, 0.0))
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
def smoothing_term(weight, sum_of_other_weights, r, d, gaps):
    """Σ_k w_k (−log p_k), given the label's weight and Σ_{k≠y} w_k (m − u_k)."""
    term = weighted(weight, softplus(d))
    if sum_of_other_weights > 0.0:
        to_sum = np.log1p(r) + softplus(-d)  # L − m
        term += gaps + sum_of_other_weights * to_sum
    return term


@inlined
def term_of_row(classes, label_weight, others, smoothing, z_weight, target, state, gaps):
    """ℓ, given Σ_{k≠y} w_k (`others`), u_y (`target`), the state (m, r, d) and Σ_{k≠y} w_k (m − u_k) (`gaps`)."""
    m, r, d = state
    value = weighted((1.0 - smoothing) * label_weight, softplus(d))
    if smoothing != 0.0:
        value += smoothing / classes * smoothing_term(label_weight, others, r, d, gaps)
    if z_weight != 0.0:
        value += z_weight * label_weight * log_sum(m, r, d, target) ** 2
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
    return fused_multiply_add(weight, -share, plain(x, (m, factor)))


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
def slopes_of_row(classes, label_weight, others, smoothing, z_weight, target, state):
    """(∂ℓ/∂u_y, the common factor of the other classes' gradients, the share ε/C)."""
    _, r, d = state
    wrong, right = logistic(d), logistic(-d)  # 1 − p_y and p_y
    share, hard = smoothing / classes, (1.0 - smoothing) * label_weight
    z_part = part_of_z_term(label_weight, z_weight, target, state)
    at_label = -hard * wrong + z_part * right + share * (right * others - label_weight * wrong)
    total = hard + z_part + share * (label_weight + others)
    return at_label, total * wrong / (1.0 + r), share


@inlined
def part_of_z_term(label_weight, z_weight, target, state):
    m, r, d = state
    return 2.0 * z_weight * label_weight * log_sum(m, r, d, target) if z_weight != 0.0 else 0.0


@inlined
def rest_under_leader(target, state):
    """Σ_{k≠*} e^{u_k − m}, where the wrong class * leads (p_* > 2/3); else +∞."""
    m, r, _ = state
    rest = r + np.exp(min(target - m, 0.0))
    return rest if target <= m and rest < 0.5 and m > -np.inf else np.inf


@inlined
def slope_of_leader(classes, label_weight, own, others, smoothing, z_weight, target, state):
    """∂ℓ/∂u_k of a wrong class that leads and bears most of the class weight: own ≥ others = Σ_{j≠k} w_j.

    Its p_k Σw − w_k is a difference of two nearly equal numbers: p_k (Σw − w_k) − w_k (1 − p_k) is not.
    """
    rest = rest_under_leader(target, state)
    right, wrong = 1.0 / (1.0 + rest), rest / (1.0 + rest)
    at_others = (1.0 - smoothing) * label_weight + part_of_z_term(label_weight, z_weight, target, state)
    return at_others * right + smoothing / classes * (right * others - own * wrong)


@inlined
def largest_but(row, label):
    """The place of the row's first largest number, the label's apart (−1 if there is none above −∞)."""
    leader, top = -1, -np.inf
    for k in range(row.size):
        if k != label and row[k] > top:
            leader, top = k, row[k]
    return leader


@inlined
def write_others(row, weights, cap, constants, gradient, streamed):
    """The gradient of the classes other than the label, written over the label's place too."""
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
