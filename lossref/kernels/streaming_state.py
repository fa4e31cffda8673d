r"""Log-sum-exp as a monoid: the accurate streaming state.

Reference
=========
The state (m, r) of a set of numbers stands for Σ e^x = e^m (1 + r): m is the maximum,
and the maximum's own 1 is left out of r. So a row in which one number leads by 40 keeps all the digits of r
= 1e-18, which 1 + r would lose.

    identity   (−∞, 0)
    element    x ↦ (x, 0)
    merge      for m₁ ≥ m₂:  (m₁, r₁ + (1 + r₂) e^{m₂ − m₁})
    result     log Σ e^x = m + log1p(r)

The merge is associative and commutative, so the numbers may be taken in any order and any grouping: lanes,
blocks, threads. NaN or +∞ among the numbers makes r NaN. A set of −∞ alone (every class masked) is the
identity.

Kernels
=======
`absorb` takes in a row block by block. It adds Σ e^{x−m} for the maximum m so far and looks
for a larger number at the same time. Only if there is one (or one as large), the block is taken again:
first its maximum, then the sum without that maximum's own 1. It is still in the first cache then, so memory
is read once, and the state is rescaled at most once a block, not once an element.
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined, kernel
from lossref.kernels.exponential import add_exponential, capped
from lossref.kernels.lanes import (
    is_zero,
    larger,
    largest_of,
    load,
    load_tail,
    select,
    spread,
    sum_of,
    whole,
    width,
)
from lossref.kernels.rows import in_parallel, pieces_of_a_row
from lossref.kernels.sums import BLOCK, compensated, sum_over

__all__ = [
    "IDENTITY",
    "absorb",
    "finite",
    "index_of",
    "largest",
    "merge",
    "merged",
    "seen",
    "state_and_leader_of_long_row",
    "state_of_long_row",
    "sum_of_exponentials",
]

#: The state of no number at all.
IDENTITY = (-math.inf, 0.0)

# The terms are added up 2^64 times too large, which costs nothing: where every other number trails by 90 or
# more, they would be subnormal float32 with only a few digits.
HEADROOM = 64


@inlined
def merge(m1, r1, m2, r2):
    """The state of the union of two sets."""
    if m1 >= m2:
        return m1, r1 + ((1.0 + r2) * math.exp(m2 - m1) if m2 > -np.inf else r2)
    if m2 > m1:
        return m2, r2 + ((1.0 + r1) * math.exp(m1 - m2) if m1 > -np.inf else r1)
    return np.nan, np.nan


@inlined
def seen(x, cap):
    """The logit that the loss sees: x, or c tanh(x/c) under a soft-cap."""
    return x if cap is None else capped(x, cap)


@inlined
def finite(m):
    """What to subtract from numbers whose maximum is m: not −∞, since −∞ − (−∞) is NaN."""
    return m if m > -np.inf else 0.0


@inlined
def largest(row, cap):
    """The largest number of the row; NaN is passed over, `sum_of_exponentials` will meet it."""
    top = spread(row, -np.inf)
    for j in range(0, whole(row), width(row)):
        top = larger(load(row, j), top)
    if whole(row) < row.size:
        top = larger(load_tail(row, whole(row), -np.inf), top)
    # The cap is increasing: capping the largest is the largest of the capped.
    return float(largest_of(seen(spread(row, largest_of(top)), cap)))


@inlined
def add(terms, nothing, x, constants):
    shift, cap = constants
    return add_exponential(terms, seen(x, cap) - shift, HEADROOM, 0.0), nothing


@inlined
def add_and_compare(terms, top, x, constants):
    shift, cap = constants
    u = seen(x, cap)
    return add_exponential(terms, u - shift, HEADROOM, 0.0), larger(u, top)


@inlined
def add_or_count(terms, leaders, x, constants):
    shift, cap = constants
    difference = seen(x, cap) - shift
    leads = is_zero(difference)
    others = add_exponential(terms, difference, HEADROOM, 0.0)
    return select(leads, terms, others), select(leads, leaders + 1.0, leaders)


@inlined
def sum_of_exponentials(row, shift, cap):
    """Σ e^{x − shift}."""
    total, lost, _ = sum_over(add, row, (shift, cap), None)
    return (total + lost) * 2.0**-HEADROOM


@inlined
def sum_and_largest(block, shift, cap):
    """(Σ e^{x − shift}, max x) in one go: right as long as no x exceeds the shift by much."""
    total, lost, top = sum_over(add_and_compare, block, (shift, cap), spread(block, -np.inf))
    return (total + lost) * 2.0**-HEADROOM, float(largest_of(top))


@inlined
def sum_without_leaders(block, shift, cap):
    """(Σ e^{x − shift} over x ≠ shift, the number of x equal to shift)."""
    total, lost, leaders = sum_over(add_or_count, block, (shift, cap), spread(block, 0.0))
    return (total + lost) * 2.0**-HEADROOM, sum_of(leaders)


@inlined
def absorb(row, m, r, cap):
    """The state (m, r) after the numbers of the row."""
    lost = 0.0
    for start in range(0, row.size, BLOCK):
        block = row[start : min(start + BLOCK, row.size)]
        added, top = 0.0, m
        if m > -np.inf:
            # Most blocks of a long row hold no new maximum: one look at them is enough.
            added, top = sum_and_largest(block, m, cap)
        if not top < m:
            top = largest(block, cap)
            leaders = 0.0
            if top > m:
                shrink = math.exp(m - top)
                r, lost = (1.0 + r) * shrink, lost * shrink
                m, leaders = top, 1.0
            others, equal = sum_without_leaders(block, finite(m), cap)
            added = others + (equal - leaders)
        r, lost = compensated(r, lost, added)
    return m, r + lost


@inlined
def index_of(row, number):
    """The first place of `number` in the row (0 if it is not there)."""
    for j in range(row.size):
        if row[j] == number:
            return j
    return 0


@kernel
def state_of_piece(piece):
    """The state (m, r) of a part of a row."""
    return absorb(piece, -np.inf, 0.0, None)


@kernel
def index_in_piece(piece, number):
    return index_of(piece, number)


def states_of_pieces(row):
    """The states of the parts of a row that different threads take in."""
    return in_parallel(lambda start, stop: state_of_piece(row[start:stop]), pieces_of_a_row(row.size))


def merged(states):
    """One state of several."""
    m, r = IDENTITY
    for state in states:
        m, r = merge.py_func(m, r, *state)
    return m, r


def state_of_long_row(row):
    """The state of a row, its parts taken in by different threads and merged."""
    return merged(states_of_pieces(row))


def state_and_leader_of_long_row(row):
    """The same, and the first place of the maximum, which only the part that has it is searched for."""
    states = states_of_pieces(row)
    m, r = merged(states)
    for (start, stop), state in zip(pieces_of_a_row(row.size), states, strict=True):
        if state[0] == m:
            return m, r, start + index_in_piece(row[start:stop], m)
    return m, r, 0
