"""Focal losses: cross-entropy that fades on what is already right."""

import numpy as np

from lossref.core import Fraction, Labels, NonNegative, Paper, Probability, Real, at, label_mask, loss, times, where
from lossref.primitives import sigmoid, softmax_row, softplus

FOCAL = Paper("Focal Loss for Dense Object Detection", 2017, "arXiv:1708.02002", "5")


@loss(of="logits", returns="...", paper=FOCAL, symmetries={"row permutation": ()})
def sigmoid_focal(
    logits: Real("...", masked=True, all_masked=True),
    targets: Probability("..."),
    *,
    alpha: Fraction(None, or_none=True) = 0.25,
    gamma: NonNegative = 2.0,
):
    r"""Focal loss of yes-no questions: binary cross-entropy times a power of how wrong the answer is.

    .. math::
        \ell = \alpha_t\,m^\gamma\,b, \qquad b = t\,\mathrm{sp}(-x) + (1-t)\,\mathrm{sp}(x),\quad
        m = t\,\sigma(-x) + (1-t)\,\sigma(x),\quad \alpha_t = \alpha t + (1-\alpha)(1-t)

    Among a hundred thousand easy negatives of a detector the few hard ones would be lost in the sum; m is the
    probability given to the wrong answer, so the easy ones vanish from it. α weighs the positives and 1 - α the
    negatives. torchvision takes a negative alpha for none, and reduces by "none" unless told.

    Parameters
    ----------
    logits
        Log-odds of the positive class.
    targets
        The right probability, 0 or 1 for a plain label.
    alpha
        The weight α of the positives against 1 - α; None for no weights.
    gamma
        The power γ of the modulating factor; 0 is binary cross-entropy.

    Examples
    --------
    >>> x, t = np.array([2.0, -1.0, -40.0]), np.array([1.0, 1.0, 0.0])
    >>> lr.sigmoid_focal(x, t, reduction="none")
    array([4.50890709e-04, 1.75467076e-01, 5.75073606e-53])
    >>> p = 1 / (1 + np.exp(-x))
    >>> p_t, a_t = np.where(t == 1, p, 1 - p), np.where(t == 1, 0.25, 0.75)
    >>> -a_t * (1 - p_t) ** 2 * np.log(p_t)  # the literal formula: the last one is lost
    array([ 0.00045089,  0.17546708, -0.        ])
    """
    wrong = targets * sigmoid(-logits) + (1 - targets) * sigmoid(logits)
    b = times(targets, softplus(-logits)) + times(1 - targets, softplus(logits))
    return times(_alpha(targets, alpha), where(b == np.inf, b, wrong**gamma * b))  # inf: a sure and wrong no


@sigmoid_focal.gradient
def _(logits, targets, alpha, gamma):
    no, yes = sigmoid(-logits), sigmoid(logits)
    wrong = targets * no + (1 - targets) * yes
    b = times(targets, softplus(-logits)) + times(1 - targets, softplus(logits))
    # m^(γ-1) would be infinite where m underflows; σ(x)σ(-x)/m is at most 1 for plain labels.
    fading = (1 - 2 * targets) * times(no * yes / where(wrong == 0, 1.0, wrong), b)
    return _alpha(targets, alpha) * wrong**gamma * (gamma * fading + (1 - targets) * yes - targets * no)


@sigmoid_focal.kinks
def _(logits):
    return logits == -np.inf  # the limit


@sigmoid_focal.obvious
def _(logits, targets):
    p = 1 / (1 + np.exp(-logits))
    wrong = targets * (1 - p) + (1 - targets) * p
    cross_entropy = -targets * np.log(p) - (1 - targets) * np.log(1 - p)
    return (0.25 * targets + 0.75 * (1 - targets)) * wrong**2 * cross_entropy


def _alpha(targets, alpha):
    return 1.0 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)


@loss(
    of="logits",
    paper=FOCAL,
    symmetries={"shift": (), "class permutation": ("alpha",), "row permutation": ()},
)
def focal(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    gamma: NonNegative = 2.0,
    alpha: NonNegative("C") = None,
):
    r"""Focal loss over classes: cross-entropy times a power of the probability of everything else.

    .. math:: \ell = -\alpha_y\,(1-p_y)^\gamma \log p_y

    The modulating factor switches off what is already right, so the network stops short of certainty: it calibrates
    as well as rebalances. "mean" divides by the number of rows. Keras' CategoricalFocalCrossentropy multiplies
    every class by the same α, 0.25.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes.
    gamma
        The power γ of the modulating factor; 0 is cross-entropy.
    alpha
        The weight of each class, 1 by default.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.focal(logits, labels, reduction="none")
    array([4.14425731e-03, 6.13411846e-52])
    >>> p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[[0, 1], labels]
    >>> -((1 - p_y) ** 2) * np.log(p_y)  # the literal formula: the second row is lost
    array([ 0.00414426, -0.        ])
    """
    row = softmax_row(logits)
    not_p, cross_entropy = at(row.not_p, labels), -at(row.log_p, labels)
    terms = where(cross_entropy == np.inf, cross_entropy, not_p**gamma * cross_entropy)  # a masked label has p_y = 0
    return terms if alpha is None else times(alpha[labels], terms)


@focal.gradient
def _(logits, labels, gamma, alpha):
    row, is_label = softmax_row(logits), label_mask(labels, logits.shape[1])
    p, not_p, log_p = at(row.p, labels), at(row.not_p, labels), at(row.log_p, labels)
    scale = not_p**gamma * (gamma * times(p, log_p) - not_p) * (1.0 if alpha is None else alpha[labels])
    # The others share the label's gradient by their probabilities.
    return scale[:, None] * where(is_label, 1.0, -row.p / where(not_p == 0, 1.0, not_p)[:, None])


@focal.obvious
def _(logits, labels):
    p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    return -((1 - p_y) ** 2) * np.log(p_y)
