"""Minus the log-probability of the right class under softmaxes with another function in place of the exponential."""

import numpy as np

from lossref.core import Count, Labels, NonNegative, Paper, Real, at, floats, label_mask, loss, total, where
from lossref.primitives.alternative_softmaxes import SPHERICAL, power_of_two, stretched, taylor_exp

SYMMETRIES = {"class permutation": (), "row permutation": ()}


@loss(of="logits", paper=SPHERICAL, symmetries=SYMMETRIES)
def spherical_softmax_cross_entropy(
    logits: Real("N C"), labels: Labels("N", below="C"), *, epsilon: NonNegative = 1e-3
):
    r"""Minus the log of the spherical softmax: scores are squared, so their sign does not matter.

    .. math:: \ell = -\log \frac{x_y^2 + \epsilon}{\sum_k (x_k^2 + \epsilon)}

    Just above 0 the label's score is pushed up, just below 0 it is pushed *down*, as strongly as 1/√ε: it may settle
    at either sign. ε is a number to tune, without a default in the paper; with 0 the label's score must not be 0.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    epsilon
        What keeps a score of 0 from the probability 0.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.spherical_softmax_cross_entropy(logits, labels, reduction="none")
    array([0.22349..., 2.30188...])
    >>> f = logits**2 + 1e-3
    >>> -np.log(f[[0, 1], labels] / f.sum(axis=1))  # the literal formula
    array([0.22349..., 2.30188...])
    """
    f, _, _ = _square(logits, epsilon)
    return np.log1p(_odds_against(f, labels))


@spherical_softmax_cross_entropy.gradient
def _(logits, labels, epsilon):
    f, df, scale = _square(logits, epsilon)
    return _slope(f, df, labels) / scale


@spherical_softmax_cross_entropy.requires("logits", "scores of labels other than 0 where epsilon is 0", scans=True)
def _(logits, labels, epsilon):
    return (logits != 0) | (epsilon > 0) | ~label_mask(labels, logits.shape[1])


@spherical_softmax_cross_entropy.obvious
def _(logits, labels):
    f = logits**2 + 1e-3
    return -np.log(f[np.arange(len(labels)), labels] / f.sum(axis=1))


@loss(of="logits", paper=SPHERICAL, symmetries=SYMMETRIES)
def taylor_softmax_cross_entropy(logits: Real("N C"), labels: Labels("N", below="C"), *, order: Count = 2):
    r"""Minus the log of the Taylor softmax, whose polynomial of even order is always positive.

    .. math:: \ell = -\log \frac{f_n(x_y)}{\sum_k f_n(x_k)}, \qquad f_n(x) = \sum_{i=0}^n \frac{x^i}{i!}

    Only order 2 depends on the wrong classes through their sum and their sum of squares alone, as the spherical family
    does. Scores are best at -1 for a wrong class, not at -∞.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    order
        The order n of the polynomial, even.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.taylor_softmax_cross_entropy(logits, labels, reduction="none")
    array([0.26236426, 1.56861592])
    >>> f = 1 + logits + logits**2 / 2
    >>> -np.log(f[[0, 1], labels] / f.sum(axis=1))  # the literal formula
    array([0.26236426, 1.56861592])
    """
    f, _, _ = _taylor(logits, order)
    return np.log1p(_odds_against(f, labels))


@taylor_softmax_cross_entropy.gradient
def _(logits, labels, order):
    f, df, scale = _taylor(logits, order)
    return _slope(f, df, labels) / scale


@taylor_softmax_cross_entropy.requires("order", "an even number")
def _(order):
    return order % 2 == 0


@taylor_softmax_cross_entropy.arrange
def _(order, **others):
    return {"order": 2 * ((order + 1) // 2)}


@taylor_softmax_cross_entropy.obvious
def _(logits, labels):
    f = 1 + logits + logits**2 / 2
    return -np.log(f[np.arange(len(labels)), labels] / f.sum(axis=1))


@loss(
    of="logits",
    paper=Paper("Grokking at the Edge of Numerical Stability", 2025, "arXiv:2501.04697"),
    symmetries=SYMMETRIES,
)
def stablemax_cross_entropy(logits: Real("N C"), labels: Labels("N", below="C")):
    r"""Cross-entropy with StableMax: logits count on a logarithmic scale.

    .. math::
        \ell = -\log \frac{s(x_y)}{\sum_k s(x_k)}, \qquad
        s(x) = \begin{cases} x + 1 & x \ge 0 \\ \frac{1}{1-x} & x < 0 \end{cases}

    The other classes are lost in the sum only at a lead of :math:`10^7` in float32, where the exponential loses them
    at 17. The paper's code computes in float64; here the logits' own precision is kept.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.stablemax_cross_entropy(logits, labels, reduction="none")
    array([0.40546511, 1.25276297])
    >>> s = np.where(logits >= 0, logits + 1, 1 / (1 - logits))
    >>> -np.log(s[[0, 1], labels] / s.sum(axis=1))  # the literal formula
    array([0.40546511, 1.25276297])
    """
    s = stretched(logits)
    scale = power_of_two(s)
    odds = _odds_against(s / scale, labels)
    rest = total(where(label_mask(labels, logits.shape[1]), 0, s / scale))
    beyond = np.log(rest) + np.log(scale[:, 0]) + np.log1p(abs(at(logits, labels)))  # for a label far below 0
    return where(floats(odds) == np.inf, beyond, np.log1p(odds))


@stablemax_cross_entropy.gradient
def _(logits, labels):
    s = stretched(logits)
    s = s / power_of_two(s)
    return _slope(s, s, labels) / (1 + abs(logits))


@stablemax_cross_entropy.obvious
def _(logits, labels):
    s = np.where(logits >= 0, logits + 1, 1 / (1 - logits))
    return -np.log(s[np.arange(len(labels)), labels] / s.sum(axis=1))


def _odds_against(f, labels):
    """Σ_{k≠y} f_k / f_y: the label stays out of the sum, so that nothing is lost when it is far ahead."""
    return total(where(label_mask(labels, f.shape[1]), 0, f)) / at(f, labels)


def _slope(f, df, labels):
    """f'_j / S, and at the label -f'_y / f_y · Σ_{k≠y} f_k / S."""
    is_label = label_mask(labels, f.shape[1])
    mass, rest = total(f, keepdims=True), total(where(is_label, 0, f), keepdims=True)
    return where(is_label, -(df / f) * (rest / mass), df / mass)


def _square(x, epsilon):
    """f = x² + ε and f' = 2x in units in which they cannot overflow, and the unit of x."""
    size = np.maximum(abs(floats(x)), float(epsilon) ** 0.5).astype(floats(x).dtype)
    scale = power_of_two(size)
    return (x / scale) ** 2 + epsilon / scale / scale, 2 * (x / scale), scale


def _taylor(x, order):
    """f_n and its derivative f_{n-1}, in such units too."""
    scale = np.maximum(power_of_two(x), 1)
    return taylor_exp(x / scale, order, scale), taylor_exp(x / scale, order - 1, scale), scale
