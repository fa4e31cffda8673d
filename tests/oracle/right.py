"""Right implementations in different styles: none of them may be called wrong."""

from dataclasses import dataclass

import numpy as np
from mutants.textbook import CrossEntropy, Row, cross_entropy, reduced, weights

import lossref as lr


@dataclass(frozen=True)
class Right:
    name: str
    loss: str
    value: object
    grad: object = None
    verdict: str = "accurate"
    dtype: str = "float32"
    kwargs: dict | None = None
    notes: tuple[str, ...] = ()  # semantics that are reported and are no error

    def __str__(self):
        return self.name


def two_pass(logits, labels, *, reduction="mean"):
    """As the frameworks do it: log-sum-exp of the shifted row, minus the shifted label."""
    d = logits - logits.max(axis=1, keepdims=True)
    terms = np.log(np.exp(d).sum(axis=1)) - d[np.arange(len(d)), labels]
    return reduced(terms, reduction, max(len(d), 1))


def p_minus_one(logits, labels, *, reduction="mean", cotangent=1.0):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    return p * weights(cotangent, reduction, len(p), p.dtype, (len(p),))[:, None]


def row_by_row(logits, labels, ignore_index=-100):
    """Python floats in a loop."""
    total, count = 0.0, 0
    for row, label in zip(logits.astype(float).tolist(), labels.tolist(), strict=True):
        if label == ignore_index:
            continue
        top = max(range(len(row)), key=row.__getitem__)
        rest = sum(np.exp(x - row[top]) for j, x in enumerate(row) if j != top)
        total += np.log1p(rest) + (row[top] - row[label])
        count += 1
    return total / count if count else float("nan")


def row_by_row_gradient(logits, labels, ignore_index=-100, cotangent=1.0):
    g = np.zeros(logits.shape)
    count = int((labels != ignore_index).sum())
    for i, (row, label) in enumerate(zip(logits.astype(float), labels.tolist(), strict=True)):
        if label != ignore_index:
            e = np.exp(row - row.max())
            g[i] = e / e.sum()
            g[i, label] = -sum(g[i, j] for j in range(len(row)) if j != label)
            g[i] *= cotangent / count
    return g


def terms_only(logits, labels):
    return CrossEntropy().value(logits, labels, reduction="none")


def in_float64(logits, labels, **options):
    return lr.cross_entropy(logits.astype(np.float64), labels, **options)


def in_float64_gradient(logits, labels, *, cotangent=1.0, **options):
    return lr.cross_entropy.grad(logits.astype(np.float64), labels, cotangent=cotangent, **options)


def over_all_rows(logits, labels, *, ignore_index=-100):
    return CrossEntropy().value(logits, labels, ignore_index=ignore_index, reduction="sum") / max(len(labels), 1)


def over_all_rows_gradient(logits, labels, *, ignore_index=-100, cotangent=1.0):
    return CrossEntropy().grad(
        logits, labels, ignore_index=ignore_index, reduction="sum", cotangent=cotangent / max(len(labels), 1)
    )


def refuses_nothing(logits, labels, *, ignore_index=-100):
    if not (labels != ignore_index).any():
        raise ValueError("no row counts")
    return CrossEntropy().value(logits, labels, ignore_index=ignore_index)


def summed(logits, labels):
    return CrossEntropy().value(logits, labels, reduction="sum")


def one_hot(logits, labels, *, reduction="mean"):
    target = np.arange(logits.shape[1]) == labels[:, None]
    terms = np.where(target, -Row(logits).log_p, 0).sum(axis=1)
    return reduced(terms, reduction, max(len(terms), 1))


def swallows_on_purpose(logits, labels, *, reduction="mean", **_unused):
    return one_hot(logits, labels, reduction=reduction)


def online(logits, labels):
    """One pass over tiles of 4 with a running maximum, guarded."""
    m = np.full(len(logits), -np.inf, logits.dtype)
    s = np.zeros(len(logits), logits.dtype)
    for start in range(0, logits.shape[1], 4):
        tile = logits[:, start : start + 4]
        new = np.maximum(m, tile.max(axis=1))
        safe = np.where(np.isfinite(new), new, 0)
        s = s * np.exp(m - safe) + np.exp(tile - safe[:, None]).sum(axis=1)
        m = new
    terms = np.log(s) - (logits[np.arange(len(labels)), labels] - m)
    return terms.mean() if len(terms) else logits.dtype.type(np.nan)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True)) if x.size else x
    return e / e.sum(axis=-1, keepdims=True)


def softmax_gradient(x, cotangent=1.0):
    p = softmax(x)
    return p * (cotangent - (p * cotangent).sum(axis=-1, keepdims=True))


def softplus(x):
    return np.logaddexp(0, x).astype(x.dtype)


def info_nce(s, temperature=0.07):
    u = (s - s.max(axis=1, keepdims=True)) / s.dtype.type(temperature)
    return (np.log(np.exp(u).sum(axis=1)) - np.diag(u)).mean() if len(s) else np.nan


def dpo(chosen, rejected, ref_chosen, ref_rejected, beta=0.1):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return np.logaddexp(0, -z).mean() if len(z) else np.nan


def dpo_gradients(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, cotangent=1.0):
    z = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    g = (-beta / (1 + np.exp(z)) * cotangent / max(len(z), 1)).astype(chosen.dtype)
    return g, -g, -g, g


value, grad = cross_entropy()
RIGHT = [
    Right("lossref itself", "cross_entropy", lr.cross_entropy, lr.cross_entropy.grad),
    Right("lossref in float16", "cross_entropy", lr.cross_entropy, lr.cross_entropy.grad, dtype="float16"),
    Right("lossref in bfloat16", "cross_entropy", lr.cross_entropy, lr.cross_entropy.grad, dtype="bfloat16"),
    Right("every option", "cross_entropy", value, grad),
    Right("every option in float64", "cross_entropy", value, grad, dtype="float64"),
    Right("fixed options", "cross_entropy", value, grad, kwargs={"label_smoothing": 0.1, "reduction": "sum"}),
    Right("two passes", "cross_entropy", two_pass, p_minus_one, "inaccurate"),
    Right("two passes in float16", "cross_entropy", two_pass, p_minus_one, "inaccurate", "float16"),
    Right("loop over rows", "cross_entropy", row_by_row, row_by_row_gradient),
    Right("one term a row", "cross_entropy", terms_only),
    Right("float64 inside", "cross_entropy", in_float64, in_float64_gradient),
    Right("mean over all rows", "cross_entropy", over_all_rows, over_all_rows_gradient,
        notes=("mean-divides-by-all-rows",)),
    Right("refuses an empty mean", "cross_entropy", refuses_nothing, notes=("empty-mean",)),
    Right("a sum, declared", "cross_entropy", summed, kwargs={"reduction": "sum"}),
    Right("one-hot with where", "cross_entropy", one_hot),
    Right("ignores keywords on purpose", "cross_entropy", swallows_on_purpose),
    Right("one pass", "cross_entropy", online, verdict="inaccurate"),
    Right("softmax", "softmax", softmax, softmax_gradient, "inaccurate"),
    Right("softmax value", "softmax", softmax),
    Right("softplus by logaddexp", "softplus", softplus),
    Right("info_nce", "info_nce", info_nce, verdict="inaccurate"),
    Right("dpo", "dpo", dpo, dpo_gradients, dtype="float64"),
]  # fmt: skip
