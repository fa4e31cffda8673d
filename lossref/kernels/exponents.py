r"""A sum of exponentials held as mantissa and exponent: no maximum is needed.

Reference
=========
Every e^x is a pair (μ, n) meaning μ 2^n, with n an integer that is *stored as a
floating-point number*, so that it cannot overflow for any sensible x. Pairs are added by

    (μ₁, n₁) + (μ₂, n₂) = (μ₁ 2^{n₁ − n} + μ₂ 2^{n₂ − n}, n),   n = max(n₁, n₂)

and both scale factors are at most 1. This too is a monoid, with the identity (0, −huge).

Domain: the product x log₂e is rounded, so the reduction is right for |x| ≤ 131072 in float32 (2^41 in
float64) and garbage far beyond. Masks below −131072 (−2^41), −∞ included, are raised to that number, and
add 0 to every sum within `EXPONENT_LIMIT`.

Kernels
=======
The sum is taken a run of numbers at a time. All lanes of a run share one exponent, that of
the sum so far, so an addition is one multiplication by a power of two and one addition. Should a run
overflow (the row has jumped by 2^100), it is added up again with an exponent in each lane, which cannot.

In float32 the reduction of a term leaves out the second of its two steps, which would multiply the term by
e^{−nL}, L = -2e-9. The terms that matter have nearly the same n, and so their sum is multiplied instead, once.
13 operations for 16 numbers remain. (In float64, L would not be as small beside a rounding.)
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from lossref.kernels.compilation import inlined
from lossref.kernels.exponential import (
    INLINE,
    LN2_LOW_FLOAT32,
    add_exponential,
    coarsely_reduced,
    exponential_of_reduced,
    no_lower_than_domain,
    reduced,
)
from lossref.kernels.lanes import (
    larger,
    largest_of,
    load,
    load_tail,
    scale_by_power_of_two,
    spread,
    sum_of,
    whole,
    width,
)
from lossref.kernels.sums import BLOCK, compensated, sum_over

__all__ = ["EXPONENT_LIMIT", "add_pairs", "exponential_over_sum", "sum_of_pairs"]

# The exponent is looked after once for so many numbers.
PART = 4 * BLOCK
# No exponent of a number in the domain is as low as this.
LOWEST = -1e13
# A sum of a run above this may have overflowed in a lane.
OVERFLOWED = 2.0**120
# A sum above this has left the exponent that the lanes share behind.
OUTGROWN = 2.0**32

#: The exponent of a sum must lie within ± this; otherwise (NaN included) the sum is not to be trusted.
EXPONENT_LIMIT = {np.dtype(np.float32): 94548.0, np.dtype(np.float64): 2.0**40}


def last_part_of_ln2(row):
    """What `coarsely_reduced` leaves out of ln 2 for a row of this dtype."""
    raise NotImplementedError("for compiled code")


@overload(last_part_of_ln2, jit_options=INLINE)
def last_part_of_ln2_for_rows(row):
    if row.dtype is types.float32:
        return lambda row: LN2_LOW_FLOAT32
    return lambda row: 0.0


@inlined
def add_pairs(mantissa1, n1, mantissa2, n2):
    """The sum of two pairs of numbers, in float64. NaN in a mantissa stays."""
    n = max(n1, n2)
    return mantissa1 * np.exp2(n1 - n) + mantissa2 * np.exp2(n2 - n), n


@inlined
def sum_of_pairs(row):
    """(μ, n) with Σ e^x = μ 2^n over the row, in one pass."""
    # The exponent that the lanes share: at first, that of the largest number of the row's beginning.
    n = float(largest_of(coarsely_reduced(no_lower_than_domain(beginning(row)))[0]))
    mantissa, lost = 0.0, 0.0
    for start in range(0, row.size, PART):
        part = row[start : min(start + PART, row.size)]
        closed = sum_with_shared_exponent(part, n)
        # (Not even positive: an x far beyond the domain.)
        if 0.0 <= closed < OVERFLOWED:
            mantissa, lost = compensated(mantissa, lost, closed)
        else:
            mantissa, n = add_pairs(mantissa + lost, n, *sum_with_exponent_in_each_lane(part))
            lost = 0.0
        if mantissa > OUTGROWN:
            mantissa, moved = math.frexp(mantissa)
            lost = math.ldexp(lost, -moved)
            n += moved
    # What every reduction has left out, taken at the exponent of the terms that matter.
    mantissa, moved = math.frexp((mantissa + lost) * math.exp(-n * last_part_of_ln2(row)))
    return mantissa, n + moved


@inlined
def beginning(row):
    return load(row, 0) if whole(row) > 0 else load_tail(row, 0, -np.inf)


@inlined
def pair(x):
    """(μ, n) with e^x = μ 2^n but for what the coarse reduction leaves out."""
    n, t = coarsely_reduced(no_lower_than_domain(x))
    return exponential_of_reduced(t, 1.0), n


@inlined
def add_with_shared_exponent(terms, nothing, x, shared):
    return add_exponential(terms, x, 1.0, shared), nothing


@inlined
def sum_with_shared_exponent(part, shared):
    """Σ e^x 2^−shared; infinite or NaN where that is out of range."""
    total, lost, _ = sum_over(add_with_shared_exponent, part, shared, None)
    return total + lost


@inlined
def sum_with_exponent_in_each_lane(part):
    """(μ, n) with Σ e^x = μ 2^n."""
    total, n = spread(part, 0.0), spread(part, LOWEST)
    for j in range(0, whole(part), width(part)):
        total, n = add_exponentials(total, n, load(part, j))
    if whole(part) < part.size:
        total, n = add_exponentials(total, n, load_tail(part, whole(part), -np.inf))
    highest = float(largest_of(n))
    return sum_of(scale_by_power_of_two(total, n - highest)), highest


@inlined
def add_exponentials(total, n, x):
    """The pairs (total, n) + e^x, in each lane."""
    mantissa, exponent = pair(x)
    highest = larger(exponent, n)
    return (
        scale_by_power_of_two(total, n - highest) + scale_by_power_of_two(mantissa, exponent - highest),
        highest,
    )


@inlined
def exponential_over_sum(x, constants):
    """e^x / (μ 2^n), given (1/μ, n)."""
    inverse, n = constants
    exponent, t = reduced(no_lower_than_domain(x))
    return scale_by_power_of_two(exponential_of_reduced(t, inverse), exponent - n)
