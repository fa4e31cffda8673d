"""Device arrays through the public functions: no host synchronisation, a NaN stays in its row, errors by name."""

import numpy as np
import pytest
from numba import cuda

import lossref as lr

LOGITS = np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0], [1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
LABELS = np.array([0, 1, 2, -100])
FINE = [0, 1, 3]  # the rows without NaN


@pytest.fixture
def cross_entropy():
    return lr.cross_entropy.path("cuda")


@pytest.fixture
def on_device():
    return cuda.to_device(LOGITS), cuda.to_device(LABELS)


def test_terms_and_gradient_are_numpys_and_nan_stays_in_its_row(cross_entropy, on_device):
    terms = cross_entropy(*on_device, reduction="none")
    assert hasattr(terms, "copy_to_host"), "a device array in, a device array out"
    terms = terms.copy_to_host()
    assert np.isnan(terms[2])
    want = lr.cross_entropy(LOGITS[FINE], LABELS[FINE], reduction="none")
    np.testing.assert_allclose(terms[FINE], want, rtol=1e-14)
    gradient = cross_entropy.grad(*on_device, reduction="sum", cotangent=2.0).copy_to_host()
    assert np.isnan(gradient[2]).all()
    want = lr.cross_entropy.grad(LOGITS[FINE], LABELS[FINE], reduction="sum", cotangent=2.0)
    np.testing.assert_allclose(gradient[FINE], want, rtol=1e-13)


@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"divisor": 7.0}])
def test_reduction_happens_on_the_device(cross_entropy, options):
    logits, labels = LOGITS[FINE], LABELS[FINE]
    value, gradient = cross_entropy.value_and_grad(cuda.to_device(logits), cuda.to_device(labels), **options)
    want, want_gradient = lr.cross_entropy.value_and_grad(logits, labels, **options)
    np.testing.assert_allclose(value.copy_to_host(), want, rtol=1e-14)
    np.testing.assert_allclose(gradient.copy_to_host(), want_gradient, rtol=1e-13)


def test_softmax_takes_and_returns_device_arrays():
    x = cuda.to_device(LOGITS[:2])
    np.testing.assert_allclose(lr.softmax.path("cuda")(x).copy_to_host(), lr.softmax(LOGITS[:2]), rtol=1e-14)


def test_what_can_be_seen_without_the_host_is_checked_by_name(cross_entropy, on_device):
    logits, labels = on_device
    with pytest.raises(ValueError, match=r"^labels"):
        cross_entropy(logits, cuda.to_device(LABELS[:2]))
    with pytest.raises(ValueError, match=r"^softcap"):
        cross_entropy(logits, labels, softcap=-1.0)
    with pytest.raises(ValueError, match=r"^reduction"):
        cross_entropy(logits, labels, reduction="average")
    with pytest.raises((ValueError, TypeError), match="labels"):
        cross_entropy(logits, cuda.to_device(LABELS.astype(np.float64)))
