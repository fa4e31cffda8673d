"""LDR-KL: the worst gap over distributions of labels near the uniform one, as a soft maximum with a temperature."""

import numpy as np

from lossref.core import (
    Choice,
    Labels,
    NonNegative,
    Paper,
    Positive,
    Real,
    at,
    floats,
    label_mask,
    like,
    loss,
    total,
    where,
)
from lossref.primitives import sigmoid, softmax_row, softplus

from .gaps import above, distant_label, gaps, gaps_below, leading_class

PAPER = Paper("Label Distributionally Robust Losses for Multi-class Classification", 2023, "arXiv:2112.14869")
SYMMETRIES = {"shift": ("normalize",), "class permutation": (), "row permutation": ()}


@loss(of="logits", paper=PAPER, symmetries=SYMMETRIES)
def ldr_kl(
    logits: Real("N C"),
    labels: Labels("N", below="C"),
    *,
    temperature: Positive = 1.0,
    margin: NonNegative = 0.1,
    normalize: Choice("softplus", "l1") = None,
):
    r"""Cross-entropy with a margin and a temperature, up to a constant: one family from cross-entropy to the SVM.

    .. math::
        \ell = \max_{\pi \in \Delta} \sum_k \pi_k q_k - \lambda\,\mathrm{KL}(\pi \,\|\, \tfrac1K)
             = \lambda \log\Big(\frac1K \sum_k e^{q_k/\lambda}\Big), \qquad q_k = f_k - f_y + c\,[k \ne y]

    The temperature is the price of disagreeing with the label: λ → 0 is the hinge of Crammer and Singer, λ = 1 (with
    no margin) cross-entropy minus log K, λ → ∞ the mean gap, which treats all labels alike. The scores f are the
    logits in the paper's formula; the paper's code makes them positive by softplus and divides by their mean.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    temperature
        The temperature λ.
    margin
        The margin c that every wrong class is given.
    normalize
        "softplus" for f = K h / Σh with h = sp(x), "l1" for f = K x / Σ\|x\|; by default f = x.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.ldr_kl(logits, labels, reduction="none")
    array([-0.9124715 ,  1.16030714])
    >>> q = logits - logits[[0, 1], labels][:, None] + 0.1 * (labels[:, None] != np.arange(3))
    >>> np.log(np.exp(q).mean(axis=1))  # the literal formula
    array([-0.9124715 ,  1.16030714])
    """
    return soft_maximum(gaps(scores_above(logits, labels, normalize), labels, margin), temperature)


@ldr_kl.gradient
def _(logits, labels, temperature, margin, normalize):
    row = softmax_row(gaps_below_leader(logits, labels, margin, normalize), temperature)
    return through_normalization(row.p_minus(label_mask(labels, logits.shape[1])), logits, normalize)


@ldr_kl.kinks
def _(logits, normalize):
    return (logits == 0) & (normalize == "l1")


@ldr_kl.requires("logits", 'a nonzero entry in every row with normalize="l1"')
def _(logits, normalize):
    return has_scale(logits, normalize)


ldr_kl.hard(distant_label)


@ldr_kl.obvious
def _(logits, labels):
    rows = np.arange(len(labels))
    q = logits - logits[rows, labels][:, None] + 0.1
    q[rows, labels] = 0.0
    return np.log(np.exp(q).mean(axis=1))


def soft_maximum(q, temperature, kept=True):
    """λ log mean e^(q/λ) over the kept entries of each row: the maximum for small λ, the mean for large λ."""
    kept = np.broadcast_to(kept, q.shape)
    count = like(kept.sum(axis=1, keepdims=True), q)
    row = softmax_row(where(kept, q, -np.inf), temperature)
    # The mean of e^u - 1 is right where all u are small, as log K is not; but not where 1 + mean nearly cancels.
    moderate = kept & (floats(row.maximum / temperature) < 4)
    excess = total(where(moderate, np.expm1(where(moderate, q / temperature, 0)), 0), keepdims=True) / count
    near = moderate.any(axis=1, keepdims=True) & (floats(excess) > -0.5)
    far = row.lse[:, None] - np.log(count)
    return (temperature * where(near, np.log1p(where(near, excess, 0)), far))[:, 0]


def gaps_below_leader(logits, labels, margin, normalize):
    """q_k - max q."""
    h, scale = normalized(logits, normalize)
    leader = leading_class(scale * h, labels, margin)
    return gaps_below(scores_above(logits, leader, normalize), leader, labels, margin)


def scores_above(logits, classes, normalize):
    """f_k - f_c for the normalised scores f and a class c of each row."""
    difference = above(logits, classes)
    if normalize is None:
        return difference
    h, scale = normalized(logits, normalize)
    if normalize == "softplus":
        close = abs(floats(difference)) < 1  # sp(a) - sp(b) = log(1 + σ(b) (e^(a-b) - 1))
        u = np.expm1(where(close, difference, 0))
        v = at(sigmoid(logits), classes)[:, None] * u
        share = where(v == 0, 1, np.log1p(v) / where(v == 0, 1, v))
        slope = at(_softplus_and_slope(logits)[1], classes)[:, None]
        difference = where(close, slope * u * share, above(h, classes))
    return scale * difference


def normalized(logits, normalize):
    """h and K / Σ|h|, whose product are the scores f."""
    if normalize is None:
        return logits, 1
    h = logits if normalize == "l1" else _softplus_and_slope(logits)[0]
    return h, logits.shape[1] / total(abs(h), keepdims=True)


def through_normalization(g, logits, normalize):
    """From a derivative by the scores to one by the logits."""
    if normalize is None:
        return g
    h, scale = normalized(logits, normalize)
    signed, size = np.sign(h) * g, abs(h) / total(abs(h), keepdims=True)
    relative = signed - np.take_along_axis(signed, np.argmax(size, axis=1)[:, None], axis=1)  # so that nothing cancels
    centred = relative - total(size * relative, keepdims=True)
    slope = 1 if normalize == "l1" else _softplus_and_slope(logits)[1]
    return scale * slope * where(h == 0, g, np.sign(h) * centred)


def has_scale(logits, normalize):
    """Whether each row can be divided by its mean size."""
    return (logits != 0).any(axis=1) | (normalize != "l1")


def _softplus_and_slope(x):
    """The softplus and its derivative, up to a factor per row that keeps rows of very negative numbers from 0."""
    top = floats(x).max(axis=1, keepdims=True)
    negative, top = top < 0, like(np.minimum(top, 0), x)
    e = np.exp(where(negative, x, 0))
    share = where(e == 0, 1, np.log1p(e) / where(e == 0, 1, e))  # sp(x) = share · e^x
    lifted = np.exp(where(negative, x - top, 0))
    return where(negative, lifted * share, softplus(x)), where(negative, lifted / (1 + e), sigmoid(x))
