"""softmax_attention: both rungs, forward and backward, against the NumPy path in float64."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import softmax_attention
from lossref_cuda.softmax_attention import SIDE, WIDE

import lossref as lr

rungs = pytest.mark.parametrize("rung", softmax_attention.RUNGS)


def problem(queries, keys, width, depth, dtype, names=""):
    rng = np.random.default_rng([queries, keys])
    shapes = (queries, width), (keys, width), (keys, depth)
    arrays = [np.ldexp(rng.integers(-99, 99, shape), -6).astype(dtype) for shape in shapes]
    every = {
        "causal": True,
        "mask": (rng.uniform(size=(queries, keys)) < 0.6) | (np.arange(keys) == 0),
        "bias": np.where(rng.uniform(size=(queries, keys)) < 0.9, rng.normal(size=(queries, keys)), -np.inf),
    }
    every["bias"][:, 0] = 40.0 * (np.arange(queries) % 2)  # every second query has made up its mind
    options = {name: every[name] for name in names.split()}
    if "bias" in options:
        options["bias"] = options["bias"].astype(dtype)
    return arrays, options, rng.normal(size=(queries, depth)).astype(dtype)


def wide(x):
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype != bool else x


def check(rung, dtype, arrays, options, cotangent, factor=40):
    value = softmax_attention.value(*arrays, **options, rung=rung)
    gradients = softmax_attention.vjp(*arrays, **options, cotangent=cotangent, rung=rung)
    wide_options = {name: wide(x) for name, x in options.items()}
    want, want_gradients = lr.softmax_attention.value_and_grad(
        *(wide(x) for x in arrays), **wide_options, cotangent=wide(cotangent)
    )
    eps = float(ml_dtypes.finfo(np.dtype(dtype)).eps)
    for a, b in zip([value, *gradients], [want, *want_gradients], strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        np.testing.assert_allclose(wide(a), b, rtol=0, atol=factor * eps * np.abs(b).max())


@rungs
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("names", ["", "causal", "mask", "bias", "causal mask bias"])
def test_options(rung, dtype, names):
    check(rung, dtype, *problem(SIDE + 1, WIDE + 3, 5, 3, dtype, names))


@rungs
@pytest.mark.parametrize(
    "sizes",
    [
        (1, 1, 1, 1),
        (SIDE, WIDE, SIDE, WIDE),
        (2, 3, 2 * SIDE + 1, WIDE + 2),
        (2 * WIDE, 2, 1, 1),
        (3, WIDE, WIDE + 1, 1),
    ],
    ids=["one of each", "whole tiles", "several column groups", "more queries", "wide keys"],
)
def test_edges_of_tiles(rung, sizes):
    check(rung, np.float32, *problem(*sizes, np.float32))


@rungs
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_narrow_numbers_are_computed_wide(rung, dtype):
    check(rung, dtype, *problem(3, SIDE + 1, 3, 2, dtype, "bias"), factor=0.6)


@rungs
def test_the_slopes_of_a_decided_query_keep_their_digits(rung):
    arrays, _, cotangent = problem(2, 6, 3, 2, np.float32)
    bias = np.zeros((2, 6), np.float32)
    bias[:, 4] = 40.0
    want = lr.softmax_attention.grad(*map(wide, arrays), wide(bias), cotangent=wide(cotangent)).bias
    found = softmax_attention.vjp(*arrays, bias, cotangent=cotangent, rung=rung)[3]
    np.testing.assert_allclose(found, want, rtol=2e-5)
    assert 0 < np.abs(want[:, 4]).max() < 1e-12


@rungs
@pytest.mark.filterwarnings("ignore:invalid value encountered", "ignore:divide by zero")
def test_a_nan_stays_in_its_query(rung):
    arrays, options, _ = problem(3, 5, 2, 2, np.float32, "bias mask")
    fine = softmax_attention.value(*arrays, **options, rung=rung)
    options["bias"][1, 3] = np.nan
    options["mask"][1, 3] = False
    options["mask"][2] = False
    value = softmax_attention.value(*arrays, **options, rung=rung)
    assert np.isnan(value[1:]).all()
    np.testing.assert_array_equal(value[0], fine[0])


@rungs
def test_every_run_gives_the_same_bits(rung):
    arrays, options, cotangent = problem(SIDE + 1, SIDE + 2, 3, 2, np.float32, "bias")
    first, second = (softmax_attention.vjp(*arrays, **options, cotangent=cotangent, rung=rung) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_queries():
    value = softmax_attention.value(np.empty((0, 2)), np.zeros((3, 2)), np.zeros((3, 4)))
    assert value.shape == (0, 4)
    gradients = softmax_attention.vjp(np.empty((0, 2)), np.ones((3, 2)), np.ones((3, 4)), cotangent=np.empty((0, 4)))
    assert gradients[0].shape == (0, 2) and not gradients[1].any() and not gradients[2].any()


def test_device_arrays_stay_on_the_device_and_errors_name_the_argument():
    from numba import cuda

    arrays, options, cotangent = problem(3, 4, 2, 2, np.float64, "bias mask causal")
    on_device = [cuda.to_device(x) for x in arrays]
    moved = {name: cuda.to_device(x) if isinstance(x, np.ndarray) else x for name, x in options.items()}
    attention = lr.softmax_attention.path("cuda")
    value, gradients = attention.value_and_grad(*on_device, **moved, cotangent=cuda.to_device(cotangent))
    want, want_gradients = lr.softmax_attention.value_and_grad(*arrays, **options, cotangent=cotangent)
    np.testing.assert_allclose(value.copy_to_host(), want, rtol=1e-13)
    for a, b in zip(gradients, want_gradients, strict=True):
        np.testing.assert_allclose(a.copy_to_host(), b, rtol=1e-11, atol=1e-15)
    with pytest.raises(ValueError, match=r"^keys"):
        attention(on_device[0], cuda.to_device(np.zeros((4, 3))), on_device[2])
    with pytest.raises(ValueError, match=r"^mask"):
        attention(*arrays, mask=np.zeros((3, 4), bool))
