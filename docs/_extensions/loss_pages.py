"""A page per loss, a table per family and a page of papers, all from ``lossref.losses()``.

Nothing here knows a loss by name: a loss in a new file gets its page, its plot and its rows by being
registered, and a second plot by a file docs/extra/<its name>.py. The pages are written to docs/losses/ before
Sphinx reads its sources; a page that did not change is left alone, so that a second build only does what is new.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import re
import shutil
import textwrap
from pathlib import Path

import numpy as np
from core_page import core_page
from loss_plots import draw, draw_extra
from markup import code, escape, indented, table, title
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

import lossref
from lossref.core import Loss, documentation

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]

PATH_NAMES = {"numpy": "NumPy", "numba": "Numba", "cuda": "CUDA"}

SYMMETRIES = {
    "shift": "adding one number to all entries of a row changes nothing",
    "scale": "multiplying by a positive number changes nothing",
    "class permutation": "the names of the classes do not matter: permuting them permutes the gradient",
    "row permutation": "the order of the rows does not matter: permuting them permutes terms and gradient",
}


# -- what a loss says about itself -------------------------------------------------------------------------


def summary(loss: Loss) -> str:
    text = documentation.sections(loss.definition.__doc__)[""]
    return " ".join(text.split("\n\n")[0].split())


def without_docstring(function) -> str:
    """The source of a function as it stands in its file, less its docstring and its registration."""
    source = textwrap.dedent(inspect.getsource(function))
    node = ast.parse(source).body[0]
    lines = source.splitlines()
    body = node.body
    if ast.get_docstring(node) is not None:
        lines = [*lines[: body[0].lineno - 1], *lines[body[0].end_lineno :]]
    is_rule = node.name == "_"
    return "\n".join(lines if is_rule else lines[node.lineno - 1 :])


def private_parts(loss: Loss) -> list[str]:
    """The sources of the file's private functions and classes that the loss uses, in file order."""
    module = inspect.getmodule(loss.definition)
    own = {
        name: thing
        for name, thing in vars(module).items()
        if name.startswith("_")
        and getattr(thing, "__module__", None) == module.__name__
        and name != "_"
        and (inspect.isfunction(thing) or inspect.isclass(thing))
    }
    waiting = [loss.definition, loss.gradient_rule, loss.divisor_rule, loss.mean_factor_rule, loss.returns]
    waiting = [function for function in waiting if inspect.isfunction(function)]
    used = set()
    while waiting:
        thing = waiting.pop()
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(thing)))):
            if isinstance(node, ast.Name) and node.id in own and node.id not in used:
                used.add(node.id)
                waiting.append(own[node.id])
    return [textwrap.dedent(inspect.getsource(own[name])) for name in own if name in used]


def signature(loss: Loss) -> str:
    parameters = [p.replace(annotation=p.empty) for p in loss.__signature__.parameters.values()]
    return str(inspect.Signature(parameters))


def paper_line(paper) -> str:
    name = f"`{escape(paper.title)} <{paper.url}>`__" if paper.url else f"*{escape(paper.title)}*"
    where = "" if paper.url or not paper.reference else f", {escape(paper.reference)}"
    equation = f", Eq. {escape(paper.equation)}" if paper.equation else ""
    return f"{name} ({paper.year}){where}{equation}"


def paths(loss: Loss) -> str:
    return ", ".join(PATH_NAMES.get(path, path) for path in loss.paths)


def held_constant(loss: Loss) -> list[str]:
    """The expressions that the loss's file, or a file beside it that it imports from, holds constant."""
    module = inspect.getmodule(loss.definition)
    sources = [inspect.getsource(module)]
    for node in ast.walk(ast.parse(sources[0])):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            sources.append(inspect.getsource(importlib.import_module(f".{node.module}", module.__package__)))
    found = []
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "held_constant":
                found.append(f"``{ast.unparse(node.args[0])}``")
    return list(dict.fromkeys(found))


def call_with(function, arguments: dict):
    """Call with the arguments that a function names: how core calls the rules of a loss."""
    return function(**{name: arguments[name] for name in inspect.signature(function).parameters})


def where_the_obvious_form_fails(loss: Loss, most: int = 4) -> list[tuple[str, float, float]]:
    """Hard cases in float64 as (what is hard, lossref's value, the obvious form's): the worst terms."""
    reduction = {"reduction": "none"} if loss.reducible else {}
    found, seen = [], set()
    with np.errstate(all="ignore"):
        for what, case in loss.hard_cases(np.random.default_rng(0)):
            if ";" in what:
                continue  # two hard things at once: one is enough to show
            try:
                ours = np.atleast_1d(loss(**case, **reduction)).ravel()
                theirs = np.atleast_1d(call_with(loss.obvious_form, case)).ravel()
            except (ValueError, IndexError, FloatingPointError):
                continue  # the obvious form knows no options, and some hard cases need one
            if ours.shape != theirs.shape or not ours.size:
                continue
            off = np.abs(np.subtract(ours, theirs, dtype=float)) / np.abs(ours)  # also of booleans
            off = np.where((ours == theirs) | np.isnan(ours), 0.0, np.where(np.isnan(off), np.inf, off))
            worst = int(np.argmax(off))
            values = float(ours[worst]), float(theirs[worst]) + 0.0  # no -0
            if off[worst] > 1e-9 and values not in seen:
                seen.add(values)
                found.append((float(off[worst]), what, *values))
    found.sort(key=lambda entry: -entry[0])
    return [entry[1:] for entry in found[:most]]


# -- the page of one loss ----------------------------------------------------------------------------------


def arguments_table(loss: Loss) -> str:
    meaning = documentation.meanings(loss.definition.__doc__)
    rows = []
    for a in loss.arguments.values():
        rows.append([f"``{a.name}``", escape(a.describe()), meaning.get(a.name, "")])
    if loss.reducible:
        heads, bodies = documentation.REDUCTION[0::2], documentation.REDUCTION[1::2]
        for head, body in zip(heads, bodies, strict=True):
            name, _, kind = head.partition(" : ")
            rows.append([f"``{name}``", escape(kind), body.strip()])
    return table(["argument", "what it must be", "what it means"], rows, "20 35 45")


def accuracy(loss: Loss, measured: dict | None) -> str:
    if measured is None:
        command = "``lossref verify --json docs/accuracy.json``"
        return f"Not measured for this build; {command} writes the table that stands here.\n"
    rows = [accuracy_row(row) for row in measured["rows"] if row["loss"] == loss.name]
    if not rows:
        return "This loss is not in the last measurement.\n"
    limits, machine = measured["limits"], measured["machine"]
    text = (
        "The worst error over real data, random inputs and hard ones, in units of the :ref:`yardstick "
        f"<yardstick>`. The limits are {limits['value']:g} for a value, {limits['gradient']:g} for a gradient.\n\n"
    )
    where = ", ".join(str(machine[key]) for key in ("cpu", "system") if machine.get(key))
    versions = ", ".join(f"{name} {v}" for name, v in machine.get("versions", {}).items() if v)
    header = ["path", "dtype", "cases", "value", "gradient", "verdict"]
    return text + table(header, rows, "25 15 15 15 15 15") + f"\nMeasured on {escape(where)} with {escape(versions)}.\n"


def accuracy_row(row: dict) -> list[str]:
    path = PATH_NAMES.get(row["path"], row["path"]) + (" (simulator)" if row.get("simulated") else "")
    errors = [row["worst_value"], row["worst_gradient"]]
    shown = ["–" if e is None else f"{e:.2f}" if isinstance(e, float) else str(e) for e in errors]
    if row["verdict"] == "not run":
        return [path, row["dtype"], "", "", "", "not run"]
    return [path, row["dtype"], str(row["cases"]), *shown, row["verdict"]]


def obvious_section(loss: Loss) -> str:
    parts = [code(without_docstring(loss.obvious_form))]
    failures = where_the_obvious_form_fails(loss)
    if failures:
        parts.append("In float64 it loses these, among the hard cases that every loss is tested on:\n")
        rows = [[escape(what), f"{ours:.6g}", f"{theirs:.6g}"] for what, ours, theirs in failures]
        parts.append(table(["input", "lossref", "the obvious form"], rows, "50 25 25"))
    else:
        parts.append("In float64 it loses nothing on the hard cases that every loss is tested on.\n")
    return "\n".join(parts)


def page(loss: Loss, picture: str, measured: dict | None, extra: str = "") -> str:
    parts = documentation.sections(loss.definition.__doc__)
    name = loss.name
    blocks = [
        f".. _loss-{name}:\n",
        title(name, "="),
        f".. py:function:: lossref.{name}{signature(loss)}\n",
        indented(parts[""]) + "\n",
        title("Arguments"),
        arguments_table(loss),
        f"**Returns** {escape(loss.describe_result())}.\n",
    ]
    if loss.constraints:
        blocks.append("These must hold as well, or the argument is refused by name:\n")
        blocks += [f"- ``{argument}``: {escape(expected)}" for argument, expected, *_ in loss.constraints]
        blocks.append("")
    if parts.get("Examples"):
        blocks += [title("Examples"), ">>> import numpy as np, lossref as lr\n" + parts["Examples"] + "\n"]
    blocks.append(title("What it looks like"))
    if picture:
        blocks += [
            f".. image:: {name}.svg\n   :alt: {name} and its gradient\n   :class: loss-plot\n",
            picture + "\n",
        ]
    else:
        blocks.append("There is no entry to vary by itself, so there is no plot.\n")
    if extra:
        heading, _, text = extra.partition("\n\n")
        image = f".. image:: {name}.extra.svg\n   :alt: {heading}\n   :class: loss-plot\n"
        blocks += [title(heading), text + "\n", image]
    blocks += [title("Value"), code(without_docstring(loss.definition))]
    blocks += [title("Gradient")]
    if loss.gradient_rule is None:
        blocks.append("It has no gradient.\n")
    else:
        blocks.append(code(without_docstring(loss.gradient_rule)))
        if "cotangent" in inspect.signature(loss.gradient_rule).parameters:
            blocks.append("The rule receives the cotangent of the terms and returns the vector-Jacobian product.\n")
    shared = private_parts(loss)
    if shared:
        blocks += ["Used by these:\n", code("\n\n".join(source.rstrip() + "\n" for source in shared))]
    constants = held_constant(loss)
    if constants:
        blocks.append(f"Held constant (to differentiation, as the definition demands): {', '.join(constants)}.\n")
    if loss.kinks_rule is not None:
        blocks += ["Where the derivative does not exist and the gradient is a convention:\n"]
        blocks.append(code(without_docstring(loss.kinks_rule)))
    for rule, what in (
        (loss.divisor_rule, '``reduction="mean"`` divides by:'),
        (loss.mean_factor_rule, '``reduction="mean"`` multiplies each term first by:'),
    ):
        if rule is not None:
            blocks += [what + "\n", code(without_docstring(rule))]
    if loss.obvious_form is not None:
        blocks += [title("The obvious form"), obvious_section(loss)]
    blocks += [title("Accuracy"), accuracy(loss, measured)]
    if loss.symmetries:
        blocks.append(title("Symmetries"))
        for what, breaking in loss.symmetries.items():
            unless = f", unless {' or '.join(f'``{b}``' for b in breaking)} is given" if breaking else ""
            means = f": {SYMMETRIES[what]}" if what in SYMMETRIES else ""
            blocks.append(f"- **{what}**{means}{unless}.")
        blocks.append("")
    if loss.paper:
        blocks += [title("Paper"), paper_line(loss.paper) + "\n"]
    for section, body in parts.items():
        if section not in ("", "Parameters", "Examples", "References"):
            blocks += [title(section), body + "\n"]
    file = Path(inspect.getsourcefile(loss.definition)).resolve()
    blocks.append(title("Source"))
    blocks.append(f"Paths: {paths(loss)}.\n")
    if file.is_relative_to(ROOT):
        inside = file.relative_to(ROOT).as_posix()
        blocks.append(f".. dropdown:: {inside}, the whole file\n\n   .. literalinclude:: /../{inside}\n")
    return "\n".join(blocks)


# -- tables and lists --------------------------------------------------------------------------------------


def family_summary(family: str) -> str:
    module = importlib.import_module(f"lossref.{family}")
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())


def family_table(members: list[Loss]) -> str:
    rows = [
        [
            f":ref:`{loss.name} <loss-{loss.name}>`",
            summary(loss),
            paper_line(loss.paper) if loss.paper else "",
            paths(loss),
        ]
        for loss in members
    ]
    return table(["name", "what it is", "paper", "paths"], rows, "20 40 25 15")


def toctree(entries: list[str], hidden: bool = True) -> str:
    lines = [
        ".. toctree::",
        "   :hidden:" if hidden else "   :maxdepth: 1",
        "",
        *(f"   {entry}" for entry in entries),
    ]
    return "\n".join(lines) + "\n"


def family_page(family: str, members: list[Loss]) -> str:
    return "\n".join(
        [
            f".. _family-{family}:\n",
            title(family.capitalize(), "="),
            family_summary(family) + "\n",
            family_table(members),
            toctree([loss.name for loss in members]),
        ]
    )


def index_page(families: dict[str, list[Loss]]) -> str:
    count = sum(map(len, families.values()))
    blocks = [
        title("Losses", "="),
        f"{count} functions in {len(families)} families. Each name leads to its formula, its gradient, its "
        "source and what is known about its accuracy; :doc:`papers` lists where they come from.\n",
    ]
    for family, members in families.items():
        blocks += [title(family.capitalize()), family_summary(family) + "\n", family_table(members)]
    blocks.append(toctree([f"{family}/index" for family in families] + ["papers"]))
    return "\n".join(blocks)


def papers_page(losses: dict[str, Loss]) -> str:
    found: dict[tuple, list[Loss]] = {}
    for loss in losses.values():
        if loss.paper:
            paper = loss.paper
            found.setdefault((paper.year, paper.title, paper.reference), []).append(loss)
    rows = []
    for (year, name, reference), members in sorted(found.items(), reverse=True):
        url = members[0].paper.url
        link = f"`{escape(name)} <{url}>`__" if url else f"*{escape(name)}*"
        what = ", ".join(
            f":ref:`{m.name} <loss-{m.name}>`" + (f" (Eq. {escape(m.paper.equation)})" if m.paper.equation else "")
            for m in members
        )
        rows.append([str(year), link, escape(reference), what])
    text = "The papers that the losses come from, the newest first. Textbook functions have none.\n"
    return "\n".join([title("Papers", "="), text, table(["year", "paper", "where", "losses"], rows, "8 42 20 30")])


def adding_page() -> str:
    """CONTRIBUTING.md as a page; its links to files of the repository become their names."""
    file = ROOT / "CONTRIBUTING.md"
    if not file.exists():
        return "# Adding a loss\n\nCONTRIBUTING.md is missing.\n"
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)[^)]*\)", r"\1", file.read_text())


# -- writing -----------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Write only what changed: Sphinx then rereads only that."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def fingerprint(loss: Loss, extra: Path) -> str:
    """Changes when the loss's family, or anything beneath all losses, does."""
    package = ROOT / "lossref"
    files = [*(package / "core").glob("*.py"), *(package / "primitives").glob("*.py")]
    files += [Path(__file__).with_name("loss_plots.py")]
    files += Path(inspect.getsourcefile(loss.definition)).parent.glob("*.py")
    files += [extra] if extra.exists() else []
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def read_accuracy(source: Path) -> dict | None:
    """The report of ``lossref verify --json``: the one put there by hand, or the one that the build made."""
    for file in (source / "accuracy.json", source / "_build" / "accuracy.json"):
        if file.exists():
            return json.loads(file.read_text())
    return None


def generate(app: Sphinx) -> None:
    source = Path(app.srcdir)
    target = source / "losses"
    losses = {name: loss for name, loss in lossref.losses().items() if loss.family in lossref.FAMILIES}
    families: dict[str, list[Loss]] = {family: [] for family in lossref.FAMILIES}
    for loss in losses.values():
        families[loss.family].append(loss)
    # The losses first; what they are written with comes last.
    families = {f: members for f, members in families.items() if members and f != "primitives"} | {
        f: members for f, members in families.items() if members and f == "primitives"
    }
    measured = read_accuracy(source)

    stamps_file = target / "plots.json"
    stamps = json.loads(stamps_file.read_text()) if stamps_file.exists() else {}
    kept = {
        target / "index.rst",
        target / "papers.rst",
        target / "core.rst",
        target / "adding_a_loss.md",
        stamps_file,
    }
    for family, members in families.items():
        write(target / family / "index.rst", family_page(family, members))
        kept.add(target / family / "index.rst")
        for loss in members:
            plot, extra = target / family / f"{loss.name}.svg", source / "extra" / f"{loss.name}.py"
            extra_plot = plot.with_suffix(".extra.svg")
            stamp, known = fingerprint(loss, extra), stamps.get(loss.name, {})
            try:
                if known.get("stamp") != stamp or (known.get("caption") and not plot.exists()):
                    plot.parent.mkdir(parents=True, exist_ok=True)
                    caption, text = draw(loss, plot), draw_extra(loss, extra, extra_plot)
                    known = stamps[loss.name] = {"stamp": stamp, "caption": caption, "extra": text}
                write(plot.with_suffix(".rst"), page(loss, known["caption"], measured, known.get("extra", "")))
            except Exception as problem:
                raise ExtensionError(f"the page of {loss.name} cannot be made", problem) from problem
            kept |= {plot, plot.with_suffix(".rst"), extra_plot}
    write(target / "index.rst", index_page(families))
    write(target / "papers.rst", papers_page(losses))
    write(target / "core.rst", core_page())
    write(target / "adding_a_loss.md", adding_page())
    write(stamps_file, json.dumps({name: stamps[name] for name in losses}, indent=1))
    for file in target.rglob("*"):
        if file.is_file() and file not in kept:
            file.unlink()
    copy_tutorials(source)
    log.info("generated %d loss pages", len(losses))


def copy_tutorials(source: Path) -> None:
    """The notebooks, and what they read, into docs/tutorials/: Sphinx reads only below its folder."""
    notebooks = sorted((ROOT / "tutorials").glob("*.ipynb"))
    target = source / "tutorials"
    for file in [*notebooks, *(f for f in (ROOT / "tutorials" / "recorded").rglob("*") if f.is_file())]:
        copy = target / file.relative_to(ROOT / "tutorials")
        if not copy.exists() or copy.read_bytes() != file.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    for file in target.glob("*.ipynb"):
        if file.name not in {notebook.name for notebook in notebooks}:
            file.unlink()
    text = "Notebooks, executed when this site is built. The repository has them in ``tutorials``.\n"
    write(
        target / "index.rst",
        "\n".join([title("Tutorials", "="), text, toctree([n.stem for n in notebooks], hidden=False)]),
    )


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", generate)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
