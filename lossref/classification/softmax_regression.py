"""Softmax regression: squared error through a softmax."""

import numpy as np

from lossref.core import Flag, Paper, Real, floats, loss, total, where
from lossref.primitives import softmax_row


@loss(
    of="x",
    returns="",
    reduces=False,
    paper=Paper(
        "The Closeness of In-Context Learning and Weight Shifting for Softmax Regression", 2023, "arXiv:2304.13276"
    ),
)
def softmax_regression(x: Real("d"), A: Real("n d"), b: Real("n"), *, squared: Flag = True):
    r"""How far the softmax of A x is from b: one attention head with one query, as a regression on x.

    .. math:: L = \tfrac12 \lVert f - b \rVert_2^2, \qquad f = \langle e^{Ax}, \mathbf 1 \rangle^{-1} e^{Ax}

    Not convex, and its gradient :math:`A^\top (\mathrm{diag} f - f f^\top)(f - b)` vanishes where f is one-hot, right
    or wrong; cross-entropy's does not. The paper's abstract has the norm itself (``squared=False``; its gradient at 0
    is taken as 0), its proofs half the square.

    Parameters
    ----------
    x
        The vector to be found.
    A
        The matrix that makes scores of it.
    b
        What the softmax should be.
    squared
        Whether half the square is taken, or the norm.

    Examples
    --------
    >>> x, A, b = np.array([1.0, -1.0]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([0.5, 0.5, 0.0])
    >>> lr.softmax_regression(x, A, b)
    np.float64(0.1276357...)
    >>> f = np.exp(A @ x) / np.exp(A @ x).sum()
    >>> ((f - b) ** 2).sum() / 2  # the literal formula
    np.float64(0.1276357...)
    """
    _, row = _softmax_of_scores(x, A)
    c = _error(row, b)
    return total(c * c) / 2 if squared else np.sqrt(total(c * c))


@softmax_regression.gradient
def _(x, A, b, squared):
    differences, row = _softmax_of_scores(x, A)
    c = _error(row, b)
    gradient = total(differences.T * row.slope_of_mean(c))
    length = np.sqrt(total(c * c))
    return gradient if squared else where(length == 0, 0, gradient / length)


@softmax_regression.kinks
def _(x, A, b, squared):
    return np.array(not squared and not _error(_softmax_of_scores(x, A)[1], b).any())


@softmax_regression.obvious
def _(x, A, b):
    f = np.exp(A @ x) / np.exp(A @ x).sum()
    return ((f - b) ** 2).sum() / 2


def _softmax_of_scores(x, A):
    """A less its row with the largest score, which changes no softmax and rounds nothing that all rows share; f."""
    differences = A - A[np.argmax(floats(A) @ floats(x))]
    return differences, softmax_row(total(differences * x))


def _error(row, b):
    """f - b; where f is nearly 1, as (1 - b) - (1 - f), whose second part is right however small."""
    return where(floats(row.p) > 0.5, (1 - b) - row.not_p, row.p - b)
