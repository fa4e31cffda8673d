"""Poly-1: cross-entropy with the first coefficient of its series changed."""

import numpy as np

from lossref.core import Labels, Paper, Real, at, label_mask, loss
from lossref.primitives import softmax_row
from lossref.primitives.remainder import exp_above_tangent


@loss(
    of="logits",
    paper=Paper(
        "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", 2022, "arXiv:2204.12511"
    ),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def poly_loss(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    epsilon: Real = 1.0,
):
    r"""Cross-entropy plus a multiple of the probability of everything else.

    .. math:: \ell = -\log p_y + \epsilon\,(1 - p_y)

    Since :math:`-\log p = \sum_{j\ge1} (1-p)^j/j`, this changes the coefficient of the first power from 1 to 1 + ε, and
    ε = -1 removes it: what is left is quadratic in 1 - p, and its gradient vanishes on what is nearly right. optax's
    default is ε = 2.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes.
    epsilon
        What is added to the first coefficient.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.poly_loss(logits, labels, reduction="none")
    array([3.26051285e-01, 1.69934170e-17])
    >>> p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], labels]
    >>> -np.log(p_y) + 1.0 * (1 - p_y)  # the literal formula: the second row is lost
    array([0.32605129, 0.        ])
    """
    row = softmax_row(logits)
    log_p, not_p = at(row.log_p, labels), at(row.not_p, labels)
    beyond_first = exp_above_tangent(log_p)  # Σ_{j≥2} (1-p)^j / j = p - 1 - log p
    return beyond_first + (1 + epsilon) * not_p


@poly_loss.gradient
def _(logits, labels, epsilon):
    row = softmax_row(logits)
    p, not_p = at(row.p, labels), at(row.not_p, labels)
    slope = not_p + (1 + epsilon) * p  # 1 + ε p_y, also for ε = -1
    return slope[:, None] * row.p_minus(label_mask(labels, logits.shape[1]))


@poly_loss.obvious
def _(logits, labels):
    p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    return -np.log(p_y) + 1.0 * (1 - p_y)
