"""The top-k gate on the CPU: long rows, every k, narrow dtypes, buffers, NaN."""

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.kernels import top_k_softmax

NUMPY, NUMBA = lr.top_k_softmax, lr.top_k_softmax.path("numba")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("k", [1, 2, 7, 8, 31, 100, 257])
def test_every_k_with_many_ties(k, biased, dtype):
    rng = np.random.default_rng(k)
    scores = np.rint(4 * rng.normal(size=(20, 257))).astype(dtype) / 4
    bias = np.rint(4 * rng.normal(size=257)).astype(dtype) / 4 if biased else None
    cotangent = rng.normal(size=scores.shape).astype(dtype)
    wide = (None if bias is None else bias.astype(np.float64)), cotangent.astype(np.float64)
    want = NUMPY.value_and_grad(scores.astype(np.float64), k=k, bias=wide[0], cotangent=wide[1])
    found = NUMBA.value_and_grad(scores, k=k, bias=bias, cotangent=cotangent)
    np.testing.assert_array_equal(found[0] > 0, want[0] > 0)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found[0], want[0], rtol=8 * eps)
    for a, b in zip(found[1] if biased else [found[1]], want[1] if biased else [want[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * eps, atol=8 * eps * np.abs(b).max())


def test_many_rows_are_divided_among_threads():
    scores = np.random.default_rng(0).normal(size=(20_000, 64)).astype(np.float32)
    bias = np.zeros(64, np.float32)
    gates, (_, of_bias) = NUMBA.value_and_grad(scores, k=4, bias=bias, cotangent=scores)
    np.testing.assert_allclose(gates, NUMPY(scores, k=4), rtol=1e-5)
    np.testing.assert_allclose(of_bias, NUMPY.grad(scores.astype(np.float64), k=4, cotangent=scores).sum(0), rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_narrow_numbers_are_computed_wide(dtype):
    rng = np.random.default_rng(0)
    scores, bias = rng.normal(size=(50, 9)).astype(dtype), rng.normal(size=9).astype(dtype)
    cotangent = rng.normal(size=(50, 9)).astype(dtype)
    wide = [x.astype(np.float64) for x in (scores, bias, cotangent)]
    want = NUMPY.value_and_grad(wide[0], k=3, bias=wide[1], cotangent=wide[2])
    found = NUMBA.value_and_grad(scores, k=3, bias=bias, cotangent=cotangent)
    for a, b in zip([found[0], *found[1]], [want[0], *want[1]], strict=True):
        assert a.dtype == dtype
        half_an_ulp = float(ml_dtypes.finfo(dtype).eps) / 2
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=1.01 * half_an_ulp, atol=1e-5 * np.abs(b).max())


def test_buffers_are_used():
    scores, bias = np.random.default_rng(0).normal(size=(4, 6)), np.zeros(6)
    out = np.full((4, 6), np.nan)
    NUMBA(scores, k=2, out=out)
    np.testing.assert_array_equal(out, NUMPY(scores, k=2))
    both = np.full((4, 6), np.nan), np.full(6, np.nan)
    want = NUMBA.grad(scores, k=2, bias=bias, cotangent=scores)
    NUMBA.grad(scores, k=2, bias=bias, cotangent=scores, out=both)
    for a, b in zip(both, want, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"^out: expected"):
        NUMBA.grad(scores, k=2, bias=bias, out=(both[0], np.empty(5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 3, 5])
def test_what_is_not_a_number_stays_in_its_row_and_is_refused_by_name(bad, place):
    scores = np.random.default_rng(0).normal(size=(3, 6))
    scores[1, place] = bad
    gates = top_k_softmax.value(scores, k=2)
    assert np.isnan(gates[1]).all()
    np.testing.assert_array_equal(gates[[0, 2]], NUMPY(scores[[0, 2]], k=2))
    for call in (NUMBA, NUMBA.grad):
        with pytest.raises(ValueError, match=r"^scores"):
            call(scores, k=2)


def test_a_row_of_masks_is_refused():
    scores = np.zeros((2, 3))
    scores[1] = -np.inf
    with pytest.raises(ValueError, match=r"^scores: expected a finite entry in every row"):
        NUMBA(scores, k=2)


def test_a_bias_that_the_rounded_sums_have_lost():
    """Of equal sums the kernel must not take the wrong one for the largest."""
    scores, bias = np.full((2, 3), -1e30), np.array([-900.0, 800.0, 799.0])
    np.testing.assert_array_equal(NUMBA(scores, k=3, bias=bias), NUMPY(scores, k=3, bias=bias))
    cotangent = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]])
    found, expected = (gate.grad(scores, k=3, bias=bias, cotangent=cotangent) for gate in (NUMBA, NUMPY))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)
