"""Cross-entropy, wrong in 16 ways."""

import numpy as np

from . import ACCURACY, EITHER, Mutant
from .textbook import CrossEntropy, cross_entropy

rng = np.random.default_rng(0)
X = rng.standard_normal((8, 16)).astype(np.float32)
Y = rng.integers(0, 16, 8)
PLAIN = (X, Y, {})
CONFIDENT_16 = (np.zeros((8, 16), np.float16) + X.astype(np.float16) / 8, Y, {})


class ConfidentTargetGradient(CrossEntropy):
    def at_label(self):
        g = self.row.p.copy()
        g[self.i, self.label] -= 1
        return g


class LogOfSoftmax(CrossEntropy):
    def nll(self):
        return -np.log(self.row.p[self.i, self.label])


class CommonOffset(CrossEntropy):
    def nll(self):
        return self.row.lse - self.capped()[self.i, self.label]


class ProbabilityBeforeSubtract(CrossEntropy):
    """In 16 bits: the probability is computed wide, stored narrow, and 1 is subtracted from what was stored."""

    def at_label(self):
        x = self.capped().astype(np.float32)
        e = np.exp(x - x.max(axis=1, keepdims=True))
        g = (e / e.sum(axis=1, keepdims=True)).astype(self.logits.dtype)
        g[self.i, self.label] -= 1
        return g


class IndexOverflow(CrossEntropy):
    def nll(self):
        flat = self.row.log_p.reshape(-1)
        return -flat[(self.i * self.c + self.label).astype(np.int16)]


class MaskedTile(CrossEntropy):
    """Online log-sum-exp over tiles of 4, without a guard for a maximum that is still -inf."""

    def nll(self):
        x = self.capped()
        m, s = np.full(self.n, -np.inf, x.dtype), np.zeros(self.n, x.dtype)
        for start in range(0, self.c, 4):
            tile = x[:, start : start + 4]
            new = np.maximum(m, tile.max(axis=1))
            s = s * np.exp(m - new) + np.exp(tile - new[:, None]).sum(axis=1)
            m = new
        return np.log(s) - (x[self.i, self.label] - m)


class NoValidRows(CrossEntropy):
    def grad(self, logits, labels, *, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None,
             z_loss_weight=0.0, reduction="mean", cotangent=1.0):  # fmt: skip
        self.options(logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight)
        keep = self.kept
        self.kept = np.ones_like(keep)
        rows = self.rows()
        self.kept = keep
        by = np.asarray(cotangent, np.float64) / (self.divisor() if reduction == "mean" else 1.0)
        by = np.broadcast_to(np.asarray(by, logits.dtype), self.n)
        return rows * by[:, None] * keep[:, None]


class IgnoredRowsKeepGradient(CrossEntropy):
    def rows(self):
        g = super().rows()
        return np.where(self.kept[:, None], g, self.row.p)


class MaskedClass(CrossEntropy):
    def nll(self):
        onehot = np.arange(self.c) == self.label[:, None]
        return -(onehot * self.row.log_p).sum(axis=1)


class SmoothingCountsIgnored(CrossEntropy):
    def terms(self):
        smoothing, self.smoothing = self.smoothing, 0.0
        hard = super().terms()
        self.smoothing = smoothing
        return ((1 - smoothing) * hard + self.smooth()).astype(self.logits.dtype)


class SmoothingOverOthers(CrossEntropy):
    def smooth(self):
        if not self.smoothing:
            return 0
        others = np.where(np.arange(self.c) == self.label[:, None], 0, -self.w * self.row.log_p)
        return self.smoothing / (self.c - 1) * others.sum(axis=1)


class SmoothingOfShard(CrossEntropy):
    def smooth(self):
        if not self.smoothing:
            return 0
        half = max(self.c // 2, 1)
        nll = -self.w * self.row.log_p
        first, second = nll[:, :half].mean(axis=1), nll[:, half:].mean(axis=1) if self.c > half else nll.mean(axis=1)
        return self.smoothing * np.where(self.label < half, first, second)


class MeanOfMeans(CrossEntropy):
    def value(self, logits, labels, *, reduction="mean", **options):
        if reduction != "mean" or len(labels) < 2:
            return super().value(logits, labels, reduction=reduction, **options)
        parts = [(logits[k], labels[k]) for k in np.array_split(np.arange(len(labels)), 2)]
        means = np.array([super(MeanOfMeans, self).value(x, y, **options) for x, y in parts])
        means = means[~np.isnan(means)]
        return means.mean() if means.size else np.nan


class Overwrites(CrossEntropy):
    def value(self, logits, labels, **options):
        result = super().value(logits, labels, **options)
        logits[...] = self.rows()
        return result


class Softcap(CrossEntropy):
    def capped(self):
        return self.logits if self.cap is None else self.logits * np.tanh(self.logits / self.cap)

    def cap_slope(self):
        if self.cap is None:
            return 1
        t = np.tanh(self.logits / self.cap)
        return t + self.logits / self.cap * (1 - t * t)


class ZLossByDefault(CrossEntropy):
    def options(self, logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight):
        super().options(logits, labels, weight, ignore_index, label_smoothing, softcap, z_loss_weight or 1e-4)


def mutant(name, change, diagnoses, ordinary=PLAIN, **more):
    value, grad = cross_entropy(change)
    return Mutant(name, "cross_entropy", value, grad, diagnoses, ordinary, **more)


MUTANTS = [
    mutant("ce-confident-target-gradient", ConfidentTargetGradient, ("p-minus-one",), verdict=ACCURACY),
    mutant("ce-log-of-softmax", LogOfSoftmax, ("overflow",), verdict=EITHER),
    mutant("ce-common-offset", CommonOffset, ("offset-sensitive",), verdict=ACCURACY),
    mutant("ce-bf16-probability-before-subtract", ProbabilityBeforeSubtract, ("p-minus-one",), CONFIDENT_16,
           verdict=EITHER, dtype="float16", tolerance=2e-3),
    mutant("ce-index-overflow-forward", IndexOverflow, ("index-overflow",)),
    mutant("online-softmax-masked-tile-nan", MaskedTile, ("nan-leak",)),
    mutant("ce-no-valid-rows-inf", NoValidRows, ("nan-leak",)),
    mutant("ce-ignored-rows-keep-gradient", IgnoredRowsKeepGradient, ("mask-leak",)),
    mutant("ce-masked-class-nan", MaskedClass, ("nan-leak",)),
    mutant("ce-smoothing-counts-ignored", SmoothingCountsIgnored, ("mask-leak",), (X, Y, {"label_smoothing": 0.2})),
    mutant("ce-smoothing-k-minus-one", SmoothingOverOthers, ("option-misused",),
           (np.tile(X, (1, 64)), Y, {"label_smoothing": 0.1}), tolerance=2e-3),
    mutant("ce-smoothing-local-shard", SmoothingOfShard, ("option-misused",),
           (np.tile(X[:, :8], (1, 2)), Y, {"label_smoothing": 0.1})),
    mutant("ce-mean-of-microbatch-means", MeanOfMeans, ("wrong-reduction",)),
    mutant("ce-forward-overwrites-logits", Overwrites, ("input-overwritten",)),
    mutant("softcap-wrong-formula", Softcap, ("option-misused",), PLAIN),
    mutant("ce-zloss-by-default", ZLossByDefault, ("option-default",), tolerance=1e-2),
]  # fmt: skip
