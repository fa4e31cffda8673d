"""The negative log-likelihood: cross-entropy after the softmax."""

import numpy as np

from lossref.core import Integer, Labels, NonNegative, Paper, Real, at, label_mask, loss, times, total, where

from .cross_entropy import label_weights


@loss(
    of="log_probs",
    paper=Paper("On the mathematical foundations of theoretical statistics", 1922, "doi:10.1098/rsta.1922.0009"),
    symmetries={"class permutation": ("weight", "ignore_index"), "row permutation": ()},
)
def nll(
    log_probs: Real("N C", masked=True, all_masked=True),
    labels: Labels("N", below="C", ignore="ignore_index"),
    *,
    weight: NonNegative("C") = None,
    ignore_index: Integer = -100,
):
    r"""Negative log-likelihood of labels under given log-probabilities.

    .. math:: \ell = -w_y \log p_y

    The log-probabilities are taken as they are: nothing normalises them or checks that they are normalised, and the
    gradient stops at them. What follows the softmax here is nothing but a look-up; all of the numerics is in
    ``log_softmax``. "mean" divides by the sum of the label weights over the rows that are not ignored.

    Parameters
    ----------
    log_probs
        Log-probabilities of the classes.
    labels
        The right classes.
    weight
        How much each class counts, 1 by default.
    ignore_index
        A label that marks rows that do not count.

    Examples
    --------
    >>> log_probs, labels = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])), np.array([0, 2])
    >>> lr.nll(log_probs, labels, reduction="none")
    array([0.35667494, 0.91629073])
    >>> -log_probs[[0, 1], labels]  # the literal formula
    array([0.35667494, 0.91629073])
    """
    _, w_label, label = label_weights(log_probs, labels, weight, ignore_index)
    return where(labels == ignore_index, 0.0, -times(w_label, at(log_probs, label)))


@nll.gradient
def _(log_probs, labels, weight, ignore_index):
    _, w_label, label = label_weights(log_probs, labels, weight, ignore_index)
    counts = label_mask(label, log_probs.shape[1]) & (labels != ignore_index)[:, None]
    return where(counts, -w_label[:, None], 0.0)


@nll.divisor
def _(log_probs, labels, weight, ignore_index):
    _, w_label, _ = label_weights(log_probs, labels, weight, ignore_index)
    return total(where(labels == ignore_index, 0.0, w_label))


@nll.obvious
def _(log_probs, labels):
    return -np.log(np.exp(log_probs[np.arange(len(labels)), labels]))


@nll.hard
def _(rng, dtype):
    log_probs, labels = -rng.gamma(2.0, 1.0, (4, 3)), np.array([0, 2, 1, 0])
    yield "weights of very different sizes", {
        "log_probs": log_probs,
        "labels": labels,
        "weight": np.array([1e-12, 1.0, 0.3]),
    }
