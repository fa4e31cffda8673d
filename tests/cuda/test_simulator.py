"""Runs tests/cuda/on_device in the simulator, in a process of its own: Numba decides once, when it is
imported, whether it simulates, and the rest of the test suite needs it not to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import lossref_cuda
import pytest

FOLDER = Path(__file__).parent / "on_device"


@pytest.mark.parametrize("file", sorted(p.name for p in FOLDER.glob("test_*.py")))
def test_in_the_simulator(file):
    state = lossref_cuda.availability()
    if state.ok:
        pytest.skip(f"tests/cuda/on_device is part of this very run: {state.reason}")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")  # a core for each
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "LOSSREF_TEST_WORKER": worker}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run(
        [*command, str(FOLDER / file)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=FOLDER.parents[2],
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    reasons = set(re.findall(r"^SKIPPED \[\d+\] \S+ (.+)$", run.stdout, re.MULTILINE))
    if reasons:  # what has passed there is not all: it belongs into the summary of this run
        pytest.skip(f"of this file in the simulator {run.stdout.splitlines()[-1]}: {'; '.join(sorted(reasons))}")
