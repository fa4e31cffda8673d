"""What the exact layer returns: a true value, known up to a proven radius.

>>> from flint import arb
>>> with precision(200):
...     third = Enclosure(arb(1) / 3)
>>> print(third.contains(1 / 3))              # the float64 next to 1/3 is not 1/3,
False
>>> print(f"{third.error(1 / 3):.3g}")        # but this far away
1.85e-17
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from flint import arb

from .ball import _infinite, decimal, exact_arb, precision

__all__ = ["Enclosure"]

# Differences are formed with this many bits: rounding then widens an error bound by a factor of 1 + 2**-190.
DIFFERENCE_BITS = 192


class Enclosure:
    """An array of enclosures of real numbers, compared with floats exactly.

    Made from balls (:class:`lossref.exact.ball.Ball` or python-flint's ``arb``), one or an object array of
    them; plain numbers count as exact. NaN says that the mathematics is undefined there, for certain.
    """

    __slots__ = ("balls",)

    balls: np.ndarray  # object array of arb

    def __init__(self, balls: Any):
        given = np.asarray(balls, dtype=object)
        self.balls = np.empty(given.shape, dtype=object)
        for index, number in enumerate(given.flat):
            value = exact_arb(number)
            if value is None:
                raise TypeError(f"an enclosure is made of balls, not of {type(number).__name__}")
            self.balls.flat[index] = value

    @property
    def shape(self) -> tuple[int, ...]:
        return self.balls.shape

    @property
    def ndim(self) -> int:
        return self.balls.ndim

    @property
    def size(self) -> int:
        return self.balls.size

    @property
    def midpoint(self) -> np.ndarray:
        """The exact midpoints, each rounded to the nearest float64."""
        return self._floats(float)

    @property
    def radius(self) -> np.ndarray:
        """An upper bound of the distance from the exact midpoint to the truth.

        Rounding the midpoint to float64 adds up to half an ulp: :meth:`error` is the distance from a float.
        0 for an exact number, for an infinity, and for NaN, which is certain.
        """
        return self._floats(_radius)

    @property
    def relative_radius(self) -> np.ndarray:
        """An upper bound of radius / |truth|: inf where the ball holds 0 and more."""
        return self._floats(_relative_radius)

    def contains(self, numbers: Any) -> Any:
        """Elementwise: may the truth be exactly this number? No rounding is involved, whatever the dtype."""
        given = self._same_shape(numbers)
        answers = [_contains(ball, number) for ball, number in zip(self.balls.flat, given, strict=True)]
        return np.array(answers, dtype=bool).reshape(self.shape)[()]

    def error(self, computed: Any) -> Any:
        """Elementwise: an upper bound of \\|computed - truth\\|, in exact arithmetic, for any real dtype.

        At the edges: 0 where both are the same infinity or both are NaN; inf where only one of them is, or
        where they are opposite infinities.
        """
        given = self._same_shape(computed)
        with precision(DIFFERENCE_BITS):
            errors = [_error(ball, number) for ball, number in zip(self.balls.flat, given, strict=True)]
        return np.array(errors, dtype=np.float64).reshape(self.shape)[()]

    def _same_shape(self, numbers: Any) -> list[arb]:
        """The numbers as exact arbs; no broadcasting, which would hide a wrong shape."""
        given = np.asarray(numbers)
        if given.shape != self.shape:
            raise ValueError(f"the enclosure has shape {self.shape}, the numbers have shape {given.shape}")
        values = [exact_arb(number) for number in given.ravel().tolist()]
        if any(value is None for value in values):
            raise TypeError(f"an enclosure is compared with real numbers, not with dtype {given.dtype}")
        return values  # type: ignore[return-value]

    def _floats(self, ask: Callable[[arb], float]) -> np.ndarray:
        answers = np.fromiter(map(ask, self.balls.flat), dtype=np.float64, count=self.size)
        return answers.reshape(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the midpoints of an enclosure are computed: an array of them is always a copy")
        return self.midpoint if dtype is None else self.midpoint.astype(dtype)

    def __float__(self) -> float:
        if self.size != 1:
            raise TypeError(f"an enclosure of shape {self.shape} is not one number")
        return float(self.balls.flat[0])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an enclosure of one number has no length")
        return len(self.balls)

    def __getitem__(self, index: Any) -> "Enclosure":
        return Enclosure(self.balls[index])

    def __iter__(self) -> Iterator["Enclosure"]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        if not self.shape:
            return decimal(self.balls.item())
        widest = f", radius ≤ {np.max(self.radius):.2g}" if self.size else ""
        return f"Enclosure(shape={self.shape}{widest}, midpoint=\n{self.midpoint!r})"


def _rounded_up(value: arb) -> float:
    """The least float64 that is not below an exact, non-negative number."""
    result = float(value)
    return float(np.nextafter(result, np.inf)) if arb(result) < value else result


def _radius(ball: arb) -> float:
    if ball.is_nan() or _infinite(ball):
        return 0.0
    return _rounded_up(ball.rad())


def _relative_radius(ball: arb) -> float:
    radius = _radius(ball)
    if radius == 0.0:
        return 0.0
    if ball.contains(0) or not ball.is_finite():
        return float("inf")
    return _rounded_up((ball.rad() / ball.abs_lower()).abs_upper())


def _contains(ball: arb, number: arb) -> bool:
    if ball.is_nan() or number.is_nan():
        return ball.is_nan() and number.is_nan()
    return ball.contains(number)


def _error(ball: arb, number: arb) -> float:
    if ball.is_nan() or number.is_nan():
        return 0.0 if ball.is_nan() and number.is_nan() else float("inf")
    if _infinite(ball) or _infinite(number):
        return 0.0 if ball == number else float("inf")
    return _rounded_up(abs(number - ball).abs_upper())
