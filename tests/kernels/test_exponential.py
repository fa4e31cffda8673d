import os
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from numba import njit
from numba.core.codegen import get_host_cpu_features

from lossref.kernels.exponential import add_exponential, capped, capped_slope, scaled_exponential
from lossref.kernels.lanes import (
    HAS_AVX512,
    load,
    load_tail,
    power_of_two,
    scale_by_power_of_two,
    store,
    store_tail,
    whole,
    width,
)


@njit
def caps(x, cap, out, slope):
    for j in range(0, whole(x), width(x)):
        store(out, j, capped(load(x, j), cap))
        store(slope, j, capped_slope(load(x, j), cap))


RANGE = {np.float32: (-110, 80), np.float64: (-760, 700)}


def scaled(x, factor, shared=0.0):
    @njit
    def run(x, factor, shared, out):
        for j in range(0, whole(x), width(x)):
            store(out, j, scaled_exponential(load(x, j), factor, shared))
        store_tail(out, whole(x), scaled_exponential(load_tail(x, whole(x), 0.0), factor, shared))

    out = np.empty_like(x)
    run(x, factor, shared, out)
    return out


def added(before, x, up, shared):
    @njit
    def run(before, x, up, shared, out):
        for j in range(0, whole(x), width(x)):
            store(out, j, add_exponential(load(before, j), load(x, j), up, shared))

    out = np.empty_like(x)
    run(before, x, up, shared, out)
    return out


@pytest.mark.parametrize("dtype", RANGE)
def test_exponential(dtype):
    x = np.linspace(*RANGE[dtype], 200_003).astype(dtype)
    out = scaled(x, 1.0)
    true = np.exp(x.astype(np.longdouble))
    limits = np.finfo(dtype)
    assert np.all(np.abs(out - true) <= 1.01 * limits.eps * true + 0.51 * limits.smallest_subnormal)


@pytest.mark.parametrize("dtype", RANGE)
def test_special_numbers(dtype):
    x = np.array([0.0, -0.0, -np.inf, -1e9, -1e30, -np.finfo(dtype).max, np.nan, np.inf, -174, -1416, -120], dtype)
    out = scaled(x, 1.0)
    np.testing.assert_array_equal(out[:7], [1, 1, 0, 0, 0, 0, np.nan])
    assert not np.isfinite(out[7])


@pytest.mark.parametrize("dtype", RANGE)
def test_a_scaled_subnormal_is_rounded_once(dtype):
    limits = np.finfo(dtype)
    start = np.log(limits.tiny)
    x = np.linspace(start - 10, start, 6400).astype(dtype)
    true = np.exp(x.astype(np.longdouble)) * np.longdouble(dtype(0.3))
    assert np.all(np.abs(scaled(x, 0.3) - true) <= 0.51 * limits.smallest_subnormal + 2 * limits.eps * true)


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("factor", [3e38, -3e38, 1e300, 1e-38, 1e-42, 1e-300, 0.0, np.inf, np.nan])
def test_a_factor_of_any_size(dtype, factor):
    """A factor times a root of 2 may overflow where the product with e^x does not."""
    limits = np.finfo(dtype)
    x = np.linspace(*RANGE[dtype], 6400).astype(dtype)
    true = np.exp(x.astype(np.longdouble)) * np.longdouble(factor)
    fits = ~(np.abs(true) >= limits.max)
    rounding = 2 * limits.eps * np.abs(true) + 0.51 * limits.smallest_subnormal
    out = scaled(x, factor)
    if np.isfinite(factor):
        assert np.all((np.abs(out - true) <= rounding)[fits])
        assert np.all(np.isinf(out[~fits]))
    else:
        assert not np.isfinite(out).any()


# What a term of a sum may have too much, relative to |x|.
COARSE = {np.float32: 3e-9, np.float64: 0}


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("shared", [0.0, 7.0, -5.0])
def test_a_term_of_a_sum(dtype, shared):
    limits = np.finfo(dtype)
    x = np.linspace(RANGE[dtype][0], 20, 64_000).astype(dtype)
    out = added(np.zeros_like(x), x, 64, shared)
    true = np.exp(x.astype(np.longdouble)) * np.longdouble(2) ** (64 - shared)
    relative = 1.4 * limits.eps + COARSE[dtype] * np.abs(x)
    # Below the normal numbers all may be lost: with the 2^64, that is too little to show in a sum of this dtype.
    assert np.all(np.abs(out - true) <= relative * true + limits.tiny)


@pytest.mark.parametrize("dtype", RANGE)
@pytest.mark.parametrize("x", [1000.0, 65000.0, 88000.5, -65000.0])
def test_far_beyond_the_range_and_brought_back_by_the_shared_exponent(dtype, x):
    exponent = Decimal(x) / Decimal(2).ln()
    shared = round(exponent)
    numbers, zero = np.full(64, x, dtype), np.zeros(64, dtype)
    for off, true in ((0, float(2 ** (exponent - shared))), (1200, 0), (-1200, np.inf)):
        rounding = 1.4 * np.finfo(dtype).eps
        np.testing.assert_allclose(scaled(numbers, 1.0, float(shared + off)), true, rtol=rounding)
        terms = added(zero, numbers, 0, float(shared + off))
        np.testing.assert_allclose(terms, true, rtol=rounding + COARSE[dtype] * abs(x))


@pytest.mark.parametrize("dtype", RANGE)
def test_masks_add_nothing_and_what_is_no_number_shows(dtype):
    special = [0.0, -0.0, -np.inf, -1e9, -1e30, -np.finfo(dtype).max, np.nan, np.inf]
    x = np.array(special + [0.0] * 56, dtype)
    out = added(np.full(64, 3, dtype), x, 0, 0.0)
    np.testing.assert_array_equal(out[:7], [4, 4, 3, 3, 3, 3, np.nan])
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
def test_any_power_of_two(dtype):
    @njit
    def powers(fraction, n, out):
        for j in range(0, whole(n), width(n)):
            store(out, j, scale_by_power_of_two(load(fraction, j), load(n, j)))

    @njit
    def powers_alone(n, shared, out):
        for j in range(0, whole(n), width(n)):
            store(out, j, power_of_two(load(n, j), shared))

    n = np.concatenate([np.arange(-3000, 3200), [-np.inf, -1e30, -7e5, 7e5, 1e30, np.inf], [0.0, 0.0]])
    for shared in (0, 100, -94548):
        alone = np.empty(n.size, dtype)
        powers_alone((n + shared).astype(dtype), float(shared), alone)
        with np.errstate(over="ignore", under="ignore"):
            true = np.ldexp(dtype(1), np.clip(n, -9999, 9999).astype(int))
        np.testing.assert_array_equal(alone, np.where(true < np.finfo(dtype).tiny, alone, true))
        assert np.all(alone[true < np.finfo(dtype).tiny] <= true[true < np.finfo(dtype).tiny])
    for fraction in (0.75, -1.4):
        fractions, out = np.full(n.size, fraction, dtype), np.empty(n.size, dtype)
        powers(fractions, n.astype(dtype), out)
        with np.errstate(over="ignore", under="ignore"):
            np.testing.assert_array_equal(out, np.ldexp(fractions, np.clip(n, -9999, 9999).astype(int)))


@pytest.mark.skipif(not HAS_AVX512, reason="the tests of this file have just run without AVX-512")
def test_all_of_this_without_avx512(tmp_path):
    """In a process of its own: what Numba has compiled once for some types it does not compile again."""
    features = [f for f in get_host_cpu_features().split(",") if not f.startswith("+avx512")]
    less = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ",".join(features), "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=os.environ | less, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "1 skipped" in done.stdout
