"""InfoNCE: cross-entropy whose classes are the other samples of the batch."""

import numpy as np

from lossref.core import Labels, Mask, Paper, Positive, Real, at, label_mask, loss, where
from lossref.primitives import softmax_row


@loss(
    of="similarities",
    paper=Paper("Representation Learning with Contrastive Predictive Coding", 2018, "arXiv:1807.03748", "4"),
    symmetries={"shift": (), "row permutation": ()},
)
def info_nce(
    similarities: Real("N M", masked=True, scale=0.07),
    labels: Labels("N", below="M") = None,
    mask: Mask("N M") = None,
    *,
    temperature: Positive = 0.07,
):
    r"""InfoNCE over a matrix of similarities: each row must single out its positive column.

    .. math:: L_i = -\log \frac{e^{s_{iy_i}/\tau}}{\sum_{j \in \{y_i\} \cup \text{mask}} e^{s_{ij}/\tau}}

    The pull on the positive equals the sum of the pushes on the negatives; the temperature only changes which
    negatives are pushed.

    Parameters
    ----------
    similarities
        Similarity of each anchor (row) with each candidate (column).
    labels
        The column of each row's positive, by default the diagonal.
    mask
        True where a column stays in the denominator; the positive always stays.
    temperature
        The temperature τ.

    Examples
    --------
    >>> s = np.array([[0.9, 0.1], [0.3, 0.7]])
    >>> lr.info_nce(s, temperature=0.5)
    np.float64(0.277500...)
    >>> e = np.exp(s / 0.5)
    >>> -np.log(np.diag(e) / e.sum(axis=1)).mean()  # the literal formula
    np.float64(0.277500...)
    """
    kept, is_positive = _kept(similarities, labels, mask)
    return -at(softmax_row(kept, temperature).log_p, np.argmax(is_positive, axis=1))


@info_nce.gradient
def _(similarities, labels, mask, temperature):
    kept, is_positive = _kept(similarities, labels, mask)
    return softmax_row(kept, temperature).p_minus(is_positive) / temperature


@info_nce.obvious
def _(similarities):
    e = np.exp(similarities / 0.07)
    return -np.log(np.diag(e) / e.sum(axis=1))


@info_nce.requires("similarities", "at least as many columns as rows where labels are left out")
def _(similarities, labels):
    return labels is not None or similarities.shape[1] >= similarities.shape[0]


@info_nce.requires("similarities", "a finite positive in every row", scans=True)
def _(similarities, labels, mask):
    _, is_positive = _kept(similarities, labels, mask)
    return (similarities > -np.inf) | ~is_positive


def _kept(similarities, labels, mask):
    """The similarities with excluded columns at -inf, and where the positives are."""
    labels = np.arange(len(similarities)) if labels is None else labels
    is_positive = label_mask(labels, similarities.shape[1])
    return (similarities if mask is None else where(mask | is_positive, similarities, -np.inf)), is_positive
