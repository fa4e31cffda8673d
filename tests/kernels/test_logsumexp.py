import numpy as np
import pytest

from lossref.kernels import logsumexp

SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 4095, 4096, 4097, 8191, 8192, 8193]
DTYPES = [np.float32, np.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_rows_within_the_yardstick(exact, hard_rows, dtype):
    for row in hard_rows(dtype):
        value, gradient = logsumexp.value_and_vjp(row, cotangent=1.0)
        true = exact.Row(exact.log_sum_exp, row)
        # The value moves with a common offset, so x is measured from 0 here; the gradient does not.
        scale = true.value_scale(from_zero=True)
        assert exact.units(value, true.value(), scale, dtype) <= 4, row
        for j, g in enumerate(gradient):
            if row[j] == -np.inf:
                assert g == 0
            else:
                assert exact.units(g, true.derivative(j), true.derivative_scale(j), dtype) <= 8, (row, j)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_obvious_code_misses_the_yardstick_in_the_blind_band(exact, dtype):
    lead = 40 if dtype == np.float32 else 100
    row = np.array([0.0, -lead, -lead], dtype)
    true = exact.Row(exact.log_sum_exp, row)
    obvious = row.max() + np.log(np.exp(row - row.max()).sum())
    assert exact.units(obvious, true.value(), true.value_scale(), dtype) > 1000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_row_lengths(long_double, dtype, size):
    rng = np.random.default_rng(size)
    eps = np.finfo(dtype).eps
    for scale in (0.1, 3.0, 40.0):
        x = (scale * rng.standard_normal((3, size))).astype(dtype)
        true = long_double(x)
        weights = rng.standard_normal(3)
        value, gradient = logsumexp.value_and_vjp(x, cotangent=weights)
        assert value.dtype == gradient.dtype == dtype
        bound = np.abs(true.log_sum_exp) + true.spread[:, 0]
        assert np.all(np.abs(value - true.log_sum_exp) <= 4 * eps * bound)
        assert np.array_equal(value, logsumexp.value(x))
        expected = weights[:, None] * true.p
        moved = np.abs(expected) * (true.one_minus_p * true.distance + true.spread)
        assert np.all(np.abs(gradient - expected) <= 8 * eps * (np.abs(expected) + moved) + np.finfo(dtype).tiny * eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks(dtype):
    inf = np.inf
    x = np.array([[-inf] * 5, [-inf, 0, -inf, -inf, -inf], [-inf, -inf, -inf, 1, 1]], dtype)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=np.ones(3))
    np.testing.assert_array_equal(value, np.array([-inf, 0, 1 + np.log(2)], dtype))
    np.testing.assert_array_equal(gradient, [[0] * 5, [0, 1, 0, 0, 0], [0, 0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("masked", [4096, 5000, 8192])
def test_first_half_masked(masked):
    """A running maximum that is still −∞ after a block must not make NaN of it."""
    x = np.full(9000, -np.inf, np.float32)
    x[masked:] = 2.0
    assert logsumexp.value(x) == pytest.approx(2 + np.log(9000 - masked), rel=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [1, 5, 64, 70, 9000])
def test_bad_numbers_stay_in_their_row(dtype, bad, size):
    for place in {0, size // 2, size - 1}:
        for others in (0.0, -np.inf):
            x = np.full((3, size), others, dtype)
            x[:, size - 1 - place] = 1.0
            clean = logsumexp.value(x)
            x[1, place] = bad
            value = logsumexp.value(x)
            assert np.isnan(value[1])
            np.testing.assert_array_equal(value[[0, 2]], clean[[0, 2]])


def test_a_long_row_is_divided_among_the_threads(long_double):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(300_001).astype(np.float32)
    true = long_double(x)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=2.0)
    assert abs(value - true.log_sum_exp) <= 4 * np.finfo(np.float32).eps * abs(true.log_sum_exp)
    np.testing.assert_allclose(gradient, (2 * true.p).astype(float), rtol=1e-6)
    x[-1] = np.nan
    assert np.isnan(logsumexp.value(x))
    assert logsumexp.value(np.full(300_001, -np.inf, np.float32)) == -np.inf


@pytest.mark.parametrize("fill", [0.0, 1e9, -3.3])
@pytest.mark.parametrize("count", [10**6, 10**7])
def test_equal_logits(fill, count):
    x = np.full(count, fill, np.float32)
    expected = float(np.float32(fill)) + np.log(count)
    assert abs(float(logsumexp.value(x)) - expected) <= 4 * np.finfo(np.float32).eps * abs(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_terms_do_not_repeat_one_rounding_error(dtype):
    """10^6 numbers at −1 and one at 0: every addition rounds alike, and a plain running sum drifts."""
    x = np.full(10**6, -1.0, dtype)
    x[7] = 0
    expected = np.log1p(np.longdouble(10**6 - 1) * np.exp(np.longdouble(-1)))
    assert abs(logsumexp.value(x) - expected) <= 4 * np.finfo(dtype).eps * (expected + 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", [1, -1])
def test_rising_and_falling_rows(long_double, dtype, direction):
    """A new maximum in every block, and none after the first."""
    x = np.linspace(0, 300, 50_000).astype(dtype)[::direction]
    true = long_double(x)
    value = logsumexp.value(x)
    assert abs(value - true.log_sum_exp) <= 4 * np.finfo(dtype).eps * (true.log_sum_exp + true.spread[0])


def test_axis_and_keepdims(long_double):
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    for axis in (0, 1, 2, -1, -2, -3):
        expected = np.log(np.exp(x).sum(axis=axis))
        np.testing.assert_allclose(logsumexp.value(x, axis=axis), expected, rtol=1e-14)
        np.testing.assert_allclose(
            logsumexp.value(x, axis=axis, keepdims=True), np.expand_dims(expected, axis), rtol=1e-14
        )
        weights = np.random.default_rng(2).standard_normal(expected.shape)
        gradient = logsumexp.vjp(x, axis=axis, cotangent=weights)
        p = np.exp(x - np.expand_dims(expected, axis))
        np.testing.assert_allclose(gradient, np.expand_dims(weights, axis) * p, rtol=1e-13)


def test_errors():
    with pytest.raises(ValueError, match=r"x: the reduced axis 1 is empty"):
        logsumexp.value(np.zeros((3, 0)))
    with pytest.raises(ValueError, match="axis"):
        logsumexp.value(np.zeros((3, 2)), axis=2)
    with pytest.raises(TypeError, match=r"x: .*float16, bfloat16, float32 or float64"):
        logsumexp.value(np.zeros((3, 2), np.longdouble))
    assert logsumexp.value(np.zeros((0, 3))).shape == (0,)
