"""Running a loss on balls, at rising precision, until its enclosures are sharp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from flint import arb

from lossref.core.declarations import RealNumber
from lossref.core.loss import Call, Loss

from .ball import UndecidedError, backward, collector_paused, lift, precision, variables
from .enclosure import Enclosure

# Most answers are sharp at once; an exact zero that cancellation hides needs to be told from the smallest subnormal.
BITS = (128, 320, 1300, 2600, 5200)
RELATIVE = 2.0**-80  # how narrow an enclosure must be, relative to its midpoint …
ABSOLUTE = arb(2) ** -2000  # … or absolutely: far below every float64


def value(loss: Loss, *args, **kwargs) -> Enclosure:
    """An enclosure of the true value of a loss at these arguments.

    Parameters
    ----------
    loss : Loss
        The loss; arguments follow as in a call of it. They count exactly as given, in the dtype that the loss
        would compute in.

    Returns
    -------
    Enclosure
        Midpoint ± proven radius.

    Raises
    ------
    UndecidedError
        Where a comparison (a tie, a kink) is not decided at any precision.
    """
    call = loss._bind(args, kwargs, scan=True)
    return Enclosure(at_rising_precision(lambda: Evaluation(loss, call).reduced()))


def grad(loss: Loss, *args, cotangent=1.0, **kwargs):
    """Enclosures of the true gradient: one, or a named tuple, as ``loss.grad`` returns arrays."""
    call = loss._bind(args, kwargs, scan=True)
    shape = loss._terms_shape(call)
    call.cotangent = loss._check_cotangent(cotangent, shape, call)
    gradients = at_rising_precision(lambda: Evaluation(loss, call, call.given).gradients())
    return loss._pack(call, tuple(Enclosure(g) for g in gradients))


def at_rising_precision(compute: Callable):
    """compute() at the first precision where every comparison is decided and every ball is narrow."""
    return with_precision(compute)[0]


def with_precision(compute: Callable):
    """The same, and the precision in bits."""
    problem = None
    for bits in BITS:
        try:
            with precision(bits), collector_paused(), np.errstate(all="ignore"):
                result = compute()
        except UndecidedError as undecided:
            problem = undecided
            continue
        arrays = result if isinstance(result, tuple) else (result,)
        if all(_is_sharp(ball.value) for array in arrays for ball in np.asarray(array, object).flat):
            return result, bits
        problem = UndecidedError(f"an enclosure is still wide at {bits} bits")
    raise problem  # type: ignore[misc]


def _is_sharp(ball) -> bool:
    if not ball.is_finite():
        return True
    radius = ball.rad()
    return bool(radius <= abs(ball.mid()) * RELATIVE) or bool(radius <= ABSOLUTE)


def is_real(loss: Loss, name: str) -> bool:
    return isinstance(loss.arguments[name].declaration, RealNumber)


class Evaluation:
    """One run of a loss on balls: its real arguments made balls, variables where derivatives are wanted."""

    def __init__(self, loss: Loss, call: Call, variable_names: tuple[str, ...] = (), replaced: dict | None = None):
        self.loss, self.call = loss, call
        self.variable_names = variable_names
        self.arguments = dict(call.arguments)
        for name, given in {**call.arguments, **(replaced or {})}.items():
            if given is None or not is_real(loss, name):
                continue
            made = variables(given) if name in variable_names else lift(given)
            self.arguments[name] = made if np.ndim(given) else made[()]
        terms = loss.definition(**self.arguments)
        self.terms = lift(np.asarray(terms, dtype=object))

    def reduced(self):
        """The reduced value."""
        if not self.loss.reducible or self.call.reduction == "none":
            return self.terms
        weights = self.loss._weights(self.call, self.arguments, self.terms.shape)
        if self.call.reduction == "mean" and self.terms.size and _counts_nothing(weights):
            return lift(np.asarray(np.nan))
        if not self.terms.size:
            return lift(np.asarray(np.nan if self.call.reduction == "mean" else 0.0))
        return np.asarray((self.terms * weights).sum(), dtype=object)

    def gradients(self, cotangent=None) -> tuple:
        """Derivatives by every variable."""
        if cotangent is None:
            cotangent = self.loss._weights(self.call, self.call.arguments, self.terms.shape)
        counts = np.asarray(cotangent != 0)  # a term of weight 0 has gradient 0, whatever its own derivative
        outputs = np.where(np.broadcast_to(counts, self.terms.shape), self.terms, lift(np.zeros(self.terms.shape)))
        arrays = tuple(np.asarray(self.arguments[name], dtype=object) for name in self.variable_names)
        return backward(outputs, cotangent, arrays)


def _counts_nothing(weights) -> bool:
    return bool(np.all(np.asarray(weights) == 0))
