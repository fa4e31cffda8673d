"""More bugs, each recognised by its name from the outputs alone."""

import numpy as np
import pytest

import lossref as lr


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def at(x, y):
    return x[np.arange(len(y)), y]


def epsilon_added(x, y):
    return -np.log(at(softmax(x), y) + 1e-8).mean()


def clipped(x, y):
    return -np.log(np.clip(at(softmax(x), y), 1e-7, 1 - 1e-7)).mean()


def minus(x, y):
    return -lr.cross_entropy(x, y)


def next_label(x, y):
    return lr.cross_entropy(x, (y + 1) % x.shape[1])


def rounded_inside(x, y):
    return np.float64(lr.cross_entropy(x.astype(np.float32), y))


def summed(x, y):
    return lr.cross_entropy(x, y, reduction="sum")


def over_entries(x, y):
    return lr.cross_entropy(x, y, reduction="sum") / max(x.size, 1)


def smoothing_ignored(x, y, *, label_smoothing=0.0):
    return lr.cross_entropy(x, y)


def in_place(x, y):
    x -= x.max(axis=1, keepdims=True)
    return lr.cross_entropy(x, y)


def fine(x, y, *, reduction="mean"):
    return lr.cross_entropy(x, y, reduction=reduction)


def without_cotangent(x, y, *, reduction="mean", cotangent=1.0):
    return lr.cross_entropy.grad(x, y, reduction=reduction)


def of_brier(x, y, *, reduction="mean", cotangent=1.0):
    p = softmax(x)
    d = (
        2
        * p
        * (
            (p - np.eye(x.shape[1], dtype=x.dtype)[y])
            - (p * (p - np.eye(x.shape[1], dtype=x.dtype)[y])).sum(1, keepdims=True)
        )
    )
    by = np.broadcast_to(np.asarray(cotangent, x.dtype) / (max(len(y), 1) if reduction == "mean" else 1), y.shape)
    return d * by[:, None]


def minus_gradient(x, y, *, reduction="mean", cotangent=1.0):
    return -lr.cross_entropy.grad(x, y, reduction=reduction, cotangent=cotangent)


BUGS = [
    (epsilon_added, None, "floor-epsilon"),
    (clipped, None, "floor-epsilon"),
    (minus, None, "wrong-sign"),
    (next_label, None, "label-off-by-one"),
    (summed, None, "wrong-reduction"),
    (over_entries, None, "wrong-reduction"),
    (smoothing_ignored, None, "option-ignored"),
    (in_place, None, "input-overwritten"),
    (fine, without_cotangent, "cotangent-ignored"),
    (fine, of_brier, "gradient-of-another-function"),
    (fine, minus_gradient, "wrong-sign"),
]


@pytest.mark.parametrize(("value", "grad", "slug"), BUGS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_named(value, grad, slug):
    report = lr.oracle.check("cross_entropy", value=value, grad=grad, dtype="float32", quick=True)
    assert report.verdict == "wrong"
    assert slug in {f.diagnosis for f in report.findings[:2]}, str(report)


def test_the_epsilon_is_inferred():
    report = lr.oracle.check("cross_entropy", value=epsilon_added, dtype="float64", quick=True)
    assert "1e-08" in report.findings[0].message


def test_results_of_a_narrower_dtype_have_lost_digits_and_are_not_wrong():
    report = lr.oracle.check("cross_entropy", value=rounded_inside, dtype="float64", quick=True)
    assert report.verdict == "inaccurate" and report.findings[0].diagnosis == "low-precision-accumulation"


def test_a_binary_clamp_is_recognised():
    def value(p, t):
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()

    report = lr.oracle.check("binary_cross_entropy", value=value, dtype="float64", quick=True)
    assert report.findings[0].diagnosis == "floor-epsilon" and "1e-07" in report.findings[0].message
