"""Cross-entropy against a distribution over the classes instead of one class."""

import numpy as np

from lossref.core import Fraction, NonNegative, Paper, Positive, Real, loss, times, total
from lossref.primitives import sech_squared, soft_cap, softmax_row


@loss(
    of="logits",
    paper=Paper("Rethinking the Inception Architecture for Computer Vision", 2015, "arXiv:1512.00567", "1"),
    symmetries={"shift": ("softcap", "z_loss_weight"), "class permutation": ("weight",), "row permutation": ()},
)
def soft_cross_entropy(
    logits: Real("N C", masked=True),
    targets: NonNegative("N C"),
    *,
    weight: NonNegative("C") = None,
    label_smoothing: Fraction = 0.0,
    softcap: Positive = None,
    z_loss_weight: NonNegative = 0.0,
):
    r"""Cross-entropy of the softmax of logits against dense targets, which need not sum to 1.

    .. math::
        \ell = \sum_c a_c(-\log p_c) + \zeta\,\omega\,\mathrm{lse}(u)^2, \qquad
        a_c = w_c\big[(1-\varepsilon)\,t_c + \tfrac{\varepsilon}{C}\big],\quad
        p = \mathrm{softmax}(u),\quad u = c\tanh(x/c)

    ω is 1 without class weights and :math:`\sum_c w_c t_c` with them. The gradient is the prediction times the mass
    of the target, minus the target. "mean" divides by the number of rows, as PyTorch does: one-hot targets and
    labels have different means when classes are weighted. A class that is masked (-inf) and has no target counts
    nothing, where PyTorch returns nan.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    targets
        How much of each class is right.
    weight
        How much each class counts, 1 by default.
    label_smoothing
        The share ε of the target that is spread over all classes.
    softcap
        The bound c on the size of a logit, none by default.
    z_loss_weight
        The weight ζ of the squared log-normaliser, which keeps it near 0.

    Examples
    --------
    >>> logits = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]])
    >>> targets = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    >>> lr.soft_cross_entropy(logits, targets, reduction="none")
    array([1.41984602e+00, 8.49670851e-18])
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> -(targets * np.log(p)).sum(axis=1)  # the literal formula: the second row is lost
    array([ 1.41984602, -0.        ])
    """
    row = softmax_row(soft_cap(logits, softcap))
    masses, mass = _masses(targets, weight, label_smoothing)
    return total(times(masses, -row.log_p)) + z_loss_weight * mass * row.lse**2


@soft_cross_entropy.gradient
def _(logits, targets, weight, label_smoothing, softcap, z_loss_weight):
    row = softmax_row(soft_cap(logits, softcap))
    masses, mass = _masses(targets, weight, label_smoothing)
    g = row.p_minus_masses(masses) + 2 * z_loss_weight * (mass * row.lse)[:, None] * row.p
    return g if softcap is None else g * sech_squared(logits / softcap)


@soft_cross_entropy.obvious
def _(logits, targets):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -(targets * np.log(p)).sum(axis=1)


def _masses(targets, weight, label_smoothing):
    """What multiplies each -log p, and what multiplies the z-term."""
    smooth = (1 - label_smoothing) * targets + label_smoothing / targets.shape[1]
    return (smooth, total(targets) * 0 + 1) if weight is None else (weight * smooth, total(weight * targets))
