"""The implementation under judgement: how it is called, and which options it says that it takes."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from lossref.core.loss import Loss

REQUIRED = inspect.Parameter.empty
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class NotTaken(Exception):
    """What a candidate says that it lacks: an option, or a kind of input. It is not judged there."""


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings of the candidate (the mean of an empty slice, an overflow) are not what is judged: its numbers are."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


class Accepted:
    """What a function's signature accepts: the options that it names, and whether it takes any keyword.

    A catch-all whose name begins with an underscore (``**_``) says that other keywords are ignored on purpose: they
    are not tried.
    """

    def __init__(self, function: Callable | None, loss: Loss):
        self.names: tuple[str, ...] = ()
        self.positional: list[str] = []
        self.keyword_only: set[str] = set()
        self.takes_any = False
        self.takes_any_position = False
        try:
            parameters = list(inspect.signature(function).parameters.values()) if function is not None else []
        except (TypeError, ValueError):  # a built-in says nothing: the required arguments are all that is sure
            parameters = []
            self.takes_any_position = True
        self.names = tuple(p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        self.positional = [p.name for p in parameters if p.kind in POSITIONAL]
        self.keyword_only = {p.name for p in parameters if p.kind == p.KEYWORD_ONLY}
        self.takes_any_position |= any(p.kind == p.VAR_POSITIONAL for p in parameters)
        self.takes_any = any(p.kind == p.VAR_KEYWORD and not p.name.startswith("_") for p in parameters)

    def takes(self, name: str) -> bool:
        return self.takes_any or name in self.names


class Candidate:
    """A candidate on NumPy arrays; adapters for frameworks override ``run_value`` and ``run_grad``."""

    framework = "numpy"
    tries = 160  # calls that making one failing case smaller may cost

    def __init__(self, loss: Loss, value: Callable | None, grad: Callable | None):
        self.loss, self.value_function, self.grad_function = loss, value, grad
        self.accepts_value = Accepted(value, loss) if value is not None else None
        self.accepts_grad = Accepted(grad, loss) if grad is not None else None
        self.has_value, self.has_grad = value is not None, grad is not None
        kinds = {p.name: p.kind for p in inspect.signature(loss.definition).parameters.values()}
        self.positional_names = [n for n, a in loss.arguments.items() if a.required and kinds[n] in POSITIONAL]
        self.refused: set[str] = set()  # options that a catch-all took and the code behind it refused

    # -- which options are tried -------------------------------------------------------------------------------------

    def takes(self, name: str) -> bool:
        """Whether every function given takes this option."""
        if name in self.refused:
            return False
        return all(a.takes(name) for a in (self.accepts_value, self.accepts_grad) if a is not None)

    def names(self, name: str) -> bool:
        """Whether every function given names this option, not only a catch-all."""
        return all(name in a.names for a in (self.accepts_value, self.accepts_grad) if a is not None)

    # -- calls ---------------------------------------------------------------------------------------------------------

    def value(self, arguments: dict, passed: tuple[str, ...], reduction: dict):
        positional, keywords = self._arrange(self.accepts_value, arguments, passed, reduction)
        return self.run_value(positional, keywords)

    def grad(self, arguments: dict, passed: tuple[str, ...], reduction: dict, cotangent):
        positional, keywords = self._arrange(self.accepts_grad, arguments, passed, reduction)
        return self.run_grad(positional, keywords, cotangent)

    def run_value(self, positional, keywords):
        """Call the value function; both dictionaries are by the names that the loss has for its arguments."""
        with quiet():
            return self.value_function(*positional.values(), **keywords)

    def run_grad(self, positional, keywords, cotangent):
        if self.accepts_grad is not None and self.takes_cotangent:
            keywords = {**keywords, "cotangent": cotangent}
        with quiet():
            return self.grad_function(*positional.values(), **keywords)

    @property
    def takes_cotangent(self) -> bool:
        return self.accepts_grad is None or self.accepts_grad.takes("cotangent")

    def close(self) -> None:
        """Give back what the adapter holds."""

    def _arrange(self, accepted: Accepted | None, arguments: dict, passed: tuple[str, ...], reduction: dict):
        """Positional and keyword arguments of a call: required ones by position where that can be, options by name."""
        positional: dict = {}
        keywords: dict = {}
        by_name = accepted.keyword_only if accepted is not None else set()
        slots = list(accepted.positional) if accepted is not None else []
        for name, argument in self.loss.arguments.items():
            if name in self.positional_names and name not in by_name:
                positional[name] = arguments[name]
            elif argument.required:
                keywords[name] = arguments[name]
            elif name in passed and arguments[name] is not None:
                known = accepted is None or accepted.takes(name)
                slot = slots[len(positional)] if len(positional) < len(slots) else None
                if argument.is_array and not known and slot not in (None, *self.loss.arguments):
                    positional[name] = arguments[name]  # the candidate calls it otherwise, but it stands there
                elif known:
                    keywords[name] = arguments[name]
        for name, given in reduction.items():
            if accepted is None or accepted.takes(name):
                keywords[name] = given
        return positional, keywords


def as_array(result) -> np.ndarray:
    """A result as a NumPy array, whatever it came as."""
    if isinstance(result, np.ndarray):
        return result
    return np.asarray(result)


def as_gradients(result, count: int) -> tuple:
    """What a gradient function returned, as a tuple with one entry per differentiable argument."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, (tuple, list)) and (count > 1 or len(result) == 1):
        return tuple(None if g is None else as_array(g) for g in result)
    return (as_array(result),)
