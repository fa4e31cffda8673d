"""What the adapters of frameworks share: arrays go in as the framework's own, results come back as NumPy arrays.

An adapter says how an array is made and read, and how its framework pulls a cotangent back through a function.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module

import numpy as np

from lossref.core.errors import message

from ..candidates import Candidate, quiet


def imported(module: str, title: str, package: str):
    """The framework; a candidate of it has usually loaded it already."""
    try:
        return import_module(module)
    except ImportError as problem:
        raise ImportError(
            message("framework", f"{title} to be installed (pip install {package})", str(problem))
        ) from None


class FrameworkCandidate(Candidate):
    """A function of a framework's arrays. Its gradient is the framework's, unless a function for it is given."""

    def __init__(self, loss, value, grad):
        super().__init__(loss, value, grad)
        self.by_framework = grad is None
        if self.by_framework:  # it is the value function that is called, and differentiated
            self.accepts_grad, self.has_grad = self.accepts_value, loss.differentiable

    @property
    def takes_cotangent(self) -> bool:
        return self.by_framework or super().takes_cotangent

    # -- what an adapter says ----------------------------------------------------------------------------------------

    def own(self, x):
        """A NumPy array as the framework's; anything else as it is."""
        raise NotImplementedError

    def array(self, x) -> np.ndarray:
        """The framework's array as NumPy's."""
        raise NotImplementedError

    def pull_back(self, function: Callable, variables: list, cotangent: np.ndarray) -> list:
        """The vector-Jacobian product of the function at the variables."""
        raise NotImplementedError

    def settings(self) -> AbstractContextManager:
        """What is in force while the candidate runs."""
        return nullcontext()

    def evaluate(self, positional, keywords):
        return self.value_function(*positional, **keywords)

    # -- calls -------------------------------------------------------------------------------------------------------

    def run_value(self, positional, keywords):
        with quiet(), self.settings():
            positional, keywords = self._owned(positional), self._owned(keywords)
            return self.array(self.evaluate(list(positional.values()), keywords))

    def run_grad(self, positional, keywords, cotangent):
        with quiet(), self.settings():
            positional, keywords = self._owned(positional), self._owned(keywords)
            if self.by_framework:
                result = self._differentiated(positional, keywords, np.asarray(cotangent))
            else:
                if self.takes_cotangent:
                    keywords["cotangent"] = self.own(np.asarray(cotangent))
                result = self.grad_function(*positional.values(), **keywords)
            return tuple(map(self.array, result)) if isinstance(result, (tuple, list)) else self.array(result)

    def _owned(self, arguments: dict) -> dict:
        return {name: self.own(x) for name, x in arguments.items()}

    def _differentiated(self, positional: dict, keywords: dict, cotangent: np.ndarray) -> list:
        """By every differentiable argument that is passed, however it is passed."""
        moving = [name for name in self.loss.of if name in positional or name in keywords]

        def function(*variables):
            moved = dict(zip(moving, variables, strict=True))
            by_name = {name: moved.get(name, x) for name, x in keywords.items()}
            return self.evaluate([moved.get(name, x) for name, x in positional.items()], by_name)

        return self.pull_back(function, [{**positional, **keywords}[name] for name in moving], cotangent)
