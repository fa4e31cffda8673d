"""LDR-KL in which no class may take more than one k-th of the attention."""

import numpy as np

from lossref.core import Labels, NonNegative, Paper, Positive, Real, label_mask, like, loss, total, where
from lossref.core.declarations import Whole
from lossref.primitives import softmax_row

from .gaps import above, distant_label, gaps, gaps_below, leading_class
from .ldr_kl import SYMMETRIES, soft_maximum


@loss(
    of="logits",
    paper=Paper("Label Distributionally Robust Losses for Multi-class Classification", 2023, "arXiv:2112.14869"),
    symmetries={**SYMMETRIES, "shift": ()},
)
def ldr_topk_kl(
    logits: Real("N C"),
    labels: Labels("N", below="C"),
    *,
    k: Whole(low=1, up_to="C") = 5,
    temperature: Positive = 1.0,
    margin: NonNegative = 0.1,
):
    r"""LDR-KL with :math:`\pi_j \le 1/k`: the soft maximum becomes a soft mean of the k largest gaps.

    .. math::
        \ell = \max_{\pi \in \Delta,\; \pi_j \le 1/k} \sum_j \pi_j q_j - \lambda \sum_j \pi_j \log(K \pi_j),
        \qquad q_j = x_j - x_y + c\,[j \ne y]

    The a largest gaps get the full 1/k and the others share what is left as a softmax, with the smallest a for which
    no share exceeds 1/k. k = 1 is :func:`ldr_kl`; λ → 0 is the mean of the k largest gaps, as in :func:`top_k_hinge`.
    This form is read off the paper, which has no code for it.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    k
        How many classes must share the attention at least.
    temperature
        The temperature λ.
    margin
        The margin c that every wrong class is given.

    Examples
    --------
    >>> logits, labels = np.array([[3.0, 2.5, -1.0]]), np.array([2])
    >>> lr.ldr_topk_kl(logits, labels, k=2, margin=0.0)
    np.float64(3.3594101...)
    >>> pi, q = np.array([0.5, 0.5 / (1 + np.exp(-3.5)), 0.5 / (1 + np.exp(3.5))]), np.array([4.0, 3.5, 0.0])
    >>> (pi * q).sum() - (pi * np.log(3 * pi)).sum()  # the literal formula, at the largest allowed share of class 0
    np.float64(3.3594101...)
    """
    classes = logits.shape[1]
    q = gaps(above(logits, labels), labels, margin)
    capped, a = _capped(_below_leader(logits, labels, margin), k, temperature)
    left = (k - a) / k
    # What it costs that the a largest have 1/k and the rest has (k - a) / k, where uniform shares cost nothing.
    excess = like(classes - k, q) / k
    price = a / k * np.log1p(excess) + left * np.log1p(-a * excess / (classes - a))
    return total(where(capped, q, 0)) / k + left * soft_maximum(q, temperature, ~capped) - temperature * price


@ldr_topk_kl.gradient
def _(logits, labels, k, temperature, margin):
    u, is_label = _below_leader(logits, labels, margin), label_mask(labels, logits.shape[1])
    capped, a = _capped(u, k, temperature)
    row = softmax_row(where(capped, -np.inf, u), temperature)
    a, left = a[:, None], (k - a[:, None]) / k
    most = 1 / like(k, a)
    pi = where(capped, most, left * row.p)
    not_pi = where(capped, (k - 1) * most, a / k + left * row.not_p)
    return where(is_label, -not_pi, pi)


ldr_topk_kl.hard(distant_label)


@ldr_topk_kl.obvious
def _(logits, labels):
    rows, (count, classes) = np.arange(len(labels)), logits.shape
    q = logits - logits[rows, labels][:, None] + 0.1
    q[rows, labels] = 0.0
    values = np.zeros(count)
    for i, row in enumerate(-np.sort(-q, axis=1)):
        for a in range(5):
            share = np.exp(row[a:]) / np.exp(row[a:]).sum() * (1 - a / 5)
            if share[0] <= 0.2 or a == 4:
                pi = np.concatenate([np.full(a, 0.2), share])
                values[i] = (pi * row).sum() - (pi * np.log(classes * pi)).sum()
                break
    return values


def _below_leader(logits, labels, margin):
    leader = leading_class(logits, labels, margin)
    return gaps_below(above(logits, leader), leader, labels, margin)


def _capped(q, k, temperature):
    """Which entries of each row get 1/k, and how many: the a largest, for the least a that leaves no share above it."""
    order = np.argsort(-q, axis=1, kind="stable")
    falling = np.take_along_axis(q, order, axis=1)
    fits = []
    for a in range(k):
        others = total(np.exp((falling[:, a + 1 :] - falling[:, a : a + 1]) / temperature))
        fits.append(others >= k - a - 1)
    a = np.argmax(fits, axis=0)
    rank = np.argsort(order, axis=1)
    return rank < a[:, None], like(a, q)
