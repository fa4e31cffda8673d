import numpy as np
import pytest

from lossref.kernels import softmax

ALGORITHMS = ["three_pass", "online", "two_pass"]
DTYPES = [np.float32, np.float64]
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 1000, 8191, 8192, 8193]


def check(x, value, true, k=8):
    eps, least = np.finfo(x.dtype).eps, np.finfo(x.dtype).smallest_subnormal
    bound = true.p * (1 + true.one_minus_p * true.distance + true.spread)
    assert np.all(np.abs(value - true.p) <= k * eps * bound + least)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_row_lengths(long_double, algorithm, dtype, size):
    rng = np.random.default_rng(size)
    for scale in (0.1, 3.0, 40.0):
        x = (scale * rng.standard_normal((3, size))).astype(dtype)
        value = softmax.value(x, algorithm=algorithm)
        assert value.dtype == dtype
        check(x, value, long_double(x), k=4)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_rows(long_double, hard_rows, algorithm, dtype):
    for row in hard_rows(dtype):
        check(row, softmax.value(row, algorithm=algorithm), long_double(row))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("mask", [-np.inf, -1e30, -1e9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masks(algorithm, mask, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 9000)).astype(dtype)
    kept = rng.random(x.shape) < 0.5
    kept[1, :5000] = False
    kept[2] = False
    kept[2, 8999] = True
    masked = np.where(kept, x, dtype(mask))
    value = softmax.value(masked, algorithm=algorithm)
    assert np.all(value[~kept] == 0)
    for i in range(4):
        alone = softmax.value(x[i, kept[i]], algorithm=algorithm)
        np.testing.assert_allclose(value[i, kept[i]], alone, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e5, 9e4, 1e9, -1e9])
def test_rows_far_from_zero(algorithm, dtype, offset):
    """Offsets that keep the differences exact change nothing; two_pass has to see that it left its domain."""
    differences = 64.0 * np.arange(-3, 3)
    x = (differences + offset).astype(dtype)
    assert np.array_equal((x - x[0]).astype(float), differences - differences[0])
    value = softmax.value(x, algorithm=algorithm)
    # The yardstick forgives two_pass nothing: what it does not round it need not round.
    np.testing.assert_allclose(
        value,
        softmax.value(differences.astype(dtype)),
        rtol=8 * np.finfo(dtype).eps,
        atol=np.finfo(dtype).tiny,
    )


@pytest.mark.parametrize("seed", range(20))
def test_two_pass_sees_a_number_far_beyond_its_domain(seed):
    """There the reduction is garbage, of either sign."""
    x = np.zeros(300)
    x[100] = np.random.default_rng(seed).uniform(1, 10) * 10.0 ** (13 + 10 * seed)
    np.testing.assert_array_equal(softmax.value(x, algorithm="two_pass"), np.arange(300) == 100)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("size", [1, 5, 64, 70, 9000])
def test_bad_numbers_stay_in_their_row(algorithm, bad, size):
    for place in {0, size // 2, size - 1}:
        x = np.zeros((3, size), np.float32)
        clean = softmax.value(x, algorithm=algorithm)
        x[1, place] = bad
        value = softmax.value(x, algorithm=algorithm)
        assert np.isnan(value[1]).all()
        np.testing.assert_array_equal(value[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_row_of_masks_alone_is_nan(algorithm):
    assert np.isnan(softmax.value(np.full(5, -np.inf), algorithm=algorithm)).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_row_is_divided_among_the_threads(long_double, algorithm, dtype):
    x = (5 * np.random.default_rng(0).standard_normal(300_001)).astype(dtype)
    check(x, softmax.value(x, algorithm=algorithm), long_double(x), k=4)
    x[-1] = np.nan
    assert np.isnan(softmax.value(x, algorithm=algorithm)).all()
    x[:] = 1e9
    np.testing.assert_allclose(softmax.value(x, algorithm=algorithm), 1 / x.size, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [4096, 190_000, 10**7])
def test_equal_logits(algorithm, dtype, size):
    """Lanes that are never closed lose three digits of every float32 output, and so does a plain sum of their closed
    sums in float64."""
    for logit in (-1.5, -3.0, 0.7):
        value = softmax.value(np.full(size, logit, dtype), algorithm=algorithm)
        assert np.abs(value * np.longdouble(size) - 1).max() <= 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("start", range(0, 17, 3))
def test_results_stored_around_the_caches(algorithm, start):
    """Larger than the caches, and beginning at any element: the first elements up to a cache line are
    apart."""
    x = np.random.default_rng(0).standard_normal(9_000_000).astype(np.float32).reshape(1000, 9000)
    buffer = np.full(x.size + 40, -1, np.float32)
    out = buffer[start : start + x.size].reshape(x.shape)
    softmax.value(x, algorithm=algorithm, out=out)
    np.testing.assert_array_equal(out[::7], softmax.value(x[::7], algorithm=algorithm))
    assert (buffer[:start] == -1).all() and (buffer[start + x.size :] == -1).all()


def sum_of_weighted_differences(p, cotangent):
    """ω_j − ⟨p, ω⟩ = Σ_k p_k (ω_j − ω_k), a row at a time."""
    return np.stack([(q * (w[:, None] - w)).sum(-1) for q, w in zip(p, cotangent, strict=True)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 65, 1025])
def test_gradient(long_double, dtype, size):
    rng = np.random.default_rng(size)
    eps = np.finfo(dtype).eps
    for scale in (0.1, 3.0, 40.0):
        x = (scale * rng.standard_normal((3, size))).astype(dtype)
        cotangent = rng.standard_normal((3, size)).astype(dtype)
        p, distance = long_double(x).p, long_double(x).distance
        centred = sum_of_weighted_differences(p, cotangent.astype(np.longdouble))
        expected = p * centred
        # dg_j/dx_k = p_j (δ_jk (ω_j − ⟨⟩) − p_k (ω_k − ⟨⟩) − p_k (ω_j − ⟨⟩))
        total = (p * np.abs(centred) * distance).sum(-1, keepdims=True)
        spread = (p * distance).sum(-1, keepdims=True)
        moved = p * (np.abs(centred) * distance + total + np.abs(centred) * spread)
        # The cotangent is an input too: what its rounding moves.
        moved += p * (np.abs(cotangent) * long_double(x).one_minus_p + (p * np.abs(cotangent)).sum(-1, keepdims=True))
        error = np.abs(softmax.vjp(x, cotangent=cotangent) - expected)
        assert np.all(error <= 8 * eps * (np.abs(expected) + moved) + np.finfo(dtype).smallest_subnormal)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_a_confident_row(exact, dtype):
    for lead in (10, 40, 90) if dtype == np.float32 else (20, 40, 600):
        row, cotangent = np.array([1, 1 + lead, 0], dtype), np.array([0.1, 0.3, -7], dtype)

        def weighted(x, cotangent=cotangent):
            total = sum((v.exp() for v in x), exact.ball(0))
            return sum(exact.ball(float(w)) * v.exp() / total for w, v in zip(cotangent, x, strict=True))

        true = exact.Row(weighted, row)
        gradient = softmax.vjp(row, cotangent=cotangent)
        for j in range(3):
            assert exact.units(gradient[j], true.derivative(j), true.derivative_scale(j), dtype) <= 8


def test_axis_and_out():
    x = np.random.default_rng(1).standard_normal((3, 4, 5))
    cotangent = np.random.default_rng(2).standard_normal(x.shape)
    for axis in (0, 1, 2, -2):
        p = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
        np.testing.assert_allclose(softmax.value(x, axis=axis), p, rtol=1e-14)
        out = np.empty_like(x)
        assert softmax.value(x, axis=axis, out=out) is out
        np.testing.assert_allclose(out, p, rtol=1e-14)
        g = p * (cotangent - (p * cotangent).sum(axis, keepdims=True))
        assert softmax.vjp(x, axis=axis, cotangent=cotangent, out=out) is out
        np.testing.assert_allclose(out, g, rtol=1e-11, atol=1e-16)


def test_errors():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="algorithm"):
        softmax.value(x, algorithm="four_pass")
    for out in (
        np.zeros((2, 3)),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3)).T,
        [0.0],
        np.broadcast_to(1.0, (3, 2)),
    ):
        with pytest.raises(ValueError, match="out"):
            softmax.value(x, out=out)
    with pytest.raises(TypeError, match=r"x: .*float16, bfloat16, float32 or float64"):
        softmax.value(x.astype(np.longdouble))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low", [-3000.0, -1e9, -np.inf])
@pytest.mark.parametrize("jump", [1, 64, 1023, 1024, 4096, 5000, 8999, 16383, 16384, 19000, 32768])
def test_a_row_that_jumps(long_double, algorithm, dtype, low, jump):
    """The beginning says nothing of what comes: e^{x − m} with the maximum so far overflows, and so does an exponent
    that all lanes share."""
    x = np.random.default_rng(0).standard_normal(9000 if jump < 9000 else 33000)
    x[:jump] += low
    x = x.astype(dtype)
    check(x, softmax.value(x, algorithm=algorithm), long_double(x), k=4)
    check(x[::-1], softmax.value(x[::-1], algorithm=algorithm), long_double(x[::-1]), k=4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mask", [-np.inf, -1e30, -1e9])
@pytest.mark.parametrize("masked", [1, 64, 16384, 20000])
def test_masks_at_the_beginning_need_no_third_pass(dtype, mask, masked):
    x = np.random.default_rng(0).standard_normal(20001).astype(dtype)
    x[:masked] = mask
    mantissa, n = softmax.pairs_of_piece(x)
    true = np.log2(np.exp(x.astype(np.longdouble)).sum())
    np.testing.assert_allclose(np.log2(mantissa) + n, float(true), rtol=8 * np.finfo(dtype).eps)
