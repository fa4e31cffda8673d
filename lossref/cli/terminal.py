"""Where output goes and how wide it is; names that the user may have mistyped."""

import os
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

WIDTH_IN_A_PIPE = 160  # nobody looks at a pipe through a window: do not fold tables at 80 columns


def console(to_errors: bool = False) -> Console:
    """A console that respects NO_COLOR and COLUMNS (rich does) and does not fold what goes into a pipe."""
    stream = sys.stderr if to_errors else sys.stdout
    piped = not stream.isatty() and not os.environ.get("COLUMNS")
    return Console(stderr=to_errors, highlight=False, width=WIDTH_IN_A_PIPE if piped else None)


def progress_bar() -> Progress:
    """How much of the work is done, on standard error; nothing where that is no terminal."""
    out = console(to_errors=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    return Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


def usage_error(text: str) -> NoReturn:
    """Say what is wrong with the command line; exit status 2."""
    typer.echo(f"lossref: {text}", err=True)
    raise typer.Exit(2)


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """The name itself, or a usage error with the names that it may have been meant to be."""
    names = list(names)
    if name in names:
        return name
    wanted = name.lower().replace("-", "_")
    close = get_close_matches(wanted, names, n=1, cutoff=0.85)
    close += [other for other in names if wanted and wanted in other and other not in close]
    close += [other for other in get_close_matches(wanted, names, n=4) if other not in close]
    if close:
        usage_error(f"there is no {kind} {name!r}. Did you mean: {', '.join(close)}?")
    if len(names) <= 20:
        usage_error(f"there is no {kind} {name!r}. There are: {', '.join(names)}.")
    usage_error(f"there is no {kind} {name!r}; `lossref list` shows them all.")
