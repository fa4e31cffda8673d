"""Balls: exact conversions, rigorous values and derivatives, honest refusals, life inside object arrays."""

import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from flint import arb, ctx

from lossref.exact import ball as ball_module
from lossref.exact.ball import (
    Ball,
    UndecidedError,
    backward,
    collector_paused,
    decimal,
    isfinite,
    isinf,
    isnan,
    lift,
    precision,
    variables,
)

INF = float("inf")
REAL_TYPES = [
    float,
    int,
    bool,
    np.float16,
    np.float32,
    np.float64,
    np.longdouble,
    np.int8,
    np.uint64,
    np.bool_,
    ml_dtypes.bfloat16,
]


@pytest.fixture(autouse=True)
def _bits():
    with precision(128):
        yield


def numbers(array):
    return np.array([float(x) for x in np.ravel(array)]).reshape(np.shape(array))


def slope(function, *points):
    """The derivatives of a function of scalars at exact points."""
    xs = [variables(point) for point in points]
    gradient = backward(function(*(x[()] for x in xs)), 1, tuple(xs))
    values = [g[()].value for g in gradient]
    return values[0] if len(values) == 1 else values


def softmax(x):
    weights = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return weights / np.sum(weights, axis=-1, keepdims=True)


def logsumexp(x):
    top = np.max(x, axis=-1, keepdims=True)
    return np.log(np.sum(np.exp(x - top), axis=-1)) + top[..., 0]


# Conversions


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble])
def test_lifting_is_exact_at_any_precision(dtype):
    array = np.array([0.1, -1 / 3, 1e-6, 3.0], dtype=dtype)
    with precision(2):
        balls = lift(array)
    for number, lifted in zip(array, balls, strict=True):
        assert lifted.value.is_exact()
        mantissa, exponent = map(int, lifted.value.man_exp())
        wide = np.longdouble(number)
        assert mantissa * Fraction(2) ** exponent == Fraction(*wide.as_integer_ratio())


def test_longdouble_keeps_every_bit_and_its_range():
    tiny = np.finfo(np.longdouble).smallest_subnormal
    huge = np.finfo(np.longdouble).max
    one_and_a_bit = 1 + np.finfo(np.longdouble).eps
    for number in (tiny, huge, -huge, one_and_a_bit):
        mantissa, exponent = map(int, Ball(number).value.man_exp())
        assert mantissa * Fraction(2) ** exponent == Fraction(*number.as_integer_ratio())
    assert Ball(np.longdouble("inf")) == INF
    assert Ball(np.longdouble("nan")).is_nan()


def test_lift_keeps_balls_and_lifts_the_numbers_between_them():
    x = variables(np.arange(3.0))
    mixed = np.where([True, False, True], x, 0)
    assert not isinstance(mixed[1], Ball)
    lifted = lift(mixed)
    assert lifted[0] is x[0] and lifted[1] == 0 and isinstance(lifted[1], Ball)
    assert lift(x) is x
    assert lift(2**80 + 1)[()] == 2**80 + 1
    assert lift(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(TypeError, match="complex"):
        lift(np.array([1j]))


@pytest.mark.parametrize("kind", REAL_TYPES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_scalars_of_every_kind_on_both_sides(kind):
    three, number = Ball(3), kind(1)
    for result, expected in [
        (number + three, 4),
        (three + number, 4),
        (number - three, -2),
        (three - number, 2),
        (number * three, 3),
        (three * number, 3),
        (number / three * 3 + 0, None),
        (three / number, 3),
        (number**three, 1),
        (three**number, 3),
    ]:
        assert type(result) is Ball
        assert expected is None or result == expected
    assert (number < three) is True and (three < number) is False
    assert (number == three) is False and (number != three) is True and three >= number


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64, bool])
def test_arrays_of_numbers_on_both_sides(dtype):
    plain, balls = np.array([0, 1, 1]).astype(dtype), lift(np.array([2.0, 3.0, 4.0]))
    expected = [0.0, 3.0, 4.0]
    for product in (plain * balls, balls * plain):
        assert product.dtype == object
        np.testing.assert_array_equal(numbers(product), expected)
    np.testing.assert_array_equal(numbers(Ball(2) * plain), 2.0 * plain.astype(float))
    np.testing.assert_array_equal(numbers(plain - Ball(2)), plain.astype(float) - 2)
    np.testing.assert_array_equal(plain < balls, True)


def test_the_tape_keeps_only_what_depends_on_variables():
    constant = np.exp(lift(np.ones(3))) * 2 + 1
    assert all(x.record is None for x in constant)
    x = Ball(1, variable=True)
    assert (x + 1).record is not None
    assert (x * 0).record is None  # identically zero
    assert x.detached().record is None and x.detached() == x
    third = Ball(1) / 3
    assert third.midpoint().value.is_exact() and third.value.contains(third.midpoint().value)


def test_a_recorded_operation_costs_one_tuple(monkeypatch):
    """Local derivatives are evaluated in the sweep, never in the forward pass."""
    calls = []
    for rule in ("_multiply", "_divide", "_power", "_square_root", "_logarithm"):
        monkeypatch.setattr(ball_module, rule, lambda *_: calls.append(1))
    x = variables(np.linspace(1, 2, 5))
    y = np.tanh(np.log(x) * x / np.sqrt(x) + np.exp(-x))
    assert calls == []
    assert all(len(ball.record) == 3 and ball.record[2].record for ball in y)


# Values


ELEMENTARY = {
    "exp": (lambda x: x.exp(), lambda x: x.exp()),
    "exp2": (
        lambda x: (x * arb.const_log2()).exp(),
        lambda x: (x * arb.const_log2()).exp() * arb.const_log2(),
    ),
    "expm1": (lambda x: x.exp() - 1, lambda x: x.exp()),
    "log": (lambda x: x.log(), lambda x: 1 / x),
    "log2": (lambda x: x.log() / arb.const_log2(), lambda x: 1 / (x * arb.const_log2())),
    "log10": (lambda x: x.log() / arb.const_log10(), lambda x: 1 / (x * arb.const_log10())),
    "log1p": (lambda x: (1 + x).log(), lambda x: 1 / (1 + x)),
    "sqrt": (lambda x: x.sqrt(), lambda x: x**-0.5 / 2),
    "cbrt": (lambda x: x ** (arb(1) / 3), lambda x: x ** (-arb(2) / 3) / 3),
    "sin": (lambda x: x.sin(), lambda x: x.cos()),
    "cos": (lambda x: x.cos(), lambda x: -x.sin()),
    "tan": (lambda x: x.tan(), lambda x: 1 + x.tan() ** 2),
    "arcsin": (lambda x: x.asin(), lambda x: (1 - x * x).rsqrt()),
    "arccos": (lambda x: x.acos(), lambda x: -(1 - x * x).rsqrt()),
    "arctan": (lambda x: x.atan(), lambda x: 1 / (1 + x * x)),
    "sinh": (lambda x: x.sinh(), lambda x: x.cosh()),
    "cosh": (lambda x: x.cosh(), lambda x: x.sinh()),
    "tanh": (lambda x: x.tanh(), lambda x: 1 - x.tanh() ** 2),
    "arcsinh": (lambda x: x.asinh(), lambda x: (1 + x * x).rsqrt()),
    "arctanh": (lambda x: x.atanh(), lambda x: 1 / (1 - x * x)),
    "square": (lambda x: x * x, lambda x: 2 * x),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / x**2),
    "abs": (lambda x: x, lambda x: arb(1)),
    "fabs": (lambda x: x, lambda x: arb(1)),
    "negative": (lambda x: -x, lambda x: arb(-1)),
    "conjugate": (lambda x: x, lambda x: arb(1)),
}


@pytest.mark.parametrize("name", ELEMENTARY)
@pytest.mark.parametrize("point", [0.1, 0.75])
def test_ufuncs_and_their_derivatives(name, point):
    value, derivative = ELEMENTARY[name]
    x = variables(np.array([point]))
    y = getattr(np, name)(x)
    with precision(300):
        true_value, true_slope = value(arb(point)), derivative(arb(point))
    assert y[0].value.overlaps(true_value) and y[0].value.rad() < 1e-35
    (got,) = backward(y, 1, x)
    assert got.value.overlaps(true_slope) and got.value.rad() < 1e-34


@pytest.mark.parametrize("name", ["arccosh", "lgamma", "digamma", "erf", "erfc"])
@pytest.mark.parametrize("point", [1.25, 40.0])
def test_special_functions_against_difference_quotients(name, point):
    """A central difference at 600 bits with h = 2**-100 is right to about 2**-190."""
    got = slope(lambda x: getattr(x, name)(), point)
    with precision(600):
        h = arb(2) ** -100
        at = [getattr(Ball(arb(point) + sign * h), name)().value for sign in (1, -1)]
        quotient = (at[0] - at[1]) / (2 * h)
        size = abs(quotient)
    assert abs(got - quotient) < size * 1e-33 + 1e-300


def test_gamma_on_the_negative_axis():
    assert decimal(Ball(-2.5).lgamma().value, 15).startswith("-0.0562437164976741")
    assert Ball(-2).lgamma() == INF and Ball(0).lgamma() == INF and Ball(-2).digamma().is_nan()
    assert math.isclose(slope(lambda x: x.lgamma(), -2.5), 1.103156640645243, rel_tol=1e-15)
    assert math.isclose(slope(lambda x: x.digamma(), -1.5), 9.379246644989124, rel_tol=1e-15)


@pytest.mark.parametrize(
    "function, points, expected",
    [
        (lambda a, b: a * b, (3.0, 5.0), (5, 3)),
        (lambda a, b: a - b, (3.0, 5.0), (1, -1)),
        (lambda a, b: a / b, (3.0, 4.0), (0.25, -3 / 16)),
        (lambda a, b: a**b, (4.0, 2.0), (8, 16 * math.log(4))),
        (lambda a, b: np.hypot(a, b), (3.0, 4.0), (0.6, 0.8)),
        (lambda a, b: np.arctan2(a, b), (3.0, 4.0), (4 / 25, -3 / 25)),
        (lambda a, b: a * a + a * b + a / a, (3.0, 4.0), (10, 3)),
        (lambda a, b: 2 - a + (1 / b) + 2.0**a, (1.0, 2.0), (-1 + 2 * math.log(2), -0.25)),
        (lambda a, b: a.detached() * b, (3.0, 4.0), (0, 3)),
        (lambda a, b: np.maximum(a, b) - np.minimum(a, b), (3.0, 4.0), (-1, 1)),
    ],
)
def test_derivatives_of_two_variables(function, points, expected):
    np.testing.assert_allclose([float(s) for s in slope(function, *points)], expected, rtol=1e-15)


def test_powers():
    assert slope(lambda x: x**3, 2.0) == 12
    assert slope(lambda x: x**-2, 2.0) == -0.25
    assert slope(lambda x: x**0, 0.0) == 0
    assert slope(lambda x: x**1, 0.0) == 1
    assert slope(lambda x: x**2.5, 0.0) == 0
    assert slope(lambda x: x**0.5, 0.0) == INF
    assert slope(lambda x: x**3, -2.0) == 12
    assert Ball(-2) ** 3 == -8 and (Ball(-8) ** 0.5).is_nan()
    for base in (0, 0.5, 1, 2, -2, INF, -INF):
        for exponent in (0, 1, 2, 3, -1, -2, INF, -INF):
            with np.errstate(divide="ignore"):
                expected = np.float64(base) ** np.float64(exponent)
            assert Ball(base) ** exponent == float(expected), (base, exponent)


# Infinities and the edges of domains


def test_values_at_infinity():
    minus, plus, zero = Ball(-INF), Ball(INF), Ball(0)
    assert np.exp(minus) == 0 and np.exp(plus) == INF and np.expm1(minus) == -1
    assert np.log(zero) == -INF and np.log1p(Ball(-1)) == -INF and np.log(plus) == INF
    assert 1 / plus == 0 and minus + 5 == -INF and 5 - minus == INF and plus * -2 == -INF
    assert (minus - minus).is_nan() and (plus * 0).is_nan() and (zero / 0).is_nan() and (plus / plus).is_nan()
    assert np.tanh(minus) == -1 and plus.erf() == 1 and minus.erfc() == 2 and plus.erfc() == 0
    assert Ball(1) / 0 == INF and Ball(-1) / 0 == -INF
    assert minus < plus and minus < 0 and minus == -INF and plus != minus and not plus < plus and plus >= plus
    assert np.log(Ball(-1)).is_nan() and np.sqrt(Ball(-1)).is_nan() and np.sin(plus).is_nan()
    assert np.hypot(plus, zero) == INF and np.abs(minus) == INF and np.exp2(minus) == 0
    assert abs(np.arctan(plus) - 2 * np.arctan(Ball(1))) < 1e-30


def test_an_infinity_plus_an_inexact_number_is_exactly_that_infinity():
    third = Ball(1) / 3
    for total in (third - INF, Ball(-INF) + third, Ball(INF) * -third):
        assert total == -INF and np.exp(total) == 0


def test_derivatives_at_infinity_and_at_zero():
    assert slope(np.exp, -INF) == 0
    assert slope(np.abs, 0.0) == 0
    assert slope(np.sqrt, 0.0) == INF
    assert slope(np.sqrt, INF) == 0
    assert slope(np.log, 0.0) == INF
    assert slope(np.tanh, INF) == 0
    assert slope(np.arctan, -INF) == 0
    assert slope(lambda x: x.erfc(), INF) == 0
    assert slope(lambda x, y: np.hypot(x, y), 0.0, 0.0) == [0, 0]


def test_an_adjoint_that_is_exactly_zero_contributes_zero():
    assert slope(lambda x: 0 * np.sqrt(x), 0.0) == 0  # the local derivative is infinite
    assert slope(lambda x: np.log(x) * np.exp(x), -INF).is_nan() is True  # log of -inf is undefined
    x = variables(np.array([0.0, 4.0]))
    (dead, alive) = backward(np.sqrt(x), np.array([0, 1]), x)
    assert dead == 0 and alive == 0.25
    assert slope(lambda x: np.sqrt(0 * x), 0.0) == 0  # a constant, although inf · 0 stands in the chain rule


def test_nan_goes_through_every_function():
    nan = float("nan")
    for name in [*ELEMENTARY, "arccosh", "rint", "floor"]:
        assert getattr(np, name)(lift(np.array([nan])))[0].is_nan(), name
    for name in ("erf", "erfc", "lgamma", "digamma"):
        assert getattr(Ball(nan), name)().is_nan(), name
    for function in (np.arcsin, np.log, np.sqrt, np.arctanh):  # undefined at -2, and so is the slope
        assert function(Ball(-2)).is_nan() and slope(function, -2.0).is_nan(), function
    for function in (
        lambda x: x + 1,
        lambda x: x - INF,
        lambda x: x * 0,
        lambda x: x / 2,
        lambda x: 2 / x,
        lambda x: x**2,
        lambda x: x**0.5,
        lambda x: 2**x,
        lambda x: np.hypot(x, lift(1.0)),
        lambda x: np.arctan2(x, lift(1.0)),
    ):
        assert function(Ball(nan)).is_nan()


def test_domain_questions_that_cannot_be_decided_raise():
    around_zero = Ball(2) / 3 - 2 * (Ball(1) / 3)
    for function in (np.log, np.sqrt, np.reciprocal, lambda x: x**0.5, lambda x: x * INF, np.log2):
        with pytest.raises(UndecidedError, match="128 bits"):
            function(around_zero)
    with pytest.raises(UndecidedError):
        np.arccos(1 + around_zero)
    with pytest.raises(UndecidedError):
        backward(np.log(np.exp(x := variables(np.array([1e300])))), 1, x)


# Comparisons


def test_undecided_comparisons_raise_with_both_enclosures():
    third, also_third = Ball(1) / 3, 1 - Ball(2) / 3
    for compare in (
        lambda: third < also_third,
        lambda: third <= also_third,
        lambda: third > also_third,
        lambda: third >= also_third,
        lambda: third == also_third,
        lambda: third != also_third,
        lambda: bool(third - also_third),
        lambda: np.maximum(third, also_third),
        lambda: np.sort(np.array([third, also_third])),
        lambda: np.argmax(np.array([third, also_third])),
        lambda: np.sign(np.array([third - also_third])),
    ):
        with pytest.raises(UndecidedError):
            compare()
    with pytest.raises(UndecidedError, match=r"\(0\.3333\d* ± .*\) < \(0\.3333\d* ± .*\)"):
        _ = third < also_third


def test_a_number_equals_itself_however_wide_its_ball():
    third = Ball(1) / 3
    assert third == third and third <= third and not third < third
    assert third == third.detached() and np.maximum(third, third) is third


def test_nan_refuses_comparison():
    nan = Ball(float("nan"))
    for compare in (lambda: nan == nan, lambda: nan < 1, lambda: nan >= nan, lambda: bool(nan)):
        with pytest.raises(UndecidedError):
            compare()


def test_comparison_with_other_things():
    assert Ball(1) != "1" and Ball(1) is not None and Ball(1) != []
    assert len({Ball(1), Ball(1), Ball(2), 1, 2.0}) == 2 and hash(Ball(0.1)) == hash(0.1)
    with pytest.raises(TypeError):
        _ = Ball(1) < "1"
    with pytest.raises(TypeError):
        Ball("1")


def test_more_precision_decides():
    def gap():
        return np.exp(Ball(1e-12)) - 1 - Ball(1e-12)

    with precision(53), pytest.raises(UndecidedError):
        _ = gap() > 0
    assert gap() > 0


# Enclosure


OPERATIONS = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / (1 + b * b),
    lambda a, b: np.exp(-a * a),
    lambda a, b: np.log1p(np.exp(-np.abs(b))),
    lambda a, b: np.tanh(a) * b,
    lambda a, b: np.sqrt(1 + a * a),
    lambda a, b: np.hypot(a, 1 + b),
    lambda a, b: np.sin(a) + b,
]


@pytest.mark.parametrize("seed", range(20))
def test_low_precision_contains_high_precision(seed):
    """Random expressions: the balls at 30 bits overlap the 500-bit truth, for values and for derivatives."""
    generator = np.random.default_rng(seed)
    points = generator.normal(size=4)
    picks = [(generator.integers(len(OPERATIONS)), *generator.integers(0, 4 + i, 2)) for i in range(12)]

    def run():
        x = variables(points)
        terms = list(x)
        for which, i, j in picks:
            terms.append(OPERATIONS[which](terms[i], terms[j]))
        return terms[-1], backward(terms[-1], 1, x)

    with precision(500):
        truth, true_gradient = run()
    with precision(30):
        value, gradient = run()
    for coarse, fine in zip([value, *gradient], [truth, *true_gradient], strict=True):
        assert fine.value.rad() < 1e-100
        assert coarse.value.contains(fine.value)


# Object arrays


def test_logsumexp_and_softmax_with_masked_logits():
    logits = np.array([[1.0, -2.0, 0.5], [800.0, -INF, 0.0], [-1e8, -1e8 + 1, -INF]])
    x = variables(logits)
    value = logsumexp(x)
    gradient = backward(value, np.ones(3), x)
    expected = softmax(lift(logits))
    for got, want in zip(gradient.flat, expected.flat, strict=True):
        assert got.value.overlaps(want.value)
    assert gradient[1, 1] == 0 and gradient[2, 2] == 0
    assert gradient[1, 2] > 0 and math.isclose(float(gradient[1, 2]), math.exp(-800), abs_tol=5e-324)
    loss = -np.log(softmax(x))[0, 0]
    row = backward(loss, 1, x)[0]
    assert (row[0] + (1 - expected[0, 0])).value.contains(0) and (row[1] - expected[0, 1]).value.contains(0)


def test_numpy_functions_on_arrays_of_balls():
    plain = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -2.0]])
    x = lift(plain)
    for function in (
        lambda a: np.max(a, axis=1),
        lambda a: np.sum(a, axis=0),
        lambda a: np.mean(a),
        lambda a: np.cumsum(a, axis=1),
        lambda a: np.sort(a, axis=1),
        lambda a: np.prod(a, axis=1),
        lambda a: np.diff(a, axis=1),
        lambda a: np.median(a, axis=1),
        lambda a: a @ a.T,
        lambda a: np.dot(a, np.ones(3)),
        lambda a: np.einsum("ij,kj->ik", a, a),
        lambda a: np.take_along_axis(a, np.array([[1], [0]]), axis=1),
        lambda a: np.concatenate([a, 2 * a]),
        lambda a: np.clip(a, -1, 1),
        lambda a: np.maximum(a, 0),
        lambda a: np.minimum(a, a[::-1]),
        lambda a: np.maximum.accumulate(a, axis=1),
        lambda a: np.abs(a) + np.sign(a),
        lambda a: np.where(plain > 0, a, 0 * a),
        lambda a: np.argmax(a, axis=1),
        lambda a: np.argsort(a, axis=1),
        lambda a: np.floor(a) + np.ceil(a) + np.trunc(a) + np.rint(a),
        lambda a: np.outer(a[0], a[1]),
        lambda a: a > np.array([[0.0], [1.0]]),
        lambda a: np.any(a, axis=1),
    ):
        np.testing.assert_allclose(numbers(function(x)), numbers(function(plain)), rtol=1e-15, atol=0)


def test_in_place_scatter():
    out = lift(np.zeros((2, 3)))
    np.put_along_axis(out, np.array([[1], [2]]), lift(np.array([[5.0], [6.0]])), axis=1)
    np.add.at(out, (np.array([0, 0]), np.array([1, 1])), Ball(1))
    np.testing.assert_array_equal(numbers(out), [[0, 7, 0], [0, 0, 6]])


def test_nan_and_infinity_tests_for_arrays():
    x = np.array([Ball(1), Ball(-INF), Ball(float("nan")), 0.5], dtype=object)
    np.testing.assert_array_equal(isnan(x), [False, False, True, False])
    np.testing.assert_array_equal(isinf(x), [False, True, False, False])
    np.testing.assert_array_equal(isfinite(x), [True, False, False, True])
    assert isfinite(Ball(1)) and not isnan(Ball(1))
    with pytest.raises(UndecidedError):
        isinf(np.exp(Ball(1e300)))


def test_rounding_to_integers():
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.500001])
    np.testing.assert_array_equal(numbers(np.rint(lift(halves))), np.rint(halves))
    assert np.rint(Ball(INF)) == INF and np.floor(Ball(-INF)) == -INF
    with pytest.raises(UndecidedError):
        np.floor(3 * (Ball(1) / 3))
    with pytest.raises(UndecidedError):
        np.rint(Ball(1) / 3 * 3 / 2)


# The sweep


def test_sweep_of_a_thousand_terms_and_of_a_deep_chain():
    x = variables(np.linspace(-1, 1, 1000))
    gradient = backward(np.sum(x * x), 1, x)
    assert all(g == 2 * v for g, v in zip(gradient, x, strict=True))
    deep = first = Ball(1, variable=True)
    for _ in range(50_000):
        deep = deep + 1
    assert backward(deep, 3, np.array(first))[()] == 3  # no recursion here
    del deep  # nor in the release of the tape


def test_each_recorded_operation_is_visited_once(monkeypatch):
    visits = []
    original = ball_module._through_sum
    monkeypatch.setattr(ball_module, "_through_sum", lambda *a: visits.append(1) or original(*a))
    x = variables(1.0)
    y = x[()]
    for _ in range(60):
        y = y + y  # 2**60 paths, 60 operations
    assert backward(y, 1, x)[()] == 2**60
    assert len(visits) == 60


def test_cotangents_and_several_variables():
    a, b, unused = (
        variables(np.array([1.0, 2.0])),
        variables(np.array([3.0, 4.0])),
        variables(np.zeros((2, 2))),
    )
    da, db, none = backward(a * b, np.array([10, 100], dtype=np.float32), (a, b, unused))
    np.testing.assert_array_equal(numbers(da), [30, 400])
    np.testing.assert_array_equal(numbers(db), [10, 200])
    assert all(g == 0 for g in none.flat) and none.shape == (2, 2)
    assert all(g.record is None for g in da)
    half = backward(a * b, Ball(1) / 2, a)
    np.testing.assert_array_equal(numbers(half), [1.5, 2])
    inner = a * a  # derivatives with respect to something computed
    np.testing.assert_array_equal(numbers(backward(np.sum(inner * inner), 1, inner)), [2, 8])
    np.testing.assert_array_equal(numbers(backward(np.array([Ball(1), 0]), 1, a)), [0, 0])  # constants
    with pytest.raises(ValueError, match="constants"):
        backward(np.sum(a), 1, lift(a.astype(float)))
    with pytest.raises(ValueError):
        backward(a, np.ones(3), a)


def test_the_enclosures_of_a_long_sum_stay_narrow():
    x = variables(np.random.default_rng(0).normal(size=1000))
    value = logsumexp(x)
    gradient = backward(value, 1, x)
    assert value.value.rad() < 1e-33
    assert sum(gradient).value.contains(1)


# Odds and ends


def test_precision_and_the_collector_are_restored():
    import gc

    before = ctx.prec
    with pytest.raises(RuntimeError), precision(777), collector_paused():
        assert ctx.prec == 777 and not gc.isenabled()
        raise RuntimeError
    assert ctx.prec == before and gc.isenabled()


def test_float_and_repr():
    third = Ball(1) / 3
    assert float(third) == 1 / 3 and float(Ball(-INF)) == -INF and math.isnan(float(Ball(float("nan"))))
    assert repr(third).startswith("Ball(0.333333333333 ± ") and repr(Ball(2)) == "Ball(2 ± 0)"
    assert repr(Ball(-INF)) == "Ball(-inf)" and repr(Ball(float("nan"))) == "Ball(nan)"
    np.testing.assert_array_equal(lift(np.array([0.1, 0.2])).astype(float), [0.1, 0.2])
