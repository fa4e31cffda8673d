"""Comp-sum losses: cross-entropy and its relatives, from sum-exponential to mean absolute error, in one exponent."""

import numpy as np

from lossref.core import Interval, Labels, NonNegative, Paper, Positive, Real, at, label_mask, loss, times, where
from lossref.primitives import softmax_row


@loss(
    of="logits",
    paper=Paper("Cross-Entropy Loss Functions: Theoretical Analysis and Applications", 2023, "arXiv:2304.07288"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def comp_sum(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    tau: NonNegative = 1.0,
):
    r"""The family of losses :math:`\Phi^\tau` of the sum of exponentials of the score gaps.

    .. math::
        \ell_\tau = \Phi^\tau\Big(\sum_{k\ne y} e^{x_k-x_y}\Big) = \frac{1-p_y^{\tau-1}}{\tau-1}, \qquad
        \Phi^\tau(u) = \frac{(1+u)^{1-\tau}-1}{1-\tau},\quad \Phi^1(u) = \log(1+u)

    τ = 0 is the sum-exponential loss, 1 cross-entropy, 1 + q the generalized cross-entropy, 2 the mean absolute error.
    The gradient is that of cross-entropy times :math:`p_y^{\tau-1}`: one exponent moves from chasing the wrong samples
    (τ < 1) to ignoring them (τ > 1). For τ < 1 a very wrong row overflows to inf.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes.
    tau
        The exponent τ.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.comp_sum(logits, labels, tau=1.5, reduction="none")
    array([1.62833993e-01, 8.49670851e-18])
    >>> p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], labels]
    >>> (1 - p_y ** (1.5 - 1)) / (1.5 - 1)  # the literal formula: the second row is lost
    array([0.16283399, 0.        ])
    """
    return tempered(at(softmax_row(logits).log_p, labels), tau - 1)


@comp_sum.gradient
def _(logits, labels, tau):
    row = softmax_row(logits)
    return tempered_slope(at(row.log_p, labels), tau - 1, row.p_minus(label_mask(labels, logits.shape[1])))


@comp_sum.obvious
def _(logits, labels):
    return np.log(1 + (np.exp(logits - at(logits, labels)[:, None]).sum(axis=1) - 1))


def tempered(log_p, q):
    """(1 - p^q) / q, which is -log p for q = 0."""
    return -log_p if q == 0 else -np.expm1(q * log_p) / q


def tempered_slope(log_p, q, p_minus_label):
    """Its derivative by the logits, p^q (p_j - δ_jy). Half the power at a time: the whole may overflow alone."""
    half = np.exp(times(q / 2, log_p))[:, None]
    return times(times(p_minus_label, half), half)


@loss(
    of="logits",
    paper=Paper(
        "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
        2018,
        "arXiv:1805.07836",
        "6",
    ),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def generalized_cross_entropy(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    q: Positive(None, interval=Interval(0.0, 1.0, high_closed=True)) = 0.7,
    truncation: Positive(None, interval=Interval(0.0, 1.0)) = None,
):
    r"""The loss between cross-entropy (q → 0) and mean absolute error (q = 1), robust to noisy labels.

    .. math:: \ell = \frac{1-p_y^q}{q}, \qquad \ell = \frac{1-k^q}{q} \text{ where } p_y \le k

    With truncation at k, rows that are less probable than k are given up: their loss is constant and their gradient 0.
    The paper alternates this with pruning weights that are fixed for several epochs; this is the pointwise loss.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes, some of which may be wrong.
    q
        The exponent q.
    truncation
        The probability k up to which a label is not believed, none by default; 0.5 in the paper.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.generalized_cross_entropy(logits, labels, reduction="none")
    array([1.60137858e-01, 8.49670851e-18])
    >>> p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], labels]
    >>> (1 - p_y**0.7) / 0.7  # the literal formula: the second row is lost
    array([0.16013786, 0.        ])
    """
    row = softmax_row(logits)
    log_p = at(row.log_p, labels)
    if truncation is not None:
        log_p = where(at(row.p, labels) > truncation, log_p, np.log(truncation))
    return tempered(log_p, q)


@generalized_cross_entropy.gradient
def _(logits, labels, q, truncation):
    row = softmax_row(logits)
    g = tempered_slope(at(row.log_p, labels), q, row.p_minus(label_mask(labels, logits.shape[1])))
    return g if truncation is None else where((at(row.p, labels) > truncation)[:, None], g, 0.0)


@generalized_cross_entropy.kinks
def _(logits, labels, truncation):
    return (at(softmax_row(logits).p, labels) == (2 if truncation is None else truncation))[:, None]


@generalized_cross_entropy.obvious
def _(logits, labels):
    p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    return (1 - p_y**0.7) / 0.7


@loss(
    of="logits",
    paper=Paper("Robust Loss Functions under Label Noise for Deep Neural Networks", 2017, "arXiv:1712.09482"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def mae_classification(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    scale: Positive = 1.0,
):
    r"""Mean absolute error of the softmax: the probability of everything but the label.

    .. math:: \ell = s\,(1-p_y)

    Summed over all possible labels it is constant, so uniformly wrong labels do not move its minimum; and its gradient
    vanishes on the very samples that are wrong, so it is hard to train with many classes. Scale 1 is the comp-sum loss
    with τ = 2; scale 2 is the l1 distance to the one-hot label.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes.
    scale
        The factor s.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.mae_classification(logits, labels, reduction="none")
    array([1.56205...e-01, 8.49670851e-18])
    >>> p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], labels]
    >>> 1.0 * (1 - p_y)  # the literal formula: the second row is lost
    array([0.15620..., 0.        ])
    """
    return scale * at(softmax_row(logits).not_p, labels)


@mae_classification.gradient
def _(logits, labels, scale):
    row = softmax_row(logits)
    return (scale * at(row.p, labels))[:, None] * row.p_minus(label_mask(labels, logits.shape[1]))


@mae_classification.obvious
def _(logits, labels):
    return 1 - (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
