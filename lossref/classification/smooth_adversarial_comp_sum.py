"""A smooth adversarial loss: be right, and do not let the margins move under perturbation."""

import numpy as np

from lossref.core import Labels, NonNegative, Paper, Positive, Real, at, floats, label_mask, loss, total, where
from lossref.primitives import softmax_row

from .comp_sum import tempered, tempered_slope


@loss(
    of=("logits", "adversarial_logits"),
    paper=Paper("Cross-Entropy Loss Functions: Theoretical Analysis and Applications", 2023, "arXiv:2304.07288"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def smooth_adversarial_comp_sum(
    logits: Real("N C"),
    adversarial_logits: Real("N ... C"),
    labels: Labels("N", below="C"),
    *,
    tau: NonNegative = 1.0,
    rho: Positive = 1.0,
    nu: NonNegative = 1.0,
):
    r"""A comp-sum loss of the clean scores, plus the largest change of the margin vector under perturbation.

    .. math::
        \ell = \Phi^\tau\Big(\sum_{k\ne y} e^{-\Delta_k(x)/\rho}\Big)
               + \nu \max_m \Big\lVert \big(\Delta_k(x'_m) - \Delta_k(x)\big)_{k\ne y} \Big\rVert_2, \qquad
        \Delta_k(x) = x_y - x_k

    Together they bound the adversarial error from above, and stay smooth where the maximum over perturbations of the
    loss itself does not. The caller supplies the scores of perturbed copies; nothing is attacked here. The worst copy
    is held fixed in the gradient, and where no margin moves the second term has gradient 0.

    Parameters
    ----------
    logits
        Scores of the classes for the clean inputs.
    adversarial_logits
        Scores for perturbed inputs: (N, C) for one copy of each row, (N, M, C) for M copies.
    labels
        The right classes.
    tau
        The exponent τ of the comp-sum loss.
    rho
        The margin scale ρ.
    nu
        The weight ν of the change of the margins.

    Examples
    --------
    >>> x, z, labels = np.array([[2.0, 0.0, -1.0]]), np.array([[1.0, 0.0, -1.5]]), np.array([0])
    >>> lr.smooth_adversarial_comp_sum(x, z, labels)
    np.float64(1.28788...)
    >>> margins, moved = x[0, 0] - x[0, 1:], z[0, 0] - z[0, 1:]
    >>> np.log(1 + np.exp(-margins).sum()) + np.sqrt(((moved - margins) ** 2).sum())  # the literal formula
    np.float64(1.28788...)
    """
    clean = tempered(at(softmax_row(logits, rho).log_p, labels), tau - 1)
    return clean + nu * _worst_change(logits, adversarial_logits, labels)[0]


@smooth_adversarial_comp_sum.gradient
def _(logits, adversarial_logits, labels, tau, rho, nu):
    row, is_label = softmax_row(logits, rho), label_mask(labels, logits.shape[1])
    clean = tempered_slope(at(row.log_p, labels), tau - 1, row.p_minus(is_label)) / rho
    size, change, worst = _worst_change(logits, adversarial_logits, labels)
    direction = change / where(size == 0, 1, size)[:, None]
    push = nu * where(is_label, total(direction, keepdims=True), -direction)
    if adversarial_logits.ndim == 2:
        return clean - push, push
    return clean - push, where(label_mask(worst, adversarial_logits.shape[1])[..., None], push[:, None], 0)


@smooth_adversarial_comp_sum.kinks
def _(logits, adversarial_logits, labels):
    sizes = np.sort(_sizes(_changes(logits, adversarial_logits, labels)), axis=1)
    kink = sizes[:, -1] == 0
    if sizes.shape[1] > 1:
        kink |= sizes[:, -1] == sizes[:, -2]
    return kink[:, None], kink.reshape((-1,) + (1,) * (adversarial_logits.ndim - 1))


@smooth_adversarial_comp_sum.requires("adversarial_logits", "shape (N, C), or (N, M, C) with M ≥ 1")
def _(adversarial_logits):
    return adversarial_logits.ndim <= 3 and (adversarial_logits.ndim == 2 or adversarial_logits.shape[1] > 0)


@smooth_adversarial_comp_sum.arrange
def _(logits, adversarial_logits, labels, tau, rho, nu):
    copies = adversarial_logits.sum(axis=1) if adversarial_logits.ndim > 3 else adversarial_logits
    return {"adversarial_logits": copies if tau == 1 else copies[:, 0]}  # both shapes get drawn


@smooth_adversarial_comp_sum.obvious
def _(logits, adversarial_logits, labels):
    rows = np.arange(len(labels))
    margins = logits[rows, labels][:, None] - logits
    moved = adversarial_logits[rows, :, labels][..., None] - adversarial_logits
    change = np.sqrt(((moved - margins[:, None]) ** 2).sum(axis=2)).max(axis=1)
    return np.log(np.exp(-margins).sum(axis=1)) + change


def _changes(logits, adversarial_logits, labels):
    """How each margin changes in each copy, an array (N, M, C) that is 0 at the label."""
    copies = adversarial_logits if adversarial_logits.ndim == 3 else adversarial_logits[:, None]
    moved = np.take_along_axis(copies, labels[:, None, None], axis=2) - copies
    return moved - (at(logits, labels)[:, None] - logits)[:, None]


def _sizes(changes):
    """Their Euclidean lengths, an array (N, M), scaled so that no square overflows."""
    scale = abs(floats(changes)).max(axis=2, keepdims=True)
    scale = where(scale == 0, 1, scale)
    squared = total((changes / scale) ** 2)
    still = squared == 0
    return where(still, 0, np.sqrt(where(still, 1, squared)) * scale[..., 0])


def _worst_change(logits, adversarial_logits, labels):
    """The length of the longest change of a row's margins, the change itself, and which copy it is."""
    changes = _changes(logits, adversarial_logits, labels)
    sizes = _sizes(changes)
    worst = np.argmax(floats(sizes), axis=1)
    return at(sizes, worst), np.take_along_axis(changes, worst[:, None, None], axis=1)[:, 0], worst
