"""Contenders compute what they say; memory is what it is; the command as a user meets it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import lossref as lr
from lossref.bench import contenders, limits, memory, process
from lossref.bench.contenders import largest_relative_error
from lossref.bench.problems import KERNELS, Problem
from lossref.bench.process import KEPT, SHIPPED, environment, on_cores
from lossref.bench.rows import from_json
from lossref.cli import measuring

SMALL = {"linear_cross_entropy": (6, 8, 40), "softmax_attention": (6, 8, 40), "gemm": (4, 5, 6)}


def bench(*arguments):
    run = subprocess.run(
        [sys.executable, "-m", "lossref.cli", "bench", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"},
        timeout=300,
    )
    return run.returncode, run.stdout, run.stderr


def results(kernel, peers=(), paths=("numpy", "numba")):
    """What every contender of a small problem returns, as a flat list of arrays."""
    problem = Problem(kernel, SMALL.get(kernel, (6, 40)))
    inputs = problem.inputs()
    found = {}
    for contender in contenders.contenders(problem, inputs, paths, peers):
        if contender.provider != "machine":
            found[contender.name] = [np.asarray(x).copy() for x in flat(contender.call())]
    return found


def flat(result):
    if isinstance(result, tuple | list):
        return [x for part in result for x in flat(part)]
    return [result.detach().numpy() if hasattr(result, "detach") else result]


def compare(found):
    expected = found["lossref numpy", "", "fresh"]
    for name, got in found.items():
        assert len(got) == len(expected), name
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a.reshape(b.shape), b, rtol=2e-4, atol=2e-6, err_msg=str(name))


@pytest.mark.parametrize("kernel", KERNELS)
def test_our_contenders_agree(kernel):
    found = results(kernel)
    assert ("lossref numba", "two_pass" if kernel == "softmax" else "", "fresh") in found
    assert any(output == "out=" for *_, output in found) == (kernel != "logsumexp")
    compare(found)


@pytest.mark.peers
@pytest.mark.parametrize("peer", ["torch", "jax", "scipy"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_peers_compute_the_same(kernel, peer):
    pytest.importorskip(peer)
    found = results(kernel, (peer,))
    scipy_has = kernel in ("logsumexp", "softmax", "log_softmax")
    assert any(provider == peer for provider, *_ in found) == (peer != "scipy" or scipy_has)
    compare(found)


def test_the_limits_do_what_they_say():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 100_000), dtype=np.float32)
    y = np.zeros_like(x)
    np.testing.assert_array_equal(limits.copy(x, y), x)
    assert sum(limits.read(x)) == pytest.approx(x.sum(dtype=np.float64), abs=1e-2)
    h, c = rng.standard_normal((5, 3)), rng.standard_normal((7, 3))
    dh, dc = np.zeros_like(h), np.zeros_like(c)
    limits.three_products(h, c, np.zeros((5, 7)), dh, dc)
    np.testing.assert_allclose(dh, h @ c.T @ c)
    np.testing.assert_allclose(dc, c @ h.T @ h)


def test_errors_are_found():
    problem = Problem("softmax", (2, 3000))
    inputs = problem.inputs()
    right = lr.softmax(inputs[0].astype(np.float64))
    assert largest_relative_error(problem, inputs, right) < 1e-13
    wrong = right.copy()
    wrong[1, 7] *= 1.001
    assert largest_relative_error(problem, inputs, wrong) == pytest.approx(1e-3, rel=1e-6)
    problem = Problem("logsumexp", (2, 3000))
    assert largest_relative_error(problem, inputs, lr.logsumexp(inputs[0].astype(np.float64))) < 1e-13


def test_the_rise_of_memory_is_found():
    def allocate():
        # Blocks so large come from the system, whatever other tests have left in the allocator's pools.
        return np.ones(70 << 20, np.uint8), np.ones(40 << 20, np.uint8).sum()

    risen, how = memory.rise(allocate)
    if how == "VmHWM":
        assert 107 << 20 <= risen <= 116 << 20


def test_every_library_gets_the_same_threads():
    for name in process.THREADS:
        assert environment(3, SHIPPED)[name] == "3"
    assert "MALLOC_MMAP_MAX_" in environment(1, KEPT)
    assert environment(1, SHIPPED).get("MALLOC_MMAP_MAX_") == os.environ.get("MALLOC_MMAP_MAX_")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_the_childs_cores_are_limited_and_ours_come_back():
    before = os.sched_getaffinity(0)
    with on_cores(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_what_was_measured_before_a_child_breaks_is_kept(monkeypatch):
    plan = measuring._plan(["logsumexp"], ["numba"], ["4x10", "2x10"], "float32", 1, ["none"], "shipped", 0.01, True)
    asked = process.ask

    def breaks(module, request, threads, allocator=SHIPPED):
        for answer in asked(module, request, threads, allocator):
            yield answer
            if answer.get("now") == "logsumexp 2×10":
                raise RuntimeError("the measuring process ended with status -6: it is only a test")

    monkeypatch.setattr(measuring, "ask", breaks)
    rows = list(measuring._all_rows(plan, []))
    assert {tuple(row.shape) for row in rows if row.provider == "lossref numba"} == {(4, 10)}
    ((what, why, _),) = plan.not_run
    assert what == "logsumexp 2×10 and what follows, as shipped" and "status -6" in why


def test_a_child_that_breaks_says_why():
    with pytest.raises(RuntimeError, match=r"ended with status 1: .*KeyError"):
        list(process.ask("lossref.bench.process", {}, 1))


# -- the command -----------------------------------------------------------------------------------------------------


def test_quick_and_tiny(tmp_path):
    file, plot = tmp_path / "bench.json", tmp_path / "roof.png"
    status, out, err = bench(
        "--quick", "--kernel", "softmax", "--size", "8x100", "--peer", "none", "--seconds", "0.01",
        "--threads", "1", "--json", str(file), "--plot", str(plot),
    )  # fmt: skip
    assert status == 0, err
    assert "lossref numba two_pass" in out
    assert "of the copy" in out
    assert "path cuda" in out
    assert "remedy" in out
    report = json.loads(file.read_text())
    rows = from_json(report["rows"])
    assert {row.kernel for row in rows} == {"copy", "read", "gemm", "softmax"}
    assert all(row.threads == 1 and row.timestamp and row.machine and row.lossref == lr.__version__ for row in rows)
    assert all(row.p20 <= row.p50 <= row.p80 for row in rows)
    assert report["command"].startswith("lossref bench --kernel softmax --size 8x100")
    assert report["machine"]["caches"] is not None
    assert report["not_run"][0]["what"] == "path cuda" or lr.losses()["softmax"].paths[-1] != "cuda"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_json_on_standard_output_is_json_and_memory_is_in_it():
    status, out, err = bench(
        "--quick", "--kernel", "linear_cross_entropy", "--size", "32x16x1000", "--peer", "none", "--path", "numba",
        "--seconds", "0.01", "--json", "-",
    )  # fmt: skip
    assert status == 0, err
    rows = from_json(json.loads(out)["rows"])
    metrics = {row.metric for row in rows}
    assert metrics == {"time", "epilogue share", "chunk", "peak memory", "transient"}
    assert "Peak memory" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kernel", "sofmax"], "Did you mean: softmax"),
        (["--path", "gpu"], "there is no path 'gpu'"),
        (["--size", "8x8"], "name that kernel"),
        (["--kernel", "softmax", "--size", "8"], "expected ROWSxCLASSES, got '8'"),
        (["--threads", "100000"], "expected 1 to"),
        (["--peer", "mxnet"], "there is no peer"),
        (["--allocator", "mine"], "there is no allocator"),
        (["--json", "no/such/folder/x.json"], "no such directory"),
    ],
)
def test_mistakes_are_named(arguments, words):
    from typer.testing import CliRunner

    from lossref.cli import app

    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr.replace("\n", " ")
