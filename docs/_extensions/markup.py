"""Small pieces of reStructuredText."""

import re
import textwrap


def title(text: str, underline: str = "-") -> str:
    return f"{text}\n{underline * len(text)}\n"


def escape(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def code(source: str, language: str = "python") -> str:
    return f".. code-block:: {language}\n\n{textwrap.indent(source.rstrip(), '   ')}\n"


def table(header: list[str], rows: list[list[str]], widths: str) -> str:
    """A list-table; the cells are reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [header, *rows]:
        for i, cell in enumerate(row):
            first, *rest = (cell or " ").splitlines() or [""]
            lines.append(f"   {'* -' if i == 0 else '  -'} {first}".rstrip())
            lines += [f"       {line}".rstrip() for line in rest]
    return "\n".join(lines) + "\n"


def indented(text: str, by: int = 3) -> str:
    return textwrap.indent(text, " " * by)
