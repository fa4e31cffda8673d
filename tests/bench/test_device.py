"""The CUDA path in the bench: its rows in the simulator, and its bars on made-up numbers."""

import json
import os
import subprocess
import sys

import pytest

from lossref.bench.bars import LINEAR, bars
from lossref.bench.rows import Row

PROGRAM = """
import json, sys
sys.setswitchinterval(1e-4)
from dataclasses import asdict
from lossref.bench import device
from lossref.bench.problems import Problem

problems = [Problem("linear_cross_entropy", (4, 2, 6)), Problem("logsumexp", (2, 40)), Problem("gemm", (2, 2, 2))]
print(json.dumps([asdict(row) for row in device.measure(problems, 1)]))
"""


def test_rows_in_the_simulator():
    pytest.importorskip("numba_cuda")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert {row["kernel"] for row in rows} == {"linear_cross_entropy", "logsumexp"}
    linear = [row for row in rows if row["kernel"] == "linear_cross_entropy"]
    assert {row["algorithm"] for row in linear} == {"one_thread_per_entry", "shared_memory_tiles"}
    tiles = {row["metric"]: row for row in linear if row["algorithm"] == "shared_memory_tiles"}
    assert set(tiles) == {"time", "epilogue share", "transient", "chunk"}
    assert tiles["chunk"]["p50"] == 4 * 4 * 6
    assert tiles["time"]["share_of_limit"] == pytest.approx(1 - tiles["epilogue share"]["p50"])
    assert tiles["time"]["gigabytes_per_second"] * 1e9 * tiles["time"]["p50"] == pytest.approx(2 * (4 + 6) * 2 * 4)


def test_bars():
    def row(metric, number, rung="library_products"):
        return Row(
            "linear_cross_entropy", "value and gradient", "lossref cuda", rung, "fresh", "device", metric, "",
            list(LINEAR[0]), "float32", 0, 1, None, number, None,
        )  # fmt: skip

    rows = [row("epilogue share", 0.2), row("transient", 105.0), row("chunk", 100.0)]
    rows += [row("epilogue share", 0.01, rung="shared_memory_tiles")]  # slower products do not make the bar
    found = {bar.what: bar for bar in bars(rows)}
    products = found["linear_cross_entropy on the GPU : its products"]
    assert products.measured == pytest.approx(1.25)
    assert products.verdict == "missed"
    memory = found["linear_cross_entropy on the GPU, transient memory : one chunk"]
    assert (memory.measured, memory.verdict) == (1.05, "met")
