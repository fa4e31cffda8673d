"""What the kernels have to reach in float32, as ratios of medians in one run; and whether they do.

Those of the CPU are about fixed sizes, those of a GPU about every size that was measured there. A bar that has no
measurement (a size that was left out, a peer that is not installed) is not decided.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .problems import LIMIT_SIZES
from .process import KEPT, SHIPPED
from .rows import Row

LONG_ROWS = ((1, 10**7), (1, 10**8))
LARGE_TABLES = ((4096, 32000), (1024, 128000), (512, 256000))
LINEAR = ((2048, 512, 32000), (1024, 512, 128000))
SHORT_ROWS = (4096, 1000)
DEVICE = "device"  # where a CPU's rows name the allocator
FEW_ROWS = 32  # fewer than a GPU has multiprocessors: each row must be split
MANY_CLASSES = 32_000


@dataclass
class Bar:
    """A number that should be at most (or at least) a limit."""

    what: str
    shape: tuple[int, ...]
    limit: float
    measured: float | None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        reached = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "met" if reached else "missed"


class Measured:
    """The rows, by question."""

    def __init__(self, rows: Iterable[Row]):
        self.rows = [row for row in rows if row.dtype == "float32"]

    def number(
        self, kernel, shape, provider, algorithm=None, output=None, metric="time", allocator=SHIPPED
    ) -> float | None:
        """The smallest median among the rows that fit."""
        fitting = [
            row.p50
            for row in self.rows
            if (row.kernel, tuple(row.shape), row.provider, row.metric, row.allocator)
            == (kernel, shape, provider, metric, allocator)
            and algorithm in (None, row.algorithm)
            and output in (None, row.output)
        ]
        return min(fitting, default=None)


    def on_gpu(self, kernel: str) -> dict[tuple[int, ...], list[Row]]:
        """The times of every rung, by shape."""
        found: dict[tuple[int, ...], list[Row]] = {}
        for row in self.rows:
            if (row.kernel, row.provider, row.metric) == (kernel, "lossref cuda", "time"):
                found.setdefault(tuple(row.shape), []).append(row)
        return found


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def bars(rows: Iterable[Row]) -> list[Bar]:
    """Every bar that says something about the rows' kernels."""
    measured = Measured(rows)
    asked = {(row.kernel, tuple(row.shape)) for row in measured.rows}
    return [bar for kernel, each in _BARS for bar in each(measured) if (kernel, bar.shape) in asked]


def _softmax(m: Measured) -> Iterator[Bar]:
    for shape in LONG_ROWS:
        ours = m.number("softmax", shape, "lossref numba", "two_pass", "out=")
        peer = m.number("softmax", shape, "torch", output="out=")
        yield Bar("softmax two_pass, out= : torch, out=", shape, 0.55, ratio(ours, peer))
        three = m.number("softmax", shape, "lossref numba", "three_pass", "out=")
        yield Bar("softmax two_pass : three_pass", shape, 0.85, ratio(ours, three))
        yield Bar("softmax two_pass : copy of the row", shape, 1.8, ratio(ours, m.number("softmax", shape, "machine")))
        error = m.number("softmax", shape, "lossref numba", "two_pass", metric="relative error")
        yield Bar("softmax two_pass, relative error", shape, 1e-6, error)
        for algorithm in ("three_pass", "online"):
            error = m.number("softmax", shape, "lossref numba", algorithm, metric="relative error")
            yield Bar(f"softmax {algorithm}, relative error", shape, 5e-6, error)
    ours = m.number("softmax", SHORT_ROWS, "lossref numba", output="out=")
    peer = m.number("softmax", SHORT_ROWS, "torch", output="out=")
    yield Bar("softmax, rows of 1000, out= : torch, out=", SHORT_ROWS, 1.0, ratio(ours, peer))
    for allocator in (SHIPPED, KEPT):
        ours = m.number("softmax", SHORT_ROWS, "lossref numba", output="fresh", allocator=allocator)
        peer = m.number("softmax", SHORT_ROWS, "torch", output="fresh", allocator=allocator)
        yield Bar(f"softmax, rows of 1000, fresh, {allocator} : torch", SHORT_ROWS, 1.0, ratio(ours, peer))


def _logsumexp(m: Measured) -> Iterator[Bar]:
    for shape in LONG_ROWS:
        ours = m.number("logsumexp", shape, "lossref numba")
        yield Bar("logsumexp : torch", shape, 0.08, ratio(ours, m.number("logsumexp", shape, "torch")))
        yield Bar("logsumexp : jax", shape, 0.7, ratio(ours, m.number("logsumexp", shape, "jax")))
        # Of memory: a row of 10^7 may lie in the last cache, from where a plain sum reads several times as fast.
        longest = LIMIT_SIZES["read"]
        read = m.number("logsumexp", longest, "machine") or m.number("read", longest, "machine")
        share = ratio(ratio(read, math.prod(longest)), ratio(ours, math.prod(shape)))
        yield Bar("logsumexp, share of the memory's read bandwidth", shape, 0.6, share, at_least=True)
        error = m.number("logsumexp", shape, "lossref numba", metric="relative error")
        yield Bar("logsumexp, relative error", shape, 5e-6, error)
    ours, peer = (m.number("logsumexp", SHORT_ROWS, provider) for provider in ("lossref numba", "torch"))
    yield Bar("logsumexp, rows of 1000 : torch", SHORT_ROWS, 1.0, ratio(ours, peer))


def _share_of_the_copy(kernel: str, of_many_rows: float, reading_once: tuple[str, ...] = ()):
    def shares(m: Measured) -> Iterator[Bar]:
        for shape, rungs in m.on_gpu(kernel).items():
            few = shape[0] < FEW_ROWS
            fitting = [row.share_of_limit for row in rungs if few or not reading_once or row.algorithm in reading_once]
            share = max((share for share in fitting if share is not None), default=None)
            what = f"{kernel}{', row on chip,' if reading_once and not few else ''} on the GPU, share of the copy rate"
            if share is not None:
                yield Bar(what, shape, 0.62 if few else of_many_rows, share, at_least=True)

    return shares


def _softmax_beside_torch_on_gpu(m: Measured) -> Iterator[Bar]:
    for shape, rungs in m.on_gpu("softmax").items():
        ratios = [row.ratio_to["torch"] for row in rungs if "torch" in row.ratio_to]
        if ratios and shape[1] >= MANY_CLASSES:
            yield Bar("softmax on the GPU : torch", shape, 1.0, min(ratios))


def _short_rows(kernel: str):
    def short(m: Measured) -> Iterator[Bar]:
        ours = m.number(kernel, SHORT_ROWS, "lossref numba", allocator=KEPT)
        peer = m.number(kernel, SHORT_ROWS, "torch", allocator=KEPT)
        yield Bar(f"{kernel}, rows of 1000 : torch, pages kept", SHORT_ROWS, 1.0, ratio(ours, peer))

    return short


def _cross_entropy(m: Measured) -> Iterator[Bar]:
    for shape in LARGE_TABLES:
        ours = m.number("cross_entropy", shape, "lossref numba", output="out=", allocator=KEPT)
        peer = m.number("cross_entropy", shape, "torch", allocator=KEPT)
        yield Bar("cross_entropy, out= : torch, pages kept", shape, 0.33, ratio(ours, peer))
        copy = m.number("cross_entropy", shape, "machine", allocator=KEPT)
        yield Bar("cross_entropy, out= : copy of the logits", shape, 1.6, ratio(ours, copy))


def _linear_cross_entropy(m: Measured) -> Iterator[Bar]:
    kernel = "linear_cross_entropy"
    for shape in LINEAR:
        ours = m.number(kernel, shape, "lossref numba")
        yield Bar(f"{kernel} : the faster of torch's two", shape, 0.85, ratio(ours, m.number(kernel, shape, "torch")))
        share = m.number(kernel, shape, "lossref numba", metric="epilogue share")
        yield Bar(f"{kernel}, epilogue's share of the time", shape, 0.06, share)
        gpu = "lossref cuda", "library_products"
        share = m.number(kernel, shape, *gpu, metric="epilogue share", allocator=DEVICE)
        over = None if share is None else 1 / (1 - share)
        yield Bar(f"{kernel} on the GPU : its products", shape, 1.15, over)
        transient = m.number(kernel, shape, *gpu, metric="transient", allocator=DEVICE)
        chunk = m.number(kernel, shape, *gpu, metric="chunk", allocator=DEVICE)
        yield Bar(f"{kernel} on the GPU, transient memory : one chunk", shape, 1.1, ratio(transient, chunk))
        transient = m.number(kernel, shape, "lossref numba", metric="transient")
        chunk = m.number(kernel, shape, "lossref numba", metric="chunk")
        yield Bar(f"{kernel}, transient memory : one chunk", shape, 1.1, ratio(transient, chunk))


_BARS = [
    ("softmax", _softmax),
    ("softmax", _share_of_the_copy("softmax", 0.85, ("row_on_chip", "row_in_registers"))),
    ("softmax", _softmax_beside_torch_on_gpu),
    ("logsumexp", _logsumexp),
    ("logsumexp", _share_of_the_copy("logsumexp", 0.9)),
    ("log_softmax", _short_rows("log_softmax")),
    ("cross_entropy", _short_rows("cross_entropy")),
    ("cross_entropy", _cross_entropy),
    ("linear_cross_entropy", _linear_cross_entropy),
]
