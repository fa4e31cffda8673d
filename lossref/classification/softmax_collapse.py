"""Softmax collapse: when the arithmetic loses every other class in the sum of exponentials."""

import numpy as np

from lossref.core import Choice, Labels, Paper, Real, at, label_mask, like, loss, where
from lossref.primitives import softmax_row

SIGNIFICAND_BITS = {"bfloat16": 8, "float16": 11, "float32": 24, "float64": 53}


@loss(
    paper=Paper("Grokking at the Edge of Numerical Stability", 2025, "arXiv:2501.04697"),
    reduces=False,
    symmetries={"row permutation": ()},
)
def softmax_collapse(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    dtype: Choice("float32", "float16", "bfloat16", "float64") = "float32",
):
    r"""Whether a row's sum of exponentials equals that of its label alone, in arithmetic of p significand bits.

    .. math:: \sum_{k \ne y} e^{x_k - x_y} \le 2^{-p}

    There cross-entropy as everybody computes it is exactly 0 and the label's gradient exactly 0: learning stalls. For
    two classes that is a lead of p log 2: 5.5 in bfloat16, 7.6 in float16, 16.6 in float32, 36.7 in float64. It is
    not a property of cross-entropy: :func:`cross_entropy` here keeps the sum of the *other* classes and does not
    collapse until it underflows. Adding the terms one by one loses them earlier than this says.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    dtype
        The arithmetic that is asked about, whatever the dtype of the logits.

    Examples
    --------
    >>> logits, labels = np.array([[16.0, 0.0], [17.0, 0.0]]), np.array([0, 0])
    >>> lr.softmax_collapse(logits, labels)
    array([False,  True])
    >>> e = np.exp((logits - logits[:, :1]).astype(np.float32))
    >>> e.sum(axis=1) == e[:, 0]  # the literal formula
    array([False,  True])
    """
    is_label, label = label_mask(labels, logits.shape[1]), at(logits, labels)
    possible = label > -np.inf
    others = where(is_label, -np.inf, logits - where(possible, label, 0)[:, None])
    return possible & (softmax_row(others).lse <= -SIGNIFICAND_BITS[dtype] * np.log(like(2, logits)))


@softmax_collapse.obvious
def _(logits, labels):
    e = np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32)
    return e.sum(axis=1) == e[np.arange(len(labels)), labels]
