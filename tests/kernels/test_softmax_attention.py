"""Attention streamed over blocks of keys: many blocks, many tiles of queries, memory, dtypes, buffers."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.kernels import softmax_attention

NUMPY, NUMBA = lr.softmax_attention, lr.softmax_attention.path("numba")


def problem(queries, keys, width, depth, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape).astype(dtype) for shape in ((queries, width), (keys, width), (keys, depth))]
    return arrays, rng.normal(size=(queries, depth)).astype(dtype), rng


def close(found, wanted, factor):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=factor * np.finfo(a.dtype).eps * np.abs(b).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_size", [None, 128, 97])
@pytest.mark.parametrize("names", ["", "causal", "mask", "bias", "causal mask bias"])
def test_many_tiles_and_blocks(names, block_size, dtype):
    arrays, cotangent, rng = problem(600, 700, 6, 5)
    every = {
        "causal": True,
        "mask": (rng.uniform(size=(600, 700)) < 0.5) | (np.arange(700) == 0),
        "bias": rng.normal(size=(600, 700)),
    }
    options = {name: every[name] for name in names.split()}
    want, want_gradients = NUMPY.value_and_grad(*arrays, **options, cotangent=cotangent)
    if "bias" in options:
        options["bias"] = options["bias"].astype(dtype)
    given = [x.astype(dtype) for x in arrays]
    value, gradients = NUMBA.value_and_grad(*given, **options, cotangent=cotangent.astype(dtype), block_size=block_size)
    assert value.dtype == dtype
    close([value, *gradients], [want, *want_gradients], 60)
    np.testing.assert_array_equal(NUMBA(*given, **options, block_size=block_size), value)


@pytest.mark.parametrize("order", [1, -1])
def test_logits_that_rise_or_fall_from_block_to_block(order):
    """Every block a new maximum, and the centre of the sum of differences moves with it; or none."""
    arrays, cotangent, _ = problem(3, 4000, 1, 2, np.float32)
    arrays[0][:] = 1.0
    arrays[1][:, 0] = np.linspace(-60, 60, 4000)[::order]
    want, want_gradients = NUMPY.value_and_grad(
        *(x.astype(np.float64) for x in arrays), cotangent=cotangent.astype(np.float64), scale=1.0
    )
    value, gradients = NUMBA.value_and_grad(*arrays, cotangent=cotangent, scale=1.0, block_size=16)
    close([value, *gradients[1:]], [want, *want_gradients[1:]], 8)
    # Slopes of either sign times keys of size 60: that is what is rounded.
    np.testing.assert_allclose(gradients.queries, want_gradients.queries, atol=4 * 60 * np.finfo(np.float32).eps)


def test_the_slopes_of_a_decided_query_keep_their_digits():
    """One key leads by 40: the textbook's A (W - <G, O>) gives 0 there, or noise."""
    arrays, cotangent, _ = problem(4, 300, 3, 2, np.float32)
    bias = np.zeros((4, 300), np.float32)
    bias[:, 7] = 40.0
    exact = NUMPY.grad(*(x.astype(np.longdouble) for x in arrays), bias.astype(np.longdouble),
                       cotangent=cotangent.astype(np.longdouble)).bias  # fmt: skip
    slopes = NUMBA.grad(*arrays, bias, cotangent=cotangent, block_size=64).bias
    np.testing.assert_allclose(slopes[:, 7], exact[:, 7], rtol=2e-5)
    x = arrays[0] @ arrays[1].T / np.sqrt(np.float32(3)) + bias
    a = np.exp(x - np.log(np.exp(x).sum(axis=1, keepdims=True)))
    textbook = a * (cotangent @ arrays[2].T - (cotangent * (a @ arrays[2])).sum(axis=1, keepdims=True))
    assert (np.abs(textbook[:, 7] - exact[:, 7]) > 0.9 * np.abs(exact[:, 7])).all(), "no longer hard"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_narrow_numbers_are_computed_wide(dtype):
    arrays, cotangent, rng = problem(300, 200, 5, 4, dtype)
    bias = rng.normal(size=(300, 200)).astype(dtype)
    wide = [x.astype(np.float64) for x in (*arrays, bias)]
    want, want_gradients = NUMPY.value_and_grad(*wide, cotangent=cotangent.astype(np.float64), scale=0.5)
    value, gradients = NUMBA.value_and_grad(*arrays, bias, cotangent=cotangent, scale=0.5, block_size=50)
    half_an_ulp = float(ml_dtypes.finfo(dtype).eps) / 2
    for a, b in zip([value, *gradients], [want, *want_gradients], strict=True):
        assert a.dtype == dtype
        a = a.astype(np.float64)
        np.testing.assert_allclose(a, b, rtol=1.01 * half_an_ulp, atol=1e-5 * np.abs(b).max())


def test_buffers_are_used():
    arrays, cotangent, rng = problem(20, 30, 4, 3, np.float32)
    bias = rng.normal(size=(20, 30)).astype(np.float32)
    want, want_gradients = NUMBA.value_and_grad(*arrays, bias, cotangent=cotangent)
    out = np.full((20, 3), np.nan, np.float32)
    assert NUMBA(*arrays, bias, out=out) is out or np.shares_memory(NUMBA(*arrays, bias, out=out), out)
    np.testing.assert_array_equal(out, want)
    outs = tuple(np.full(x.shape, np.nan, np.float32) for x in (*arrays, bias))
    found = NUMBA.grad(*arrays, bias, cotangent=cotangent, out=outs)
    for a, b, c in zip(found, outs, want_gradients, strict=True):
        assert np.shares_memory(a, b)
        np.testing.assert_array_equal(b, c)
    with pytest.raises(ValueError, match=r"^out: expected a tuple of 4"):
        NUMBA.grad(*arrays, bias, out=outs[:3])
    with pytest.raises(ValueError, match=r"^out: expected an array"):
        NUMBA(*arrays, bias, out=out[1:])


def test_strided_and_read_only_arrays_without_the_core():
    arrays, cotangent, _ = problem(10, 12, 4, 3)
    want = softmax_attention.value_and_vjp(*arrays, cotangent=cotangent)
    strided = [np.repeat(x, 2, axis=1)[:, ::2] for x in (*arrays, cotangent)]
    for x in strided:
        x.flags.writeable = False
    found = softmax_attention.value_and_vjp(*strided[:3], cotangent=strided[3])
    np.testing.assert_array_equal(found[0], want[0])
    for a, b in zip(found[1], want[1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_nan_does_not_hide_behind_the_mask():
    arrays, _, _ = problem(4, 5, 2, 2)
    bias, mask = np.zeros((4, 5)), np.ones((4, 5), bool)
    bias[1, 2], mask[1, 2] = np.nan, False
    for call in (NUMBA, NUMBA.grad):
        with pytest.raises(ValueError, match=r"^bias.*nan"):
            call(*arrays, bias, mask)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [("keys", (9, 0)), ("values", (9, 1)), ("bias", (1, 3)), ("bias", (1, 9))])
def test_what_no_query_attends_to_is_not_passed_over(place, bad):
    """Causal, six queries and ten keys, four at a time: key 9 is never visited."""
    (queries, keys, values), _, _ = problem(6, 10, 2, 3)
    given = {"queries": queries, "keys": keys, "values": values, "bias": np.zeros((6, 10))}
    name, index = place
    given[name][index] = bad
    for call in (NUMBA, NUMBA.grad):
        with pytest.raises(ValueError, match=rf"^{name}.*{bad}"):
            call(**given, causal=True, block_size=4)


@pytest.mark.parametrize("causal", [False, True])
def test_a_product_that_overflows_behind_the_mask_does_no_harm(causal):
    arrays, cotangent, _ = problem(4, 5, 2, 3, np.float32)
    arrays[1][4] = 3e38
    cotangent[:] = 1
    mask = None if causal else np.arange(5)[None, :].repeat(4, 0) < 4
    found = NUMBA.value_and_grad(*arrays, mask=mask, causal=causal, cotangent=cotangent)
    want = NUMPY.value_and_grad(*arrays, mask=mask, causal=causal, cotangent=cotangent)
    assert np.isfinite(want[0]).all() and all(np.isfinite(x).all() for x in want[1])
    close([found[0], *found[1]], [want[0], *want[1]], 20)


def transient_bytes(call, *arrays, **options):
    """The most that was allocated at one time, less what was returned."""
    call(*arrays, **options)  # compiled
    tracemalloc.start()
    result = call(*arrays, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    value, gradients = result if isinstance(result, tuple) else (result, ())
    return peak - value.nbytes - sum(g.nbytes for g in gradients)


@pytest.mark.parametrize("queries, keys", [(2100, 6000), (6000, 2100)])
def test_memory_grows_with_queries_and_keys_not_with_their_product(queries, keys):
    arrays, cotangent, _ = problem(queries, keys, 8, 8, np.float32)
    table = queries * keys * 4
    small = [x[: len(x) // 2] for x in arrays]
    for call, others in ((softmax_attention.value, {}), (softmax_attention.value_and_vjp, {"cotangent": cotangent})):
        half = {name: x[: queries // 2] for name, x in others.items()}
        transient, of_half = transient_bytes(call, *arrays, **others), transient_bytes(call, *small, **half)
        assert transient < table / 8
        # One block of x and one of W, and no more for twice as many queries and keys than some numbers for each.
        assert transient - of_half < 64 * (queries + keys)
