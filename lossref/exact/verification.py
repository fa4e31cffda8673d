"""Verification: every loss on every path against the exact layer, on real data and on hard inputs.

Errors are in units of the yardstick (yardstick.py): a value passes at 4, a gradient at 8.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

import numpy as np

from lossref.core.declarations import (
    BinaryTargets,
    ClassLabels,
    Distribution,
    RealNumber,
    Whole,
)
from lossref.core.loss import Loss
from lossref.core.registry import losses

from .yardstick import Yardstick, yardstick

VALUE_LIMIT = 4.0
GRADIENT_LIMIT = 8.0
DTYPES = ("float64", "float32")
RANDOM_CASES = 8

# The CUDA simulator runs every GPU thread as a Python thread: a few small cases are what it can do.
SIMULATED_CASES = 4


@dataclass(frozen=True)
class Check:
    """One loss on one path in one dtype; if it cannot run here, why not and what would help."""

    loss: str
    path: str
    dtype: str
    runnable: bool = True
    reason: str = ""
    remedy: str = ""


@dataclass
class Result:
    """What a check found: the worst errors in units of the yardstick, and on which case."""

    loss: str
    path: str
    dtype: str
    worst_value: float = 0.0
    worst_gradient: float | None = None
    value_case: str = ""
    gradient_case: str = ""
    cases: int = 0
    seconds: float = 0.0
    verdict: str = "ok"
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Case:
    """Arguments, a random cotangent, and the truth about both."""

    name: str
    arguments: dict = field(hash=False)
    cotangent: np.ndarray = field(hash=False)
    truth: Yardstick = field(hash=False)


def plan(names=None, paths=("numpy", "numba", "cuda"), dtypes=DTYPES) -> list[Check]:
    """The checks for these losses (all by default), paths and dtypes."""
    checks = []
    for name, loss in losses().items():
        if names is not None and name not in names:
            continue
        for path in paths:
            if path in loss.paths:
                runnable, reason, remedy = path_status(path)
                checks += [Check(name, path, dtype, runnable, reason, remedy) for dtype in dtypes]
    return checks


def path_status(path: str) -> tuple[bool, str, str]:
    """Whether a path can run here; if not, why, and what would help."""
    if path == "numba":
        try:
            import_module("numba")
        except ImportError as problem:
            return False, f"Numba cannot be imported: {problem}", "pip install numba"
    if path == "cuda":
        return import_module("lossref_cuda").availability()
    return True, "", ""


def run(check: Check, seed: int = 0) -> Result:
    """Run one check."""
    result = Result(check.loss, check.path, check.dtype)
    if not check.runnable:
        result.verdict, result.reason, result.remedy = "not run", check.reason, check.remedy
        return result
    loss = losses()[check.loss].path(check.path)
    cases = case_set(check.loss, check.dtype, seed)
    if check.path == "cuda" and _simulated():
        cases = tuple(sorted(cases, key=_size)[:: max(1, len(cases) // SIMULATED_CASES)][:SIMULATED_CASES])
    start = time.perf_counter()
    for case in cases:
        value_error, gradient_error = errors(loss, case, check.dtype)
        result.cases += 1
        if not value_error <= result.worst_value:
            result.worst_value, result.value_case = value_error, case.name
        if gradient_error is not None and not gradient_error <= (result.worst_gradient or 0.0):
            result.worst_gradient, result.gradient_case = gradient_error, case.name
        if gradient_error is not None and result.worst_gradient is None:
            result.worst_gradient = gradient_error
    result.seconds = time.perf_counter() - start
    if not result.worst_value <= VALUE_LIMIT:
        result.verdict, result.reason = "failed", f"value: {result.value_case}"
    elif result.worst_gradient is not None and not result.worst_gradient <= GRADIENT_LIMIT:
        result.verdict, result.reason = "failed", f"gradient: {result.gradient_case}"
    return result


def errors(loss: Loss, case: Case, dtype) -> tuple[float, float | None]:
    """The worst errors of value and gradient on a case, in units of the yardstick."""
    options = {"reduction": "none"} if loss.reducible else {}
    value = loss(**case.arguments, **options)
    value_error = float(np.max(case.truth.value_error(value, dtype), initial=0.0))
    if not loss.differentiable:
        return value_error, None
    gradients = loss.grad(**case.arguments, **options, cotangent=case.cotangent)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    worst = [np.max(case.truth.gradient_error(i, g, dtype), initial=0.0) for i, g in enumerate(gradients)]
    return value_error, float(max(worst))


@cache
def case_set(name: str, dtype: str, seed: int) -> tuple[Case, ...]:
    """The cases of a loss in a dtype: random options, hard inputs, real data. Shared by all paths."""
    loss = losses()[name]
    rng = np.random.default_rng([seed, *name.encode()])
    drawn = [(f"random {k}", loss.example(rng)) for k in range(RANDOM_CASES)]
    drawn += list(loss.hard_cases(rng, np.dtype(dtype)))
    drawn += real_cases(loss, rng)
    return tuple(_case(loss, what, arguments, dtype, rng) for what, arguments in drawn)


def _case(loss: Loss, what: str, arguments: dict, dtype: str, rng) -> Case:
    cast = {
        name: np.asarray(value).astype(dtype)
        if value is not None
        and loss.arguments[name].is_array
        and isinstance(loss.arguments[name].declaration, RealNumber)
        else value
        for name, value in arguments.items()
    }
    shape = loss._terms_shape(loss._bind((), cast))
    cotangent = np.ldexp(np.rint(np.ldexp(rng.standard_normal(shape), 6)), -6)  # never ones; the same in every dtype
    truth = yardstick(loss, **cast, cotangent=cotangent, rng=rng)
    return Case(what, cast, cotangent, truth)


def real_cases(loss: Loss, rng) -> Iterator[tuple[str, dict]]:
    """The digits classifier's outputs in the shape that a loss takes, from its declarations."""
    from lossref.data import digits

    data = digits()
    for what, logits in (("digits, converged", data.logits), ("digits, early", data.early_logits)):
        arguments = _real_arguments(loss, data, logits, rng)
        try:
            loss._bind((), arguments)
        except (ValueError, TypeError):
            continue
        yield what, arguments


def _real_arguments(loss: Loss, data, logits, rng) -> dict:
    """Required arguments from the data: logits and labels where a loss takes them, else pools of the same kind."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    similarities = data.embeddings @ data.shifted_embeddings.T
    arguments = {name: a.default for name, a in loss.arguments.items()}
    rows, classes = 16, logits.shape[1]
    for position, (name, argument) in enumerate(loss.arguments.items()):
        if not argument.required:
            continue
        kind, dims = argument.declaration, argument.declaration.names
        if isinstance(kind, ClassLabels):
            arguments[name] = data.labels[:rows] if len(dims) == 1 else 1 + data.labels[: 2 * rows].reshape(rows, 2) % 9
        elif isinstance(kind, BinaryTargets):
            arguments[name] = (data.labels[:rows, None] == np.arange(classes)).astype(float)
        elif isinstance(kind, Distribution):
            p = np.exp(log_p[:rows])
            arguments[name] = p / p.sum(axis=1, keepdims=True) if len(dims) == 2 else np.full(rows, 1 / rows)
        elif isinstance(kind, Whole):
            sizes = dict.fromkeys(dims, rows) | ({kind.up_to: classes} if kind.up_to else {})
            arguments[name] = argument.declaration.random(rng, sizes, {})
        elif not isinstance(kind, RealNumber):
            continue
        elif kind.interval.low == 0 and kind.interval.high == 1:
            arguments[name] = np.clip(np.exp(log_p[:rows]), 0, 1)
        elif len(dims) == 1 and dims[0] != "...":
            # Log-probabilities of one answer after another: the right one, the next class, …
            arguments[name] = log_p[np.arange(rows), (data.labels[:rows] + position) % classes]
        elif dims == ["n", "m"]:
            arguments[name] = 2 - 2 * similarities[:6, 6:11]
        elif dims[0] in ("n", "m"):
            arguments[name] = logits[: rows // 2]  # every row meets every other: exact arithmetic takes its time
        elif "M" in dims:
            arguments[name] = similarities[:rows, :rows]
        elif len(dims) == 3:
            arguments[name] = logits[: rows * 4].reshape(rows, 4, classes)
        elif kind.interval.high <= 0:
            arguments[name] = np.minimum(log_p[:rows], 0)
        else:
            arguments[name] = logits[:rows]
    return arguments


def _size(case: Case) -> int:
    return sum(np.size(value) for value in case.arguments.values())


def _simulated() -> bool:
    from numba import config

    return bool(vars(config)["ENABLE_CUDASIM"])
