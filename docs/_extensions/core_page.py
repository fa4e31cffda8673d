"""The page of lossref.core: declarations, registering, what a user calls."""

import dataclasses
import inspect

from markup import escape, table, title

import lossref
from lossref.core import Loss
from lossref.core.declarations import Declaration


def declarations_table() -> str:
    """The declarations that a loss file may use, from lossref.core itself."""
    rows = []
    for name, object_ in sorted(vars(lossref.core).items()):
        is_instance = isinstance(object_, Declaration)
        if not is_instance and not (inspect.isclass(object_) and issubclass(object_, Declaration)):
            continue
        kind = type(object_) if is_instance else object_
        options = [f.name for f in dataclasses.fields(kind) if f.name not in ("dims", "interval", "words")]
        says = object_.kind() if is_instance else inspect.getdoc(object_)
        rows.append([f"``{name}``", escape(says), ", ".join(f"``{o}``" for o in options)])
    return table(["declaration", "what it demands", "options"], rows, "20 50 30")


def core_page() -> str:
    decorators = ["gradient", "divisor", "mean_factor", "kinks", "hard", "arrange", "obvious", "requires"]
    uses = [
        "__call__",
        "grad",
        "value_and_grad",
        "path",
        "paths",
        "example",
        "defaults",
        "hard_cases",
        "bad_calls",
    ]
    blocks = [
        title("Core", "="),
        "What every loss shares. :doc:`adding_a_loss` shows it at work.\n",
        title("Declarations"),
        'One per argument, in the signature of a loss: ``logits: Real("N C", masked=True)``. Without '
        "dimensions it is a number, with dimensions an array; a dimension's name has one size in a call, and "
        "``...`` stands for any number of axes. From a declaration come the check with its error, the table "
        "on the loss's page, random and hard examples, and the bad inputs of the tests.\n",
        declarations_table(),
        title("Registering a loss"),
        ".. autofunction:: lossref.core.loss\n\n.. autoclass:: lossref.core.Paper\n   :no-members:\n",
        title("What a loss file adds to its definition"),
        *(f".. automethod:: lossref.core.Loss.{name}\n" for name in decorators),
        title("What a user calls"),
        *(
            f".. auto{'attribute' if name == 'paths' else 'method'}:: lossref.core.Loss.{name}\n"
            for name in uses
            if inspect.getdoc(getattr(Loss, name)) or name == "__call__"
        ),
        title("Arithmetic that also runs on balls"),
        *(f".. autofunction:: lossref.core.{name}\n" for name in arithmetic()),
    ]
    return "\n".join(blocks)


def arithmetic() -> list[str]:
    exported = {name: getattr(lossref.core, name) for name in lossref.core.__all__}
    return [n for n, f in exported.items() if inspect.isfunction(f) and f.__module__ == "lossref.core.arithmetic"]
