"""Binary cross-entropy, focal, Kullback-Leibler, Dice, Poisson, linear cross-entropy: wrong."""

import numpy as np

from . import Mutant
from .textbook import CrossEntropy, Row, reduced, weights

rng = np.random.default_rng(4)
X, T = rng.standard_normal(8), (rng.uniform(size=8) < 0.5).astype(float)
P = rng.uniform(0.05, 0.95, 8)
LOGITS, MASSES = rng.standard_normal((4, 3)), np.array([[0.25, 0.25, 0.5]] * 4)


def sp(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def bce_clipped(probs, targets, *, reduction="mean"):
    p = np.clip(probs, 1e-15, 1 - 1e-15).astype(probs.dtype)
    terms = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    return reduced(terms, reduction, max(terms.size, 1))


def bce_shifted(logits, targets, *, reduction="mean"):
    m = np.maximum(logits, 0)
    terms = logits - logits * targets + m + np.log(np.exp(-m) + np.exp(-logits - m))
    return reduced(terms.astype(logits.dtype), reduction, max(terms.size, 1))


def bce_value(logits, targets, *, reduction="mean"):
    terms = targets * sp(-logits) + (1 - targets) * sp(logits)
    return reduced(terms.astype(logits.dtype), reduction, max(terms.size, 1))


def bce_grad_at_zero(logits, targets, *, reduction="mean", cotangent=1.0):
    by = weights(cotangent, reduction, logits.size, logits.dtype, logits.shape)
    e = np.exp(-np.abs(logits))
    return (by * ((logits > 0) - targets - np.sign(logits) * e / (1 + e))).astype(logits.dtype)


def kl_terms(logits, targets):
    log_p = Row(logits).log_p
    with np.errstate(all="ignore"):
        return np.where(targets > 0, targets * (np.log(np.where(targets > 0, targets, 1)) - log_p), 0)


def kl_hidden(logits, targets, *, reduction="mean"):
    return reduced(kl_terms(logits, targets).sum(axis=1).astype(logits.dtype), reduction, max(len(logits), 1))


def kl_over_classes(logits, targets, *, reduction="mean"):
    return reduced(kl_terms(logits, targets).sum(axis=1).astype(logits.dtype), reduction, max(logits.size, 1))


def distillation_over_classes(student_logits, teacher_logits, labels, *, temperature=4.0, alpha=0.9, reduction="mean"):
    t = student_logits.dtype.type(temperature)
    q, row = Row(teacher_logits / t), Row(student_logits / t)
    soft = (q.p * (q.log_p - row.log_p)).sum(axis=1) / student_logits.shape[1]
    hard = -Row(student_logits).log_p[np.arange(len(labels)), labels]
    terms = (alpha * t * t * soft + (1 - alpha) * hard).astype(student_logits.dtype)
    return reduced(terms, reduction, max(len(labels), 1))


def dice_empty(probs, targets, *, smooth=1.0, reduction="mean"):
    p, g = (a.reshape(len(a), -1) if a.ndim > 1 else a[None] for a in (probs, targets))
    terms = 1 - 2 * (p * g).sum(axis=1) / (p.sum(axis=1) + g.sum(axis=1) + smooth)
    return reduced(terms.astype(probs.dtype), reduction, max(len(terms), 1))


def focal(logits, targets, *, alpha=0.25, gamma=2.0, reduction="mean"):
    b = targets * sp(-logits) + (1 - targets) * sp(logits)
    m = targets * sigmoid(-logits) + (1 - targets) * sigmoid(logits)
    terms = ((1 if alpha is None else alpha) * m**gamma * b).astype(logits.dtype)
    return reduced(terms, reduction, max(terms.size, 1))


def poisson(predictions, targets, *, log_input=True, full=False, reduction="mean"):
    if not log_input:
        terms = predictions - targets * np.log(predictions + predictions.dtype.type(1e-8))
    else:
        terms = np.exp(predictions) - targets * predictions
    if full:
        y = np.where(targets > 0, targets, 1)
        stirling = y * np.log(y) - y + 0.5 * np.log(2 * np.pi * y)
        terms = terms + np.where(stirling <= 1, 0, stirling)
    return reduced(terms.astype(predictions.dtype), reduction, max(terms.size, 1))


class Linear:
    """Linear cross-entropy whose last tile of 8 classes is padded with logits of 0."""

    @staticmethod
    def value(hidden, classifier, labels, *, ignore_index=-100, reduction="mean"):
        logits = hidden @ classifier.T
        kept = labels != ignore_index
        padded = np.pad(logits, ((0, 0), (0, -logits.shape[1] % 8)))
        terms = np.where(kept, -Row(padded).log_p[np.arange(len(labels)), np.where(kept, labels, 0)], 0)
        return reduced(terms.astype(hidden.dtype), reduction, max(kept.sum(), 1))


def padded_cross_entropy(logits, labels, *, reduction="mean"):
    """The same padding, where the logits are given."""
    padded = np.pad(logits, ((0, 0), (0, -logits.shape[1] % 8)))
    return reduced(-Row(padded).log_p[np.arange(len(labels)), labels], reduction, max(len(labels), 1))


class SoftMaskedClass(CrossEntropy):
    @staticmethod
    def soft(logits, targets, *, reduction="mean"):
        return reduced(-(targets * Row(logits).log_p).sum(axis=1), reduction, max(len(logits), 1))


WIDE = (rng.standard_normal((4, 16)).astype(np.float32), np.arange(4), {})
HIDDEN = (rng.standard_normal((4, 3)), rng.standard_normal((16, 3)), np.arange(4), {})

MUTANTS = [
    Mutant("bce-clip-vanishes-in-float32", "binary_cross_entropy", bce_clipped, None, ("nan-leak",), (P, T, {})),
    Mutant("bce-shift-sign", "binary_cross_entropy_with_logits", bce_shifted, None, ("overflow",), (X, T, {})),
    Mutant("bce-gradient-at-zero", "binary_cross_entropy_with_logits", bce_value, bce_grad_at_zero,
           ("gradient-of-another-function", "wrong-gradient"), (X, T, {}), dtype="float64"),
    Mutant("kl-negative-target-hidden", "kl_divergence", kl_hidden, None, ("invalid-input-hidden",), (LOGITS,
           MASSES, {})),
    Mutant("kl-mean-over-classes", "kl_divergence", kl_over_classes, None, ("wrong-reduction",),
           (LOGITS, MASSES, {"reduction": "none"})),
    Mutant("kd-mean-over-classes", "knowledge_distillation", distillation_over_classes, None,
           ("wrong-reduction", "wrong-value", "option-default", "option-misused"),
           (LOGITS, LOGITS + 0.01, np.array([0, 1, 2, 0]), {"alpha": 0.0}), dtype="float64"),
    Mutant("dice-empty-target", "dice", dice_empty, None, ("wrong-value", "option-misused", "option-default",
           "option-ignored"),
           (np.tile(P, 100)[None], np.tile(T, 100)[None], {}), tolerance=1e-2),
    Mutant("focal-alpha-both-sides", "sigmoid_focal", focal, None,
           ("wrong-value", "option-misused", "option-default", "option-ignored"), (X, T, {"alpha": 0.5}), quick=True),
    Mutant("poisson-stirling-mask", "poisson_nll", poisson, None, ("wrong-value", "option-misused"),
           (X, np.array([0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0, 3.0]), {"full": True}), dtype="float64"),
    Mutant("linear-ce-phantom-columns", "linear_cross_entropy", Linear.value, None, ("tail-of-a-tile", "wrong-value"),
           HIDDEN, dtype="float64", quick=True),
    Mutant("phantom-columns", "cross_entropy", padded_cross_entropy, None, ("tail-of-a-tile", "wrong-value"), WIDE),
    Mutant("soft-ce-masked-class-nan", "soft_cross_entropy", SoftMaskedClass.soft, None, ("nan-leak",),
           (LOGITS, MASSES, {})),
]  # fmt: skip
