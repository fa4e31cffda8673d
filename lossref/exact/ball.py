"""Balls that remember: interval arithmetic with a tape, the element type of the exact layer.

A loss in lossref is ordinary NumPy. Handed an object array of :class:`Ball`, the very same lines compute with
enclosures of real numbers (python-flint's ``arb``), and one reverse sweep over the recorded operations turns
them into enclosures of every partial derivative. It is the textbook reverse mode of automatic differentiation
with an interval where the textbook has a float:

>>> import numpy as np
>>> logits = variables(np.array([2.0, -1.0, 0.5]))
>>> value = np.log(np.sum(np.exp(logits)))
>>> slopes = backward(value, 1, logits)                  # the softmax, each entry with a proven radius
>>> bool(abs(np.sum(slopes) - 1).value < 1e-14)
True

What a result promises
    A finite ball contains the true value. An infinite ball is exactly that infinity. A ball that is NaN means
    that the mathematics is undefined there (0/0, log of a negative number) *for certain*. When the present
    precision cannot tell which of these holds, or which way a comparison goes, :class:`UndecidedError` is
    raised, so that the caller raises the precision instead of taking a branch silently. An unbounded ball
    (finite midpoint, infinite radius) is what remains of a number too large for Arb's exponents.

Conventions at the edges
    log 0 = -inf, exp(-inf) = 0, x/0 = ±inf with the sign of x (zero has no sign here), and 0/0, 0·inf,
    inf - inf are NaN. The derivative of |x| at 0 is 0, that of sqrt at 0 is +inf. In the sweep an adjoint
    that is exactly zero contributes exactly zero, whatever the local derivative is.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from heapq import heappop, heappush
from itertools import count
from typing import Any, NoReturn

import numpy as np
from flint import acb, arb, ctx

__all__ = [
    "Ball",
    "UndecidedError",
    "backward",
    "collector_paused",
    "decimal",
    "exact_arb",
    "isfinite",
    "isinf",
    "isnan",
    "lift",
    "precision",
    "variables",
]

ZERO, ONE, TWO, HALF = arb(0), arb(1), arb(2), arb(0.5)
INF, NEG_INF = arb.pos_inf(), arb.neg_inf()
NAN = INF - INF
UNBOUNDED = arb(0, float("inf"))

_tick = count().__next__  # every recorded ball gets the next number: parents always have smaller ones
_new = object.__new__


class UndecidedError(ArithmeticError):
    """The enclosures are too wide to decide a comparison or the domain of a function.

    More precision decides it, unless the numbers are truly equal (a tie of computed quantities), which no
    finite precision can prove.
    """


# ------------------------------------------------------------------------------------------------------------
# Writing balls down
# ------------------------------------------------------------------------------------------------------------


def decimal(value: arb, digits: int = 21) -> str:
    """``4.248354255291588995e-18 ± 1.2e-60``: at most `digits` digits, only those that the radius allows."""
    if value.is_nan():
        return "nan"
    middle, radius = value.mid(), value.rad()
    if not middle.is_finite():
        return "inf" if middle > 0 else "-inf"
    if not radius.is_finite():
        return "0 ± inf"
    if not radius.is_zero():
        digits = max(1, min(digits, int(value.rel_accuracy_bits() * 0.30103)))
    mantissa, _, exponent = middle.str(digits, radius=False).partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    spread = "0" if radius.is_zero() else radius.str(2, radius=False)
    power = f"e{exponent}" if exponent.strip("+-0") else ""
    return f"{mantissa}{power} ± {spread}"


def _undecided(question: str) -> NoReturn:
    raise UndecidedError(f"{question} is undecided at {ctx.prec} bits")


# ------------------------------------------------------------------------------------------------------------
# Numbers in: every conversion is exact
# ------------------------------------------------------------------------------------------------------------


def _from_longdouble(number: np.longdouble) -> arb:
    if not np.isfinite(number):
        return arb(float(number))
    numerator, denominator = number.as_integer_ratio()
    return arb((numerator, 1 - denominator.bit_length()))


def _through_float(number: Any) -> arb:
    return arb(float(number))


def _through_int(number: Any) -> arb:
    return arb(int(number))


_CONVERSIONS: dict[type, Callable[[Any], arb]] = {
    float: arb,
    int: arb,
    bool: arb,
    arb: arb,
    np.float64: arb,
    np.longdouble: _from_longdouble,
    np.bool_: _through_int,
}
if np.dtype(np.longdouble).itemsize == 8:  # where C's long double is a double
    _CONVERSIONS[np.longdouble] = _through_float


def exact_arb(number: Any) -> arb | None:
    """The number as an exact ``arb``, or None if it is not a real number that this module knows.

    A :class:`Ball` gives the enclosure that it holds.
    """
    kind = number.__class__
    if kind is Ball:
        return number.value
    convert = _CONVERSIONS.get(kind)
    if convert is None:
        if issubclass(kind, np.integer):
            convert = _through_int
        elif issubclass(kind, np.generic) and not issubclass(kind, np.complexfloating):
            if np.dtype(kind).kind not in "fV":  # bfloat16 and its relatives call themselves V
                return None
            convert = _through_float
        else:
            return None
        _CONVERSIONS[kind] = convert
    return convert(number)


# ------------------------------------------------------------------------------------------------------------
# The four operations on arbs, with the edges made precise
#
# Arb's own results are right whenever they are finite. When they are not, it does not distinguish "undefined"
# from "not decided at this precision", and leaves inf + [1 ± r] with a radius. These functions do the rest.
# ------------------------------------------------------------------------------------------------------------


def _infinite(x: arb) -> bool:
    return x in (INF, NEG_INF)


def _signed_infinity(x: arb, question: str) -> arb:
    """inf · sign(x), for an x that is not zero."""
    if x > 0:
        return INF
    if x < 0:
        return NEG_INF
    _undecided(question)


def _sum_at_infinity(a: arb, b: arb) -> arb:
    if a.is_nan() or b.is_nan():
        return NAN
    if _infinite(a):
        if _infinite(b):
            return a + b
        return a if b.is_finite() else _undecided(f"{decimal(a)} + ({decimal(b)})")
    if _infinite(b):
        return b if a.is_finite() else _undecided(f"({decimal(a)}) + {decimal(b)}")
    return UNBOUNDED


def _product_at_infinity(a: arb, b: arb) -> arb:
    if a.is_nan() or b.is_nan():
        return NAN
    if _infinite(b):
        a, b = b, a
    if not _infinite(a):
        return UNBOUNDED
    if b.is_zero():
        return NAN
    return _signed_infinity(b if a > 0 else -b, f"{decimal(a)} · ({decimal(b)})")


def _quotient_at_edge(a: arb, b: arb) -> arb:
    if a.is_nan() or b.is_nan():
        return NAN
    question = f"({decimal(a)}) / ({decimal(b)})"
    if b.is_zero():
        return NAN if a.is_zero() else _signed_infinity(a, question)
    if _infinite(b):
        return NAN if _infinite(a) else _undecided(question)
    if not (b > 0 or b < 0):
        _undecided(question)
    if _infinite(a):
        return _signed_infinity(a if b > 0 else -a, question)
    return UNBOUNDED


def _add(a: arb, b: arb) -> arb:
    result = a + b
    return result if result.is_finite() else _sum_at_infinity(a, b)


def _multiply(a: arb, b: arb) -> arb:
    result = a * b
    return result if result.is_finite() else _product_at_infinity(a, b)


def _divide(a: arb, b: arb) -> arb:
    result = a / b
    return result if result.is_finite() else _quotient_at_edge(a, b)


def _square(x: arb) -> arb:
    return (x * x).nonnegative_part() if x.is_finite() else _multiply(x, x)


def _power(base: arb, exponent: arb) -> arb:
    result = base**exponent
    return result if result.is_finite() else _power_at_edge(base, exponent, result)


def _power_at_edge(base: arb, exponent: arb, result: arb) -> arb:
    """The rules of IEEE 754's pow, for an unsigned zero."""
    question = f"({decimal(base)}) ** ({decimal(exponent)})"
    if exponent.is_zero() or base == ONE:
        return ONE
    if base.is_nan() or exponent.is_nan():
        return NAN
    if _infinite(exponent):
        size = abs(base)
        if size == ONE:
            return ONE
        if not (size > 1 or size < 1):
            _undecided(question)
        return INF if (size > 1) == (exponent > 0) else ZERO
    if base.is_zero() or _infinite(base):
        if not (exponent > 0 or exponent < 0):
            _undecided(question)
        if base.is_zero() == (exponent > 0):
            return ZERO
        odd = exponent.is_integer() and not (exponent * HALF).is_integer()
        return NEG_INF if odd and base < 0 else INF
    if base > 0:
        return UNBOUNDED if not result.is_nan() else _undecided(question)
    if exponent.is_exact() and not exponent.is_integer() and base < 0:
        return NAN
    if exponent.is_integer():
        return _divide(ONE, _power(base, -exponent)) if exponent < 0 else UNBOUNDED
    _undecided(question)


# ------------------------------------------------------------------------------------------------------------
# Functions of one variable: value, derivative, domain, limits
# ------------------------------------------------------------------------------------------------------------

Outside = Callable[[arb], bool]
Limits = tuple[tuple[arb, arb], ...]


def _at_edge(name: str, x: arb, y: arb, outside: Outside | None, limits: Limits) -> arb:
    """The value of a function where Arb's answer `y` is not finite."""
    if x.is_nan():
        return NAN
    for point, limit in limits:
        if x == point:
            return limit
    if _infinite(x) or (outside is not None and outside(x)):
        return NAN
    if y.is_nan():
        _undecided(f"{name}({decimal(x)})")
    return y


def _function(
    name: str,
    compute: Callable[[arb], arb],
    derivative: Callable[[arb, arb], arb],
    *,
    outside: Outside | None = None,
    limits: Limits = (),
) -> Callable[["Ball"], "Ball"]:
    """A method of Ball that NumPy's object loop will call.

    `derivative(x, y)` is called in the reverse sweep only, `outside(x)` says that x is certainly not in the
    domain, `limits` has pairs of a point and the value there, where either is infinite.
    """

    def rule(adjoint: arb, y: arb, parent: "Ball") -> tuple[arb]:
        return (NAN if y.is_nan() else _multiply(adjoint, derivative(parent.value, y)),)

    def method(self: "Ball") -> "Ball":
        y = compute(self.value)
        if not y.is_finite():
            y = _at_edge(name, self.value, y, outside, limits)
        ball = _new(Ball)
        ball.value = y
        ball.record = None if self.record is None else (_tick(), rule, self)
        return ball

    method.__name__ = name
    method.__qualname__ = f"Ball.{name}"
    method.__doc__ = f"{name} of the number, enclosed; what ``np.{name}`` asks each element for."
    return method


def _only_finite(compute: Callable[[arb], arb]) -> Callable[[arb], arb]:
    """For functions that Arb would answer with a finite ball where there is no answer.

    sin(inf) is its range [-1, 1] to Arb, and arcsin(NaN) is -π/2.
    """
    return lambda x: compute(x) if x.is_finite() else NAN


def _square_root(x: arb) -> arb:
    y = x.sqrt()
    return y if y.is_finite() else _at_edge("sqrt", x, y, lambda x: x < 0, ((INF, INF),))


def _logarithm(x: arb) -> arb:
    y = x.log()
    return y if y.is_finite() else _at_edge("log", x, y, lambda x: x < 0, ((ZERO, NEG_INF), (INF, INF)))


def _cube_root(x: arb) -> arb:
    return -(-x).root(3) if x < 0 else x.root(3)


def _log_gamma(x: arb) -> arb:
    """log |Γ(x)|, on the negative axis too (as SciPy's gammaln)."""
    if x > 0:
        return x.lgamma()
    return INF if x.is_integer() else -abs(x.rgamma()).log()


def _digamma(x: arb) -> arb:
    y = x.digamma()
    if y.is_finite():
        return y
    return _at_edge("digamma", x, y, lambda x: x.is_integer() and x < 0, ((ZERO, NEG_INF), (INF, INF)))


def _gaussian(x: arb) -> arb:
    """2/√π · exp(-x²), the derivative of erf."""
    return 2 * (-_square(x)).exp() / arb.const_sqrt_pi()


def _trigamma(x: arb) -> arb:
    if x.is_finite():
        return INF if x.is_zero() else acb(x).polygamma(acb(1)).real
    return ZERO


_sin, _cos, _tan = _only_finite(arb.sin), _only_finite(arb.cos), _only_finite(arb.tan)


# ------------------------------------------------------------------------------------------------------------
# How an adjoint travels back through each operation: rule(adjoint, result, *parents) -> one term per parent.
# None stands for a parent that is a constant.
# ------------------------------------------------------------------------------------------------------------


def _through_negation(adjoint, _, a):
    return (-adjoint,)


def _through_absolute(adjoint, _, a):
    return (NAN if a.value.is_nan() else _multiply(adjoint, a.value.sgn()),)


def _through_sum(adjoint, _, a, b):
    return adjoint, adjoint


def _through_difference(adjoint, _, a, b):
    return adjoint, -adjoint


def _through_product(adjoint, _, a, b):
    return (
        None if a.record is None else _multiply(adjoint, b.value),
        None if b.record is None else _multiply(adjoint, a.value),
    )


def _through_square(adjoint, _, a):
    return (_multiply(adjoint, 2 * a.value),)


def _through_quotient(adjoint, y, a, b):
    share = _divide(adjoint, b.value)
    return share, None if b.record is None else -_multiply(share, y)


def _through_power(adjoint, y, a, b):
    base, exponent = a.value, b.value
    to_base = to_exponent = None
    if a.record is not None:
        # At exponent 0 the power is 1 near every base, so the slope is 0 even where base ** -1 is infinite.
        slope = ZERO if exponent.is_zero() else _multiply(exponent, _power(base, exponent - 1))
        to_base = _multiply(adjoint, slope)
    if b.record is not None:
        to_exponent = _multiply(adjoint, ZERO if y.is_zero() else _multiply(y, _logarithm(base)))
    return to_base, to_exponent


def _through_hypot(adjoint, y, a, b):
    if y.is_zero():
        return ZERO, ZERO
    return _multiply(adjoint, _divide(a.value, y)), _multiply(adjoint, _divide(b.value, y))


def _through_arctan2(adjoint, _, y, x):
    squared = _add(_square(x.value), _square(y.value))
    return _multiply(adjoint, _divide(x.value, squared)), -_multiply(adjoint, _divide(y.value, squared))


# ------------------------------------------------------------------------------------------------------------
# The ball
# ------------------------------------------------------------------------------------------------------------


class Ball:
    """An enclosure of a real number that knows which operation made it.

    ``value`` is the ``arb``. ``record`` is None for a constant, ``(number, None)`` for a variable, and
    ``(number, rule, parent[, parent])`` for what was computed from a variable. Nothing computed from
    constants alone is recorded, so a run for values only keeps no tape.

    It takes part in arithmetic and comparisons with Python and NumPy real scalars, all converted exactly.
    """

    __slots__ = ("record", "value")

    # Above NumPy's scalars, which then hand `np.float64(2) * ball` over to __rmul__; below arrays, which must
    # treat a ball as an element.
    __array_priority__ = -1.0

    value: arb
    record: tuple | None

    def __init__(self, number: Any, *, variable: bool = False):
        value = exact_arb(number)
        if value is None:
            raise TypeError(f"a ball is made from a real number, not from {type(number).__name__}")
        self.value = value
        self.record = (_tick(), None) if variable else None

    # Arithmetic. The fast path is spelled out in each method: this is where a check spends its time.

    def __add__(self, other):
        if other.__class__ is not Ball:
            other = _constant(other)
            if other is None:
                return NotImplemented
        value = self.value + other.value
        if not value.is_finite():
            value = _sum_at_infinity(self.value, other.value)
        ball = _new(Ball)
        ball.value = value
        constant = self.record is None is other.record
        ball.record = None if constant else (_tick(), _through_sum, self, other)
        return ball

    __radd__ = __add__

    def __sub__(self, other):
        if other.__class__ is not Ball:
            other = _constant(other)
            if other is None:
                return NotImplemented
        value = self.value - other.value
        if not value.is_finite():
            value = _sum_at_infinity(self.value, -other.value)
        ball = _new(Ball)
        ball.value = value
        constant = self.record is None is other.record
        ball.record = None if constant else (_tick(), _through_difference, self, other)
        return ball

    def __rsub__(self, other):
        other = _constant(other)
        return NotImplemented if other is None else other - self

    def __mul__(self, other):
        if other.__class__ is not Ball:
            other = _constant(other)
            if other is None:
                return NotImplemented
        value = self.value * other.value
        if not value.is_finite():
            value = _product_at_infinity(self.value, other.value)
        ball = _new(Ball)
        ball.value = value
        if self.record is None:
            if other.record is None or (value.is_zero() and self.value.is_zero()):
                ball.record = None  # a constant 0 times anything finite is a constant
            else:
                ball.record = (_tick(), _through_product, self, other)
        elif other.record is None:
            if value.is_zero() and other.value.is_zero():
                ball.record = None
            else:
                ball.record = (_tick(), _through_product, self, other)
        elif self is other:
            ball.record = (_tick(), _through_square, self)
        else:
            ball.record = (_tick(), _through_product, self, other)
        return ball

    __rmul__ = __mul__

    def __truediv__(self, other):
        if other.__class__ is not Ball:
            other = _constant(other)
            if other is None:
                return NotImplemented
        value = self.value / other.value
        if not value.is_finite():
            value = _quotient_at_edge(self.value, other.value)
        ball = _new(Ball)
        ball.value = value
        constant = self.record is None is other.record
        ball.record = None if constant else (_tick(), _through_quotient, self, other)
        return ball

    def __rtruediv__(self, other):
        other = _constant(other)
        return NotImplemented if other is None else other / self

    def __pow__(self, exponent, modulus=None):
        if exponent.__class__ is not Ball:
            exponent = _constant(exponent)
            if exponent is None:
                return NotImplemented
        ball = _new(Ball)
        ball.value = _power(self.value, exponent.value)
        constant = self.record is None is exponent.record
        ball.record = None if constant else (_tick(), _through_power, self, exponent)
        return ball

    def __rpow__(self, base, modulus=None):
        base = _constant(base)
        return NotImplemented if base is None else base**self

    def __neg__(self):
        ball = _new(Ball)
        ball.value = -self.value
        ball.record = None if self.record is None else (_tick(), _through_negation, self)
        return ball

    def __pos__(self):
        return self

    def __abs__(self):
        ball = _new(Ball)
        ball.value = abs(self.value)
        ball.record = None if self.record is None else (_tick(), _through_absolute, self)
        return ball

    # Methods that NumPy's object loops call by name.

    fabs = __abs__
    conjugate = __pos__

    def square(self):
        """x · x."""
        return self * self

    def reciprocal(self):
        """1 / x."""
        return 1 / self

    exp = _function("exp", arb.exp, lambda x, y: y, limits=((INF, INF),))
    exp2 = _function(
        "exp2",
        lambda x: TWO**x,
        lambda x, y: _multiply(y, arb.const_log2()),
        limits=((INF, INF), (NEG_INF, ZERO)),
    )
    expm1 = _function("expm1", arb.expm1, lambda x, y: x.exp(), limits=((INF, INF),))
    log = _function(
        "log",
        arb.log,
        lambda x, y: _divide(ONE, x),
        outside=lambda x: x < 0,
        limits=((ZERO, NEG_INF), (INF, INF)),
    )
    log2 = _function(
        "log2",
        lambda x: x.log_base(2),
        lambda x, y: _divide(ONE, _multiply(x, arb.const_log2())),
        outside=lambda x: x < 0,
        limits=((ZERO, NEG_INF), (INF, INF)),
    )
    log10 = _function(
        "log10",
        lambda x: x.log_base(10),
        lambda x, y: _divide(ONE, _multiply(x, arb.const_log10())),
        outside=lambda x: x < 0,
        limits=((ZERO, NEG_INF), (INF, INF)),
    )
    log1p = _function(
        "log1p",
        arb.log1p,
        lambda x, y: _divide(ONE, _add(ONE, x)),
        outside=lambda x: x < -1,
        limits=((-ONE, NEG_INF), (INF, INF)),
    )
    sqrt = _function(
        "sqrt", arb.sqrt, lambda x, y: _divide(HALF, y), outside=lambda x: x < 0, limits=((INF, INF),)
    )
    cbrt = _function(
        "cbrt",
        _cube_root,
        lambda x, y: _divide(ONE, 3 * _square(y)),
        limits=((ZERO, ZERO), (INF, INF), (NEG_INF, NEG_INF)),
    )
    sin = _function("sin", _sin, lambda x, y: _cos(x))
    cos = _function("cos", _cos, lambda x, y: -_sin(x))
    tan = _function("tan", _tan, lambda x, y: _square(x.sec()))
    arcsin = _function(
        "arcsin",
        _only_finite(arb.asin),
        lambda x, y: _divide(ONE, _square_root((1 - x) * (1 + x))),
        outside=lambda x: x > 1 or x < -1,
    )
    arccos = _function(
        "arccos",
        _only_finite(arb.acos),
        lambda x, y: -_divide(ONE, _square_root((1 - x) * (1 + x))),
        outside=lambda x: x > 1 or x < -1,
    )
    arctan = _function("arctan", arb.atan, lambda x, y: _divide(ONE, _add(ONE, _square(x))))
    sinh = _function("sinh", arb.sinh, lambda x, y: x.cosh(), limits=((INF, INF), (NEG_INF, NEG_INF)))
    cosh = _function("cosh", arb.cosh, lambda x, y: x.sinh(), limits=((INF, INF), (NEG_INF, INF)))
    tanh = _function("tanh", arb.tanh, lambda x, y: _square(x.sech()))
    arcsinh = _function(
        "arcsinh",
        arb.asinh,
        lambda x, y: _divide(ONE, _square_root(_add(ONE, _square(x)))),
        limits=((INF, INF), (NEG_INF, NEG_INF)),
    )
    arccosh = _function(
        "arccosh",
        arb.acosh,
        lambda x, y: _divide(ONE, _square_root(_multiply(_add(x, -ONE), _add(x, ONE)))),
        outside=lambda x: x < 1,
        limits=((INF, INF),),
    )
    arctanh = _function(
        "arctanh",
        arb.atanh,
        lambda x, y: _divide(ONE, (1 - x) * (1 + x)),
        outside=lambda x: x > 1 or x < -1,
        limits=((ONE, INF), (-ONE, NEG_INF)),
    )
    erf = _function("erf", arb.erf, lambda x, y: _gaussian(x), limits=((INF, ONE), (NEG_INF, -ONE)))
    erfc = _function("erfc", arb.erfc, lambda x, y: -_gaussian(x), limits=((INF, ZERO), (NEG_INF, TWO)))
    lgamma = _function("lgamma", _log_gamma, lambda x, y: _digamma(x), limits=((INF, INF), (NEG_INF, INF)))
    digamma = _function(
        "digamma",
        arb.digamma,
        lambda x, y: _trigamma(x),
        outside=lambda x: x.is_integer() and x < 0,
        limits=((ZERO, NEG_INF), (INF, INF)),
    )

    def hypot(self, other):
        """√(x² + y²); at the origin its derivatives are 0, the convention of |x|."""
        other = other if other.__class__ is Ball else Ball(other)
        a, b = self.value, other.value
        ball = _new(Ball)
        ball.value = INF if _infinite(a) or _infinite(b) else _square_root(_add(_square(a), _square(b)))
        constant = self.record is None is other.record
        ball.record = None if constant else (_tick(), _through_hypot, self, other)
        return ball

    def arctan2(self, other):
        """The angle of the point (other, self)."""
        other = other if other.__class__ is Ball else Ball(other)
        a, b = self.value, other.value
        ball = _new(Ball)
        if a.is_nan() or b.is_nan():
            ball.value = NAN
        else:
            ball.value = arb.atan2(a, b)
            if not ball.value.is_finite():
                _undecided(f"arctan2({decimal(a)}, {decimal(b)})")
        constant = self.record is None is other.record
        ball.record = None if constant else (_tick(), _through_arctan2, self, other)
        return ball

    # Rounding to integers: piecewise constant, so the result is a constant; on a step it is undecided.

    def __floor__(self):
        return _integer_part(self.value.floor(), "floor", self.value)

    def __ceil__(self):
        return _integer_part(self.value.ceil(), "ceil", self.value)

    def __trunc__(self):
        return self.__floor__() if self >= 0 else self.__ceil__()

    floor, ceil, trunc = __floor__, __ceil__, __trunc__

    def rint(self):
        """The nearest integer, a tie to the even one."""
        if self.value.is_integer():
            return _ball(self.value)
        shifted = _add(self.value, HALF)
        nearest = _integer_part(shifted.floor(), "rint", self.value)
        if shifted == nearest.value and shifted.is_finite() and not (shifted * HALF).is_integer():
            return nearest - 1
        return nearest

    # Comparisons: decided by the enclosures or refused.

    def __lt__(self, other):
        b = other.value if other.__class__ is Ball else exact_arb(other)
        if b is None:
            return NotImplemented
        a = self.value
        if a < b:
            return True
        if a >= b:
            return False
        return _same_number(a, b, "<") and False

    def __le__(self, other):
        b = other.value if other.__class__ is Ball else exact_arb(other)
        if b is None:
            return NotImplemented
        a = self.value
        if a <= b:
            return True
        if a > b:
            return False
        return _same_number(a, b, "<=")

    def __gt__(self, other):
        b = other.value if other.__class__ is Ball else exact_arb(other)
        if b is None:
            return NotImplemented
        a = self.value
        if a > b:
            return True
        if a <= b:
            return False
        return _same_number(a, b, ">") and False

    def __ge__(self, other):
        b = other.value if other.__class__ is Ball else exact_arb(other)
        if b is None:
            return NotImplemented
        a = self.value
        if a >= b:
            return True
        if a < b:
            return False
        return _same_number(a, b, ">=")

    def __eq__(self, other):
        b = other.value if other.__class__ is Ball else exact_arb(other)
        if b is None:
            return NotImplemented
        a = self.value
        if a == b:
            return True
        if a != b:
            return False
        return _same_number(a, b, "==")

    def __ne__(self, other):
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __bool__(self):
        return self != 0

    def __hash__(self):
        """Agrees with ==: balls can only equal each other when exact, and then hash like the number."""
        value = self.value
        if value.is_exact() and value.is_finite():
            mantissa, exponent = map(int, value.man_exp())
            return hash(mantissa * Fraction(2) ** exponent if abs(exponent) < 10**5 else (mantissa, exponent))
        return hash((float(value), float(value.rad())))

    # Out of the tape, out of the ball

    def detached(self) -> "Ball":
        """The same enclosure as a constant: the reverse sweep stops here."""
        return _ball(self.value)

    def midpoint(self) -> "Ball":
        """The exact number in the middle, as a constant."""
        return _ball(self.value.mid())

    def widened(self, radius: "Ball") -> "Ball":
        """The midpoint ± \\|radius\\|, as a constant: for a quantity that is known to be that near."""
        return _ball(arb(self.value.mid(), abs(radius.value).abs_upper()))

    def is_nan(self) -> bool:
        """Whether the number is undefined; never in doubt (see the module's promise)."""
        return self.value.is_nan()

    def is_infinite(self) -> bool:
        """Whether the number is +inf or -inf."""
        if self.value.is_finite() or self.value.is_nan() or _infinite(self.value):
            return _infinite(self.value)
        _undecided("finiteness of an unbounded ball")

    def is_finite(self) -> bool:
        """Whether the number is neither infinite nor NaN."""
        return self.value.is_finite() or not (self.value.is_nan() or self.is_infinite())

    def __float__(self):
        """The midpoint, rounded to nearest: for choices that cannot affect the mathematics (a pivot)."""
        return float(self.value)

    def __repr__(self):
        return f"Ball({decimal(self.value, 12)})"


def _ball(value: arb) -> Ball:
    ball = _new(Ball)
    ball.value = value
    ball.record = None
    return ball


def _constant(number: Any) -> Ball | None:
    convert = _CONVERSIONS.get(number.__class__)
    value = exact_arb(number) if convert is None else convert(number)
    if value is None:
        return None
    ball = _new(Ball)
    ball.value = value
    ball.record = None
    return ball


def _same_number(a: arb, b: arb, sign: str) -> bool:
    """True for one and the same enclosed number, which equals itself however wide its ball; else raises."""
    if a is b and not a.is_nan():
        return True
    _undecided(f"({decimal(a)}) {sign} ({decimal(b)})")


def _integer_part(rounded: arb, name: str, x: arb) -> Ball:
    if rounded.is_integer():
        return _ball(rounded)
    if x.is_nan() or _infinite(x):
        return _ball(x)
    _undecided(f"{name}({decimal(x)})")


# ------------------------------------------------------------------------------------------------------------
# Arrays of balls
# ------------------------------------------------------------------------------------------------------------


def _object_array(elements: Iterator, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.intp))
    return np.fromiter(elements, dtype=object, count=size).reshape(shape)


def lift(array: Any) -> np.ndarray:
    """The numbers of an array, of any real dtype, as an object array of exact constant balls.

    Balls stay the balls they are; the numbers between them (what ``np.where(mask, balls, 0)`` leaves behind)
    are lifted.
    """
    array = np.asarray(array)
    if array.dtype == object and all(element.__class__ is Ball for element in array.flat):
        return array
    return _object_array((e if e.__class__ is Ball else Ball(e) for e in array.ravel().tolist()), array.shape)


def longdoubles(balls: Any) -> np.ndarray:
    """The midpoints of balls (or arbs) in the widest floats that NumPy has."""
    balls = np.asarray(balls, dtype=object)
    leading = balls.astype(np.float64)
    return leading.astype(np.longdouble) + (balls - leading).astype(np.float64)


def variables(array: Any) -> np.ndarray:
    """Like :func:`lift`, with every element a new variable: what is computed from it is recorded."""
    array = np.asarray(array)
    return _object_array((Ball(e, variable=True) for e in array.ravel().tolist()), array.shape)


def backward(outputs: Any, cotangents: Any, variables: Any) -> Any:
    """Enclosures of the derivatives of Σ cotangent · output with respect to each variable.

    `outputs` is a ball or an object array of balls, `cotangents` broadcasts to its shape, `variables` is an
    array made by :func:`variables` (or by computing from one), or a tuple of such arrays, and the result has
    the same form: constant balls, exactly 0 where a variable does not matter.

    The sweep visits the recorded balls from the newest to the oldest, so each is complete in its turn.
    """
    outputs = np.asarray(outputs, dtype=object)
    cotangents = np.broadcast_to(np.asarray(cotangents), outputs.shape)
    adjoints: dict[int, arb] = {}
    waiting: dict[int, Ball] = {}
    newest_first: list[int] = []

    def receive(ball: Ball, term: arb) -> None:
        number, rule, *_ = ball.record  # type: ignore[misc]
        known = adjoints.get(number)
        if known is None:
            adjoints[number] = term
            if rule is not None:  # a variable only collects
                waiting[number] = ball
                heappush(newest_first, -number)
        else:
            total = known + term
            adjoints[number] = total if total.is_finite() else _sum_at_infinity(known, term)

    with collector_paused():
        for output, cotangent in zip(outputs.flat, lift(cotangents).flat, strict=True):
            if output.__class__ is Ball and output.record is not None:
                receive(output, cotangent.value)
        while newest_first:
            number = -heappop(newest_first)
            ball = waiting.pop(number)
            adjoint = adjoints[number]
            if adjoint.is_zero():
                continue
            _, rule, *parents = ball.record  # type: ignore[misc]
            for parent, term in zip(parents, rule(adjoint, ball.value, *parents), strict=True):
                if parent.record is not None:
                    receive(parent, term)

    def collect(array: Any) -> np.ndarray:
        array = np.asarray(array, dtype=object)
        if any(element.__class__ is not Ball or element.record is None for element in array.flat):
            raise ValueError("derivatives are taken with respect to variables; this array holds constants")
        return _object_array((_ball(adjoints.get(e.record[0], ZERO)) for e in array.flat), array.shape)

    return tuple(map(collect, variables)) if isinstance(variables, tuple) else collect(variables)


def _ask(array: Any, question: Callable[[Ball], bool]) -> Any:
    balls = lift(array)
    answers = np.fromiter(map(question, balls.flat), dtype=bool, count=balls.size)
    return answers.reshape(balls.shape)[()]


def isnan(array: Any) -> Any:
    """``np.isnan`` for object arrays of balls, which NumPy itself refuses."""
    return _ask(array, Ball.is_nan)


def isinf(array: Any) -> Any:
    """``np.isinf`` for object arrays of balls, which NumPy itself refuses."""
    return _ask(array, Ball.is_infinite)


def isfinite(array: Any) -> Any:
    """``np.isfinite`` for object arrays of balls, which NumPy itself refuses."""
    return _ask(array, Ball.is_finite)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's cyclic garbage collector in this block.

    Balls never form cycles, but a tape of a million of them makes every collection visit them all, and the
    forward pass up to eight times slower. They are freed by reference counting all the same.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Compute with `bits` bits in this block; the precision is python-flint's, one for the whole process."""
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before
