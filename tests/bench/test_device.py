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
problems += [Problem("top_k_softmax", (2, 40)), Problem("softmax_attention", (3, 2, 5))]
print(json.dumps([asdict(row) for row in device.measure(problems, 1)]))
"""


def test_rows_in_the_simulator():
    pytest.importorskip("numba_cuda")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    kernels = {"linear_cross_entropy", "logsumexp", "top_k_softmax", "softmax_attention"}
    assert {row["kernel"] for row in rows} == kernels
    attention = {row["algorithm"]: row for row in rows if row["kernel"] == "softmax_attention"}
    assert set(attention) == {"one_thread_per_query", "block_per_query_tile"}
    assert all(row["metric"] == "time" and row["flops"] > 7 * 2 * 3 * 2 * 5 for row in attention.values())
    assert len([row for row in rows if row["kernel"] == "top_k_softmax"]) == 2
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


def test_bars_of_kernels_that_move_memory():
    def row(kernel, shape, rung, share, torch=None):
        return Row(
            kernel, "value", "lossref cuda", rung, "out=", "device", "time", "s", list(shape), "float32", 0, 1,
            None, 1.0, None, share_of_limit=share, ratio_to={} if torch is None else {"torch": torch},
        )  # fmt: skip

    rows = [
        row("softmax", (8192, 1000), "row_on_chip", 0.8),
        row("softmax", (8192, 1000), "row_in_registers", 0.84),
        row("softmax", (8192, 1000), "vectorised", 0.99),  # reads twice, from a cache: not what the bar is about
        row("softmax", (4096, 50257), "vectorised", 0.6, torch=0.97),
        row("softmax", (4096, 50257), "two_pass", 0.6, torch=1.2),
        row("softmax", (8, 2**20), "long_row_split_over_blocks", 0.63, torch=1.1),
        row("logsumexp", (8192, 1000), "one_warp_per_row", 0.91),
    ]
    found = {(bar.what, bar.shape): bar for bar in bars(rows) if bar.measured is not None}
    assert {key: bar.verdict for key, bar in found.items()} == {
        ("softmax, row on chip, on the GPU, share of the copy rate", (8192, 1000)): "missed",
        ("softmax on the GPU, share of the copy rate", (8, 2**20)): "met",
        ("softmax on the GPU : torch", (4096, 50257)): "met",
        ("softmax on the GPU : torch", (8, 2**20)): "missed",
        ("logsumexp on the GPU, share of the copy rate", (8192, 1000)): "met",
    }
