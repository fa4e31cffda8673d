"""Arrays that live on the device: any strides, any axis, never copied to the host, never written to."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import device_arrays, log_softmax, logsumexp, softmax
from numba import cuda


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("computation", [logsumexp, softmax, log_softmax])
def test_any_axis(computation, axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    there = cuda.to_device(x)
    value, gradient = computation.reduced_value_and_vjp(there, axis=axis)
    assert device_arrays.lives_on_device(value)
    assert device_arrays.lives_on_device(gradient)
    ones = np.ones(value.shape)
    here, slope = computation.value_and_vjp(x, axis=axis, cotangent=ones)
    np.testing.assert_array_equal(np.asarray(value.copy_to_host()), here)
    np.testing.assert_array_equal(np.asarray(gradient.copy_to_host()), slope)
    np.testing.assert_array_equal(there.copy_to_host(), x)
    np.testing.assert_array_equal(computation.reduced_value(there, axis=axis).copy_to_host(), here)


def test_any_strides():
    base = np.random.default_rng(1).normal(size=(6, 10))
    there = cuda.to_device(base)
    for part in (np.s_[::2, 1:9:3], np.s_[1], np.s_[:, :5]):
        np.testing.assert_array_equal(
            logsumexp.value(there[part]).copy_to_host(), logsumexp.value(np.ascontiguousarray(base[part]))
        )
    turned = device_arrays.permuted(there, (1, 0))
    np.testing.assert_array_equal(softmax.value(turned).copy_to_host(), softmax.value(base.T.copy()))


def test_five_dimensions():
    x = np.random.default_rng(1).normal(size=(2, 1, 2, 3, 2))
    there = cuda.to_device(x)
    np.testing.assert_array_equal(logsumexp.value(there, axis=1).copy_to_host(), logsumexp.value(x, axis=1))


def test_bfloat16_comes_back_as_bfloat16():
    x = np.array([[1, 2, 3], [0, 0, 90]], ml_dtypes.bfloat16)
    there = device_arrays.to_device(x)
    y = softmax.value(there)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.copy_to_host().astype(float), softmax.value(x).astype(float))


def test_host_and_device_do_not_mix():
    with pytest.raises(TypeError, match="all arrays must live on the device"):
        softmax.vjp(np.zeros((2, 3)), cotangent=cuda.to_device(np.zeros((2, 3))))
    with pytest.raises(TypeError, match="expected float16, bfloat16, float32 or float64"):
        softmax.value(np.zeros((2, 3), int))
