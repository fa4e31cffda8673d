"""``lossref compare``: what other libraries make of the same loss, and how accurately, in one table per function."""

import json
import sys
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

import lossref
from lossref.exact import verification
from lossref.oracle.peers import KINDS, LIBRARIES, Answer, Measurement, Peer, comparable, interview, measure, ours
from lossref.oracle.peers.accuracy import BLIND, MEANINGS, Worst, forget
from lossref.oracle.peers.semantics import NO

from .machine import description, installed
from .terminal import console, known, usage_error

DTYPES = ("float32", "float64")
WORSE_THAN_0 = {"float32": 2.0**23, "float64": 2.0**52}  # 1/eps: answering 0 is never further off
LIMITS = {"values": verification.VALUE_LIMIT, "gradients": verification.GRADIENT_LIMIT}


@dataclass
class Comparison:
    """One loss: who defines it too, what they mean by it, how accurate they are."""

    name: str
    peers: list[Peer]  # this library's first
    absent: dict[str, tuple[Peer, str]]  # by title: the entry that could not be called, and why
    semantics: list[Answer]
    measurements: list[Measurement]

    def measured(self, dtype: str) -> list[Measurement]:
        return [m for m in self.measurements if m.dtype == dtype]


def compare_losses(
    names: list[str] | None, everything: bool, markdown: bool, json_file: Path | None, seed: int
) -> int:
    """The whole command; returns the exit status."""
    known_to_others = comparable()
    if not names and not everything:
        if markdown or json_file is not None:
            usage_error("say what to compare: names, or --all. `lossref compare` lists what there is.")
        _print_list(known_to_others)
        return 0
    for name in names or ():
        known("loss", name, lossref.losses())
        if name not in known_to_others:
            usage_error(f"no library that is asked defines {name!r}. `lossref compare` lists what can be compared.")
    why_absent = {library.name: library.absent() for library in LIBRARIES}
    comparisons = [_compare(name, why_absent, seed) for name in dict.fromkeys(names or known_to_others)]
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None:
        text = _one_line_each(_report(comparisons, seed))
        if to_stdout:
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    if markdown:
        print(_page(comparisons, names, seed), file=sys.stderr if to_stdout else sys.stdout, end="")
    else:
        _print_tables(console(to_errors=to_stdout), comparisons)
    return 0


def _compare(name: str, why_absent: dict[str, str], seed: int) -> Comparison:
    entries = comparable()[name]
    absent = {e.title: (e, why_absent[e.library.name]) for e in entries if why_absent[e.library.name]}
    peers = [ours(name), *(e for e in entries if e.title not in absent)]
    measurements = [measure(peer, dtype, seed) for dtype in DTYPES for peer in peers]
    forget()
    return Comparison(name, peers, absent, interview(peers), measurements)


# -- cells, the same in a terminal and in Markdown --------------------------------------------------------------------


def _units(worst: Worst | None, dtype: str) -> str:
    """An error in units of the yardstick."""
    return NO if worst is None or not worst.count else _error(worst.error, dtype)


def _error(error: float | None, dtype: str) -> str:
    if error is None:
        return NO
    if not isfinite(error):
        return "∞"
    if error > WORSE_THAN_0[dtype]:
        return "> 1/eps"
    if error < 1000:
        return f"{error:.2f}" if error < 10 else f"{error:.0f}"
    return f"{error:.1e}".replace("e+0", "e").replace("e+", "e")


def _over(worst: Worst, which: str) -> bool:
    return not worst.error <= LIMITS[which]


def _accuracy_rows(comparison: Comparison) -> list[tuple[str, str, list[tuple[str, bool]]]]:
    """(dtype, heading, one (text, over the limit) for each peer): value / gradient."""
    rows = []
    for dtype in DTYPES:
        measured = comparison.measured(dtype)
        for kind in KINDS:
            if not any(m.values[kind].count for m in measured):
                continue
            cells = []
            for peer, m in zip(comparison.peers, measured, strict=True):
                value, gradient = m.values[kind], m.gradients[kind]
                text = _units(value, dtype)
                if peer.differentiates and value.count:
                    text += f" / {_units(gradient, dtype)}"
                cells.append((text, _over(value, "values") or _over(gradient, "gradients")))
            rows.append((dtype, kind, cells))
    return rows


def _remarks(comparison: Comparison) -> list[str]:
    """What the table does not say: the worst of each peer as numbers, what it does not take, what it refuses."""
    found = []
    for m in comparison.measured("float64"):
        for what, which in (("value", "values"), ("gradient", "gradients")):
            headings = sorted(getattr(m, which).items(), key=lambda item: item[0] != BLIND)  # the plainest example
            over = [worst for _, worst in headings if _over(worst, which)]
            if over:
                w = over[0]
                numbers = f"{what} {w.computed:.6g}, exact {w.exact:.6g}"
                found.append(f"{m.title}, float64, {w.case}: {numbers}")
        for text, count in m.refusals.items():
            found.append(f"{m.title} refuses {count} inputs: {_short(text)}")
        if m.not_taken:
            asked = f"{m.cases} of {m.cases + m.not_taken.total() + m.refusals.total()} inputs"
            found.append(f"{m.title} takes {asked}; the others need what it has not: {', '.join(sorted(m.not_taken))}")
    return found


def _short(text: str) -> str:
    return text if len(text) < 100 else text[:97] + "…"


def _absences(comparison: Comparison) -> list[str]:
    return [
        f"{title}: {why}. Remedy: {entry.library.remedy}" for title, (entry, why) in comparison.absent.items()
    ]


# -- the terminal -----------------------------------------------------------------------------------------------------


def _print_list(known_to_others: dict[str, list[Peer]]) -> None:
    out = console()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("loss", style="bold", no_wrap=True)
    table.add_column("also defined by")
    for name, peers in known_to_others.items():
        table.add_row(name, ", ".join(peer.title for peer in peers))
    out.print(table)
    for library in LIBRARIES:
        why = library.absent() if installed(library.packages[0]) is None else ""
        status = f"not here: {why}. Remedy: {library.remedy}" if why else library.versions()
        out.print(Text(f"  {library.name:<13}{status}", style="yellow" if why else ""))
    out.print("\n`lossref compare NAME` puts them side by side.", style="dim")


def _print_tables(out, comparisons: list[Comparison]) -> None:
    for comparison in comparisons:
        out.print(_table(comparison))
        for text in _remarks(comparison):
            out.print(Text(f"  {text}", style="dim"))
        for text in _absences(comparison):
            out.print(Text(f"  Not compared: {text}", style="yellow"))
    out.print(
        "\nErrors: worst value / worst gradient, in units of eps · (|exact| + Σ |∂exact/∂x · x|); "
        f"aims {LIMITS['values']:g} and {LIMITS['gradients']:g}. {NO}: nothing to measure, or no such option.",
        style="dim",
    )


def _table(comparison: Comparison) -> Table:
    table = Table(title=comparison.name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for peer in comparison.peers:
        table.add_column(f"{peer.title}\n{peer.library.versions()}")
    for row in comparison.semantics:
        table.add_row(row.question, *(row.answers[peer.title] for peer in comparison.peers))
    for dtype in DTYPES:
        table.add_section()
        for of_dtype, kind, cells in _accuracy_rows(comparison):
            if of_dtype == dtype:
                shown = [Text(text, style="red" if over else "") for text, over in cells]
                table.add_row(f"{dtype}, {kind}", *shown)
    return table


# -- Markdown ---------------------------------------------------------------------------------------------------------


def _page(comparisons: list[Comparison], names: list[str] | None, seed: int) -> str:
    command = " ".join(["lossref compare", *(names or ["--all"]), "--markdown", *([f"--seed {seed}"] if seed else [])])
    versions = {p.library.name: p.library.versions() for c in comparisons for p in c.peers}
    absent = {e.library.name: why + f" (`{e.library.remedy}`)" for c in comparisons for e, why in c.absent.values()}
    lines = [
        "# Comparison with other libraries",
        "",
        f"Made by `{command}`; every word and number below is what came out of a call.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        *([f"Not compared: {'; '.join(absent.values())}."] if absent else []),
        "",
        "Errors are the worst of value / gradient, in units of the yardstick (see {ref}`yardstick`),",
        "eps · (\\|exact\\| + Σ \\|∂exact/∂x · x\\|); the aims are "
        f"{LIMITS['values']:g} and {LIMITS['gradients']:g}, what is over them is bold.",
        "An error > 1/eps is further off than 0 would be; ∞ is a value that is not finite where the exact one is,",
        f"or the reverse; {NO} stands for no such option, or nothing to measure.",
        "Each column is measured on the inputs that it takes, under these headings:",
        "",
        *(f"- *{kind}*: {MEANINGS[kind]}" for kind in KINDS),
        "",
    ]
    if len(comparisons) > 1:
        lines += _headline(comparisons)
    for comparison in comparisons:
        lines += _section(comparison)
    return "\n".join(lines).rstrip() + "\n"


def _headline(comparisons: list[Comparison]) -> list[str]:
    """The worst over all kinds of input, one line for each implementation."""
    lines = ["## All at a glance", "", "The worst over all headings but subnormal answers: value / gradient.", ""]
    lines += ["| loss | implementation | float32 | float64 |", "| --- | --- | --- | --- |"]
    for comparison in comparisons:
        name = comparison.name
        for k, peer in enumerate(comparison.peers):
            cells = []
            for dtype in DTYPES:
                m = comparison.measured(dtype)[k]
                value, gradient = m.overall("values"), m.overall("gradients")
                over = not (value or 0) <= LIMITS["values"] or not (gradient or 0) <= LIMITS["gradients"]
                text = _error(value, dtype) + (f" / {_error(gradient, dtype)}" if peer.differentiates else "")
                cells.append(f"**{text}**" if over else text)
            lines.append(f"| {name} | {escaped(peer.title)} | {' | '.join(cells)} |")
            name = ""
    return [*lines, ""]


def _section(comparison: Comparison) -> list[str]:
    titles = [escaped(peer.title) for peer in comparison.peers]
    lines = [f"## {comparison.name}", "", f"| | {' | '.join(titles)} |", "| --- |" + " --- |" * len(titles)]
    for row in comparison.semantics:
        answers = [escaped(row.answers[peer.title]) for peer in comparison.peers]
        lines.append(f"| {escaped(row.question)} | {' | '.join(answers)} |")
    for dtype, kind, cells in _accuracy_rows(comparison):
        shown = [f"**{text}**" if over else text for text, over in cells]
        lines.append(f"| {dtype}, {kind} | {' | '.join(shown)} |")
    remarks = _remarks(comparison) + [f"Not compared: {text}" for text in _absences(comparison)]
    return [*lines, "", *(f"- {escaped(text)}" for text in remarks), ""]


def escaped(text: str) -> str:
    """Text as it is, in Markdown."""
    for character in "\\|*_<":
        text = text.replace(character, f"\\{character}")
    return text


# -- JSON -------------------------------------------------------------------------------------------------------------


def _report(comparisons: list[Comparison], seed: int) -> dict[str, Any]:
    return {
        "machine": description(),
        "seed": seed,
        "limits": {"value": LIMITS["values"], "gradient": LIMITS["gradients"]},
        "libraries": {
            library.name: None if installed(library.packages[0]) is None else library.versions()
            for library in LIBRARIES
        },
        "losses": {c.name: _loss_report(c) for c in comparisons},
    }


def _one_line_each(report: dict[str, Any]) -> str:
    """JSON with a line for each loss: short, and a change shows where it is."""
    losses = report.pop("losses")
    head = json.dumps(report, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = [f'  "{name}": {json.dumps(found, ensure_ascii=False)}' for name, found in losses.items()]
    return head + ',\n "losses": {\n' + ",\n".join(lines) + "\n }\n}\n"


def _loss_report(comparison: Comparison) -> dict[str, Any]:
    return {
        "implementations": [p.title for p in comparison.peers],
        "not_compared": {t: {"reason": why, "remedy": e.library.remedy} for t, (e, why) in comparison.absent.items()},
        "semantics": [{"question": a.question, "answers": a.answers} for a in comparison.semantics],
        "accuracy": [
            {
                "implementation": m.title,
                "dtype": m.dtype,
                "inputs": m.cases,
                "not_taken": dict(m.not_taken),
                "refused": dict(m.refusals),
                "value": {k: _worst(w) for k, w in m.values.items() if w.count},
                "gradient": {k: _worst(w) for k, w in m.gradients.items() if w.count},
            }
            for m in comparison.measurements
        ],
    }


def _worst(worst: Worst) -> dict[str, Any]:
    """JSON has no infinities and no NaN: they become words."""
    found = asdict(worst) | {"error": float(f"{worst.error:.4g}")}
    return {k: repr(v) if isinstance(v, float) and not isfinite(v) else v for k, v in found.items()}
