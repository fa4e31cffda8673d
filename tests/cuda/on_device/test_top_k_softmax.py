"""top_k_softmax: both rungs, forward and backward, against the NumPy path in float64."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import top_k_softmax

import lossref as lr

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
rungs = pytest.mark.parametrize("rung", top_k_softmax.RUNGS)


def problem(columns, dtype, seed=0):
    """Scores with many ties, a mask, and one leader by 40."""
    rng = np.random.default_rng(seed)
    scores = np.rint(2 * rng.normal(size=(5, columns))) / 2
    scores[1, 0] = -np.inf
    scores[2, -1] = 40.0
    arrays = (scores, rng.normal(size=columns), rng.normal(size=scores.shape))
    return tuple(x.astype(dtype) for x in arrays)


def close(found, want, dtype, factor, share=1e-2):
    """Each entry relative to itself, and absolutely to a share of the largest: all of it where rows cancel."""
    eps = float(ml_dtypes.finfo(np.dtype(dtype)).eps)
    assert found.dtype == dtype
    found = found.astype(np.float64)
    np.testing.assert_allclose(found, want, rtol=factor * eps, atol=factor * eps * np.abs(want).max() * share)


@rungs
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("columns, k", [(3, 3), (5, 1), (37, 4)])
def test_gates_and_gradients(rung, dtype, columns, k):
    scores, bias, cotangent = problem(columns, dtype)
    wide = [x.astype(np.float64) for x in (scores, bias, cotangent)]
    for offsets, wide_offsets in ((None, None), (bias, wide[1])):
        gates = top_k_softmax.value(scores, k=k, bias=offsets, rung=rung)
        want = lr.top_k_softmax(wide[0], k=k, bias=wide_offsets)
        np.testing.assert_array_equal(gates.astype(np.float64) > 0, want.astype(dtype).astype(np.float64) > 0)
        close(gates, want, dtype, 4)
        found = top_k_softmax.vjp(scores, k=k, bias=offsets, cotangent=cotangent, rung=rung)
        want = lr.top_k_softmax.grad(wide[0], k=k, bias=wide_offsets, cotangent=wide[2])
        if offsets is None:
            close(found, want, dtype, 16)
        else:
            close(found[0], want[0], dtype, 16)
            close(found[1], want[1], dtype, 16, share=1)


@rungs
def test_offsets_change_nothing(rung):
    scores, bias = np.rint(np.random.default_rng(0).normal(size=(2, 9)) * 8), np.arange(9.0)
    want = top_k_softmax.value(scores.astype(np.float32), k=4, bias=bias.astype(np.float32), rung=rung)
    moved = (scores + 2**22).astype(np.float32), (bias - 2**22).astype(np.float32)
    np.testing.assert_array_equal(top_k_softmax.value(moved[0], k=4, bias=moved[1], rung=rung), want)


@rungs
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy scalars warn in the simulator, a GPU does not
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_stays_in_its_row(rung, bad):
    scores = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    want = top_k_softmax.value(scores[[0, 2]], k=2, rung=rung)
    scores[1] = bad if bad < 0 else [0, 1, 2, 3, bad, 4]
    gates = top_k_softmax.value(scores, k=2, rung=rung)
    assert np.isnan(gates[1]).all()
    np.testing.assert_array_equal(gates[[0, 2]], want)


def test_no_rows_and_too_many_experts():
    assert top_k_softmax.value(np.empty((0, 4)), k=2).shape == (0, 4)
    of_scores, of_bias = top_k_softmax.vjp(np.empty((0, 4)), k=2, bias=np.zeros(4), cotangent=np.empty((0, 4)))
    assert of_scores.shape == (0, 4) and not of_bias.any()
    with pytest.raises(ValueError, match=r"^k: expected"):
        top_k_softmax.value(np.zeros((1, 4)), k=5)
    with pytest.raises(ValueError, match=r"^k: expected"):
        lr.top_k_softmax.path("cuda")(np.zeros((1, 4)), k=5)


def test_device_arrays_stay_on_the_device():
    from numba import cuda

    scores, bias, cotangent = problem(6, np.float64)
    on_device = cuda.to_device(scores), cuda.to_device(bias)
    gates, gradient = lr.top_k_softmax.path("cuda").value_and_grad(
        on_device[0], k=3, bias=on_device[1], cotangent=cuda.to_device(cotangent)
    )
    want, want_gradient = lr.top_k_softmax.value_and_grad(scores, k=3, bias=bias, cotangent=cotangent)
    np.testing.assert_allclose(gates.copy_to_host(), want, rtol=1e-14)
    for a, b in zip(gradient, want_gradient, strict=True):
        np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_sum_over_many_rows_is_taken_in_strips(monkeypatch, dtype):
    """Strips of the rows 0, 2, 4 and 1, 3. 4096 + 2 has no place in float16: a strip must not be rounded to it."""
    monkeypatch.setattr(top_k_softmax, "STRIPS", 2)
    scores = np.zeros((5, 2), dtype)
    slopes = np.array([4096, -4096, 2, 2, 0], dtype)  # of the first score: a quarter of the difference of cotangents
    cotangent = np.stack([slopes * 4, np.zeros_like(slopes)], 1)
    _, of_bias = top_k_softmax.vjp(scores, k=2, bias=np.zeros(2, dtype), cotangent=cotangent)
    np.testing.assert_array_equal(of_bias, np.array([4, -4], dtype))
