"""C51: a distribution of returns, learnt by cross-entropy on fixed atoms."""

import numpy as np

from lossref.core import Masses, Paper, Real, loss, times, total
from lossref.core.declarations import Whole
from lossref.primitives import softmax_row

from .two_hot import shares

PAPER = Paper("A Distributional Perspective on Reinforcement Learning", 2017, "arXiv:1707.06887")


@loss(paper=PAPER, returns=lambda atoms, num_bins: (len(atoms), num_bins), reduces=False)
def categorical_projection(
    atoms: Real("N M"),
    probs: Masses("N M"),
    *,
    v_min: Real = -10.0,
    v_max: Real = 10.0,
    num_bins: Whole(low=2) = 51,
):
    r"""A distribution on any atoms as one on fixed atoms: each mass is shared by its two neighbours.

    .. math::
        t_i = \sum_j \pi_j \Big[1 - \frac{|\mathrm{clip}(a_j) - z_i|}{\Delta}\Big]_0^1, \qquad
        z_i = v_{\min} + i \Delta,\quad \Delta = \frac{v_{\max} - v_{\min}}{C - 1}

    The atoms of a Bellman update, reward plus discounted return, do not lie on the grid. Mass is kept, and so is the
    mean where nothing is clipped. An atom on a grid point belongs to it alone; the usual code with floor and ceil
    loses its mass unless it guards the case.

    Parameters
    ----------
    atoms
        The atoms a of each row, in any order.
    probs
        Their probabilities π.
    v_min
        The first point of the grid.
    v_max
        The last point of the grid.
    num_bins
        The number C of points.

    Examples
    --------
    >>> atoms, probs = np.array([[-0.5, 0.1, 7.0]]), np.array([[0.5, 0.25, 0.25]])
    >>> lr.categorical_projection(atoms, probs, v_min=-1.0, v_max=1.0, num_bins=5)
    array([[0.  , 0.5 , 0.2 , 0.05, 0.25]])
    >>> a = np.clip(atoms, -1, 1)[0, :, None]
    >>> (probs[0, :, None] * np.clip(1 - abs(a - np.linspace(-1, 1, 5)) / 0.5, 0, 1)).sum(axis=0)  # the literal formula
    array([0.  , 0.5 , 0.2 , 0.05, 0.25])
    """
    return _projection(atoms, probs, num_bins, v_min, v_max)


@categorical_projection.obvious
def _(atoms, probs):
    t = np.clip(1 - abs(np.clip(atoms, -10, 10)[..., None] - np.linspace(-10, 10, 51)) / 0.4, 0, 1)
    return (probs[..., None] * t).sum(axis=1)


@loss(of="logits", paper=PAPER, symmetries={"shift": (), "row permutation": ()})
def c51(
    logits: Real("N C", masked=True),
    atoms: Real("N M"),
    probs: Masses("N M"),
    *,
    v_min: Real = -10.0,
    v_max: Real = 10.0,
):
    r"""Cross-entropy against the target distribution of :func:`categorical_projection`, on as many points as logits.

    .. math::
        \ell = -\sum_i t_i \log p_i, \qquad
        t_i = \sum_j \pi_j \Big[1 - \frac{|\mathrm{clip}(a_j) - z_i|}{\Delta}\Big]_0^1

    The gradient is prediction minus target. 51 is the number of points of the paper.

    Parameters
    ----------
    logits
        Scores of the points.
    atoms
        The atoms a of the target distribution of each row: rewards plus discounted points.
    probs
        Their probabilities π.
    v_min
        The first point.
    v_max
        The last point.

    Examples
    --------
    >>> logits = np.array([[0.0, 1.0, 2.0]])
    >>> atoms, probs = np.array([[0.25, -3.0]]), np.array([[0.5, 0.5]])
    >>> lr.c51(logits, atoms, probs, v_min=-1.0, v_max=1.0)
    np.float64(1.7826059...)
    >>> p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    >>> -(np.array([0.5, 0.375, 0.125]) * np.log(p)).sum()  # the literal formula
    np.float64(1.7826059...)
    """
    t = _projection(atoms, probs, logits.shape[1], v_min, v_max)
    return total(times(t, -softmax_row(logits).log_p))


@c51.gradient
def _(logits, atoms, probs, v_min, v_max):
    return softmax_row(logits).p_minus_masses(_projection(atoms, probs, logits.shape[1], v_min, v_max))


@c51.requires("logits", "at least two columns")
def _(logits):
    return logits.shape[1] > 1


@c51.obvious
def _(logits, atoms, probs):
    points = np.linspace(-10, 10, logits.shape[1])
    t = np.clip(1 - abs(np.clip(atoms, -10, 10)[..., None] - points) / (points[1] - points[0]), 0, 1)
    t = (probs[..., None] * t).sum(axis=1)
    return -(t * np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))).sum(axis=1)


for _function in (categorical_projection, c51):

    @_function.requires("v_max", "a number above v_min")
    def _(v_min, v_max):
        return v_max > v_min


def _projection(atoms, probs, num_bins, v_min, v_max):
    return total(probs[..., None] * shares(atoms, num_bins, v_min, v_max), axis=1)
