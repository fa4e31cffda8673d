"""What every rung costs: instructions and bytes for each number of a row, counted on the stand-in GPU.

python tests/cuda/stand_in/count_instructions.py docs/benchmarks/instructions.md
"""

import ctypes
import importlib
import os
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import stand_in_gpu

COMPUTATIONS = ("logsumexp", "softmax", "log_softmax", "cross_entropy")
SHAPES = ((256, 10), (16, 1000), (4, 8192), (1, 50257))
COMMAND = "python tests/cuda/stand_in/count_instructions.py docs/benchmarks/instructions.md"


class Counters:
    def __init__(self):
        driver = ctypes.CDLL("libcuda.so.1")
        self.instructions = ctypes.c_ulonglong.in_dll(driver, "stand_in_instructions")
        self.bytes = (ctypes.c_ulonglong * 2).in_dll(driver, "stand_in_bytes")

    def read(self) -> np.ndarray:
        """Instructions executed by threads, bytes loaded from global memory, bytes stored there."""
        return np.array([self.instructions.value, *self.bytes], float)


def launches(computation: str, rows: int, columns: int):
    """Each rung that takes this shape in float32, and what begins it; cross-entropy writes its gradient too."""
    from lossref_cuda.device_arrays import Call
    from numba import cuda

    module = importlib.import_module(f"lossref_cuda.{computation}")
    rng = np.random.default_rng(0)
    x = cuda.to_device(rng.normal(size=(rows, columns)).astype(np.float32))
    y, values = cuda.device_array_like(x), cuda.device_array(rows, np.float32)
    labels, ones = cuda.to_device(rng.integers(0, columns, rows)), cuda.to_device(np.ones(1, np.float32))
    arguments = {"logsumexp": (x, values), "cross_entropy": (x, labels, None, ones, values, y)}.get(computation, (x, y))
    for rung in module.RUNGS:
        yield rung, lambda rung=rung: module.launch(Call(x, stream=0), *arguments, rung=rung)


def counted(computation: str) -> dict[str, list[np.ndarray | None]]:
    """rung -> what one number costs, for each of SHAPES; None where the rung does not take it."""
    counters, found = Counters(), {}
    for rows, columns in SHAPES:
        for rung, launch in launches(computation, rows, columns):
            before = counters.read()
            try:
                launch()
                cost = (counters.read() - before) / (rows * columns)
            except ValueError:  # the row is too long for the chip
                cost = None
            found.setdefault(rung, []).append(cost)
    return found


def page(computations=COMPUTATIONS) -> str:
    lengths = [str(columns) for _, columns in SHAPES]
    lines = [
        "# Instructions of the CUDA kernels",
        "",
        "What each number of a row costs in float32: the PTX instructions that threads execute, and the bytes that",
        "they load from global memory and store there. Counted, not timed, without a GPU, by",
        "",
        "```",
        COMMAND,
        "```",
        "",
        f"with numba-cuda {version('numba-cuda')}, for rows of so many numbers as the heads of the columns say; bytes",
        f"for rows of {lengths[2]}. An H100 moves 3.35 TB a second (its data sheet), and its 132 multiprocessors begin",
        "4 instructions of 32 threads in a cycle of 1.7 GHz: where a number costs more than 9 instructions for each",
        "byte that has to be moved, arithmetic takes longer than memory. What is loaded a second time may come from",
        "the cache, and the assembler turns PTX into somewhat fewer or more instructions.",
        "",
        "| kernel | " + " | ".join(lengths) + " | loaded | stored |",
        "| --- |" + " ---: |" * (len(lengths) + 2),
    ]
    for computation in computations:
        for rung, costs in counted(computation).items():
            cells = ["" if cost is None else f"{cost[0]:.1f}" for cost in costs]
            loaded, stored = costs[2][1:]
            lines.append(f"| {computation}.{rung} | {' | '.join(cells)} | {loaded:.1f} | {stored:.1f} |")
    return "\n".join(lines) + "\n"


def main(path: str) -> int:
    if "STAND_IN_GPU" not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            environment = stand_in_gpu.environment(Path(folder))
            return subprocess.run([sys.executable, __file__, path], env=environment).returncode
    warnings.simplefilter("ignore")  # that a grid is small
    Path(path).write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
