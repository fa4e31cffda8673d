"""What takes part in a problem: the machine's limits, lossref's paths and algorithms, the peers."""

import time
from collections.abc import Iterator
from functools import partial

import numpy as np

import lossref

from . import peers
from .interleaving import Contender
from .problems import KERNELS, Problem, aligned

SOFTMAX_ALGORITHMS = ("three_pass", "online", "two_pass")


def contenders(problem: Problem, inputs: tuple, paths, with_peers) -> list[Contender]:
    out = outputs(problem, inputs)
    found = list(machine(problem, inputs, out))
    if problem.kernel in KERNELS:
        for path in paths:
            found += lossref_path(path, problem, inputs, out)
    for name in with_peers:
        if peers.installed(name):
            found += peers.PEERS[name](problem, inputs, out)
    return found


def outputs(problem: Problem, inputs: tuple) -> tuple:
    """Where results go: the same memory for all contenders, its pages in place."""
    if problem.kernel == "linear_cross_entropy":
        found = tuple(aligned(x.shape, x.dtype) for x in inputs[:2])
    elif problem.kernel == "softmax_attention":
        found = tuple(aligned(x.shape, x.dtype) for x in inputs)
    elif problem.kernel == "gemm":
        found = (aligned((problem.shape[0], problem.shape[2]), problem.dtype),)
    elif problem.kernel in ("logsumexp", "read"):
        found = (aligned(problem.shape[:1], problem.dtype),)
    else:
        found = (aligned(problem.shape, problem.dtype),)
    for array in found:
        array.fill(0)
    return found


def machine(problem: Problem, inputs: tuple, out: tuple) -> Iterator[Contender]:
    """The limits, on arrays of this problem's size."""
    from . import limits

    if problem.kernel == "gemm":
        yield Contender("machine", "matmul of NumPy", "out=", lambda: np.matmul(inputs[0], inputs[1], out=out[0]))
        return
    if problem.kernel == "linear_cross_entropy":
        from lossref.kernels.linear_cross_entropy import rows_at_a_time

        hidden, classifier, _ = inputs
        each = min(rows_at_a_time(classifier.shape[0], None, None), hidden.shape[0])
        logits = np.empty((each, classifier.shape[0]), hidden.dtype)
        yield Contender(
            "machine", "three products", "out=", lambda: limits.three_products(hidden, classifier, logits, *out)
        )
    elif problem.kernel == "softmax_attention":
        yield Contender("machine", "eight products", "out=", lambda: limits.eight_products(*inputs, *out))
    elif problem.kernel in ("logsumexp", "read"):
        yield Contender("machine", "read", "", lambda: limits.read(inputs[0]))
    else:
        yield Contender("machine", "copy", "out=", lambda: limits.copy(inputs[0], out[0]))


def lossref_path(path: str, problem: Problem, inputs: tuple, out: tuple) -> Iterator[Contender]:
    """lossref on one path, as a user calls it: with validation and reduction."""
    function = lossref.losses()[problem.kernel]
    if path not in function.paths:
        return
    function = function.path(path)
    provider = f"lossref {path}"
    call = function.value_and_grad if problem.computes == "value and gradient" else function
    algorithms: tuple[str, ...] = SOFTMAX_ALGORITHMS if problem.kernel == "softmax" and path != "numpy" else ("",)
    for algorithm in algorithms:
        compute = partial(call, *inputs, **problem.options, **({"algorithm": algorithm} if algorithm else {}))
        yield Contender(provider, algorithm, "fresh", compute)
        if path != "numpy" and problem.kernel != "logsumexp":  # the one has no out=, the other's result is small
            target = out if len(out) > 1 else out[0]
            yield Contender(provider, algorithm, "out=", partial(compute, out=target))


def epilogue_share(inputs: tuple, out: tuple, calls: int = 3) -> list[float]:
    """Of linear cross-entropy on the Numba path: the share of the time that is not spent in products and sums of
    products, but in the kernel that turns logits into terms and gradient."""
    from lossref.kernels import linear_cross_entropy as module

    call = lossref.losses()["linear_cross_entropy"].path("numba").value_and_grad
    untouched, spent = module.in_parallel, [0.0]

    def timed(work, parts):
        start = time.perf_counter()
        result = untouched(work, parts)
        spent[0] += time.perf_counter() - start
        return result

    shares = []
    module.in_parallel = timed
    try:
        for _ in range(calls):
            spent[0], start = 0.0, time.perf_counter()
            call(*inputs, out=out)
            shares.append(spent[0] / (time.perf_counter() - start))
    finally:
        module.in_parallel = untouched
    return shares


def largest_relative_error(problem: Problem, inputs: tuple, result) -> float:
    """Of a softmax or logsumexp, against float64 in blocks; results below 2^-126 do not count."""
    worst = 0.0
    for i, row in enumerate(inputs[0]):
        maximum = float(row.max())
        blocks = [slice(start, start + (1 << 20)) for start in range(0, row.size, 1 << 20)]
        total = sum(float(np.exp(row[b].astype(np.float64) - maximum).sum()) for b in blocks)
        if problem.kernel == "logsumexp":
            exact = maximum + np.log(total)
            worst = max(worst, abs(float(np.asarray(result).ravel()[i]) - exact) / abs(exact))
            continue
        got = np.asarray(result)[i]
        for b in blocks:
            exact = np.exp(row[b].astype(np.float64) - maximum) / total
            counts = exact >= 2.0**-126
            error = np.abs(got[b] - exact)[counts] / exact[counts]
            worst = max(worst, float(error.max(initial=0.0)))
    return worst
