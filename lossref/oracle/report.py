"""What a check found: findings, a verdict, and the ways to show them."""

from __future__ import annotations

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
    obvious_curves: dict = field(default_factory=dict)  # the same of the obvious code
    blind_band: tuple[float, float] | None = None  # the leads for which e^-lead is lost beside 1, and not yet 0
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
            "curves": _points(self.curves), "curves_of_the_obvious_code": _points(self.obvious_curves),
            "blind_band": None if self.blind_band is None else list(self.blind_band),
        }  # fmt: skip

    def to_json(self, indent: int | None = 2) -> str:
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """A page that needs nothing else: no script, no font, no network."""
        from .page import page

        return page([self])

    def _repr_html_(self) -> str:
        from .page import fragment

        return fragment(self)


def _points(curves: dict) -> dict:
    return {q: [[_number(x), _number(y)] for x, y in points] for q, points in curves.items()}


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
