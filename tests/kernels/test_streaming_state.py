import itertools

import numpy as np
import pytest

from lossref.kernels.streaming_state import IDENTITY, merge, state_of_piece


def close(a, b):
    assert a[0] == b[0]
    assert a[1] == pytest.approx(b[1], rel=1e-15, abs=0)


STATES = [(0.0, 0.0), (-40.0, 0.5), (3.0, 1e-30), (3.0, 0.0), (-700.0, 4.0), IDENTITY]


@pytest.mark.parametrize("call", [merge, merge.py_func], ids=["compiled", "interpreted"])
def test_merge_is_a_commutative_monoid(call):
    for a, b in itertools.product(STATES, STATES):
        close(call(*a, *b), call(*b, *a))
        close(call(*a, *IDENTITY), a)
        for c in STATES:
            close(call(*call(*a, *b), *c), call(*a, *call(*b, *c)))
    assert call(*IDENTITY, *IDENTITY) == IDENTITY


def test_merge_keeps_a_nan():
    for a in STATES:
        assert np.isnan(merge(*a, -np.inf, np.nan)[1])
        assert np.isnan(merge(5.0, np.nan, *a)[1])
        assert np.isnan(merge(*a, -5.0, np.nan)[1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_state_of_a_row_is_the_merge_of_its_parts(dtype):
    x = (20 * np.random.default_rng(0).standard_normal(10_000)).astype(dtype)
    m, r = state_of_piece(x)
    assert m == x.max()
    for cut in (1, 4095, 4096, 9_999):
        merged = merge(*state_of_piece(x[:cut]), *state_of_piece(x[cut:]))
        assert merged[0] == m
        assert merged[1] == pytest.approx(r, rel=1e-6 if dtype == np.float32 else 1e-14)


def test_the_maximum_is_not_in_the_sum():
    m, r = state_of_piece(np.array([5.0, -40.0, 5.0]))
    assert (m, r) == (5.0, 1.0 + np.exp(-45.0))
    m, r = state_of_piece(np.array([5.0, -40.0]))
    assert m == 5 and r == pytest.approx(np.exp(-45.0), rel=1e-15)
    assert state_of_piece(np.array([-np.inf, -np.inf])) == IDENTITY
    # Subnormal float32 terms keep their digits.
    m, r = state_of_piece(np.array([0.0, -100.0, -103.0], np.float32))
    assert r == pytest.approx(np.exp(-100.0) + np.exp(-103.0), rel=1e-6)
