"""How accurate a peer is: its worst errors in units of the yardstick, ours on the same inputs beside them.

The inputs are those of ``lossref verify`` and some more, on which it is known which class is right. Each answer is put
under a heading by what is hard about it; in inputs with one far entry that is decided by the exact answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import ml_dtypes
import numpy as np

from lossref.core.declarations import ClassLabels, RealNumber, blind_band
from lossref.core.loss import Loss
from lossref.core.registry import losses
from lossref.exact.verification import Case, case_set
from lossref.exact.yardstick import yardstick

from .calling import NotTaken, Peer

ORDINARY, TRAINED, BLIND, WRONG, OFFSET, MASKS, OTHER, SUBNORMAL = KINDS = (
    "ordinary",
    "a trained classifier",
    "blind band",
    "confident and wrong",
    "common offset",
    "masks",
    "other hard inputs",
    "subnormal answers",
)
MEANINGS = {
    ORDINARY: "random arguments",
    TRAINED: "a classifier's outputs on handwritten digits, early in training and at the end",
    BLIND: "the exact answer is not 0, but smaller than eps: a right class far ahead of the others",
    WRONG: "the exact answer is larger than 8, because one entry is far from the others",
    OFFSET: "a large number added to every entry",
    MASKS: "entries of -inf",
    OTHER: "equal entries, one entry far off that hardly matters, ends of the domain, the loss's own hard cases",
    SUBNORMAL: "the exact answer is smaller than the smallest normal number, which some libraries flush to 0",
}
FAR = ("leads", "trails", "raised", "lowered", "the label is")


@dataclass
class Worst:
    """The largest error under one heading, and where it was."""

    error: float = 0.0
    case: str = ""
    computed: float | None = None
    exact: float | None = None
    count: int = 0

    def see(self, errors, computed, exact, case: str) -> None:
        if not np.size(errors):
            return
        self.count += np.size(errors)
        index = int(np.argmax(np.where(np.isnan(errors), np.inf, errors)))
        if not errors[index] <= self.error:
            self.error, self.case = float(errors[index]), case
            self.computed, self.exact = float(computed[index]), float(exact[index])


@dataclass
class Measurement:
    """What one peer did in one dtype, by the kind of the input."""

    title: str
    dtype: str
    values: dict[str, Worst] = field(default_factory=lambda: {kind: Worst() for kind in KINDS})
    gradients: dict[str, Worst] = field(default_factory=lambda: {kind: Worst() for kind in KINDS})
    cases: int = 0
    not_taken: Counter = field(default_factory=Counter)
    refusals: Counter = field(default_factory=Counter)

    def overall(self, which: str) -> float | None:
        """The worst over all kinds of input; subnormal answers are a matter of their own."""
        found = [worst.error for kind, worst in getattr(self, which).items() if worst.count and kind != SUBNORMAL]
        return max(found) if found else None


def measure(peer: Peer, dtype: str, seed: int = 0) -> Measurement:
    """Value and gradient of a peer against exact arithmetic, wherever it takes the case."""
    found = Measurement(peer.title, dtype)
    for case in all_cases(peer.loss_name, dtype, seed):
        exact = case.truth.terms.midpoint
        try:
            computed = _shaped(peer.value(case.arguments), exact)
            gradients: tuple = ()
            if peer.differentiates:
                gradients = peer.gradients(case.arguments, case.truth.given, case.cotangent)
        except NotTaken as reason:
            found.not_taken[str(reason)] += 1
            continue
        except Exception as problem:  # whatever a foreign library raises for a legal input
            found.refusals[_first_line(problem)] += 1
            continue
        found.cases += 1
        kinds = _kinds(case, dtype)
        errors = case.truth.value_error(computed, dtype)
        for kind in KINDS:
            here = kinds == kind
            found.values[kind].see(errors[here], computed[here], exact[here], case.name)
        for index, gradient in enumerate(gradients):
            true = case.truth.gradients[index].midpoint
            gradient = _shaped(gradient, true)
            errors = case.truth.gradient_error(index, gradient, dtype)
            spread = _spread(kinds, true, dtype)
            for kind in KINDS:
                here = spread == kind
                found.gradients[kind].see(errors[here], gradient[here], true[here], case.name)
    return found


def _shaped(computed, exact) -> np.ndarray:
    computed = np.asarray(computed)
    if computed.shape != exact.shape:
        raise ValueError(f"a result of shape {computed.shape} where {exact.shape} was expected")
    return computed


def _first_line(problem: Exception) -> str:
    text = str(problem).strip()
    return f"{type(problem).__name__}: {text.splitlines()[0]}" if text else type(problem).__name__


# -- what is hard about an answer -------------------------------------------------------------------------------------


def _kinds(case: Case, dtype) -> np.ndarray:
    """The heading of each term."""
    exact, eps = np.abs(case.truth.terms.midpoint), float(ml_dtypes.finfo(dtype).eps)
    if "masked" in case.name:
        kind = MASKS
    elif "offset" in case.name:
        kind = OFFSET
    elif case.name.startswith("digits"):
        kind = TRAINED
    elif case.name.startswith(("random", "ordinary")):
        kind = ORDINARY
    else:
        kind = OTHER
    kinds = np.full(exact.shape, kind, object)
    if kind in (ORDINARY, TRAINED, OTHER):
        kinds[(exact > 0) & (exact < eps)] = BLIND
    if kind == OTHER and any(word in case.name for word in FAR):
        kinds[exact > 8] = WRONG
    return np.where(_is_subnormal(exact, dtype), SUBNORMAL, kinds)


def _is_subnormal(exact: np.ndarray, dtype) -> np.ndarray:
    return (exact != 0) & (np.abs(exact) < float(ml_dtypes.finfo(dtype).smallest_normal))


def _spread(kinds: np.ndarray, true: np.ndarray, dtype) -> np.ndarray:
    """The heading of each entry of a gradient: that of its term where the terms' axes lead, else the case's own."""
    if true.shape[: kinds.ndim] == kinds.shape:
        spread = np.broadcast_to(kinds.reshape(kinds.shape + (1,) * (true.ndim - kinds.ndim)), true.shape)
    else:
        present = set(kinds.ravel())
        spread = np.full(true.shape, present.pop() if len(present) == 1 else OTHER, object)
    return np.where(_is_subnormal(true, dtype), SUBNORMAL, spread)


# -- the inputs -------------------------------------------------------------------------------------------------------


@cache
def all_cases(name: str, dtype: str, seed: int) -> tuple[Case, ...]:
    """The inputs of verification, and inputs on which it is known what is right."""
    loss = losses()[name]
    rng = np.random.default_rng([seed, *b"compare", *name.encode()])
    known = [_case(loss, what, arguments, dtype, rng) for what, arguments in _known_answers(loss, dtype, rng)]
    return (*(_without_weight_on_masks(loss, case, rng) for case in case_set(name, dtype, seed)), *known)


def _without_weight_on_masks(loss: Loss, case: Case, rng) -> Case:
    """The gradient of an output that is -inf is a convention: no cotangent there."""
    finite = np.isfinite(case.truth.terms.midpoint)
    if loss.reducible or finite.all():
        return case
    cotangent = np.where(finite, case.cotangent, 0.0)
    truth = yardstick(loss, **case.arguments, cotangent=cotangent, rng=rng)
    return Case(case.name, case.arguments, cotangent, truth)


def forget() -> None:
    """Let go of the inputs and their exact answers: those of all losses together take gigabytes."""
    all_cases.cache_clear()
    case_set.cache_clear()


def _case(loss: Loss, what: str, given: dict, dtype: str, rng) -> Case:
    arguments = {name: argument.default for name, argument in loss.arguments.items()} | given
    for name, value in given.items():
        if isinstance(loss.arguments[name].declaration, RealNumber):
            arguments[name] = np.asarray(value).astype(dtype)
    shape = loss._terms_shape(loss._bind((), arguments))
    cotangent = np.ldexp(np.rint(np.ldexp(rng.standard_normal(shape), 6)), -6)
    return Case(what, arguments, cotangent, yardstick(loss, **arguments, cotangent=cotangent, rng=rng))


def _known_answers(loss: Loss, dtype: str, rng) -> Iterator[tuple[str, dict]]:
    """Rows that are right, or wrong, by leads between eps and underflow; the targets by labels, one-hot or 0 and 1."""
    if len(loss.of) != 1:
        return
    (name,) = loss.of
    scores = loss.arguments[name].declaration
    others = {n: a.declaration for n, a in loss.arguments.items() if n != name and (a.required or n == "labels")}
    if len(others) != 1 or not isinstance(scores, RealNumber):
        return
    ((target, kind),) = others.items()
    blind, gone = blind_band(dtype)
    leads = [np.ceil(blind), np.floor((blind + gone) / 2), np.floor(gone)]
    if scores.names == ["..."]:
        yes = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
        if scores.interval.high == 1:
            eps = float(ml_dtypes.finfo(dtype).eps)
            sure, unsure = 1 - 8 * eps, eps**2
            yield "ordinary, targets 0 and 1", {name: rng.uniform(0.02, 0.98, yes.shape), target: yes}
            yield "the label is right", {name: np.where(yes == 1, sure, unsure), target: yes}
            yield "the label is wrong", {name: np.where(yes == 1, unsure, sure), target: yes}
        elif scores.interval.low == -np.inf and scores.interval.high == np.inf:
            yield "ordinary, targets 0 and 1", {name: 2 * rng.standard_normal(yes.shape), target: yes}
            for lead in leads:
                yield f"the label is right by {lead:g}", {name: np.where(yes == 1, lead, -lead), target: yes}
                yield f"the label is wrong by {lead:g}", {name: np.where(yes == 1, -lead, lead), target: yes}
        return
    if len(scores.names) != 2:
        return
    rows, classes = 5, 5
    labels = rng.permutation(classes)
    if isinstance(kind, ClassLabels) and len(kind.names) == 1:
        given = {target: labels}
    elif isinstance(kind, RealNumber) and kind.names == scores.names:
        given = {target: np.eye(classes)[labels]}
    else:
        return
    x = scores.scale * np.ldexp(rng.integers(-128, 128, (rows, classes)), -6)
    at_label, at_other = np.eye(classes)[labels] == 1, np.eye(classes)[(labels + 2) % classes] == 1
    if scores.interval.high < np.inf:  # log-probabilities
        return
    yield "ordinary", {name: x, **given}
    top = x.max(axis=1, keepdims=True)
    for lead in leads:
        yield f"the label is right by {lead:g}", {name: np.where(at_label, top + scores.scale * lead, x), **given}
        yield f"the label is wrong by {lead:g}", {name: np.where(at_other, top + scores.scale * lead, x), **given}
