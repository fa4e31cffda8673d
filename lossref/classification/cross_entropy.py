"""Cross-entropy: minus the log-probability of the right class."""

import numpy as np

from lossref.core import (
    Fraction,
    Integer,
    Labels,
    NonNegative,
    Paper,
    Positive,
    Real,
    at,
    floats,
    label_mask,
    loss,
    times,
    total,
    where,
)
from lossref.primitives import sech_squared, soft_cap, softmax_row


@loss(
    of="logits",
    paper=Paper("PaLM: Scaling Language Modeling with Pathways (the z-term)", 2022, "arXiv:2204.02311"),
    symmetries={
        "shift": ("softcap", "z_loss_weight"),
        "class permutation": ("weight", "ignore_index"),
        "row permutation": (),
    },
)
def cross_entropy(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C", ignore="ignore_index"),
    *,
    weight: NonNegative("C") = None,
    ignore_index: Integer = -100,
    label_smoothing: Fraction = 0.0,
    softcap: Positive = None,
    z_loss_weight: NonNegative = 0.0,
):
    r"""Cross-entropy of the softmax of logits against labels.

    .. math::
        \ell = (1-\varepsilon)\,w_y(-\log p_y) + \frac{\varepsilon}{C}\sum_c w_c(-\log p_c)
               + \zeta\,w_y\,\mathrm{lse}(u)^2,
        \qquad p = \mathrm{softmax}(u),\quad u = c\tanh(x/c)

    The gradient is prediction minus target. "mean" divides by the sum of the label weights over the rows that are
    not ignored, as PyTorch does. -inf logits mark classes that cannot occur.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes.
    weight
        How much each class counts, 1 by default.
    ignore_index
        A label that marks rows that do not count.
    label_smoothing
        The share ε of the target that is spread over all classes.
    softcap
        The bound c on the size of a logit, none by default; Gemma 2 (arXiv:2408.00118) takes 30.
    z_loss_weight
        The weight ζ of the squared log-normaliser, which keeps it near 0.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.cross_entropy(logits, labels, reduction="none")
    array([1.69846020e-01, 8.49670851e-18])
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> -np.log(p[[0, 1], labels])  # the literal formula: the second row is lost
    array([ 0.16984602, -0.        ])
    """
    row = softmax_row(soft_cap(logits, softcap))
    w, w_label, label = label_weights(logits, labels, weight, ignore_index)
    nll = -row.log_p
    smooth = times(label_smoothing / logits.shape[1], total(times(w, nll)))
    terms = times((1 - label_smoothing) * w_label, at(nll, label)) + smooth + z_loss_weight * w_label * row.lse**2
    return where(labels == ignore_index, 0.0, terms)


@cross_entropy.gradient
def _(logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight):
    row = softmax_row(soft_cap(logits, softcap))
    w, w_label, label = label_weights(logits, labels, weight, ignore_index)
    is_label = label_mask(label, logits.shape[1])
    w_others = w * (len(w) - 1) if weight is None else sum_of_others(w)
    g = (1 - label_smoothing) * w_label[:, None] * row.p_minus(is_label)
    g = g + label_smoothing / len(w) * (row.p * w_others - w * row.not_p)
    g = g + 2 * z_loss_weight * (w_label * row.lse)[:, None] * row.p
    return where((labels == ignore_index)[:, None], 0.0, g if softcap is None else g * sech_squared(logits / softcap))


@cross_entropy.divisor
def _(logits, labels, weight, ignore_index):
    _, w_label, _ = label_weights(logits, labels, weight, ignore_index)
    return total(where(labels == ignore_index, 0.0, w_label))


@cross_entropy.obvious
def _(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), labels])


def sum_of_others(w):
    """Σ_{k≠j} w_k for every class j: only where w_j is most of the sum, their difference would lose digits."""
    largest = np.argmax(floats(w))
    return where(np.arange(len(w)) == largest, total(np.delete(w, largest)), total(w) - w)


def label_weights(logits, labels, weight, ignore_index):
    """The weights of the classes, the weight of each row's label, and the labels with ignored ones made legal."""
    label = np.where(labels == ignore_index, 0, labels)
    w = np.ones(logits.shape[1], logits.dtype) if weight is None else weight
    return w, w[label], label
