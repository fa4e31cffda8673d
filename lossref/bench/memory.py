"""Peak memory of one call, measured in a process of its own.

``python -m lossref.bench.memory`` reads a request, makes the inputs, warms the contender up on a tiny problem (it
compiles, starts its threads and allocates what it allocates once), forgets the highest mark, calls once, and says how
far the resident memory rose above what it was before the call: the results, and all that was there in between. Where a
call multiplies matrices, its BLAS has multiplied such matrices before: it packs them into buffers that it never gives
back, which belong to the process, not to the call.

The highest mark is VmHWM of /proc/self/status, reset through /proc/self/clear_refs (Linux). Elsewhere it is
``ru_maxrss``, which cannot be reset: it is right where the call needs more than anything before it.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

TINY = {"cross_entropy": (4, 16), "linear_cross_entropy": (4, 8, 16), "softmax": (4, 16), "log_softmax": (4, 16),
        "logsumexp": (4, 16), "top_k_softmax": (4, 16), "softmax_attention": (4, 8, 16)}  # fmt: skip
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def rise(call: Callable[[], object]) -> tuple[int, str]:
    """By how many bytes resident memory rose at most during a call; and how that was found."""
    gc.collect()
    try:
        RESET.write_text("5")
        before = _of_status("VmRSS")
        result = call()
        peak = _of_status("VmHWM")
        how = "VmHWM"
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        result = call()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        how = "ru_maxrss"
    del result
    return max(0, peak - before), how


def _of_status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{STATUS} has no {name}")
    return int(found[1]) * 1024


def multiply_once(inputs: tuple, provider: str) -> None:
    """The three products of linear cross-entropy, by the library that will make them."""
    hidden, classifier = inputs[:2]
    if provider == "torch":
        import torch

        hidden, classifier = torch.from_numpy(hidden), torch.from_numpy(classifier)
    logits = hidden @ classifier.T
    logits @ classifier
    logits.T @ hidden


def main(request: dict) -> None:
    from .contenders import contenders
    from .problems import Problem
    from .process import answer

    problem = Problem(request["kernel"], tuple(request["shape"]), request["dtype"])
    wanted = request["provider"], request["algorithm"], request["output"]
    provider = request["provider"]
    paths = [provider.removeprefix("lossref ")] if provider.startswith("lossref ") else []
    peers = [] if paths else [provider]
    found = {}
    for each in (Problem(problem.kernel, TINY[problem.kernel], problem.dtype), problem):
        inputs = each.inputs()
        for contender in contenders(each, inputs, paths, peers):
            if contender.name == wanted:
                found[each] = contender
                if each is not problem:
                    contender.call()
    if problem.kernel == "linear_cross_entropy":
        multiply_once(inputs, provider)
    risen, how = rise(found[problem].call)
    answer({"bytes": risen, "how": how})


if __name__ == "__main__":
    main(json.loads(sys.stdin.read()))
