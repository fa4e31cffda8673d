"""Mutations: a test that has not seen a bug proves nothing.

Every gradient is broken in thirteen ways, and the registry's own tests must notice each.
``python tests/test_mutations.py`` prints which test caught what.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import lossref as lr
from lossref.core.loss import Loss
from lossref.exact.verification import GRADIENT_LIMIT, case_set, errors

_spec = importlib.util.spec_from_file_location("registry_tests", Path(__file__).with_name("test_registry.py"))
registry_tests = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(registry_tests)

LOSSES = {name: loss for name, loss in lr.losses().items() if loss.differentiable}


def one_entry_zero(g):
    g = g.copy()
    if g.size:
        g.flat[int(np.argmax(abs(np.nan_to_num(g))))] = 0
    return g


# What happens to a gradient that is otherwise right. Each must change some gradient of every loss.
OF_THE_GRADIENT = {
    "wrong sign": lambda g: -g,
    "factor 1 + 1e-6": lambda g: g * (1 + 1e-6),
    "factor 1 - 1e-6": lambda g: g * (1 - 1e-6),
    "half": lambda g: g / 2,
    "one entry lost": one_entry_zero,
    "digits lost below 1e-9": lambda g: (g + 1e9) - 1e9,
    "a small constant added": lambda g: g + 1e-10,
    "the neighbour's gradient": lambda g: np.roll(g.ravel(), 1).reshape(g.shape),
    "squared": lambda g: g * abs(g),
}
# What happens to the weights of the terms on the way to the gradient.
OF_THE_WEIGHTS = {
    "cotangent ignored": lambda w: np.ones_like(w),
    "cotangent applied twice": lambda w: w * w,
    "reduction divided once more": lambda w: w / (w.size + 1),
    "cotangent of the next term": lambda w: np.roll(w.ravel(), 1).reshape(w.shape) if w.size > 1 else w * 2,
}
MUTATIONS = [*OF_THE_GRADIENT, *OF_THE_WEIGHTS]
UNBROKEN = "nothing"
OF_THE_GRADIENT[UNBROKEN] = lambda g: g


class Mutant(Loss):
    """A loss with a broken way to its gradient; everything else is the original's."""

    def __init__(self, loss, mutation):
        self.__dict__.update(loss.__dict__, mutation=mutation)

    def _vjp(self, call, weights):
        if self.mutation in OF_THE_WEIGHTS:
            return super()._vjp(call, OF_THE_WEIGHTS[self.mutation](np.asarray(weights)).astype(call.dtype))
        return tuple(OF_THE_GRADIENT[self.mutation](g).astype(call.dtype) for g in super()._vjp(call, weights))


def caught_by(mutant):
    """The first of the registry's tests that notices, or None."""
    for case in case_set(mutant.name, "float64", 0):
        with np.errstate(all="ignore"):
            if not errors(mutant, case, "float64")[1] <= GRADIENT_LIMIT:
                return f"the exact layer, on {case.name}"
    for test in (
        "test_gradient_is_linear_in_the_cotangent_and_each_term_has_its_own",
        "test_reduced_value_and_gradient_are_exact",
    ):
        try:
            getattr(registry_tests, test)(mutant)
        except AssertionError:
            return test
    return None


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in LOSSES])
def test_the_registry_catches_every_mutation(name):
    assert caught_by(Mutant(LOSSES[name], UNBROKEN)) is None, "being caught must mean something"
    escaped = [mutation for mutation in MUTATIONS if caught_by(Mutant(LOSSES[name], mutation)) is None]
    assert not escaped


if __name__ == "__main__":
    from rich.console import Console
    from rich.table import Table

    table = Table("loss", "mutation", "caught by")
    for name, loss in LOSSES.items():
        for mutation in MUTATIONS:
            table.add_row(name, mutation, caught_by(Mutant(loss, mutation)) or "[red]nothing[/red]")
    Console().print(table)
