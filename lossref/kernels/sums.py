r"""Sums over a row that lose nothing on the way.

Reference
=========
    Σ f(x),    or    Σ f(x, y) with y from a second row beside the first

Kernels
=======
Each lane adds up a run of 16 terms (32 in float64). The lanes are then added pairwise until they fill one register,
and go into sums in float64, one in each lane, with what their rounding loses beside them. So no rounding error is
repeated more than 16 times, even where all terms are equal, and 10⁸ terms are as good as 10³. The lanes become one
number at the very end, for that is a chain of additions, each of which waits for the one before.
"""

import numpy as np

from lossref.kernels.compilation import inlined
from lossref.kernels.lanes import BYTES, closed, load, load_tail, prefetch, spread, sum_of, whole, widened, width

__all__ = ["BLOCK", "compensated", "sum_beside", "sum_of_numbers", "sum_over"]

# 16 KB of float32, 32 KB of float64: a block fits into the first cache.
BLOCK = 4096
# So many elements are a run.
RUN = 4 * BYTES


@inlined
def compensated(total, lost, term):
    """total + term, and what the rounding of total has lost so far (Knuth), of numbers or in each lane."""
    added = total + term
    back = added - total
    return added, lost + ((total - (added - back)) + (term - back))


@inlined
def sum_over(step, row, constants, carried):
    """(sum, what it has lost, carried), where (terms, carried) = step(terms, carried, x, constants) takes in lanes x of
    the row; beyond its end they are −∞."""
    total = closed(spread(row, 0.0))
    lost = total
    for start in range(0, row.size, RUN):
        stop = min(start + RUN, row.size)
        terms = spread(row, 0.0)
        for j in range(start, min(stop, whole(row)), width(row)):
            # The next block comes from memory while this one is worked on.
            prefetch(row, j + BLOCK)
            terms, carried = step(terms, carried, load(row, j), constants)
        if whole(row) < stop:
            terms, carried = step(terms, carried, load_tail(row, whole(row), -np.inf), constants)
        total, lost = compensated(total, lost, closed(terms))
    return sum_of(total), sum_of(lost), carried


@inlined
def sum_beside(step, row, beside, constants, zero):
    """(sum, what it has lost), where terms = step(terms, x, y, constants) takes in lanes of both rows, starting from
    `zero`; beyond the end x is −∞ and y is 0."""
    total = closed(zero)
    lost = total
    for start in range(0, row.size, RUN):
        stop = min(start + RUN, row.size)
        terms = zero
        for j in range(start, min(stop, whole(row)), width(row)):
            terms = step(terms, load(row, j), load(beside, j), constants)
        if whole(row) < stop:
            tail, tail_beside = load_tail(row, whole(row), -np.inf), load_tail(beside, whole(row), 0.0)
            terms = step(terms, tail, tail_beside, constants)
        total, lost = compensated(total, lost, closed(terms))
    return sum_of(total), sum_of(lost)


@inlined
def add_number(terms, _, number, constants):
    return terms + widened(number)


@inlined
def sum_of_numbers(row):
    """Σ row[k], in float64: the numbers may have both signs."""
    total, lost = sum_beside(add_number, row, row, None, widened(spread(row, 0.0)))
    return total + lost
