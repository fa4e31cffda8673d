"""``lossref.oracle.check``: a verdict on somebody's loss, with evidence."""

from __future__ import annotations

import time
from collections.abc import Callable

import ml_dtypes
import numpy as np

from lossref.core.errors import message
from lossref.core.loss import Loss
from lossref.core.registry import losses

from .candidates import Candidate
from .cases import VERSION, Case
from .diagnosis import FORMS, Diagnosis, diagnose
from .judging import SEMANTICS, WRONG, Failure, Judge, distance
from .report import Finding, Report
from .rounding import gradients, variables
from .shrinking import shrink
from .truth import LONG, truth


def check(
    loss,
    candidate: Callable | None = None,
    *,
    value: Callable | None = None,
    grad: Callable | None = None,
    dtype="float64",
    kwargs: dict | None = None,
    framework: str | None = None,
    semantics: dict | None = None,
    seed: int = 0,
    quick: bool = False,
    expected_failures: str | None = None,
    progress: Callable[[int, str], None] | None = None,
    **adapter_options,
) -> Report:
    """Judge an implementation of a loss: is it right, and how accurate is it?

    Parameters
    ----------
    loss : str or Loss
        Which loss it is meant to be. ``check(candidate, "cross_entropy")`` works as well.
    candidate, value : callable
        ``f(*arrays, **options) -> value``. In a framework with automatic differentiation this is all that is needed.
    grad : callable, optional
        ``g(*arrays, cotangent=c, **options)`` -> one array, or a tuple, as ``Loss.grad`` returns them.
    dtype : str or dtype
        In which dtype it is judged: float64, float32, float16, bfloat16.
    kwargs : dict, optional
        Options that are fixed. Without them all options that the signature accepts are tried, also in pairs.
    framework : {"numpy", "torch", "jax", "tensorflow", "mlx", "cupy", "process"}, optional
        What the arrays are; by default NumPy.
    semantics : dict, optional
        Choices that the candidate declares: ``{"mean": "all rows" | "kept rows", "empty mean": "zero" | "error"}``.
    seed : int
        Another seed draws other random inputs; the result for a given seed is always the same.
    quick : bool
        A few seconds: fewer sizes, no pairs of options.
    expected_failures : str, optional
        The text of an xfails file: one substring of a finding's id on a line.

    Returns
    -------
    Report
        ``.verdict`` is "accurate", "inaccurate" or "wrong"; ``.findings`` say why.

    Examples
    --------
    >>> def value(logits, labels):
    ...     p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ...     return -np.log(p[np.arange(len(labels)), labels]).mean()
    >>> lr.oracle.check("cross_entropy", value=value, dtype="float32", quick=True).verdict
    'inaccurate'
    """
    if callable(loss) and not isinstance(loss, (Loss, str)):
        loss, candidate = candidate, loss
    loss = _loss(loss)
    value = candidate if value is None else value
    if value is None and grad is None:
        raise TypeError("check: expected a value function, a grad function, or both, got neither")
    dtype = _dtype(dtype)
    _check_semantics(semantics)
    judged = _adapted(loss, value, grad, framework, dtype, adapter_options)
    for name in kwargs or {}:
        if name not in loss.arguments and name not in ("reduction", "divisor"):
            raise TypeError(f"check: {loss.name} has no option {name!r}")
    start = time.perf_counter()
    judge = Judge(loss, judged, dtype, kwargs, seed, quick, semantics)
    try:
        judge.run(progress)
    finally:
        judged.close()
    report = Report(loss.name, str(dtype), judged.framework, _findings(judge), judge.cases_run, judge.cases_skipped,
                    judge.calls, seed=seed, version=VERSION, options=judge.tried_options())  # fmt: skip
    _summarise(judge, report)
    if expected_failures is not None:
        _expect(report, expected_failures)
    report.seconds = time.perf_counter() - start
    return report


def _loss(loss) -> Loss:
    if isinstance(loss, Loss):
        return loss
    if loss not in losses():
        raise ValueError(message("loss", "the name of a loss that lossref.losses() lists", loss))
    return losses()[loss]


def _dtype(dtype) -> np.dtype:
    if isinstance(dtype, str) and dtype == "bfloat16":
        return np.dtype(ml_dtypes.bfloat16)
    if type(dtype).__module__.split(".")[0] == "torch":
        return _dtype(str(dtype).rpartition(".")[2])
    found = np.dtype(dtype)
    if found not in (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16)):
        raise ValueError(message("dtype", "float64, float32, float16 or bfloat16", str(found)))
    return found


def _check_semantics(semantics) -> None:
    for name, choice in (semantics or {}).items():
        if name not in SEMANTICS:
            raise ValueError(message("semantics", " or ".join(map(repr, SEMANTICS)), name))
        if choice not in SEMANTICS[name]:
            raise ValueError(message(f"semantics[{name!r}]", " or ".join(map(repr, SEMANTICS[name])), choice))


def _adapted(loss, value, grad, framework, dtype, options) -> Candidate:
    from . import adapters

    return adapters.adapted(loss, value, grad, framework, dtype, options)


# -- findings --------------------------------------------------------------------------------------------------------


def _findings(judge: Judge) -> list[Finding]:
    """One finding for each diagnosis, on the simplest input, made smaller."""
    found: list[Finding] = []
    for name, (case, quantity) in judge.overwritten.items():
        what = "a read-only array" if name == "read-only" else f"the argument {name}"
        computed = "value" if quantity == "value" else "gradient"
        text = f"computing the {computed} writes into {what} ({case.name}).\nbetter: {FORMS['input-overwritten']}"
        found.append(Finding("input-overwritten", "inputs", case.name, _inputs(case), message=text, severity=WRONG))
    for case, got in judge.hidden[:1]:
        text = (
            f"a number ({_text(got)}) for {case.name}, where the logarithm of a negative number is asked for: "
            "a sign error upstream would train silently.\nbetter: raise an error, or let NaN through"
        )
        found.append(
            Finding(
                "invalid-input-hidden",
                "semantics",
                case.name,
                _inputs(case),
                got,
                float("nan"),
                float("inf"),
                0.0,
                text,
                WRONG,
                len(judge.hidden),
            )
        )
    grouped: dict[tuple, list[tuple[Failure, Diagnosis]]] = {}
    seen: dict[tuple, int] = {}
    for failure in sorted(judge.failures, key=_simplicity):
        kind = (failure.quantity, failure.severity, failure.case.kind)
        seen[kind] = seen.get(kind, 0) + 1
        options = (*kind, failure.case.passed)
        seen[options] = seen.get(options, 0) + 1
        if (seen[options] > 3 and seen[kind] > 8) or seen[kind] > 24:
            continue  # more of the same
        diagnosis = diagnose(judge, failure, judge.failures)
        grouped.setdefault((diagnosis.slug, failure.quantity, failure.severity), []).append((failure, diagnosis))
    for (slug, quantity, severity), members in grouped.items():
        failure, diagnosis = members[0]
        small = shrink(judge, failure)
        if (again := diagnose(judge, small, judge.failures)).slug == "floor-epsilon":
            slug, diagnosis = again.slug, again  # of several causes in one case, a floor is what a small input shows
        found.append(_finding(judge, slug, quantity, severity, small, diagnosis, len(members)))
    for (slug, text), (case, _) in judge.notes.items():
        found.append(Finding(slug, "semantics", case.name, _inputs(case), message=f"{text} ({case.name}): a "
            "choice, not an error; declare it with semantics=.", severity="note"))  # fmt: skip
    order = {"wrong": 0, "inaccurate": 1, "note": 2}
    return sorted(found, key=lambda f: (order[f.severity], -f.cases))


def _simplicity(failure: Failure) -> tuple:
    order = ("ordinary", "edge", "lead", "hard", "mask", "ignored", "offset", "layout", "size", "large", "empty")
    return (
        failure.severity != WRONG, order.index(failure.case.kind) if failure.case.kind in order else 9,
        len(failure.case.passed), sum(np.size(v) for v in failure.case.arguments.values() if v is not None),
    )  # fmt: skip


def _finding(judge: Judge, slug, quantity, severity, failure: Failure, diagnosis: Diagnosis, count: int) -> Finding:
    at = _worst_index(failure)
    got = failure.got[at] if at is not None else failure.got
    want = failure.want[at] if at is not None else failure.want
    shown = "symmetry" if slug == "offset-sensitive" else quantity
    return Finding(slug, shown, failure.case.name, _inputs(failure.case, failure), _narrow(got), _narrow(want),
                   failure.units if not failure.problem else float("inf"), failure.limit,
                   _message(judge, failure, diagnosis, at, got, want), severity, count)  # fmt: skip


def _narrow(x):
    return np.asarray(x, np.float64)[()] if np.ndim(x) == 0 else np.asarray(x, np.float64)


def _worst_index(failure: Failure):
    if failure.problem or not failure.failing.any():
        return None
    with np.errstate(all="ignore"):
        shown = failure.wrong if failure.wrong is not None and failure.wrong.any() else failure.failing
        units = np.where(shown, failure.error / failure.unit, -1)
    return np.unravel_index(int(np.argmax(np.where(np.isnan(units), np.inf, units))), units.shape)


def _inputs(case, failure: Failure | None = None) -> dict:
    inputs = {n: v for n, v in case.arguments.items() if v is not None and (np.ndim(v) or n in case.passed)}
    if failure is not None:
        inputs["reduction"] = failure.reduction
        if failure.quantity == "grad":
            inputs["cotangent"] = failure.cotangent
    return inputs


def _message(judge: Judge, failure: Failure, diagnosis: Diagnosis, at, got, want) -> str:
    name = (
        "value"
        if failure.quantity == "value"
        else f"gradient by {judge.loss.of[min(failure.position, len(judge.loss.of) - 1)]}"
    )
    lines = [diagnosis.cause]
    lines.append("on " + failure.case.name + ": " + call_text(judge.loss, _inputs(failure.case, failure)))
    if not failure.problem and at is not None:
        where = f"[{', '.join(str(int(i)) for i in at)}]" if len(at) else ""
        lines.append(
            f"{name}{where}: got {_digits(got)}, want {_digits(want)}; error {_error(failure.units)}, allowed "
            f"{failure.limit:g} units of the yardstick"
        )
    form = FORMS.get(diagnosis.slug)
    if form:
        lines.append(f"better: {form}")
    return "\n".join(lines)


def call_text(loss: Loss, inputs: dict) -> str:
    """The inputs of a finding as one would write the call."""
    parts = [f"{name}={_text(value)}" for name, value in inputs.items() if name != "reduction" or loss.reducible]
    return f"{loss.name}({', '.join(parts)})"


def _text(value) -> str:
    if np.ndim(value) == 0:
        return repr(value.item()) if isinstance(value, (np.generic, np.ndarray)) else repr(value)
    array = np.asarray(value)
    if array.size > 24:
        return f"array of shape {array.shape}"
    if array.dtype.kind not in "iub":
        array = array.astype(np.float64)
    return np.array2string(array, separator=", ", threshold=30, max_line_width=10**6, floatmode="unique").replace(
        "\n", ""
    )


def _digits(x) -> str:
    return f"{float(x):.9g}"


def _error(units: float) -> str:
    return f"{units:.3g}"


# -- summary ---------------------------------------------------------------------------------------------------------


def _summarise(judge: Judge, report: Report) -> None:
    for outcome in judge.outcomes:
        units = np.where(np.isnan(outcome.units), np.inf, outcome.units)
        worst = float(np.max(units, initial=0.0))
        if outcome.quantity not in report.worst or worst > report.worst[outcome.quantity][0]:
            report.worst[outcome.quantity] = (worst, outcome.case.name)
        leads = outcome.case.tags.get("lead")
        if leads is not None and units.ndim and len(units) == len(leads):
            report.curves.setdefault(outcome.quantity, []).extend(_by_lead(leads, units))
            plain = _obvious_units(judge, outcome.case, outcome.reduction, outcome.quantity)
            if plain is not None and np.shape(plain) == units.shape:
                report.obvious_curves.setdefault(outcome.quantity, []).extend(_by_lead(leads, plain))
    if report.curves:
        info = ml_dtypes.finfo(judge.dtype)
        scale = getattr(judge.loss.arguments[judge.loss.of[0]].declaration, "scale", 1.0)
        # Half a rounding of 1 still rounds to one, and so does half of the smallest number.
        low, high = (scale * (np.log(2) - np.log(float(edge))) for edge in (info.eps, info.smallest_subnormal))
        report.blind_band = (float(low), float(high))
    for quantity in report.worst:
        beside = _beside_the_obvious(judge, quantity)
        if beside is not None:
            report.ratio[quantity] = beside


def _beside_the_obvious(judge: Judge, quantity: str) -> float | None:
    """The worst error on ordinary inputs, over that of the obvious code there, in the same dtype.

    Inputs on which the obvious code has no finite answer do not count: it would excuse everything.
    """
    outcomes = [o for o in judge.outcomes if o.quantity == quantity and o.case.kind == "ordinary" and not o.case.passed]
    reductions = [o.reduction for o in outcomes]
    if not outcomes:
        return None
    reduction = "none" if "none" in reductions else reductions[0]
    errors: dict[int, float] = {}  # of the obvious code, case by case
    mine = theirs = 0.0
    for outcome in outcomes:
        if outcome.reduction != reduction:
            continue
        if id(outcome.case) not in errors:
            units = _obvious_units(judge, outcome.case, reduction, quantity)
            errors[id(outcome.case)] = np.inf if units is None else float(np.max(units, initial=0.0))
        if np.isfinite(errors[id(outcome.case)]):
            theirs = max(theirs, errors[id(outcome.case)])
            mine = max(mine, float(np.max(np.where(np.isnan(outcome.units), np.inf, outcome.units), initial=0.0)))
    return mine / theirs if theirs and np.isfinite(mine) else None


def _by_lead(leads, units: np.ndarray) -> list[tuple[float, float]]:
    """The worst error of each row, beside the row's lead."""
    return [(float(x), float(y)) for x, y in zip(leads, units.reshape(len(leads), -1).max(axis=1), strict=True)]


def _obvious_units(judge: Judge, case: Case, reduction: str, quantity: str) -> np.ndarray | None:
    """How far the literal formula in the same dtype is off, in units; for the gradients of several arguments, flat."""
    loss, obvious = judge.loss, judge.loss.obvious_form
    required = {n: judge._legal(n, case) for n, a in loss.arguments.items() if a.required}
    full = {**{n: a.default for n, a in loss.arguments.items()}, **required}
    if obvious is None or sum(np.size(v) for v in required.values()) > 200:
        return None
    try:
        cotangent = judge.cotangent(case, reduction)
        true = truth(loss, full, reduction, None, cotangent)
        with np.errstate(all="ignore"):
            if quantity == "value":
                terms = np.asarray(obvious(**required))
                found = terms if reduction == "none" else (terms * true.weights.astype(terms.dtype)).sum()
                parts = [distance(found.astype(LONG), true.value) / judge._value_unit(case, true)]
            else:
                of = {n: variables(required[n]) for n in loss.of if n in required}
                slopes = gradients(obvious(**{**required, **of}), true.weights * cotangent, tuple(of.values()))
                parts = [
                    np.where(true.kinks[k], 0, distance(g.astype(LONG), true.gradients[k]))
                    / judge._gradient_unit(k, true, cotangent)
                    for k, g in enumerate(slopes)
                ]
    except Exception:  # the literal formula does not take such inputs, or is not made of what can be differentiated
        return None
    units = parts[0] if len(parts) == 1 else np.concatenate([np.ravel(part) for part in parts])
    return np.where(np.isnan(units), np.inf, units).astype(np.float64)


def _expect(report: Report, text: str) -> None:
    """Mark what the candidate's own xfails file expects; lines that match nothing are unexpected passes."""
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line]
    matched = set()
    for finding in report.findings:
        for line in lines:
            if line in finding.id:
                finding.expected = line
                matched.add(line)
    report.unexpected = tuple(line for line in lines if line not in matched)
