"""Softmax with another function in place of the exponential: q_j = f(x_j) / Σ f(x_k)."""

from fractions import Fraction
from math import factorial

import ml_dtypes
import numpy as np

from lossref.core import Count, NonNegative, Paper, Real, floats, is_exact, like, loss, total, where

SPHERICAL = Paper(
    "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family", 2016, "arXiv:1511.05042"
)


def normalised(f):
    """f / Σ f along the last axis."""
    return f / total(f, keepdims=True)


def normalised_slope(f, df, cotangent):
    """f'(x_j) / S · (ω_j - Σ q_k ω_k), the derivative of Σ ω_k q_k, with ω counted from its value at the largest q."""
    relative = cotangent - np.take_along_axis(cotangent, np.argmax(f, axis=-1)[..., None], axis=-1)
    mass = total(f, keepdims=True)
    return df / mass * ((mass * relative - total(f * relative, keepdims=True)) / mass)


def power_of_two(x):
    """A row's largest number, rounded down to a power of two: divided by it, exactly, its sums cannot overflow."""
    return np.ldexp(like(1, floats(x)), np.frexp(abs(floats(x)).max(axis=-1, keepdims=True))[1] - 1)


def taylor_exp(x, order, scale):
    """Σ_{i ≤ order} x^i / i! divided by scale^order, for x that has been divided by scale already.

    A polynomial of even order is smallest, and its derivative 0, near c = -0.28 order - 0.45. There the terms cancel;
    those of its expansion around c do not.
    """
    centre = Fraction(-round((0.2785 * (order + order % 2) + 0.45) * 8), 8)
    near = _expanded(x, order, scale, centre)
    return where(floats(x * scale) < float(centre) / 2, near, _expanded(x, order, scale, Fraction(0)))


def _expanded(x, order, scale, centre):
    """The same around a centre: Σ_i f_{order-i}(c) (x - c)^i / i!, by Horner's scheme."""
    y, power = x - like(float(centre), scale) / scale, like(1, scale)
    f = _coefficient(order, order, centre, x)
    for i in range(order - 1, -1, -1):
        power = power / scale
        f = _coefficient(order, i, centre, x) * power + y * f
    return f


def _coefficient(order, i, centre, x):
    """f_{order-i}(c) / i!, rounded once for floats and exact for balls."""
    a = sum(centre**k / factorial(k) for k in range(order - i + 1)) / factorial(i)
    if is_exact(x) or x.dtype == np.longdouble:  # a Python float is not enough
        return like(a.numerator, x) / like(a.denominator, x)
    return like(a.numerator / a.denominator, x)


@loss(of="logits", returns="... C", reduces=False, paper=SPHERICAL, symmetries={"row permutation": ()})
def taylor_softmax(logits: Real("... C"), *, order: Count = 2):
    r"""Softmax with a Taylor polynomial of the exponential, of even order, so that it stays positive.

    .. math:: q_j = \frac{f_n(x_j)}{\sum_k f_n(x_k)}, \qquad f_n(x) = \sum_{i=0}^n \frac{x^i}{i!}

    It is not monotone: :math:`f_2` is smallest at x = -1, so pushing a wrong logit below -1 raises its probability.

    Parameters
    ----------
    logits
        Scores of the classes, along the last axis.
    order
        The order n of the polynomial, even.

    Examples
    --------
    >>> x = np.array([2.0, 0.0, -1.0])
    >>> lr.taylor_softmax(x)
    array([0.76923077, 0.15384615, 0.07692308])
    >>> f = 1 + x + x**2 / 2
    >>> f / f.sum()  # the literal formula
    array([0.76923077, 0.15384615, 0.07692308])
    """
    scale = np.maximum(power_of_two(logits), 1)
    return normalised(taylor_exp(logits / scale, order, scale))


@taylor_softmax.gradient
def _(logits, order, cotangent):
    scale = np.maximum(power_of_two(logits), 1)
    f, df = (taylor_exp(logits / scale, n, scale) for n in (order, order - 1))
    return normalised_slope(f, df, cotangent) / scale


@taylor_softmax.requires("order", "an even number")
def _(order):
    return order % 2 == 0


@taylor_softmax.arrange
def _(logits, order):
    return {"order": 2 * ((order + 1) // 2)}


@taylor_softmax.hard
def _(rng, dtype):
    yield from _huge(dtype, 0.6)


@taylor_softmax.obvious
def _(logits):
    f = 1 + logits + logits**2 / 2
    return f / f.sum(axis=-1, keepdims=True)


@loss(
    of="logits",
    returns="... C",
    reduces=False,
    paper=SPHERICAL,
    symmetries={"scale": ("epsilon",), "row permutation": ()},
)
def spherical_softmax(logits: Real("... C"), *, epsilon: NonNegative = 0.0):
    r"""Softmax with a square in place of the exponential.

    .. math:: q_j = \frac{x_j^2 + \epsilon}{\sum_k (x_k^2 + \epsilon)}

    It is blind to the sign of a logit, and to the scale of all of them when ε is 0. A row of zeros then has no value
    and is refused.

    Parameters
    ----------
    logits
        Scores of the classes, along the last axis.
    epsilon
        What keeps a logit of 0 from the probability 0.

    Examples
    --------
    >>> x = np.array([2.0, 0.0, -1.0])
    >>> lr.spherical_softmax(x)
    array([0.8, 0. , 0.2])
    >>> x**2 / (x**2).sum()  # the literal formula
    array([0.8, 0. , 0.2])
    """
    x, scale = _scaled(logits, epsilon)
    return normalised(x * x + epsilon / scale / scale)


@spherical_softmax.gradient
def _(logits, epsilon, cotangent):
    x, scale = _scaled(logits, epsilon)
    return normalised_slope(x * x + epsilon / scale / scale, 2 * x, cotangent) / scale


@spherical_softmax.requires("logits", "an entry other than 0 in every row where epsilon is 0", scans=True)
def _(logits, epsilon):
    return epsilon > 0 or logits.size == 0 or (logits != 0).any(axis=-1).all()


@spherical_softmax.obvious
def _(logits):
    return logits**2 / (logits**2).sum(axis=-1, keepdims=True)


def _scaled(logits, epsilon):
    """Logits divided by the largest number in sight, whose square might overflow; and that number."""
    size = np.maximum(abs(floats(logits)), float(epsilon) ** 0.5)
    scale = power_of_two(size.astype(floats(logits).dtype))
    return logits / scale, scale


@spherical_softmax.hard
def _(rng, dtype):
    yield from _huge(dtype, 0.6)


@loss(
    of="logits",
    returns="... C",
    reduces=False,
    paper=Paper("Grokking at the Edge of Numerical Stability", 2025, "arXiv:2501.04697"),
    symmetries={"row permutation": ()},
)
def stablemax(logits: Real("... C")):
    r"""Softmax with a function that grows like x and decays like -1/x in place of the exponential.

    .. math::
        q_j = \frac{s(x_j)}{\sum_k s(x_k)}, \qquad
        s(x) = \begin{cases} x + 1 & x \ge 0 \\ \frac{1}{1-x} & x < 0 \end{cases}

    Since :math:`\log s(x) = \operatorname{sign}(x) \log(1 + |x|)`, it is the softmax of logits on a logarithmic scale:
    an exponentially larger lead is needed before the other classes vanish in the sum. It is not invariant to a shift.
    The paper's code adds 1e-30 to 1 - x, which changes nothing in floating point.

    Parameters
    ----------
    logits
        Scores of the classes, along the last axis.

    Examples
    --------
    >>> x = np.array([2.0, 0.0, -1.0])
    >>> lr.stablemax(x)
    array([0.66666667, 0.22222222, 0.11111111])
    >>> s = np.where(x >= 0, x + 1, 1 / (1 - x))
    >>> s / s.sum()  # the literal formula
    array([0.66666667, 0.22222222, 0.11111111])
    """
    s = stretched(logits)
    return normalised(s / power_of_two(s))


@stablemax.gradient
def _(logits, cotangent):
    s = stretched(logits)
    scale = power_of_two(s)
    return normalised_slope(s / scale, where(logits >= 0, 1, s * s) / scale, cotangent)


@stablemax.hard
def _(rng, dtype):
    yield from _huge(dtype, 0.999)


@stablemax.obvious
def _(logits):
    s = np.where(logits >= 0, logits + 1, 1 / (1 - logits))
    return s / s.sum(axis=-1, keepdims=True)


def stretched(x):
    """s(x): x + 1 for x ≥ 0, 1/(1 - x) for x < 0."""
    positive = floats(x) >= 0
    return where(positive, x + 1, 1 / (1 - where(positive, 0, x)))


def _huge(dtype, share):
    """Logits whose sum, or whose squares, would overflow."""
    top = np.ldexp(1.0, int(share * min(ml_dtypes.finfo(dtype).maxexp, 1024)))
    yield "logits of great size", {"logits": top * np.array([[0.5, 0.75, -0.25], [1.0, 1.0, 1.0]])}
