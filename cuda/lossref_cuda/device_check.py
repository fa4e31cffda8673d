"""One command for a machine with a GPU: run the tests of tests/cuda on it, time every rung, write what came out.

    python -m lossref_cuda.device_check result.json
    python -m lossref_cuda.device_check result.json --skip-tests --rows 4096 --columns 50257

A rung is judged by its share of the copy rate: the bytes that the computation has to move at least (each input read
once, each output written once) divided by its time, relative to what a plain device-to-device copy of the same size
reaches. A rung that reads the row twice can reach at most two thirds, unless the cache serves the second read.

In the simulator (NUMBA_ENABLE_CUDASIM=1) the command runs too, on tiny arrays, to try the command itself: the times
mean nothing there and are marked so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lossref_cuda

COMPUTATIONS = ("logsumexp", "softmax", "log_softmax", "cross_entropy")


class Timing(NamedTuple):
    """One rung on one shape."""

    computation: str
    rung: str
    rows: int
    columns: int
    dtype: str
    seconds: float
    gigabytes_per_second: float
    share_of_copy: float
    times_torch: float | None


def least_bytes(computation: str, rows: int, columns: int, itemsize: int) -> int:
    """Each input read once and each output written once. Of cross-entropy, value and gradient are timed."""
    matrix = rows * columns * itemsize
    per_row = rows * itemsize
    if computation == "logsumexp":
        return matrix + per_row
    if computation == "cross_entropy":
        return 2 * matrix + per_row + 8 * rows
    return 2 * matrix


def rate(moved: int, seconds: float) -> float:
    """Gigabytes (10**9 bytes) a second."""
    return moved / seconds / 1e9


def timing(
    computation: str, rung: str, rows: int, columns: int, dtype: str, itemsize: int, seconds: float,
    copy_rate: float, torch_seconds: float | None,
) -> Timing:  # fmt: skip
    reached = rate(least_bytes(computation, rows, columns, itemsize), seconds)
    ratio = None if torch_seconds is None else seconds / torch_seconds
    return Timing(computation, rung, rows, columns, dtype, seconds, reached, reached / copy_rate, ratio)


def time_of(launch: Callable[[], Any], repeat: int) -> float:
    """The median time of a launch in seconds, measured on the device where there is one."""
    from numba import cuda

    from lossref_cuda.instructions import SIMULATED

    launch()  # compiles
    cuda.synchronize()
    if SIMULATED:
        start = time.perf_counter()
        launch()
        return time.perf_counter() - start
    times = []
    for _ in range(repeat):
        before, after = cuda.event(), cuda.event()
        before.record()
        launch()
        after.record()
        after.synchronize()
        times.append(cuda.event_elapsed_time(before, after) / 1e3)
    return statistics.median(times)


def measure(rows: int, columns: int, dtype: str, repeat: int) -> list[Timing]:
    """Every rung of every computation on one shape."""
    import numpy as np
    from numba import cuda

    from lossref_cuda.device_arrays import Call

    rng = np.random.default_rng(0)
    host = rng.normal(size=(rows, columns)).astype(dtype)
    x, y = cuda.to_device(host), cuda.device_array((rows, columns), host.dtype)
    value = cuda.device_array(rows, host.dtype)
    labels = cuda.to_device(rng.integers(0, columns, rows))
    ones = cuda.to_device(np.ones(1, np.float64 if dtype == "float64" else np.float32))
    call = Call(x, stream=0)
    copied = time_of(lambda: y.copy_to_device(x), repeat)
    copy_rate = rate(2 * host.nbytes, copied)
    torch_seconds = time_torch(host, repeat)
    found = []
    for computation in COMPUTATIONS:
        module = importlib.import_module(f"lossref_cuda.{computation}")
        for rung in module.RUNGS:
            launch = {
                "logsumexp": lambda module=module, rung=rung: module.launch(call, x, value, rung=rung),
                "cross_entropy": lambda module=module, rung=rung: module.launch(
                    call, x, labels, None, ones, value, y, rung=rung
                ),
            }.get(computation, lambda module=module, rung=rung: module.launch(call, x, y, rung=rung))
            if rung == "row_on_chip" and columns * host.itemsize > module.CHIP_BYTES:
                continue
            seconds = time_of(launch, repeat)
            found.append(
                timing(
                    computation,
                    rung,
                    rows,
                    columns,
                    dtype,
                    host.itemsize,
                    seconds,
                    copy_rate,
                    torch_seconds.get(computation),
                )
            )
    return found


def time_torch(host: Any, repeat: int) -> dict[str, float]:
    """The same with PyTorch, if it is installed with CUDA; of cross-entropy forward and backward."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    x = torch.from_numpy(host).cuda()
    labels = torch.randint(0, host.shape[1], (host.shape[0],), device="cuda")

    def forward_and_backward():
        logits = x.detach().requires_grad_()
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()

    calls = {
        "logsumexp": lambda: torch.logsumexp(x, -1),
        "softmax": lambda: torch.softmax(x, -1),
        "log_softmax": lambda: torch.log_softmax(x, -1),
        "cross_entropy": forward_and_backward,
    }
    return {name: _time_of_torch(torch, call, repeat) for name, call in calls.items()}


def _time_of_torch(torch: Any, call: Callable[[], Any], repeat: int) -> float:
    call()
    times = []
    for _ in range(repeat):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 1e3)
    return statistics.median(times)


def run_tests() -> dict[str, Any]:
    """The tests of tests/cuda/on_device, in a process of their own."""
    folder = Path(__file__).parents[2] / "tests" / "cuda" / "on_device"
    if not folder.is_dir():
        return {"ran": False, "reason": "tests/cuda/on_device is not there: this is an installed package"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder.parents[2])
    last = run.stdout.strip().splitlines()[-1:] or [run.stderr.strip()[-200:]]
    return {"ran": True, "passed": run.returncode == 0, "summary": last[0]}


def describe_device() -> dict[str, Any]:
    from numba import cuda

    from lossref_cuda.instructions import SIMULATED

    if SIMULATED:
        return {"name": "simulator", "times_mean_something": False}
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return {
        "name": name,
        "compute_capability": list(device.compute_capability),
        "multiprocessors": device.MULTIPROCESSOR_COUNT,
        "times_mean_something": True,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lossref_cuda.device_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("result", type=Path, help="the JSON file to write")
    parser.add_argument("--rows", type=int, action="append", help="with --columns, a shape; may be repeated")
    parser.add_argument("--columns", type=int, action="append")
    parser.add_argument("--dtype", action="append", choices=("float16", "float32", "float64"))
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--skip-tests", action="store_true")
    chosen = parser.parse_args(arguments)
    state = lossref_cuda.availability()
    if not state.ok:
        print(f"{state.reason}. Way out: {state.remedy}.", file=sys.stderr)
        return 2
    if len(chosen.rows or ()) != len(chosen.columns or ()):
        parser.error("--rows and --columns come in pairs")
    device = describe_device()
    real = device["times_mean_something"]
    shapes = list(zip(chosen.rows or (), chosen.columns or (), strict=True))
    shapes = shapes or ([(8192, 1000), (8192, 8192), (4096, 50257), (8, 2**20)] if real else [(2, 40)])
    dtypes = chosen.dtype or (["float32", "float16"] if real else ["float32"])
    tests = {"ran": False, "reason": "--skip-tests"} if chosen.skip_tests else run_tests()
    timings = [
        one for rows, columns in shapes for dtype in dtypes for one in measure(rows, columns, dtype, chosen.repeat)
    ]
    result = {
        "device": device,
        "python": platform.python_version(),
        "tests": tests,
        "timings": [one._asdict() for one in timings],
    }
    chosen.result.write_text(json.dumps(result, indent=1) + "\n")
    for one in timings:
        print(
            f"{one.computation:14} {one.rung:28} {one.rows}x{one.columns} {one.dtype}  "
            f"{one.gigabytes_per_second:8.1f} GB/s  {one.share_of_copy:6.1%} of copy"
            + ("" if one.times_torch is None else f"  {one.times_torch:5.2f} x torch's time")
        )
    return 0 if not tests["ran"] or tests["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
