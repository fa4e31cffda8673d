"""Rows as long as they are in use, on grids as they are in use: every rung walks its row many times, its last part is
short, and a row that is split is split as the host decides. In the simulator a row like that takes minutes."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import cross_entropy, launching, log_softmax, logsumexp, softmax, top_k_softmax

import lossref as lr

FLOAT32, FLOAT16, BFLOAT16 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
SHAPES = [(5, 1000), (3, 4097), (2, 33000), (1, 100003)]
WIDE = [pytest.param(shape, FLOAT32, id=f"{shape[0]}x{shape[1]}") for shape in SHAPES]


def sizes(*narrow):
    """The shapes in float32; and one in 16 bits for the rungs of some computation, which are compiled anew for them."""
    added = [pytest.param(shape, dtype, id=f"{shape[0]}x{shape[1]}-{dtype}") for shape, dtype in narrow]
    return pytest.mark.parametrize(("shape", "dtype"), WIDE + added)


@pytest.fixture(autouse=True)
def _long_rows_are_affordable(where):
    if where == "simulator":
        pytest.skip("rows of a thousand numbers and more take minutes in the simulator")


def rows(shape, dtype):
    return (np.random.default_rng(shape).normal(size=shape) * 4).astype(dtype)


def found(rung, shape, dtype, compute):
    """What a rung computes; or nothing, where it says that the row is too long."""
    bytes_of_row = shape[1] * dtype.itemsize
    too_long = {"row_on_chip": bytes_of_row > launching.CHIP_BYTES, "row_in_registers": shape[1] > 32768}
    if not too_long.get(rung):
        return compute()
    with pytest.raises(ValueError, match="does not fit"):
        compute()
    return None


@pytest.mark.parametrize("rung", logsumexp.RUNGS)
@sizes()
def test_logsumexp(exact, rung, shape, dtype):
    x, w = rows(shape, dtype), np.linspace(0.5, 2, shape[0]).astype(np.float32)
    value, gradient = found(rung, shape, dtype, lambda: logsumexp.value_and_vjp(x, cotangent=w, rung=rung))
    assert exact.error(value, *exact.logsumexp(x), dtype) <= 4
    p, move = exact.softmax(x)
    wide = w.astype(np.longdouble)[:, None]
    assert exact.error(gradient, wide * p, wide * move, dtype) <= 8


@pytest.mark.parametrize("rung", softmax.RUNGS)
@sizes(((3, 4097), FLOAT16))
def test_softmax(exact, rung, shape, dtype):
    x = rows(shape, dtype)
    y = found(rung, shape, dtype, lambda: softmax.value(x, rung=rung))
    assert y is None or exact.error(y, *exact.softmax(x), dtype) <= 4


@pytest.mark.parametrize("algorithm", softmax.ALGORITHMS)
@sizes()
def test_softmax_by_the_best_rung(exact, algorithm, shape, dtype):
    x = rows(shape, dtype)
    assert exact.error(softmax.value(x, algorithm=algorithm), *exact.softmax(x), dtype) <= 4


@pytest.mark.parametrize("rung", log_softmax.RUNGS)
@sizes()
def test_log_softmax(exact, rung, shape, dtype):
    x = rows(shape, dtype)
    assert exact.error(log_softmax.value(x, rung=rung), *exact.log_softmax(x), dtype) <= 4


def judge_cross_entropy(exact, rung, shape, dtype, **options):
    x, labels = rows(shape, dtype), np.array([0, shape[1] - 1, 7, 512, 3])[: shape[0]]
    w = np.linspace(0.5, 2, shape[0]).astype(np.float32)
    how = {"cotangent": w, "rung": rung, **options}
    answer = found(rung, shape, dtype, lambda: cross_entropy.value_and_vjp(x, labels, **how))
    if answer is None:
        return
    value, value_moves, slope, slope_moves = exact.cross_entropy(x, labels, **options)
    wide = w.astype(np.longdouble)[:, None]
    assert exact.error(answer[0], value, value_moves, dtype) <= 4
    assert exact.error(answer[1], wide * slope, wide * slope_moves, dtype) <= 8


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@sizes(((2, 33000), BFLOAT16))
def test_cross_entropy(exact, rung, shape, dtype):
    judge_cross_entropy(exact, rung, shape, dtype)


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@sizes()
def test_cross_entropy_with_options(exact, rung, shape, dtype):
    weight = np.random.default_rng(0).uniform(0.5, 2, shape[1])
    judge_cross_entropy(exact, rung, shape, dtype, label_smoothing=0.1, weight=weight)


@pytest.mark.parametrize("rung", top_k_softmax.RUNGS)
@sizes()
def test_top_k_softmax(rung, shape, dtype):
    x, w = rows(shape, dtype), rows(shape, dtype)[:, ::-1].copy()
    wide = x.astype(np.float64)
    found = top_k_softmax.value(x, k=8, rung=rung), top_k_softmax.vjp(x, k=8, cotangent=w, rung=rung)
    want = lr.top_k_softmax(wide, k=8), lr.top_k_softmax.grad(wide, k=8, cotangent=w.astype(np.float64))
    eps = float(ml_dtypes.finfo(dtype).eps)
    for array, right, factor in zip(found, want, (4, 16), strict=True):
        assert array.dtype == dtype
        atol = factor * eps * np.abs(right).max() / 100
        np.testing.assert_allclose(array.astype(np.float64), right, rtol=factor * eps, atol=atol)
    np.testing.assert_array_equal(found[0].astype(np.float64) > 0, want[0].astype(dtype).astype(np.float64) > 0)
