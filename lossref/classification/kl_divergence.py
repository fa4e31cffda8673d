"""The Kullback–Leibler divergence between targets and the softmax of logits, in either direction."""

import numpy as np

from lossref.core import Flag, Masses, Paper, Real, floats, loss, times, total, where
from lossref.primitives import softmax_row
from lossref.primitives.remainder import exp_above_tangent


@loss(
    of="logits",
    paper=Paper("On Information and Sufficiency", 1951, "doi:10.1214/aoms/1177729694"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def kl_divergence(
    logits: Real("N C", masked=True),
    targets: Masses("N C"),
    *,
    reverse: Flag = False,
):
    r"""Divergence of the softmax from targets that sum to 1, or of the targets from the softmax.

    .. math::
        \mathrm{KL}(t\|p) = \sum_k t_k(\log t_k - \log p_k), \qquad
        \mathrm{KL}(p\|t) = \sum_k p_k(\log p_k - \log t_k)

    Forward, the softmax must cover every class that the targets have; reverse, it may settle on one of them, and must
    avoid what the targets exclude, where the value is inf and the gradient nan. Both are computed as
    :math:`\sum_k t_k\,\varphi(\log p_k - \log t_k)`, with :math:`\varphi(u) = e^u - 1 - u \ge 0` (or p and t swapped):
    the same where the masses sum to 1, and a sum without cancellation, never negative. PyTorch's reduction="mean"
    divides by N·C; "mean" here is its "batchmean".

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    targets
        The right distribution over the classes.
    reverse
        Whether the logits' distribution comes first.

    Examples
    --------
    >>> logits, t = np.array([[2.0, 0.0, -1.0]]), np.array([[0.5, 0.25, 0.25]])
    >>> lr.kl_divergence(logits, t), lr.kl_divergence(logits, t, reverse=True)
    (np.float64(0.380125...), np.float64(0.277153...))
    >>> p = np.exp(logits) / np.exp(logits).sum()
    >>> (t * np.log(t / p)).sum(), (p * np.log(p / t)).sum()  # the literal formulas
    (np.float64(0.380125...), np.float64(0.277153...))
    """
    row = softmax_row(logits)
    excess = row.log_p - np.log(targets)
    if reverse:
        reached = where(targets == 0, np.inf, _bregman(row.p, targets, -excess))
        return total(where(logits == -np.inf, targets, reached))
    return total(where(targets == 0, row.p, _bregman(targets, row.p, excess)))


@kl_divergence.gradient
def _(logits, targets, reverse):
    row = softmax_row(logits)
    if not reverse:
        return row.p_minus_masses(targets)
    return where(_excluded(logits, targets, reverse), np.nan, row.slope_of_mean(row.shifted - np.log(targets)))


@kl_divergence.kinks
def _(logits, targets, reverse):
    return _excluded(logits, targets, reverse)


@kl_divergence.obvious
def _(logits, targets):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return (targets * np.log(targets / p)).sum(axis=1)


def _excluded(logits, targets, reverse):
    """True for the rows (N, 1) where the targets exclude a class that the softmax does not, in reverse."""
    return ((targets == 0) & (logits > -np.inf)).any(axis=1, keepdims=True) & reverse


def _bregman(a, b, u):
    """a (log a - log b) - a + b ≥ 0, where u = log b - log a."""
    return where(floats(u) < 1, times(a, exp_above_tangent(u)), b - a * (1 + u))
