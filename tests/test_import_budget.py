"""``import lossref`` loads NumPy and nothing heavier."""

import json
import subprocess
import sys
from statistics import median

import pytest

BUDGET = 0.3  # seconds over NumPy's own import
HEAVY = ("numba", "llvmlite", "flint", "scipy", "typer", "rich", "click", "matplotlib", "sklearn", "torch", "jax")


def imported(modules: str) -> tuple[float, list[str]]:
    """How long an import takes in a fresh process, and which heavy packages it has loaded."""
    code = (
        "import sys, time, json; start = time.perf_counter(); "
        f"import {modules}; seconds = time.perf_counter() - start; "
        f"print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(run.stdout)
    return seconds, heavy


def test_nothing_heavy_is_loaded():
    assert imported("lossref")[1] == []


@pytest.mark.parametrize("use", ["lossref.losses()", "lossref.cross_entropy([[1.0, 2.0]], [0])", "lossref.gradcheck"])
def test_nor_by_the_numpy_path(use):
    code = f"import sys, lossref; {use}; print([name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_import_keeps_its_budget():
    with_ml_dtypes = "numpy, ml_dtypes"  # ml_dtypes is NumPy's bfloat16
    for _ in range(3):  # a busy machine may disturb one measurement, not three
        alone = median(imported(with_ml_dtypes)[0] for _ in range(5))
        ours = median(imported("numpy, ml_dtypes, lossref")[0] for _ in range(5))
        if ours - alone <= BUDGET:
            return
    pytest.fail(f"import lossref takes {ours - alone:.2f} s more than NumPy, {BUDGET} s are allowed")
