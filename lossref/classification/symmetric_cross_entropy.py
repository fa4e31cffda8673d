"""Symmetric cross-entropy: the target judges the prediction, and the prediction judges the target."""

import numpy as np

from lossref.core import (
    Fraction,
    Interval,
    Labels,
    NonNegative,
    Paper,
    Real,
    at,
    label_mask,
    like,
    loss,
    times,
    total,
    where,
)
from lossref.primitives import softmax_row


@loss(
    of="student_logits",
    paper=Paper("Robust Mean Teacher for Continual and Gradual Test-Time Adaptation", 2023, "arXiv:2211.13081"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def symmetric_cross_entropy(
    student_logits: Real("N C", masked=True),
    teacher_logits: Real("N C", masked=True),
    *,
    alpha: Fraction = 0.5,
):
    r"""Cross-entropy of a student against a teacher, and of the teacher against the student.

    .. math:: \ell = -(1-\alpha)\sum_k t_k \log p_k - \alpha \sum_k p_k \log t_k

    p is the student's softmax and t the teacher's, which is a moving average and gets no gradient. With the first term
    alone a confident teacher dominates the gradient, and an unsure one is hardly heard where the student is confident;
    the second term balances the two. The paper's code takes α = 0.5 and averages over an image and its augmentation.
    A class that one of them excludes (-inf) and the other does not costs inf; if it is the teacher who does, and α > 0,
    the gradient of that row is nan.

    Parameters
    ----------
    student_logits
        Scores of the classes from the network that is trained.
    teacher_logits
        Scores of the classes from the teacher.
    alpha
        The share α of the reverse direction.

    Examples
    --------
    >>> x, y = np.array([[2.0, 0.0, -1.0]]), np.array([[1.0, 0.5, -1.0]])
    >>> lr.symmetric_cross_entropy(x, y)
    np.float64(0.89771...)
    >>> p, t = np.exp(x) / np.exp(x).sum(), np.exp(y) / np.exp(y).sum()
    >>> -0.5 * (t * np.log(p)).sum() - 0.5 * (p * np.log(t)).sum()  # the literal formula
    np.float64(0.89771...)
    """
    student, teacher = softmax_row(student_logits), softmax_row(teacher_logits)
    forward, reverse = _cost(teacher_logits, teacher.p, student.log_p), _cost(student_logits, student.p, teacher.log_p)
    return times(1 - alpha, forward) + times(alpha, reverse)


@symmetric_cross_entropy.gradient
def _(student_logits, teacher_logits, alpha):
    student, teacher = softmax_row(student_logits), softmax_row(teacher_logits)
    both_sure = (student.p > 0.5) & (teacher.p > 0.5)
    difference = where(both_sure, teacher.not_p - student.not_p, student.p - teacher.p)
    g = times(1 - alpha, difference) - times(alpha, student.slope_of_mean(teacher.shifted))
    return where(_excluded_by_teacher(student_logits, teacher_logits, alpha), np.nan, g)


@symmetric_cross_entropy.kinks
def _(student_logits, teacher_logits, alpha):
    return _excluded_by_teacher(student_logits, teacher_logits, alpha)


@symmetric_cross_entropy.obvious
def _(student_logits, teacher_logits):
    p, t = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (student_logits, teacher_logits))
    return -((t * np.log(p)).sum(axis=1) + (p * np.log(t)).sum(axis=1)) / 2


def _cost(logits, p, log_q):
    """-Σ p log q, inf where q excludes a class that p, however small it is, does not."""
    underflown = (p == 0) & (log_q == -np.inf)
    return total(where(logits == -np.inf, 0, where(underflown, np.inf, -p * log_q)))


def _excluded_by_teacher(student_logits, teacher_logits, alpha):
    """True for the rows (N, 1) where the teacher excludes a class that the student does not."""
    return ((teacher_logits == -np.inf) & (student_logits > -np.inf)).any(axis=1, keepdims=True) & (alpha > 0)


@loss(
    of="logits",
    paper=Paper("Symmetric Cross Entropy for Robust Learning with Noisy Labels", 2019, "arXiv:1908.06112", "7"),
    symmetries={"shift": (), "class permutation": (), "row permutation": ()},
)
def symmetric_cross_entropy_labels(
    logits: Real("N C", masked=True),
    labels: Labels("N", below="C"),
    *,
    alpha: NonNegative = 0.1,
    beta: NonNegative = 1.0,
    log_zero: Real(None, interval=Interval(high=0.0)) = -4.0,
    prob_floor: Real(None, interval=Interval(0.0, 1.0)) = None,
):
    r"""Cross-entropy against labels that may be wrong, plus the reverse cross-entropy, in which log 0 is a constant.

    .. math:: \ell = -\alpha \log p_y - \beta A\,(1 - p_y)

    In the reverse direction the one-hot label stands inside the logarithm, so A < 0 takes the place of log 0; what
    comes out is the mean absolute error times -A. The paper has A = -4; its code clips labels to 1e-4, A = -9.21, and
    the probability in the first term to 1e-7, below which that term has no gradient.

    Parameters
    ----------
    logits
        Unnormalised scores of the classes.
    labels
        The right classes, some of which may be wrong.
    alpha
        The weight α of cross-entropy: 0.1 for CIFAR-10, 6 for CIFAR-100, 0.01 for MNIST in the paper.
    beta
        The weight β of reverse cross-entropy: 1, 0.1 and 1.
    log_zero
        What A stands for log 0.
    prob_floor
        The least probability in cross-entropy, none by default.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), np.array([0, 1])
    >>> lr.symmetric_cross_entropy_labels(logits, labels, reduction="none")
    array([6.41805664e-01, 3.48365049e-17])
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> log_q = np.where(np.arange(3) == labels[:, None], 0.0, -4.0)
    >>> -0.1 * np.log(p[[0, 1], labels]) - 1.0 * (p * log_q).sum(axis=1)  # the literal formula
    array([6.41805664e-01, 3.39868340e-17])
    """
    row = softmax_row(logits)
    log_p = at(row.log_p, labels)
    if prob_floor is not None:
        log_p = where(at(row.p, labels) > prob_floor, log_p, np.log(prob_floor))
    return times(alpha, -log_p) - beta * log_zero * at(row.not_p, labels)


@symmetric_cross_entropy_labels.gradient
def _(logits, labels, alpha, beta, log_zero, prob_floor):
    row = softmax_row(logits)
    p = at(row.p, labels)
    believed = like(alpha, p) if prob_floor is None else where(p > prob_floor, alpha, like(0, p))
    return (believed - beta * log_zero * p)[:, None] * row.p_minus(label_mask(labels, logits.shape[1]))


@symmetric_cross_entropy_labels.kinks
def _(logits, labels, prob_floor):
    return (at(softmax_row(logits).p, labels) == (2 if prob_floor is None else prob_floor))[:, None]


@symmetric_cross_entropy_labels.obvious
def _(logits, labels):
    p_y = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    return -0.1 * np.log(p_y) + 4.0 * (1 - p_y)
