"""The registry: a loss exists by being declared, in a file of a family's folder."""

import copyreg
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module

from .loss import Loss
from .paper import Paper

_LOSSES: dict[str, Loss] = {}


def loss(
    *,
    of: str | tuple[str, ...] = (),
    paper: Paper | None = None,
    returns: str | Callable = "N",
    symmetries: Mapping[str, tuple[str, ...]] | None = None,
    reduces: bool = True,
) -> Callable[[Callable], Loss]:
    """Decorator: declare and register a loss.

    of: the differentiable arguments. returns: the shape of the terms, in named dimensions or as a function of
    arguments. symmetries: each declared symmetry with the options that break it. reduces: whether the terms are
    averaged or summed; without, the function returns what its definition returns.
    """

    def register(definition: Callable) -> Loss:
        made = Loss(definition, of, paper, returns, symmetries or {}, reduces)
        if made.name in _LOSSES:
            raise ValueError(f"two losses are called {made.name}")
        _LOSSES[made.name] = made
        return made

    return register


def losses() -> dict[str, Loss]:
    """Every registered loss by name."""
    return dict(sorted(_LOSSES.items()))


def discover(package: str) -> None:
    """Import every module of a family's package, so that its losses register."""
    for module in pkgutil.iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def _restore(name: str, path: str) -> Loss:
    return _LOSSES[name].path(path)


copyreg.pickle(Loss, lambda loss: (_restore, (loss.name, loss.path_name)))
