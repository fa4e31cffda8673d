"""``lossref verify``: run the checks, show what they found, answer with an exit status."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

import lossref
from lossref.core.loss import PATHS
from lossref.exact import verification
from lossref.exact.verification import Check, Result

from . import simulated
from .catalogue import families
from .machine import description
from .terminal import console, known, progress_bar, usage_error

OK, FAILED, NOT_RUN = "ok", "failed", "not run"


@dataclass
class Row(Result):
    """A result, and whether Numba's simulator stood in for the GPU."""

    simulated: bool = False

    @property
    def path_text(self) -> str:
        return f"{self.path} (simulator)" if self.simulated else self.path

    def __str__(self) -> str:
        return f"{self.loss}, {self.path_text}, {self.dtype}"


def verify_losses(
    names: list[str] | None,
    in_families: list[str] | None,
    paths: list[str] | None,
    dtypes: list[str] | None,
    json_file: Path | None,
    seed: int,
) -> int:
    """The whole command; returns the exit status."""
    checks = _chosen_checks(names, in_families, paths, dtypes)
    to_stdout = json_file is not None and str(json_file) == "-"
    rows = _run_all(checks, seed)
    out = console(to_errors=to_stdout)  # JSON on standard output must stay JSON
    out.print(_table(rows))
    _explain(out, rows)
    if json_file is not None:
        text = json.dumps(_report(rows, seed), indent=2, ensure_ascii=False) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    out.print(summary_line(rows))
    return 1 if _with_verdict(rows, FAILED) else 0


# -- what to run -----------------------------------------------------------------------------------------------------


def _chosen_checks(names, in_families, paths, dtypes) -> list[Check]:
    registered = lossref.losses()
    for name in names or ():
        known("loss", name, registered)
    for family in in_families or ():
        known("family", family, families())
    for path in paths or ():
        known("path", path, PATHS)
    for dtype in dtypes or ():
        known("dtype", dtype, verification.DTYPES)
    wanted = list(names or registered)
    if in_families:
        wanted = [name for name in wanted if registered[name].family in in_families]
    checks = verification.plan(wanted, paths or list(PATHS), dtypes or list(verification.DTYPES))
    if not checks:
        asked = f"{', '.join(wanted) or 'no loss of these families'}; path {' or '.join(paths or PATHS)}"
        usage_error(f"there is nothing to verify: {asked}. `lossref list` shows the paths of each loss.")
    return checks


def outcome(check: Check, seed: int) -> Result:
    """Run one check; a check that breaks down has failed."""
    try:
        return verification.run(check, seed)
    except Exception as problem:
        text = f"{type(problem).__name__}: {problem}".splitlines()[0]
        return Result(check.loss, check.path, check.dtype, verdict=FAILED, reason=text)


def _run_all(checks: list[Check], seed: int) -> list[Row]:
    to_simulate = [c for c in checks if c.path == "cuda" and not c.runnable and simulated.possible()]
    here = [check for check in checks if check not in to_simulate]
    rows = []
    with ExitStack() as stack:
        child = None
        if to_simulate:  # it works on its own core while this process does the rest
            request = {
                "what": "verify",
                "losses": list(dict.fromkeys(check.loss for check in to_simulate)),
                "dtypes": list(dict.fromkeys(check.dtype for check in to_simulate)),
                "seed": seed,
            }
            child = stack.enter_context(simulated.Child(request))
        progress = stack.enter_context(progress_bar())
        task = progress.add_task("", total=len(checks))
        for check in here:
            progress.update(task, description=f"{check.loss}, {check.path}, {check.dtype}")
            rows.append(Row(**asdict(outcome(check, seed))))
            progress.advance(task)
        if child is not None:
            progress.update(task, description="CUDA kernels in the simulator")
            for row in _simulated_rows(child, to_simulate):
                rows.append(row)
                progress.advance(task)
    order = {(check.loss, check.path, check.dtype): position for position, check in enumerate(checks)}
    return sorted(rows, key=lambda row: order[row.loss, row.path, row.dtype])


def _simulated_rows(child: simulated.Child, checks: list[Check]) -> Iterator[Row]:
    missing = {(check.loss, check.path, check.dtype) for check in checks}
    reason = "the simulator's process gave no result"
    try:
        for answer in child.answers():
            missing.discard((answer["loss"], answer["path"], answer["dtype"]))
            yield Row(**answer, simulated=True)
    except RuntimeError as problem:
        reason = str(problem)
    for loss, path, dtype in sorted(missing):
        yield Row(loss, path, dtype, verdict=FAILED, reason=reason, simulated=True)


# -- what came out ---------------------------------------------------------------------------------------------------


def _with_verdict(rows: Iterable[Row], verdict: str) -> list[Row]:
    return [row for row in rows if row.verdict == verdict]


def summary_line(rows: list[Row]) -> str:
    failed, not_run = len(_with_verdict(rows, FAILED)), len(_with_verdict(rows, NOT_RUN))
    names = {row.loss for row in rows if row.verdict != NOT_RUN}
    text = f"{len(names)} losses, {len(rows) - not_run} path checks, {failed} failures"
    return text + (f", {not_run} not run" if not_run else "")


def _table(rows: list[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loss", style="bold", no_wrap=True)
    table.add_column("path", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("cases", justify="right")
    table.add_column(f"value error\n(≤ {verification.VALUE_LIMIT:g})", justify="right", no_wrap=True)
    table.add_column(f"gradient error\n(≤ {verification.GRADIENT_LIMIT:g})", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    colours = {OK: "green", FAILED: "bold red", NOT_RUN: "yellow"}
    before = None
    for row in rows:
        ran = row.verdict != NOT_RUN
        table.add_row(
            row.loss if row.loss != before else "",
            row.path_text,
            row.dtype,
            str(row.cases) if ran else "",
            _units(row.worst_value) if ran else "",
            _units(row.worst_gradient) if ran else "",
            f"{row.seconds:.2f} s" if ran else "",
            Text(row.verdict, style=colours[row.verdict]),
        )
        before = row.loss
    return table


def _units(error: float | None) -> str:
    """An error in units of the yardstick."""
    if error is None:
        return "no gradient"
    return f"{error:.2f}" if error < 1000 else f"{error:.2g}"


def _explain(out, rows: list[Row]) -> None:
    """The unit, then what failed and on which input, then what could not run and what would help."""
    out.print(
        "Errors: the worst over all cases, in units of eps · (|exact| + Σ |∂exact/∂x · x|): "
        "how far the answer moves when everything moves by one rounding.",
        style="dim",
    )
    failed = _with_verdict(rows, FAILED)
    if failed:
        out.print(Text("\nFailed", style="bold red"))
    for row in failed:
        out.print(Text(f"  {row}: {row.reason}"))
    not_run = _with_verdict(rows, NOT_RUN)
    if not_run:
        out.print(Text("\nNot run", style="bold yellow"))
    for path, reason, remedy in dict.fromkeys((row.path, row.reason, row.remedy) for row in not_run):
        same = [row for row in not_run if (row.path, row.reason, row.remedy) == (path, reason, remedy)]
        out.print(Text(f"  {path} ({len(same)} checks): {reason}"))
        if remedy:
            out.print(Text(f"    remedy: {remedy}"))
    if any(row.simulated for row in rows):
        out.print("\nNo GPU: the CUDA kernels ran in Numba's simulator, on a few small cases.", style="dim")


def _report(rows: list[Row], seed: int) -> dict:
    return {
        "machine": description(),
        "seed": seed,
        "limits": {"value": verification.VALUE_LIMIT, "gradient": verification.GRADIENT_LIMIT},
        "summary": {
            "losses": len({row.loss for row in rows if row.verdict != NOT_RUN}),
            "checks": len(rows) - len(_with_verdict(rows, NOT_RUN)),
            "failures": len(_with_verdict(rows, FAILED)),
            "not_run": len(_with_verdict(rows, NOT_RUN)),
        },
        "rows": [{key: _for_json(value) for key, value in asdict(row).items()} for row in rows],
    }


def _for_json(value):
    """JSON has no infinities and no NaN: they become words."""
    return repr(value) if isinstance(value, float) and not isfinite(value) else value
