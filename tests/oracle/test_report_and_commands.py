"""Reports, the command line, the pytest plugin."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from right import RIGHT
from typer.testing import CliRunner

import lossref as lr
from lossref.cli import app
from lossref.oracle import Rejected

CANDIDATE = """
import numpy as np

def value(logits, labels):
    d = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(d).sum(axis=1)) - d[np.arange(len(d)), labels]).mean()

def right(logits, labels):
    import lossref
    return lossref.cross_entropy(logits, labels)

def wrong(logits, labels):
    return -value(logits, labels)
"""


@pytest.fixture(scope="module")
def report():
    two = next(r for r in RIGHT if r.name == "two passes")
    return lr.oracle.check("cross_entropy", value=two.value, grad=two.grad, dtype="float32", quick=True)


def test_a_report_says_what_where_and_what_would_be_right(report):
    assert report.verdict == "inaccurate"
    finding = next(f for f in report.findings if f.diagnosis == "p-minus-one")
    assert finding.quantity == "grad" and finding.error > finding.allowed == 8
    assert finding.inputs["logits"].size <= 4  # shrunk
    assert float(finding.got) != float(finding.want)
    assert "sum of the other probabilities" in finding.message
    assert "p-minus-one" in str(report) and "INACCURATE" in str(report)
    assert report.ratio["value"] < 4  # no worse than the obvious code on ordinary inputs


def test_a_report_as_json_and_html(report):
    body = json.loads(report.to_json())
    assert body["verdict"] == "inaccurate" and body["case_set"] == lr.oracle.VERSION
    assert body["findings"][0]["inputs"]["logits"]
    page = report.to_html()
    assert page.count("<svg") == 2 and "src=" not in page and "http" not in page
    assert report.curves["value"] and max(x for x, _ in report.curves["value"]) > 80


def test_the_plot_shows_the_blind_band_and_the_obvious_code(report):
    low, high = report.blind_band
    assert low == pytest.approx(16.64, abs=0.01) and high == pytest.approx(103.97, abs=0.01)
    page = report.to_html()
    plot = page[page.index("<svg") : page.index("</svg>")]
    band = re.search(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', plot)
    left, width = map(float, band.groups())
    inside = re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="3.5" fill="#b2182b"', plot)
    assert any(left <= float(x) <= left + width for x in inside)  # what is wrong is wrong there
    assert plot.count('stroke="#888"') == len(report.obvious_curves["value"]) > 10
    assert json.loads(report.to_json())["blind_band"] == [low, high]


def test_a_page_says_everything_and_escapes_it():
    text = "the cause <i>\nevidence\nbetter: a form"
    findings = [
        lr.oracle.Finding("a<b", "value", "a case", {}, error=float("inf"), message=text),
        lr.oracle.Finding("b", "grad", "a case", {}, error=1234.0, message="", severity="note", expected="b:grad"),
    ]
    report = lr.oracle.Report("cross_entropy", "float32", "torch", findings, worst={"value": (5e-7, "x & y")},
                              ratio={"value": 0.5}, curves={"value": [(0.0, 0.0), (0.0, float("inf"))]})  # fmt: skip
    page = report.to_html()
    for text in ("a&lt;b", "the cause &lt;i&gt;</p><pre>evidence</pre><p><b>Better:</b> a form</p>", "x &amp; y",
                 "expected: b:grad", "5.0·10⁻⁷", "1.2·10³", "0.5 ×", "∞"):  # fmt: skip
        assert text in page, text


def test_what_a_notebook_shows_has_a_style_that_touches_nothing_else(report):
    shown = report._repr_html_()
    style = re.search("<style>(.*?)</style>", shown, re.DOTALL).group(1)
    selectors = [s.strip() for rule in re.findall(r"([^{}]+)\{", style) for s in rule.split(",")]
    assert selectors and all(s.startswith(".lossref-report") for s in selectors)
    assert "<body" not in shown and "<html" not in shown


def test_raise_if(report):
    assert report.raise_if("wrong") is report
    with pytest.raises(Rejected, match="p-minus-one"):
        report.raise_if("inaccurate")
    with pytest.raises(ValueError, match="verdict"):
        report.raise_if("accurate")


def test_expected_failures_are_run_and_unexpected_passes_are_reported():
    two = next(r for r in RIGHT if r.name == "two passes")
    text = "saturated  # issue 12\np-minus-one\noffset-sensitive\ncancellation\nlow-precision\nnever-seen\n"
    report = lr.oracle.check(
        "cross_entropy", value=two.value, grad=two.grad, dtype="float32", quick=True, expected_failures=text
    )
    assert report.verdict == "accurate" and "never-seen" in report.unexpected
    assert any(f.expected == "p-minus-one" for f in report.findings)


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CANDIDATE)
    return path


@pytest.mark.parametrize(("function", "status"), [("right", 0), ("value", 1), ("wrong", 1)])
def test_the_command(module, function, status, tmp_path):
    result = CliRunner().invoke(app, ["check", f"{module}:{function}", "--loss", "cross_entropy", "--dtype", "float32",
                                      "--quick", "--json", str(tmp_path / "o.json"), "--html",
                                      str(tmp_path / "o.html")])  # fmt: skip
    assert result.exit_code == status, result.output
    assert json.loads((tmp_path / "o.json").read_text())["loss"] == "cross_entropy"
    assert (tmp_path / "o.html").read_text().startswith("<!doctype html>")
    assert status == 0 or function != "wrong" or "wrong-sign" in result.output


def test_several_dtypes_are_one_page(module, tmp_path):
    page = tmp_path / "o.html"
    command = ["check", f"{module}:right", "--loss", "cross_entropy", "--quick", "--html", str(page)]
    assert CliRunner().invoke(app, [*command, "--dtype", "float32", "--dtype", "float64"]).exit_code == 0
    text = page.read_text()
    assert text.count("<!doctype html>") == text.count("</body>") == 1 and text.count("<h1>") == 2


@pytest.mark.parametrize("wrong", [["--loss", "cross_entropi"], ["--loss", "cross_entropy", "--dtype", "int8"],
                                   ["--loss", "cross_entropy", "--kwargs", "no json"],
                                   ["--loss", "cross_entropy", "--jit"],
                                   ["--loss", "cross_entropy", "--device", "cuda", "--framework", "jax"]])  # fmt: skip
def test_usage_errors_have_status_2(module, wrong):
    assert CliRunner().invoke(app, ["check", f"{module}:value", *wrong]).exit_code == 2
    assert CliRunner().invoke(app, ["check", f"{module}:missing", "--loss", "cross_entropy"]).exit_code == 2


def test_vectors_command(tmp_path):
    result = CliRunner().invoke(app, ["vectors", "export", str(tmp_path), "--loss", "sigmoid"])
    assert result.exit_code == 0 and (tmp_path / "sigmoid.jsonl").stat().st_size


TEST_FILE = """
import lossref as lr
from mine import right, value

def test_right(lossref_check):
    lossref_check("cross_entropy", right, dtype="float32")

def test_two_pass(lossref_check):
    lossref_check("cross_entropy", value, dtype="float32", at_least="inaccurate")

def test_not_accurate(lossref_check):
    lossref_check("cross_entropy", value, dtype="float32")
"""


def test_the_pytest_plugin(module, tmp_path):
    (tmp_path / "test_mine.py").write_text(TEST_FILE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--lossref-quick",
        "--lossref-report",
        "reports",
        "test_mine.py",
    ]
    if not _installed():
        command[3:3] = ["-p", "lossref.oracle.pytest_plugin"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )
    assert "2 passed" in done.stdout and "1 failed" in done.stdout, done.stdout + done.stderr
    assert "INACCURATE" in done.stdout
    assert len(list((tmp_path / "reports").glob("*.html"))) == 3


def _installed():
    from importlib.metadata import entry_points

    return any(e.value == "lossref.oracle.pytest_plugin" for e in entry_points(group="pytest11"))


def test_the_plugin_loads_nothing_heavy():
    code = ("import sys, lossref.oracle.pytest_plugin; "
            "print([m for m in ('numba', 'flint', 'scipy', 'typer', 'rich', 'torch', 'jax') if m in "
            "sys.modules])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() in ("[]", "['rich']"), done.stdout + done.stderr


def test_a_wrong_shape_and_an_exception_are_findings():
    report = lr.oracle.check("cross_entropy", value=lambda x, y: np.zeros((2, 2)), quick=True)
    assert report.verdict == "wrong" and report.findings[0].diagnosis == "shape"

    def broken(logits, labels):
        raise RuntimeError("not written yet")

    report = lr.oracle.check("cross_entropy", value=broken, quick=True)
    assert report.verdict == "wrong" and "not written yet" in report.findings[0].message
