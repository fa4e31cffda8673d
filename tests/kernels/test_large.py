"""Arrays that are larger than some number: 16-bit ones in parts, and more than 2^31 elements in all."""

import resource

import ml_dtypes
import numpy as np
import pytest

from lossref.kernels import cross_entropy, log_softmax, logsumexp, rows, softmax


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_in_parts(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 3, 5)).astype(dtype)
    cotangent = rng.standard_normal(x.shape).astype(dtype)
    logits, labels = x.reshape(7, 15), rng.integers(0, 15, 7)

    def results():
        buffer = np.empty_like(logits)
        of_rows = cotangent[..., 0]
        yield from (softmax.value(x, axis=axis) for axis in (0, 1, 2))
        yield softmax.value(logits, out=buffer)
        yield buffer
        yield from (softmax.vjp(x, cotangent=c) for c in (cotangent, cotangent[0], 1.0))
        yield from (log_softmax.value(x), log_softmax.vjp(x, cotangent=cotangent))
        yield from (logsumexp.value(x, axis=1), logsumexp.value(x, keepdims=True))
        yield from logsumexp.value_and_vjp(x, cotangent=of_rows)
        yield from logsumexp.value_and_vjp(x, keepdims=True, cotangent=of_rows[..., None])
        yield cross_entropy.value(logits, labels, label_smoothing=0.1)
        yield from cross_entropy.value_and_vjp(logits, labels, cotangent=cotangent[:, 0, 0].astype(float), softcap=9.0)
        yield from cross_entropy.value_and_vjp(logits, labels, cotangent=1.0, out=buffer)

    at_once = [np.array(result) for result in results()]
    seen = []
    to_rows = rows.to_rows
    for module in (softmax, log_softmax, logsumexp, cross_entropy):
        monkeypatch.setattr(
            module, "to_rows", lambda name, part, axis: seen.append(part.size) or to_rows(name, part, axis)
        )
    monkeypatch.setattr(rows, "HALF_AT_A_TIME", 30)
    in_parts = [np.array(result) for result in results()]
    assert min(seen) <= 30 and len(seen) > len(at_once)
    for one, other in zip(at_once, in_parts, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_16_bits_in_parts_refuse_a_wrong_buffer(monkeypatch):
    monkeypatch.setattr(rows, "HALF_AT_A_TIME", 2)
    x = np.zeros((4, 3), np.float16)
    for out in (np.zeros((5, 3), np.float16), np.zeros((4, 3), np.float32), np.zeros((3, 4), np.float16).T):
        with pytest.raises(ValueError, match="out"):
            softmax.value(x, out=out)


@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    """4.3 GB, and as much for the result. Every row has a number of its own, so an index that has wrapped around
    finds another row's."""
    count, length = 2**16 + 1, 2**15
    x = np.zeros((count, length), np.float16)
    assert x.size > 2**31
    own = (np.arange(count) % 1021 / 64).astype(np.float16)  # exact in 11 bits
    x[np.arange(count), np.arange(count) % length] = own
    more = np.expm1(own.astype(np.float64))  # e^own − 1
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lse = logsumexp.value(x)
    np.testing.assert_allclose(lse, np.log(length + more), rtol=2**-11)
    out = np.empty_like(x)
    assert softmax.value(x, algorithm="two_pass", out=out) is out
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    for i in (0, 1, 1020, 2**15, 2**16 - 1, 2**16):
        expected = np.exp(x[i].astype(np.float64)) / (length + more[i])
        np.testing.assert_allclose(out[i], expected, rtol=2**-10, atol=smallest)
    at_own = out[np.arange(count), np.arange(count) % length]
    np.testing.assert_allclose(at_own, (1 + more) / (length + more), rtol=2**-10, atol=smallest)
    # Beyond the result, float32 copies of some rows only (in KB).
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < (out.nbytes + (1 << 30)) / 1024
