"""``lossref list`` and ``lossref show``."""

import inspect
import json
from pathlib import Path
from textwrap import dedent

import typer
from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

import lossref
from lossref.core import Loss, documentation

from .terminal import console, known


def summary(loss: Loss) -> str:
    """The first sentence of a loss's docstring."""
    text = documentation.sections(loss.definition.__doc__ or "")[""]
    return _plain(text.split("\n\n")[0])


def _plain(paragraph: str) -> str:
    """A paragraph of reStructuredText as flowing text."""
    return " ".join(paragraph.split()).replace("``", "`").replace(":math:", "")


def families() -> list[str]:
    return sorted({loss.family for loss in lossref.losses().values()})


def print_list(family: str | None, as_json: bool) -> None:
    chosen = list(lossref.losses().values())
    if family is not None:
        known("family", family, families())
        chosen = [loss for loss in chosen if loss.family == family]
    if as_json:
        typer.echo(json.dumps([_entry(loss) for loss in chosen], indent=2, ensure_ascii=False))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("family", no_wrap=True)
    table.add_column("paths", no_wrap=True)
    table.add_column("what it is", ratio=3)
    table.add_column("paper", ratio=2)
    for loss in sorted(chosen, key=lambda loss: (loss.family, loss.name)):
        paper = f"{loss.paper.title} ({loss.paper.year})" if loss.paper else ""
        table.add_row(loss.name, loss.family, " ".join(loss.paths), summary(loss), paper)
    console().print(table)
    console().print(f"{len(chosen)} functions. `lossref show NAME` for one of them.")


def _entry(loss: Loss) -> dict:
    paper = loss.paper and {
        "title": loss.paper.title,
        "year": loss.paper.year,
        "reference": loss.paper.reference,
        "equation": loss.paper.equation,
        "url": loss.paper.url,
    }
    return {
        "name": loss.name,
        "family": loss.family,
        "paths": list(loss.paths),
        "summary": summary(loss),
        "formula": loss.formula,
        "arguments": {argument.name: argument.describe() for argument in loss.arguments.values()},
        "differentiable": list(loss.of),
        "paper": paper,
    }


def print_loss(name: str) -> None:
    loss = lossref.losses()[known("loss", name, lossref.losses())]
    out = console()
    out.print(Text.assemble((loss.name, "bold"), f"  ({loss.family}; paths: {', '.join(loss.paths)})"))
    out.print(Padding(Text(_prose(loss)), (0, 0, 0, 2)))
    for title, body in _parts(loss):
        out.print(Text(f"\n{title}", style="bold"))
        out.print(Padding(body, (0, 0, 0, 2)))


def _prose(loss: Loss) -> str:
    """The docstring's text, without its formula, paragraphs flowing."""
    paragraphs = documentation.sections(loss.definition.__doc__ or "")[""].split("\n\n")
    kept = [p for p in paragraphs if not p.lstrip().startswith(".. math::") and not p.startswith(" ")]
    return "\n\n".join(map(_plain, kept))


def _parts(loss: Loss):
    """(heading, what stands under it), for everything that is known of a loss."""
    yield "Formula (LaTeX)", Text(loss.formula or "none")
    yield "Arguments", _arguments(loss)
    yield "Result", Text(loss.describe_result())
    yield "Paper", Text(_paper(loss))
    yield "Symmetries", Text(_symmetries(loss))
    if loss.gradient_rule is not None:
        yield f"Gradient with respect to {', '.join(loss.of)}", _source(loss.gradient_rule)
    yield "Source", Text(_place(loss))


def _arguments(loss: Loss):
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(ratio=1)
    meaning = documentation.meanings(loss.definition.__doc__ or "")
    for argument in loss.arguments.values():
        explanation = Text(meaning.get(argument.name, ""), style="dim")
        table.add_row(argument.name, Group(Text(argument.describe()), explanation))
    return table


def _paper(loss: Loss) -> str:
    if loss.paper is None:
        return "none: textbook"
    return f"{loss.paper}\n{loss.paper.url}" if loss.paper.url else str(loss.paper)


def _symmetries(loss: Loss) -> str:
    if not loss.symmetries:
        return "none declared"
    return "\n".join(
        f"{symmetry}, unless {' or '.join(breaking)} is used" if breaking else symmetry
        for symmetry, breaking in loss.symmetries.items()
    )


def _source(function) -> Syntax:
    return Syntax(dedent(inspect.getsource(function)).rstrip(), "python", background_color="default", word_wrap=True)


def _place(loss: Loss) -> str:
    path = Path(inspect.getsourcefile(loss.definition) or "")
    _, line = inspect.getsourcelines(loss.definition)
    return f"{path}:{line}"
