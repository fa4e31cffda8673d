"""What a check found: findings, a verdict, and the ways to show them."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from math import isfinite

import numpy as np

VERDICTS = ("accurate", "inaccurate", "wrong")


class Rejected(AssertionError):
    """A candidate's verdict is as bad as was asked to be raised, or worse."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


@dataclass
class Finding:
    """One thing that is wrong, on the smallest input on which it was seen."""

    diagnosis: str
    quantity: str  # "value", "grad", "inputs", "semantics" or "symmetry"
    case: str
    inputs: dict = field(repr=False)
    got: object = None
    want: object = None
    error: float = 0.0  # in units of the yardstick
    allowed: float = 0.0
    message: str = ""
    severity: str = "wrong"  # or "inaccurate", or "note"
    cases: int = 1  # on how many cases it was seen
    expected: str = ""  # the line of an xfails file that expects it

    @property
    def id(self) -> str:
        return f"{self.diagnosis}:{self.quantity}:{self.case}"

    def to_dict(self) -> dict:
        return {
            "diagnosis": self.diagnosis, "quantity": self.quantity, "severity": self.severity, "case": self.case,
            "cases": self.cases, "inputs": {n: _plain(v) for n, v in self.inputs.items()}, "got": _plain(self.got),
            "want": _plain(self.want), "error": _number(self.error), "allowed": self.allowed, "message": self.message,
            "expected": self.expected,
        }  # fmt: skip


@dataclass
class Report:
    """The verdict on one implementation of one loss in one dtype, with its evidence."""

    loss: str
    dtype: str
    framework: str
    findings: list[Finding]
    cases: int = 0
    undecided: int = 0
    calls: int = 0
    seconds: float = 0.0
    seed: int = 0
    version: str = ""
    worst: dict = field(default_factory=dict)  # quantity → (error in units, case)
    ratio: dict = field(default_factory=dict)  # quantity → error / error of plain code in the same dtype
    curves: dict = field(default_factory=dict)  # quantity → [(lead, error in units), …]
    options: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()  # lines of an xfails file that nothing matched

    @property
    def verdict(self) -> str:
        severities = {f.severity for f in self.findings if not f.expected}
        return "wrong" if "wrong" in severities else "inaccurate" if "inaccurate" in severities else "accurate"

    def raise_if(self, verdict: str = "wrong") -> Report:
        """Raise if the verdict is this one or a worse one; otherwise return the report."""
        if verdict not in VERDICTS[1:]:
            raise ValueError(f'verdict: expected "inaccurate" or "wrong", got {verdict!r}')
        if VERDICTS.index(self.verdict) >= VERDICTS.index(verdict):
            raise Rejected(self)
        return self

    # -- text --------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        lines = [f"{self.loss}, {self.framework}, {self.dtype}: {self.verdict.upper()}"]
        lines.append(f"  {self.cases} cases, {self.seconds:.1f} s, options tried: {', '.join(self.options) or 'none'}")
        for quantity, (units, case) in self.worst.items():
            beside = self.ratio.get(quantity)
            text = f"  worst {quantity} error: {_units(units)} of the yardstick's units ({case})"
            lines.append(
                text + (f"; {beside:.2g} × that of the obvious code on ordinary inputs" if beside is not None else "")
            )
        for finding in self.findings:
            mark = "expected, " if finding.expected else ""
            lines.append("")
            lines.append(
                f"  [{mark}{finding.severity}] {finding.diagnosis} ({finding.quantity}, {finding.cases} cases)"
            )
            lines += [f"    {line}" for line in finding.message.splitlines()]
        for line in self.unexpected:
            lines.append(f"  expected to fail and did not: {line}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        slugs = ", ".join(dict.fromkeys(f.diagnosis for f in self.findings))
        return f"<Report {self.loss} {self.framework} {self.dtype}: {self.verdict}{': ' + slugs if slugs else ''}>"

    def __rich__(self):
        from rich.text import Text

        text = Text(str(self))
        colour = {"accurate": "green", "inaccurate": "yellow", "wrong": "bold red"}
        for verdict, style in colour.items():
            text.highlight_words([verdict.upper(), f"[{verdict}]"], style)
        return text

    # -- for machines ------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict:
        return {
            "loss": self.loss, "dtype": self.dtype, "framework": self.framework, "verdict": self.verdict,
            "cases": self.cases, "undecided": self.undecided, "calls": self.calls, "seconds": round(self.seconds, 3),
            "seed": self.seed, "case_set": self.version, "options": list(self.options),
            "worst": {q: {"error": _number(u), "case": c} for q, (u, c) in self.worst.items()},
            "beside_the_obvious_code": {q: _number(r) for q, r in self.ratio.items()},
            "findings": [f.to_dict() for f in self.findings], "unexpected_passes": list(self.unexpected),
            "curves": {q: [[_number(x), _number(y)] for x, y in points] for q, points in self.curves.items()},
        }  # fmt: skip

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """A page that needs nothing else: no script, no font, no network."""
        rows = []
        for f in self.findings:
            rows.append(
                f'<section class="{f.severity}"><h3>{html.escape(f.diagnosis)} '
                f"<small>{html.escape(f.severity)}, {f.quantity}, "
                f"{f.cases} cases</small></h3><pre>{html.escape(f.message)}</pre></section>"
            )
        curves = "".join(_plot(q, points) for q, points in self.curves.items() if points)
        worst = "".join(
            f"<tr><td>{q}</td><td>{_units(u)}</td><td>{html.escape(c)}</td><td>{_times(self.ratio.get(q))}</td></tr>"
            for q, (u, c) in self.worst.items()
        )
        return _PAGE.format(
            title=html.escape(f"{self.loss}, {self.framework}, {self.dtype}"), verdict=self.verdict, cases=self.cases,
            version=self.version, seed=self.seed, worst=worst, curves=curves,
            findings="".join(rows) or "<p>No findings.</p>",
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return self.to_html()


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: {verdict}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }}
h1 b {{ padding: 0 .4em; border-radius: .2em; color: #fff; }}
b.accurate {{ background: #1b7837; }} b.inaccurate {{ background: #b35806; }} b.wrong {{ background: #b2182b; }}
section {{ border-left: .3rem solid #999; padding-left: 1rem; margin: 1.5rem 0; }}
section.wrong {{ border-color: #b2182b; }} section.inaccurate {{ border-color: #b35806; }}
pre {{ white-space: pre-wrap; background: #f6f6f6; padding: .6rem; }}
td, th {{ padding: .1rem .8rem .1rem 0; text-align: left; }}
small {{ color: #555; font-weight: normal; }} svg text {{ font: 12px system-ui, sans-serif; fill: #333; }}
</style></head><body>
<h1>{title}: <b class="{verdict}">{verdict}</b></h1>
<p>{cases} cases of the case set {version}, seed {seed}. Errors are in units of the yardstick: how far the
answer moves when every input, and the answer itself, moves by one rounding.</p>
<table><tr><th></th><th>worst error</th><th>on</th><th>beside the obvious code</th></tr>{worst}</table>
{curves}
<h2>Findings</h2>
{findings}
</body></html>
"""


def _plot(quantity: str, points: list) -> str:
    """Error against lead, both honest: a logarithmic error axis that ends where numbers stop being right at all."""
    width, height, left, bottom = 720, 260, 70, 40
    points = sorted((x, y) for x, y in points)
    xs = [x for x, _ in points]
    top = 1e10
    ys = [min(max(y if isfinite(y) else top, 1e-2), top) for _, y in points]
    x_end = max(xs) or 1.0

    def px(x):
        return left + (width - left - 20) * x / x_end

    def py(y):
        return height - bottom - (height - bottom - 20) * (np.log10(y) + 2) / 12

    allowed = 4.0 if quantity == "value" else 8.0
    dots = "".join(
        f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{"#1b7837" if y <= allowed else "#b2182b"}"/>'
        for x, y in zip(xs, ys, strict=True)
    )
    y_ticks = "".join(
        f'<text x="{left - 8}" y="{py(10.0**k) + 4:.1f}" text-anchor="end">{10.0**k:g}</text>'
        f'<line x1="{left}" x2="{width - 20}" y1="{py(10.0**k):.1f}" y2="{py(10.0**k):.1f}" stroke="#eee"/>'
        for k in range(-2, 11, 3)
    )
    x_ticks = "".join(
        f'<text x="{px(x):.1f}" y="{height - bottom + 18}" text-anchor="middle">{x:g}</text>'
        for x in np.rint(np.linspace(0, x_end, 6))
    )
    at = f"{py(allowed):.1f}"
    line = f'<line x1="{left}" x2="{width - 20}" y1="{at}" y2="{at}" stroke="#1b7837" stroke-dasharray="4 3"/>'
    name = "value" if quantity == "value" else "gradient"
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="error of the {name} against lead">'
        f"{y_ticks}{x_ticks}{line}{dots}"
        f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">lead of one entry over its row</text>'
        f'<text x="{left}" y="12">error of the {name} in units of the yardstick (dashed: allowed)</text></svg></figure>'
    )


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2g} ×"


def _units(error: float) -> str:
    return f"{error:.2f}" if error < 1000 else f"{error:.2g}"


def _number(x):
    x = float(x)
    return x if isfinite(x) else repr(x)


def _plain(value):
    """Arrays as lists; what JSON has no number for becomes a word."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, np.generic) and value.dtype.kind in "iub":
        return value.item()
    array = np.asarray(value)
    if array.dtype.kind in "iub":
        return array.tolist()
    if array.ndim == 0:
        return _number(array)
    return [_plain(part) for part in array]
