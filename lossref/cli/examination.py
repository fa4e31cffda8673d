"""``lossref doctor``: a tiny computation on every path, and what to do where it does not work."""

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
import typer
from rich import box
from rich.table import Table

import lossref
from lossref.core.loss import PATHS

from . import simulated
from .machine import PEERS, description, versions
from .terminal import console

REINSTALL = "pip install --force-reinstall lossref"


@dataclass(frozen=True)
class Finding:
    """What became of the tiny computation on one path."""

    path: str
    works: bool
    where: str  # the CPU, a GPU, the simulator
    reason: str = ""
    remedy: str = ""
    seconds: float = 0.0


def tiny_computation(path: str) -> dict:
    """The softmax of two rows on a path, in this process, compared with what it must be."""
    start = time.perf_counter()
    rows = np.array([[0.0, 40.0], [1.0, 1.0]])
    got = np.asarray(lossref.losses()["softmax"].path(path)(rows))
    seconds = time.perf_counter() - start
    small = np.exp(-40.0)
    want = np.array([[small / (1 + small), 1 / (1 + small)], [0.5, 0.5]])
    return {"right": bool(np.allclose(got, want, rtol=1e-14, atol=0)), "got": got.tolist(), "seconds": seconds}


def examine(path: str) -> Finding:
    """Really run something on a path."""
    if path == "cuda":
        return _examine_cuda()
    remedy = {
        "numpy": REINSTALL,
        "numba": 'pip install "numba>=0.61" (there is none for Pyodide, nor for a Python in its first weeks)',
    }[path]
    return _attempt(path, "CPU", lambda: tiny_computation(path), remedy)


def _examine_cuda() -> Finding:
    import lossref_cuda

    state = lossref_cuda.availability()
    if state.ok:
        remedy = "`nvidia-smi` must show the GPU; otherwise reinstall its driver"
        return _attempt("cuda", state.reason, lambda: tiny_computation("cuda"), remedy)
    if not simulated.possible():
        return Finding("cuda", False, "", state.reason, state.remedy)
    found = _attempt("cuda", "simulator only", simulated.run_tiny_computation, state.remedy)
    if not found.works:
        return found
    reason = f"no GPU is used: {state.reason}"
    return Finding("cuda", True, found.where, reason, state.remedy, found.seconds)


def _attempt(path: str, where: str, compute, remedy: str) -> Finding:
    try:
        result = compute()
    except Exception as problem:  # whatever it is, it is the finding
        return Finding(path, False, where, f"{type(problem).__name__}: {problem}".splitlines()[0], remedy)
    if not result["right"]:
        return Finding(path, False, where, f"softmax([[0, 40], [1, 1]]) came out as {result['got']}", remedy)
    return Finding(path, True, where, seconds=result["seconds"])


def numba_threads() -> int | None:
    try:
        import numba
    except ImportError:
        return None
    return numba.get_num_threads()


def print_examination(as_json: bool) -> None:
    findings = [examine(path) for path in PATHS]
    machine = description() | {"numba_threads": numba_threads()}
    if as_json:
        report = {"machine": machine, "paths": [asdict(f) for f in findings], "peers": versions(PEERS)}
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    out = console()
    foundations = machine.pop("versions")
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column()
    for name, value in machine.items():
        facts.add_row(name.replace("_", " "), "not installed" if value is None else str(value))
    facts.add_row("foundations", _listed(foundations))
    facts.add_row("peers", _listed(versions(PEERS)))
    out.print(facts)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("path", style="bold", no_wrap=True)
    table.add_column("works here", no_wrap=True)
    table.add_column("on")
    table.add_column("tiny softmax", justify="right", no_wrap=True)
    table.add_column("what is missing")
    table.add_column("remedy")
    for found in findings:
        works = "[green]yes[/]" if found.works else "[red]no[/]"
        seconds = f"{found.seconds:.2g} s" if found.works else ""
        table.add_row(found.path, works, found.where, seconds, found.reason, found.remedy)
    out.print(table)
    out.print("The first call on a compiled path includes its compilation. `lossref verify` checks every loss.")


def _listed(packages) -> str:
    present = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    absent = ", ".join(name for name, version in packages.items() if not version)
    return present + (f"; not installed: {absent}" if absent else "")
