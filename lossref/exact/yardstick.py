"""The yardstick: how far a computed number may be from the true one before it is the code's fault.

    allowed = k · eps · (|exact| + Σ_j |∂exact/∂x_j · x_j|)

The sum is how much the answer moves when every input moves by one rounding; no code that sees rounded inputs can do
better. Inputs are all real arguments, numbers included, and for the gradient of a function whose terms share inputs
also the cotangent. For a shift-invariant loss x_j counts from its row's maximum: otherwise a common offset would
excuse any error. The smallest subnormal is added, times the largest input that it may meet: a probability that
underflows is off by so much. Errors are reported in units of ``eps · (…)``; k ≤ 4 is the aim for values, k ≤ 8 for
gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from lossref.core.loss import Call, Loss, _beside, _call_with

from .ball import Ball, UndecidedError, backward, collector_paused, lift, precision
from .enclosure import Enclosure
from .evaluation import Evaluation, at_rising_precision, is_real, with_precision

EXACT_DIRECTIONS = 64  # up to so many inputs are moved one by one, more of them together with random signs
STEP_BITS = 80  # an input of 2^46 moves by far less than the differences between inputs


@dataclass(frozen=True)
class Yardstick:
    """The truth about one call: terms and gradients, and the scale of the rounding error of each."""

    terms: Enclosure
    gradients: tuple[Enclosure, ...]
    term_scale: np.ndarray
    gradient_scales: tuple[np.ndarray, ...]
    given: tuple[str, ...]
    kinks: tuple[np.ndarray, ...]  # where the gradient is a convention
    largest_input: float = 1.0

    def value_error(self, computed, dtype) -> np.ndarray:
        """The errors of the terms in units of the yardstick."""
        return self._in_units(self.terms, computed, self.term_scale, dtype)

    def gradient_error(self, index: int, computed, dtype) -> np.ndarray:
        """The errors of one gradient in units of the yardstick; 0 at kinks, where the truth does not exist."""
        units = self._in_units(self.gradients[index], computed, self.gradient_scales[index], dtype)
        return np.where(self.kinks[index], 0.0, units)

    def _in_units(self, truth: Enclosure, computed, scale, dtype):
        info, computed = ml_dtypes.finfo(dtype), np.asarray(computed)
        error = truth.error(computed)
        # Errors and scales are float64, which ends before longdouble does.
        subnormal = max(float(info.smallest_subnormal), float(np.finfo(np.float64).smallest_subnormal))
        unit = float(info.eps) * scale + subnormal * self.largest_input
        with np.errstate(invalid="ignore", over="ignore"):
            # Beyond the largest number, infinity is the right answer.
            beyond = abs(truth.midpoint) + 4 * unit > float(info.max)
            right = (error == 0) | beyond & (computed == np.copysign(np.inf, truth.midpoint))
            return np.where(right, 0.0, error / unit)


def yardstick(loss: Loss, *args, cotangent=1.0, rng=None, **kwargs) -> Yardstick:
    """The exact terms (reduction "none") and gradients of a call, with their yardsticks."""
    if loss.reducible:
        kwargs = {**kwargs, "reduction": "none"}
    call = loss._bind(args, kwargs, scan=True)
    rng = np.random.default_rng(0) if rng is None else rng
    call.cotangent = loss._check_cotangent(cotangent, loss._terms_shape(call), call)
    moving = tuple(name for name, given in call.arguments.items() if given is not None and is_real(loss, name))
    sizes = {name: _sizes(loss, call, name) for name in moving}

    largest = max([1.0, *(float(np.max(abs(size), initial=0.0)) for size in sizes.values())])
    terms, term_scale = _terms(loss, call, moving, sizes)
    if not loss.differentiable:
        return Yardstick(terms, (), term_scale, (), (), (), largest)
    exact, bits = with_precision(lambda: Evaluation(loss, call, call.given).gradients())
    scales = _gradient_scales(loss, call, moving, sizes, exact, bits, rng)
    gradients = tuple(Enclosure(g) for g in exact)
    return Yardstick(terms, gradients, term_scale, scales, call.given, _kinks(loss, call), largest)


def _sizes(loss: Loss, call: Call, name: str) -> np.ndarray:
    """By how much each entry of an argument moves at one rounding, in units of eps."""
    x = np.asarray(call.arguments[name]).astype(np.float64)
    if name in loss.of and x.ndim and x.size and _holds(loss, call, "shift"):
        top = x.max(axis=-1, keepdims=True)
        x = x - np.where(np.isfinite(top), top, 0.0)
    return np.where(np.isfinite(x), x, 0.0)


def _holds(loss: Loss, call: Call, symmetry: str) -> bool:
    """Whether a declared symmetry holds for these options."""
    return symmetry in loss.symmetries and all(
        _same(call.arguments[option], loss.arguments[option].default) for option in loss.symmetries[symmetry]
    )


def _same(x, y) -> bool:
    return x is y or (np.ndim(x) == 0 and np.ndim(y) == 0 and x == y)


def _terms(loss, call, moving, sizes):
    def compute():
        evaluation = Evaluation(loss, call, moving)
        arrays = tuple(np.asarray(evaluation.arguments[name], dtype=object) for name in moving)
        scale = np.zeros(evaluation.terms.shape)
        for index in np.ndindex(scale.shape):
            adjoints = backward(evaluation.terms[index], 1.0, arrays)
            parts = [abs(_floats(a)) * abs(sizes[n]) for n, a in zip(moving, adjoints, strict=True)]
            moves = sum(np.where(sizes[n] == 0, 0.0, p).sum() for n, p in zip(moving, parts, strict=True))
            own = abs(float(evaluation.terms[index]))
            scale[index] = (own if np.isfinite(own) else 0.0) + (moves if np.isfinite(moves) else 0.0)
        found.append(scale)
        return evaluation.terms

    found: list[np.ndarray] = []
    terms = at_rising_precision(compute)
    return Enclosure(terms), found[-1]


def _floats(balls) -> np.ndarray:
    return np.asarray(balls, dtype=object).astype(np.float64)


def _gradient_scales(loss, call, moving, sizes, exact, bits, rng):
    """|g| + Σ_k |∂g/∂x_k · x_k| for each entry of each gradient, by exact differences."""
    base = [_floats(g) for g in exact]
    scales = [np.where(np.isfinite(g), abs(g), 0.0) for g in base]
    with precision(bits + 2 * STEP_BITS), collector_paused(), np.errstate(all="ignore"):
        origin = Evaluation(loss, call, call.given)
        unmoved = origin.gradients()
        for name, directions in _directions(loss, call, moving, sizes, rng):
            moved = []
            for direction in directions:
                point = lift(np.asarray(call.arguments[name])) + Ball(2.0**-STEP_BITS) * lift(direction)
                try:
                    evaluation = Evaluation(loss, call, call.given, {name: point})
                    gradients = evaluation.gradients()
                except UndecidedError:
                    continue
                differences = [abs(_slope(g, o)) for g, o in zip(gradients, unmoved, strict=True)]
                moved.append([np.where(np.isfinite(d), d, 0.0) for d in differences])
            _add(scales, moved)
        if not loss.row_wise:
            # Where terms share an input, a gradient is a function of their weights as well, and linear in them.
            weights = np.broadcast_to(np.asarray(call.cotangent, np.float64), loss._terms_shape(call))
            moved = [origin.gradients(lift(w)) for w in _moves(weights, weights.shape, rng)]
            _add(scales, [[abs(_floats(g)) for g in gradients] for gradients in moved])
    if loss.parts_rule is not None:
        with np.errstate(all="ignore"):
            parts = _call_with(loss.parts_rule, call.arguments).astype(np.float64)
        scales = [scale + abs(_beside(np.asarray(call.cotangent, np.float64), parts) * parts) for scale in scales]
    return tuple(scales)


def _slope(g, origin) -> np.ndarray:
    # A masked entry has size 0 and does not move; infinite derivatives (kinks) are judged elsewhere.
    with np.errstate(invalid="ignore"):
        return _floats((g - origin) * Ball(2.0**STEP_BITS))  # before it is rounded: the difference alone may underflow


def _add(scales, moved) -> None:
    """Add how far each gradient moved: for single inputs in all, for random signs at most."""
    combine = np.max if len(moved) == SIGNED else np.sum
    for k, scale in enumerate(scales):
        if moved:
            moves = combine([m[k] for m in moved], axis=0)
            scale += np.where(np.isfinite(moves), moves, 0.0)


SIGNED = EXACT_DIRECTIONS + 1  # how many random sign patterns stand in for too many single directions


def _directions(loss, call, moving, sizes, rng):
    """For each argument, the directions in which to move it: entry by entry, rows of independent terms at once."""
    terms = loss._terms_shape(call)
    independent = loss.row_wise
    for name in moving:
        size = sizes[name]
        if not np.any(size):
            continue
        rows = len(terms) if independent and size.shape[: len(terms)] == terms and len(terms) else 0
        if rows and np.ndim(size) < rows:
            rows = 0
        yield name, _moves(size, size.shape[rows:], rng)


def _moves(size, inner, rng) -> list:
    """The directions in which numbers of this size are moved; `inner` is what is moved one by one, if it is little."""
    count = int(np.prod(inner))
    if count <= EXACT_DIRECTIONS:
        directions = [np.where(np.arange(count).reshape(inner) == k, size, 0.0) for k in range(count)]
        return [d for d in directions if np.any(d)]
    # |Σ_k ± H_k x_k| is at most the sum of the absolute values: a stricter yardstick, never a laxer one.
    return [size * rng.choice([-1.0, 1.0], size.shape) for _ in range(SIGNED)]


def _kinks(loss, call) -> tuple:
    if loss.kinks_rule is None:
        return tuple(np.zeros(np.shape(call.arguments[name]), bool) for name in call.given)
    kinks = _call_with(loss.kinks_rule, call.arguments)
    kinks = kinks if isinstance(kinks, tuple) else (kinks,) * len(loss.of)
    return tuple(
        np.broadcast_to(k, np.shape(call.arguments[name]))
        for name, k in zip(loss.of, kinks, strict=True)
        if name in call.given
    )
