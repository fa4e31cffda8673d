"""Tests of kernels run in processes of their own: Numba decides once, when it is imported, whether it simulates, and a
driver is loaded once. Here is how such a process is started, for the simulator and for the stand-in GPU."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lossref_cuda
import pytest

HERE = Path(__file__).parent
collect_ignore_glob = [] if "STAND_IN_GPU" in os.environ else ["stand_in/test_*.py"]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory):
    """The environment of a process that shall find the stand-in GPU. Its driver, and what it has assembled of kernels,
    is kept as long as this session."""
    if importlib.util.find_spec("numba_cuda") is None or shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("the stand-in GPU needs numba-cuda, and a C compiler on Linux")
    if lossref_cuda.availability().ok:
        pytest.skip("there is a GPU, or something stands in for one already")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE / "stand_in")
        import stand_in_gpu

        return stand_in_gpu.environment(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="session")
def pass_elsewhere():
    """All tests of these files pass in a process of this environment; what they skip shows in this run's summary."""

    def run(files, environment, where, *options):
        environment = dict(environment)
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist", *options]
        run = subprocess.run(
            [*command, *map(str, files)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=HERE.parents[1],
            timeout=600,
        )
        assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
        reasons = set(re.findall(r"^SKIPPED \[\d+\] \S+ (.+)$", run.stdout, re.MULTILINE))
        assert reasons or " passed" in run.stdout
        if reasons:  # what has passed there is not all
            pytest.skip(f"{where} {run.stdout.splitlines()[-1]}: {'; '.join(sorted(reasons))}")

    return run
