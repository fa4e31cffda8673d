"""What the compiler makes of every rung: registers, spills, shared memory, without a GPU.

    python -m lossref_cuda.compile_report                       a table for compute capability 9.0
    python -m lossref_cuda.compile_report --cc 8.0 --cc 12.0    for others
    python -m lossref_cuda.compile_report --markdown            the same, to be pasted
    python -m lossref_cuda.compile_report --table FILE          for the documentation: docs/benchmarks/registers.md

Numba compiles a kernel to PTX without a GPU as soon as it is told which one to assume; `ptxas`, from the
package nvidia-cuda-nvcc, turns PTX into machine code and reports what that needs.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

COMPUTATIONS = (
    "logsumexp",
    "softmax",
    "log_softmax",
    "cross_entropy",
    "linear_cross_entropy",
    "top_k_softmax",
    "softmax_attention",
)
CAPABILITIES = ((7, 5), (8, 0), (9, 0), (10, 0), (12, 0))


# Instructions that older devices lack: rung -> the first capability that has them.
LEAST_CAPABILITY = {"tensor_core_tiles": (8, 0)}  # mma and conversions of bfloat16
# Eight groups of four float64 would need all the registers that a thread can have: rung -> the dtype it does not take.
NOT_FOR = {"row_in_registers": "float64"}


class Resources(NamedTuple):
    """What one thread (registers, stack, spills) and one block (shared) of a kernel need, in bytes."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


class Kernel(NamedTuple):
    computation: str
    rung: str
    name: str
    dispatcher: Any
    signature: Any

    @property
    def label(self) -> str:
        return f"{self.computation}.{self.rung}" + ("" if self.name == self.rung else f".{self.name}")

    def runs_on(self, capability: tuple[int, int]) -> bool:
        return capability >= LEAST_CAPABILITY.get(self.rung, (0, 0))


def kernels(dtype: str = "float32") -> list[Kernel]:
    """Every kernel of every rung, with the argument types it is launched with for arrays of this dtype."""
    found = []
    for computation in COMPUTATIONS:
        module = importlib.import_module(f"lossref_cuda.{computation}")
        for rung, members in module.KERNELS.items():
            if NOT_FOR.get(rung) == dtype:
                continue
            for dispatcher in members:
                name = dispatcher.py_func.__name__
                found.append(Kernel(computation, rung, name, dispatcher, signature_of(dispatcher, dtype)))
    return found


def signature_of(dispatcher: Any, dtype: str) -> Any:
    """The types of a kernel's arguments, told by their names: one table for the whole package."""
    from numba.cuda import types

    storage = {"bfloat16": types.uint16}.get(dtype) or getattr(types, dtype)
    arithmetic = types.float64 if dtype == "float64" else types.float32
    matrix, vector = types.Array(storage, 2, "C"), types.Array(storage, 1, "C")
    state = types.Array(arithmetic, 2, "C")
    numbers = types.Array(arithmetic, 1, "C")
    whole_numbers, flags = types.Array(types.int64, 1, "C"), types.Array(types.int32, 2, "C")
    meaning = {
        "x": matrix, "y": matrix, "logits": matrix, "gradient": matrix,
        "lse": vector, "terms": vector,
        "cotangent": vector, "cotangents": matrix, "reduced_cotangent": numbers,
        "weight": numbers, "row_cotangent": numbers, "scale": numbers,
        "partial_terms": numbers, "partial_weights": numbers, "result": numbers,
        "pieces_m": state, "pieces_r": state, "partial": state,
        "hidden": matrix, "classifier": matrix, "source": matrix, "target": matrix, "bias": matrix,
        "g": state, "chunk": state, "out": state, "computed": state,
        "numbers": numbers, "row_numbers": numbers, "sums": types.Array(types.float64, 1, "C"),
        "kept": flags, "alive": flags,
        "scores": matrix, "gates": matrix, "slopes": state, "strips": state, "k": types.int64,
        "queries": matrix, "keys": matrix, "values": matrix, "output": matrix,
        "of_queries": matrix, "of_keys": matrix, "of_values": matrix, "of_bias": matrix,
        "mask": types.Array(types.boolean, 1, "C"), "masked": types.boolean, "causal": types.boolean,
        "maxima": numbers, "factors": numbers, "highs": numbers, "lows": numbers, "pivots": whole_numbers,
        "labels": whole_numbers, "row_labels": whole_numbers, "inverse": whole_numbers,
        "rows": whole_numbers, "candidates": whole_numbers, "positions": whole_numbers,
        "length": types.int64, "ignore_index": types.int64, "columns": types.int64,
        "label_smoothing": types.float64, "softcap": types.float64, "z_loss_weight": types.float64,
        "factor": types.float64, "limit": types.float64,
        "shift": types.int64, "rows_each": types.int64, "classes_each": types.int64,
        "biased": types.boolean, "filtered": types.boolean, "sorted_classes": types.boolean,
        "wanted": types.boolean, "weighted": types.boolean, "mean": types.boolean, "given": types.boolean,
        "wants_terms": types.boolean,
    }  # fmt: skip
    code = dispatcher.py_func.__code__
    return types.void(*(meaning[name] for name in code.co_varnames[: code.co_argcount]))


@contextmanager
def pretend_device(capability: tuple[int, int]):
    """Numba compiles a callee for "the current device"; without a GPU we say which one that is."""
    import numba.cuda.dispatcher as dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = original


def compile_to_ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    from numba import cuda

    options = {
        name: value
        for name, value in kernel.dispatcher.targetoptions.items()
        if name in ("fastmath", "launch_bounds") and value
    }
    with pretend_device(capability):
        ptx, _ = cuda.compile_ptx(kernel.dispatcher.py_func, kernel.signature, cc=capability, **options)
    return ptx


def ptxas() -> Path:
    """The assembler of the same CUDA release as Numba's compiler: an older one stops at "Unsupported
    .version"."""
    import importlib.util

    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations if package else ():
        for candidate in sorted(Path(folder).glob("cu*/bin/ptxas*")):
            return candidate
    raise FileNotFoundError("ptxas not found: pip install nvidia-cuda-nvcc")


def assemble(ptx: str, capability: tuple[int, int]) -> Resources:
    """Run ptxas -v and read its report."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        architecture = f"sm_{capability[0]}{capability[1]}"
        command = [str(ptxas()), "-v", f"-arch={architecture}", "-o", str(source) + ".cubin", str(source)]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)
    return read_report(run.stderr)


def read_report(text: str) -> Resources:
    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(found.group(1)) if found else 0

    return Resources(
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        shared=number(r"(\d+) bytes smem"),
    )


def report(
    capabilities: list[tuple[int, int]], dtype: str, only: list[str]
) -> list[tuple[Kernel, tuple[int, int], Resources]]:
    return [
        (kernel, capability, assemble(compile_to_ptx(kernel, capability), capability))
        for kernel in kernels(dtype)
        if kernel.computation in only
        for capability in capabilities
        if kernel.runs_on(capability)
    ]


def versions() -> str:
    """What compiled and what assembled."""
    from importlib.metadata import version

    said = subprocess.run([str(ptxas()), "--version"], capture_output=True, text=True, check=True).stdout
    release = re.search(r"release [\d.]+, V([\d.]+)", said)
    return f"numba-cuda {version('numba-cuda')}, ptxas {release.group(1) if release else 'of an unknown release'}"


TABLE_CAPABILITIES = ((8, 0), (9, 0), (10, 0), (12, 0))


def registers_page() -> str:
    """The page of the documentation: every kernel in float32, registers by compute capability."""
    needs: dict[str, dict[tuple[int, int], Resources]] = {}
    for kernel, capability, resources in report(list(TABLE_CAPABILITIES), "float32", list(COMPUTATIONS)):
        needs.setdefault(kernel.label, {})[capability] = resources
    names = [f"{major}.{minor}" for major, minor in TABLE_CAPABILITIES]
    lines = [
        "# Registers of the CUDA kernels",
        "",
        "What one thread of each kernel needs, in float32, for four compute capabilities; made without a GPU by",
        "",
        "```",
        "python -m lossref_cuda.compile_report --table docs/benchmarks/registers.md",
        "```",
        "",
        f"with {versions()}. A multiprocessor has 65536 registers: at 32 a thread it can hold 64 warps, at 64",
        "it can hold 32. *Spilled* and *stack* are the most over the four, in bytes; *shared* is for 9.0, in bytes a",
        "block, without what a launch asks for.",
        "",
        "| kernel | " + " | ".join(names) + " | spilled | stack | shared |",
        "| --- |" + " ---: |" * (len(names) + 3),
    ]
    for label, found in needs.items():
        everywhere = found.values()
        cells = [
            *(str(found[capability].registers) for capability in TABLE_CAPABILITIES),
            str(max(each.spill_stores + each.spill_loads for each in everywhere)),
            str(max(each.stack for each in everywhere)),
            str(found[9, 0].shared),
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lossref_cuda.compile_report", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--cc", action="append", help="compute capability, as 9.0; may be repeated")
    parser.add_argument("--dtype", default="float32", choices=("float16", "bfloat16", "float32", "float64"))
    parser.add_argument("--only", action="append", choices=COMPUTATIONS, help="a computation; may be repeated")
    parser.add_argument("--markdown", action="store_true", help="a Markdown table instead of a drawn one")
    parser.add_argument("--table", type=Path, metavar="FILE", help="write the documentation's page")
    chosen = parser.parse_args(arguments)
    if chosen.table is not None:
        chosen.table.write_text(registers_page(), encoding="utf-8")
        return 0
    capabilities = [tuple(map(int, text.split("."))) for text in chosen.cc or ["9.0"]]
    rows = report(capabilities, chosen.dtype, chosen.only or list(COMPUTATIONS))
    header = ("kernel", "cc", "registers", "spilled bytes", "stack bytes", "shared bytes")
    cells = [
        (
            kernel.label,
            f"{capability[0]}.{capability[1]}",
            str(needs.registers),
            str(needs.spill_stores + needs.spill_loads),
            str(needs.stack),
            str(needs.shared),
        )
        for kernel, capability, needs in rows
    ]
    if chosen.markdown:
        print("| " + " | ".join(header) + " |")
        print("| --- | --- |" + " ---: |" * 4)
        for line in cells:
            print("| " + " | ".join(line) + " |")
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{chosen.dtype}: what ptxas reports")
    for name in header:
        table.add_column(name, justify="left" if name in ("kernel", "cc") else "right", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
