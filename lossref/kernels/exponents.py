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
The numbers of a part of the row share one exponent, that of the sum so far, so an addition is one multiplication by
a power of two and one addition. Should a part overflow (the row has jumped by 2^100), it is added up again, with the
exponent of its largest number.

What the terms of a sum have too much (see `exponential`) grows with their exponents. Those that matter have nearly the
same one, and so their sum is divided by it, once.
"""

import math

import numpy as np

from lossref.kernels.compilation import inlined
from lossref.kernels.exponential import (
    LOG2_E_FLOAT64,
    add_exponential,
    left_out,
    no_lower_than_domain,
    scaled_exponential,
)
from lossref.kernels.lanes import largest_of, spread, width
from lossref.kernels.streaming_state import largest
from lossref.kernels.sums import BLOCK, compensated, sum_over

__all__ = ["EXPONENT_LIMIT", "add_pairs", "exponential_over_sum", "sum_of_pairs"]

# The exponent is looked after once for so many numbers.
PART = 4 * BLOCK
# A sum of a part above this may have overflowed in a lane.
OVERFLOWED = 2.0**120
# A sum above this has left the exponent that the lanes share behind.
OUTGROWN = 2.0**32

#: The exponent of a sum must lie within ± this; otherwise (NaN included) the sum is not to be trusted.
EXPONENT_LIMIT = {np.dtype(np.float32): 94548.0, np.dtype(np.float64): 2.0**40}


@inlined
def add_pairs(mantissa1, n1, mantissa2, n2):
    """The sum of two pairs of numbers, in float64. NaN in a mantissa stays."""
    n = max(n1, n2)
    return mantissa1 * np.exp2(n1 - n) + mantissa2 * np.exp2(n2 - n), n


@inlined
def exponent_of_largest(row):
    """n of the row's largest e^x = μ 2^n."""
    top = no_lower_than_domain(spread(row, largest(row, None)))
    return np.rint(float(largest_of(top)) * LOG2_E_FLOAT64)


@inlined
def sum_of_pairs(row):
    """(μ, n) with Σ e^x = μ 2^n over the row, in one pass."""
    n = exponent_of_largest(row[: min(width(row), row.size)])
    mantissa, lost = 0.0, 0.0
    for start in range(0, row.size, PART):
        part = row[start : min(start + PART, row.size)]
        total = sum_with_shared_exponent(part, n)
        # (Not even positive: an x far beyond the domain.)
        if 0.0 <= total < OVERFLOWED:
            mantissa, lost = compensated(mantissa, lost, total)
        else:
            own = exponent_of_largest(part)
            mantissa, n = add_pairs(mantissa + lost, n, sum_with_shared_exponent(part, own), own)
            lost = 0.0
        if mantissa > OUTGROWN:
            mantissa, moved = math.frexp(mantissa)
            lost = math.ldexp(lost, -moved)
            n += moved
    # What the terms have too much, at the exponent of those that matter.
    mantissa, moved = math.frexp((mantissa + lost) * np.exp2(-n * left_out(row)))
    return mantissa, n + moved


@inlined
def add_term(terms, nothing, x, shared):
    return add_exponential(terms, x, 0, shared), nothing


@inlined
def sum_with_shared_exponent(part, shared):
    """Σ e^x 2^−shared; infinite or NaN where that is out of range."""
    total, lost, _ = sum_over(add_term, part, shared, None)
    return total + lost


@inlined
def exponential_over_sum(x, constants):
    """e^x / (μ 2^n), given (1/μ, n)."""
    inverse, n = constants
    return scaled_exponential(x, inverse, n)
