r"""Cross-entropy of rows of which each part is elsewhere: with another thread, or on another machine.

Reference
=========
A part of a row (some consecutive classes) is summarised by a few numbers. The summaries of two parts give that of
their union, in any order: a monoid, with the streaming state in it. From the summary of a whole row come its term and
the few numbers that each part needs to write its gradient. So each part is read twice, and nothing but summaries
travels.

    m, r                     the state of the logits, the label's left out
    target, target_slope     u_y and du/dx there, if the label lies in the part; −∞ and 0 if not
    gaps, weight             Σ w_k (m − u_k) and Σ w_k, the label left out (0 where nothing is smoothed)
    leader, leader_slope, leader_weight, weight_of_led
                             the class of the largest logit (−1: nobody leads), du/dx and w there, Σ of the other w
"""

from typing import NamedTuple

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.cross_entropy_of_a_row import (
    gaps_of_others,
    largest_but,
    lead_of_others,
    rest_under_leader,
    seen_number,
    slope_at,
    slope_of_leader,
    slopes_of_row,
    state_of_others,
    term_of_row,
    without,
    write_others,
)
from lossref.kernels.lanes import memory_fence
from lossref.kernels.rows import in_parallel, pieces_of_a_row
from lossref.kernels.states import folded
from lossref.kernels.streaming_state import finite, merge
from lossref.kernels.sums import sum_of_numbers

__all__ = [
    "SLOPES",
    "SUMMARY",
    "Options",
    "long_row",
    "merged_summaries",
    "slopes",
    "summaries",
    "terms",
    "write_gradient",
]

SUMMARY = np.dtype(
    [
        ("m", np.float64),
        ("r", np.float64),
        ("target", np.float64),
        ("target_slope", np.float64),
        ("gaps", np.float64),
        ("weight", np.float64),
        ("leader", np.int64),
        ("leader_slope", np.float64),
        ("leader_weight", np.float64),
        ("weight_of_led", np.float64),
    ]
)

#: What a part needs to write a row's gradient. The label's and the leader's places are written last.
SLOPES = np.dtype(
    [
        ("shift", np.float64),
        ("factor", np.float64),
        ("share", np.float64),
        ("label", np.int64),
        ("at_label", np.float64),
        ("leader", np.int64),
        ("at_leader", np.float64),
    ]
)


@kernel
def summarize(part, first, labels, keep, weights, cap, found):
    """found[i] = the summary of row i of the part, whose first class is number `first` of the whole row."""
    for i in range(part.shape[0]):
        row, label, summary = part[i], labels[i] - first, found[i]
        here = 0 <= label < row.size
        if not keep[i]:
            row = row[:0]
        summary.m, summary.r = state_of_others(row, label, cap)
        summary.target, summary.target_slope = -np.inf, 0.0
        if here and keep[i]:
            summary.target, summary.target_slope = seen_number(row, label, cap), slope_at(row, label, cap)
        summary.gaps, summary.weight = 0.0, 0.0
        summary.leader, summary.leader_slope = -1, 0.0
        summary.leader_weight, summary.weight_of_led = 0.0, 0.0
        if weights is not None and keep[i]:
            summary.gaps = gaps_of_others(row, weights, label, summary.m, cap)
            before, after = without(weights, label)
            summary.weight = sum_of_numbers(before) + sum_of_numbers(after)
            summary.weight_of_led = summary.weight
            # Where nobody leads the part, nobody in it leads the row.
            if summary.r < 0.5 and summary.m > -np.inf:
                leader = largest_but(row, label)
                summary.leader, summary.leader_slope = first + leader, slope_at(row, leader, cap)
                summary.leader_weight = weights[leader]
                low, high = min(leader, label), max(leader, label)
                before, after = without(weights, low)
                between, after = without(after, high - max(low + 1, 0))
                summary.weight_of_led = sum_of_numbers(before) + sum_of_numbers(between) + sum_of_numbers(after)


@kernel
def merge_summaries(one, other, both):
    for i in range(both.size):
        a, b, c = one[i], other[i], both[i]
        c.m, c.r = merge(a.m, a.r, b.m, b.r)
        c.target, c.target_slope = max(a.target, b.target), a.target_slope + b.target_slope
        if not (a.target == a.target and b.target == b.target):
            c.target = np.nan
        c.weight = a.weight + b.weight
        c.gaps = a.gaps + a.weight * (finite(c.m) - finite(a.m)) + b.gaps + b.weight * (finite(c.m) - finite(b.m))
        leads, follows = (a, b) if a.m >= b.m else (b, a)
        c.leader, c.leader_slope, c.leader_weight = leads.leader, leads.leader_slope, leads.leader_weight
        c.weight_of_led = leads.weight_of_led + follows.weight


@inlined
def state_of(summary):
    return summary.m, summary.r, lead_of_others(summary.m, summary.r, summary.target)


@kernel
def terms_of(summaries, keep, label_weights, classes, smoothing, z_weight, found):
    for i in range(summaries.size):
        found[i] = 0.0
        if keep[i]:
            s = summaries[i]
            found[i] = term_of_row(
                classes, label_weights[i], s.weight, smoothing, z_weight, s.target, state_of(s), s.gaps
            )


@kernel
def slopes_of(summaries, labels, label_weights, classes, smoothing, z_weight, scales, found):
    for i in range(summaries.size):
        s, slope, weight = summaries[i], found[i], label_weights[i]
        state = state_of(s)
        at_label, factor, share = slopes_of_row(classes, weight, s.weight, smoothing, z_weight, s.target, state)
        slope.shift, slope.factor, slope.share = finite(s.m), scales[i] * factor, scales[i] * share
        slope.label, slope.at_label = labels[i], scales[i] * at_label * s.target_slope
        slope.leader, slope.at_leader = -1, 0.0
        own, others = s.leader_weight, s.weight_of_led + weight
        if smoothing != 0.0 and s.leader >= 0 and own >= others and rest_under_leader(s.target, state) < np.inf:
            slope.leader = s.leader
            slope.at_leader = slope_of_leader(classes, weight, own, others, smoothing, z_weight, s.target, state)
            slope.at_leader *= scales[i] * s.leader_slope


@kernel
def write_part(part, first, keep, slopes, weights, cap, gradient, streamed):
    for i in range(part.shape[0]):
        if keep[i]:
            s = slopes[i]
            write_others(part[i], weights, cap, (s.shift, s.factor, s.share), gradient[i], streamed)
            if first <= s.leader < first + part.shape[1]:
                gradient[i, s.leader - first] = s.at_leader
            if first <= s.label < first + part.shape[1]:
                gradient[i, s.label - first] = s.at_label
        else:
            gradient[i, :] = 0.0
    memory_fence()


# Launch
# ======


class Options(NamedTuple):
    """What is the same for all parts."""

    classes: int
    smoothing: float
    z_weight: float
    cap: float | None


def summaries(part, first, labels, keep, weights, options):
    """What each row of a part says of its whole row. Labels are numbered in the whole row, of which the part has the
    classes from number `first` on; `keep` is False for the rows that are ignored."""
    found = np.empty(labels.size, SUMMARY)
    summarize(part, first, labels, keep, weights, options.cap, found)
    return found


def merged_summaries(parts):
    """One summary a row, of the summaries of all its parts."""

    return folded(merge_summaries, parts)


def terms(whole, keep, label_weights, options):
    """The term of each row, in float64."""
    found = np.empty(whole.size)
    terms_of(whole, keep, label_weights, options.classes, options.smoothing, options.z_weight, found)
    return found


def slopes(whole, labels, label_weights, scales, options):
    """What the parts need to write scales[i] times the gradient of term i."""
    found = np.empty(whole.size, SLOPES)
    slopes_of(whole, labels, label_weights, options.classes, options.smoothing, options.z_weight, scales, found)
    return found


def write_gradient(part, first, keep, slopes, weights, options, gradient, streamed=False):
    """The part's gradient, written to `gradient`, which may be the part itself."""
    write_part(part, first, keep, slopes, weights, options.cap, gradient, streamed)


def long_row(problem, i, scale=None, gradient=None, streamed=False):
    """The term of row i of a `cross_entropy.Problem`, the classes divided among the threads; its gradient times
    `scale` is written to `gradient`, if there is one."""
    row, labels, keep, label_weights = (array[i : i + 1] for array in problem.rows_and_labels())
    options = Options(row.shape[1], problem.smoothing, problem.z_weight, problem.cap)
    parts = pieces_of_a_row(row.shape[1])

    def weights(a, b):
        return None if problem.weights is None else problem.weights[a:b]

    found = in_parallel(lambda a, b: summaries(row[:, a:b], a, labels, keep, weights(a, b), options), parts)
    whole = merged_summaries(found)
    if gradient is not None:
        at = slopes(whole, labels, label_weights, np.array([scale]), options)
        in_parallel(
            lambda a, b: write_gradient(
                row[:, a:b], a, keep, at, weights(a, b), options, gradient[None, a:b], streamed
            ),
            parts,
        )
    return terms(whole, keep, label_weights, options)[0]
