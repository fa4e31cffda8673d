"""Self-adjusting Dice: Dice with each probability weighted by how undecided it is."""

from lossref.core import Binary, Choice, Flag, NonNegative, Paper, Probability, loss, total, where


@loss(
    of="probs",
    returns=lambda probs, level: _terms_shape(probs, level),
    paper=Paper("Dice Loss for Data-imbalanced NLP Tasks", 2020, "arXiv:1911.02855", "11"),
)
def self_adjusting_dice(
    probs: Probability("..."),
    targets: Binary("..."),
    *,
    alpha: NonNegative = 1.0,
    smooth: NonNegative = 1.0,
    squared: Flag = False,
    level: Choice("sample", "set") = "sample",
):
    r"""Dice loss on the weighted probabilities :math:`w = (1-p)^\alpha p`, which fade as the model gets sure.

    .. math:: \ell = 1 - \frac{2\sum_i w_i y_i + \gamma}{\sum_i w_i + \sum_i y_i + \gamma}

    At level "sample" (the paper) each element is a term of its own; at level "set" a row is (a 1-D array is one row,
    further axes are flattened). Since w falls beyond p = 1/(1+α), a positive that is already sure is pushed back.
    With ``squared`` the denominator sums squares. A term with nothing predicted, nothing true and ``smooth=0`` is 0.

    Parameters
    ----------
    probs
        Probability of the positive class.
    targets
        Whether the class is there.
    alpha
        How fast sure probabilities fade; 0 is plain Dice.
    smooth
        The smoothing γ of numerator and denominator.
    squared
        Whether the denominator sums squares.
    level
        What one term is: an element ("sample") or a row ("set").

    Examples
    --------
    >>> p, y = np.array([0.8, 0.3]), np.array([1, 0])
    >>> lr.self_adjusting_dice(p, y, reduction="none")
    array([0.38888889, 0.17355372])
    >>> w = (1 - p) * p
    >>> 1 - (2 * w * y + 1) / (w + y + 1)  # the literal formula
    array([0.38888889, 0.17355372])
    """
    error, size, *_ = _parts(probs, targets, alpha, smooth, squared, level)
    return where(size == 0, 0.0, error / where(size == 0, 1.0, size))


@self_adjusting_dice.gradient
def _(probs, targets, alpha, smooth, squared, level, cotangent):
    error, size, d_error, d_size = _parts(probs, targets, alpha, smooth, squared, level)
    size = where(size == 0, 1.0, size)
    per_term = (cotangent / size, cotangent * (error / size) / size)
    by_error, by_size = (a if level == "sample" else a[:, None] for a in per_term)
    fade = 1.0 if alpha == 0 else (1 - probs) ** (alpha - 1) * (1 - (1 + alpha) * probs)
    fade = where((probs == 1) & (0 < alpha < 1), 0.0, fade)
    return (by_error * d_error - by_size * d_size).reshape(probs.shape) * fade


@self_adjusting_dice.kinks
def _(probs, alpha):
    return (probs == 1) & (0 < alpha < 1)  # w' falls to minus infinity: the gradient there is 0 by convention


@self_adjusting_dice.obvious
def _(probs, targets):
    w = (1 - probs) * probs
    return 1 - (2 * w * targets + 1) / (w + targets + 1)


def _terms_shape(probs, level):
    return probs.shape if level == "sample" else probs.shape[:1] if probs.ndim > 1 else (1,)


def _parts(probs, targets, alpha, smooth, squared, level):
    """Numerator and denominator of each term, and their derivatives by w.

    The numerator is what is wrong, w(1-y) + (1-w)y, not 1 minus what is right: a nearly perfect term keeps its digits.
    """
    w, y = (1 - probs) ** alpha * probs, targets
    if squared:
        error, size, d_error, d_size = (w - y) ** 2, w**2 + y**2, 2 * (w - y), 2 * w
    else:
        error, size, d_error, d_size = w * (1 - y) + (1 - w) * y, w + y, 1 - 2 * y, 1 + 0 * y
    if level == "sample":
        return error, size + smooth, d_error, d_size
    rows = (*_terms_shape(probs, level), -1)
    error, size, d_error, d_size = (part.reshape(rows) for part in (error, size, d_error, d_size))
    return total(error), total(size) + smooth, d_error, d_size
