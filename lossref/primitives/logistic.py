"""The logistic function and its relatives, with full relative accuracy in both tails.

Each is one exponential of -|x| and one log1p. Which side of 0 an x is on only selects between two equal forms, so a
rounded comparison decides it, also for balls.
"""

import numpy as np

from lossref.core import NonPositive, Real, floats, loss, where


def _decaying(x):
    """Whether x ≥ 0, and e^(-|x|), written so that its derivative at 0 is right."""
    positive = floats(x) >= 0
    return positive, np.exp(where(positive, -x, x))


@loss(of="x", returns="...", reduces=False)
def softplus(x: Real("...", masked=True)):
    r"""The softplus, minus the log of a logistic probability: the loss of one yes-no question.

    .. math:: \mathrm{sp}(x) = \log(1 + e^x)

    Parameters
    ----------
    x
        Numbers.

    Examples
    --------
    >>> lr.softplus(np.array([-40.0, 0.0, 40.0]))
    array([4.24835426e-18, 6.93147181e-01, 4.00000000e+01])
    >>> np.log(1 + np.exp(np.array([-40.0, 0.0, 40.0])))  # the literal formula loses the first
    array([ 0.        ,  0.69314718, 40.        ])
    """
    positive, e = _decaying(x)
    return where(positive, x, 0.0) + np.log1p(e)


@softplus.gradient
def _(x):
    return sigmoid.definition(x)


@softplus.obvious
def _(x):
    return np.log(1 + np.exp(x))


@loss(of="x", returns="...", reduces=False)
def sigmoid(x: Real("...", masked=True)):
    r"""The logistic function. Write 1 - σ(x) as σ(-x): then neither tail is lost.

    .. math:: \sigma(x) = \frac{1}{1 + e^{-x}}

    Parameters
    ----------
    x
        Numbers.

    Examples
    --------
    >>> lr.sigmoid(np.array([-40.0, 0.0]))
    array([4.24835426e-18, 5.00000000e-01])
    >>> 1 / (1 + np.exp(-np.array([-40.0, 0.0])))  # the literal formula
    array([4.24835426e-18, 5.00000000e-01])
    """
    positive, e = _decaying(x)
    return where(positive, 1.0, e) / (1 + e)


@sigmoid.gradient
def _(x):
    return sigmoid.definition(x) * sigmoid.definition(-x)


@sigmoid.obvious
def _(x):
    return 1 - 1 / (1 + np.exp(x))


@loss(of="x", returns="...", reduces=False)
def log_sigmoid(x: Real("...", masked=True)):
    r"""The log of the logistic function.

    .. math:: \log \sigma(x) = -\log(1 + e^{-x})

    Parameters
    ----------
    x
        Numbers.

    Examples
    --------
    >>> lr.log_sigmoid(np.array([-800.0, 0.0, 40.0]))
    array([-8.00000000e+02, -6.93147181e-01, -4.24835426e-18])
    >>> np.log(1 / (1 + np.exp(-0.0)))  # the literal formula
    np.float64(-0.6931471805599453)
    """
    return -softplus.definition(-x)


@log_sigmoid.gradient
def _(x):
    return sigmoid.definition(-x)


@log_sigmoid.obvious
def _(x):
    return np.log(1 / (1 + np.exp(-x)))


@loss(of="x", returns="...", reduces=False)
def log1mexp(x: NonPositive("...", masked=True)):
    r"""The log of 1 - e^x for x ≤ 0: the log-probability of the contrary.

    .. math:: \log(1 - e^x)

    Parameters
    ----------
    x
        Log-probabilities, at most 0.

    Examples
    --------
    >>> lr.log1mexp(np.array([-1e-20, -1.0, -40.0]))
    array([-4.60517019e+01, -4.58675145e-01, -4.24835426e-18])
    >>> np.log(1 - np.exp(-1.0))  # the literal formula
    np.float64(-0.45867514538708193)
    """
    near = floats(x) > -0.6931471805599453  # log 2: each form is used on its good side
    return where(near, np.log(-np.expm1(where(near, x, -1.0))), np.log1p(-np.exp(where(near, -1.0, x))))


@log1mexp.gradient
def _(x):
    return np.exp(x) / np.expm1(x)


@log1mexp.kinks
def _(x):
    return x == 0


@log1mexp.obvious
def _(x):
    return np.log(1 - np.exp(x))


@loss(of=("x", "y"), returns="...", reduces=False)
def log_diff_exp(x: Real("..."), y: Real("...", masked=True)):
    r"""The log of a difference of exponentials, for x ≥ y.

    .. math:: \log(e^x - e^y)

    Parameters
    ----------
    x
        The larger logarithms.
    y
        The smaller logarithms.

    Examples
    --------
    >>> lr.log_diff_exp(np.array([1000.0]), np.array([999.0]))
    array([999.54132485])
    >>> np.log(np.exp(2.0) - np.exp(1.0))  # the literal formula
    np.float64(1.54132485461291...)
    """
    return x + log1mexp.definition(y - x)


@log_diff_exp.gradient
def _(x, y):
    return -1 / np.expm1(y - x), np.exp(y - x) / np.expm1(y - x)


@log_diff_exp.kinks
def _(x, y):
    return x == y


@log_diff_exp.obvious
def _(x, y):
    return np.log(np.exp(x) - np.exp(y))


@log_diff_exp.requires("y", "entries ≤ those of x")
def _(x, y):
    return y <= x


@log_diff_exp.arrange
def _(x, y):
    return {"x": np.maximum(x, y) + 0.25, "y": np.minimum(x, y)}


def sech_squared(x):
    """1 - tanh(x)², without subtracting from 1."""
    _, e = _decaying(2 * x)
    return 4 * e / (1 + e) ** 2


def soft_cap(x, cap):
    """cap · tanh(x / cap), or x where cap is None; a masked entry (-inf) stays masked."""
    return x if cap is None else where(x == -np.inf, -np.inf, cap * np.tanh(x / cap))
