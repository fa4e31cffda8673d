"""A report as a web page that needs nothing else: no script, no font, no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from math import floor, isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import Finding, Report

NAMES = {"value": "value", "grad": "gradient"}
ALLOWED = {"value": 4.0, "grad": 8.0}  # units of the yardstick

STYLE = """
.lossref-report { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
.lossref-report h1 b, .lossref-report .badge { padding: 0 .4em; border-radius: .2em; color: #fff; }
.lossref-report .accurate { background: #1b7837; } .lossref-report .inaccurate { background: #a84e00; }
.lossref-report .wrong { background: #b2182b; } .lossref-report .note { background: #555; }
.lossref-report .badge { font-size: .8em; font-weight: normal; }
.lossref-report section { margin: 1.5rem 0; border-top: 1px solid #ddd; }
.lossref-report pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f6f6; color: inherit;
  padding: .6rem; font-size: .85em; }
.lossref-report table { border-collapse: collapse; margin: 1rem 0; }
.lossref-report td, .lossref-report th { padding: .25rem 1.2rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #ddd; background: none; }
.lossref-report .number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.lossref-report figure { margin: 1.5rem 0; }
.lossref-report figcaption, .lossref-report small { color: #555; font-weight: normal; }
.lossref-report svg { width: 100%; height: auto; }
.lossref-report svg text { font: 12px system-ui, sans-serif; fill: #333; }
"""


def page(reports: Sequence[Report]) -> str:
    """One page for the reports of one candidate, one dtype after the other."""
    title = html.escape("; ".join(f"{r.loss}, {r.framework}, {r.dtype}: {r.verdict}" for r in reports))
    body = "\n".join(_body(report) for report in reports)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>body {{ margin: 0; '
        f"background: #fff; }}{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def fragment(report: Report) -> str:
    """What a notebook shows: the same, with a style that touches nothing else on its page."""
    return f"<style>{STYLE}</style>{_body(report)}"


def _body(report: Report) -> str:
    title = html.escape(f"{report.loss}, {report.framework}, {report.dtype}")
    options = ", ".join(report.options) or "none"
    parts = [
        f'<article class="lossref-report"><h1>{title}: <b class="{report.verdict}">{report.verdict}</b></h1>',
        f"<p>{report.cases} cases of the case set {report.version}, seed {report.seed}, {report.seconds:.1f} s; "
        f"options tried: {html.escape(options)}. Errors are in units of the yardstick: how far the answer moves when "
        "every input, and the answer itself, moves by one rounding.</p>",
        _table(
            ("", "worst error", "allowed", "on", "beside the obvious code"),
            [
                (NAMES[q], _units(u), f"{ALLOWED[q]:g}", case, _times(report.ratio.get(q)))
                for q, (u, case) in report.worst.items()
            ],
            numbers=(1, 2, 4),
        ),
        *(_plot(report, quantity) for quantity, points in report.curves.items() if points),
        "<h2>Findings</h2>",
    ]
    if not report.findings:
        parts.append("<p>None.</p>")
    if len(report.findings) > 1:
        rows = [(f.diagnosis, f.severity, f.quantity, str(f.cases), _units(f.error)) for f in report.findings]
        parts.append(_table(("diagnosis", "severity", "in", "cases", "error"), rows, numbers=(3, 4)))
    parts += [_section(finding) for finding in report.findings]
    parts += [f"<p>Expected to fail and did not: {html.escape(line)}</p>" for line in report.unexpected]
    return "\n".join(parts) + "\n</article>"


def _section(finding: Finding) -> str:
    """The cause, the evidence as it stands, the form that would be right."""
    cause, *rest = finding.message.splitlines() or [""]
    advice = [line.removeprefix("better: ") for line in rest if line.startswith("better: ")]
    evidence = "\n".join(line for line in rest if not line.startswith("better: "))
    expected = f" <small>expected: {html.escape(finding.expected)}</small>" if finding.expected else ""
    return "".join(
        [
            f'<section><h3>{html.escape(finding.diagnosis)} <span class="badge {finding.severity}">{finding.severity}'
            f"</span> <small>{html.escape(finding.quantity)}, {finding.cases} "
            f"case{'s' if finding.cases != 1 else ''}</small>{expected}</h3>",
            f"<p>{html.escape(cause)}</p>",
            f"<pre>{html.escape(evidence)}</pre>" if evidence else "",
            *(f"<p><b>Better:</b> {html.escape(line)}</p>" for line in advice),
            "</section>",
        ]
    )


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], numbers: tuple[int, ...]) -> str:
    def line(cells, tag):
        return "<tr>" + "".join(
            f"<{tag}{' class=number' if k in numbers else ''}>{html.escape(cell)}</{tag}>"
            for k, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    return "<table>" + line(heads, "th") + "".join(line(row, "td") for row in rows) + "</table>"


# -- error against lead ------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 300, 70, 20, 34, 44
LOWEST, HIGHEST = -2, 10  # powers of ten on the axis of errors: smaller and larger ones stand at its ends


def _plot(report: Report, quantity: str) -> str:
    """Error against lead, with the obvious code's beside it, and the band where ordinary tests do not look."""
    points = sorted(report.curves[quantity])
    plain = sorted(report.obvious_curves.get(quantity, []))
    end = max(x for x, _ in points) or 1.0

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / end

    def up(error: float) -> float:
        power = log10(error) if error > 0 and isfinite(error) else LOWEST if error <= 0 else HIGHEST
        power = min(max(power, LOWEST), HIGHEST)
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (power - LOWEST) / (HIGHEST - LOWEST)

    def line(x1, x2, y1, y2, style):
        return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" {style}/>'

    def text(x, y, words, anchor="middle"):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'

    def dot(x, error, style):
        return (
            f'<circle cx="{across(x):.1f}" cy="{up(error):.1f}" r="3.5" {style}><title>lead {x:g}: {_units(error)}'
            "</title></circle>"
        )

    allowed, name = ALLOWED[quantity], NAMES[quantity]
    drawn = []
    if report.blind_band is not None:
        low, high = (across(min(edge, end)) for edge in report.blind_band)
        drawn.append(
            f'<rect x="{low:.1f}" y="{TOP}" width="{high - low:.1f}" height="{HEIGHT - TOP - BOTTOM}" fill="#fff3d6"/>'
        )
        drawn.append(text((low + high) / 2, TOP + 16, "blind band"))
    for power in range(LOWEST, HIGHEST + 1, 3):
        drawn.append(line(LEFT, WIDTH - RIGHT, up(10.0**power), up(10.0**power), 'stroke="#ddd"'))
        drawn.append(text(LEFT - 8, up(10.0**power) + 4, _power(power), "end"))
    step = _round_step(end)
    drawn += [text(across(k * step), HEIGHT - BOTTOM + 18, f"{k * step:g}") for k in range(floor(end / step) + 1)]
    drawn.append(line(LEFT, WIDTH - RIGHT, up(allowed), up(allowed), 'stroke="#1b7837" stroke-dasharray="4 3"'))
    drawn += [dot(x, y, 'fill="none" stroke="#888"') for x, y in plain]
    drawn += [dot(x, y, f'fill="{"#1b7837" if y <= allowed else "#b2182b"}"') for x, y in points]
    drawn.append(
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "lead of one entry over its row, or how far it is behind")
    )
    drawn.append(text(LEFT, 16, f"error of the {name}, in units of the yardstick", "start"))
    caption = f"Dashed: the {allowed:g} units that are allowed."
    if plain:
        caption += " Circles: the obvious code in the same dtype."
    if report.blind_band is not None:
        caption += (
            f" Blind band: 1 + exp(-lead) rounds to 1 in {report.dtype}, and exp(-lead) is not 0 yet: the answer is "
            "there, and the textbook form gives 0."
        )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="error of the {name} against lead">'
        f"{''.join(drawn)}</svg><figcaption>{caption}</figcaption></figure>"
    )


def _round_step(end: float) -> float:
    """A step of 1, 2 or 5 times a power of ten, with four to nine of them on the axis."""
    power = 10.0 ** floor(log10(end / 4))
    return next(m * power for m in (5.0, 2.0, 1.0) if m * power <= end / 4)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power(exponent: int) -> str:
    return {0: "1", 1: "10"}.get(exponent, "10" + str(exponent).translate(SUPERSCRIPTS))


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{_units(ratio)} ×"


def _units(error: float) -> str:
    """Two significant digits; large and small ones with a power of ten."""
    if not isfinite(error) or error == 0:
        return {float("inf"): "∞"}.get(error, f"{error:g}")
    if 1e-3 <= abs(error) < 1000:
        return f"{error:.2g}" if abs(error) < 100 else f"{error:.0f}"
    digits, exponent = f"{error:.1e}".split("e")
    return f"{digits}·{_power(int(exponent))}"
