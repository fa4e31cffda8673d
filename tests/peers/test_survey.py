"""``lossref survey``: what the page says of other people's losses is so."""

import json
from importlib import import_module
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import lossref as lr
from lossref.cli import app
from lossref.core.declarations import RealNumber
from lossref.oracle.peers import choices, peers_of, survey

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

command = import_module("lossref.cli.survey")
DOCS = Path(__file__).parents[2] / "docs"
STATE = json.loads((DOCS / "state_of_the_losses.json").read_text(encoding="utf-8"))
JUDGED = [row for row in STATE["rows"] if "not_judged" not in row]
REMAKE = "make it anew: lossref survey --all --json docs/state_of_the_losses.json --markdown"


def peer_of(row):
    peer = next(p for p in peers_of(row["loss"]) if p.title == row["implementation"])
    if why := peer.library.absent():
        pytest.skip(f"{why} ({peer.library.remedy})")
    return peer


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_page_is_what_the_rows_say():
    assert (DOCS / "state_of_the_losses.md").read_text(encoding="utf-8") == command.page(STATE), REMAKE


def test_every_entry_is_on_the_page():
    asked = {(q.loss, q.implementation, q.dtype) for q in survey.questions()}
    assert asked == {(row["loss"], row["implementation"], row["dtype"]) for row in STATE["rows"]}, REMAKE
    text = command.page(STATE)
    for row in STATE["rows"]:
        assert f"### {command.escaped(row['implementation'])}\n" in text


@pytest.mark.parametrize("one", choices.CHOICES, ids=lambda one: f"{one.implementation}, {one.diagnosis}")
def test_a_choice_is_announced_and_found(one):
    found = [f for row in JUDGED for f in row["findings"] if choices.choice(row, f) is one]
    assert found, "nothing was found for which this would be the reason"
    peer_of({"loss": one.loss, "implementation": one.implementation})
    module, _, name = one.documented_in.partition(":")
    said = " ".join((getattr(import_module(module), name).__doc__ or "").split())
    assert one.words in said


# -- no false alarm ----------------------------------------------------------------------------------------------------

WRONG = [
    (row, finding)
    for row in JUDGED
    for finding in row["findings"]
    if finding["severity"] == "wrong"
    and finding["quantity"] in ("value", "grad")
    and isinstance(finding["want"], (int, float, str))
    and not any(isinstance(x, str) and x.startswith("array of") for x in finding["inputs"].values())
]


def arguments_of(row, finding):
    """The inputs as they stand on the page, which is all that a reader has."""
    loss, dtype = lr.losses()[row["loss"]], np.dtype(getattr(ml_dtypes, row["dtype"], row["dtype"]))
    arguments = {name: a.default for name, a in loss.arguments.items()}
    for name, value in finding["inputs"].items():
        if name in ("reduction", "cotangent"):
            continue
        declaration = loss.arguments[name].declaration
        if loss.arguments[name].is_array:
            real = isinstance(declaration, RealNumber)
            value = np.array(value, np.float64).astype(dtype) if real else np.array(value)
            value = value.astype(np.int64) if not real and value.dtype.kind != "b" else value
            if not value.size:
                value = value.reshape([3 if k else 0 for k in range(len(declaration.names))])
        arguments[name] = value
    return loss, arguments


def close(x, y) -> bool:
    return bool(np.isclose(np.asarray(x, np.float64), float(y), rtol=1e-5, atol=0, equal_nan=True).any())


@pytest.mark.parametrize(
    ("row", "finding"),
    WRONG,
    ids=[f"{row['implementation']} {row['dtype']} {f['diagnosis']} {f['quantity']}" for row, f in WRONG],
)
def test_what_is_called_wrong_is_wrong(row, finding):
    """The library, called as for ``lossref compare``, gives that result; the enclosure of the truth is elsewhere."""
    if row["dtype"] == "bfloat16":
        pytest.skip("NumPy arrays of bfloat16 do not go into PyTorch on this way")
    peer, (loss, arguments) = peer_of(row), arguments_of(row, finding)
    reduction = finding["inputs"].get("reduction", "none")
    options = {"reduction": reduction} if loss.reducible else {}
    if finding["quantity"] == "value":
        got = peer.value(arguments, reduction)
        empty = not np.size(arguments[loss.of[0]])
        truth = lr.exact.value(loss, **arguments, **options).midpoint if not empty else loss(**arguments, **options)
    else:
        cotangent = np.asarray(finding["inputs"]["cotangent"], np.float64)
        given = tuple(name for name in loss.of if arguments[name] is not None)
        got = np.concatenate([np.ravel(g) for g in peer.gradients(arguments, given, cotangent, reduction)])
        found = lr.exact.grad(loss, **arguments, **options, cotangent=cotangent)
        truth = np.concatenate([np.ravel(g.midpoint) for g in (found if isinstance(found, tuple) else (found,))])
    assert close(truth, finding["want"])
    if isinstance(finding["got"], str) and "run" in finding["got"]:
        return  # what lay in memory: nothing to compare with
    assert close(got, finding["got"])
    assert not np.isclose(float(finding["got"]), float(finding["want"]), rtol=1e-5)


# -- the command -------------------------------------------------------------------------------------------------------

QUICK = [
    ("log_sigmoid", "SciPy log_expit", "accurate", ""),
    ("log_softmax", "ONNX LogSoftmax", "wrong", "overflow"),
    ("cross_entropy", "PyTorch F.cross_entropy", "inaccurate", "saturated"),
]


@pytest.mark.parametrize(("name", "title", "verdict", "slug"), QUICK)
def test_an_entry_is_judged(name, title, verdict, slug):
    question = survey.Question(name, title, "float32", quick=True)
    peer_of({"loss": name, "implementation": title})
    row = survey.answer(question)
    assert choices.verdict(row) == verdict
    assert not slug or slug in {f["diagnosis"] for f in row["findings"]}
    assert row == survey.answer(question), "not the same twice"


def test_rows_go_into_the_file_beside_those_of_other_losses(monkeypatch, tmp_path):
    def asked(names, quick, seed):
        return [survey.Question(name, "SciPy log_expit", "float32", True, seed) for name in names]

    monkeypatch.setattr(command, "questions", asked)
    monkeypatch.setattr(command, "answers", lambda asked, jobs: map(survey.answer, asked))
    file = tmp_path / "state.json"
    kept = [row for row in STATE["rows"] if row["loss"] != "log_sigmoid"]
    file.write_text(command.as_json(STATE), encoding="utf-8")
    done = CliRunner().invoke(app, ["survey", "log_sigmoid", "--json", str(file), "--markdown"])
    assert done.exit_code == 0 and "### SciPy log\\_expit" in done.stdout
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    assert [row for row in rows if row["loss"] != "log_sigmoid"] == kept
    assert [row["implementation"] for row in rows if row["loss"] == "log_sigmoid"] == ["SciPy log_expit"]


def test_a_file_is_shown_again():
    done = CliRunner().invoke(app, ["survey", "softplus", "--from", str(DOCS / "state_of_the_losses.json")])
    assert done.exit_code == 0 and "JAX nn.softplus" in done.stdout and "cross_entropy" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "say whose losses to judge"), (["cros_entropy"], "cross_entropy"), (["dpo"], "no library that is asked")],
)
def test_usage(arguments, said):
    done = CliRunner().invoke(app, ["survey", *arguments])
    assert done.exit_code == 2 and said in done.stderr


def test_what_is_not_installed_is_said(monkeypatch):
    question = survey.Question("softplus", "SciPy softplus", "float32", True)
    monkeypatch.setattr(question.peer.library, "absent", lambda: "SciPy is not installed")
    row = survey.answer(question)
    assert row["not_judged"] == "SciPy is not installed (pip install scipy)"
    assert "not installed" in command.page({"machine": STATE["machine"], "rows": [row]})
