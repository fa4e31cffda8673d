"""The documentation of a loss: what its author wrote, completed by what its declarations know.

The author's docstring names each argument and says what it means; kinds, shapes, defaults, the arguments that every
loss has, and the errors are added here.
"""

import inspect
import re

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)


def sections(docstring: str) -> dict[str, str]:
    """The numpydoc sections of a docstring; the text before the first one is under ''."""
    text = inspect.cleandoc(docstring or "")
    parts = _SECTION.split(text)
    found = {"": parts[0].strip()}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found[title] = body.strip("\n")
    return found


def meanings(docstring: str) -> dict[str, str]:
    """Argument name → what it means, from the Parameters section."""
    result: dict[str, list[str]] = {}
    name = None
    for line in sections(docstring).get("Parameters", "").splitlines():
        if line and not line[0].isspace():
            name = line.strip()
            result[name] = []
        elif name and line.strip():
            result[name].append(line.strip())
    return {name: " ".join(lines) for name, lines in result.items()}


def formula(docstring: str) -> str:
    """The first displayed formula, in LaTeX."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    for start, line in enumerate(lines):
        if line.startswith(".. math::"):
            body = [line.removeprefix(".. math::").strip()]
            for following in lines[start + 1 :]:
                if following.strip() and not following.startswith(" "):
                    break
                body.append(following.strip())
            return "\n".join(body).strip()
    return ""


REDUCTION = (
    'reduction : "mean", "sum" or "none", default "mean"',
    "    What is done with the terms.",
    "divisor : positive number, optional",
    '    What "mean" divides by, instead of the number of terms that count: for batches split in parts.',
)


def numpydoc(loss) -> str:
    """The complete docstring that help() shows."""
    parts = sections(loss.definition.__doc__)
    meaning = meanings(loss.definition.__doc__)
    lines = [parts.pop(""), "", "Parameters", "----------"]
    for argument in loss.arguments.values():
        lines.append(f"{argument.name} : {argument.describe()}")
        if argument.name in meaning:
            lines.append(f"    {meaning[argument.name]}")
    if loss.reducible:
        lines.extend(REDUCTION)
    parts.pop("Parameters", None)
    lines += ["", "Returns", "-------", loss.describe_result()]
    if "Raises" not in parts:
        lines += ["", "Raises", "------", "ValueError, TypeError"]
        lines.append("    Naming the argument, what was expected, what came, and at which index.")
    if loss.paper:
        lines += ["", "References", "----------", str(loss.paper)]
    for title, body in parts.items():
        lines += ["", title, "-" * len(title), body]
    return "\n".join(lines)


def markdown(loss) -> str:
    """What a notebook shows for a loss."""
    summary = sections(loss.definition.__doc__)[""].split("\n\n")[0].replace("\n", " ")
    rows = [f"| `{a.name}` | {a.describe()} |" for a in loss.arguments.values()]
    lines = [f"**{loss.name}** ({loss.family}): {summary}", "", f"$$\n{loss.formula}\n$$", ""]
    lines += ["| argument | |", "| --- | --- |", *rows]
    if loss.paper:
        title = f"[{loss.paper.title}]({loss.paper.url})" if loss.paper.url else loss.paper.title
        equation = f", Eq. {loss.paper.equation}" if loss.paper.equation else ""
        lines += ["", f"*{title}, {loss.paper.year}{equation}*"]
    return "\n".join(lines)
