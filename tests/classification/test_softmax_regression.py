"""Softmax regression: its two forms, saturation, and what leaves it unchanged."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(4)
A, X, B = RNG.normal(size=(7, 3)), RNG.normal(size=3), RNG.dirichlet(np.ones(7))


def test_the_papers_formulas():
    f = np.exp(A @ X) / np.exp(A @ X).sum()
    c = f - B
    assert lr.softmax_regression(X, A, B) == pytest.approx((c @ c) / 2, rel=1e-13)
    assert lr.softmax_regression(X, A, B, squared=False) == pytest.approx(np.linalg.norm(c), rel=1e-13)
    want = A.T @ (np.diag(f) - np.outer(f, f)) @ c
    np.testing.assert_allclose(lr.softmax_regression.grad(X, A, B), want, rtol=1e-11)
    np.testing.assert_allclose(lr.softmax_regression.grad(X, A, B, squared=False), want / np.linalg.norm(c), rtol=1e-11)


def test_the_norm_at_0_has_gradient_0():
    a, b = np.array([[1.0], [1.0]]), np.array([0.5, 0.5])
    value, gradient = lr.softmax_regression.value_and_grad(np.array([3.0]), a, b, squared=False)
    assert value == 0 and gradient == 0


def test_a_saturated_softmax_learns_nothing_right_or_wrong():
    a = np.eye(3)
    right, wrong = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
    x = np.array([30.0, 0.0, 0.0])
    assert lr.softmax_regression(x, a, wrong) == pytest.approx(1, rel=1e-12)
    for b in (right, wrong):
        assert abs(lr.softmax_regression.grad(x, a, b)).max() < 1e-12
    far = np.array([60.0, 0.0, 0.0])  # 1 - f is 1.75e-26: kept
    assert lr.softmax_regression(far, a, right) == pytest.approx(3 * np.exp(-120.0), rel=1e-12)


def test_what_all_rows_share_changes_nothing():
    a = np.rint(A * 16) / 16
    x = np.rint(X * 16) / 16
    shifted = a + np.array([2.0**40, -(2.0**35), 2.0**20])
    assert lr.softmax_regression(x, shifted, B) == lr.softmax_regression(x, a, B)
    np.testing.assert_array_equal(lr.softmax_regression.grad(x, shifted, B), lr.softmax_regression.grad(x, a, B))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"^A: "):
        lr.softmax_regression(X, A[:, :2], B)
    with pytest.raises(ValueError, match=r"^b: "):
        lr.softmax_regression(X, A, B[:5])
