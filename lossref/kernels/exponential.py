r"""The exponential and the hyperbolic tangent on lanes.

Reference
=========
Numba has no vector exp (`math.exp` in a loop is a scalar call, 20 to 30 times slower), so here is one:

    e^x = 2^n e^t,    n = rint(x log₂e),    t = x − n ln 2,    |t| ≤ ½ ln 2

t is formed by two fused steps, ln 2 being the sum of two numbers; the first step is then exact. e^t is a
polynomial 1 + t + t² Q(t), with Q fitted for the least relative error: 7.7e-8 in float32 (degree 6),
1.3e-16 in float64 (degree 11).

Kernels
=======
*By a table.* Let n count sixteenths, n = k + j/16 with k an integer:

    e^x = 2^k 2^{j/16} e^t,    n = rint(16 x log₂e)/16,    |t| ≤ ln 2/32

In float32 the sixteen numbers 2^{j/16} fill one register of AVX-512, and taking one of them is one instruction. For so
small a t the degree 3 is enough, right to 2e-9. That is 12 operations for 16 numbers, where the polynomial needs 14.

*A term of a sum* needs 10 with its addition: the last multiplication is fused with the addition, and the second step
of t is left out. e^t is then too large by the factor e^{nL}, L = -2e-9 being the second part of ln 2; the rounding of
a difference x − m does 20 times as much.

Without AVX-512, and in float64, it is the polynomial.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from lossref.kernels.compilation import inlined
from lossref.kernels.lanes import (
    HAS_AVX512,
    Lanes,
    absolute,
    exceeds,
    from_table,
    fused_multiply_add,
    larger,
    magnitude_is_infinite,
    power_of_two,
    scale_by_power_of_two,
    select,
)

__all__ = [
    "LOG2_E_FLOAT64",
    "add_exponential",
    "capped",
    "capped_slope",
    "exponential",
    "left_out",
    "no_lower_than_domain",
    "scaled_exponential",
    "shifted_exponential",
]

LOG2_E_FLOAT32 = float.fromhex("0x1.715476p+0")
LN2_HIGH_FLOAT32 = float.fromhex("0x1.62e43p-1")
LN2_LOW_FLOAT32 = float.fromhex("-0x1.05c61p-29")
ROUND_FLOAT32 = 1.5 * 2.0**23
# The lowest number that the reduction takes; e^x has long been 0 there.
LOWEST_FLOAT32 = -131072.0
F2, F3, F4, F5, F6 = (
    float.fromhex(c) for c in ("0x1.0p-1", "0x1.5554dep-3", "0x1.55551ap-5", "0x1.120b62p-7", "0x1.6d10fcp-10")
)

# Adding it rounds to sixteenths, and leaves j in the last four bits.
ROUND_TO_SIXTEENTHS = ROUND_FLOAT32 / 16
ROOTS = tuple(2.0 ** (j / 16) for j in range(16))
# e^t = 1 + t + t² (S2 + S3 t) for |t| ≤ ln 2/32, to 2e-9.
S2, S3 = (float.fromhex(c) for c in ("0x1.000222p-1", "0x1.5555a6p-3"))

LOG2_E_FLOAT64 = float.fromhex("0x1.71547652b82fep+0")
LN2_HIGH_FLOAT64 = float.fromhex("0x1.62e42fefa39efp-1")
LN2_LOW_FLOAT64 = float.fromhex("0x1.abc9e3b39803fp-56")
ROUND_FLOAT64 = 1.5 * 2.0**52
LOWEST_FLOAT64 = -(2.0**41)
D2, D3, D4, D5, D6, D7, D8, D9, D10, D11 = (
    float.fromhex(c)
    for c in (
        "0x1.0000000000001p-1",
        "0x1.5555555555556p-3",
        "0x1.5555555553d68p-5",
        "0x1.11111111109b5p-7",
        "0x1.6c16c17889ef1p-10",
        "0x1.a01a01a7c2efep-13",
        "0x1.a019b9149a41cp-16",
        "0x1.71de0db2f6b19p-19",
        "0x1.28917c89a43a7p-22",
        "0x1.af389ecfc4b9cp-26",
    )
)


INLINE: Any = {"nogil": True, "forceinline": True}


def reduced(x):
    """(n, t) with x = n ln 2 + t. Adding 1.5 · 2^23 (2^52) rounds to an integer, one instruction for two."""
    raise NotImplementedError("for compiled code")


@overload(reduced, jit_options=INLINE)
def reduced_on_lanes(x):
    if not isinstance(x, Lanes):
        return None

    def in_float32(x):
        n = fused_multiply_add(x, LOG2_E_FLOAT32, ROUND_FLOAT32) - ROUND_FLOAT32
        t = fused_multiply_add(n, -LN2_HIGH_FLOAT32, x)
        return n, fused_multiply_add(n, -LN2_LOW_FLOAT32, t)

    def in_float64(x):
        n = fused_multiply_add(x, LOG2_E_FLOAT64, ROUND_FLOAT64) - ROUND_FLOAT64
        t = fused_multiply_add(n, -LN2_HIGH_FLOAT64, x)
        return n, fused_multiply_add(n, -LN2_LOW_FLOAT64, t)

    return in_float32 if x.element is types.float32 else in_float64


@inlined
def coarsely_reduced(x):
    """(r, t) with x = n (ln 2 − L) + t: n is r − ROUND_TO_SIXTEENTHS, j the last four bits of r."""
    r = fused_multiply_add(x, LOG2_E_FLOAT32, ROUND_TO_SIXTEENTHS)
    return r, fused_multiply_add(r - ROUND_TO_SIXTEENTHS, -LN2_HIGH_FLOAT32, x)


def exponential_minus_one_of_reduced(t):
    """e^t − 1 = t + t² Q(t) for |t| ≤ ½ ln 2, with full relative accuracy."""
    raise NotImplementedError("for compiled code")


@overload(exponential_minus_one_of_reduced, jit_options=INLINE)
def exponential_minus_one_of_reduced_on_lanes(t):
    if not isinstance(t, Lanes):
        return None

    def in_float32(t):
        q = fused_multiply_add(t, F6, F5)
        q = fused_multiply_add(q, t, F4)
        q = fused_multiply_add(q, t, F3)
        q = fused_multiply_add(q, t, F2)
        return fused_multiply_add(q, t * t, t)

    def in_float64(t):
        q = fused_multiply_add(t, D11, D10)
        q = fused_multiply_add(q, t, D9)
        q = fused_multiply_add(q, t, D8)
        q = fused_multiply_add(q, t, D7)
        q = fused_multiply_add(q, t, D6)
        q = fused_multiply_add(q, t, D5)
        q = fused_multiply_add(q, t, D4)
        q = fused_multiply_add(q, t, D3)
        q = fused_multiply_add(q, t, D2)
        return fused_multiply_add(q, t * t, t)

    return in_float32 if t.element is types.float32 else in_float64


def exponential_of_reduced(t):
    """e^t for |t| ≤ ½ ln 2."""
    raise NotImplementedError("for compiled code")


@overload(exponential_of_reduced, jit_options=INLINE)
def exponential_of_reduced_on_lanes(t):
    if not isinstance(t, Lanes):
        return None

    def in_float32(t):
        q = fused_multiply_add(t, F6, F5)
        q = fused_multiply_add(q, t, F4)
        q = fused_multiply_add(q, t, F3)
        q = fused_multiply_add(q, t, F2)
        q = fused_multiply_add(q, t, 1.0)
        return fused_multiply_add(q, t, 1.0)

    return in_float32 if t.element is types.float32 else lambda t: exponential_minus_one_of_reduced(t) + 1.0


def no_lower_than_domain(x):
    """x, or where it is lower (a mask, −∞ included) the lowest number that the reduction takes. NaN stays NaN."""
    raise NotImplementedError("for compiled code")


@overload(no_lower_than_domain, jit_options=INLINE)
def no_lower_than_domain_on_lanes(x):
    if not isinstance(x, Lanes):
        return None
    if x.element is types.float32:
        return lambda x: larger(LOWEST_FLOAT32, x)
    return lambda x: larger(LOWEST_FLOAT64, x)


@inlined
def split(number):
    """(f, n) with number = f 2^n and 1 ≤ |f| < 2, or n = 0 (of 0, ∞, NaN). Unlike `math.frexp` it leaves the loops."""
    n = ((np.float64(number).view(np.int64) >> 52) & 2047) - 1023
    n = n if -1023 < n < 1001 else 0
    return number * np.int64((1023 - n) << 52).view(np.float64), float(n)


def scaled_exponential(x, factor, shared=0.0):
    """factor · e^x 2^−shared; e^{−∞} = 0, e^{+∞} is not finite.

    The factor comes before the power of two: a subnormal result is rounded once, and is right to its last bit. A
    factor that is a number, and not lanes, may be of any size.
    """
    raise NotImplementedError("for compiled code")


@overload(scaled_exponential, jit_options=INLINE)
def scaled_exponential_on_lanes(x, factor, shared=0.0):
    if not isinstance(x, Lanes):
        return None

    def by_table(x, factor, shared=0.0):
        significand, up = split(factor)
        r, t = coarsely_reduced(no_lower_than_domain(x))
        t = fused_multiply_add(r - ROUND_TO_SIXTEENTHS, -LN2_LOW_FLOAT32, t)
        p = fused_multiply_add(t, S3, S2)
        p = fused_multiply_add(p, t, 1.0)
        root = from_table(ROOTS, significand, r)
        return scale_by_power_of_two(fused_multiply_add(p * t, root, root), r - (ROUND_TO_SIXTEENTHS + shared - up))

    def by_polynomial(x, factor, shared=0.0):
        significand, up = split(factor)
        return times_exponential(significand, x, shared - up)

    if isinstance(factor, Lanes):
        return lambda x, factor, shared=0.0: times_exponential(factor, x, shared)
    return by_table if HAS_AVX512 and x.element is types.float32 else by_polynomial


@inlined
def times_exponential(factor, x, shared):
    n, t = reduced(no_lower_than_domain(x))
    minus_one = exponential_minus_one_of_reduced(t)
    return scale_by_power_of_two(fused_multiply_add(minus_one, factor, factor), n - shared)


def add_exponential(total, x, up, shared):
    """total + e^x 2^{up − shared}, where a term e^x = 2^n may be too large by 2^{n `left_out`}. A constant `up` costs
    nothing."""
    raise NotImplementedError("for compiled code")


@overload(add_exponential, jit_options=INLINE)
def add_exponential_on_lanes(total, x, up, shared):
    if not isinstance(x, Lanes):
        return None

    def by_table(total, x, up, shared):
        r, t = coarsely_reduced(no_lower_than_domain(x))
        p = fused_multiply_add(t, S3, S2)
        p = fused_multiply_add(p, t, 1.0)
        p = fused_multiply_add(p, t, 1.0)
        root = scale_by_power_of_two(from_table(ROOTS, 2.0**up, r), r - (ROUND_TO_SIXTEENTHS + shared))
        return fused_multiply_add(p, root, total)

    def by_polynomial(total, x, up, shared):
        n, t = reduced(no_lower_than_domain(x))
        return fused_multiply_add(exponential_of_reduced(t), power_of_two(n, shared - up), total)

    return by_table if HAS_AVX512 and x.element is types.float32 else by_polynomial


def left_out(row):
    """By how much n the terms of `add_exponential` are too large, relative to n, in a row of this dtype."""
    raise NotImplementedError("for compiled code")


@overload(left_out, jit_options=INLINE)
def left_out_for_rows(row):
    if HAS_AVX512 and row.dtype is types.float32:
        return lambda row: LN2_LOW_FLOAT32 * LOG2_E_FLOAT64
    return lambda row: 0.0


@inlined
def shifted_exponential(x, constants):
    """The formula of most last passes: factor · e^{x − shift}."""
    shift, factor = constants
    return scaled_exponential(x - shift, factor)


@inlined
def exponential(x):
    """e^x for x ≤ 88 (709 in float64), subnormal results included; e^{−∞} = 0, e^{+∞} is not finite."""
    return scaled_exponential(x, 1.0)


# The soft-cap u = c tanh(x/c). With E = e^{−2|x|/c} − 1, which the polynomial gives with full relative
# accuracy near 0, tanh(|x|/c) = −E/(2 + E). A mask stays a mask: −∞ is not capped (and +∞ stays what it is,
# so that it is found out).


@inlined
def capped(x, cap):
    """c tanh(x/c), for lanes and a number c > 0."""
    n, t = reduced(no_lower_than_domain(absolute(x) * (-2.0 / cap)))
    power = scale_by_power_of_two(t * 0.0 + 1.0, n)
    minus_one = fused_multiply_add(power, exponential_minus_one_of_reduced(t), power - 1.0)
    magnitude = -minus_one / (minus_one + 2.0) * cap
    signed = select(exceeds(0.0, x), -magnitude, magnitude)
    return select(magnitude_is_infinite(x), x, signed)


@inlined
def capped_slope(x, cap):
    """The derivative of the soft-cap, sech²(x/c) = 4q/(1 + q)² with q = e^{−2|x|/c}: never 1 − tanh²."""
    q = exponential(absolute(x) * (-2.0 / cap))
    return q * 4.0 / ((q + 1.0) * (q + 1.0))
