"""The entropy of the softmax: how undecided a row of logits is."""

import numpy as np

from lossref.core import Paper, Real, loss, times, total
from lossref.primitives import softmax_row


@loss(
    of="logits",
    paper=Paper("Tent: Fully Test-Time Adaptation by Entropy Minimization", 2021, "arXiv:2006.10726"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def softmax_entropy(logits: Real("N C", masked=True)):
    r"""Entropy of the softmax, from 0 (sure) to log C (uniform).

    .. math:: H = -\sum_k p_k \log p_k

    Minimising it needs no labels: test-time adaptation and self-training do. Its gradient,
    :math:`-p_j(\log p_j + H)`, dies both at uniform and at one-hot. Masked entries (-inf) contribute nothing.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.

    Examples
    --------
    >>> logits = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]])
    >>> lr.softmax_entropy(logits, reduction="none")
    array([5.24...e-01, 3.48...e-16])
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> -(p * np.log(p)).sum(axis=1)  # the literal formula
    array([5.24...e-01, 3.39...e-16])
    """
    row = softmax_row(logits)
    return total(times(row.p, -row.log_p))


@softmax_entropy.gradient
def _(logits):
    row = softmax_row(logits)
    return -row.slope_of_mean(row.shifted)  # log p but for a constant


@softmax_entropy.obvious
def _(logits):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(p * np.log(p)).sum(axis=1)
