"""The roofline: what each contender reaches under what the machine allows.

Across: floating-point operations per byte of the least traffic, a property of the problem. Upwards: operations a
second. The slanted roofs are the measured copy and read rates, the flat one is the measured rate of matrix products.
All contenders of a problem stand above each other, problems of the same kind side by side. Below the roof, the
distance to it is what is left to gain; above it stand problems that fit into a cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .problems import LIMIT_SIZES
from .process import SHIPPED
from .rows import Row

COLOURS = {
    "lossref numba": "#1f5fbf",
    "lossref numpy": "#7fb2e5",
    "lossref cuda": "#76b900",
    "torch": "#d1495b",
    "jax": "#8e6bbf",
    "scipy": "#e0a458",
}


def draw(rows: Iterable[Row], file: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if row.metric == "time" and row.allocator in (SHIPPED, "device")]
    points = best_of_each([row for row in rows if row.kernel not in LIMIT_SIZES and row.provider != "machine"])
    place = places(points)
    figure, axes = plt.subplots(figsize=(10, 6.5), layout="constrained")
    left, right = min(place.values(), default=1.0) / 1.6, max(place.values(), default=1.0) * 1.6
    products = _best_rate(rows, "gemm")
    for kernel, style in (("copy", "-"), ("read", "--")):
        rate = _best_rate(rows, kernel)
        if rate:
            end = min(right, products / rate) if products else right
            label = f"{kernel}, {rate:.0f} GB/s"
            axes.plot([left, end], [left * rate, end * rate], style, color="black", lw=1, label=label)
    if products:
        axes.axhline(products, color="black", lw=1, ls=":", label=f"matrix products, {products:.0f} GFLOP/s")
    seen = set()
    for row in points:
        axes.scatter(
            place[problem_of(row)],
            row.flops / row.p50 / 1e9,
            s=34,
            label=row.provider if row.provider not in seen else None,
            color=COLOURS.get(row.provider, "grey"),
            marker="o" if row.output != "fresh" else "x",
        )
        seen.add(row.provider)
    axes.set(xscale="log", yscale="log", xlim=(left, right), title=title)
    axes.set(
        xlabel="floating-point operations per byte", ylabel="GFLOP/s, the fastest of each (● out=, × fresh output)"
    )
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom / 12, top)
    for (kernel, shape), x in place.items():
        text = f"{kernel} {'×'.join(map(str, shape))}"
        axes.annotate(text, (x, bottom / 11), rotation=90, fontsize=7, ha="center", va="bottom", color="0.25")
    axes.legend(fontsize=8, loc="lower center")
    axes.grid(which="major", alpha=0.2)
    figure.savefig(file)
    plt.close(figure)


def problem_of(row: Row) -> tuple[str, tuple[int, ...]]:
    return row.kernel, tuple(row.shape)


def places(points: list[Row]) -> dict[tuple[str, tuple[int, ...]], float]:
    """Where each problem stands: at its operations per byte, those with the same number side by side."""
    by_intensity: dict[float, list] = {}
    for row in points:
        side_by_side = by_intensity.setdefault(round(row.flops / row.least_bytes, 1), [])
        if problem_of(row) not in side_by_side:
            side_by_side.append(problem_of(row))
    return {
        problem: intensity * 1.08 ** (number - (len(problems) - 1) / 2)
        for intensity, problems in by_intensity.items()
        for number, problem in enumerate(problems)
    }


def best_of_each(rows: list[Row]) -> list[Row]:
    """Of each problem and provider the fastest way, and of those the fastest output."""
    best: dict[tuple, Row] = {}
    for row in rows:
        key = (*problem_of(row), row.provider)
        if key not in best or row.p50 < best[key].p50:
            best[key] = row
    return list(best.values())


def _best_rate(rows: list[Row], kernel: str) -> float | None:
    """GB/s of copy and read, GFLOP/s of the products: the best median."""
    of_kernel = [row for row in rows if row.kernel == kernel]
    if kernel == "gemm":
        return max((row.flops / row.p50 / 1e9 for row in of_kernel), default=None)
    return max((row.gigabytes_per_second or 0.0 for row in of_kernel), default=None)
