"""Right implementations, written so that one method at a time can be made wrong."""

import numpy as np


class Row:
    """Softmax of rows with the largest entry left out of the sum."""

    def __init__(self, x):
        self.top = np.argmax(x, axis=-1)[..., None] == np.arange(x.shape[-1])
        self.maximum = x.max(axis=-1, keepdims=True)
        shift = np.where(np.isfinite(self.maximum), self.maximum, 0)
        self.d = x - shift
        self.e = np.exp(self.d)
        self.rest = np.where(self.top, 0, self.e).sum(axis=-1, keepdims=True)
        self.lse = (shift + np.log1p(self.rest))[..., 0]
        self.log_p = self.d - np.log1p(self.rest)
        self.p = self.e / (1 + self.rest)
        self.not_p = np.where(self.top, self.rest, 1 + (self.rest - self.e)) / (1 + self.rest)


def reduced(terms, reduction, divisor):
    if reduction == "none":
        return terms
    return terms.sum() if reduction == "sum" else terms.sum() / terms.dtype.type(divisor)


def weights(cotangent, reduction, divisor, dtype, shape):
    if reduction == "mean":
        cotangent = np.asarray(cotangent, np.float64) / divisor if divisor else 0.0
    return np.broadcast_to(np.asarray(cotangent, dtype), shape)


class CrossEntropy:
    """Cross-entropy with every option."""

    def value(self, logits, labels, *, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None,
              z_loss_weight=0.0, reduction="mean"):  # fmt: skip
        self.options(logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight)
        return reduced(self.terms(), reduction, self.divisor())

    def grad(self, logits, labels, *, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None,
             z_loss_weight=0.0, reduction="mean", cotangent=1.0):  # fmt: skip
        self.options(logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight)
        by = weights(cotangent, reduction, self.divisor(), logits.dtype, labels.shape)
        return self.weighted(self.rows(), by)

    def options(self, logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight):
        self.logits, self.labels, self.smoothing, self.cap, self.z = (
            logits,
            labels,
            label_smoothing,
            softcap,
            z_loss_weight,
        )
        self.kept = labels != ignore_index
        self.label = np.where(self.kept, labels, 0)
        self.n, self.c = logits.shape
        self.i = np.arange(self.n)
        self.w = np.ones(self.c, logits.dtype) if weight is None else weight
        self.w_label = self.w[self.label]
        self.row = Row(self.capped())

    def capped(self):
        if self.cap is None:
            return self.logits
        return np.where(self.logits == -np.inf, -np.inf, self.cap * np.tanh(self.logits / self.cap)).astype(
            self.logits.dtype
        )

    def cap_slope(self):
        if self.cap is None:
            return 1
        e = np.exp(-2 * np.abs(self.logits / self.cap))
        return 4 * e / (1 + e) ** 2

    def nll(self):
        return -self.row.log_p[self.i, self.label]

    def smooth(self):
        if not self.smoothing:
            return 0
        return (self.smoothing / self.c) * (self.w * -self.row.log_p).sum(axis=1)

    def terms(self):
        z = self.z * self.w_label * self.row.lse**2 if self.z else 0
        nll = np.where(self.w_label == 0, 0, self.w_label * self.nll())
        return np.where(self.kept, (1 - self.smoothing) * nll + self.smooth() + z, 0).astype(self.logits.dtype)

    def at_label(self):
        g = self.row.p.copy()
        g[self.i, self.label] = -self.row.not_p[self.i, self.label]
        return g

    def smooth_rows(self):
        others = (
            np.array([np.delete(self.w, j).sum() for j in range(self.c)], self.logits.dtype)
            if self.c < 400
            else self.w.sum() - self.w
        )
        return (self.smoothing / self.c) * (self.row.p * others - self.w * self.row.not_p)

    def rows(self):
        g = (1 - self.smoothing) * self.w_label[:, None] * self.at_label()
        if self.smoothing:
            g = g + self.smooth_rows()
        if self.z:
            g = g + 2 * self.z * (self.w_label * self.row.lse)[:, None] * self.row.p
        return np.where(self.kept[:, None], g * self.cap_slope(), 0).astype(self.logits.dtype)

    def divisor(self):
        return np.where(self.kept, self.w_label, 0).sum(dtype=np.float64)

    def weighted(self, rows, by):
        return np.where(by[:, None] == 0, 0, by[:, None] * rows).astype(rows.dtype)


def cross_entropy(change=None):
    """(value, grad) of CrossEntropy, or of a class that changes a method of it."""
    cls = CrossEntropy if change is None else change
    return (
        lambda *a, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None, z_loss_weight=0.0,
            reduction="mean": cls().value(
            *a, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing, softcap=softcap,
            z_loss_weight=z_loss_weight, reduction=reduction),
        lambda *a, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None, z_loss_weight=0.0,
            reduction="mean", cotangent=1.0: cls().grad(
            *a, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing, softcap=softcap,
            z_loss_weight=z_loss_weight, reduction=reduction, cotangent=cotangent),
    )  # fmt: skip
