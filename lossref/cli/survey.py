"""``lossref survey``: the oracle's verdict on other libraries' losses, and the page *State of the losses*."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

import lossref
from lossref.oracle.peers import LIBRARIES, comparable
from lossref.oracle.peers.choices import choice, is_choice, verdict
from lossref.oracle.peers.survey import answers, questions

from .compare import escaped
from .machine import description
from .terminal import console, known, progress_bar, usage_error

STYLES = {"accurate": "green", "inaccurate": "yellow", "wrong": "bold red", "not judged": "dim"}
DTYPES = ("float32", "float64", "bfloat16")


def survey_losses(
    names: list[str] | None,
    everything: bool,
    markdown: bool,
    json_file: Path | None,
    from_file: Path | None,
    quick: bool,
    jobs: int,
    seed: int,
) -> int:
    """The whole command; returns the exit status."""
    if from_file is not None:
        survey = json.loads(from_file.read_text(encoding="utf-8"))
        if names:
            survey["rows"] = [row for row in survey["rows"] if row["loss"] in names]
    else:
        survey = _asked(names, everything, quick, jobs, seed)
    to_stdout = json_file is not None and str(json_file) == "-"
    if json_file is not None:
        if names and not to_stdout and json_file.exists():
            survey = _merged(json.loads(json_file.read_text(encoding="utf-8")), survey, names)
        if to_stdout:
            sys.stdout.write(as_json(survey))
        else:
            json_file.write_text(as_json(survey), encoding="utf-8")
    if markdown:
        print(page(survey), file=sys.stderr if to_stdout else sys.stdout, end="")
    else:
        _print(console(to_errors=to_stdout), survey["rows"])
    return 0


def _asked(names: list[str] | None, everything: bool, quick: bool, jobs: int, seed: int) -> dict:
    known_to_others = comparable()
    if not names and not everything:
        usage_error("say whose losses to judge: names, or --all. `lossref compare` lists what there is.")
    for name in names or ():
        known("loss", name, lossref.losses())
        if name not in known_to_others:
            usage_error(f"no library that is asked defines {name!r}. `lossref compare` lists what can be compared.")
    asked = questions(dict.fromkeys(names or known_to_others), quick, seed)
    rows = []
    with progress_bar() as progress:
        task = progress.add_task("the first libraries are loaded", total=len(asked))
        for row in answers(asked, jobs):
            progress.update(task, description=f"{row['implementation']}, {row['dtype']}")
            progress.advance(task)
            rows.append(row)
    return {"machine": description(), "rows": _in_order(rows)}


def _merged(before: dict, survey: dict, names: list[str]) -> dict:
    """Of losses that were not asked for, what was known before."""
    kept = [row for row in before["rows"] if row["loss"] not in names]
    return {"machine": survey["machine"], "rows": _in_order(kept + survey["rows"])}


def _in_order(rows: list[dict]) -> list[dict]:
    entries = [(name, peer.title) for name, peers in comparable().items() for peer in peers]
    place = {entry: position for position, entry in enumerate(entries)}
    listed = [row for row in rows if (row["loss"], row["implementation"]) in place]
    return sorted(listed, key=lambda row: (place[row["loss"], row["implementation"]], DTYPES.index(row["dtype"])))


def as_json(survey: dict) -> str:
    """A line for each row: a change shows where it is."""
    head = json.dumps({"machine": survey["machine"]}, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = [f"  {json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in survey["rows"]]
    return head + ',\n "rows": [\n' + ",\n".join(lines) + "\n ]\n}\n"


# -- the terminal -----------------------------------------------------------------------------------------------------


def _print(out, rows: list[dict]) -> None:
    for name, of_loss in _grouped(rows, "loss"):
        table = Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in ("implementation", "dtype", "verdict", "finding", "smallest input, got and want"):
            table.add_column(heading)
        for row in of_loss:
            if "not_judged" in row:
                table.add_row(row["implementation"], row["dtype"], Text("not judged", "dim"), "", row["not_judged"])
                continue
            found = verdict(row)
            first = [row["implementation"], row["dtype"], Text(found, STYLES[found])]
            for finding in row["findings"]:
                kind = "choice" if is_choice(row, finding) else "defect"
                what = f"{finding['diagnosis']} ({finding['quantity']}): {kind}"
                table.add_row(*first, what, Text(" ".join((finding["call"], _numbers(finding)))))
                first = ["", "", ""]
            if not row["findings"]:
                table.add_row(*first, "", "")
        out.print(table)


def _grouped(rows: Iterable[dict], key: str) -> list[tuple[str, list[dict]]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return list(groups.items())


def _number(x) -> str:
    return f"{x:.9g}" if isinstance(x, (int, float)) else str(x)


def _numbers(finding: dict) -> str:
    got, want = finding["got"], finding["want"]
    return "" if got is None or want is None or got == [] else f"→ {_number(got)}, exact {_number(want)}"


# -- the page ---------------------------------------------------------------------------------------------------------

PREFACE = """\
What {doc}`the oracle <oracle>` says about losses that other people wrote, called as they come. One finding for each
cause, on the smallest input on which it was seen; the exact answer is an enclosure from
{doc}`exact arithmetic <exact>`. What each library means by its options, and its errors by kind of input, are in
{doc}`comparison`.

Three verdicts. **Accurate**: within the yardstick on every input that was tried, the blind band included.
**Inaccurate**: right on ordinary inputs; digits are lost somewhere, often all of them. **Wrong**: off by more than
rounding where the obvious code is right, or NaN or an infinity where the answer is a number.

Each finding is one of two things:

- a **choice**: what the library's own documentation announces (its words are quoted, and a test looks them up in the
  installed library), or a question on which people do not agree, such as what the mean of no rows is. It does not
  count for the verdict;
- a **defect**: all else. Digits that the dtype has room for are lost, or the result is not the one that the formula
  has. A defect may well be the price of speed, and most of them do not matter to most people: the page says what
  happens, not what ought to be done.

Causes are recognised from the results alone: no source was read, and a cause is the likely one. Inputs and results
are what was seen.

A loss is not blamed for inputs that it does not take, nor for options that it does not have. The dtypes are float32;
float64 too for the losses that everybody uses, and bfloat16 for PyTorch's.
"""


def page(survey: dict) -> str:
    """The page *State of the losses*, from nothing but the rows."""
    rows, machine = survey["rows"], survey["machine"]
    versions = {row["library"]: row["versions"] for row in rows if "versions" in row}
    absent = {row["library"]: row["not_judged"] for row in rows if "not_judged" in row}
    order = [library.name for library in LIBRARIES]
    said = ", ".join(f"{name} {versions[name]}" for name in order if name in versions)
    lines = [
        "# State of the losses",
        "",
        "Made by `lossref survey --all --json docs/state_of_the_losses.json --markdown`.",
        f"Versions: {said}; lossref {machine['lossref']}, case set {_case_sets(rows)}, Python {machine['python']},",
        f"{machine['system']}, {machine['cpu']}.",
        *[f"Not judged: {why}." for why in absent.values()],
        "",
        *PREFACE.splitlines(),
        "",
        *_at_a_glance(rows),
    ]
    for name, of_loss in _grouped(rows, "loss"):
        lines += [f"## {name}", ""]
        for title, of_entry in _grouped(of_loss, "implementation"):
            lines += _entry(title, of_entry)
    return "\n".join(lines).rstrip() + "\n"


def _case_sets(rows: list[dict]) -> str:
    return " and ".join(sorted({row["case_set"] for row in rows if "case_set" in row}))


def _at_a_glance(rows: list[dict]) -> list[str]:
    """One line for each implementation."""
    lines = [
        "## All at a glance",
        "",
        "A quick survey (fewer sizes, no pairs of options) is marked with a q: where JAX",
    ]
    lines += ["computes, every operation is compiled anew for every shape. With documented choices apart:", ""]
    lines += [f"| loss | implementation | {' | '.join(DTYPES)} |", "| --- | --- |" + " --- |" * len(DTYPES)]
    for name, of_loss in _grouped(rows, "loss"):
        for title, of_entry in _grouped(of_loss, "implementation"):
            by_dtype = {row["dtype"]: _cell(row) for row in of_entry}
            cells = [by_dtype.get(dtype, "–") for dtype in DTYPES]
            lines.append(f"| {escaped(name)} | {escaped(title)} | {' | '.join(cells)} |")
            name = ""
    return [*lines, ""]


def _cell(row: dict) -> str:
    if "not_judged" in row:
        return "not installed"
    found = verdict(row) + (" q" if row["quick"] else "")
    return f"**{found}**" if verdict(row) == "wrong" else found


def _entry(title: str, rows: list[dict]) -> list[str]:
    """One implementation: what was found in any dtype, once for each cause."""
    lines = [f"### {escaped(title)}", ""]
    judged = [row for row in rows if "not_judged" not in row]
    if not judged:
        return [*lines, rows[0]["not_judged"], ""]
    dtypes = ", ".join(f"{row['dtype']} {verdict(row)}" for row in judged)
    cases = " + ".join(str(row["cases"]) for row in judged)
    gradient = "" if judged[0]["has_gradient"] else "; it has no gradient of its own"
    lines += [f"{dtypes[0]}{dtypes[1:]}; {cases} cases{gradient}.", ""]
    seen: dict[tuple, tuple[dict, dict, list[str]]] = {}
    for row in judged:
        for finding in row["findings"]:
            key = (is_choice(row, finding), finding["diagnosis"], finding["quantity"], finding["severity"])
            _, _, where = seen.setdefault(key, (row, finding, []))
            if row["dtype"] not in where:
                where.append(row["dtype"])
    for row, finding, where in sorted(seen.values(), key=lambda found: is_choice(*found[:2])):
        lines += _item(row, finding, where)
    return [*lines, ""]


def _item(row: dict, finding: dict, where: list[str]) -> list[str]:
    documented = choice(row, finding)
    kind = "choice" if is_choice(row, finding) else "defect"
    strong = f"{kind}, wrong" if kind == "defect" and finding["severity"] == "wrong" else kind
    lines = [f"- `{finding['diagnosis']}` ({finding['quantity']}; {', '.join(where)}): **{strong}**."]
    lines.append(f"  {escaped(_sentence(finding['cause']))}")
    if finding["severity"] != "note":
        numbers = _numbers(finding)
        within = f", in {row['dtype']}" if len(where) > 1 else ""
        call = f"  `{finding['call']}`{within}"
        lines.append(f"{call} {numbers}." if numbers else f"{call}.")
    if documented is not None:
        lines.append(f"  Documented: *{escaped(documented.words)}* ([{row['library']}]({documented.link})).")
    elif finding["better"]:
        lines.append(f"  Better: {escaped(finding['better'])}.")
    return lines


def _sentence(text: str) -> str:
    text = text.partition(": a choice, not an error")[0]
    return text[:1].upper() + text[1:].rstrip(".") + "."
