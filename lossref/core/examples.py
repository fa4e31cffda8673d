"""Examples of a loss's arguments, made from their declarations: random, hard, and bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .declarations import Argument


class Examples:
    """The part of a Loss that makes arguments for tests, for verification and for the oracle."""

    name: str
    of: tuple[str, ...]
    arguments: dict[str, Argument]
    reducible: bool
    arrange_rule: Callable | None
    hard_rule: Callable | None
    _bind: Callable

    def example(self, rng, sizes: dict | None = None, **fixed) -> dict:
        """Random valid arguments by name; ``sizes`` fixes dimensions, ``fixed`` fixes arguments."""
        problem = None
        for _ in range(200):
            chosen = self._draw(rng, sizes or {}, fixed)
            try:
                self._bind((), chosen)
            except ValueError as refused:
                problem = refused
                continue
            return chosen
        raise ValueError(f"{self.name}: no valid example found in 200 tries; the last refusal: {problem}")

    def _draw(self, rng, sizes: dict, fixed: dict) -> dict:
        dims = [d for a in self.arguments.values() if a.is_array for d in a.declaration.names]
        sizes = {d: (3, 4) if d == "..." else int(rng.integers(2, 7)) for d in dict.fromkeys(dims)} | sizes
        values = {name: a.default for name, a in self.arguments.items()} | fixed
        # Numbers before arrays, and index arrays after the lengths that they depend on.
        order = sorted(self.arguments.values(), key=lambda a: (a.is_array, a.depends_on_lengths()))
        for argument in order:
            if argument.name in fixed:
                continue
            if argument.required or rng.uniform() < 0.4:
                values[argument.name] = argument.declaration.random(rng, sizes, values)
        if len(fixed) < sum(not a.required for a in self.arguments.values()):
            for name, argument in self.arguments.items():
                values[name] = (
                    argument.declaration.vary(rng, values[name], values) if name not in fixed else values[name]
                )
        if self.arrange_rule is not None:
            values |= {name: v for name, v in self.arrange_rule(**values).items() if name not in fixed}
        return values

    def defaults(self, rng, sizes: dict | None = None) -> dict:
        """Random required arguments, every option at its default."""
        return self.example(rng, sizes, **{n: a.default for n, a in self.arguments.items() if not a.required})

    def hard_cases(self, rng, dtype=np.float64) -> Iterator[tuple[str, dict]]:
        """Valid arguments on which the obvious code fails, as (what is hard, arguments by name)."""
        base = self.defaults(rng)
        sizes = {dim: size for dim, (size, _) in self._bind((), base).context.sizes.items()}
        variants = {
            a.name: list(a.declaration.hard(base[a.name], sizes, base, dtype))
            for a in self.arguments.values()
            if a.required and a.is_array
        }
        found = []
        for name in self.of:
            for what, value in variants.pop(name, []):
                found.append((f"{name}: {what}", {**base, name: value}))
        others = [(f"{name}: {what}", {name: value}) for name, cases in variants.items() for what, value in cases]
        found += [(f"{what}; {other}", {**case, **change}) for what, case in found for other, change in others]
        found += [(what, {**base, **change}) for what, change in others]
        if self.hard_rule is not None:
            found += list(self.hard_rule(rng, np.dtype(dtype)))
        for what, case in found:
            try:
                self._bind((), case)
            except ValueError:
                continue
            yield what, case

    def bad_calls(self, rng) -> Iterator[tuple[str, str, dict]]:
        """Calls that must be refused, as (argument, what is wrong with it, arguments by name)."""
        base = self.defaults(rng)
        sizes = {dim: size for dim, (size, _) in self._bind((), base).context.sizes.items()}
        for name, argument in self.arguments.items():
            value = base[name]
            if value is None:
                value = argument.declaration.random(rng, sizes, base)
            for what, bad in argument.declaration.bad(value, sizes, base):
                yield name, what, {**base, name: bad}
            if argument.is_array and np.ndim(value) and "..." not in argument.declaration.names:
                dims = argument.declaration.names
                shared = [
                    a
                    for a in self.arguments.values()
                    if a.is_array and a is not argument and dims[0] in a.declaration.names and base[a.name] is not None
                ]
                if shared and np.shape(value)[0] > 1:
                    yield name, "too short", {**base, name: np.asarray(value)[:-1]}
        if self.reducible:
            yield "reduction", "an unknown reduction", {**base, "reduction": "average"}
            yield "divisor", "a divisor of 0", {**base, "divisor": 0}
