"""Enclosures: correctly rounded midpoints, radii that are upper bounds, exact comparison with any dtype."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from flint import arb

from lossref.exact.ball import Ball, lift, precision
from lossref.exact.enclosure import Enclosure

INF, NAN = float("inf"), float("nan")


@pytest.fixture(autouse=True)
def _bits():
    with precision(256):
        yield


def of(*balls):
    array = np.empty(len(balls), dtype=object)
    array[:] = balls
    return Enclosure(array)


def test_midpoints_are_rounded_to_nearest_even_to_subnormals_and_infinity():
    tiny = arb(2) ** -1074
    exact = of(arb(2) ** 53 + 1, tiny * 0.5, tiny * 0.75, tiny * 1.5, arb(10) ** 400, -(arb(10) ** 400))
    np.testing.assert_array_equal(exact.midpoint, [2.0**53, 0, 5e-324, 1e-323, INF, -INF])
    np.testing.assert_array_equal(of(arb.pos_inf(), arb.neg_inf(), arb.nan()).midpoint, [INF, -INF, NAN])
    assert exact.midpoint.dtype == np.float64


def test_radii_are_upper_bounds():
    third = arb(1) / 3
    wide = of(third, third * arb(10) ** -400, arb(5, 2), arb(0, 1), arb(7))
    for ball, radius, relative in zip(wide.balls, wide.radius, wide.relative_radius, strict=True):
        assert arb(radius) >= ball.rad()
        if relative < INF:
            assert arb(relative) * ball.abs_lower() >= ball.rad()
    assert wide.radius[1] == 5e-324  # never rounded down to 0
    assert wide.relative_radius[3] == INF and wide.radius[4] == 0 == wide.relative_radius[4]
    certain = of(arb.pos_inf(), arb.nan())
    assert not certain.radius.any() and not certain.relative_radius.any()


def test_contains_is_exact():
    third = Enclosure(arb(1) / 3)
    assert not third.contains(1 / 3) and third.contains(third.balls.item().mid())
    assert Enclosure(arb(0.1)).contains(0.1) and not Enclosure(arb(0.1)).contains(np.longdouble("0.1"))
    edges = of(arb.pos_inf(), arb.pos_inf(), arb.nan(), arb.nan(), arb(1), arb(1))
    np.testing.assert_array_equal(
        edges.contains(np.array([INF, -INF, NAN, 1, INF, NAN])), [True, False, True, False, False, False]
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble])
def test_error_of_every_dtype(dtype):
    computed = np.array([1 / 3, 2.0, -1e-3]).astype(dtype)
    truth = of(arb(1) / 3, arb(2), arb(-1) / 1000)
    errors = truth.error(computed)
    assert errors.dtype == np.float64 and errors[1] == 0
    for error, number, exact in zip(errors, computed, [Fraction(1, 3), 2, Fraction(-1, 1000)], strict=True):
        true_error = abs(Fraction(*np.longdouble(number).as_integer_ratio()) - exact)
        assert true_error <= Fraction(float(error)) <= true_error * (1 + Fraction(1, 2**50))


def test_error_sees_the_radius_and_the_last_bit_of_a_longdouble():
    assert Enclosure(arb(1, 0.5)).error(1.0) >= 0.5
    eps = np.finfo(np.longdouble).eps
    assert Enclosure(arb(1)).error(1 + eps) == float(eps)


def test_error_at_the_edges():
    plus, minus, nan, one = arb.pos_inf(), arb.neg_inf(), arb.nan(), arb(1)
    truth = of(plus, plus, plus, plus, minus, one, one, nan, nan, nan)
    computed = np.array([INF, -INF, 1, NAN, -INF, INF, NAN, NAN, 1, INF])
    np.testing.assert_array_equal(truth.error(computed), [0, INF, INF, INF, 0, INF, INF, 0, INF, INF])
    assert Enclosure(arb(0, INF)).error(1.0) == INF  # an unbounded ball proves nothing


def test_shapes_must_agree():
    pair = of(arb(1), arb(2))
    with pytest.raises(ValueError, match=r"shape \(2,\).*shape \(2, 1\)"):
        pair.error(np.ones((2, 1)))
    with pytest.raises(ValueError):
        pair.contains(1.0)
    with pytest.raises(TypeError, match="real numbers"):
        pair.error(np.array([1j, 2]))
    with pytest.raises(TypeError, match="str"):
        Enclosure("1")


def test_from_balls_and_as_an_array():
    matrix = Enclosure(lift(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])))
    assert matrix.shape == (2, 3) and matrix.ndim == 2 and matrix.size == 6 and len(matrix) == 2
    assert all(isinstance(ball, arb) for ball in matrix.balls.flat)
    np.testing.assert_array_equal(matrix, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(np.asarray(matrix, dtype=np.float32), [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(matrix[1].midpoint, [4, 5, 6])
    np.testing.assert_array_equal(matrix[:, ::2].midpoint, [[1, 3], [4, 6]])
    assert float(matrix[1, 2]) == 6 and matrix[1, 2].shape == () and [len(row) for row in matrix] == [3, 3]
    with pytest.raises(TypeError):
        float(matrix)
    with pytest.raises(TypeError):
        len(matrix[0, 0])
    with pytest.raises(ValueError):
        np.array(matrix, copy=False)
    empty = Enclosure(np.empty((0, 3), dtype=object))
    assert empty.midpoint.shape == (0, 3) and empty.error(np.empty((0, 3))).shape == (0, 3) and repr(empty)


def test_written_form():
    with precision(200):
        power = Enclosure(np.exp(Ball(-40)))
    text = repr(power)
    assert text.startswith("4.2483542552915889953") and " ± " in text
    digits, _, radius = text.partition(" ± ")
    assert len(digits.replace(".", "").split("e")[0]) >= 20 and float(radius) < 1e-70
    assert repr(Enclosure(arb(1.5))) == "1.5 ± 0"
    assert repr(Enclosure(arb(1, 0.01))).startswith("1 ± 0.01")
    assert repr(Enclosure(arb.neg_inf())) == "-inf" and repr(Enclosure(arb.nan())) == "nan"
    assert repr(Enclosure(arb(0, INF))) == "0 ± inf"
    summary = repr(of(arb(1), arb(2) / 3))
    assert "shape=(2,)" in summary and "0.66666667" in summary and "radius" in summary
