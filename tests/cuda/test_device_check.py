"""The arithmetic of `python -m lossref_cuda.device_check`, and the command itself in the simulator and on the stand-in
GPU."""

import json
import os
import subprocess
import sys

import lossref_cuda
import pytest
from lossref_cuda import device_check


def test_arithmetic():
    # logsumexp of 1000 rows of 500 float32: 2 MB in, 4 KB out
    assert device_check.least_bytes("logsumexp", 1000, 500, 4) == 2_004_000
    assert device_check.least_bytes("softmax", 1000, 500, 4) == 4_000_000
    assert device_check.least_bytes("cross_entropy", 1000, 500, 2) == 2_010_000
    assert device_check.rate(3_000_000_000, 0.5) == 6.0
    one = device_check.timing("softmax", "vectorised", 1000, 500, "float32", 4, 2e-6, 4000.0, 1e-6)
    assert one.gigabytes_per_second == pytest.approx(2000.0)
    assert one.share_of_copy == pytest.approx(0.5)
    assert one.times_torch == pytest.approx(2.0)


def test_says_what_is_missing(monkeypatch, tmp_path, capsys):
    away = lossref_cuda.Availability(False, "no driver", "install one")
    monkeypatch.setattr(lossref_cuda, "availability", lambda: away)
    assert device_check.main([str(tmp_path / "result.json")]) == 2
    assert "no driver. Way out: install one." in capsys.readouterr().err


def test_writes_nothing_from_the_simulator_where_results_belong(monkeypatch, capsys):
    monkeypatch.setattr(lossref_cuda, "availability", lambda: lossref_cuda.Availability(True, "", ""))
    simulated = {"name": "simulator", "times_mean_something": False}
    monkeypatch.setattr(device_check, "describe_device", lambda: simulated)
    with pytest.raises(SystemExit):
        device_check.main([])
    assert "say where to write" in capsys.readouterr().err


def device_found_by(environment, path, *command):
    """Runs the command in a process of its own, on rows of 2x40, a product of 6x3x9, attention of 3x2x5 numbers. Looks
    at what it has written but for the device, and returns that."""
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    seen = {(one["computation"], one["rung"]) for one in result["timings"]}
    assert ("softmax", "row_on_chip") in seen
    assert len(seen) == 30
    assert {one["rung"] for one in result["softmax_attention"]} == {"one_thread_per_query", "block_per_query_tile"}
    assert all(one["gigaflops_per_second"] > 0 for one in result["softmax_attention"])
    drawn = path.with_suffix(".svg").read_text()
    assert "row_on_chip" in drawn and "top_k_softmax 2×40 float32" in drawn
    linear = {one["rung"]: one for one in result["linear_cross_entropy"]}
    assert set(linear) == {"one_thread_per_entry", "shared_memory_tiles"}  # float32, and nobody's library
    for one in linear.values():
        assert one["output_bytes"] == 4 * (6 * 3 + 9 * 3)
        assert one["chunk_bytes"] == 4 * 6 * 9
        assert one["times_products"] == pytest.approx(one["seconds"] / one["seconds_of_products"])
    assert all(one["seconds"] > 0 and one["share_of_copy"] > 0 for one in result["timings"])
    return result["device"]


def test_runs_in_the_simulator(tmp_path):
    path, environment = tmp_path / "result.json", {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    device = device_found_by(environment, path, "-m", "lossref_cuda.device_check", str(path), "--skip-tests")
    assert device == {"name": "simulator", "times_mean_something": False}


ON_THE_STAND_IN = """
import stand_in_gpu
from lossref_cuda import device_check
raise SystemExit(device_check.main())
"""


def test_runs_on_the_stand_in(stand_in, tmp_path):
    """As on a GPU: the kernels that are compiled for one, and times between events."""
    path = tmp_path / "result.json"
    sizes = ["--rows", "2", "--columns", "40", "--linear", "6x3x9", "--attention", "3x2x5"]
    how = ["--skip-tests", "--dtype", "float32", "--repeat", "2"]
    device = device_found_by(stand_in, path, "-c", ON_THE_STAND_IN, str(path), *sizes, *how)
    known = {"compute_capability": [9, 0], "multiprocessors": 132, "times_mean_something": True}
    assert device == {"name": "stand-in", **known}


MEMORY = """
import json, sys
sys.setswitchinterval(1e-4)
import numpy as np
from numba import cuda
from lossref_cuda import linear_cross_entropy
from lossref_cuda.device_check import allocations

rows, features, classes, chunk = 24, 2, 40, 8
hidden, classifier, labels = np.ones((rows, features)), np.ones((classes, features)), np.arange(rows)
arrays = [cuda.to_device(array) for array in (hidden, classifier, labels)]
with allocations() as allocated:
    value, gradients = linear_cross_entropy.reduced_value_and_vjp(*arrays, block_size=(chunk, classes))
held = sum(8 * gradient.size for gradient in gradients)
print(json.dumps({"outputs": held, "peak": allocated.peak, "chunk": 8 * chunk * classes, "all": 8 * rows * classes}))
"""


def test_linear_cross_entropy_holds_one_chunk_of_logits():
    """Beyond the gradients: one chunk, and a few numbers a row."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    )
    assert run.returncode == 0, run.stderr
    bytes_of = json.loads(run.stdout)
    a_few_numbers_a_row = 24 * 8 * 4
    beyond = bytes_of["peak"] - bytes_of["outputs"]
    assert bytes_of["chunk"] <= beyond <= bytes_of["chunk"] + a_few_numbers_a_row
    assert beyond < bytes_of["all"] / 2
