r"""Cross-entropy of logits and integer labels, value and gradient in one sweep over the logits.

Reference
=========
See `cross_entropy_of_a_row`, which has the formulas.

Kernels
=======
Per row one pass for the state, and a second for the gradient while the row is in the cache.
The label's entry is written last. The gradient may be written over the logits. A long row is divided among the
threads (see `cross_entropy_in_parts`).
"""

from functools import cached_property

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.cross_entropy_in_parts import long_row
from lossref.kernels.cross_entropy_of_a_row import (
    gaps_of_others,
    largest_but,
    rest_under_leader,
    seen_number,
    slope_at,
    slope_of_leader,
    slopes_of_row,
    state_without_label,
    term_of_row,
    write_others,
)
from lossref.kernels.lanes import memory_fence
from lossref.kernels.rows import (
    around_caches,
    empty_result,
    finish,
    half_in_parts,
    in_parallel,
    pieces,
    read_only,
    split_rows_or_elements,
    to_rows,
)
from lossref.kernels.streaming_state import finite

__all__ = ["value", "value_and_vjp", "vjp"]


@inlined
def term(row, label, label_weight, weights, sums_of_others, smoothing, z_weight, cap, state):
    gaps = gaps_of_others(row, weights, label, state[0], cap)
    others = 0.0 if weights is None else sums_of_others[label]
    target = seen_number(row, label, cap)
    return term_of_row(row.size, label_weight, others, smoothing, z_weight, target, state, gaps)


@inlined
def write_gradient(
    row, label, label_weight, weights, sums_of_others, smoothing, z_weight, cap, state, scale, gradient, streamed
):
    """gradient = scale · ∂ℓ/∂x."""
    target, slope = seen_number(row, label, cap), slope_at(row, label, cap)
    others = 0.0 if weights is None else sums_of_others[label]
    at_label, factor, share = slopes_of_row(row.size, label_weight, others, smoothing, z_weight, target, state)
    leader, at_leader = -1, 0.0
    if weights is not None and rest_under_leader(target, state) < np.inf:
        leader = largest_but(row, label)
        own, of_others = float(weights[leader]), sums_of_others[leader]
        if own >= of_others:
            at_leader = slope_of_leader(
                row.size, label_weight, own, of_others, smoothing, z_weight, target, state
            ) * slope_at(row, leader, cap)
        else:
            leader = -1
    # What was needed of the row has been read: the gradient may take its place.
    write_others(row, weights, cap, (finite(state[0]), scale * factor, scale * share), gradient, streamed)
    if leader >= 0:
        gradient[leader] = scale * at_leader
    gradient[label] = scale * at_label * slope


@kernel
def cross_entropy_forward(
    logits, labels, keep, label_weights, weights, sums_of_others, smoothing, z_weight, cap, terms
):
    for i in range(logits.shape[0]):
        terms[i] = 0.0
        if keep[i]:
            row, label, options = logits[i], labels[i], (weights, sums_of_others, smoothing, z_weight, cap)
            state = state_without_label(row, label, cap)
            terms[i] = term(row, label, label_weights[i], *options, state)


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
            row, label, options = logits[i], labels[i], (weights, sums_of_others, smoothing, z_weight, cap)
            state = state_without_label(row, label, cap)
            terms[i] = term(row, label, label_weights[i], *options, state)
            write_gradient(row, label, label_weights[i], *options, state, cotangent[i], gradient[i], streamed)
        else:
            terms[i] = 0.0
            gradient[i, :] = 0.0
    memory_fence()


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
        self.weights = None
        if label_smoothing != 0.0:
            self.weights = read_only(np.ones(classes, dtype) if weight is None else weight, dtype)
        self.smoothing, self.z_weight = float(label_smoothing), float(z_loss_weight)
        self.cap = None if softcap is None else float(softcap)

    @cached_property
    def sums_of_others(self):
        """Σ_{k≠c} w_k for each class c, without subtracting: by running sums from both sides, which have more digits
        than a result needs."""
        if self.weights is None:
            return None
        weights, zero = self.weights.astype(np.longdouble), np.zeros(1)
        before = np.concatenate([zero, np.cumsum(weights[:-1])])
        after = np.concatenate([np.cumsum(weights[:0:-1])[::-1], zero])
        return (before + after).astype(np.float64)

    def rows_and_labels(self):
        """What there is of each row."""
        return self.logits, self.labels, self.keep, self.label_weights

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


@half_in_parts
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


@half_in_parts
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
