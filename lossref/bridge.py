"""A loss as seen from another framework: what the bridges ``lossref.torch`` and ``lossref.jax`` share.

A framework that traces a call wants to know the result's shape and dtype before there are numbers, and which
arguments are arrays (it hands those over) and which are options (it keeps those as they are).
"""

from __future__ import annotations

import inspect

import numpy as np

from .core.declarations import Context
from .core.errors import message
from .core.loss import Call, Loss
from .core.registry import losses

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Bridge:
    """One loss: its arguments sorted into arrays and options, and its value and gradients from dictionaries."""

    def __init__(self, loss: Loss):
        if not isinstance(loss, Loss):
            raise TypeError(message("loss", "a Loss", loss))
        if not loss.differentiable:
            raise TypeError(message("loss", "a loss with a gradient", f"{loss.name}, which has none"))
        self.loss = loss
        parameters = loss.__signature__.parameters
        self.positional = tuple(p.name for p in parameters.values() if p.kind in POSITIONAL)
        self.required = tuple(p.name for p in parameters.values() if p.default is p.empty)
        self.defaults = {p.name: p.default for p in parameters.values() if p.default is not p.empty}
        self.arrays = tuple(name for name, argument in loss.arguments.items() if argument.is_array)
        self.options = tuple(name for name in parameters if name not in self.arrays)

    def bound(self, args: tuple, kwargs: dict) -> dict:
        """The arguments by name, defaults included. Plain enough for torch.compile to follow."""
        values = dict(zip(self.positional, args, strict=False))
        twice = [name for name in kwargs if name in values]
        values = {**self.defaults, **values, **kwargs}
        known = len(self.required) + len(self.defaults)
        if (
            twice
            or len(args) > len(self.positional)
            or len(values) != known
            or any(n not in values for n in self.required)
        ):
            self._refuse(args, kwargs)
        return values

    def _refuse(self, args: tuple, kwargs: dict) -> None:
        try:
            self.loss.__signature__.bind(*args, **kwargs)
        except TypeError as problem:
            raise TypeError(f"{self.loss.name}: {problem}") from None

    def result(self, arrays: dict, options: dict) -> tuple[tuple, np.dtype]:
        """Shape and dtype of the value, from (shape, dtype) of each array that is given."""
        given = {name: arrays.get(name) for name in self.arrays}
        dtype = self.loss._dtype({n: None if g is None else np.empty((), g[1]) for n, g in given.items()})
        if options.get("reduction", "none") != "none":
            return (), dtype
        context = Context(dtype=dtype)
        for name, found in given.items():
            if found is not None:
                self.loss.arguments[name].declaration.bind_shape(name, found[0], context)
        arguments: dict = {n: options[n] for n in self.options if n in self.loss.arguments}
        if callable(self.loss.returns):  # it looks at shapes only: arrays of one entry stand for the arguments
            for name, found in given.items():
                arguments[name] = None if found is None else np.broadcast_to(np.zeros((), found[1]), found[0])
        return tuple(self.loss._terms_shape(Call(arguments, context, "none", None))), dtype

    def value(self, arrays: dict, options: dict) -> np.ndarray:
        return contiguous(self.loss(**arrays, **options))

    def gradients(self, arrays: dict, options: dict, cotangent) -> dict[str, np.ndarray]:
        """The gradient by each differentiable argument that was given."""
        found = self.loss.grad(**arrays, **options, cotangent=cotangent)
        given = self.given(arrays)
        return {n: contiguous(g) for n, g in zip(given, found if len(given) > 1 else (found,), strict=True)}

    def given(self, arrays: dict) -> list[str]:
        """The differentiable arguments among these."""
        return [name for name in self.loss.of if arrays.get(name) is not None]

    def dress(self, function, framework: str):
        """The loss's name, signature and documentation for a function that takes the framework's arrays."""
        # Code of its own: torch.compile counts how often it compiles by code object, not by function.
        function.__code__ = function.__code__.replace(co_name=self.loss.name)
        function.__name__ = function.__qualname__ = self.loss.name
        function.__module__ = f"lossref.{framework}"
        function.__signature__ = self.loss.__signature__
        function.__doc__ = self.loss.__doc__
        function.loss = self.loss
        return function


def contiguous(array) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(np.shape(array))


def differentiable_loss(module: str, name: str) -> Loss:
    """The registered loss behind an attribute of a bridge."""
    found = losses().get(name)
    if found is None:
        raise AttributeError(f"{module} has no attribute {name!r}; lossref.losses() lists the losses")
    if not found.differentiable:
        raise AttributeError(f"{module} has no {name}: it has no gradient; call lossref.{name} with NumPy arrays")
    return found


def names() -> list[str]:
    """The losses that a bridge offers."""
    return sorted(name for name, loss in losses().items() if loss.differentiable)
