"""``lossref compare``: the entries call what they say, answers come from calls, what is absent is said."""

import json
from importlib import import_module

import numpy as np
import pytest
from typer.testing import CliRunner

import lossref as lr
from lossref.cli import app
from lossref.oracle import peers
from lossref.oracle.peers import NotTaken, Peer, accuracy, comparable, interview, measure, ours
from lossref.oracle.peers.libraries import LIBRARIES, PYTORCH, Library

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

ENTRIES = [entry for entries in comparable().values() for entry in entries]


def compare(*arguments):
    result = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def present(peer: Peer) -> Peer:
    why = peer.library.absent()
    if why:
        pytest.skip(f"{why} ({peer.library.remedy})")
    return peer


def entry(library: Library, loss: str) -> Peer:
    return present(next(e for e in peers.peers_of(loss) if e.library is library))


# -- the entries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", ENTRIES, ids=lambda e: f"{e.loss_name}, {e.title}")
def test_an_entry_is_the_same_function(peer):
    """On an ordinary input with the defaults, value and gradient are ours but for rounding, floors and clips."""
    present(peer)
    loss = peer.loss
    arguments = loss.defaults(np.random.default_rng(3), {"N": 6, "C": 5, "M": 6, "T": 9, "S": 2, "D": 3, "V": 5})
    if peer.loss_name == "binary_cross_entropy":
        arguments["targets"] = np.rint(arguments["targets"])
    np.testing.assert_allclose(peer.value(arguments), ours(loss.name).value(arguments), rtol=1e-5, atol=1e-7)
    if peer.differentiates:
        shape = np.shape(peer.value(arguments))
        cotangent = np.random.default_rng(4).standard_normal(shape)
        call = dict(arguments=arguments, of=loss.of[:1], cotangent=cotangent)
        (theirs,), (mine, *_) = peer.gradients(**call), ours(loss.name).gradients(**call)
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("peer", ENTRIES, ids=lambda e: f"{e.loss_name}, {e.title}")
def test_an_entry_names_our_arguments(peer):
    loss = peer.loss
    assert set(peer.required) - {"reduction"} <= set(loss.arguments)
    assert set(peer.options) <= {*loss.arguments, "reduction"}
    assert {name for name, a in loss.arguments.items() if a.required} <= set(peer.required)


def test_an_option_that_a_peer_lacks_is_not_taken():
    peer = Peer(Library("nobody", "numpy", ("numpy",)), "cross_entropy", "f", lambda np, logits, labels: None)
    arguments = {"logits": np.zeros((1, 2)), "labels": np.array([0])}
    ignored = {"labels": np.array([-100]), "ignore_index": -100}
    for lacking in ({"label_smoothing": 0.1}, {"weight": np.ones(2)}, ignored):
        with pytest.raises(NotTaken):
            peer.value({**arguments, **lacking})
    with pytest.raises(NotTaken):
        peer.value(arguments, "mean")


# -- accuracy ----------------------------------------------------------------------------------------------------------


def literal(np, logits, labels):
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(labels)), labels])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_literal_formula_is_found_out_and_ours_is_not(dtype):
    found = measure(Peer(Library("nobody", "numpy", ("numpy",)), "cross_entropy", "literal", literal), dtype)
    mine = measure(ours("cross_entropy"), dtype)
    assert found.values[accuracy.ORDINARY].error < 4
    for kind in (accuracy.BLIND, accuracy.OFFSET, accuracy.TRAINED):
        assert found.values[kind].count and found.values[kind].error > 1000
    for kind in accuracy.KINDS:
        assert mine.values[kind].count or kind == accuracy.SUBNORMAL
        assert mine.values[kind].error <= 4 and mine.gradients[kind].error <= 8
    assert found.not_taken.keys() >= {"weight", "ignore_index"} and not found.refusals


def test_a_peer_that_breaks_down_is_recorded():
    def broken(np, logits, labels):
        raise ZeroDivisionError("in the kernel")

    found = measure(Peer(Library("nobody", "numpy", ("numpy",)), "cross_entropy", "broken", broken), "float64")
    assert found.cases == 0 and found.refusals.keys() == {"ZeroDivisionError: in the kernel"}


# -- semantics ---------------------------------------------------------------------------------------------------------


def answers(peer: Peer) -> dict[str, str]:
    return {a.question: a.answers[peer.title] for a in interview([peer])}


def test_what_pytorch_means():
    said = answers(entry(PYTORCH, "cross_entropy"))
    assert said["… with both, by"] == "the weights of the labels kept"
    assert said["label smoothing ε"] == "ε/C for every class"
    assert said["the mean when every row is ignored"] == "nan, gradient 0"
    assert answers(entry(PYTORCH, "soft_cross_entropy"))["… with class weights, by"] == "the number of rows"
    assert answers(entry(PYTORCH, "kl_divergence"))["its mean divides by"] == "rows · classes"


def test_what_optax_means():
    optax = next(library for library in LIBRARIES if library.name == "optax")
    assert answers(entry(optax, "cross_entropy"))["unless told, it returns"] == "one number per row"
    assert answers(entry(optax, "poly_loss"))["ε unless told"] == "2.0"
    assert answers(entry(optax, "sigmoid_focal"))["α unless told"] == "None"


@pytest.mark.parametrize("name", comparable())
def test_we_answer_every_question(name):
    said = answers(ours(name))
    assert not [question for question, answer in said.items() if "TypeError" in answer or "AttributeError" in answer]


# -- the command -------------------------------------------------------------------------------------------------------


def test_without_a_name_it_lists_what_there_is(monkeypatch):
    command = import_module("lossref.cli.compare")
    monkeypatch.setattr(command, "installed", lambda package: None if package == "torch" else "1")
    monkeypatch.setattr(PYTORCH, "absent", lambda: "PyTorch is not installed")
    status, out, _ = compare()
    assert status == 0
    assert all(name in out for name in comparable())
    assert "not here: PyTorch is not installed. Remedy: pip install 'lossref[peers]'" in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["cros_entropy"], "Did you mean: cross_entropy"),
        (["self_adjusting_dice"], "no library that is asked defines 'self_adjusting_dice'"),
        (["--markdown"], "say what to compare"),
    ],
)
def test_usage(arguments, said):
    status, _, err = compare(*arguments)
    assert status == 2 and said in err


def test_a_table_with_what_is_absent_in_words(monkeypatch, tmp_path):
    monkeypatch.setattr(PYTORCH, "absent", lambda: "PyTorch is not installed")
    file = tmp_path / "comparison.json"
    status, out, _ = compare("softplus", "--json", str(file))
    assert status == 0
    assert "Not compared: PyTorch F.softplus: PyTorch is not installed. Remedy: pip install 'lossref[peers]'" in out
    assert "float32, blind band" in out and "float16 in gives" in out
    report = json.loads(file.read_text())["losses"]["softplus"]
    assert report["not_compared"]["PyTorch F.softplus"]["remedy"] == "pip install 'lossref[peers]'"
    mine = [row for row in report["accuracy"] if row["implementation"] == "lossref"]
    assert {row["dtype"] for row in mine} == {"float32", "float64"}
    assert all(worst["error"] <= 4 for row in mine for worst in row["value"].values())


def test_nobody_else_is_here(monkeypatch):
    for library in LIBRARIES:
        monkeypatch.setattr(library, "absent", lambda: "nothing is installed")
    status, out, _ = compare("log1mexp")
    assert status == 0 and "Not compared: JAX" in out and "lossref" in out


def test_markdown_and_json_on_standard_output():
    status, out, err = compare("sigmoid", "--markdown", "--json", "-")
    assert status == 0 and "sigmoid" in json.loads(out)["losses"]
    assert "Made by `lossref compare sigmoid --markdown`" in err and "| float32, ordinary |" in err


def test_nothing_is_imported_before_it_is_called():
    import subprocess
    import sys

    heavy = ("torch", "jax", "optax", "keras", "onnx", "sklearn")
    code = f"import sys, lossref.oracle.peers as p; p.comparable(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout
    assert lr.losses()
