"""How the frameworks' arrays and derivatives are reached. A framework is loaded only where it is asked for by name."""

from importlib import import_module

from lossref.core.errors import message

from ..candidates import Candidate

FRAMEWORKS = ("numpy", "torch", "jax", "tensorflow", "mlx", "cupy", "process")


def adapted(loss, value, grad, framework: str | None, dtype, options: dict) -> Candidate:
    """The candidate behind the adapter of its framework."""
    framework = "numpy" if framework is None else framework
    if framework not in FRAMEWORKS:
        raise ValueError(message("framework", " or ".join(map(repr, FRAMEWORKS)), framework))
    if framework == "numpy":
        if options:
            raise TypeError(f"check: unexpected options {', '.join(options)}")
        return Candidate(loss, value, grad)
    module = import_module(f"{__name__}.{framework}")
    return module.adapt(loss, value, grad, dtype, **options)
