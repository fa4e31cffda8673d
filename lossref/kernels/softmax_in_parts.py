r"""The gradient of softmax, of rows of which each part may be elsewhere: with another thread, on another machine.

Reference
=========
    p_j (ω_j − ⟨p, ω⟩),   ⟨p, ω⟩ = ω_* − D / (1 + r),   D = Σ_k e^{x_k − m} (ω_* − ω_k),   * the maximum's index

The summary of a part is its state (m, r), its ω_* (`centre`) and its D (`difference`). Summaries merge: with
m₁ ≥ m₂ the centre is the first one's, and

    D = D₁ + e^{m₂ − m₁} (D₂ + (1 + r₂) (ω_{*1} − ω_{*2}))
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.exponential import scaled_exponential
from lossref.kernels.lanes import is_zero, memory_fence, select, spread, widened
from lossref.kernels.rows import in_parallel, pieces_of_a_row
from lossref.kernels.states import folded
from lossref.kernels.streaming_state import HEADROOM, absorb, finite, index_of, merge
from lossref.kernels.sums import sum_beside
from lossref.kernels.writing import write_beside

__all__ = [
    "SUMMARY",
    "in_two_parts",
    "merged_summaries",
    "probability_times_difference",
    "slopes_of_long_row",
    "summaries",
    "weighted_differences",
    "write_slopes",
]

SUMMARY = np.dtype([("m", np.float64), ("r", np.float64), ("centre", np.float64), ("difference", np.float64)])


@inlined
def add_weighted_difference(terms, x, cotangent, constants):
    shift, centre = constants
    e = scaled_exponential(x - shift, 1.0, -HEADROOM)
    return terms + select(is_zero(e), 0.0, e * (centre - cotangent))


@inlined
def add_wide_weighted_difference(terms, x, cotangent, constants):
    shift, centre = constants
    e = scaled_exponential(x - shift, 1.0, -HEADROOM)
    return terms + select(is_zero(widened(e)), 0.0, widened(e) * (centre - widened(cotangent)))


@inlined
def weighted_differences(row, shift, cotangent, centre):
    """Σ_k e^{row[k] − shift} (centre − cotangent[k])."""
    total, lost = sum_beside(add_weighted_difference, row, cotangent, (shift, centre), spread(row, 0.0))
    if not abs(total) < np.inf:  # cotangents of 1e19 and more overflow
        wide = widened(spread(row, 0.0))
        total, lost = sum_beside(add_wide_weighted_difference, row, cotangent, (shift, centre), wide)
    return (total + lost) * 2.0**-HEADROOM


@inlined
def probability_times_difference(x, cotangent, constants):
    """p_j (ω_j − ⟨p, ω⟩), the mean being high + low."""
    shift, factor, high, low = constants
    return scaled_exponential(x - shift, ((cotangent - high) - low) * factor)


@inlined
def in_two_parts(centre, difference):
    """(high, low) with high + low = centre − difference to twice the precision, high in the dtype of centre."""
    high = type(centre)(float(centre) - difference)
    return float(high), (float(centre) - float(high)) - difference


@kernel
def summarize(part, cotangent, found):
    for i in range(part.shape[0]):
        row, summary = part[i], found[i]
        summary.m, summary.r = absorb(row, -np.inf, 0.0, None)
        centre = cotangent[i, index_of(row, summary.m)]
        summary.centre = centre
        summary.difference = weighted_differences(row, finite(summary.m), cotangent[i], centre)


@kernel
def merge_summaries(one, other, both):
    for i in range(both.size):
        a, b, c = one[i], other[i], both[i]
        c.m, c.r = merge(a.m, a.r, b.m, b.r)
        leads, follows = (a, b) if a.m >= b.m else (b, a)
        shrink = math.exp(follows.m - leads.m) if follows.m > -np.inf else 0.0
        moved = follows.difference + (1.0 + follows.r) * (leads.centre - follows.centre)
        c.centre, c.difference = leads.centre, leads.difference + shrink * moved


@kernel
def write_part(part, cotangent, summaries, result, streamed):
    for i in range(part.shape[0]):
        s, row = summaries[i], part[i]
        high, low = in_two_parts(row.dtype.type(s.centre), s.difference / (1.0 + s.r))
        factor = 1.0 / (1.0 + s.r) if s.m > -np.inf else np.nan
        constants = (finite(s.m), factor, high, low)
        write_beside(probability_times_difference, row, cotangent[i], constants, result[i], streamed)
    memory_fence()


# Launch
# ======


def summaries(part, cotangent):
    """What each row of a part says of its whole row."""
    found = np.empty(part.shape[0], SUMMARY)
    summarize(part, cotangent, found)
    return found


def merged_summaries(parts):
    """One summary a row, of the summaries of all its parts."""

    return folded(merge_summaries, parts)


def write_slopes(part, cotangent, whole, result, streamed=False):
    """The part's gradient, given the summaries of the whole rows."""
    write_part(part, cotangent, whole, result, streamed)


def slopes_of_long_row(row, cotangent, result, streamed):
    """The gradient of one row, its elements divided among the threads."""
    parts = pieces_of_a_row(row.size)
    whole = merged_summaries(in_parallel(lambda a, b: summaries(row[None, a:b], cotangent[None, a:b]), parts))
    in_parallel(
        lambda a, b: write_slopes(row[None, a:b], cotangent[None, a:b], whole, result[None, a:b], streamed), parts
    )
