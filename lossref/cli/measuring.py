"""``lossref bench``: what to measure, the process that measures it, the tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import lossref
from lossref.bench import machine as bench_machine
from lossref.bench.bars import bars
from lossref.bench.problems import (
    DEFAULT_SIZES,
    KERNELS,
    LIMIT_SIZES,
    QUICK_LIMIT_SIZES,
    QUICK_SIZES,
    Problem,
    parse_size,
)
from lossref.bench.process import KEPT, SHIPPED, ask
from lossref.bench.rows import Row, as_json, from_json, row
from lossref.core.loss import PATHS

from .machine import description, installed, usable_cores, versions
from .terminal import console, known, usage_error

PEERS = ("torch", "jax", "scipy")
ALLOCATORS = {"shipped": [SHIPPED], "kept": [KEPT], "both": [SHIPPED, KEPT]}
BUSY = 0.5  # other things running, on average over the last minute
HOW = {
    "turns": "contenders take turns in one process, in an order drawn anew each round; "
    "a turn is a pause of 40 ms (thread pools that spin go to sleep), an untimed call, a sample",
    "quantiles": "p20, p50, p80 over the samples; a ratio is one of two p50",
    "threads": "the same for every library, by OMP_NUM_THREADS, OPENBLAS_NUM_THREADS, MKL_NUM_THREADS, "
    "NUMBA_NUM_THREADS, torch.set_num_threads and the cores that the process may run on",
    "waiting": "every library with its own waiting policy, as shipped",
    "disturbed": "samples during which other processes used the processors; with --wait a turn begins when nobody "
    "else runs, and a disturbed sample is taken again, up to five times",
    "fresh": "the call allocates its result, which is freed within the time",
    "out=": "into memory whose pages are in place, the same for all contenders",
    "as shipped": "the C library's allocator as it is",
    "pages kept": "glibc keeps what is freed (MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_=2^46, MALLOC_ARENA_MAX=1), "
    "for all contenders",
    "memory": "resident memory above what it was before the call, in a process of its own, after a warm-up call",
    "limit": "of the same arrays in the same turns: a copy by memcpy, a sum, or the three matrix products by NumPy; "
    "with the same threads",
}


@dataclass
class Plan:
    """What was asked for."""

    problems: list[Problem]
    paths: list[str]
    peers: list[str]
    threads: int
    allocators: list[str]
    seconds: float
    rounds: int
    pause: float
    quick: bool
    errors: bool = False
    wait: float = 0.0
    command: str = "lossref bench"
    not_run: list[tuple[str, str, str]] = field(default_factory=list)  # what, why, remedy


def bench_paths(
    kernels: list[str] | None,
    paths: list[str] | None,
    sizes: list[str] | None,
    dtype: str,
    threads: int | None,
    peers: list[str] | None,
    allocator: str,
    seconds: float | None,
    wait: float,
    quick: bool,
    json_file: Path | None,
    plot: Path | None,
) -> int:
    """The whole command; returns the exit status."""
    plan = _plan(kernels, paths, sizes, dtype, threads, peers, allocator, seconds, quick)
    plan.wait = wait
    options: dict[str, Iterable | None] = {
        "kernel": kernels,
        "path": paths,
        "size": sizes,
        "dtype": [dtype],
        "threads": [plan.threads],
    }
    options |= {"dtype": [dtype], "threads": [plan.threads], "allocator": [allocator], "seconds": [plan.seconds]}
    options |= {"wait": [wait] if wait else []}
    plan.command += "".join(f" --{name} {given}" for name, each in options.items() for given in each or ())
    plan.command += " --quick" if quick else ""
    to_stdout = json_file is not None and str(json_file) == "-"
    out = console(to_errors=to_stdout)
    for file in (json_file, plot):
        if file is not None and str(file) != "-" and not file.absolute().parent.is_dir():
            usage_error(f"{file}: there is no such directory.")
    if plot is not None and installed("matplotlib") is None:
        usage_error('--plot needs matplotlib: pip install "lossref[notebooks]"')
    facts = description() | bench_machine.description()
    _introduce(out, plan, facts)
    pools: list = []
    rows = list(_all_rows(plan, pools))
    _stamp(rows, facts)
    for problem in plan.problems:
        for allocator_name in (*plan.allocators, "device"):
            _print_problem(out, problem, allocator_name, plan, rows)
    _print_memory(out, rows)
    _print_bars(out, rows)
    _print_not_run(out, plan)
    if json_file is not None:
        text = json.dumps(_report(plan, rows, facts, pools), indent=1, ensure_ascii=False) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    if plot is not None:
        from lossref.bench.roofline import draw

        draw(rows, plot, f"{facts['cpu']}, {plan.threads} threads")
    return 0


# -- what to measure -------------------------------------------------------------------------------------------------


def _plan(kernels, paths, sizes, dtype, threads, peers, allocator, seconds, quick) -> Plan:
    for kernel in kernels or ():
        known("kernel", kernel, KERNELS)
    for path in paths or ():
        known("path", path, PATHS)
    known("dtype", dtype, ("float32", "float64"))
    known("allocator", allocator, ALLOCATORS)
    for peer in peers or ():
        known("peer", peer, (*PEERS, "none"))
    cores = usable_cores()
    if threads is not None and not 1 <= threads <= cores:
        usage_error(f"--threads: expected 1 to {cores} (the cores that this process may use), got {threads}.")
    if sizes and len(kernels or ()) != 1:
        usage_error("--size says how large one --kernel is to be: name that kernel.")
    chosen = list(kernels or KERNELS)
    shapes: dict[str, list[tuple[int, ...]]] = dict(QUICK_SIZES if quick else DEFAULT_SIZES)
    try:
        shapes |= {name: [parse_size(name, text) for text in sizes] for name in chosen if sizes}
    except ValueError as problem:
        usage_error(f"{problem}.")
    limits = [Problem(name, shape, dtype) for name, shape in (QUICK_LIMIT_SIZES if quick else LIMIT_SIZES).items()]
    problems = limits + [Problem(name, shape, dtype) for name in chosen for shape in shapes[name]]
    plan = Plan(
        problems,
        list(paths or PATHS),
        [] if "none" in (peers or ()) else list(peers or PEERS),
        threads or cores,
        [SHIPPED] if quick else ALLOCATORS[allocator],
        seconds if seconds is not None else (0.1 if quick else 2.0),
        5 if quick else 41,
        0.03 if quick else 0.04,
        quick,
        errors=not quick and dtype == "float32",
    )
    for peer in [peer for peer in plan.peers if installed(peer) is None]:
        plan.peers.remove(peer)
        plan.not_run.append((peer, "it is not installed", f"pip install {peer}"))
    for path in paths or ():
        for name in chosen:
            if path not in lossref.losses()[name].paths:
                plan.not_run.append((f"{name}, path {path}", "lossref does not have it", "see `lossref list`"))
    if KEPT in plan.allocators and not sys.platform.startswith("linux"):
        plan.allocators.remove(KEPT)
        plan.not_run.append((KEPT, "only glibc can be told so, through its environment", "run it on Linux"))
    if "cuda" in plan.paths:
        from lossref.bench import device

        why = device.not_run()
        if why is not None:
            plan.not_run.append(("path cuda", *why))
    return plan


# -- measuring -------------------------------------------------------------------------------------------------------


def _all_rows(plan: Plan, pools: list) -> Iterator[Row]:
    on_cpu = [path for path in plan.paths if path != "cuda"]
    with _progress() as progress:
        task = progress.add_task("", total=len(plan.problems) * len(plan.allocators))
        found: list[Row] = []
        for allocator in plan.allocators:
            request = {
                "problems": [{"kernel": p.kernel, "shape": p.shape, "dtype": p.dtype} for p in plan.problems],
                "paths": on_cpu,
                "peers": plan.peers,
                "threads": plan.threads,
                "seconds": plan.seconds,
                "rounds": plan.rounds,
                "pause": plan.pause,
                "allocator": allocator,
                "wait": plan.wait / len(plan.allocators),
                "errors": plan.errors and allocator == plan.allocators[0],
            }
            now = "nothing"
            try:
                for answer in ask("lossref.bench.process", request, plan.threads, allocator):
                    if "now" in answer:
                        now = answer["now"]
                        progress.update(task, description=f"{now}, {allocator}")
                    elif "rows" in answer:
                        found += from_json(answer["rows"])
                        progress.advance(task)
                    elif not pools:
                        pools += answer["pools"]
            except RuntimeError as problem:  # what was measured before is kept
                alone = "run it alone, with --kernel, --size and --peer, to see who is to blame"
                plan.not_run.append((f"{now} and what follows, {allocator}", str(problem), alone))
        found += _memory(plan, found, progress)
        if "cuda" in plan.paths and not any(what == "path cuda" for what, _, _ in plan.not_run):
            from lossref.bench import device

            progress.update(task, description="CUDA")
            found += device.measure(plan.problems, 5 if plan.quick else 30)
    yield from found


def _memory(plan: Plan, rows: list[Row], progress: Progress) -> Iterator[Row]:
    """Peak memory of everybody who computes a gradient, each in a process of its own; of cross-entropy and attention
    for the last table only, because the others of that size need as much. Quickly: of the Numba path and PyTorch
    alone."""
    tables = []
    for kernel in ("cross_entropy", "softmax_attention"):
        tables += [problem for problem in plan.problems if problem.kernel == kernel][-1:]
    tables += [problem for problem in plan.problems if problem.kernel == "linear_cross_entropy"]
    asked = []
    for problem in tables:
        if plan.quick and problem.kernel == "cross_entropy":
            continue
        for one in rows:
            fits = one.is_about(problem) and one.metric == "time" and one.allocator == plan.allocators[0]
            if fits and one.provider != "machine" and (not plan.quick or one.provider in ("lossref numba", "torch")):
                asked.append((problem, one))
    task = progress.add_task("peak memory", total=len(asked), visible=bool(asked))
    for problem, one in asked:
        request = {"kernel": problem.kernel, "shape": problem.shape, "dtype": problem.dtype}
        request |= {"provider": one.provider, "algorithm": one.algorithm, "output": one.output}
        progress.advance(task)
        try:
            (answer,) = ask("lossref.bench.memory", request, plan.threads)
        except RuntimeError as failed:
            plan.not_run.append((f"peak memory of {one.provider}, {problem.kernel}", str(failed), "run it alone"))
            continue
        risen = answer["bytes"]
        results = problem.output_bytes if one.output == "fresh" else 0
        for metric, number in (("peak memory", risen), ("transient", max(0, risen - results))):
            yield row(problem, one, metric, "B", (None, float(number), None), SHIPPED, plan.threads, 1)


def _progress() -> Progress:
    out = console(to_errors=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def _stamp(rows: Iterable[Row], facts: dict) -> None:
    """Each row says by itself what was measured, where and when."""
    now, commit = datetime.now(UTC).isoformat(timespec="seconds"), bench_machine.commit()
    for one in rows:
        library = one.provider.removeprefix("lossref ")
        name = {"machine": "numpy", "numpy": "numpy", "numba": "numba", "cuda": "numba-cuda"}.get(library, library)
        one.provider_version = installed(name) or ""
        one.lossref, one.commit, one.timestamp = str(facts["lossref"]), commit, now
        one.machine = one.machine or str(facts["cpu"])


# -- what came out ---------------------------------------------------------------------------------------------------


def _introduce(out, plan: Plan, facts: dict) -> None:
    cached = ", ".join(f"{name} {size}" for name, size in facts["caches"].items())
    out.print(
        f"{facts['cpu']}, {facts['cores']} cores, {facts['vectors']}; {cached}. "
        f"{plan.threads} threads for every library, {', '.join(plan.allocators)}."
    )
    load = facts["load_before"]
    if load is not None and load > BUSY:
        out.print(
            f"The machine is not quiet: {load:.1f} other things were running in the last minute. "
            "The contenders take turns, but expect the quantiles to lie apart.",
            style="yellow",
        )


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def size(count: float) -> str:
    for unit, unit_size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= unit_size:
            return f"{count / unit_size:.3g} {unit}"
    return f"{count:.0f} B"


def _print_problem(out, problem: Problem, allocator: str, plan: Plan, rows: list[Row]) -> None:
    about = [r for r in rows if r.is_about(problem) and r.metric == "time" and r.allocator == allocator]
    if not about:
        return
    if problem.kernel in LIMIT_SIZES:
        if allocator == plan.allocators[0]:
            _print_limit(out, problem, about)
        return
    errors = {r.contender: r.p50 for r in rows if r.is_about(problem) and r.metric == "relative error"}
    title = f"{problem.kernel} {problem.shape_text}, {problem.dtype}, {problem.computes}; allocator {allocator}"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("contender", no_wrap=True)
    table.add_column("output", no_wrap=True)
    table.add_column("p50", justify="right", no_wrap=True)
    table.add_column("p20 – p80", justify="right", no_wrap=True)
    table.add_column("GB/s", justify="right", no_wrap=True)
    table.add_column(f"of the {problem.limit}", justify="right", no_wrap=True)
    peers = list(dict.fromkeys(peer for r in about for peer in r.ratio_to))
    for peer in peers:
        table.add_column(f"× {peer}", justify="right", no_wrap=True)
    disturbed = any(r.disturbed for r in about)
    table.add_column("page faults", justify="right", no_wrap=True)
    if errors:
        table.add_column("error", justify="right", no_wrap=True)
    if disturbed:
        table.add_column("disturbed", justify="right", no_wrap=True)
    for r in about:
        spread = "" if r.p20 is None or r.p80 is None else f"{duration(r.p20)} – {duration(r.p80)}"
        cells = [r.contender, r.output, duration(r.p50), spread, f"{r.gigabytes_per_second:.1f}"]
        cells.append("" if r.share_of_limit is None else f"{r.share_of_limit:.0%}")
        cells += [f"{r.ratio_to[peer]:.3g}" if peer in r.ratio_to else "" for peer in peers]
        if errors:
            cells.append(f"{errors[r.contender]:.1e}" if r.contender in errors and r.output == "fresh" else "")
        cells.insert(-1 if errors else len(cells), "" if r.page_faults is None else f"{r.page_faults:.0f}")
        if disturbed:
            cells.append(f"{r.disturbed} of {r.samples}")
        table.add_row(*cells, style="" if r.provider.startswith("lossref") else "dim")
    if disturbed:
        table.caption = "disturbed: so many samples were taken while other processes used the processors"
        table.caption_justify = "left"
    out.print(table)


def _print_limit(out, problem: Problem, about: list[Row]) -> None:
    for r in about:
        reached = r.flops if problem.kernel == "gemm" else r.least_bytes
        unit = "GFLOP/s" if problem.kernel == "gemm" else "GB/s"
        rate = f"{reached / r.p50 / 1e9:.3g} {unit}"
        out.print(f"{problem.kernel} {problem.shape_text} {problem.dtype}: {rate} ({r.contender})")


def _print_memory(out, rows: list[Row]) -> None:
    peaks = [r for r in rows if r.metric == "peak memory"]
    if not peaks:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Peak memory of one call, beyond its inputs")
    table.title_justify, table.title_style = "left", "bold"
    table.add_column("problem", no_wrap=True)
    table.add_column("contender", no_wrap=True)
    table.add_column("output", no_wrap=True)
    table.add_column("peak", justify="right", no_wrap=True)
    table.add_column("beyond the results", justify="right", no_wrap=True)
    transient = {(r.kernel, tuple(r.shape), r.contender, r.output): r.p50 for r in rows if r.metric == "transient"}
    before = None
    for r in peaks:
        name = f"{r.kernel} {'×'.join(map(str, r.shape))}"
        beyond = transient[r.kernel, tuple(r.shape), r.contender, r.output]
        table.add_row(name if name != before else "", r.contender, r.output, size(r.p50), size(beyond))
        before = name
    out.print(table)


def _print_bars(out, rows: list[Row]) -> None:
    found = bars(rows)
    if not found:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="What the CPU kernels have to reach", title_style="bold")
    table.title_justify = "left"
    table.add_column("what")
    table.add_column("size", no_wrap=True)
    table.add_column("bar", justify="right", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    colours = {"met": "green", "missed": "bold red", "not measured": "yellow"}
    for bar in found:
        limit = f"{'≥' if bar.at_least else '≤'} {bar.limit:g}"
        measured = "" if bar.measured is None else f"{bar.measured:.3g}"
        shape = "×".join(map(str, bar.shape))
        table.add_row(bar.what, shape, limit, measured, Text(bar.verdict, style=colours[bar.verdict]))
    out.print(table)


def _print_not_run(out, plan: Plan) -> None:
    if plan.not_run:
        out.print(Text("Not run", style="bold yellow"))
    for what, why, remedy in plan.not_run:
        out.print(Text(f"  {what}: {why}"))
        if remedy:
            out.print(Text(f"    remedy: {remedy}"))


def _report(plan: Plan, rows: list[Row], facts: dict, pools: list) -> dict:
    return {
        "command": plan.command,
        "machine": facts,
        "peers": versions(PEERS),
        "threads": plan.threads,
        "pools": pools,
        "how": HOW,
        "not_run": [{"what": what, "reason": why, "remedy": remedy} for what, why, remedy in plan.not_run],
        "bars": [
            {
                "what": bar.what,
                "shape": bar.shape,
                "limit": bar.limit,
                "at_least": bar.at_least,
                "measured": bar.measured,
                "verdict": bar.verdict,
            }
            for bar in bars(rows)
        ],
        "rows": as_json(rows),
    }
