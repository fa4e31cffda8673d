"""What a result was obtained on: the machine and the versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOUNDATIONS = ("numpy", "ml_dtypes", "scipy", "numba", "python-flint", "numba-cuda")
PEERS = ("torch", "jax", "optax", "scikit-learn", "onnx", "POT", "keras", "pytorch-metric-learning")


def installed(package: str) -> str | None:
    """The version of an installed distribution, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions(packages=FOUNDATIONS) -> dict[str, str | None]:
    return {package: installed(package) for package in packages}


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model\t"))]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """The cores that this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def description() -> dict[str, object]:
    from lossref import __version__

    return {
        "lossref": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "versions": versions(),
    }
