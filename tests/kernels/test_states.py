"""States of log-sum-exp as arrays: a monoid, and the same numbers however a row is cut."""

import doctest
import itertools

import numpy as np
import pytest

import lossref as lr
from lossref.kernels import states
from lossref.kernels.states import STATE

DTYPES = [np.float32, np.float64]


def close(a, b, rtol=1e-15):
    np.testing.assert_array_equal(a["m"], b["m"])
    np.testing.assert_allclose(a["r"], b["r"], rtol=rtol, atol=0)


@pytest.fixture
def some():
    """Three arrays of eight states each: all pairs and triples of these meet."""
    each = [(0.0, 0.0), (-40.0, 0.5), (3.0, 1e-30), (3.0, 0.0), (-700.0, 4.0), (-np.inf, 0.0), (1e9, 2.0), (-1e9, 0.0)]
    triples = np.array(list(itertools.product(each, repeat=3)))
    return [np.ascontiguousarray(triples[:, k]).view(STATE)[:, 0] for k in range(3)]


def test_merge_is_a_commutative_monoid(some):
    a, b, c = some
    merge, identity = lr.kernels.merge, lr.kernels.merge()
    close(merge(a, b), merge(b, a))
    close(merge(merge(a, b), c), merge(a, merge(b, c)))
    close(merge(a, identity), a)
    close(merge(identity, a), a)
    close(merge(a, b, c), merge(merge(a, b), c), rtol=0)
    close(merge(a), a, rtol=0)
    assert identity == merge(identity, identity)


def test_merge_broadcasts_and_leaves_its_arguments_alone(some):
    a, b, _ = some
    before = a.copy(), b.copy()
    table = lr.kernels.merge(a[:, None], b[None, :8])
    assert table.shape == (a.size, 8)
    close(table[5], lr.kernels.merge(a[5], b[:8]), rtol=0)
    assert (a == before[0]).all() and (b == before[1]).all()


def test_merge_keeps_a_nan():
    bad = lr.kernels.log_sum_exp_state(np.array([0.0, np.nan]))
    good = lr.kernels.log_sum_exp_state(np.array([[5.0, 6.0], [-5.0, -np.inf], [-np.inf, -np.inf]]))
    assert np.isnan(lr.kernels.log_sum_exp(lr.kernels.merge(good, bad))).all()
    assert np.isnan(lr.kernels.log_sum_exp(lr.kernels.merge(bad, good))).all()
    infinite = lr.kernels.log_sum_exp_state(np.array([0.0, np.inf]))
    assert np.isnan(lr.kernels.log_sum_exp(lr.kernels.merge(good, infinite))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_cut_gives_the_same(dtype, axis):
    x = (20 * np.random.default_rng(0).standard_normal((6, 7, 8))).astype(dtype)
    x[x < -30] = -np.inf
    whole = lr.kernels.log_sum_exp_state(x, axis=axis)
    assert whole.shape == np.sum(x, axis=axis).shape
    expected = lr.logsumexp(x.astype(np.float64), axis=axis)
    np.testing.assert_allclose(lr.kernels.log_sum_exp(whole), expected, rtol=1e-6 if dtype == np.float32 else 1e-15)
    p = lr.softmax(x.astype(np.float64), axis=axis)
    for cuts in ([1], [0, 2, 2, 5], [3, 4, 5, 6]):  # empty parts too
        parts = np.split(x, cuts, axis=axis)
        merged = lr.kernels.merge(*(lr.kernels.log_sum_exp_state(part, axis=axis) for part in parts))
        # x − m of size 60 is rounded, in one way or another.
        close(merged, whole, rtol=4e-6 if dtype == np.float32 else 1e-14)
        pieces = [lr.kernels.softmax_of_part(part, merged, axis=axis) for part in parts]
        assert all(piece.dtype == dtype for piece in pieces)
        rtol = 4e-6 if dtype == np.float32 else 1e-14
        np.testing.assert_allclose(np.concatenate(pieces, axis=axis), p, rtol=rtol, atol=np.finfo(dtype).tiny)


def test_a_confident_row_keeps_its_digits():
    parts = [np.array([40.0]), np.array([0.0, -1.0]), np.full(3, -np.inf), np.array([-690.0])]
    merged = lr.kernels.merge(*map(lr.kernels.log_sum_exp_state, parts))
    assert merged["r"] == pytest.approx(np.exp(-40.0) + np.exp(-41.0), rel=1e-15)


def test_masked_rows_and_cotangents():
    x = np.array([[-np.inf, -np.inf], [1.0, -np.inf]])
    state = lr.kernels.log_sum_exp_state(x)
    np.testing.assert_array_equal(lr.kernels.log_sum_exp(state), [-np.inf, 1.0])
    gradient = lr.kernels.softmax_of_part(x, state, cotangent=np.array([3.0, -2.0]))
    np.testing.assert_array_equal(gradient, [[0, 0], [-2.0, 0]])


def test_long_rows_and_half_precision():
    x = np.random.default_rng(0).standard_normal(300_001)
    expected = lr.logsumexp(x)
    assert lr.kernels.log_sum_exp(lr.kernels.log_sum_exp_state(x)) == pytest.approx(expected, rel=1e-15)
    half = x.astype(np.float16)
    assert lr.kernels.log_sum_exp(lr.kernels.log_sum_exp_state(half)) == pytest.approx(
        lr.logsumexp(half.astype(np.float64)), rel=1e-6
    )


def test_errors():
    with pytest.raises(ValueError, match="axis"):
        lr.kernels.log_sum_exp_state(np.zeros(3), axis=1)
    with pytest.raises(TypeError, match="x: the numba path"):
        lr.kernels.log_sum_exp_state(np.zeros(3, int))
    with pytest.raises(AttributeError, match="no_such"):
        lr.kernels.no_such  # noqa: B018


def test_the_examples_are_right():
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(states, extraglobs={"np": np, "lr": lr}, optionflags=options)
    assert result.attempted >= 8 and result.failed == 0
