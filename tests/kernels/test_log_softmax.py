import numpy as np
import pytest

from lossref.kernels import log_softmax

DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 63, 64, 65, 8193])
def test_row_lengths(long_double, dtype, size):
    rng = np.random.default_rng(size)
    eps = np.finfo(dtype).eps
    for scale in (0.1, 3.0, 40.0):
        x = (scale * rng.standard_normal((3, size))).astype(dtype)
        true = long_double(x)
        bound = np.abs(true.log_p) + true.one_minus_p * true.distance + true.spread
        least = np.finfo(dtype).smallest_subnormal
        assert np.all(np.abs(log_softmax.value(x) - true.log_p) <= 4 * eps * bound + least)
        cotangent = rng.standard_normal((3, size)).astype(dtype)
        total = cotangent.sum(-1, keepdims=True, dtype=np.longdouble)
        expected = cotangent * true.one_minus_p - true.p * (total - cotangent)
        moved = np.abs(true.p * total) * (true.one_minus_p * true.distance + true.spread)
        error = np.abs(log_softmax.vjp(x, cotangent=cotangent) - expected)
        # The cotangent is an input too: what its rounding moves is in the yardstick.
        rest = np.abs(cotangent).sum(-1, keepdims=True) - np.abs(cotangent)
        moved += np.abs(cotangent) * true.one_minus_p + true.p * rest
        assert np.all(error <= 8 * eps * (np.abs(expected) + moved) + least)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blind_band(exact, dtype):
    """Value and gradient at a confident maximum; the form ω_j − p_j Σω gives 0 there."""
    for lead in (18, 40, 88, 100) if dtype == np.float32 else (38, 60, 300, 744):
        row, cotangent = np.array([lead, 0, 0.5], dtype), np.array([1, 0, 0], dtype)

        true = exact.Row(lambda x: x[0] - exact.log_sum_exp(x), row)
        assert exact.units(log_softmax.value(row)[0], true.value(), true.value_scale(), dtype) <= 4
        gradient = log_softmax.vjp(row, cotangent=cotangent)
        for j in range(3):
            assert exact.units(gradient[j], true.derivative(j), true.derivative_scale(j), dtype) <= 8
        obvious = cotangent[0] - np.exp(log_softmax.value(row))[0] * cotangent.sum()
        assert exact.units(obvious, true.derivative(0), true.derivative_scale(0), dtype) > 1000


def test_the_gradient_of_a_constant_row_is_zero():
    """ω_j − p_j Σω with a uniform row and a uniform cotangent (pytorch#16028): noise adds up over the row."""
    for size in (300, 32_000):
        for omega in (1.0, 0.1):
            x = np.full(size, 0.7, np.float32)
            gradient = log_softmax.vjp(x, cotangent=np.full(size, omega, np.float32))
            assert np.abs(gradient).max() <= 2 * np.finfo(np.float32).eps / size
            assert abs(gradient.sum(dtype=float)) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_and_bad_numbers(dtype):
    inf, nan = np.inf, np.nan
    x = np.array([[0, -inf, 0], [nan, 0, 0], [inf, 0, 0], [-inf, -inf, -inf], [1, 1, -inf]], dtype)
    value = log_softmax.value(x)
    np.testing.assert_allclose(value[[0, 4]], [[-np.log(2), -inf, -np.log(2)], [-np.log(2)] * 2 + [-inf]], rtol=1e-7)
    assert np.isnan(value[[1, 2, 3]]).any(1).all()
    gradient = log_softmax.vjp(x[[0, 4]], cotangent=np.array([[1, 5, 0], [1, 0, 2]], dtype))
    np.testing.assert_allclose(gradient, [[0.5, 0, -0.5], [0.5, -0.5, 0]])


def test_a_long_row(long_double):
    x = np.random.default_rng(0).standard_normal(300_001).astype(np.float32)
    true = long_double(x)
    np.testing.assert_allclose(log_softmax.value(x), true.log_p.astype(float), rtol=1e-6)
    gradient = log_softmax.vjp(x, cotangent=np.ones_like(x))
    np.testing.assert_allclose(gradient, (1 - x.size * true.p).astype(float), rtol=1e-6, atol=2e-6)


def test_axis_and_out():
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    for axis in (0, 1, -1):
        expected = x - np.log(np.exp(x).sum(axis, keepdims=True))
        np.testing.assert_allclose(log_softmax.value(x, axis=axis), expected, rtol=1e-13)
        out = np.empty_like(x)
        value, gradient = log_softmax.value_and_vjp(x, axis=axis, cotangent=x, out=out)
        assert gradient is out
        np.testing.assert_allclose(value, expected, rtol=1e-13)
        np.testing.assert_allclose(out, x - np.exp(expected) * x.sum(axis, keepdims=True), rtol=1e-10, atol=1e-15)
