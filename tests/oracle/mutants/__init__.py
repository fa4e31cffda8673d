"""Bugs that shipped, as changes of right implementations: the oracle must catch and name every one.

A mutant's ``ordinary`` is an input on which it looks right: that is how it got past its tests.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    name: str
    loss: str
    value: Callable | None
    grad: Callable | None
    diagnoses: tuple[str, ...]  # one of these must name it
    ordinary: tuple  # positional arguments, and a dictionary of options, where it looks right
    verdict: tuple[str, ...] = ("wrong",)
    dtype: str = "float32"
    kwargs: dict | None = None
    tolerance: float = 1e-4
    quick: bool = False  # where the truth is dear, fewer cases must do

    def __str__(self):
        return self.name


ACCURACY = ("inaccurate",)
EITHER = ("inaccurate", "wrong")
