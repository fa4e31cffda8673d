"""What a measurement is written as: one row for each contender, problem and metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from .interleaving import Samples, quantiles
from .problems import Problem


@dataclass
class Row:
    """kernel, provider, metric, p20 … p80: the columns that any table of benchmarks has; then what follows from them.

    metric        unit
    time          s      of one call
    peak memory   B      beyond the inputs, the results included
    transient     B      beyond the inputs and the results
    chunk         B      the table of logits that linear cross-entropy holds at a time
    relative error 1     the largest, against float64
    epilogue share 1     of the time of linear cross-entropy, what is spent outside of its products
    """

    kernel: str
    computes: str
    provider: str
    algorithm: str
    output: str
    allocator: str  # "as shipped", or "pages kept"
    metric: str
    unit: str
    shape: list[int]
    dtype: str
    threads: int
    samples: int
    p20: float | None
    p50: float
    p80: float | None
    disturbed: int = 0  # so many of the samples were taken while other processes used the processors
    page_faults: float | None = None  # a call, the median: what a fresh result costs
    least_bytes: int = 0
    flops: int = 0
    gigabytes_per_second: float | None = None  # least_bytes / p50
    share_of_limit: float | None = None  # of the copy, the read or the products of the same size in the same run
    ratio_to: dict[str, float] = field(default_factory=dict)  # to each peer: this p50 / its p50
    provider_version: str = ""
    lossref: str = ""
    commit: str = ""
    machine: str = ""
    timestamp: str = ""

    @property
    def contender(self) -> str:
        return " ".join(part for part in (self.provider, self.algorithm) if part)

    def is_about(self, problem: Problem) -> bool:
        return (self.kernel, tuple(self.shape), self.dtype) == (problem.kernel, problem.shape, problem.dtype)


def row(
    problem: Problem, contender, metric: str, unit: str, numbers, allocator: str, threads: int, samples: int
) -> Row:
    p20, p50, p80 = numbers
    return Row(
        problem.kernel, problem.computes, contender.provider, contender.algorithm, contender.output, allocator,
        metric, unit, list(problem.shape), problem.dtype, threads, samples, p20, p50, p80,
    )  # fmt: skip


def times(problem: Problem, samples: Iterable[Samples], allocator: str, threads: int) -> list[Row]:
    """The rows of one problem, with bandwidth, share of the limit and ratios to the peers."""
    rows = []
    for one in samples:
        found = row(problem, one.contender, "time", "s", one.quantiles(), allocator, threads, len(one.seconds))
        found.disturbed = one.disturbed
        found.page_faults = quantiles(one.page_faults)[1] if one.page_faults else None
        found.least_bytes, found.flops = problem.least_bytes, problem.flops
        found.gigabytes_per_second = problem.least_bytes / found.p50 / 1e9
        rows.append(found)
    best = [r.p50 for r in rows if r.provider == "machine"]
    for r in rows:
        if best:
            r.share_of_limit = min(best) / r.p50
        for peer in dict.fromkeys(other.provider for other in rows):
            if peer != "machine" and not peer.startswith("lossref"):
                r.ratio_to[peer] = r.p50 / comparable(r, [o for o in rows if o.provider == peer]).p50
    return rows


def comparable(row: Row, of_peer: list[Row]) -> Row:
    """The peer's fastest way that writes to the same kind of output; where it has none, its fastest."""
    same = [other for other in of_peer if other.output == row.output]
    return min(same or of_peer, key=lambda other: other.p50)


def as_json(rows: Iterable[Row]) -> list[dict]:
    return [asdict(r) for r in rows]


def from_json(rows: Iterable[dict]) -> list[Row]:
    return [Row(**r) for r in rows]
