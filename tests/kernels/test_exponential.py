import numpy as np
import pytest
from numba import njit

from lossref.kernels import exponential as exponential_module
from lossref.kernels import lanes as lanes_module
from lossref.kernels.exponential import add_exponential, capped, capped_slope, exponential, scaled_exponential
from lossref.kernels.lanes import load, load_tail, scale_by_power_of_two, store, store_tail, whole, width


@njit
def exponentials(x, out):
    for j in range(0, whole(x), width(x)):
        store(out, j, exponential(load(x, j)))
    store_tail(out, whole(x), exponential(load_tail(x, whole(x), 0.0)))


@njit
def scaled(x, factor, out):
    for j in range(0, whole(x), width(x)):
        store(out, j, scaled_exponential(load(x, j), factor))


@njit
def caps(x, cap, out, slope):
    for j in range(0, whole(x), width(x)):
        store(out, j, capped(load(x, j), cap))
        store(slope, j, capped_slope(load(x, j), cap))


RANGE = {np.float32: (-110, 80), np.float64: (-760, 700)}


@pytest.mark.parametrize("dtype", RANGE)
def test_exponential(dtype):
    x = np.linspace(*RANGE[dtype], 200_003).astype(dtype)
    out = np.empty_like(x)
    exponentials(x, out)
    true = np.exp(x.astype(np.longdouble))
    limits = np.finfo(dtype)
    # x is meant to be a rounded difference, which costs eps/2 |x|; float32 adds 3e-9 |x| to that.
    relative = 0.8 * limits.eps + (3e-9 if dtype == np.float32 else 0) * np.abs(x)
    assert np.all(np.abs(out - true) <= relative * true + 0.51 * limits.smallest_subnormal)


@pytest.mark.parametrize("dtype", RANGE)
def test_special_numbers(dtype):
    x = np.array([0.0, -0.0, -np.inf, -1e9, -1e30, np.nan, np.inf, -174, -1416, -120], dtype)
    out = np.empty_like(x)
    exponentials(x, out)
    np.testing.assert_array_equal(out[:6], [1, 1, 0, 0, 0, np.nan])
    assert not np.isfinite(out[6])


@pytest.mark.parametrize("dtype", RANGE)
def test_a_scaled_subnormal_is_rounded_once(dtype):
    limits = np.finfo(dtype)
    start = np.log(limits.tiny)
    x = np.linspace(start - 10, start, 6400).astype(dtype)
    out = np.empty_like(x)
    scaled(x, 0.3, out)
    true = np.exp(x.astype(np.longdouble)) * np.longdouble(dtype(0.3))
    assert np.all(np.abs(out - true) <= 0.51 * limits.smallest_subnormal + 2 * limits.eps * true)


@pytest.mark.parametrize("avx512", [lanes_module.HAS_AVX512, False])
@pytest.mark.parametrize("dtype", RANGE)
def test_a_term_of_a_sum(monkeypatch, dtype, avx512):
    monkeypatch.setattr(exponential_module, "HAS_AVX512", avx512)

    @njit
    def terms(x, before, shared, out):
        for j in range(0, whole(x), width(x)):
            store(out, j, add_exponential(load(before, j), load(x, j), 2.0**64, shared))

    limits = np.finfo(dtype)
    x = np.linspace(RANGE[dtype][0], 20, 64_000).astype(dtype)
    out, zero = np.empty_like(x), np.zeros_like(x)
    relative = 1.4 * limits.eps + (3e-9 if dtype == np.float32 else 0) * np.abs(x)
    for shared in (0.0, 7.0, -5.0):
        terms(x, zero, shared, out)
        true = np.exp(x.astype(np.longdouble)) * np.longdouble(2) ** (64 - shared)
        assert np.all(np.abs(out - true) <= relative * true + limits.smallest_subnormal)
    # far beyond the range of the dtype, and brought back into it
    for x in (1000.0, 65000.0, 88000.5, -65000.0):
        exponent = np.longdouble(dtype(x)) / np.log(np.longdouble(2))
        shared = float(np.rint(exponent))
        for off, limit in ((0, np.exp2(exponent + 64 - shared)), (1200, 0), (-1200, np.inf)):
            terms(np.full(64, x, dtype), zero[:64], shared + off, out[:64])
            np.testing.assert_allclose(out[:64].astype(np.longdouble), limit, rtol=1.4 * limits.eps + 3e-9 * abs(x))
    special = np.array([0.0, -0.0, -np.inf, -1e9, -1e30, -limits.max, np.nan, np.inf] + [0.0] * 56, dtype)
    out = np.empty_like(special)
    terms(special, zero[:64] + dtype(2.0**64), 0.0, out)
    np.testing.assert_array_equal(out[:7] / dtype(2.0**64), [2, 2, 1, 1, 1, 1, np.nan])
    assert not np.isfinite(out[7])


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("cap", [0.7, 30.0])
def test_soft_cap(dtype, cap):
    x = np.concatenate([np.linspace(-20, 20, 3200), np.logspace(-30, 1.5, 3200), [0.0] * 64]).astype(dtype) * dtype(cap)
    out, slope = np.empty_like(x), np.empty_like(x)
    caps(x, cap, out, slope)
    eps = np.finfo(dtype).eps
    z = x.astype(np.longdouble) / np.longdouble(cap)
    assert np.all(np.abs(out - cap * np.tanh(z)) <= 3 * eps * np.abs(cap * np.tanh(z)))
    q = np.exp(-2 * np.abs(z))
    true = 4 * q / (1 + q) ** 2
    assert np.all(np.abs(slope - true) <= 4 * eps * true * (1 + np.abs(z)))
    assert np.array_equal(np.sort(out), out[np.argsort(x, kind="stable")])  # increasing: the maximum is the capped one
    masks = np.array([-np.inf, np.inf, np.nan] + [0.0] * 61, dtype)
    out, slope = np.empty_like(masks), np.empty_like(masks)
    caps(masks, cap, out, slope)
    np.testing.assert_array_equal(out, masks)


@pytest.mark.parametrize("dtype", RANGE)
def test_without_avx512_the_numbers_are_the_same(monkeypatch, dtype):
    """The power of two in two factors, as on machines that have no instruction for it."""
    monkeypatch.setattr(lanes_module, "HAS_AVX512", False)

    @njit
    def portable(x, out):
        for j in range(0, whole(x), width(x)):
            store(out, j, scaled_exponential(load(x, j), 1.0))

    low, high = RANGE[dtype]
    x = np.concatenate([np.linspace(low, high, 64_000 - 4), [-np.inf, np.nan, -1e30, 0]]).astype(dtype)
    out, native = np.empty_like(x), np.empty_like(x)
    portable(x, out)
    exponentials(x, native)
    np.testing.assert_array_equal(out, native)


@pytest.mark.parametrize("avx512", [lanes_module.HAS_AVX512, False])
@pytest.mark.parametrize("dtype", RANGE)
def test_any_power_of_two(monkeypatch, dtype, avx512):
    monkeypatch.setattr(lanes_module, "HAS_AVX512", avx512)

    @njit
    def powers(fraction, n, out):
        for j in range(0, whole(n), width(n)):
            store(out, j, scale_by_power_of_two(load(fraction, j), load(n, j)))

    n = np.concatenate([np.arange(-3000, 3200), [-np.inf, -1e30, -7e5, 7e5, 1e30, np.inf], [0.0, 0.0]])
    for fraction in (0.75, -1.4):
        fractions, out = np.full(n.size, fraction, dtype), np.empty(n.size, dtype)
        powers(fractions, n.astype(dtype), out)
        with np.errstate(over="ignore", under="ignore"):
            np.testing.assert_array_equal(out, np.ldexp(fractions, np.clip(n, -9999, 9999).astype(int)))
