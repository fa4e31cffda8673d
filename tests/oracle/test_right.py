"""Right implementations in every style are accepted as what they are; lossref's own paths raise no alarm."""

import numpy as np
import pytest
from right import RIGHT

import lossref as lr


@pytest.mark.parametrize("right", RIGHT, ids=str)
def test_right_implementations(right):
    report = lr.oracle.check(right.loss, value=right.value, grad=right.grad, dtype=right.dtype, kwargs=right.kwargs)
    assert report.verdict == right.verdict, str(report)
    assert set(right.notes) <= {f.diagnosis for f in report.findings}


SOME = {"cross_entropy", "log_softmax", "softmax", "logsumexp", "softplus", "sigmoid", "log1mexp", "info_nce",
    "dpo", "focal",
        "self_adjusting_dice", "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_divergence"}  # fmt: skip
EVERY = [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in sorted(lr.losses())]


@pytest.mark.parametrize("name", EVERY)
def test_no_false_alarm_on_our_own_losses(name):
    loss = lr.losses()[name]
    report = lr.oracle.check(
        name, value=loss, grad=loss.grad if loss.differentiable else None, dtype="float32", quick=True
    )
    assert report.verdict == "accurate", str(report)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["log_softmax", "info_nce", "dpo"])
def test_no_false_alarm_in_any_dtype(name, dtype):
    loss = lr.losses()[name]
    assert lr.oracle.check(name, value=loss, grad=loss.grad, dtype=dtype, quick=True).verdict == "accurate"


@pytest.mark.parametrize("name", ["cross_entropy", "log_softmax"])
def test_no_false_alarm_on_the_kernels(name):
    loss = lr.losses()[name].path("numba")
    report = lr.oracle.check(name, value=loss, grad=loss.grad, dtype="float32", quick=True)
    assert report.verdict == "accurate", str(report)


def test_declared_semantics_are_no_finding():
    mean = next(r for r in RIGHT if r.name == "mean over all rows")
    report = lr.oracle.check("cross_entropy", value=mean.value, grad=mean.grad, dtype="float32",
                             semantics={"mean": "all rows", "empty mean": "zero"})  # fmt: skip
    assert report.verdict == "accurate" and not report.findings


def test_the_same_seed_gives_the_same_report():
    two = next(r for r in RIGHT if r.name == "two passes")
    reports = [lr.oracle.check("cross_entropy", value=two.value, grad=two.grad, dtype="float32") for _ in range(2)]
    first, second = (r.to_dict() for r in reports)
    first.pop("seconds"), second.pop("seconds")
    assert first == second


def test_usage_errors_name_the_argument():
    with pytest.raises(ValueError, match="loss: expected"):
        lr.oracle.check("cross_entropi", value=np.exp)
    with pytest.raises(ValueError, match="dtype: expected"):
        lr.oracle.check("cross_entropy", value=np.exp, dtype="int8")
    with pytest.raises(TypeError, match="no option 'smoothing'"):
        lr.oracle.check("cross_entropy", value=np.exp, kwargs={"smoothing": 1})
    with pytest.raises(ValueError, match="framework: expected"):
        lr.oracle.check("cross_entropy", value=np.exp, framework="caffe")
    with pytest.raises(TypeError, match="expected a value function"):
        lr.oracle.check("cross_entropy")
