"""Cross-entropies of the spherical and of the Taylor softmax."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(13)
LOGITS, LABELS = 2 * RNG.normal(size=(15, 6)), RNG.integers(0, 6, 15)
ROWS = np.arange(15)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 2.0])
def test_spherical_is_minus_the_log_of_the_spherical_softmax(epsilon):
    q = lr.spherical_softmax(LOGITS, epsilon=epsilon)
    got = lr.spherical_softmax_cross_entropy(LOGITS, LABELS, epsilon=epsilon, reduction="none")
    np.testing.assert_allclose(got, -np.log(q[ROWS, LABELS]), rtol=1e-12)
    cotangent = np.zeros_like(q)
    cotangent[ROWS, LABELS] = -1 / q[ROWS, LABELS] / 15
    want = lr.spherical_softmax.grad(LOGITS, epsilon=epsilon, cotangent=cotangent)
    got = lr.spherical_softmax_cross_entropy.grad(LOGITS, LABELS, epsilon=epsilon)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("order", [2, 4, 6, 10])
def test_taylor_is_minus_the_log_of_the_taylor_softmax(order):
    q = lr.taylor_softmax(LOGITS, order=order)
    got = lr.taylor_softmax_cross_entropy(LOGITS, LABELS, order=order, reduction="none")
    np.testing.assert_allclose(got, -np.log(q[ROWS, LABELS]), rtol=1e-11)
    cotangent = np.zeros_like(q)
    cotangent[ROWS, LABELS] = -1 / q[ROWS, LABELS] / 15
    want = lr.taylor_softmax.grad(LOGITS, order=order, cotangent=cotangent)
    np.testing.assert_allclose(
        lr.taylor_softmax_cross_entropy.grad(LOGITS, LABELS, order=order), want, rtol=1e-9, atol=1e-14
    )


def test_a_high_order_is_cross_entropy():
    got = lr.taylor_softmax_cross_entropy(LOGITS, LABELS, order=60, reduction="none")
    np.testing.assert_allclose(got, lr.cross_entropy(LOGITS, LABELS, reduction="none"), rtol=1e-12)


def test_label_ratio_of_order_2():
    x = LOGITS[ROWS, LABELS]
    f = (1 + (1 + LOGITS) ** 2) / 2
    share = f[ROWS, LABELS] / f.sum(axis=1)
    want = -(1 + x) / ((1 + (1 + x) ** 2) / 2) * (1 - share)
    got = lr.taylor_softmax_cross_entropy.grad(LOGITS, LABELS, reduction="none")[ROWS, LABELS]
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_a_label_next_to_0_is_pushed_away_from_0():
    # Strongest at x = √ε, where the slope of log(x² + ε) is 1/√ε.
    x = np.sqrt(1e-3)
    logits = np.array([[x, 5.0, 5.0], [-x, 5.0, 5.0]])
    got = lr.spherical_softmax_cross_entropy.grad(logits, np.array([0, 0]), reduction="none")[:, 0]
    np.testing.assert_allclose(got, [-1 / x, 1 / x], rtol=1e-4)


def test_refused():
    logits = LOGITS.copy()
    logits[4, LABELS[4]] = 0
    with pytest.raises(ValueError, match=r"^logits: .*epsilon"):
        lr.spherical_softmax_cross_entropy(logits, LABELS, epsilon=0.0)
    assert np.isfinite(lr.spherical_softmax_cross_entropy(logits, LABELS))
    for order in (1, 3, 0, -2):
        with pytest.raises(ValueError, match=r"^order: "):
            lr.taylor_softmax_cross_entropy(LOGITS, LABELS, order=order)
