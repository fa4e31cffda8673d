"""One command for a machine with a GPU: run the tests of tests/cuda on it, time every rung, write what came out.

    python -m lossref_cuda.device_check                # docs/benchmarks/<device>.json and .svg
    python -m lossref_cuda.device_check result.json --skip-tests --rows 4096 --columns 50257

A rung is judged by its share of the copy rate: the bytes that the computation has to move at least (each input read
once, each output written once) divided by its time, relative to what a plain device-to-device copy of the same size
reaches. A rung that reads the row twice can reach at most two thirds, unless the cache serves the second read.

Linear cross-entropy is judged by its three matrix products alone, as the same rung makes them chunk by chunk, and by
what it allocates beyond the gradients. Where PyTorch is installed with CUDA its tensors are passed, and its GEMM is one
of the rungs. Attention is bound by its seven products, two forward and five backward: their operations a second, and
PyTorch's attention beside it.

Beside the result stands a plot of the shares, PATH.svg, if Matplotlib is there.

In the simulator (NUMBA_ENABLE_CUDASIM=1) the command runs too, on tiny arrays, to try the command itself: the times
mean nothing there and are marked so.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lossref_cuda

COMPUTATIONS = ("logsumexp", "softmax", "log_softmax", "cross_entropy", "top_k_softmax")


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


class LinearTiming(NamedTuple):
    """One rung of linear cross-entropy, value and gradients."""

    rung: str
    rows: int
    features: int
    classes: int
    dtype: str
    seconds: float
    seconds_of_products: float
    times_products: float
    output_bytes: int  # the gradients
    chunk_bytes: int  # the logits of one chunk, and G beside them where the library wants it in 16 bits
    peak_bytes: int  # the most that the call held at once, outputs included
    times_torch: float | None


class AttentionTiming(NamedTuple):
    """One rung of attention, value and gradients."""

    rung: str
    queries: int
    features: int
    keys: int
    dtype: str
    seconds: float
    gigaflops_per_second: float
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
    """The median time of a launch in seconds, measured on the device where there is one. A slow launch is repeated
    less often: three seconds of it are enough."""
    from numba import cuda

    from lossref_cuda.instructions import SIMULATED

    launch()  # compiles
    cuda.synchronize()
    if SIMULATED:
        start = time.perf_counter()
        launch()
        return time.perf_counter() - start
    times: list[float] = []
    while len(times) < repeat and sum(times) < 3.0:
        before, after = cuda.event(), cuda.event()
        before.record()
        launch()
        after.record()
        after.synchronize()
        times.append(cuda.event_elapsed_time(before, after) / 1e3)
    return statistics.median(times)


def measure(rows: int, columns: int, dtype: str, repeat: int, experts: int = 8) -> list[Timing]:
    """Every rung of every computation on one shape; a top-k gate chooses so many experts."""
    import numpy as np
    from numba import cuda

    from lossref_cuda import top_k_softmax
    from lossref_cuda.device_arrays import Call

    rng = np.random.default_rng(0)
    host = rng.normal(size=(rows, columns)).astype(dtype)
    x, y = cuda.to_device(host), cuda.device_array((rows, columns), host.dtype)
    value = cuda.device_array(rows, host.dtype)
    labels = cuda.to_device(rng.integers(0, columns, rows))
    ones = cuda.to_device(np.ones(1, np.float64 if dtype == "float64" else np.float32))
    call = Call(x, stream=0)
    experts = min(experts, columns)
    gate = top_k_softmax.Problem(x, experts, None, 0)
    copied = time_of(lambda: y.copy_to_device(x), repeat)
    copy_rate = rate(2 * host.nbytes, copied)
    torch_seconds = time_torch(host, repeat, experts)
    found = []
    for computation in COMPUTATIONS:
        module = importlib.import_module(f"lossref_cuda.{computation}")
        for rung in module.RUNGS:
            launch = {
                "logsumexp": lambda module=module, rung=rung: module.launch(call, x, value, rung=rung),
                "cross_entropy": lambda module=module, rung=rung: module.launch(
                    call, x, labels, None, ones, value, y, rung=rung
                ),
                "top_k_softmax": lambda rung=rung: gate.launch(0, rung, y),
            }.get(computation, lambda module=module, rung=rung: module.launch(call, x, y, rung=rung))
            try:
                seconds = time_of(launch, repeat)
            except ValueError:  # the row is too long for the chip, or the dtype too wide
                continue
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


class Allocated:
    """Bytes on the device that are held now, and the most that ever were."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def add(self, array: Any) -> None:
        size = array.size * array.dtype.itemsize
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(array, self._free, size)

    def _free(self, size: int) -> None:
        self.live -= size


@contextmanager
def allocations() -> Iterator[Allocated]:
    """What the kernels' calls allocate. (The library's workspace is its own.)"""
    from lossref_cuda.device_arrays import Call

    allocated, original = Allocated(), Call.new

    def counted(call: Any, shape: tuple[int, ...], dtype: Any) -> Any:
        array = original(call, shape, dtype)
        allocated.add(array)
        return array

    Call.new = counted  # type: ignore[method-assign]
    try:
        yield allocated
    finally:
        Call.new = original  # type: ignore[method-assign]


def measure_linear(
    rows: int, features: int, classes: int, dtype: str, repeat: int, rungs: tuple[str, ...] | None = None
) -> list[LinearTiming]:
    """Every rung that these arrays can have (or those asked for), on one shape."""
    import numpy as np
    from numba import cuda

    from lossref_cuda import linear_cross_entropy

    rng = np.random.default_rng(0)
    hidden, classifier = (rng.normal(size=(n, features)).astype(np.float32) for n in (rows, classes))
    classifier *= np.float32(4 / features**0.5)  # logits of ordinary size
    labels = rng.integers(0, classes, rows)
    arrays = _on_device(hidden, classifier, labels, dtype)
    found = []
    peer = time_torch_linear(hidden, classifier, labels, dtype, repeat)
    for rung in rungs or linear_cross_entropy.RUNGS:
        try:
            problem = linear_cross_entropy.Problem(*arrays, None, None, rung=rung)
        except ValueError:  # this dtype, or nobody's arrays
            continue

        def compute(rung: str = rung) -> Any:
            return linear_cross_entropy.reduced_value_and_vjp(*arrays, rung=rung)

        seconds = time_of(compute, repeat)
        with allocations() as allocated:
            _, gradients = compute()
        products, chunk_bytes = _products_alone(problem)
        alone = time_of(products, repeat)
        found.append(
            LinearTiming(
                rung, rows, features, classes, dtype, seconds, alone, seconds / alone,
                sum(gradient.size * gradient.dtype.itemsize for gradient in gradients), chunk_bytes, allocated.peak,
                None if peer is None else seconds / peer,
            )
        )  # fmt: skip
        del gradients
    cuda.synchronize()
    return found


def measure_attention(queries: int, features: int, keys: int, dtype: str, repeat: int) -> list[AttentionTiming]:
    """Every rung, value and gradients."""
    import numpy as np
    from numba import cuda

    from lossref_cuda import softmax_attention

    rng = np.random.default_rng(0)
    host = [rng.normal(size=(n, features)).astype(dtype) for n in (queries, keys, keys)]
    arrays = [cuda.to_device(array) for array in host]
    ones = cuda.to_device(np.ones_like(host[0]))
    operations = 7 * 2 * queries * features * keys
    peer = time_torch_attention(host, repeat)
    found = []
    for rung in softmax_attention.RUNGS:
        seconds = time_of(
            lambda rung=rung: softmax_attention.value_and_vjp(*arrays, cotangent=ones, rung=rung),
            repeat,
        )
        ratio = None if peer is None else seconds / peer
        found.append(
            AttentionTiming(rung, queries, features, keys, dtype, seconds, rate(operations, seconds), ratio)
        )
    return found


def _on_device(hidden: Any, classifier: Any, labels: Any, dtype: str) -> tuple[Any, ...]:
    """As PyTorch's tensors if it can, else as Numba's arrays."""
    from lossref_cuda.device_arrays import bfloat16, to_device

    torch = _torch_with_cuda()
    if torch is not None:
        real = (torch.from_numpy(array).to("cuda", getattr(torch, dtype)) for array in (hidden, classifier))
        return (*real, torch.from_numpy(labels).cuda())
    narrow = bfloat16() if dtype == "bfloat16" else dtype
    return tuple(to_device(array) for array in (hidden.astype(narrow), classifier.astype(narrow), labels))


def _products_alone(problem: Any) -> tuple[Callable[[], None], int]:
    """The three products of each chunk, into memory that is there; and the size of a chunk."""
    call, rows = problem.call, problem.rows.count
    each, features = min(problem.chunk, rows), problem.hidden.shape[1]
    classifier = problem.vocabulary.classifier
    logits = call.new((each, problem.columns), problem.number)
    g = problem.g_buffer(logits)
    d_hidden = call.new((each, features), problem.number)
    d_classifier = call.full((problem.columns, features), problem.number, 0.0)

    def products() -> None:
        for start in range(0, rows, each):
            hidden = problem.hidden[start : min(start + each, rows)]
            count = hidden.shape[0]
            problem.products.logits(hidden, classifier, None, logits[:count])
            problem.products.hidden(g[:count], classifier, None, d_hidden[:count])
            problem.products.classifier(g[:count], hidden, None, d_classifier)

    buffers = [logits] if g is logits else [logits, g]
    return products, sum(buffer.size * buffer.dtype.itemsize for buffer in buffers)


def _torch_with_cuda() -> Any:
    from lossref_cuda.instructions import SIMULATED

    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() and not SIMULATED else None


def time_torch_linear(hidden: Any, classifier: Any, labels: Any, dtype: str, repeat: int) -> float | None:
    """Forward and backward of PyTorch's linear followed by its cross-entropy, where there is memory for that."""
    torch = _torch_with_cuda()
    if torch is None:
        return None
    states, vectors, right = _on_device(hidden, classifier, labels, dtype)

    def forward_and_backward() -> None:
        h, c = states.detach().requires_grad_(), vectors.detach().requires_grad_()
        torch.nn.functional.cross_entropy(torch.nn.functional.linear(h, c), right).backward()

    try:
        return _time_of_torch(torch, forward_and_backward, repeat)
    except torch.OutOfMemoryError:
        return None


def time_torch_attention(host: list[Any], repeat: int) -> float | None:
    """Forward and backward of PyTorch's attention."""
    torch = _torch_with_cuda()
    if torch is None:
        return None
    arrays = [torch.from_numpy(array).cuda().requires_grad_() for array in host]

    def forward_and_backward() -> None:
        # A batch and a head of one: the fused kernels take four dimensions.
        output = torch.nn.functional.scaled_dot_product_attention(*(x[None, None] for x in arrays))
        torch.autograd.grad(output, arrays, torch.ones_like(output))

    return _time_of_torch(torch, forward_and_backward, repeat)


def time_torch(host: Any, repeat: int, experts: int) -> dict[str, float]:
    """The same with PyTorch, if it is installed with CUDA; of cross-entropy forward and backward."""
    torch = _torch_with_cuda()
    if torch is None:
        return {}
    x = torch.from_numpy(host).cuda()
    labels = torch.randint(0, host.shape[1], (host.shape[0],), device="cuda")

    def forward_and_backward():
        logits = x.detach().requires_grad_()
        torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()

    def gate():
        best, places = x.topk(experts, dim=-1)
        return torch.zeros_like(x).scatter_(-1, places, best.softmax(-1))

    calls = {
        "logsumexp": lambda: torch.logsumexp(x, -1),
        "softmax": lambda: torch.softmax(x, -1),
        "log_softmax": lambda: torch.log_softmax(x, -1),
        "cross_entropy": forward_and_backward,
        "top_k_softmax": gate,
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
    failures = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return {"ran": True, "passed": run.returncode == 0, "summary": last[0], "failures": failures}


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


def versions() -> dict[str, str]:
    """Of whatever takes part: a compiler, a linker and a driver of different releases are the first suspects."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("numba-cuda", "cuda-core", "cuda-bindings", "nvidia-nvvm", "nvidia-nvjitlink", "torch", "cupy-cuda13x")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def draw(timings: list[Timing], title: str, file: Path) -> None:
    """The share of the copy rate of each rung, one line a shape."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = list(dict.fromkeys((one.computation, one.rows, one.columns, one.dtype) for one in timings))
    rungs = list(dict.fromkeys(one.rung for one in timings))
    figure, axes = plt.subplots(figsize=(10, 1.5 + 0.28 * len(lines)), layout="constrained")
    for number, rung in enumerate(rungs):
        mine = [one for one in timings if one.rung == rung]
        heights = [lines.index((one.computation, one.rows, one.columns, one.dtype)) for one in mine]
        shares = [one.share_of_copy for one in mine]
        axes.plot(shares, heights, "os^vD<>P*X"[number % 10], color=f"C{number % 10}", label=rung, ms=6)
    axes.axvline(1, color="black", lw=1)
    axes.set_yticks(range(len(lines)), [f"{name} {rows}×{columns} {dtype}" for name, rows, columns, dtype in lines])
    axes.invert_yaxis()
    axes.set(xlabel="share of the rate of a copy on the device", title=title, xlim=(0, None))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(file)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lossref_cuda.device_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "result", type=Path, nargs="?", help="the JSON file to write; without it docs/benchmarks/<device>.json"
    )
    parser.add_argument("--rows", type=int, action="append", help="with --columns, a shape; may be repeated")
    parser.add_argument("--columns", type=int, action="append")
    parser.add_argument("--linear", action="append", help="ROWSxFEATURESxCLASSES; may be repeated")
    parser.add_argument("--attention", action="append", help="QUERIESxFEATURESxKEYS; may be repeated")
    parser.add_argument("--dtype", action="append", choices=("float16", "bfloat16", "float32", "float64"))
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
    if chosen.result is None and not real:
        parser.error("result: in the simulator, say where to write")
    path = chosen.result or Path("docs/benchmarks", re.sub(r"\W+", "_", device["name"].lower()) + ".json")
    shapes = list(zip(chosen.rows or (), chosen.columns or (), strict=True))
    shapes = shapes or ([(8192, 1000), (8192, 8192), (4096, 50257), (8, 2**20)] if real else [(2, 40)])
    linear = [tuple(map(int, text.split("x"))) for text in chosen.linear or ()]
    linear = linear or ([(8192, 2304, 32000), (8192, 2304, 128000)] if real else [(6, 3, 9)])
    attention = [tuple(map(int, text.split("x"))) for text in chosen.attention or ()]
    attention = attention or ([(2048, 64, 2048), (4096, 128, 16384)] if real else [(3, 2, 5)])
    dtypes = chosen.dtype or (["float32", "float16"] if real else ["float32"])
    tests = {"ran": False, "reason": "--skip-tests"} if chosen.skip_tests else run_tests()
    timings = [
        one
        for rows, columns in shapes
        for dtype in dtypes
        if dtype != "bfloat16"
        for one in measure(rows, columns, dtype, chosen.repeat)
    ]
    linear_dtypes = chosen.dtype or (["float32", "bfloat16"] if real else ["float32"])
    linear_timings = [
        one for shape in linear for dtype in linear_dtypes for one in measure_linear(*shape, dtype, chosen.repeat)
    ]
    attention_timings = [
        one
        for shape in attention
        for dtype in dtypes
        if dtype != "bfloat16"
        for one in measure_attention(*shape, dtype, chosen.repeat)
    ]
    result = {
        "device": device,
        "python": platform.python_version(),
        "packages": versions(),
        "tests": tests,
        "timings": [one._asdict() for one in timings],
        "linear_cross_entropy": [one._asdict() for one in linear_timings],
        "softmax_attention": [one._asdict() for one in attention_timings],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    try:
        draw(timings, device["name"] + ("" if real else ", whose times mean nothing"), path.with_suffix(".svg"))
    except ImportError as missing:
        print(f"No plot: {missing}.", file=sys.stderr)
    for one in timings:
        print(
            f"{one.computation:14} {one.rung:28} {one.rows}x{one.columns} {one.dtype}  "
            f"{one.gigabytes_per_second:8.1f} GB/s  {one.share_of_copy:6.1%} of copy"
            + ("" if one.times_torch is None else f"  {one.times_torch:5.2f} x torch's time")
        )
    for line in linear_timings:
        beyond = (line.peak_bytes - line.output_bytes) / line.chunk_bytes
        print(
            f"linear_cross_entropy {line.rung:22} {line.rows}x{line.features}x{line.classes} {line.dtype}  "
            f"{line.seconds:.4g} s  {line.times_products:5.2f} x its products  beyond outputs {beyond:5.2f} chunks"
            + ("" if line.times_torch is None else f"  {line.times_torch:5.2f} x torch's time")
        )
    for each in attention_timings:
        print(
            f"softmax_attention {each.rung:22} {each.queries}x{each.features}x{each.keys} {each.dtype}  "
            f"{each.seconds:.4g} s  {each.gigaflops_per_second:8.1f} GFLOP/s"
            + ("" if each.times_torch is None else f"  {each.times_torch:5.2f} x torch's time")
        )
    return 0 if not tests["ran"] or tests["passed"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
