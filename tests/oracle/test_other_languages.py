"""Programs in C and JavaScript are judged; vectors are read in C, Rust and JavaScript."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import lossref as lr

EXAMPLES = Path(lr.__file__).parent / "oracle" / "examples"


def tool(*names):
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"{' or '.join(names)} is not installed")
    return found


def run(*command):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def c_program(tmp_path_factory):
    program = tmp_path_factory.mktemp("c") / "cross_entropy"
    made = run(
        tool("cc", "gcc", "clang"), "-O2", "-Wall", "-Werror", "-o", program, EXAMPLES / "cross_entropy.c", "-lm"
    )
    assert made.returncode == 0, made.stderr
    return program


def test_a_right_program_in_c_is_accurate(c_program):
    report = lr.oracle.check("cross_entropy", value=[str(c_program)], framework="process", quick=True)
    assert report.verdict == "accurate", str(report)
    assert report.worst["grad"][0] <= 8


def test_a_bug_in_c_is_found(c_program, tmp_path):
    source = (EXAMPLES / "cross_entropy.c").read_text()
    wrong = source.replace(
        "-others * cotangent[0] / n", "(exp(row[label] - row[top]) / (1 + rest) - 1) * cotangent[0] / n"
    )
    assert wrong != source
    (tmp_path / "wrong.c").write_text(wrong)
    assert run(tool("cc", "gcc", "clang"), "-O2", "-o", tmp_path / "wrong", tmp_path / "wrong.c", "-lm").returncode == 0
    report = lr.oracle.check("cross_entropy", value=[str(tmp_path / "wrong")], framework="process", quick=True)
    assert report.verdict == "inaccurate" and "p-minus-one" in {f.diagnosis for f in report.findings}


def test_a_right_program_in_javascript_is_accurate():
    command = [tool("node"), str(EXAMPLES / "cross_entropy.mjs")]
    report = lr.oracle.check("cross_entropy", value=command, framework="process", gradient=False, quick=True)
    assert report.verdict == "accurate", str(report)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    lr.oracle.export(folder, ["cross_entropy", "softplus"])
    return folder


def test_vectors_are_what_their_manifest_says(vectors):
    manifest = json.loads((vectors / "manifest.json").read_text())
    assert set(manifest["files"]) == {"cross_entropy.jsonl", "softplus.jsonl"}
    for name, entry in manifest["files"].items():
        text = (vectors / name).read_bytes()
        assert hashlib.sha256(text).hexdigest() == entry["sha256"]
        assert len(text.splitlines()) == entry["vectors"] > 20


def test_vectors_enclose_the_value_and_the_gradient(vectors):
    def numbers(x):
        return np.array([float.fromhex(v) if isinstance(v, str) else v for v in x["data"]]).reshape(x["shape"])

    def bounds(x):
        return (np.array([float.fromhex(v) for v in x[key]]).reshape(x["shape"]) for key in ("mid", "rad", "unit"))

    for line in (vectors / "cross_entropy.jsonl").read_text().splitlines():
        v = json.loads(line)
        arguments = {n: numbers(a) for n, a in v["arguments"].items()} | v["options"]
        arguments["labels"] = arguments["labels"].astype(int)
        got = lr.cross_entropy(**arguments, reduction="none")
        mid, rad, unit = bounds(v["terms"])
        with np.errstate(invalid="ignore"):
            assert np.all((got == mid) | (abs(got - mid) <= 4 * unit + rad))
            got = lr.cross_entropy.grad(**arguments, reduction="none", cotangent=numbers(v["cotangent"]))
            mid, rad, unit = bounds(v["gradients"]["logits"])
            assert np.all((got == mid) | (abs(got - mid) <= 8 * unit + rad))


def test_the_reader_in_c(vectors, tmp_path):
    made = run(
        tool("cc", "gcc", "clang"), "-O2", "-Wall", "-Werror", "-o", tmp_path / "reader", vectors / "reader.c", "-lm"
    )
    assert made.returncode == 0, made.stderr
    read = run(tmp_path / "reader", vectors / "cross_entropy.jsonl")
    assert read.returncode == 0, read.stdout


def test_the_reader_in_rust(vectors, tmp_path):
    made = run(tool("rustc"), "-O", "-o", tmp_path / "reader", vectors / "reader.rs")
    if made.returncode and "toolchain" in made.stderr:
        pytest.skip(f"rustc does not run: {made.stderr.splitlines()[0]}")
    assert made.returncode == 0, made.stderr
    read = run(tmp_path / "reader", vectors / "cross_entropy.jsonl")
    assert read.returncode == 0, read.stdout


def test_the_reader_in_javascript(vectors):
    read = run(tool("node"), vectors / "reader.mjs", vectors / "cross_entropy.jsonl")
    assert read.returncode == 0, read.stdout + read.stderr


def test_the_readers_agree(vectors, tmp_path):
    run(tool("cc", "gcc", "clang"), "-O2", "-o", tmp_path / "reader", vectors / "reader.c", "-lm")
    outputs = {run(tmp_path / "reader", vectors / "cross_entropy.jsonl").stdout,
               run(tool("node"), vectors / "reader.mjs", vectors / "cross_entropy.jsonl").stdout}  # fmt: skip
    assert len(outputs) == 1
