"""lossref: the reference for loss functions.

Every loss is readable NumPy with its analytic gradient; ``lossref.losses()`` lists them, and each is an attribute of
this package: ``lossref.cross_entropy(logits, labels)``, ``lossref.cross_entropy.grad(logits, labels)``.
"""

from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec

from .core import Loss, Paper, discover, losses

__version__ = "0.1.0"

FAMILIES = ("primitives", "classification", "contrastive", "preference", "overlap", "sequence", "transport")

for _family in FAMILIES:
    discover(f"{__name__}.{_family}")

globals().update(losses())

from .gradcheck import gradcheck  # noqa: E402 - the function takes the place of its module, for good

_LAZY = {name: f"{__name__}.{name}" for name in ("exact", "oracle", "bench", "kernels", "dask", "torch", "jax")}


def __getattr__(name: str):
    """The heavier parts when they are first used, and losses that were registered since."""
    if name in _LAZY:
        return _import_module(_LAZY[name])
    try:
        return losses()[name]
    except KeyError:
        raise AttributeError(f"lossref has no attribute {name!r}; lossref.losses() lists the losses") from None


def __dir__():
    missing = {name for name in ("dask", "torch", "jax") if _find_spec(name) is None}
    return sorted({*globals(), *losses(), *_LAZY} - missing)


__all__ = ["FAMILIES", "Loss", "Paper", "gradcheck", "losses"]
