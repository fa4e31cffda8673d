"""Sinkhorn: entropic optimal transport, differentiated at its optimum."""

import numpy as np

from lossref.core import (
    Choice,
    Count,
    Masses,
    Paper,
    Positive,
    Real,
    along_simplex,
    floats,
    held_constant,
    loss,
    times,
    total,
    where,
)

from .entropic import plan, potentials


@loss(
    of=("cost", "a", "b"),
    returns="",
    paper=Paper("Sinkhorn Distances: Lightspeed Computation of Optimal Transport", 2013, "arXiv:1306.0895"),
    reduces=False,
)
def sinkhorn(
    cost: Real("n m", scale=0.1),
    a: Masses("n") = None,
    b: Masses("m") = None,
    *,
    epsilon: Positive = 0.1,
    regularizer: Choice("kl", "entropy") = "kl",
    max_iterations: Count = 10000,
    tolerance: Positive = 1e-10,
):
    r"""The entropic optimal-transport cost between masses a and b.

    .. math:: \min_{P \ge 0,\; P\mathbf 1 = a,\; P^\top\mathbf 1 = b} \langle P, C\rangle
              + \varepsilon \sum_{ij} P_{ij} \log\frac{P_{ij}}{a_i b_j}

    With ``regularizer="entropy"`` the last term is :math:`\varepsilon\sum P\log P`. The value is that of the dual,
    :math:`\langle a, f\rangle + \langle b, g\rangle`. At the optimum the potentials f, g count as constants: the
    gradient is the plan in the cost, and f and g, centred because masses move only at equal sum, in a and b.
    A RuntimeWarning says if the marginals did not reach the tolerance.

    Parameters
    ----------
    cost
        The cost of moving mass from i to j.
    a
        Masses to be moved, uniform by default.
    b
        Masses to be reached, uniform by default.
    epsilon
        The strength ε of the entropy, in units of cost.
    regularizer
        Relative to the product of the masses ("kl") or not ("entropy").
    max_iterations
        How many iterations may be spent.
    tolerance
        How far the marginals of the plan may be off, summed.

    Examples
    --------
    >>> cost = np.array([[0.0, 1.0], [1.0, 0.0]])
    >>> lr.sinkhorn(cost, epsilon=0.5)
    np.float64(0.2831...)
    >>> t = np.linspace(0.001, 0.499, 499)  # the literal formula, over all plans [[t, ½-t], [½-t, t]]
    >>> (2 * (0.5 - t) + 0.5 * (2 * t * np.log(4 * t) + 2 * (0.5 - t) * np.log(4 * (0.5 - t)))).min()
    np.float64(0.2831...)
    """
    lowest, cost = _above_lowest(cost)
    a, b = _masses(a, b)
    f, g = potentials(cost, a, b, epsilon, max_iterations, tolerance)
    mass = total(total(plan(cost, a, b, f, g, epsilon)))  # 1: it matters to the derivative alone
    value = lowest + (total(times(a, f)) + total(times(b, g)) - epsilon * (mass - held_constant(mass)))
    if regularizer == "entropy":
        value = value + epsilon * (total(_x_log_x(a)) + total(_x_log_x(b)))
    return value


@sinkhorn.gradient
def _(cost, a, b, epsilon, regularizer, max_iterations, tolerance, cotangent):
    _, cost = _above_lowest(cost)
    a, b = _masses(a, b)
    f, g = potentials(cost, a, b, epsilon, max_iterations, tolerance)
    p = plan(cost, a, b, f, g, epsilon)
    if regularizer == "entropy":
        f, g = f + epsilon * np.log(a), g + epsilon * np.log(b)
    return cotangent * p, cotangent * _centred(f), cotangent * _centred(g)


@sinkhorn.arrange
def _(max_iterations, tolerance, **others):
    return {"max_iterations": 10000, "tolerance": 1e-10}  # an iteration cut short computes something else


@sinkhorn.obvious
def _(cost):
    kernel, u = np.exp(-cost / 0.1), np.ones(len(cost))
    for _ in range(2000):
        v = 1 / cost.shape[1] / (kernel.T @ u)
        u = 1 / cost.shape[0] / (kernel @ v)
    p = u[:, None] * kernel * v
    return (p * cost).sum() + 0.1 * (p * np.log(p * p.size)).sum()


def _above_lowest(cost):
    """The lowest cost, and all costs less it: a common offset must not use up the digits of the potentials."""
    lowest = cost.reshape(-1)[np.argmin(floats(cost))]
    return lowest, cost - lowest


def _masses(a, b):
    """The masses with sum 1 to the last bit, differentiated along the simplex."""
    a, b = along_simplex(a), along_simplex(b)
    return a / total(a), b / total(b)


def _x_log_x(x):
    return times(x, np.log(where(x == 0, 1.0, x)))


def _centred(potential):
    """The potential less its mean over where it is finite (at ε·log 0 it is -inf and stays so)."""
    finite = np.isfinite(potential)
    return potential - total(where(finite, potential, 0.0)) / finite.sum()
