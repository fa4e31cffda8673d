"""The arithmetic of `python -m lossref_cuda.device_check`, and the command itself in the simulator."""

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


def test_runs_in_the_simulator(tmp_path):
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "lossref_cuda.device_check", str(path), "--skip-tests"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"})
    assert run.returncode == 0, run.stderr
    result = json.loads(path.read_text())
    assert result["device"] == {"name": "simulator", "times_mean_something": False}
    seen = {(one["computation"], one["rung"]) for one in result["timings"]}
    assert ("softmax", "row_on_chip") in seen
    assert len(seen) == 24
