"""The rungs of the CUDA path, if there is a GPU. They are timed on the device by ``lossref_cuda.device_check``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .problems import EXPERTS, Problem
from .rows import Row

LINEAR, ATTENTION = "linear_cross_entropy", "softmax_attention"


def not_run() -> tuple[str, str] | None:
    """Why the CUDA path cannot be measured here and what would help; None if it can."""
    import lossref_cuda

    state = lossref_cuda.availability()
    return None if state.ok else (state.reason, state.remedy)


def measure(problems: Iterable[Problem], repeat: int) -> list[Row]:
    """Every rung of the problems' kernels, one row each; its medians come without quantiles."""
    from lossref_cuda import device_check

    name = device_check.describe_device()["name"]
    problems = list(problems)
    wanted = [problem for problem in problems if problem.kernel in device_check.COMPUTATIONS]
    rows = [row for problem in problems if problem.kernel == LINEAR for row in _linear(problem, repeat, name)]
    rows += [row for problem in problems if problem.kernel == ATTENTION for row in _attention(problem, repeat, name)]
    for shape, dtype in dict.fromkeys((problem.shape, problem.dtype) for problem in wanted):
        kernels = {problem.kernel: problem for problem in wanted if (problem.shape, problem.dtype) == (shape, dtype)}
        for one in device_check.measure(*shape, dtype, repeat, EXPERTS):
            if one.computation not in kernels:
                continue
            problem = kernels[one.computation]
            rows.append(
                Row(
                    problem.kernel, problem.computes, "lossref cuda", one.rung, "out=", "device", "time", "s",
                    list(shape), dtype, 0, repeat, None, one.seconds, None,
                    least_bytes=problem.least_bytes, flops=problem.flops,
                    gigabytes_per_second=one.gigabytes_per_second, share_of_limit=one.share_of_copy,
                    ratio_to={} if one.times_torch is None else {"torch": one.times_torch}, machine=name,
                )
            )  # fmt: skip
    return rows


def _attention(problem: Problem, repeat: int, machine: str) -> Iterator[Row]:
    from lossref_cuda import device_check

    queries, features, keys = problem.shape
    for one in device_check.measure_attention(queries, features, keys, problem.dtype, repeat):
        yield Row(
            ATTENTION, problem.computes, "lossref cuda", one.rung, "fresh", "device", "time", "s",
            list(problem.shape), problem.dtype, 0, repeat, None, one.seconds, None,
            least_bytes=problem.least_bytes, flops=problem.flops,
            gigabytes_per_second=problem.least_bytes / one.seconds / 1e9,
            ratio_to={} if one.times_torch is None else {"torch": one.times_torch}, machine=machine,
        )  # fmt: skip


def _linear(problem: Problem, repeat: int, machine: str) -> Iterator[Row]:
    """Linear cross-entropy: its time against that of its three products alone, and its memory."""
    from lossref_cuda import device_check

    rows, features, classes = problem.shape
    for one in device_check.measure_linear(rows, features, classes, problem.dtype, repeat):

        def row(metric: str, unit: str, number: float, one=one, **more) -> Row:
            return Row(
                LINEAR, problem.computes, "lossref cuda", one.rung, "fresh", "device", metric, unit,
                list(problem.shape), problem.dtype, 0, repeat, None, number, None, machine=machine, **more,
            )  # fmt: skip

        yield row(
            "time", "s", one.seconds, least_bytes=problem.least_bytes, flops=problem.flops,
            gigabytes_per_second=problem.least_bytes / one.seconds / 1e9, share_of_limit=1 / one.times_products,
            ratio_to={} if one.times_torch is None else {"torch": one.times_torch},
        )  # fmt: skip
        yield row("epilogue share", "1", 1 - 1 / one.times_products)
        yield row("transient", "B", one.peak_bytes - one.output_bytes)
        yield row("chunk", "B", one.chunk_bytes)
