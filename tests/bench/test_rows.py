"""Problems, rows, bars: what the numbers are made of."""

import json

import numpy as np
import pytest

from lossref.bench.bars import Bar, bars
from lossref.bench.interleaving import Contender, Samples
from lossref.bench.problems import (
    DEFAULT_SIZES,
    KERNELS,
    OF_THREE_SIZES,
    QUICK_SIZES,
    WITH_GRADIENT,
    Problem,
    parse_size,
)
from lossref.bench.process import KEPT, SHIPPED
from lossref.bench.rows import as_json, from_json, row, times


def samples(provider, algorithm, output, *seconds):
    return Samples(Contender(provider, algorithm, output, lambda: None), list(seconds))


def test_sizes():
    assert parse_size("softmax", "4096x32000") == (4096, 32000)
    assert parse_size("softmax", "1x1e8") == (1, 10**8)
    assert parse_size("linear_cross_entropy", "2048×512×32000") == (2048, 512, 32000)
    for kernel, text in [("softmax", "5"), ("softmax", "1x2x3"), ("linear_cross_entropy", "1x2"), ("softmax", "0x4"),
                         ("softmax", "axb"), ("softmax", "1.5x2")]:  # fmt: skip
        with pytest.raises(ValueError, match=f"size of {kernel}: expected ROWS"):
            parse_size(kernel, text)


def test_every_kernel_has_sizes():
    assert set(KERNELS) == set(DEFAULT_SIZES) == set(QUICK_SIZES)
    assert set(WITH_GRADIENT) <= set(KERNELS)


def test_least_bytes_and_operations():
    assert Problem("softmax", (10, 100)).least_bytes == 2 * 4 * 1000
    assert Problem("logsumexp", (10, 100), "float64").least_bytes == 8 * 1000
    linear = Problem("linear_cross_entropy", (20, 30, 400))
    assert linear.output_bytes == 4 * (20 * 30 + 400 * 30)
    assert linear.flops > 3 * 2 * 20 * 30 * 400
    assert Problem("gemm", (2, 3, 4)).flops == 48
    attention = Problem("softmax_attention", (20, 30, 400))
    assert attention.output_bytes == 4 * 30 * (20 + 20 + 400 + 400)  # O, dQ, dK, dV
    assert attention.least_bytes == attention.output_bytes + 4 * 30 * (20 + 400 + 400)
    assert attention.flops > 14 * 20 * 30 * 400


@pytest.mark.parametrize("kernel", [*KERNELS, "copy", "read", "gemm"])
def test_inputs_are_aligned_and_the_same_each_time(kernel):
    shape = (4, 8, 16) if kernel in OF_THREE_SIZES else (4, 100)
    problem = Problem(kernel, shape)
    inputs = problem.inputs()
    assert all(x.ctypes.data % 64 == 0 for x in inputs if x.dtype == np.float32)
    for x, again in zip(inputs, problem.inputs(), strict=True):
        np.testing.assert_array_equal(x, again)


def test_times_have_bandwidth_share_and_ratios():
    problem = Problem("softmax", (1, 1000))
    rows = times(
        problem,
        [
            samples("machine", "copy", "out=", 1e-6),
            samples("lossref numba", "two_pass", "out=", 1.9e-6, 2e-6, 2.1e-6),
            samples("lossref numba", "two_pass", "fresh", 3e-6),
            samples("torch", "", "fresh", 8e-6),
            samples("torch", "", "out=", 4e-6),
            samples("jax", "jit", "fresh", 5e-6),
        ],
        SHIPPED,
        2,
    )
    _, ours, fresh, *_ = rows
    assert ours.p50 == pytest.approx(2e-6)
    assert ours.gigabytes_per_second == pytest.approx(8000 / 2e-6 / 1e9)
    assert ours.share_of_limit == pytest.approx(0.5)
    assert ours.ratio_to == pytest.approx({"torch": 0.5, "jax": 0.4})  # out= with out=; jax has none
    assert fresh.ratio_to == pytest.approx({"torch": 3 / 8, "jax": 0.6})
    assert ours.contender == "lossref numba two_pass"
    assert ours.samples == 3
    assert from_json(json.loads(json.dumps(as_json(rows)))) == rows


SCHEMA = {
    "kernel", "computes", "provider", "algorithm", "output", "allocator", "metric", "unit", "shape", "dtype",
    "threads", "samples", "disturbed", "p20", "p50", "p80", "page_faults", "least_bytes",
    "flops", "gigabytes_per_second", "share_of_limit", "ratio_to", "provider_version", "lossref",
    "commit", "machine", "timestamp",
}  # fmt: skip


def test_schema():
    made = row(
        Problem("softmax", (1, 10)), samples("torch", "", "fresh").contender, "time", "s", (1, 2, 3), SHIPPED, 2, 5
    )
    assert set(as_json([made])[0]) == SCHEMA


def test_verdicts():
    assert Bar("a", (1,), 0.5, 0.5).verdict == "met"
    assert Bar("a", (1,), 0.5, 0.51).verdict == "missed"
    assert Bar("a", (1,), 0.6, 0.7, at_least=True).verdict == "met"
    assert Bar("a", (1,), 0.6, 0.5, at_least=True).verdict == "missed"
    assert Bar("a", (1,), 0.6, None).verdict == "not measured"


def test_bars_find_their_rows():
    shape = (4096, 32000)
    problem = Problem("cross_entropy", shape)
    rows = []
    for allocator, slower in ((SHIPPED, 10.0), (KEPT, 1.0)):
        rows += times(
            problem,
            [
                samples("machine", "copy", "out=", 0.1),
                samples("lossref numba", "", "out=", 0.2),
                samples("torch", "", "fresh", 1.0 * slower),
            ],
            allocator,
            2,
        )
    found = {bar.what: (bar.measured, bar.verdict) for bar in bars(rows)}
    assert found["cross_entropy, out= : torch, pages kept"] == (pytest.approx(0.2), "met")
    assert found["cross_entropy, out= : copy of the logits"] == (pytest.approx(2.0), "missed")


def test_bars_of_what_was_not_measured_do_not_show():
    assert bars(times(Problem("softmax", (3, 5)), [samples("lossref numba", "", "fresh", 1.0)], SHIPPED, 1)) == []


def test_a_bar_without_its_peer_is_not_decided():
    found = bars(times(Problem("logsumexp", (1, 10**7)), [samples("lossref numba", "", "fresh", 1.0)], SHIPPED, 2))
    assert {bar.verdict for bar in found} == {"not measured"}


def test_the_roofline_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    from lossref.bench.roofline import draw, places

    problems = [Problem(kernel, (1, 1000)) for kernel in ("copy", "read", "softmax", "log_softmax", "logsumexp")]
    rows = [
        one
        for problem in [*problems, Problem("gemm", (8, 8, 8))]
        for one in times(problem, [samples("lossref numba", "", "out=", 1e-6)], SHIPPED, 1)
    ]
    draw(rows, tmp_path / "roof.svg", "a machine")
    assert "<svg" in (tmp_path / "roof.svg").read_text()
    spots = places([one for one in rows if one.kernel in ("softmax", "log_softmax", "logsumexp")])
    assert len(set(spots.values())) == 3  # side by side, not on top of each other
