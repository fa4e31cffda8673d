"""Runs tests/cuda/on_device in the simulator: the logic of the kernels, thread by thread."""

import os
from pathlib import Path

import lossref_cuda
import pytest

FOLDER = Path(__file__).parent / "on_device"


@pytest.mark.parametrize("file", sorted(p.name for p in FOLDER.glob("test_*.py")))
def test_in_the_simulator(file, pass_elsewhere):
    state = lossref_cuda.availability()
    if state.ok:
        pytest.skip(f"tests/cuda/on_device is part of this very run: {state.reason}")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")  # a core for each
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "LOSSREF_TEST_WORKER": worker}
    pass_elsewhere([FOLDER / file], environment, "in the simulator")
