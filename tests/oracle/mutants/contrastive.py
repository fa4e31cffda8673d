"""InfoNCE, triplet and ArcFace, wrong."""

import numpy as np

from . import Mutant
from .textbook import Row, reduced, weights

rng = np.random.default_rng(2)
S = (rng.standard_normal((4, 6)) * 0.1).astype(np.float32)
E = rng.standard_normal((4, 3))


class InfoNCE:
    def value(self, s, labels=None, mask=None, *, temperature=0.07, reduction="mean"):
        u, y = self.scaled(s, labels, mask, temperature)
        return reduced(-Row(u).log_p[np.arange(len(s)), y].astype(s.dtype), reduction, max(len(s), 1))

    def grad(self, s, labels=None, mask=None, *, temperature=0.07, reduction="mean", cotangent=1.0):
        u, y = self.scaled(s, labels, mask, temperature)
        by = weights(cotangent, reduction, len(s), s.dtype, (len(s),))
        return self.rows(s, u, y, temperature, mask) * by[:, None]

    def scaled(self, s, labels, mask, temperature):
        y = np.arange(len(s)) if labels is None else labels
        self.positive = np.arange(s.shape[1]) == y[:, None]
        kept = s if mask is None else np.where(mask | self.positive, s, -np.inf).astype(s.dtype)
        shift = kept.max(axis=1, keepdims=True)
        return (kept - shift) / s.dtype.type(temperature), y

    def rows(self, s, u, y, temperature, mask):
        row = Row(u)
        return np.where(self.positive, -row.not_p, row.p) / s.dtype.type(temperature)


class NegativesOnly(InfoNCE):
    def scaled(self, s, labels, mask, temperature):
        y = np.arange(len(s)) if labels is None else labels
        self.positive = np.arange(s.shape[1]) == y[:, None]
        kept = s if mask is None else np.where(mask | self.positive, s, -np.inf).astype(s.dtype)
        return np.where(self.positive, kept, kept / s.dtype.type(temperature)), y

    def rows(self, s, u, y, temperature, mask):
        row = Row(u)
        return np.where(self.positive, -row.not_p, row.p / s.dtype.type(temperature))


class MaskedOverflow(InfoNCE):
    def rows(self, s, u, y, temperature, mask):
        if mask is None:
            return super().rows(s, u, y, temperature, mask)
        t = s.dtype.type(temperature)
        kept = Row(np.where(mask | self.positive, s / t, -np.inf).astype(s.dtype))
        p = np.exp(s / t - kept.lse[:, None]) * (mask | self.positive)
        return np.where(self.positive, -kept.not_p, p) / t


def distance(d, p):
    return (np.abs(d) ** p).sum(axis=-1) ** (1 / p)


def triplet_value(a, p_, n, *, margin=1.0, p=2, eps=1e-6, swap=False, reduction="mean"):
    far = distance(a - n + eps, p)
    if swap:
        far = np.minimum(far, distance(p_ - n + eps, p))
    terms = np.maximum(margin + distance(a - p_ + eps, p) - far, 0).astype(a.dtype)
    return reduced(terms, reduction, max(len(a), 1))


def triplet_grad(a, p_, n, *, margin=1.0, eps=1e-6, reduction="mean", cotangent=1.0):
    """d / D without the case D = 0; rows without a loss are masked by multiplication."""
    by = weights(cotangent, reduction, len(a), a.dtype, (len(a),))[:, None]
    dp, dn = a - p_ + a.dtype.type(eps), a - n + a.dtype.type(eps)
    near, far = np.sqrt((dp**2).sum(axis=1, keepdims=True)), np.sqrt((dn**2).sum(axis=1, keepdims=True))
    active = (margin + near - far > 0) * by
    up, un = dp / near, dn / far
    return active * (up - un), -active * up, active * un


def triplet_euclidean(a, p_, n, *, margin=1.0, eps=1e-6, reduction="mean"):
    return triplet_value(a, p_, n, margin=margin, eps=eps, reduction=reduction)


class ArcFace:
    """Never takes the fallback branch."""

    @staticmethod
    def value(cosines, labels, *, scale=64.0, margin=0.5, fallback="none", reduction="mean"):
        i = np.arange(len(labels))
        z = cosines.copy()
        z[i, labels] = np.cos(np.arccos(cosines[i, labels]) + cosines.dtype.type(margin))
        u = (z - z.max(axis=1, keepdims=True)) * cosines.dtype.type(scale) if z.size else z
        return reduced(-Row(u).log_p[i, labels].astype(cosines.dtype), reduction, max(len(labels), 1))


MUTANTS = [
    Mutant("infonce-temperature-negatives-only", "info_nce", NegativesOnly().value, NegativesOnly().grad,
           ("wrong-value", "option-misused", "option-ignored", "option-default"), (S * 3, {"temperature": 1.0})),
    Mutant("masked-lse-overflow", "info_nce", MaskedOverflow().value, MaskedOverflow().grad, ("mask-leak",),
           (S, {"mask": rng.uniform(size=S.shape) < 0.7})),
    Mutant("triplet-zero-distance-nan", "triplet", triplet_euclidean, triplet_grad, ("nan-leak",),
           (E, E + 0.5 * rng.standard_normal(E.shape), rng.standard_normal(E.shape), {}), dtype="float64"),
    Mutant("arcface-past-pi", "arc_face", ArcFace.value, None, ("option-ignored", "option-misused"),
           (np.tanh(rng.standard_normal((4, 5)) / 2), np.arange(4), {"fallback": "linear"}), dtype="float64"),
]  # fmt: skip
