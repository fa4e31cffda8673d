"""A peer: one function of one library, called with our arguments."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from lossref.core.loss import Loss
from lossref.core.registry import losses

from ..candidates import NotTaken
from .libraries import LIBRARIES, LOSSREF, Library


@dataclass
class Peer:
    """How a library's function is called with the arguments of a loss.

    options: those of our options that it has too; "reduction" if it reduces.
    gradient: (library, …, cotangent) → gradients, where the library has one of its own but no differentiation.
    untried_labels: why a label that is no class is not tried, if it is not.
    """

    library: Library
    loss_name: str
    spelled: str
    function: Callable
    options: tuple[str, ...] = ()
    gradient_function: Callable | None = None
    untried_labels: str = ""
    required: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        parameters = list(inspect.signature(self.function).parameters.values())
        named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        self.required = tuple(named if self.library is LOSSREF else named[1:])

    @property
    def title(self) -> str:
        return self.library.name if self.library is LOSSREF else f"{self.library.name} {self.spelled}"

    @property
    def loss(self) -> Loss:
        return losses()[self.loss_name]

    @property
    def reduces(self) -> bool:
        return "reduction" in self.options

    @property
    def differentiates(self) -> bool:
        return self.loss.differentiable and (self.library.differentiates or self.gradient_function is not None)

    def gradient(self, function: Callable) -> Callable:
        """Decorator: the library's own gradient."""
        self.gradient_function = function
        return function

    def value(self, arguments: dict, reduction: str | None = "none") -> np.ndarray:
        """The value for our arguments; reduction None leaves it to the library's default."""
        with quiet():
            return self.library.value(self.function, self._given(arguments, reduction))

    def gradients(self, arguments: dict, of: tuple[str, ...], cotangent=1.0, reduction: str | None = "none") -> tuple:
        given = self._given(arguments, reduction)
        with quiet():
            if self.gradient_function is not None:
                found = self.gradient_function(self.library.load(), **given, cotangent=cotangent)
                return found if isinstance(found, tuple) else (found,)
            return self.library.gradients(self.function, given, of, cotangent)

    def as_candidate(self) -> tuple[Callable, Callable | None]:
        """Value and gradient as the oracle calls them: with arrays of the library's framework, our names."""
        library = self.library.load()
        needed = [name for name, argument in self.loss.arguments.items() if argument.required]
        defaults = {name: a.default for name, a in self.loss.arguments.items() if not a.required}

        def given(arrays, options) -> dict:
            reduction = options.pop("reduction", None)
            return self._given(defaults | dict(zip(needed, arrays, strict=True)) | options, reduction)

        def value(*arrays, **options):
            return self.function(library, **given(arrays, options))

        def gradient(*arrays, cotangent, **options):
            return self.gradient_function(library, **given(arrays, options), cotangent=cotangent)

        named = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in needed]
        named += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in self.options]
        last = inspect.Parameter("cotangent", inspect.Parameter.KEYWORD_ONLY)
        value.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
        gradient.__signature__ = inspect.Signature([*named, last])  # type: ignore[attr-defined]
        return value, None if self.gradient_function is None else gradient

    def _given(self, arguments: dict, reduction: str | None) -> dict:
        given = {}
        for name, value in arguments.items():
            default = self.loss.arguments[name].default
            if name in self.required or name in self.options:
                if value is not None or (default is not None and not self.loss.arguments[name].required):
                    given[name] = value
            elif not _same(value, default):
                raise NotTaken(name)
        ignored = arguments.get("ignore_index")
        if ignored is not None and "ignore_index" not in self.options and bool((arguments["labels"] == ignored).any()):
            raise NotTaken("ignore_index")
        if self.reduces and reduction is not None:
            given["reduction"] = reduction
        elif self.loss.reducible and reduction not in (None, "none"):
            raise NotTaken("reduction")
        return given


@contextmanager
def quiet() -> Iterator[None]:
    """A peer's warnings are not what is compared."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _same(x, y) -> bool:
    return x is y or (np.ndim(x) == 0 and np.ndim(y) == 0 and x is not None and y is not None and x == y)


_ENTRIES: dict[str, list[Peer]] = {}


def peer(
    library: Library, loss_name: str, spelled: str, options: str = "", untried_labels: str = ""
) -> Callable[[Callable], Peer]:
    """Decorator: the entry of a function of a library. It is handed the library, then our arguments by name."""

    def declare(function: Callable) -> Peer:
        entry = Peer(library, loss_name, spelled, function, tuple(options.split()), untried_labels=untried_labels)
        _ENTRIES.setdefault(loss_name, []).append(entry)
        return entry

    return declare


def _entries() -> dict[str, list[Peer]]:
    import_module(f"{__package__}.entries")
    return _ENTRIES


def comparable() -> dict[str, list[Peer]]:
    """The registered losses that some library defines too, each with its peers in the order of the libraries."""
    entries = _entries()
    return {
        name: sorted(entries[name], key=lambda entry: LIBRARIES.index(entry.library))
        for name in losses()
        if name in entries
    }


def peers_of(name: str) -> list[Peer]:
    return comparable().get(name, [])


def ours(name: str) -> Peer:
    """The loss itself as a peer."""
    loss = losses()[name]
    options = tuple(argument for argument in loss.arguments) + (("reduction",) if loss.reducible else ())
    return Peer(LOSSREF, name, name, loss, options)
