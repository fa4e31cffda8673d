"""Linear cross-entropy: cross-entropy of hidden @ classifier.T, whose logits nobody needs to keep.

By definition it is cross_entropy of a matrix product, and that is how it is written here; the kernels never hold the
logits of all rows at once.
"""

import ml_dtypes
import numpy as np

from lossref.core import (
    Choice,
    Count,
    CountPair,
    Either,
    Fraction,
    Integer,
    Labels,
    NonNegative,
    Paper,
    Positive,
    Real,
    Size,
    label_mask,
    like,
    loss,
    total,
    where,
)
from lossref.primitives import soft_cap, softmax_row

from .cross_entropy import cross_entropy

TILE = (128, 128)  # rows and classes of a tile of the gradient filter


@loss(
    of=("hidden", "classifier", "bias"),
    returns=lambda labels, shift: predicted(labels, shift).shape,
    paper=Paper("Cut Your Losses in Large-Vocabulary Language Models", 2025, "arXiv:2411.09009"),
)
def linear_cross_entropy(
    hidden: Real("... D"),
    classifier: Real("V D"),
    labels: Labels("...", below="V", ignore="ignore_index"),
    *,
    bias: Real("V") = None,
    softcap: Positive = None,
    ignore_index: Integer = -100,
    label_smoothing: Fraction = 0.0,
    z_loss_weight: NonNegative = 0.0,
    filter_eps: Either(Positive, Choice("auto")) = None,
    block_size: Either(Count, CountPair) = None,
    shift: Size = 0,
):
    r"""Cross-entropy of a linear classifier, from hidden states and class vectors.

    .. math:: \ell_i = \mathrm{cross\_entropy}(z_i, y_i), \qquad z_{iv} = \langle h_i, c_v\rangle + b_v

    The loss needs one logit and one log-sum-exp of each row, and the gradient each tile of logits once: on the kernels'
    paths the N × V logits never exist. "mean" divides by the number of rows that are not ignored. With
    ``filter_eps`` the gradient leaves out tiles in which softmax and target agree that closely: it is then the
    gradient of nothing, and zero for rare classes; the value is always exact.

    Parameters
    ----------
    hidden
        The states that are classified.
    classifier
        One vector per class.
    labels
        The right classes.
    bias
        One number per class that is added to its logit.
    softcap
        The bound on the size of a logit, none by default.
    ignore_index
        A label that marks rows that do not count.
    label_smoothing
        The share of the target that is spread over all classes.
    z_loss_weight
        The weight of the squared log-normaliser.
    filter_eps
        Below which tiles of the gradient are left out; "auto" is what rounding would lose, eps / 32.
    block_size
        Classes, or rows and classes, of a tile; without a filter it changes rounding only.
    shift
        How many places later the label of a state stands: 1 predicts the next token.

    Examples
    --------
    >>> hidden, classifier = np.array([[1.0, 2.0]]), np.array([[0.5, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> lr.linear_cross_entropy(hidden, classifier, np.array([2]))
    np.float64(0.37153...)
    >>> e = np.exp(hidden @ classifier.T)
    >>> -np.log(e[0, 2] / e.sum())  # the literal formula
    np.float64(0.37153...)
    """
    rows, labels = _shifted(hidden, labels, shift)
    terms = cross_entropy.definition(
        _logits(rows, classifier, bias),
        labels.reshape(-1),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        softcap=softcap,
        z_loss_weight=z_loss_weight,
    )
    return like(terms, hidden).reshape(labels.shape)


@linear_cross_entropy.gradient
def _(
    hidden, classifier, labels, bias, softcap, ignore_index, label_smoothing, z_loss_weight, filter_eps, block_size,
    shift, cotangent,
):  # fmt: skip
    rows, labels = _shifted(hidden, labels, shift)
    labels, logits = labels.reshape(-1), _logits(rows, classifier, bias)
    g = cross_entropy.gradient_rule(logits, labels, None, ignore_index, label_smoothing, softcap, z_loss_weight)
    g = where((labels == ignore_index)[:, None], 0.0, cotangent.reshape(-1, 1) * g)
    if filter_eps is not None:
        kept = labels != ignore_index
        g[kept] = where(_negligible(logits[kept], labels[kept], softcap, filter_eps, block_size), 0.0, g[kept])
    d_hidden = np.zeros_like(hidden)
    predicting = d_hidden[..., : hidden.shape[-2] - shift, :] if shift else d_hidden
    predicting[...] = (g @ classifier).reshape(predicting.shape)
    return d_hidden, g.T @ rows, total(g, axis=0)


@linear_cross_entropy.divisor
def _(labels, ignore_index, shift):
    return np.count_nonzero(predicted(labels, shift) != ignore_index)


@linear_cross_entropy.kinks
def _(hidden, classifier, filter_eps):
    return tuple(np.bool_(filter_eps is not None) for _ in range(3))  # filtered, it is the gradient of nothing


@linear_cross_entropy.requires("shift", "less than the length of the sequence, and a sequence where it is not 0")
def _(shift, labels):
    return shift == 0 or (labels.ndim > 0 and shift < labels.shape[-1])


@linear_cross_entropy.obvious
def _(hidden, classifier, labels):
    e = np.exp(hidden @ classifier.T)
    return -np.log(np.take_along_axis(e, labels[..., None], -1)[..., 0] / e.sum(-1))


def predicted(labels, shift):
    """The labels that some state predicts. (The label of a single state has no axis to shift along.)"""
    return labels[..., shift:] if shift else labels


def _shifted(hidden, labels, shift):
    """The states that predict something, as rows, and the labels that they predict."""
    states = hidden[..., : hidden.shape[-2] - shift, :] if shift else hidden
    return states.reshape(-1, hidden.shape[-1]), predicted(labels, shift)


def _logits(rows, classifier, bias):
    if rows.dtype.itemsize == 2:  # sums of products outgrow float16's range and bfloat16's digits
        rows, classifier = rows.astype(np.float32), classifier.astype(np.float32)
    logits = rows @ classifier.T
    return logits if bias is None else logits + bias


def _negligible(logits, labels, softcap, filter_eps, block_size):
    """True on the tiles where |softmax - onehot| stays below the filter."""
    if filter_eps == "auto":
        filter_eps = float(ml_dtypes.finfo(logits.dtype).eps) / 32
    rows, classes = block_size if isinstance(block_size, tuple) else (TILE[0], block_size or TILE[1])
    difference = abs(softmax_row(soft_cap(logits, softcap)).p_minus(label_mask(labels, logits.shape[1])))
    if not difference.size:
        return np.zeros(difference.shape, bool)
    starts = np.arange(0, logits.shape[0], rows), np.arange(0, logits.shape[1], classes)
    largest = np.maximum.reduceat(np.maximum.reduceat(difference, starts[0], axis=0), starts[1], axis=1)
    tile = np.ix_(np.arange(logits.shape[0]) // rows, np.arange(logits.shape[1]) // classes)
    return largest[tile] < filter_eps
