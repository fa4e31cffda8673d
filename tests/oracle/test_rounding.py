"""The gradient of the obvious code, in the dtype of its inputs; what the report makes of it."""

import zlib

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.oracle.rounding import Rounded, gradients, variables

# The literal formula puts plain numbers between its variables, and NumPy finds no function of those.
NOT_DIFFERENTIATED = {"aldr_kl", "ldr_kl", "ldr_topk_kl"}
OBVIOUS = [n for n, loss in lr.losses().items() if loss.differentiable and loss.obvious_form is not None]


@pytest.mark.parametrize("name", [n for n in OBVIOUS if n not in NOT_DIFFERENTIATED])
def test_in_float64_it_is_the_gradient_of_the_loss(name):
    loss = lr.losses()[name]
    arguments = loss.defaults(np.random.default_rng(zlib.crc32(name.encode())))
    required = {n: v for n, v in arguments.items() if loss.arguments[n].required}
    for n, value in required.items():
        ignore = getattr(loss.arguments[n].declaration, "ignore", None)
        if ignore is not None:
            required[n] = np.where(value == arguments[ignore], 0, value)
    of = {n: variables(np.asarray(required[n], np.float64)) for n in loss.of if n in required}
    terms = loss.obvious_form(**{**required, **of})
    cotangent = np.random.default_rng(1).standard_normal(np.shape(terms))
    options = {"reduction": "none"} if loss.reducible else {}
    ours = loss.grad(**{**arguments, **required}, **options, cotangent=cotangent)
    for got, want in zip(
        gradients(terms, cotangent, tuple(of.values())), ours if isinstance(ours, tuple) else (ours,), strict=True
    ):
        assert np.allclose(got, want, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_every_operation_is_rounded_to_the_dtype(dtype):
    torch = pytest.importorskip("torch")
    from lossref.torch import from_numpy, to_numpy

    x = np.linspace(-3, 3, 50).astype(dtype)
    x_variables = variables(x)
    (ours,) = gradients(np.log(1 + np.exp(x_variables)), np.ones(50), (x_variables,))
    tensor = from_numpy(x).requires_grad_()
    torch.log(1 + torch.exp(tensor)).sum().backward()
    assert ours.dtype == dtype
    wide, theirs = ours.astype(float), to_numpy(tensor.grad).astype(float)
    assert np.allclose(wide, theirs, rtol=2 * float(ml_dtypes.finfo(dtype).eps), atol=0)
    assert np.any(ours != lr.sigmoid(x.astype(float)).astype(dtype))  # no wider dtype was in between
    (ours,) = gradients(np.exp(x_variables), np.ones(50), (variables(x),))
    assert not np.any(ours)  # by other variables there is no derivative


def test_numbers_of_the_tape():
    x = Rounded(np.float32(3))
    y = (2 - x) * x / (1 + x) + x**2 - abs(-x) + 1 / x
    (slope,) = gradients(np.array([y], object), np.ones(1), (np.array([x], object),))
    expected = ((2 - 6) * 4 - (2 - 3) * 3) / 16 + 6 - 1 - 1 / 9
    assert slope.dtype == np.float32 and slope[0] == pytest.approx(expected, rel=1e-6)
    assert x > 2 and x >= 3 and not x < 3 and x <= np.float32(3) and max([x, y]) is y


def naive(logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(p)), labels])


def p_minus_one(logits, labels, cotangent):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p[np.arange(len(p)), labels] -= 1
    return (p * cotangent[:, None]).astype(logits.dtype)


def test_plain_code_is_as_good_as_plain_code_and_ours_is_better():
    plain = lr.oracle.check("cross_entropy", value=naive, grad=p_minus_one, dtype="bfloat16", quick=True)
    assert 0.5 < plain.ratio["value"] < 2 and 0.2 < plain.ratio["grad"] < 4, plain.ratio
    ours = lr.oracle.check("cross_entropy", value=lr.cross_entropy, grad=lr.cross_entropy.grad, dtype="bfloat16",
                           quick=True)  # fmt: skip
    assert ours.ratio["value"] < 0.2 and ours.ratio["grad"] < 0.2, ours.ratio
    assert "× that of the obvious code" in str(ours).split("worst grad")[1]


def test_a_mean_is_compared_with_a_mean():
    report = lr.oracle.check("cross_entropy", value=lambda x, y: naive(x, y).mean(), dtype="float16", quick=True)
    assert 0.2 < report.ratio["value"] < 5, report.ratio
