"""Importing lossref_cuda is free, and where the kernels cannot run it says why and what to do."""

import os
import subprocess
import sys
import types

import lossref_cuda
import numpy as np
import pytest


def run(program, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "NUMBA_ENABLE_CUDASIM"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        env={**clean, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_and_availability_load_nothing():
    program = """
import sys, lossref_cuda
state = lossref_cuda.availability()
assert isinstance(state.ok, bool) and state.reason
print([name for name in ("numba", "numpy", "ml_dtypes", "lossref") if name in sys.modules])
"""
    assert run(program).strip() == "[]"


def test_the_kernels_import_nothing_from_lossref():
    program = """
import sys
from lossref_cuda import cross_entropy, log_softmax, logsumexp, softmax
print([name for name in sys.modules if name.split(".")[0] == "lossref"])
"""
    assert run(program).strip() == "[]"


def test_simulator_is_found():
    program = "import lossref_cuda; print(lossref_cuda.availability())"
    assert "ok=True" in run(program, NUMBA_ENABLE_CUDASIM="1")
    assert "simulator" in run(program, NUMBA_ENABLE_CUDASIM="1")


def test_simulator_asked_for_too_late():
    program = """
import os, lossref_cuda
import numba.cuda
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
print(lossref_cuda.availability().reason)
"""
    assert "too late" in run(program)


def test_neither_gpu_nor_simulator(monkeypatch):
    from lossref_cuda import logsumexp

    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setitem(sys.modules, "numba.cuda.core.config", types.SimpleNamespace(ENABLE_CUDASIM=False))
    monkeypatch.setattr(lossref_cuda, "_count_devices", lambda: (0, "the NVIDIA driver finds no GPU"))
    state = lossref_cuda.availability()
    assert (state.ok, state.reason) == (False, "the NVIDIA driver finds no GPU")
    with pytest.raises(RuntimeError) as raised:
        logsumexp.value(np.zeros((1, 2)))
    assert "install an NVIDIA driver" in str(raised.value)
    assert "NUMBA_ENABLE_CUDASIM=1" in str(raised.value)


def test_numba_cuda_missing(monkeypatch):
    monkeypatch.setattr(lossref_cuda.importlib.util, "find_spec", lambda name: None)
    state = lossref_cuda.availability()
    assert not state.ok
    assert "pip install" in state.remedy
