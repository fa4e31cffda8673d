"""out=: the caller's memory, on the host or on the device, for every large result."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import device_arrays, linear_cross_entropy
from numba import cuda

import lossref as lr

rng = np.random.default_rng(0)
X, LABELS = rng.normal(size=(5, 8)).astype(np.float32), np.array([0, 3, 7, 2, 2])
KEYS, BIAS = rng.normal(size=(6, 8)).astype(np.float32), rng.normal(size=8).astype(np.float32)
CASES = {
    "softmax": ((X,), {}),
    "log_softmax": ((X,), {}),
    "logsumexp": ((X,), {}),
    "cross_entropy": ((X, LABELS), {}),
    "cross_entropy, options": ((X, LABELS), {"reduction": "none", "label_smoothing": 0.1, "softcap": 4.0}),
    "top_k_softmax": ((X,), {"k": 3}),
    "top_k_softmax with a bias": ((X,), {"k": 3, "bias": BIAS}),
    "linear_cross_entropy": ((X, KEYS, LABELS % 6), {}),
    "linear_cross_entropy with a bias": ((X, KEYS, LABELS % 6), {"bias": BIAS[:6]}),
    "softmax_attention": ((X, KEYS, KEYS), {}),
}
VALUES = ("softmax", "log_softmax", "top_k_softmax", "softmax_attention")  # as large as what they are made of
every_case = pytest.mark.parametrize("name", CASES)


def as_tuple(found):
    return tuple(found) if isinstance(found, tuple) else (found,)


def calls(name, put):
    """The loss on the CUDA path, its arguments as `put` puts them, a cotangent that is not 1."""
    loss = getattr(lr, name.split()[0].rstrip(",")).path("cuda")
    arrays, options = CASES[name]
    options = {k: put(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return loss, tuple(map(put, arrays)), {**options, "cotangent": 0.75}


def without_cotangent(options):
    return {k: v for k, v in options.items() if k != "cotangent"}


@every_case
@pytest.mark.parametrize("put", [np.array, cuda.to_device], ids=["host", "device"])
def test_results_are_written_where_the_caller_says(name, put):
    loss, arrays, options = calls(name, put)
    expected = as_tuple(loss.grad(*arrays, **options))
    outs = tuple(put(np.full(g.shape, 9, g.dtype)) for g in expected)
    found = as_tuple(loss.grad(*arrays, **options, out=outs if len(outs) > 1 else outs[0]))
    for out, gradient, g in zip(outs, found, expected, strict=True):
        assert gradient is out
        np.testing.assert_array_equal(np.asarray(out), np.asarray(g))
    if name in VALUES:
        expected = np.asarray(loss(*arrays, **without_cotangent(options)))
        out = put(np.full(expected.shape, 9, expected.dtype))
        assert loss(*arrays, **without_cotangent(options), out=out) is out
        np.testing.assert_array_equal(np.asarray(out), expected)


@every_case
@pytest.mark.parametrize("moved", [0, 1, -3])
def test_out_may_overlap_what_is_read(name, moved):
    """At the same place a gradient is written over its argument; elsewhere it would overwrite what is still to be
    read, and takes a detour."""
    loss, arrays, options = calls(name, cuda.to_device)
    # Of arrays that start between multiples of 16 bytes another rung computes, with other roundings.
    padded = np.concatenate([np.zeros(10, np.float32), X.ravel(), np.zeros(10, np.float32)])
    alone, memory = cuda.to_device(padded), cuda.to_device(padded)
    there = alone[10 : 10 + X.size].reshape(X.shape)
    expected = [np.asarray(g) for g in as_tuple(loss.grad(there, *arrays[1:], **options))]
    x, out = (memory[start : start + X.size].reshape(X.shape) for start in (10, 10 + moved))
    rest = [cuda.device_array(g.shape, g.dtype) for g in expected[1:]]
    found = as_tuple(loss.grad(x, *arrays[1:], **options, out=(out, *rest) if rest else out))
    for gradient, g in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(gradient), g)


@pytest.mark.parametrize("put", [np.array, cuda.to_device], ids=["host", "device"])
def test_any_axis_any_strides_and_bfloat16(put):
    softmax = lr.softmax.path("cuda")
    out = put(np.zeros(X.shape, np.float32))
    softmax(put(X), axis=0, out=out)
    np.testing.assert_allclose(np.asarray(out), lr.softmax(X, axis=0), rtol=1e-6)
    wide = put(np.zeros((5, 16), np.float32))
    softmax(put(X), out=wide[:, ::2])
    np.testing.assert_allclose(np.asarray(wide)[:, ::2], lr.softmax(X), rtol=1e-6)
    assert not np.asarray(wide)[:, 1::2].any()
    narrow = X.astype(ml_dtypes.bfloat16)
    place = np.array if put is np.array else device_arrays.to_device
    out = place(np.zeros_like(narrow))
    softmax(place(narrow), out=out)
    bits = device_arrays.Call(out)._view(out)[0]  # Numba itself copies no bfloat16 back
    found = np.asarray(bits).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(found, softmax(narrow))


def test_what_out_may_not_be():
    softmax, linear = lr.softmax.path("cuda"), lr.linear_cross_entropy.path("cuda")
    x = cuda.to_device(X)
    for bad in (np.zeros_like(X), cuda.to_device(X[:4]), cuda.to_device(X.astype(np.float64)), 1.0):
        with pytest.raises((ValueError, TypeError), match=r"^out|all arrays must live on the device"):
            softmax(x, out=bad)
    read_only = np.zeros_like(X)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: must be writeable"):
        softmax(X, out=read_only)
    with pytest.raises(ValueError, match=r"^out: expected a tuple of 2 arrays"):
        linear.grad(x, x, cuda.to_device(LABELS), out=x)
    same = cuda.to_device(X)
    with pytest.raises(ValueError, match=r"^out: two of its arrays share memory"):
        linear.grad(x, x, cuda.to_device(LABELS), out=(same, same))
    with pytest.raises(TypeError, match=r"out"):
        lr.cross_entropy.path("cuda")(x, cuda.to_device(LABELS), out=same)  # the loss is one number


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_vocabulary_in_another_order(dtype):
    arrays = X.astype(dtype), KEYS.astype(dtype), LABELS % 6
    how = {"bias": BIAS[:6].astype(dtype), "cotangent": 1.0, "vocabulary_order": np.arange(6)[::-1]}
    expected = linear_cross_entropy.vjp(*arrays, **how)
    outs = tuple(np.zeros_like(g) for g in expected)
    linear_cross_entropy.vjp(*arrays, **how, out=outs)
    for out, g in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(out, g)


def test_nothing_to_compute():
    for put in (np.array, cuda.to_device):
        out = put(np.zeros((0, 8), np.float32))
        assert lr.softmax.path("cuda")(put(np.zeros((0, 8), np.float32)), out=out) is out
