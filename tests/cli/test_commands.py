"""The command as a user meets it: in a process of its own, piped, and without colours."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lossref as lr
from lossref.cli import app


def lossref(*arguments, **environment):
    """Run the command; (exit status, standard output, standard error)."""
    run = subprocess.run(
        [sys.executable, "-m", "lossref.cli", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        timeout=300,
    )
    return run.returncode, run.stdout, run.stderr


def quickly(*arguments):
    """The same inside this process."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# -- list and show ---------------------------------------------------------------------------------------------------


def test_help_names_the_commands_and_loads_nothing_heavy():
    code = "import sys, lossref.cli; print([m for m in ('numba', 'flint', 'scipy', 'rich.table') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert heavy.strip() == "[]"
    status, out, _ = quickly("--help")
    assert status == 0
    assert all(command in out for command in ("list", "show", "doctor", "verify"))


def test_version():
    assert quickly("--version") == (0, f"lossref {lr.__version__}\n", "")


def test_list_shows_every_loss():
    status, out, _ = lossref("list")
    assert status == 0
    assert all(name in out for name in lr.losses())
    assert "\x1b" not in out  # no colours in a pipe


def test_list_of_one_family_and_for_machines():
    status, out, _ = quickly("list", "--family", "preference", "--json")
    entries = {entry["name"]: entry for entry in json.loads(out)}
    assert status == 0 and "dpo" in entries
    assert {entry["family"] for entry in entries.values()} == {"preference"}
    assert entries["dpo"]["paper"]["url"] == "https://arxiv.org/abs/2305.18290"
    assert entries["dpo"]["differentiable"] == ["chosen_logps", "rejected_logps"]


def test_an_unknown_family_is_a_usage_error():
    status, _, err = quickly("list", "--family", "clasification")
    assert status == 2 and "Did you mean: classification?" in err


@pytest.mark.parametrize("name", sorted(lr.losses()))
def test_show(name):
    loss = lr.losses()[name]
    status, out, _ = quickly("show", name)
    assert status == 0
    for argument in loss.arguments:
        assert argument in out
    headings = ["Formula", "Arguments", "Result", "Paper", "Symmetries", "Source"]
    if loss.differentiable:
        headings.append("Gradient with respect to " + ", ".join(loss.of))
    assert all(f"\n{heading}" in out for heading in headings)
    assert ".py:" in "".join(out.split())


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("crossentropy", "cross_entropy"), ("dice", "self_adjusting_dice"), ("log-softmax", "log_softmax")],
)
def test_show_of_an_unknown_name_suggests(wrong, meant):
    status, out, err = quickly("show", wrong)
    assert status == 2 and out == ""
    assert f"there is no loss {wrong!r}" in err and meant in err


def test_columns_and_no_color_are_respected():
    _, out, _ = lossref("list", COLUMNS="70")
    assert max(map(len, out.splitlines())) <= 70
    _, out, _ = lossref("list", NO_COLOR="1", FORCE_COLOR="1")
    assert "\x1b[3" not in out  # no colour, though bold may stay


# -- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_really_runs_something_on_each_path():
    status, out, _ = lossref("doctor", "--json")
    report = json.loads(out)
    assert status == 0
    findings = {finding["path"]: finding for finding in report["paths"]}
    assert findings["numpy"]["works"] and findings["numba"]["works"]
    cuda = findings["cuda"]
    assert cuda["works"] or cuda["remedy"]
    assert report["machine"]["versions"]["numpy"] and "torch" in report["peers"]
    status, out, _ = lossref("doctor")
    assert status == 0 and "works here" in out and "numba threads" in out


def test_doctor_reports_a_path_that_breaks(monkeypatch):
    from lossref.cli import examination

    def broken(path):
        raise RuntimeError("no such instruction\nand more")

    monkeypatch.setattr(examination, "tiny_computation", broken)
    found = examination.examine("numba")
    assert not found.works
    assert found.reason == "RuntimeError: no such instruction"
    assert "pip install" in found.remedy
    monkeypatch.setattr(examination, "tiny_computation", lambda path: {"right": False, "got": [[1.0]], "seconds": 0.0})
    assert "came out as [[1.0]]" in examination.examine("numpy").reason
