"""One process measures everything, with the same threads for every library.

How many threads a library uses is decided when it is loaded, from environment variables and from the cores that the
process may run on. So ``lossref bench`` does not measure in its own process but starts ``python -m
lossref.bench.process``, which reads a request (JSON) from its standard input and writes a line for each problem.

`allocator` says what becomes of a large result that is freed. "as shipped": the C library gives it back to the system,
and the next one costs a page fault for every 4 KB. "pages kept": the C library keeps it (`MALLOC_MMAP_MAX_=0` and
`MALLOC_TRIM_THRESHOLD_`, glibc), as a program does that caches its buffers. It holds for all contenders of the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

MARK = "lossref: "
SHIPPED, KEPT = "as shipped", "pages kept"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 46), "MALLOC_ARENA_MAX": "1"}


def environment(threads: int, allocator: str) -> dict[str, str]:
    return {
        **os.environ,
        **dict.fromkeys(THREADS, str(threads)),
        **(KEEP_PAGES if allocator == KEPT else {}),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "JAX_PLATFORMS": "cpu",
    }


@contextmanager
def on_cores(count: int):
    """A child that is started here may use so many cores; JAX knows no other limit."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def ask(module: str, request: dict, threads: int, allocator: str = SHIPPED) -> Iterator[dict]:
    """The answers of ``python -m module`` to a request, as they come."""
    with TemporaryFile("w+") as question, TemporaryFile("w+") as words:
        question.write(json.dumps(request))
        question.seek(0)
        with on_cores(threads):
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=question,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                env=environment(threads, allocator),
            )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(MARK):
                    yield json.loads(line.removeprefix(MARK))
            if process.wait() != 0:
                words.seek(0)
                said = words.read().strip().splitlines() or ["it said nothing"]
                raise RuntimeError(f"the measuring process ended with status {process.returncode}: {said[-1]}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()


def answer(found: dict) -> None:
    print(MARK + json.dumps(found), flush=True)


def blas_libraries() -> list[dict]:
    """The BLAS libraries and thread pools that are loaded, if threadpoolctl is there to tell."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return []
    kept = ("internal_api", "version", "architecture", "num_threads")
    return [{key: pool[key] for key in kept if pool.get(key) is not None} for pool in threadpool_info()]


def main(request: dict) -> None:
    from .contenders import contenders, epilogue_share, largest_relative_error, outputs
    from .interleaving import Contender, measure, quantiles
    from .neighbours import Patience
    from .problems import Problem
    from .rows import as_json, row, times

    allocator, threads = request["allocator"], request["threads"]
    patience = Patience(request["wait"])
    if "torch" in request["peers"]:
        import torch

        torch.set_num_threads(threads)
    for number, asked in enumerate(request["problems"]):
        problem = Problem(asked["kernel"], tuple(asked["shape"]), asked["dtype"])
        answer({"now": f"{problem.kernel} {problem.shape_text}", "number": number})
        inputs = problem.inputs()
        taking_part = contenders(problem, inputs, request["paths"], request["peers"])
        samples = measure(
            taking_part,
            request["seconds"],
            request["pause"],
            request["rounds"],
            patience=patience,
            warm_rounds=2 if allocator == KEPT else 0,
        )
        rows = times(problem, samples, allocator, threads)
        if request["errors"] and problem.kernel in ("softmax", "logsumexp"):
            for contender in taking_part:
                if contender.provider != "machine" and contender.output == "fresh":
                    error = largest_relative_error(problem, inputs, contender.call())
                    rows.append(
                        row(problem, contender, "relative error", "1", (None, error, None), allocator, threads, 1)
                    )
        if problem.kernel == "linear_cross_entropy" and "numba" in request["paths"]:
            from lossref.kernels.linear_cross_entropy import rows_at_a_time

            numba = Contender("lossref numba", "", "out=", lambda: None)
            patience.wait()
            shares = epilogue_share(inputs, outputs(problem, inputs))
            rows.append(row(problem, numba, "epilogue share", "1", quantiles(shares), allocator, threads, len(shares)))
            logits = min(rows_at_a_time(problem.shape[2], None, None), problem.shape[0]) * problem.shape[2]
            chunk = float(logits * problem.itemsize)
            rows.append(row(problem, numba, "chunk", "B", (None, chunk, None), allocator, threads, 1))
        answer({"rows": as_json(rows)})
        del inputs, taking_part, samples
    answer({"pools": blas_libraries()})


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
    os._exit(0)  # everything is said; libraries that die of their own threads on the way out do no harm
