"""Softmax without the exponential, and the entropy of the one with it."""

from math import factorial

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(2)
LOGITS = 2 * RNG.normal(size=(3, 4, 5))


@pytest.mark.parametrize("name", ["taylor_softmax", "spherical_softmax", "stablemax"])
def test_they_are_distributions_of_any_rows(name):
    function = lr.losses()[name]
    q = function(LOGITS)
    assert q.shape == LOGITS.shape and (q >= 0).all()
    np.testing.assert_allclose(q.sum(axis=-1), 1, rtol=1e-15)
    np.testing.assert_array_equal(function(LOGITS[1, 2]), q[1, 2])
    np.testing.assert_array_equal(function(LOGITS[1, 2, :1]), 1)
    for bad in (np.zeros((2, 0)), np.array(1.0), np.array([0.0, -np.inf]), np.array([0.0, np.nan])):
        with pytest.raises(ValueError, match=r"^logits: "):
            function(bad)


@pytest.mark.parametrize("order", [2, 4, 6, 8])
def test_taylor_is_the_polynomial(order):
    f = sum(LOGITS**i / factorial(i) for i in range(order + 1))
    np.testing.assert_allclose(lr.taylor_softmax(LOGITS, order=order), f / f.sum(-1, keepdims=True), rtol=1e-10)


def test_taylor_approaches_softmax_as_the_order_grows():
    np.testing.assert_allclose(lr.taylor_softmax(LOGITS, order=40), lr.softmax(LOGITS), rtol=1e-12)


def test_taylor_is_smallest_at_minus_one():
    x = np.stack([np.full(5, 0.3), np.array([-3.0, -1.5, -1.0, -0.5, 0.0])], axis=1)
    probability, slope = lr.taylor_softmax(x)[:, 1], lr.taylor_softmax.grad(x, cotangent=np.tile([0.0, 1.0], (5, 1)))
    assert np.argmin(probability) == 2 and slope[2, 1] == 0
    assert (slope[:2, 1] < 0).all() and (slope[3:, 1] > 0).all()


@pytest.mark.parametrize("order", [0, 1, 3, -2])
def test_odd_orders_are_refused(order):
    with pytest.raises(ValueError, match=r"^order: "):
        lr.taylor_softmax(LOGITS, order=order)


def test_spherical_sees_no_sign():
    np.testing.assert_array_equal(lr.spherical_softmax(-LOGITS), lr.spherical_softmax(LOGITS))
    with pytest.raises(ValueError, match=r"^logits: "):
        lr.spherical_softmax(np.array([[1.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_array_equal(lr.spherical_softmax(np.zeros((1, 2)), epsilon=1e-3), 0.5)
    want = (LOGITS**2 + 0.1) / (LOGITS**2 + 0.1).sum(-1, keepdims=True)
    np.testing.assert_allclose(lr.spherical_softmax(LOGITS, epsilon=0.1), want, rtol=1e-14)


def test_stablemax_is_the_softmax_of_logits_on_a_logarithmic_scale():
    symmetric_log = np.sign(LOGITS) * np.log1p(abs(LOGITS))
    np.testing.assert_allclose(lr.stablemax(LOGITS), lr.softmax(symmetric_log), rtol=1e-14)


def test_stablemax_has_no_kink_at_zero():
    slopes = [lr.stablemax.grad(np.array([x, 0.5]), cotangent=np.array([1.0, 0.0]))[0] for x in (-1e-9, 0.0, 1e-9)]
    np.testing.assert_allclose(slopes, slopes[1], rtol=1e-8)


def test_sizes_whose_squares_or_sums_overflow():
    huge = np.array([1.5e308, 0.75e308, -1e308])
    np.testing.assert_allclose(lr.stablemax(huge), [2 / 3, 1 / 3, 0], atol=1e-15)
    np.testing.assert_allclose(lr.spherical_softmax(huge), np.array([9, 2.25, 4]) / 15.25, rtol=1e-14)
    np.testing.assert_allclose(lr.taylor_softmax(huge), np.array([9, 2.25, 4]) / 15.25, rtol=1e-14)


def test_entropy_between_sure_and_uniform():
    assert lr.softmax_entropy(np.zeros((1, 7))) == pytest.approx(np.log(7))
    assert lr.softmax_entropy(np.array([[0.0, -np.inf, 0.0]])) == pytest.approx(np.log(2))
    assert lr.softmax_entropy(np.array([[0.0, -np.inf]])) == 0
    sure = lr.softmax_entropy(np.array([[500.0, 0.0]]))
    assert sure == pytest.approx(501 * np.exp(-500.0), rel=1e-12)
    np.testing.assert_array_equal(lr.softmax_entropy.grad(np.zeros((1, 7))), 0)
    with pytest.raises(ValueError, match=r"^logits: "):
        lr.softmax_entropy(np.array([[-np.inf, -np.inf]]))
    with pytest.raises(ValueError, match=r"^logits: "):
        lr.softmax_entropy(np.zeros((2, 0)))
