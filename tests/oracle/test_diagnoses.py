"""More bugs, each recognised by its name from the outputs alone."""

import numpy as np
import pytest

import lossref as lr
from lossref.oracle.candidates import NotTaken


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


# -- what a survey of other people's libraries showed to be reported wrongly ------------------------------------------


def log_normaliser(x, axis=-1):
    return np.log(np.exp(x - x.max(axis=axis, keepdims=True)).sum(axis=axis)) + x.max(axis=axis)


def test_what_a_candidate_says_that_it_lacks_is_not_judged():
    def value(logits, labels):
        if logits.shape[1] < 3:
            raise NotTaken("fewer than 3 classes")
        return lr.cross_entropy(logits, labels)

    report = lr.oracle.check("cross_entropy", value=value, dtype="float32", quick=True)
    assert report.verdict == "accurate" and not report.findings


def test_digits_lost_in_a_row_are_not_blamed_on_how_many_rows_there_are():
    def rows(logits, labels):
        lost = log_normaliser(logits) - at(logits, labels)
        return np.where(np.arange(len(labels)) == 12, lost * np.float32(1 + 1e-5), lost)

    report = lr.oracle.check("cross_entropy", value=rows, dtype="float32", quick=True)
    assert report.findings and "low-precision-accumulation" not in {f.diagnosis for f in report.findings}


def test_a_result_in_an_array_of_one_is_judged():
    report = lr.oracle.check("logsumexp", value=lambda x: np.log(np.exp(x).sum(axis=-1)), dtype="float32", quick=True)
    assert report.verdict == "wrong" and {f.diagnosis for f in report.findings} >= {"overflow"}


def test_the_smallest_normal_number_is_recognised_as_a_floor():
    def value(logits, labels):
        return -np.log(at(softmax(logits), labels) + np.finfo(logits.dtype).tiny)

    report = lr.oracle.check("info_nce", value=lambda s: value(s / s.dtype.type(0.07), np.arange(len(s))),
                             dtype="float32")  # fmt: skip
    assert {f.diagnosis for f in report.findings if f.severity == "wrong"} == {"floor-epsilon"}, str(report)
    assert "1.18e-38 added to a probability" in report.findings[0].message


def test_a_floor_under_weighted_logarithms_is_given_no_number():
    def value(logits, targets):
        p = np.clip(softmax(logits), 1e-7, 1)
        return np.where(targets > 0, targets * np.log(np.clip(targets, 1e-7, 1) / p), 0).sum(axis=1).mean()

    report = lr.oracle.check("kl_divergence", value=value, dtype="float32", quick=True)
    messages = [f.message for f in report.findings if f.diagnosis == "floor-epsilon"]
    assert messages and "-log(" not in messages[0]


def test_the_derivative_at_a_pole_is_nobodys_business():
    def grad(x, *, cotangent):
        return np.where(x == 0, np.nan, lr.log1mexp.grad(x, cotangent=cotangent))

    report = lr.oracle.check("log1mexp", value=lr.log1mexp, grad=grad, dtype="float32", quick=True)
    assert not report.findings


def test_a_gradient_that_goes_on_where_the_value_is_clamped():
    def grad(probs, targets, *, reduction="mean", cotangent=1.0):
        exact = lr.binary_cross_entropy.grad(probs, targets, reduction=reduction, cotangent=cotangent)
        return np.where((probs == 0) & (targets > 0), np.float32(-1e12), exact)

    report = lr.oracle.check("binary_cross_entropy", value=lr.binary_cross_entropy, grad=grad, dtype="float32")
    assert {f.diagnosis for f in report.findings} == {"clamp-ignored"}, str(report)


def test_an_empty_array_for_the_mean_of_no_rows_is_a_choice():
    def value(logits, labels):
        return lr.cross_entropy(logits, labels) if len(labels) else np.zeros(0, logits.dtype)

    def grad(logits, labels, *, cotangent):
        return lr.cross_entropy.grad(logits, labels, cotangent=cotangent) if len(labels) else 1 / 0

    report = lr.oracle.check("cross_entropy", value=value, grad=grad, dtype="float32", quick=True)
    assert report.verdict == "accurate" and [f.diagnosis for f in report.findings] == ["empty-mean"]


def test_a_number_out_of_nothing():
    def value(logits, labels):
        return lr.cross_entropy(logits, labels) if len(labels) else np.float32(1.8e21)

    report = lr.oracle.check("cross_entropy", value=value, dtype="float32", quick=True)
    assert report.verdict == "wrong" and [f.diagnosis for f in report.findings] == ["uninitialised"]


def test_a_smaller_input_is_still_an_input_of_the_loss():
    def value(logits, targets):
        return -(targets * (logits - lr.logsumexp(logits)[:, None])).sum(axis=1).mean()

    report = lr.oracle.check("soft_cross_entropy", value=value, dtype="float32", quick=True)
    (found,) = (f for f in report.findings if f.diagnosis == "nan-leak")
    np.testing.assert_allclose(found.inputs["targets"].sum(axis=1), 1)


def test_a_finite_loss_for_what_cannot_happen():
    def value(logits, targets, *, input_lengths=None):
        return np.minimum(lr.ctc(logits, targets, input_lengths=input_lengths, reduction="none"), 1e5)

    report = lr.oracle.check("ctc", value=value, dtype="float32", quick=True)
    assert {f.diagnosis for f in report.findings} == {"floor-epsilon"}


def test_a_margin_far_from_zero_is_a_matter_of_offsets():
    def value(logits, labels):
        gaps = 1 - at(logits, labels)[:, None] + logits  # the 1 is lost where logits are large
        right = np.arange(logits.shape[1]) == labels[:, None]
        return (np.where(right, 0, np.maximum(gaps, 0)).sum(axis=1) / logits.shape[1]).mean()

    report = lr.oracle.check("multi_margin", value=value, dtype="float32")
    assert report.verdict == "inaccurate"
    assert {f.diagnosis for f in report.findings} == {"offset-sensitive"}


def test_a_clamp_under_a_weight_is_not_blamed_on_the_weight():
    def value(logits, targets, *, alpha=0.25, reduction="mean"):
        p = np.clip(1 / (1 + np.exp(-logits)), 1e-7, 1 - 1e-7)
        by = 1 if alpha is None else alpha * targets + (1 - alpha) * (1 - targets)
        wrong = targets * (1 - p) + (1 - targets) * p
        terms = -by * wrong**2 * (targets * np.log(p) + (1 - targets) * np.log(1 - p))
        return terms if reduction == "none" else getattr(terms, reduction)()

    report = lr.oracle.check("sigmoid_focal", value=value, dtype="float32", quick=True)
    assert {f.diagnosis for f in report.findings if f.severity == "wrong"} == {"floor-epsilon"}, str(report)


def test_a_mean_over_narrow_terms_has_lost_digits_and_is_not_wrong():
    def value(logits, targets, *, reduction="mean"):
        terms = lr.binary_cross_entropy_with_logits(logits, targets, reduction="none").astype(np.float32)
        return terms.astype(np.float64) if reduction == "none" else getattr(terms.astype(np.float64), reduction)()

    def grad(logits, targets, *, reduction="mean", cotangent):
        by = np.float64(np.float32(1 / max(logits.size, 1))) if reduction == "mean" else 1.0
        return lr.binary_cross_entropy_with_logits.grad(logits, targets, reduction="sum") * by * cotangent

    report = lr.oracle.check("binary_cross_entropy_with_logits", value=value, grad=grad, dtype="float64", quick=True)
    assert {f.quantity for f in report.findings} == {"value", "grad"}
    assert report.verdict == "inaccurate" and report.findings[0].diagnosis == "low-precision-accumulation"
