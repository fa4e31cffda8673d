"""Reverse mode in one dtype: what automatic differentiation of plain code gives, every operation rounded to it.

The obvious code of a loss has no gradient of its own. NumPy runs it on object arrays of these numbers, which record
how they were made; a sweep backwards gives the derivatives, also in that dtype, as an automatic differentiation would
that knows nothing of the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np

_numbers = count()


class Rounded:
    """A number of one dtype, with the numbers that it was computed from and its derivative by each of them."""

    __slots__ = ("made_from", "number", "value")
    __array_priority__ = -1.0  # as an element of object arrays, never above an array

    def __init__(self, value, made_from: tuple = ()):
        self.value, self.made_from, self.number = value, made_from, next(_numbers)

    def _beside(self, other) -> Rounded | None:
        """The other operand: a plain number counts in this one's dtype."""
        if isinstance(other, Rounded):
            return other
        return Rounded(type(self.value)(other)) if np.isscalar(other) or isinstance(other, np.generic) else None

    def __add__(self, other):
        other = self._beside(other)
        if other is None:
            return NotImplemented
        one = type(self.value)(1)
        return Rounded(self.value + other.value, ((self, one), (other, one)))

    def __neg__(self):
        return Rounded(-self.value, ((self, type(self.value)(-1)),))

    def __sub__(self, other):
        other = self._beside(other)
        return NotImplemented if other is None else self + -other

    def __rsub__(self, other):
        return -self + other

    def __mul__(self, other):
        other = self._beside(other)
        if other is None:
            return NotImplemented
        return Rounded(self.value * other.value, ((self, other.value), (other, self.value)))

    def __truediv__(self, other):
        other = self._beside(other)
        if other is None:
            return NotImplemented
        result = self.value / other.value
        return Rounded(result, ((self, type(result)(1) / other.value), (other, -result / other.value)))

    def __rtruediv__(self, other):
        return self._beside(other) / self

    def __pow__(self, exponent):
        if isinstance(exponent, Rounded):
            return (self.log() * exponent).exp()
        one = type(self.value)
        power = one(exponent)
        return Rounded(self.value**power, ((self, power * self.value ** one(exponent - 1)),))

    __radd__, __rmul__ = __add__, __mul__

    def __abs__(self):
        return Rounded(abs(self.value), ((self, np.sign(self.value)),))

    def conjugate(self):  # NumPy's variance asks for it
        return self

    def __float__(self):
        return float(self.value)

    def __lt__(self, other):
        return bool(self.value < self._beside(other).value)

    def __le__(self, other):
        return bool(self.value <= self._beside(other).value)

    def __gt__(self, other):
        return bool(self.value > self._beside(other).value)

    def __ge__(self, other):
        return bool(self.value >= self._beside(other).value)


# The functions that NumPy asks an element for, with the derivative from x and y = f(x).
FUNCTIONS: dict[str, Callable] = {
    "exp": lambda x, y: y,
    "log": lambda x, y: 1 / x,
    "log1p": lambda x, y: 1 / (1 + x),
    "expm1": lambda x, y: y + 1,
    "sqrt": lambda x, y: 1 / (y + y),
    "square": lambda x, y: x + x,
    "tanh": lambda x, y: 1 - y * y,
    "sin": lambda x, y: np.cos(x),
    "cos": lambda x, y: -np.sin(x),
}


def _method(name: str, derivative: Callable) -> Callable[[Rounded], Rounded]:
    def method(self):
        result = getattr(np, name)(self.value)
        return Rounded(result, ((self, type(result)(derivative(self.value, result))),))

    return method


for _name, _derivative in FUNCTIONS.items():
    setattr(Rounded, _name, _method(_name, _derivative))


def variables(array: np.ndarray) -> np.ndarray:
    """The numbers of an array as variables in its dtype."""
    result = np.empty(np.shape(array), object)
    for index, x in np.ndenumerate(array):
        result[index] = Rounded(x)
    return result


def gradients(terms, weights: np.ndarray, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The derivatives of Σ weight · term by each array of variables, rounded like everything else."""
    adjoints: dict[int, object] = {}
    reached: dict[int, Rounded] = {}

    def receive(number: Rounded, adjoint) -> None:
        known = adjoints.get(number.number)
        adjoints[number.number] = adjoint if known is None else known + adjoint
        reached[number.number] = number

    dtype = arrays[0].flat[0].value.dtype.type
    for term, weight in zip(
        np.asarray(terms, object).flat, np.broadcast_to(weights, np.shape(terms)).flat, strict=True
    ):
        if isinstance(term, Rounded):
            receive(term, dtype(weight))
    while reached:
        newest = reached.pop(max(reached))
        for parent, derivative in newest.made_from:
            receive(parent, adjoints[newest.number] * derivative)
    return tuple(
        np.array([adjoints.get(x.number, dtype(0)) for x in array.flat], dtype).reshape(array.shape) for array in arrays
    )
