"""The Z-loss: a logistic loss of the label's standardised score, blind to the shift and the scale of a row."""

import numpy as np

from lossref.core import Count, Labels, NonNegative, Paper, Positive, Real, at, label_mask, like, loss, total, where
from lossref.primitives import sigmoid, softplus
from lossref.primitives.alternative_softmaxes import power_of_two

PAPER = Paper(
    "The Z-loss: a shift and scale invariant classification loss belonging to the spherical family",
    2016,
    "arXiv:1604.08859",
)


@loss(
    of="logits",
    paper=PAPER,
    symmetries={"shift": (), "scale": ("eps",), "class permutation": (), "row permutation": ()},
)
def z_loss(
    logits: Real("N C"), labels: Labels("N", below="C"), *, a: Positive = 1.0, b: Real = 0.0, eps: NonNegative = 0.0
):
    r"""How far the label's score stands out of its row, counted in standard deviations of the row.

    .. math::
        L = \frac1a \log\big(1 + e^{a(b - z_c)}\big), \qquad z_c = \frac{o_c - \mu}{\varsigma + \epsilon},\quad
        \mu = \frac1D \sum_k o_k,\quad \varsigma^2 = \frac1D \sum_k (o_k - \mu)^2

    Ten times the logits are the same loss: a network cannot lower it by growing its weights, as it can cross-entropy.
    It needs only the label's score, the sum and the sum of squares of the others, see :func:`z_loss_from_statistics`.
    A constant row has z = 0 and no gradient. This is not PaLM's auxiliary "z-loss", which is in cross_entropy.

    Parameters
    ----------
    logits
        Scores o of the classes.
    labels
        The right classes c.
    a
        How sharp the softplus is; with b it trades the first guess against the k best, and is tuned.
    b
        The standardised score that is aimed at.
    eps
        Added to the standard deviation; the paper's code has 1e-12.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.z_loss(logits, labels, reduction="none")
    array([0.23334309, 0.83567993])
    >>> z = (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, keepdims=True)
    >>> np.log(1 + np.exp(-z[[0, 1], labels]))  # the literal formula
    array([0.23334309, 0.83567993])
    """
    logits, scale = _at_unit_scale(logits)
    z = _standardised(logits, labels, eps / scale)[0]
    return softplus(a * (b - z)) / a


@z_loss.gradient
def _(logits, labels, a, b, eps):
    count = logits.shape[1]
    logits, scale = _at_unit_scale(logits)
    eps = eps / scale
    z, spread, variance, constant = _standardised(logits, labels, eps)
    deviation, is_label = np.sqrt(variance), label_mask(labels, count)
    # Without ε the paper's δ_jc - 1/D - z u_j / (D ς), u = o - μ, cancels: with the label alone ahead, or at a class
    # alone behind. Times D² ς² it is a sum over pairs of classes; here the lowest class of the row is split off.
    w, w_spread = _about_the_others(logits, label_mask(np.argmin(logits, axis=1), count))
    lowest, label = w.min(axis=1, keepdims=True), at(w, labels)[:, None]
    pairs = w_spread + (count - 1) * w * label + (w - lowest) * (label - lowest)
    slope = where(is_label, (count - 1) * spread, -pairs) / (count**2 * variance)
    # With ε it is a mean of that and of δ_jc - 1/D.
    slope = (deviation * slope + eps * (is_label - 1 / like(count, variance))) / (deviation + eps)
    return where(constant, 0, -sigmoid(a * (b - z))[:, None] / (deviation + eps) * slope) / scale


@z_loss.kinks
def _(logits):
    return logits.max(axis=1, keepdims=True) == logits.min(axis=1, keepdims=True)


@z_loss.obvious
def _(logits, labels):
    z = (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, keepdims=True)
    return np.log(1 + np.exp(-z[np.arange(len(labels)), labels]))


@loss(
    of=("target_logits", "sum_logits", "sum_squares"),
    paper=PAPER,
    symmetries={"row permutation": ()},
)
def z_loss_from_statistics(
    target_logits: Real("N"),
    sum_logits: Real("N"),
    sum_squares: NonNegative("N"),
    *,
    num_classes: Count,
    a: Positive = 1.0,
    b: Real = 0.0,
):
    r"""The Z-loss from what the algorithm for very many classes knows of a row, without the row.

    .. math::
        L = \frac1a \log\big(1 + e^{a(b - z_c)}\big), \qquad z_c = \frac{o_c - \mu}{\varsigma},\quad
        \mu = \frac{s}{D},\quad \varsigma^2 = \frac{q}{D} - \mu^2

    The sum :math:`s = \bar w^\top h` and the sum of squares :math:`q = h^\top Q h` of D scores o = Wh cost d²
    operations for h of size d, whatever D is; so does the update of W. The price: the variance is a difference, and
    is lost where the mean is much larger than the deviation.

    Parameters
    ----------
    target_logits
        The score of each row's label.
    sum_logits
        The sum of all scores of each row.
    sum_squares
        The sum of their squares.
    num_classes
        The number D of scores.
    a
        How sharp the softplus is.
    b
        The standardised score that is aimed at.

    Examples
    --------
    >>> o = np.array([[2.0, 0.0, -1.0]])
    >>> lr.z_loss_from_statistics(o[:, 0], o.sum(axis=1), (o**2).sum(axis=1), num_classes=3)
    np.float64(0.23334308686...)
    >>> np.log(1 + np.exp(-(2.0 - 1 / 3) / np.sqrt(5 / 3 - 1 / 9)))  # the literal formula
    np.float64(0.23334308686...)
    """
    z, _, _ = _from_statistics(target_logits, sum_logits, sum_squares, num_classes)
    return softplus(a * (b - z)) / a


@z_loss_from_statistics.gradient
def _(target_logits, sum_logits, sum_squares, num_classes, a, b):
    z, mean, deviation = _from_statistics(target_logits, sum_logits, sum_squares, num_classes)
    push = sigmoid(a * (b - z)) / deviation
    return -push, push * (1 - z * mean / deviation) / num_classes, push * z / (2 * num_classes * deviation)


@z_loss_from_statistics.requires("sum_squares", "more than sum_logits² / num_classes: a row that is not constant")
def _(sum_logits, sum_squares, num_classes):
    return sum_squares - sum_logits * (sum_logits / num_classes) > 0


@z_loss_from_statistics.arrange
def _(sum_logits, sum_squares, num_classes, **others):
    return {"sum_squares": sum_squares + np.asarray(sum_logits) ** 2 / num_classes}


@z_loss_from_statistics.obvious
def _(target_logits, sum_logits, sum_squares, num_classes):
    z = (target_logits - sum_logits / num_classes) / np.sqrt(
        sum_squares / num_classes - (sum_logits / num_classes) ** 2
    )
    return np.log(1 + np.exp(-z))


def _at_unit_scale(logits):
    """The scores less the row's largest, divided by a power of two: so no square overflows. And that power."""
    centred = logits - logits.max(axis=1, keepdims=True)  # a common offset changes nothing
    scale = power_of_two(centred)
    return centred / scale, scale


def _about_the_others(logits, is_one):
    """Each score less the mean of all but one of its row, and the sum of squares of all but that one."""
    count = max(logits.shape[1] - 1, 1)
    centred = logits
    for _ in range(2):  # the second time for what rounding left
        centred = centred - total(where(is_one, 0, centred), keepdims=True) / count
    return centred, total(where(is_one, 0, centred) ** 2, keepdims=True)


def _standardised(logits, labels, eps):
    """z of each row; as columns the spread of the others, ς² (1 for a constant row), which rows are constant."""
    count = logits.shape[1]
    centred, spread = _about_the_others(logits, label_mask(labels, count))
    lead = at(centred, labels)[:, None] * (count - 1) / count
    variance = lead**2 / max(count - 1, 1) + spread / count
    constant = variance == 0
    variance = where(constant, 1, variance)
    z = where(constant, 0, lead / (np.sqrt(variance) + eps))[:, 0]
    return z, spread, variance, constant


def _from_statistics(target_logits, sum_logits, sum_squares, num_classes):
    mean = sum_logits / num_classes
    deviation = np.sqrt((sum_squares - sum_logits * mean) / num_classes)
    return (target_logits - mean) / deviation, mean, deviation
