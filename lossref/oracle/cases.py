"""The inputs on which a candidate is judged, all of them made from the declarations of a loss.

Ordinary inputs show whether a candidate computes the right function; the others are there because somebody's bug was
invisible without them: the blind band, offsets, masks, sizes beside powers of two, ignored rows, ties, ends of
intervals, views, options in pairs. Deterministic for a given seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations

import ml_dtypes
import numpy as np

from lossref.core.declarations import (
    BinaryTargets,
    BooleanMask,
    Choice,
    ClassLabels,
    Distribution,
    Interval,
    RealNumber,
    Whole,
)
from lossref.core.loss import Loss

from .truth import epsilon, is_real

VERSION = "2026.11.22"  # of the case set: any change of it may make a passing candidate fail

NEUTRAL = (0.0, 0.5, 1.0)  # values of an option at which a wrong formula may be right
TILE_SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 65, 127, 129, 257)
QUICK_SIZES = (1, 7, 17, 33, 65)


@dataclass(frozen=True)
class Case:
    """One input: all arguments of the loss by name, and which of them are passed as options."""

    name: str
    kind: str
    arguments: dict
    passed: tuple[str, ...] = ()
    tags: dict = field(default_factory=dict)
    view: str = ""  # how the arrays lie in memory

    @property
    def ordinary(self) -> bool:
        return self.kind in ("ordinary", "size", "layout", "large")

    def arrays(self) -> dict:
        return {name: value for name, value in self.arguments.items() if isinstance(value, np.ndarray)}


@dataclass
class Scope:
    """What may be tried on a candidate."""

    loss: Loss
    dtype: np.dtype
    accepted: tuple[str, ...]  # options that may be passed
    fixed: dict | None  # options that are fixed, or None
    seed: int = 0
    quick: bool = False

    def takes(self, name: str | None) -> bool:
        return name is not None and (name in self.accepted or name in (self.fixed or {}))


def case_set(scope: Scope) -> Iterator[Case]:
    """All cases, in the order in which they are judged: ordinary ones first."""
    maker = _Maker(scope)
    seen = set()
    for made in maker.cases():
        case = maker.finished(made)
        if case is not None and (key := (case.name, case.view, case.passed)) not in seen:
            seen.add(key)
            yield case


def invalid_cases(scope: Scope) -> Iterator[Case]:
    """Masses that are negative though their logarithm is taken."""
    maker = _Maker(scope)
    for name in maker.real:
        if not isinstance(maker._declaration(name), Distribution):
            continue
        case = maker.example(None, maker._named_sizes((3, 3)))
        if case is None or np.ndim(case.arguments[name]) < 1:
            continue
        negative = np.full(np.shape(case.arguments[name]), 1.2 / max(np.shape(case.arguments[name])[-1] - 1, 1))
        negative[..., 0] = -0.2
        arguments = {
            n: np.asarray(v).astype(scope.dtype)
            if v is not None and scope.loss.arguments[n].is_array and is_real(scope.loss, n)
            else v
            for n, v in case.arguments.items()
        }
        arguments[name] = negative.astype(scope.dtype)
        yield replace(case, name=f"negative masses in {name}", kind="invalid", arguments=arguments)


class _Maker:
    def __init__(self, scope: Scope):
        self.scope, self.loss = scope, scope.loss
        self.rng = np.random.default_rng([scope.seed, *scope.loss.name.encode()])
        self.real = [n for n, a in self.loss.arguments.items() if a.is_array and is_real(self.loss, n) and a.required]
        self.free = [n for n in self.real if self._declaration(n).interval == Interval() and n in self.loss.of]
        self.labels = [n for n in self.loss.arguments if isinstance(self._declaration(n), ClassLabels)]
        self.required_labels = [n for n in self.labels if self.loss.arguments[n].required]
        self.dims = list(dict.fromkeys(d for a in self.loss.arguments.values() if a.is_array and a.required
                                       for d in a.declaration.names))  # fmt: skip
        self.shift = "shift" in self.loss.symmetries
        # Where each term depends on one entry, there is no row in which a class could be masked.
        self.elementwise = self.loss.reducible and self.loss.returns == "..."

    def _declaration(self, name: str):
        return self.loss.arguments[name].declaration

    # -- drawing -----------------------------------------------------------------------------------------------------

    def draw(self, options: dict | None = None, sizes: dict | None = None) -> tuple[dict, tuple[str, ...]]:
        """Random arguments with these options; an option whose value is ``...`` is an array to be drawn."""
        chosen = dict(self.scope.fixed or {}) | (options or {})
        to_draw = [name for name, value in chosen.items() if value is ...]
        plain = {n: a.default for n, a in self.loss.arguments.items() if not a.required}
        plain |= {n: v for n, v in chosen.items() if n in self.loss.arguments}
        for name in to_draw:
            plain.pop(name)
        for _ in range(60):
            arguments = self.loss.example(self.rng, sizes or {}, **plain)
            if all(arguments[name] is not None for name in to_draw):
                break
        arguments = self._without_ignored(arguments)
        arguments = {name: arguments[name] for name in self.loss.arguments}
        return arguments, tuple(name for name in chosen if name in self.loss.arguments)

    def _without_ignored(self, arguments: dict) -> dict:
        """A candidate that does not take ignore_index gets no ignored labels."""
        arguments = dict(arguments)
        for name in self.labels:
            ignore = self._declaration(name).ignore
            if ignore and arguments[name] is not None and not self.scope.takes(ignore):
                labels, ignored = np.array(arguments[name]), arguments[ignore]
                arguments[name] = np.where(labels == ignored, 0, labels)
        return arguments

    def finished(self, case: Case) -> Case | None:
        """The case in the dtype at hand; None if it is not valid there or its truth is beyond the dtype."""
        dtype, arguments = self.scope.dtype, {}
        for name, value in case.arguments.items():
            argument = self.loss.arguments[name]
            if value is not None and argument.is_array:
                value = np.array(value)
                if is_real(self.loss, name):
                    with np.errstate(all="ignore"):
                        value = value.astype(dtype)
                    if self.elementwise and np.isneginf(value.astype(np.float64)).any():
                        return None
                    if np.isinf(value.astype(np.float64)).any() and not getattr(argument.declaration, "masked", False):
                        return None
                mixed = argument.declaration.names if "..." in argument.declaration.names else []
                if (len(mixed) > 1 and value.ndim > len(mixed)) or (
                    len(self.dims) > 1 and mixed == ["..."] and value.ndim > 1
                ):
                    return None  # batches of more than one axis are the caller's to flatten
            arguments[name] = value
        arguments = self._without_ignored(arguments)
        try:
            self.loss._bind((), arguments)
        except (ValueError, TypeError):
            return None
        return replace(case, arguments=arguments)

    # -- options -----------------------------------------------------------------------------------------------------

    def option_values(self, name: str) -> list:
        """Values of an option that are neither its default nor neutral."""
        argument = self.loss.arguments[name]
        declaration, default = argument.declaration, argument.default
        if argument.is_array:
            return [...]
        if isinstance(declaration, RealNumber):
            if declaration.interval.high == 1 and declaration.interval.low == 0:
                values = [0.1, 0.7]
            elif isinstance(default, (int, float)) and np.isfinite(default) and default != 0:
                values = [round(0.6 * default, 4), round(2.3 * default, 4)]
            else:
                values = [1.7, 0.3]
            return [v for v in values if v not in (default, *NEUTRAL) and declaration.interval.contains(v)]
        if isinstance(declaration, Choice):
            return [word for word in declaration.words if word != default]
        if isinstance(declaration, BooleanMask):
            return [not default]
        if isinstance(declaration, Whole):
            if any(self._declaration(n).ignore == name for n in self.labels):
                return [1, -1]
            if name == "axis":
                return [0]
            return [default + 1] if isinstance(default, int) else [2]
        return []

    def option_sets(self) -> Iterator[tuple[str, dict]]:
        """The sets of options to try, as (how many options, options): none, one at a time, pairs."""
        if self.scope.fixed is not None:
            yield "fixed", {}
            return
        yield "default", {}
        values = {n: self.option_values(n) for n in self.scope.accepted if n in self.loss.arguments}
        for name, choices in values.items():
            for value in choices:
                yield "one", {name: value}
        if not self.scope.quick:
            for (a, first), (b, second) in combinations(values.items(), 2):
                if first and second:
                    yield "pair", {a: first[0], b: second[0]}

    # -- the cases ---------------------------------------------------------------------------------------------------

    def cases(self) -> Iterator[Case]:
        for how_many, options in self.option_sets():
            yield from self.ordinary(how_many, options)
        yield from self.leads()
        yield from self.offsets()
        yield from self.declared_hard()
        yield from self.edges()
        yield from self.no_entries()
        yield from self.masked()
        yield from self.excluded()
        yield from self.ignored()
        yield from self.layouts()
        yield from self.sizes()
        yield from self.large()
        yield from self.empty()

    def example(self, options=None, sizes=None, **tags) -> Case | None:
        """A drawn case, or None where this loss has no example of these sizes."""
        try:
            arguments, passed = self.draw(options, sizes)
        except (ValueError, TypeError, IndexError):
            return None
        return Case("", "ordinary", arguments, passed, tags)

    def ordinary(self, how_many: str, options: dict) -> Iterator[Case]:
        shapes = [(3, 5), (4, 4), (6, 2), (1, 3), (5, 3)]
        count = {"default": 5, "fixed": 5, "one": 3, "pair": 2}[how_many]
        if self.scope.quick:
            count = min(count, 2)
        text = ", ".join(f"{n}={_short(v)}" for n, v in options.items())
        for k in range(count):
            sizes = self._named_sizes(shapes[k])
            case = self.example(options, sizes) or self.example(options)
            if case is None:
                continue
            wide = k == count - 1 and self.free  # spread out: caps, margins and clamps begin to matter
            arguments = case.arguments
            if wide:
                arguments = {**arguments, **{n: np.asarray(arguments[n]) * 6 for n in self.free}}
            name = f"random {k}" + (", spread out" if wide else "") + (f", {text}" if text else "")
            yield replace(case, name=name, arguments=arguments, tags={"options": tuple(options)})

    def _named_sizes(self, shape) -> dict:
        """Sizes for the named dimensions in turn: few enough that exact arithmetic is quick."""
        if self.dims == ["..."]:
            return {"...": tuple(shape)}
        if "..." in self.dims:
            rest = [d for d in self.dims if d != "..."]
            return {"...": (shape[0],), **dict(zip(rest, (shape[1], 4, 3), strict=False))}
        return dict(zip(self.dims, shape, strict=False)) if len(self.dims) <= 2 else {}

    def leads(self) -> Iterator[Case]:
        """One entry ahead of its row by little, by much, by very much: the blind band and both of its ends."""
        info = ml_dtypes.finfo(self.scope.dtype)
        eps, tiny = float(info.eps), float(info.smallest_normal)
        blind, gone = -np.log(eps), -np.log(tiny) - 2.0
        leads = [0.0, 1.0, 2.0, 4.0, *np.linspace(5.0, 1.3 * blind, 9), *np.linspace(1.5 * blind, gone, 5)]
        leads = sorted({float(np.rint(4 * lead) / 4) for lead in leads if lead <= gone})
        leads += [float(np.rint(1.3 * gone)), float(np.rint(1.6 * gone))]  # e^-lead is 0 there
        for name in self.free:
            scale = self._declaration(name).scale
            steps = np.array(leads) * scale
            dims = (self._declaration(name).dims or "").split()
            if len(dims) == 2 or dims == ["..."]:
                for width, place in ((2, 0), (4, 2)):
                    # an entry beside 0, so that shifts do not hide that 0 is special
                    logits = (
                        np.tile(np.ldexp(np.rint(self.rng.standard_normal((1, width)) * 8), -4), (len(steps), 1))
                        * scale
                    )
                    for sign in (1, -1):
                        rows = logits.copy()
                        others = np.delete(rows, place, axis=1)
                        rows[:, place] = (others.max(axis=1) + steps) if sign > 0 else (others.min(axis=1) - steps)
                        for on in (True, False) if self.required_labels else (True,):
                            yield from self._lead_case(name, rows, steps, sign, place, on)
            elif len(dims) == 1:
                for sign in (1, -1):
                    yield from self._vector_case(name, sign * steps, steps)

    def _lead_case(self, name, rows, steps, sign, place, on) -> Iterator[Case]:
        dims = (self._declaration(name).dims or "").split()
        sizes = {"...": rows.shape} if dims == ["..."] else dict(zip(dims, rows.shape, strict=True))
        case = self.example(None, sizes)
        if case is None:
            return
        arguments = {**case.arguments, name: rows}
        for label in self.required_labels:
            labels = np.full(np.shape(arguments[label]), place if on else (place + 1) % rows.shape[1])
            arguments[label] = labels
        word = "leads" if sign > 0 else "trails"
        what = "" if not self.required_labels else (", at the label" if on else ", not at the label")
        text = f"one of {rows.shape[1]} entries {word} by up to {steps.max():g}{what}"
        tags = {"lead": steps, "sign": sign, "on": on}
        yield replace(case, name=text, kind="lead", arguments=arguments, tags=tags)
        if not self.loss.reducible:  # any other weights would drown what is small at the leader
            more = f"{text}, with a cotangent there alone"
            yield replace(case, name=more, kind="lead", arguments=arguments, tags={**tags, "alone": place})
        for other in self.real:  # hard targets: a soft one leaves nothing small
            interval = self._declaration(other).interval
            if other == name or np.shape(arguments[other]) != rows.shape or (interval.low, interval.high) != (0, 1):
                continue
            for target in (0.0, 1.0):
                changed = {**arguments, other: np.full(rows.shape, target)}
                more = f"{text}, {other} {target:g}"
                yield replace(case, name=more, kind="lead", arguments=changed, tags=tags)

    def _vector_case(self, name, vector, steps) -> Iterator[Case]:
        case = self.example(None, {(self._declaration(name).dims or "").split()[0]: len(vector)})
        if case is not None:
            arguments = {**case.arguments, name: vector}
            direction = "up" if vector.sum() > 0 else "down"
            yield replace(case, name=f"{name} {direction} to {vector[np.argmax(abs(vector))]:g}", kind="lead",
                          arguments=arguments, tags={"lead": steps, "sign": np.sign(vector.sum())})  # fmt: skip

    def offsets(self) -> Iterator[Case]:
        """Rows whose entries share an offset that keeps their differences exact: nothing may change."""
        if not self.shift:
            return
        for name in self.free:
            dims = (self._declaration(name).dims or "").split()
            if len(dims) > 2:
                continue
            grid = 2.0 ** np.ceil(np.log2(self._declaration(name).scale))
            largest = 2.0**-6 / epsilon(self.scope.dtype)
            some = [0.0, -20.0, 64.0, -128.0, 1000.0, -1000.0, 2.0**14, 2.0**20, 1e8]
            some = [grid * np.rint(o) for o in some if abs(o) <= largest] + [grid * largest, -grid * largest]
            for rows in (np.array(some), np.array(some[2:4])):
                width = 4
                sizes = (
                    {"...": (len(rows), width)}
                    if dims == ["..."]
                    else dict(zip(dims, (len(rows), width), strict=False))
                )
                case = self.example(None, sizes)
                if case is None or np.shape(case.arguments[name]) != (len(rows), width):
                    continue
                base = grid * np.rint(np.asarray(case.arguments[name]) / grid)
                base[:, -1] = base[:, 0]  # a tie in every row
                text = f"a common offset of {rows[0]:g} to {rows[-1]:g} in each row"
                yield replace(case, name=text, kind="offset", arguments={**case.arguments, name: base + rows[:, None]},
                              tags={"offset": rows})  # fmt: skip

    def declared_hard(self) -> Iterator[Case]:
        """The hard inputs that the declarations and the loss itself name."""
        rng = np.random.default_rng([self.scope.seed, 7, *self.loss.name.encode()])
        passed = tuple(self.scope.fixed or {})
        fixed = {n: v for n, v in (self.scope.fixed or {}).items() if n in self.loss.arguments}
        found = list(self.loss.hard_cases(rng, self.scope.dtype))
        if self.scope.quick:
            found = found[::3]
        flags = [n for n, a in self.loss.arguments.items() if isinstance(a.declaration, BooleanMask) and not a.is_array]
        if self.loss.hard_rule is not None and self.scope.fixed is None:
            own = list(self.loss.hard_rule(rng, self.scope.dtype))
            for flag in (n for n in flags if self.scope.takes(n) and not self.loss.arguments[n].required):
                value = not self.loss.arguments[flag].default
                found += [(f"{what}, {flag}={value}", {**arguments, flag: value}) for what, arguments in own]
        defaults = {n: a.default for n, a in self.loss.arguments.items() if not a.required}
        for what, arguments in found:
            arguments = {n: {**defaults, **arguments, **fixed}[n] for n in self.loss.arguments}
            given = tuple(
                n for n, a in self.loss.arguments.items() if not a.required and not _is(arguments[n], a.default)
            )
            if not all(self.scope.takes(n) for n in given):
                continue
            yield Case(what, "hard", arguments, tuple(dict.fromkeys((*passed, *given))), {"hard": what})

    def edges(self) -> Iterator[Case]:
        """Zeros, ties, duplicates, whole numbers, the ends of intervals."""
        for size in ((4, 3), (3, 2)):
            case = self.example(None, self._named_sizes(size)) or self.example()
            if case is None or not self.real:
                return
            base = {n: np.asarray(case.arguments[n], np.float64) for n in self.real}

            def made(what, changes, case=case):
                return replace(case, name=what, kind="edge", arguments={**case.arguments, **changes})

            if self.free:
                yield made("all entries 0", {n: base[n] * 0 for n in self.free})
                yield made("all entries equal", {n: base[n] * 0 + 2.5 for n in self.free})
            for n in self.real:
                interval = self._declaration(n).interval
                if isinstance(self._declaration(n), (Distribution, BinaryTargets)):
                    continue
                ends = [
                    e
                    for e, closed in ((interval.low, interval.low_closed), (interval.high, interval.high_closed))
                    if closed
                ]
                for end in ends:
                    yield made(f"{n} {end:g} everywhere", {n: base[n] * 0 + end})
                    mixed = base[n].copy()
                    mixed.flat[::2] = end
                    yield made(f"{n} {end:g} here and there", {n: mixed})
                if interval.low == 0 and interval.high > 3:
                    yield made(f"{n} whole numbers", {n: np.arange(1, 1 + base[n].size).reshape(base[n].shape) * 1.0})
                for other in self.real:
                    if other != n and base[other].shape == base[n].shape:
                        yield made(f"{n} equal to {other}", {n: base[other]})
                        if (interval.low, interval.high) == (0, 1) and self._declaration(other).interval == interval:
                            yield made(f"{n} and {other} 0 everywhere", {n: base[n] * 0, other: base[n] * 0})
                            yield made(f"{n} tiny and {other} 0", {n: base[n] * 0 + 2.0**-12, other: base[n] * 0})
                            yield made(f"{n} and {other} 1 everywhere", {n: base[n] * 0 + 1, other: base[n] * 0 + 1})
                if base[n].ndim >= 2 and len(base[n]) > 1:
                    twice = base[n].copy()
                    twice[1] = twice[0]
                    yield made(f"two equal rows in {n}", {n: twice})

    def no_entries(self) -> Iterator[Case]:
        """Rows whose length is said to be 0."""
        for name, argument in self.loss.arguments.items():
            declaration = argument.declaration
            if not (isinstance(declaration, Whole) and argument.is_array and declaration.low == 0):
                continue
            if not argument.required and not self.scope.takes(name):
                continue
            for _ in range(2):
                case = self.example({} if argument.required else {name: ...})
                if case is not None and np.size(case.arguments[name]):
                    lengths = np.array(case.arguments[name])
                    lengths.flat[0] = 0
                    yield replace(
                        case, name=f"{name} 0 in one row", kind="edge", arguments={**case.arguments, name: lengths}
                    )

    def masked(self) -> Iterator[Case]:
        """Classes that cannot occur: -inf at the beginning, at the end, everywhere but once."""
        for name in self.free:
            declaration = self._declaration(name)
            dims = (declaration.dims or "").split()
            if not declaration.masked or not (len(dims) == 2 or dims == ["..."]) or self.elementwise:
                continue
            for width in (3, 8, 11):
                column = np.arange(width)
                patterns = [
                    column >= width // 2,
                    column < (width + 1) // 2,
                    column % 2 == 0,
                    column == width - 1,
                    column != 0,
                ]
                keep = np.array(patterns)
                shape = keep.shape
                sizes = {"...": shape} if dims == ["..."] else dict(zip(dims, shape, strict=True))
                case = self.example(None, sizes)
                if case is None or np.shape(case.arguments[name]) != shape:
                    continue
                if _spreads_over_classes(case.arguments):
                    return
                arguments = {**case.arguments, name: np.where(keep, case.arguments[name], -np.inf)}
                for label in self.required_labels:
                    arguments[label] = np.array([np.flatnonzero(row)[-1] for row in keep])
                for other in self.real:  # no target on a class that cannot occur
                    if (
                        other != name
                        and np.shape(arguments[other]) == shape
                        and self._declaration(other).interval.low == 0
                    ):
                        arguments[other] = (np.arange(width) == [[np.flatnonzero(row)[-1]] for row in keep]) * 1.0
                yield replace(case, name=f"some of {width} entries masked with -inf", kind="mask", arguments=arguments,
                              tags={"masked": True})  # fmt: skip

    def excluded(self) -> Iterator[Case]:
        """An entry that a boolean mask excludes is much larger than all others."""
        for mask, argument in self.loss.arguments.items():
            if not (isinstance(argument.declaration, BooleanMask) and argument.is_array):
                continue
            if not argument.required and not self.scope.takes(mask):
                continue
            for name in self.free:
                case = self.example({} if argument.required or mask in (self.scope.fixed or {}) else {mask: ...},
                                    dict(zip(self.dims, (4, 5),
                                        strict=False)) if len(self.dims) == 2 else None)  # fmt: skip
                if case is None or np.shape(case.arguments[mask]) != np.shape(case.arguments[name]):
                    continue
                top = float(np.log(float(ml_dtypes.finfo(self.scope.dtype).max)))
                for raised in (2.0, 1.2 * top):
                    keep = np.array(case.arguments[mask])
                    keep[..., -1] = False
                    x = np.array(case.arguments[name], np.float64)
                    x[..., -1] = raised
                    if x.shape[0] >= x.shape[1]:  # a positive on the diagonal stays ordinary
                        x[x.shape[1] - 1, -1] = 0.0
                    yield replace(case, name=f"an excluded entry of {raised:g}", kind="mask",
                                  arguments={**case.arguments, name: x, mask: keep},
                                  tags={"excluded": True})  # fmt: skip
                    if (
                        not argument.required
                        and "temperature" in self.loss.arguments
                        and self.scope.takes("temperature")
                    ):
                        yield replace(case, name=f"an excluded entry of {raised:g}, temperature=1", kind="mask",
                                      arguments={**case.arguments, name: x, mask: keep, "temperature": 1.0},
                                      passed=tuple(dict.fromkeys((*case.passed, "temperature"))),
                                      tags={"excluded": True})  # fmt: skip

    def ignored(self) -> Iterator[Case]:
        """Some rows ignored, one kept, none kept; extreme numbers in rows that do not count."""
        for label in self.required_labels:
            ignore = self._declaration(label).ignore
            if not ignore or not self.scope.takes(ignore):
                continue
            extras: list[dict] = [{}]
            if self.scope.fixed is None:
                others = [n for n in self.scope.accepted if n in self.loss.arguments and n != ignore]
                extras += [{n: self.option_values(n)[0]} for n in others if self.option_values(n)]
            for options in extras:
                case = self.example(options, self._named_sizes((8, 3)) or None)
                if case is None:
                    continue
                labels, ignored = np.array(case.arguments[label]), case.arguments[ignore]
                legal = np.where(labels == ignored, 0 if ignored != 0 else 1, labels)
                unequal, third, last = legal.copy(), legal.copy(), legal.copy()
                unequal.flat[1 : labels.size // 2] = ignored  # 1 row kept in one half, all in the other
                third.flat[::3] = ignored
                last.flat[1:] = ignored
                text = ", ".join(f"{n}={_short(v)}" for n, v in options.items())
                text = f", {text}" if text else ""

                def made(what, changed, tags=None, case=case, label=label, text=text, **more):
                    arguments = {**case.arguments, label: changed, **more}
                    return replace(case, name=what + text, kind="ignored", arguments=arguments, tags=tags or {})

                yield made("most of one half ignored", unequal)
                yield made("every third row ignored", third)
                if options:
                    continue
                yield made("one row kept", last)
                for name in self.free:
                    x = np.array(case.arguments[name], np.float64)
                    if x.ndim == 2 and len(x) == third.size:
                        wild = x.copy()
                        wild[third == ignored] = np.array([300.0, -300.0] + [0.0] * (x.shape[1] - 2))
                        yield made("extreme numbers in ignored rows", third, **{name: wild})
                        masked = np.array([-np.inf, 0.0] + [1.0] * (x.shape[1] - 2))
                        if self._declaration(name).masked:
                            wild = x.copy()
                            wild[third == ignored] = masked
                            yield made("-inf in ignored rows", third, **{name: wild})
                yield made("every row ignored", np.full_like(legal, ignored), {"nothing counts": True})

    def layouts(self) -> Iterator[Case]:
        """The same numbers in other places: columns, steps, reversed, broadcast, read-only."""
        case = self.example(None, self._named_sizes((4, 5))) or self.example()
        if case is None:
            return
        for view in VIEWS:
            yield replace(case, name=f"arrays that are {view}", kind="layout", view=view)
        equal = {n: np.broadcast_to(np.asarray(v)[:1], np.shape(v)) for n, v in case.arguments.items()
                 if n in self.free and np.ndim(v) >= 2}  # fmt: skip
        if equal:
            yield replace(case, name="one row, broadcast", kind="layout", view="broadcast",
                          arguments={**case.arguments, **equal})  # fmt: skip

    def sizes(self) -> Iterator[Case]:
        """Every dimension just below, at, and just above powers of two; ordinary rows and rows far below 0."""
        chosen = QUICK_SIZES if self.scope.quick else TILE_SIZES
        if len(self.dims) > 3 or not self.real:
            return
        for dim in self.dims:
            for size in chosen:
                if dim == "...":
                    sizes = {
                        "...": (2, size) if self.dims == ["..."] else (size,),
                        **{d: 3 for d in self.dims if d != dim},
                    }
                else:
                    sizes = {d: (2 if d != "..." else (2,)) if d != dim else size for d in self.dims}
                    if len(self.dims) == 2 and dim == self.dims[0]:
                        sizes[self.dims[1]] = 3
                case = self.example(None, sizes)
                if case is None:
                    continue
                tags = {"dim": dim, "size": size}
                yield replace(case, name=f"{dim} = {size}", kind="size", tags=tags)
                if (self.free and self.shift and dim != self.dims[0]) or dim == "...":
                    low = {n: np.asarray(case.arguments[n], np.float64) - 20 for n in self.free}
                    if self.shift and low:
                        yield replace(case, name=f"{dim} = {size}, rows near -20", kind="size", tags=tags,
                                      arguments={**case.arguments, **low})  # fmt: skip

    def large(self) -> Iterator[Case]:
        """More entries than a 16-bit index can count, along each dimension; many equal entries."""
        if self.scope.quick or not 1 <= len(self.dims) <= 2 or not self.real:
            return
        if len(self.loss.of) > 1 or (len(self.dims) == 2 and len(self.real) > 1):
            return
        shapes = [(9001, 5), (3, 11003)]
        for shape in shapes:
            sizes: dict[str, int | tuple[int, ...]]
            if self.dims == ["..."]:
                sizes = {"...": shape}
            elif len(self.dims) == 1:
                sizes = {self.dims[0]: shape[0] * shape[1]}
            else:
                sizes = dict(zip(self.dims, shape, strict=True))
            if len(self.dims) == 2 and not self.loss.row_wise:
                continue
            case = self.example(None, sizes)
            if case is None:
                continue
            yield replace(
                case, name=f"large: {' × '.join(map(str, shape))} entries", kind="large", tags={"shape": shape}
            )
        if self.free and self.dims[-1:] in (["..."], ["C"]):
            for width in (300, 4000):
                sizes = {"...": (1, width)} if self.dims == ["..."] else {self.dims[0]: 1, self.dims[-1]: width}
                case = self.example(None, sizes)
                if case is not None:
                    flat = {n: np.zeros(np.shape(case.arguments[n])) + 0.75 for n in self.free}
                    yield replace(case, name=f"{width} equal entries", kind="hard",
                                  arguments={**case.arguments, **flat}, tags={"uniform": True})  # fmt: skip

    def empty(self) -> Iterator[Case]:
        """No rows at all."""
        if not self.loss.reducible or not isinstance(self.loss.returns, str) or not self.loss.returns.split():
            return
        dim = self.loss.returns.split()[0]
        sizes = {"...": (0, 3)} if dim == "..." else {**self._named_sizes((3, 3)), dim: 0}
        case = self.example(None, sizes)
        if case is not None:
            yield replace(case, name="no rows", kind="empty", tags={"nothing counts": True})


def _spreads_over_classes(arguments: dict) -> bool:
    """Whether every class has a share in the target, so that a masked class makes the loss infinite."""
    return any(arguments.get(name) for name in ("label_smoothing",))


def _is(x, y) -> bool:
    return x is y or (np.ndim(x) == 0 and np.ndim(y) == 0 and x == y)


def _short(value) -> str:
    return "array" if value is ... or isinstance(value, np.ndarray) else repr(value)


# -- views -----------------------------------------------------------------------------------------------------------


def _columns(x):
    return np.asfortranarray(x)


def _steps(x):
    base = np.full(tuple(2 * n for n in x.shape), 7 if x.dtype.kind in "iub" else 7.0, x.dtype)
    base[tuple(slice(0, None, 2) for _ in x.shape)] = x
    return base[tuple(slice(0, None, 2) for _ in x.shape)]


def _slice(x):
    base = np.full(tuple(n + 2 for n in x.shape), 5 if x.dtype.kind in "iub" else -5.0, x.dtype)
    base[tuple(slice(1, n + 1) for n in x.shape)] = x
    return base[tuple(slice(1, n + 1) for n in x.shape)]


def _reversed(x):
    reverse = tuple(slice(None, None, -1) for _ in x.shape)
    return np.ascontiguousarray(x[reverse])[reverse]


def _transposed(x):
    return np.ascontiguousarray(x.T).T


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _broadcast(x):
    rows = x.shape[0] if x.ndim else 0
    if x.ndim >= 1 and rows > 1 and all(np.array_equal(row, x[0]) for row in x):
        return np.broadcast_to(x[0].copy(), x.shape)
    return x.copy()


VIEWS = {
    "columns of a matrix": _columns,
    "every second entry": _steps,
    "a part of a larger array": _slice,
    "reversed": _reversed,
    "transposed": _transposed,
    "read-only": _read_only,
}


def laid_out(x: np.ndarray, view: str) -> np.ndarray:
    """The same numbers lying otherwise in memory."""
    if view == "broadcast":
        return _broadcast(x)
    if view and x.ndim:
        return VIEWS[view](x)
    return x.copy()
