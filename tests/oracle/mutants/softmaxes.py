"""log-softmax, softmax and log-sum-exp, wrong in 5 ways."""

import numpy as np

from . import ACCURACY, Mutant
from .textbook import Row

X = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
PLAIN = (X, {})


def log_softmax(x):
    return Row(x).log_p


def naive_vjp(x, cotangent=1.0):
    w = np.broadcast_to(np.asarray(cotangent, x.dtype), x.shape)
    return w - np.exp(log_softmax(x)) * w.sum(axis=-1, keepdims=True)


def noisy_vjp(x, cotangent=1.0):
    w = np.broadcast_to(np.asarray(cotangent, x.dtype), x.shape)
    total = np.cumsum(w, axis=-1, dtype=x.dtype)[..., -1:]  # left to right
    return w - np.exp(x - x.max(axis=-1, keepdims=True) - np.log(np.cumsum(np.exp(
        x - x.max(axis=-1, keepdims=True)), axis=-1, dtype=x.dtype)[..., -1:])) * total  # fmt: skip


def softmax(x):
    return Row(x).p


def softmax_vjp(x, cotangent=1.0):
    row, w = Row(x), np.broadcast_to(np.asarray(cotangent, x.dtype), x.shape)
    w = w - np.take_along_axis(w, np.argmax(x, axis=-1)[..., None], axis=-1)
    return row.p * (w - (row.p * w).sum(axis=-1, keepdims=True))


def global_max(x):
    e = np.exp(x - x.max()) if x.size else x
    return e / e.sum(axis=-1, keepdims=True)


def contiguous_walk(x, cotangent=1.0):
    if not x.flags.c_contiguous and x.base is not None:
        x = np.resize(x.base.ravel(), x.shape)
    return softmax_vjp(x, cotangent)


def online(x):
    """Tiles of 4 without a guard for a maximum of -inf."""
    m, s = np.full(x.shape[:-1], -np.inf, x.dtype), np.zeros(x.shape[:-1], x.dtype)
    for start in range(0, x.shape[-1], 4):
        tile = x[..., start : start + 4]
        new = np.maximum(m, tile.max(axis=-1))
        s = s * np.exp(m - new) + np.exp(tile - new[..., None]).sum(axis=-1)
        m = new
    return m + np.log(s)


MUTANTS = [
    Mutant("log-softmax-vjp-component-lost", "log_softmax", log_softmax, naive_vjp, ("p-minus-one",), PLAIN, ACCURACY,
           "float64"),
    Mutant("log-softmax-gradient-noise", "log_softmax", log_softmax, noisy_vjp,
           ("low-precision-accumulation", "p-minus-one"), PLAIN, ACCURACY),
    Mutant("softmax-global-max", "softmax", global_max, softmax_vjp, ("nan-leak", "wrong-value"), PLAIN),
    Mutant("softmax-backward-strides", "softmax", softmax, contiguous_walk, ("strides-ignored",), PLAIN),
    Mutant("online-logsumexp-masked-tile-nan", "logsumexp", online, None, ("nan-leak",), PLAIN),
]  # fmt: skip
