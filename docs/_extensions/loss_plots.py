"""The picture of a loss: one entry of its first differentiable argument is varied, everything else stays.

Generic, for any loss: the example comes from the declarations, the entry is the one that training would raise
(the most negative gradient), and the range is zoomed until the part where the gradient changes fills it.
"""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lossref.core import Interval, Loss

VALUE, GRADIENT = "#1f5fa8", "#c2501a"
POINTS = 161
REFUSED = (ValueError, FloatingPointError)


def evaluate(loss: Loss, case: dict, entry: tuple, x: float) -> tuple[float, float]:
    """The summed value and the entry's gradient where the entry is x; nan where that is not valid."""
    name = loss.of[0]
    array = np.array(case[name], dtype=np.float64)
    array[entry] = x
    reduction = {"reduction": "sum"} if loss.reducible else {}
    try:
        value, gradient = loss.value_and_grad(**{**case, name: array}, **reduction)
    except REFUSED:
        return np.nan, np.nan
    gradient = gradient[0] if isinstance(gradient, tuple) else gradient
    return float(np.sum(value)), float(gradient[entry])


def examples(loss: Loss, tries: int = 12):
    """A few random examples with every option at its default."""
    for seed in range(1, tries + 1):
        yield loss.defaults(np.random.default_rng(seed))


def choose_entry(loss: Loss, case: dict) -> tuple:
    """The entry with the most negative gradient: the one that training would raise."""
    reduction = {"reduction": "sum"} if loss.reducible else {}
    gradient = loss.grad(**case, **reduction)
    gradient = gradient[0] if isinstance(gradient, tuple) else gradient
    gradient = np.where(np.isfinite(gradient), gradient, np.inf)
    return tuple(int(i) for i in np.unravel_index(np.argmin(gradient), gradient.shape))


def whole_range(interval: Interval, x: float) -> tuple[float, float]:
    low, high = interval.low, interval.high
    if np.isfinite(low) and np.isfinite(high):
        margin = 0.005 * (high - low)
        return low + margin, high - margin
    if np.isfinite(low):
        return low + 0.02, low + max(4.0, 2 * (x - low))
    if np.isfinite(high):
        return high - max(4.0, 2 * (high - x)), high - 0.02
    return x - 8, x + 8


def curves(loss: Loss, case: dict, entry: tuple, low: float, high: float):
    xs = np.linspace(low, high, POINTS)
    values, gradients = np.array([evaluate(loss, case, entry, x) for x in xs]).T
    return xs, values, gradients


def zoomed(xs, gradients) -> tuple[float, float] | None:
    """The part where the gradient changes, with room on both sides; None if that is most of the range."""
    finite = np.isfinite(gradients)
    if finite.sum() < 8:
        return None
    x, g = xs[finite], gradients[finite]
    low, high = g.min(), g.max()
    moving = np.flatnonzero((g > low + 0.02 * (high - low)) & (g < high - 0.02 * (high - low)))
    if moving.size == 0:
        return None
    left, right = x[max(moving[0] - 1, 0)], x[min(moving[-1] + 1, len(x) - 1)]
    if right - left > (xs[-1] - xs[0]) / 4:
        return None
    middle, half = (left + right) / 2, (right - left) * 1.25
    return max(middle - half, xs[0]), min(middle + half, xs[-1])


def style(loss: Loss) -> dict:
    return {"svg.hashsalt": loss.name, "svg.fonttype": "path", "font.size": 9}


def draw(loss: Loss, target: Path) -> str:
    """Write the picture; the caption, or '' if the loss has no entry that can be varied by itself."""
    if not loss.differentiable or not loss.of:
        return ""
    argument = loss.arguments[loss.of[0]]
    case = next((case for case in examples(loss) if np.isfinite(loss(**case)).all()), None)
    if case is None or case[argument.name] is None or not np.size(case[argument.name]):
        return ""
    with np.errstate(all="ignore"):
        entry = choose_entry(loss, case)
        x = float(np.asarray(case[argument.name])[entry])
        xs, values, gradients = curves(loss, case, entry, *whole_range(argument.declaration.interval, x))
        for _ in range(4):
            closer = zoomed(xs, gradients)
            if closer is None:
                break
            xs, values, gradients = curves(loss, case, entry, *closer)
    if np.isfinite(values).sum() < 8:
        return ""
    label = argument.name + (f"[{', '.join(map(str, entry))}]" if entry else "")
    with rc_context(style(loss)):
        figure = Figure(figsize=(7.2, 2.5), layout="constrained")
        for axes, curve, colour, what in zip(
            figure.subplots(1, 2), (values, gradients), (VALUE, GRADIENT), ("value", "gradient"), strict=True
        ):
            axes.plot(xs, curve, color=colour, linewidth=1.8)
            axes.set_xlabel(label)
            axes.set_title(what, loc="left", fontsize=9, color=colour)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.margins(x=0)
            axes.axhline(0, color="0.6", linewidth=0.7, zorder=0)
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    sums = (
        "The sum of the terms" if loss.reducible else "The sum of the entries" if np.ndim(loss(**case)) else "The value"
    )
    return f"{sums}, and its derivative, while ``{label}`` moves and everything else of a random example stays."


def draw_extra(loss: Loss, source: Path, target: Path) -> str:
    """Write the picture of docs/extra/<name>.py, which has draw(figure); its docstring, title first, or ''."""
    if not source.exists():
        return ""
    module = runpy.run_path(str(source))
    with rc_context(style(loss) | {"axes.titlesize": 9, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(7.2, 2.6), layout="constrained")
        module["draw"](figure)
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    return inspect.cleandoc(module["__doc__"])
