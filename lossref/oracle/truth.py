"""The truth about one call, and how far from it a computed number may be.

Small calls are enclosed by exact arithmetic (lossref.exact). Calls too large for that run the same definition and
gradient in extended precision, which has 11 bits more than float64; that those are right is what ``lossref verify``
proves.

Two distances are given for every number. ``unit`` is one unit of the yardstick: the error of an answer that is as
good as its inputs. ``coarse`` is the rounding of an implementation that forms differences of ordinary numbers, such
as ``p - 1`` or ``logsumexp - x``: an error within it loses digits, an error beyond it is a wrong number.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from lossref.core.declarations import RealNumber
from lossref.core.loss import Loss, _call_with

LONG = np.longdouble
EXACT_ENTRIES = 80  # more entries than this, and extended precision takes the place of exact arithmetic
PATTERNS = 6  # random sign patterns that measure how much a large answer moves with its inputs
STEP = 2.0**-22


@dataclass(frozen=True)
class Terms:
    """The terms of a call before reduction, and the gradients for given weights of the terms."""

    terms: np.ndarray
    scale: np.ndarray
    gradients: tuple[np.ndarray, ...]
    gradient_scales: tuple[np.ndarray, ...]
    kinks: tuple[np.ndarray, ...]
    given: tuple[str, ...]


@dataclass(frozen=True)
class Truth:
    """The truth about a reduced call: value and gradients, each with its unit of the yardstick before eps."""

    value: np.ndarray
    scale: np.ndarray
    gradients: tuple[np.ndarray, ...]
    gradient_scales: tuple[np.ndarray, ...]
    kinks: tuple[np.ndarray, ...]
    given: tuple[str, ...]
    terms: np.ndarray
    weights: np.ndarray  # what each term counts in the value
    divides_by: str = "declared"  # what a mean divides by


def smallest(dtype) -> float:
    """Below this, an error does not count: hardware may flush subnormal numbers, except in float16, which needs "
    "them."""
    info = ml_dtypes.finfo(dtype)
    return 4 * float(info.smallest_subnormal) if np.dtype(dtype) == np.float16 else float(info.smallest_normal)


def epsilon(dtype) -> float:
    return float(ml_dtypes.finfo(dtype).eps)


def is_real(loss: Loss, name: str) -> bool:
    return isinstance(loss.arguments[name].declaration, RealNumber)


def widened(loss: Loss, arguments: dict, dtype=np.float64) -> dict:
    """The same numbers in a wider dtype."""
    return {
        name: np.asarray(value).astype(dtype)
        if value is not None and loss.arguments[name].is_array and is_real(loss, name)
        else value
        for name, value in arguments.items()
    }


def term_weights(loss: Loss, arguments: dict, reduction: str, divisor, cotangent) -> np.ndarray:
    """The derivative of the reduced value by each term, times the cotangent."""
    options = {"reduction": reduction, "divisor": divisor} if loss.reducible else {}
    call = loss._bind((), {**widened(loss, arguments), **options})
    shape = loss._terms_shape(call)
    call.cotangent = np.asarray(cotangent, np.float64)
    if loss.reducible and reduction != "none":
        call.cotangent = call.cotangent[()]
    with np.errstate(all="ignore"):
        return np.broadcast_to(np.asarray(loss._weights(call, call.arguments, shape), np.float64), shape)


def terms_shape(loss: Loss, arguments: dict) -> tuple:
    return loss._terms_shape(loss._bind((), arguments))


def truth(loss: Loss, arguments: dict, reduction: str = "none", divisor=None, cotangent=1.0, gradient=True) -> Truth:
    """The truth about one call with numbers as they are in ``arguments``."""
    weights = term_weights(loss, arguments, reduction, divisor, cotangent)
    found = _terms(loss, arguments, weights)
    if not loss.reducible or reduction == "none":
        counts = np.ones(found.terms.shape)
        value, scale = found.terms, found.scale
    else:
        counts = term_weights(loss, arguments, reduction, divisor, 1.0)
        with np.errstate(all="ignore"):
            parts = np.where(counts == 0, 0, counts * found.terms)
            value = parts.sum(dtype=LONG)
            scale = np.where(counts == 0, 0, np.abs(counts) * found.scale).sum(dtype=LONG)
            scale = scale + np.where(np.isfinite(parts), np.abs(parts), 0).sum(dtype=LONG) * np.log2(2 + parts.size) / 4
        if reduction == "mean" and not np.any(counts):
            value = np.asarray(LONG(np.nan))
    return Truth(
        np.asarray(value), np.asarray(scale), found.gradients, found.gradient_scales, found.kinks, found.given,
        found.terms, counts,
    )  # fmt: skip


# -- terms and gradients, with a memory --------------------------------------------------------------------------------

_MEMORY: OrderedDict[tuple, Terms] = OrderedDict()
_MEMORY_SIZE = 6000


def _key(loss: Loss, arguments: dict, weights) -> tuple:
    parts: list[tuple] = []
    for name, value in arguments.items():
        array = np.asarray(value) if value is not None else None
        if array is None or array.ndim == 0:
            parts.append((name, repr(value)))
        else:
            wide = array.astype(np.float64) if array.dtype.kind in "fV" else array
            parts.append((name, wide.shape, wide.tobytes()))
    return (loss.name, tuple(parts), None if weights is None else weights.tobytes())


def _terms(loss: Loss, arguments: dict, weights: np.ndarray) -> Terms:
    """Terms and gradients; for row-wise losses the gradient is remembered per unit of weight."""
    per_unit = loss.row_wise and bool(np.all(weights != 0))
    key = _key(loss, arguments, None if per_unit else weights)
    found = _MEMORY.get(key)
    if found is None:
        found = compute_terms(loss, arguments, np.ones(weights.shape) if per_unit else weights)
        _MEMORY[key] = found
        if len(_MEMORY) > _MEMORY_SIZE:
            _MEMORY.popitem(last=False)
    if not per_unit:
        return found

    def scaled(gradient, by):
        return gradient * by.reshape(by.shape + (1,) * (gradient.ndim - by.ndim)).astype(LONG)

    return replace(
        found,
        gradients=tuple(scaled(g, weights) for g in found.gradients),
        gradient_scales=tuple(scaled(g, np.abs(weights)) for g in found.gradient_scales),
    )


def compute_terms(loss: Loss, arguments: dict, weights: np.ndarray) -> Terms:
    if weights.size == 0:
        given = tuple(n for n in loss.of if arguments[n] is not None)
        zeros = tuple(np.zeros(np.shape(arguments[n]), LONG) for n in given)
        return Terms(weights.astype(LONG), weights, zeros, zeros, tuple(z.astype(bool) for z in zeros), given)
    entries = sum(np.size(v) for n, v in arguments.items() if v is not None and is_real(loss, n))
    if entries > EXACT_ENTRIES:
        return _extended(loss, arguments, weights)
    return exact_terms(loss, arguments, weights)


def exact_terms(loss: Loss, arguments: dict, weights: np.ndarray) -> Terms:
    """By exact arithmetic."""
    from lossref.exact.yardstick import yardstick

    y = yardstick(loss, **widened(loss, arguments), cotangent=weights)
    return Terms(
        longdoubles(y.terms.balls), y.term_scale, tuple(longdoubles(g.balls) for g in y.gradients),
        y.gradient_scales, y.kinks, y.given,
    )  # fmt: skip


def longdoubles(balls: np.ndarray) -> np.ndarray:
    """The midpoints of balls, as two float64 added in extended precision."""
    from lossref.exact.ball import precision

    result = np.empty(balls.shape, LONG)
    with precision(160):
        for index, ball in np.ndenumerate(balls):
            high = float(ball)
            low = float(ball - high) if np.isfinite(high) else 0.0
            result[index] = LONG(high) + LONG(low)
    return result


def _extended(loss: Loss, arguments: dict, weights: np.ndarray) -> Terms:
    """By the same definition and gradient in extended precision."""
    from lossref.exact.yardstick import _kinks, _sizes

    wide = widened(loss, arguments, LONG)
    options = {"reduction": "none"} if loss.reducible else {}
    call = loss._bind((), {**wide, **options})
    moving = [name for name, given in call.arguments.items() if given is not None and is_real(loss, name)]
    sizes = {name: _sizes(loss, call, name) for name in moving}
    rng = np.random.default_rng(0)
    weights = np.asarray(weights, LONG)

    def evaluate():
        terms = np.asarray(loss.definition(**call.arguments), LONG)
        return terms, loss._vjp(call, weights) if loss.differentiable else ()

    with np.errstate(all="ignore"):
        terms, gradients = evaluate()
        scale = np.where(np.isfinite(terms), np.abs(terms), 0)
        gradient_scales = [np.where(np.isfinite(g), np.abs(g), 0) for g in gradients]
        base = dict(call.arguments)
        for name in moving:
            if not np.any(sizes[name]):
                continue
            worst, gradient_worst = np.zeros(terms.shape, LONG), [np.zeros(g.shape, LONG) for g in gradients]
            for _ in range(PATTERNS if np.size(sizes[name]) < 10000 else 2):
                signs = rng.choice([-STEP, STEP], np.shape(sizes[name]))
                moved = np.asarray(base[name], LONG) + signs * sizes[name]
                call.arguments = {**base, name: moved if np.ndim(moved) else moved[()]}
                new_terms, new_gradients = evaluate()
                worst = np.fmax(worst, _moved(new_terms, terms))
                pairs = zip(gradient_worst, new_gradients, gradients, strict=True)
                gradient_worst = [np.fmax(w, _moved(new, old)) for w, new, old in pairs]
            scale = scale + worst
            gradient_scales = [s + w for s, w in zip(gradient_scales, gradient_worst, strict=True)]
        call.arguments = base
        if loss.row_wise and moving:
            scale = scale + _row_moves(loss, call, terms, sizes)
        if loss.parts_rule is not None:
            parts = np.abs(_call_with(loss.parts_rule, call.arguments).astype(LONG))
            by = np.abs(weights).reshape(weights.shape + (1,) * (parts.ndim - weights.ndim))
            gradient_scales = [s + by * parts for s in gradient_scales]
        kinks = _kinks(loss, call) if loss.differentiable else ()
    return Terms(terms, scale, tuple(gradients), tuple(gradient_scales), kinks, call.given)


def _row_moves(loss, call, terms, sizes):
    """Σ_j |∂t_i/∂x_j · x_j| over the differentiable arguments: random signs would leave most of a long sum out."""
    moves = np.zeros(terms.shape, LONG)
    for name, g in zip(call.given, loss._vjp(call, np.ones(terms.shape, LONG)), strict=True):
        part = np.abs(g) * np.abs(sizes[name])
        part = np.where(np.isfinite(part), part, 0)
        moves = moves + part.reshape(*terms.shape, -1).sum(axis=-1)
    return moves


def _moved(new, old):
    difference = np.abs(new - old) / STEP
    return np.where(np.isfinite(difference), difference, 0)
