"""log-softmax: every rung, and the vector-Jacobian product."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import log_softmax

LENGTHS = (1, 3, 31, 33, 64, 70)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("rung", log_softmax.RUNGS)
@pytest.mark.parametrize("length", LENGTHS)
def test_ordinary_rows(exact, launch_options, rung, length):
    x = np.random.default_rng(length).normal(size=(3, length)).astype(np.float32) * 5
    y = log_softmax.value(x, **launch_options(rung))
    assert y.dtype == np.float32
    assert exact.error(y, *exact.log_softmax(x), np.float32) <= 4


@pytest.mark.parametrize("rung", log_softmax.RUNGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_hard_rows(exact, launch_options, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    y = log_softmax.value(x, **launch_options(rung))
    assert exact.error(y, *exact.log_softmax(x), dtype) <= 4


@pytest.mark.parametrize("rung", log_softmax.RUNGS)
def test_the_winner_keeps_its_tail(launch_options, rung):
    x = np.array([[0.0, -40.0, -40.0], [-100.0, 0.0, -np.inf]], np.float32)
    y = log_softmax.value(x, **launch_options(rung))
    np.testing.assert_allclose(y[0, 0], -2 * np.exp(-40.0), rtol=1e-5)
    # 3.7e-44 has four or five bits left in float32
    np.testing.assert_allclose(y[1, 1], -np.exp(-100.0), rtol=0, atol=1.4e-45)


@pytest.mark.parametrize("rung", log_softmax.RUNGS)
def test_a_tail_of_many(exact, launch_options, rung):
    """A number below the normal ones has few digits itself; a thousand times it has more."""
    climbing = [-101.0, -93.5, -94.0, -94.5, -95.0, 0.0]  # by steps that do not move the reference
    x = np.full((2, 70), -np.inf, np.float32)
    x[0, : len(climbing)] = climbing
    x[1, 35:43] = -98.0
    x[1, 3] = 0
    y = log_softmax.value(x, **launch_options(rung))
    assert exact.error(y, *exact.log_softmax(x), np.float32) <= 4


@pytest.mark.parametrize("rung", log_softmax.VJP_RUNGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_vjp(exact, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    w = np.random.default_rng(3).normal(size=x.shape).astype(dtype)
    gradient = log_softmax.vjp(x, cotangent=w, rung=rung)
    assert exact.error(gradient, *exact.log_softmax_vjp(x, w), dtype) <= 8


@pytest.mark.parametrize("rung", log_softmax.VJP_RUNGS)
def test_vjp_keeps_the_winner(rung):
    """known_bugs: log-softmax-vjp-component-lost."""
    x = np.array([[37.42994775023705, 0.0]])
    w = np.array([[1.0, 0.0]])
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    assert (w - p * w.sum())[0, 0] == 0  # the obvious code
    gradient = log_softmax.vjp(x, cotangent=w, rung=rung)
    np.testing.assert_allclose(gradient, [[5.551115123125776e-17, -5.551115123125776e-17]], rtol=1e-12)


@pytest.mark.parametrize("rung", log_softmax.VJP_RUNGS)
def test_vjp_of_uniform_rows_is_zero(rung):
    """known_bugs: log-softmax-gradient-noise."""
    x = np.full((1, 300), 2.5, np.float32)
    gradient = log_softmax.vjp(x, cotangent=np.full_like(x, 0.7), rung=rung)
    assert np.abs(gradient).max() <= 2 * np.finfo(np.float32).eps * 0.7
    assert abs(gradient.astype(float).sum()) < 1e-6
    assert (log_softmax.vjp(x, cotangent=np.ones_like(x), rung=rung) == 0).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    w = np.random.default_rng(1).normal(size=x.shape)
    y, gradient = log_softmax.value_and_vjp(x, cotangent=w, axis=axis)
    truth = x - np.log(np.exp(x).sum(axis=axis, keepdims=True))
    np.testing.assert_allclose(y, truth, rtol=1e-12)
    np.testing.assert_allclose(gradient, w - np.exp(truth) * w.sum(axis=axis, keepdims=True), rtol=1e-10, atol=1e-14)
