"""Hinge losses for many classes: the right class must lead, by a margin, the best, every, or the k best others."""

import numpy as np

from lossref.core import Choice, Count, Labels, NonNegative, Paper, Real, label_mask, loss, total, where
from lossref.core.declarations import Whole

from .gaps import above, gaps, large_scores, pull_of

SYMMETRIES = {"shift": (), "class permutation": (), "row permutation": ()}


@loss(
    of="logits",
    paper=Paper("On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", 2001, "JMLR 2"),
    symmetries=SYMMETRIES,
)
def crammer_singer_hinge(logits: Real("N C"), labels: Labels("N", below="C"), *, margin: NonNegative = 1.0):
    r"""The hinge on the strongest rival: how far the best wrong class, helped by a margin, is above the label.

    .. math:: \ell = \max_k q_k, \qquad q_k = x_k - x_y + c\,[k \ne y]

    Only two scores of a row move: the rival's down, the label's up. It is ldr_kl at temperature 0, and optax's
    multiclass_hinge_loss. Where the label attains the maximum the gradient is 0, at other ties it goes to the first
    maximum.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    margin
        The margin c by which the label must lead.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 1.5, -1.0], [0.0, 3.0, 1.0]]), np.array([0, 2])
    >>> lr.crammer_singer_hinge(logits, labels, reduction="none")
    array([0.5, 3. ])
    >>> [max(0, *(1 + x[k] - x[y] for k in range(3) if k != y)) for x, y in zip(logits.tolist(), labels)]
    [0.5, 3.0]
    """
    return gaps(above(logits, labels), labels, margin).max(axis=1)


@crammer_singer_hinge.gradient
def _(logits, labels, margin):
    q = gaps(above(logits, labels), labels, margin)
    rival = np.argmax(q, axis=1)
    is_rival = label_mask(rival, q.shape[1]) & (q > 0)
    return pull_of(is_rival.astype(q.dtype), labels)


@crammer_singer_hinge.kinks
def _(logits, labels, margin):
    q = gaps(above(logits, labels), labels, margin)
    return (q == q.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True) > 1


@crammer_singer_hinge.obvious
def _(logits, labels):
    rows = np.arange(len(labels))
    q = 1.0 + logits - logits[rows, labels][:, None]
    q[rows, labels] = 0.0
    return q.max(axis=1)


@loss(
    of="logits",
    paper=Paper("Support Vector Machines for Multi-Class Pattern Recognition", 1999, "ESANN 1999"),
    symmetries=SYMMETRIES,
)
def weston_watkins_hinge(logits: Real("N C"), labels: Labels("N", below="C"), *, margin: NonNegative = 1.0):
    r"""The sum of the hinges against every other class.

    .. math:: \ell = \sum_{k \ne y} \max(0,\; c + x_k - x_y)

    Every class inside the margin is pushed equally, so the pull on the label grows with their number. The code of
    the LDR paper divides by the number of classes, which is :func:`multi_margin`.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    margin
        The margin c by which the label must lead.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 1.5, -1.0], [0.0, 3.0, 1.0]]), np.array([0, 2])
    >>> lr.weston_watkins_hinge(logits, labels, reduction="none")
    array([0.5, 3. ])
    >>> [sum(max(0, 1 + x[k] - x[y]) for k in range(3) if k != y) for x, y in zip(logits.tolist(), labels)]
    [0.5, 3.0]
    """
    return total(_hinges(logits, labels, margin))


@weston_watkins_hinge.gradient
def _(logits, labels, margin):
    hinges = _hinges(logits, labels, margin)
    return pull_of((hinges > 0).astype(hinges.dtype), labels)


@weston_watkins_hinge.obvious
def _(logits, labels):
    rows = np.arange(len(labels))
    hinges = np.maximum(0, 1.0 + logits - logits[rows, labels][:, None])
    hinges[rows, labels] = 0.0
    return hinges.sum(axis=1)


@loss(
    of="logits",
    paper=Paper("Support Vector Machines for Multi-Class Pattern Recognition", 1999, "ESANN 1999"),
    symmetries={**SYMMETRIES, "class permutation": ("weight",)},
)
def multi_margin(
    logits: Real("N C"),
    labels: Labels("N", below="C"),
    *,
    p: Count = 1,
    margin: NonNegative = 1.0,
    weight: NonNegative("C") = None,
):
    r"""The mean, over the classes, of the hinges or squared hinges against every other class: PyTorch's.

    .. math:: \ell = \frac{w_y}{C} \sum_{k \ne y} \max(0,\; c + x_k - x_y)^p

    The sum has C - 1 terms, but C divides it. "mean" divides by the number of rows, whatever the weights.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    p
        The power of each hinge, 1 or 2; with 2 the loss is smooth at the margin.
    margin
        The margin c by which the label must lead.
    weight
        How much each class counts as a label, 1 by default.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 1.5, -1.0], [0.0, 3.0, 1.0]]), np.array([0, 2])
    >>> lr.multi_margin(logits, labels, reduction="none")
    array([0.16666667, 1.        ])
    >>> [sum(max(0, 1 + x[k] - x[y]) for k in range(3) if k != y) / 3 for x, y in zip(logits.tolist(), labels)]
    [0.1666..., 1.0]
    """
    terms = total(_hinges(logits, labels, margin) ** p) / logits.shape[1]
    return terms if weight is None else weight[labels] * terms


@multi_margin.gradient
def _(logits, labels, p, margin, weight):
    hinges = _hinges(logits, labels, margin)
    push = (hinges > 0).astype(hinges.dtype) if p == 1 else 2 * hinges
    g = pull_of(push, labels) / logits.shape[1]
    return g if weight is None else weight[labels][:, None] * g


@multi_margin.obvious
def _(logits, labels):
    rows = np.arange(len(labels))
    hinges = np.maximum(0, 1.0 + logits - logits[rows, labels][:, None])
    hinges[rows, labels] = 0.0
    return hinges.mean(axis=1)


@multi_margin.requires("p", "1 or 2")
def _(p):
    return p in (1, 2)


@multi_margin.arrange
def _(p, **others):
    return {"p": 1 + p % 2}


@loss(of="logits", paper=Paper("Top-k Multiclass SVM", 2015, "arXiv:1511.06683"), symmetries=SYMMETRIES)
def top_k_hinge(
    logits: Real("N C"),
    labels: Labels("N", below="C"),
    *,
    k: Whole(low=1, up_to="C") = 5,
    margin: NonNegative = 1.0,
    variant: Choice("alpha", "beta") = "alpha",
):
    r"""The hinge of a classifier that may guess k times.

    .. math::
        \ell_\alpha = \max\Big(0, \frac1k \sum_{j \le k} q_{[j]}\Big), \qquad
        \ell_\beta = \frac1k \sum_{j \le k} \max(0, q_{[j]}), \qquad q_i = x_i - x_y + c\,[i \ne y]

    The largest gaps :math:`q_{[1]} \ge q_{[2]} \ge \dots` are over all classes, the label's own 0 among them. k = 1 is
    :func:`crammer_singer_hinge`, k = C is close to :func:`weston_watkins_hinge` (variant "beta"). At the kink the
    gradient is 0; among equal gaps the first classes count.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    k
        How many guesses are free.
    margin
        The margin c by which the label must lead.
    variant
        Whether gaps are averaged before ("alpha") or after ("beta") the hinge.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 1.5, -1.0], [0.0, 3.0, 1.0]]), np.array([0, 2])
    >>> lr.top_k_hinge(logits, labels, k=2, reduction="none")
    array([0.25, 1.5 ])
    >>> q = np.array([[0.0, 0.5, -2.0], [0.0, 3.0, 0.0]])  # x_k - x_y + 1, and 0 at the label
    >>> np.maximum(0, np.sort(q)[:, -2:].mean(axis=1))  # the literal formula
    array([0.25, 1.5 ])
    """
    q = gaps(above(logits, labels), labels, margin)
    largest = np.take_along_axis(q, np.argsort(-q, axis=1, kind="stable")[:, :k], axis=1)
    if variant == "beta":
        return total(np.maximum(largest, 0)) / k
    return np.maximum(total(largest) / k, 0)


@top_k_hinge.gradient
def _(logits, labels, k, margin, variant):
    q = gaps(above(logits, labels), labels, margin)
    chosen = _largest(q, k)
    sums = total(where(chosen, q, 0), keepdims=True)
    active = chosen & (q > 0) if variant == "beta" else chosen & (sums > 0)
    return pull_of(active.astype(q.dtype) / k, labels)


@top_k_hinge.kinks
def _(logits, labels, k, margin, variant):
    q = gaps(above(logits, labels), labels, margin)
    chosen = _largest(q, k)
    tie = (where(chosen, q, np.inf).min(axis=1) == where(chosen, -np.inf, q).max(axis=1))[:, None]
    if variant == "alpha":
        return tie | (total(where(chosen, q, 0), keepdims=True) == 0)
    return tie | (chosen & (q == 0) & ~label_mask(labels, q.shape[1])).any(axis=1, keepdims=True)


@top_k_hinge.obvious
def _(logits, labels):
    rows = np.arange(len(labels))
    q = 1.0 + logits - logits[rows, labels][:, None]
    q[rows, labels] = 0.0
    return np.maximum(0, np.sort(q, axis=1)[:, -5:].mean(axis=1))


for _hinge in (crammer_singer_hinge, weston_watkins_hinge, multi_margin, top_k_hinge):
    _hinge.hard(large_scores)


@weston_watkins_hinge.kinks
def _(logits, labels, margin):
    return _on_the_margin(logits, labels, margin)


@multi_margin.kinks
def _(logits, labels, p, margin):
    return _on_the_margin(logits, labels, margin) & (p == 1)


def _hinges(logits, labels, margin):
    """max(0, q_k), and 0 at the label."""
    q = gaps(above(logits, labels), labels, margin)
    return where(q > 0, q, 0)


def _largest(q, k):
    """True at the k largest entries of each row, the first ones among equals."""
    rank = np.argsort(np.argsort(-q, axis=1, kind="stable"), axis=1)
    return rank < k


def _on_the_margin(logits, labels, margin):
    """Rows in which another class has a gap of exactly 0."""
    at_zero = (gaps(above(logits, labels), labels, margin) == 0) & ~label_mask(labels, logits.shape[1])
    return at_zero.any(axis=1, keepdims=True)
