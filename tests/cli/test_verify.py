"""What ``lossref verify`` runs, prints, writes and answers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import lossref as lr
from lossref.cli import app, checking, simulated
from lossref.exact import verification
from lossref.exact.verification import Check, Result


def verify(*arguments):
    result = CliRunner().invoke(app, ["verify", *arguments], env={"COLUMNS": "160"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def last_line(text):
    return text.strip().splitlines()[-1].strip()


def test_a_right_loss_passes():
    status, out, _ = verify("--loss", "cross_entropy", "--path", "numpy")
    assert status == 0
    assert last_line(out) == "1 losses, 2 path checks, 0 failures"
    assert "cross_entropy" in out and "float32" in out and "(≤ 8)" in out


def test_a_wrong_gradient_fails(monkeypatch):
    loss = lr.losses()["softplus"]
    monkeypatch.setattr(loss, "gradient_rule", lambda x: 1.001 * lr.sigmoid.definition(x))
    status, out, _ = verify("--loss", "softplus", "--path", "numpy", "--dtype", "float64")
    assert status == 1
    assert "softplus, numpy, float64: gradient" in out
    assert last_line(out) == "1 losses, 1 path checks, 1 failures"


def test_a_check_that_breaks_down_has_failed(monkeypatch):
    def broken(check, seed=0):
        raise ZeroDivisionError("in the kernel")

    monkeypatch.setattr(verification, "run", broken)
    status, out, _ = verify("--loss", "dpo", "--path", "numpy", "--dtype", "float32")
    assert status == 1 and "ZeroDivisionError: in the kernel" in out


@pytest.fixture
def no_cuda(monkeypatch):
    """Neither a GPU nor the simulator."""
    status = (False, "no NVIDIA driver", "install one")
    monkeypatch.setattr(verification, "path_status", lambda path: status if path == "cuda" else (True, "", ""))
    monkeypatch.setattr(simulated, "possible", lambda: False)


def test_what_cannot_run_is_listed_and_never_passed(no_cuda):
    status, out, _ = verify("--loss", "softmax", "--path", "numpy", "--path", "cuda")
    assert status == 0
    assert "Not run" in out and "cuda (2 checks): no NVIDIA driver" in out and "remedy: install one" in out
    assert last_line(out) == "1 losses, 2 path checks, 0 failures, 2 not run"
    rows = [line for line in out.splitlines() if "cuda" in line and "float" in line]
    assert len(rows) == 2 and all(line.rstrip().endswith("not run") for line in rows)


def test_json_to_a_file(tmp_path, no_cuda):
    file = tmp_path / "results.json"
    status, out, _ = verify("--loss", "softmax", "--json", str(file))
    report = json.loads(file.read_text())
    assert status == 0 and "softmax" in out
    assert report["summary"] == {"losses": 1, "checks": 4, "failures": 0, "not_run": 2}
    assert report["machine"]["versions"]["numpy"] == np.__version__
    assert {row["path"] for row in report["rows"]} == {"numpy", "numba", "cuda"}
    assert {row["verdict"] for row in report["rows"] if row["path"] == "cuda"} == {"not run"}


def test_json_to_standard_output_is_only_json(monkeypatch):
    worst = Result("softmax", "numpy", "float64", worst_value=float("inf"), verdict="failed", reason="value: a case")
    monkeypatch.setattr(verification, "run", lambda check, seed=0: worst)
    status, out, err = verify("--loss", "softmax", "--path", "numpy", "--dtype", "float64", "--json", "-")
    assert status == 1
    assert json.loads(out)["rows"][0]["worst_value"] == "inf"
    assert "1 failures" in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--loss", "cross_entrop"), "Did you mean: cross_entropy"),
        (("--family", "losses"), "there is no family 'losses'"),
        (("--path", "gpu"), "there is no path 'gpu'. There are: numpy, numba, cuda."),
        (("--dtype", "float23"), "Did you mean: float32"),
        (("--loss", "dpo", "--family", "sequence"), "there is nothing to verify"),
        (("--sed", "3"), "No such option"),
    ],
)
def test_usage_errors(arguments, text):
    status, out, err = verify(*arguments)
    assert status == 2 and out == ""
    assert text in " ".join(err.split())


def test_the_seed_changes_the_cases():
    check = Check("softplus", "numpy", "float64")
    assert verification.run(check, 1).worst_gradient != verification.run(check, 2).worst_gradient


# -- the simulator's process -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not simulated.possible(), reason="numba-cuda is not installed")
def test_without_a_gpu_the_cuda_path_runs_in_the_simulator():
    if verification.path_status("cuda")[0]:
        pytest.skip("there is a GPU, or this process simulates one")
    status, out, _ = verify("--loss", "logsumexp", "--path", "cuda", "--dtype", "float32")
    assert status == 0
    assert "cuda (simulator)" in out and "ran in Numba's simulator" in out
    assert last_line(out) == "1 losses, 1 path checks, 0 failures"
    assert not verification.path_status("cuda")[0]  # this process still has the driver's view


CHECK = Check("softmax", "cuda", "float32", False, "no driver", "install one")


def test_checks_that_the_child_does_not_answer_have_failed():
    class Silent:
        def answers(self):
            yield {**Result("softmax", "cuda", "float32").__dict__, "verdict": "ok"}
            raise RuntimeError("the simulator's process ended with status -9: Killed")

    checks = [CHECK, replace(CHECK, dtype="float64")]
    rows = list(checking._simulated_rows(Silent(), checks))
    assert [row.verdict for row in rows] == ["ok", "failed"]
    assert rows[1].dtype == "float64" and "Killed" in rows[1].reason


def test_a_child_that_dies_says_its_last_words():
    without_dtypes = {"what": "verify", "losses": ["softmax"], "seed": 0}
    expected = pytest.raises(RuntimeError, match="ended with status 1: KeyError: 'dtypes'")
    with simulated.Child(without_dtypes) as child, expected:
        list(child.answers())
