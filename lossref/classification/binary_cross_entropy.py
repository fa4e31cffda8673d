"""Binary cross-entropy: one yes-no question per element, from probabilities or from logits."""

import numpy as np

from lossref.core import NonNegative, NonPositive, Paper, PerColumn, Probability, Real, loss, times, where
from lossref.primitives import sigmoid, softplus

LIKELIHOOD = Paper("The regression analysis of binary sequences", 1958, "doi:10.1111/j.2517-6161.1958.tb00292.x")


@loss(of="probs", returns="...", paper=LIKELIHOOD, symmetries={"row permutation": ()})
def binary_cross_entropy(
    probs: Probability("..."),
    targets: Probability("..."),
    *,
    log_floor: NonPositive(None, or_none=True) = -100.0,
):
    r"""Binary cross-entropy of probabilities, with logarithms cut off at a floor.

    .. math:: \ell = -t \max(\log p, F) - (1-t)\max(\log(1-p), F)

    A lesson in why losses take logits: a float64 next to 1 cannot say by how little it misses, so no answer can be
    more right than 1e-16, and a wrong one costs at most -F. The gradient is the true one, :math:`-t/p + (1-t)/(1-p)`,
    and 0 in a term that lies on the floor; PyTorch instead divides by p(1-p) cut off at 1e-12 and returns 0 for
    p = t = 0. Keras clips p to [1e-7, 1 - 1e-7].

    Parameters
    ----------
    probs
        Probability of the positive class.
    targets
        The right probability, 0 or 1 for a plain label.
    log_floor
        The floor F of the logarithms; None for no floor.

    Examples
    --------
    >>> p, t = np.array([0.8, 0.3, 1e-20]), np.array([1.0, 0.0, 0.0])
    >>> lr.binary_cross_entropy(p, t, reduction="none")
    array([2.23143551e-01, 3.56674944e-01, 1.00000000e-20])
    >>> -t * np.log(p) - (1 - t) * np.log(1 - p)  # the literal formula: the last one is lost
    array([0.22314355, 0.35667494, 0.        ])
    """
    (log_p, _), (log_not_p, _) = _logs(probs, log_floor)
    return times(targets, -log_p) + times(1 - targets, -log_not_p)


@binary_cross_entropy.gradient
def _(probs, targets, log_floor):
    (_, p_counts), (_, not_p_counts) = _logs(probs, log_floor)
    yes = where(p_counts & (targets > 0), targets / probs, 0.0)
    no = where(not_p_counts & (targets < 1), (1 - targets) / (1 - probs), 0.0)
    return no - yes


@binary_cross_entropy.obvious
def _(probs, targets):
    return -targets * np.log(probs) - (1 - targets) * np.log(1 - probs)


def _logs(probs, log_floor):
    """log p and log(1 - p) cut off at the floor, each with where it is not."""
    logs = np.log(probs), np.log1p(-probs)
    if log_floor is None:
        return [(x, True) for x in logs]
    return [(where(x > log_floor, x, log_floor), x > log_floor) for x in logs]


@loss(of="logits", returns="...", paper=LIKELIHOOD, symmetries={"row permutation": ("pos_weight",)})
def binary_cross_entropy_with_logits(
    logits: Real("...", masked=True, all_masked=True),
    targets: Probability("..."),
    *,
    pos_weight: PerColumn("...", interval=NonNegative.interval) = None,
):
    r"""Binary cross-entropy of logits: two softplus terms, neither of which can cancel the other.

    .. math:: \ell = P\,t\,\mathrm{sp}(-x) + (1-t)\,\mathrm{sp}(x), \qquad \mathrm{sp}(u) = \log(1 + e^u)

    The gradient is prediction minus target, σ(x) - t, when P is 1. The usual form, (1-t)x + sp(-x), subtracts two equal
    numbers for a confident negative, and a loss of 1e-18 becomes 0. A logit of -inf is a sure no.

    Parameters
    ----------
    logits
        Log-odds of the positive class.
    targets
        The right probability, 0 or 1 for a plain label.
    pos_weight
        The weight P of the positive class, a number or one for each entry of the last axis; 1 by default.

    Examples
    --------
    >>> x, t = np.array([2.0, -1.0, -40.0]), np.array([1.0, 0.5, 0.0])
    >>> lr.binary_cross_entropy_with_logits(x, t, reduction="none")
    array([1.26928011e-01, 8.13261688e-01, 4.24835426e-18])
    >>> p = 1 / (1 + np.exp(-x))
    >>> -t * np.log(p) - (1 - t) * np.log(1 - p)  # the literal formula: the last one is lost
    array([0.12692801, 0.81326169, 0.        ])
    """
    positive = targets if pos_weight is None else pos_weight * targets
    return times(positive, softplus(-logits)) + times(1 - targets, softplus(logits))


@binary_cross_entropy_with_logits.gradient
def _(logits, targets, pos_weight):
    positive = targets if pos_weight is None else pos_weight * targets
    return (1 - targets) * sigmoid(logits) - positive * sigmoid(-logits)


@binary_cross_entropy_with_logits.obvious
def _(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)
