"""Runs tests/cuda/on_device on the stand-in GPU: the very code that Numba compiles for a GPU, executed with the faults
that a GPU may or may not show. And the tests of the stand-in itself, without which this would mean nothing."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Files that use the same kernels share a process, which compiles them once. What needs a library with CUDA is left out.
TOGETHER = [
    "on_device/test_cross_entropy.py",
    "on_device/test_linear_cross_entropy.py",
    "on_device/test_libraries.py::test_every_run_gives_the_same_bits",
    "on_device/test_out.py",
    "on_device/test_through_core.py",
    "on_device/test_device_arrays.py",
]
ALL = {str(path.relative_to(HERE)) for folder in ("on_device", "stand_in") for path in HERE.glob(f"{folder}/test_*.py")}
OTHERS = sorted(ALL - {name.split("::")[0] for name in TOGETHER})


@pytest.mark.parametrize("files", [TOGETHER, OTHERS], ids=["cross-entropy", "others"])
def test_on_the_stand_in(files, stand_in, pass_elsewhere):
    pass_elsewhere([HERE / file for file in files], stand_in, "on the stand-in", "-p", "stand_in_gpu")
