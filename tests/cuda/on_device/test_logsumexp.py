"""log-sum-exp: every rung, ordinary and hard rows, all dtypes."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import logsumexp

LENGTHS = (1, 3, 31, 33, 64, 70)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("rung", logsumexp.RUNGS)
@pytest.mark.parametrize("length", LENGTHS)
def test_ordinary_rows(exact, launch_options, rung, length):
    x = np.random.default_rng(length).normal(size=(3, length)).astype(np.float32) * 5
    w = np.array([1.5, -0.25, 3.0], np.float32)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=w, **launch_options(rung))
    assert value.dtype == gradient.dtype == np.float32
    assert exact.error(value, *exact.logsumexp(x), np.float32) <= 4
    p, move = exact.softmax(x)
    assert exact.error(gradient, w[:, None] * p, np.abs(w)[:, None] * move, np.float32) <= 8


@pytest.mark.parametrize("rung", logsumexp.RUNGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_hard_rows(exact, launch_options, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    w = np.linspace(0.5, 2, len(x)).astype(dtype)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=w, **launch_options(rung))
    assert value.dtype == np.dtype(dtype)
    assert exact.error(value, *exact.logsumexp(x), dtype) <= 4
    p, move = exact.softmax(x)
    wide = w.astype(np.longdouble)[:, None]
    assert exact.error(gradient, wide * p, np.abs(wide) * move, dtype) <= 8


@pytest.mark.parametrize("rung", logsumexp.RUNGS)
def test_a_leading_zero_keeps_its_tail(launch_options, rung):
    """lse([0, -40, -40]) = log1p(2 e**-40); the textbook formula says 0."""
    x = np.array([[0.0, -40.0, -40.0], [-40.0, -40.0, 0.0]], np.float32)
    textbook = np.log(np.exp(x - x.max(1, keepdims=True)).sum(1)) + x.max(1)
    assert (textbook == 0).all()
    value = logsumexp.value(x, **launch_options(rung))
    np.testing.assert_allclose(value, 2 * np.exp(-40.0), rtol=1e-5)


@pytest.mark.parametrize("rung", logsumexp.RUNGS)
def test_a_row_of_masks(launch_options, rung):
    x = np.array([[-np.inf] * 5, [1.0, -np.inf, 1.0, -np.inf, -np.inf]], np.float32)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=np.ones(2, np.float32), **launch_options(rung))
    assert value[0] == -np.inf
    assert (gradient[0] == 0).all()
    np.testing.assert_allclose(value[1], 1 + np.log(2), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy scalars warn in the simulator, a GPU does not
@pytest.mark.parametrize("rung", logsumexp.RUNGS)
@pytest.mark.parametrize("place", [0, 17, 34])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(launch_options, rung, place, bad):
    x = np.zeros((3, 35), np.float32)
    x[1, place] = bad
    value = logsumexp.value(x, **launch_options(rung))
    assert np.isnan(value[1])
    np.testing.assert_allclose(value[[0, 2]], np.log(35), rtol=1e-6)


def test_many_terms_lose_nothing(exact):
    """A slowly rising row: every element a new maximum, a thousand of them for one thread."""
    x = np.arange(1000, dtype=np.float32)[None] * np.float32(1e-3)
    value = logsumexp.value(x, rung="one_thread_per_row")
    truth, allowance = exact.logsumexp(x)
    assert exact.error(value, truth, allowance, np.float32) <= 4
    # rescaling at every new maximum, the usual recurrence, does not reach that for the softmax it implies
    m, s = x[0, 0], np.float32(1)
    for v in x[0, 1:]:
        s = s * np.exp(m - v) + np.float32(1)
        m = v
    kept = np.exp(value.astype(np.longdouble) - truth) - 1
    usual = np.longdouble(s) * np.exp(np.longdouble(m) - truth[0]) - 1
    assert abs(usual) > 3 * np.finfo(np.float32).eps
    assert abs(kept[0]) <= 4 * np.finfo(np.float32).eps * float(allowance[0])


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
@pytest.mark.parametrize("keepdims", [False, True])
def test_axis_and_keepdims(exact, axis, keepdims):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    cotangent = np.random.default_rng(1).normal(size=x.sum(axis=axis, keepdims=keepdims).shape)
    value, gradient = logsumexp.value_and_vjp(x, cotangent=cotangent, axis=axis, keepdims=keepdims)
    truth = np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))
    np.testing.assert_allclose(value, truth, rtol=1e-13, atol=1e-15)
    full = np.log(np.exp(x).sum(axis=axis, keepdims=True))
    w = cotangent if keepdims else np.expand_dims(cotangent, axis)
    assert gradient.shape == x.shape
    np.testing.assert_allclose(gradient, w * np.exp(x - full), rtol=1e-12)


def test_strides_and_empty_batches():
    base = np.random.default_rng(2).normal(size=(6, 10))
    base.flags.writeable = False
    for x in (base[::2, ::-1], base.T, np.broadcast_to(base[0], (4, 10))):
        np.testing.assert_allclose(logsumexp.value(x), logsumexp.value(np.ascontiguousarray(x)), rtol=1e-15)
    assert logsumexp.value(np.empty((0, 3))).shape == (0,)
    assert logsumexp.vjp(np.empty((0, 3)), cotangent=np.empty(0)).shape == (0, 3)
    assert logsumexp.value(np.zeros(4)).shape == ()


def test_unknown_rung():
    with pytest.raises(ValueError, match="rung must be one of"):
        logsumexp.value(np.zeros((1, 2)), rung="fastest")


def test_a_thread_a_warp_a_block_or_several():
    assert logsumexp.best_rung(10**6, 32) == "one_thread_per_row"
    assert logsumexp.best_rung(1, 33) == "one_warp_per_row_vectorised"
    assert logsumexp.best_rung(1, 1024, aligned=False) == "one_warp_per_row"
    assert logsumexp.best_rung(4096, 8192) == "one_warp_per_row_vectorised"
    assert logsumexp.best_rung(4095, 8192) == logsumexp.best_rung(4096, 8193) == "vectorised"
    assert logsumexp.best_rung(8, 2**17) == "long_row_split_over_blocks"
