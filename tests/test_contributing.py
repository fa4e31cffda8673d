"""CONTRIBUTING.md keeps its word: its example is one file, and with it the loss exists everywhere."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example():
    """(path, source) of the file in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    first, source = block.split("\n", 1)
    return first.removeprefix("# "), source


PATH, SOURCE = example()
NAME = Path(PATH).stem


class Checkout:
    """A copy of the package with one file more."""

    def __init__(self, folder: Path, source: str):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "lossref", folder / "lossref", ignore=ignored)
        shutil.copytree(ROOT / "cuda", folder / "cuda", ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        (folder / "tests").mkdir()
        shutil.copy(ROOT / "tests" / "test_registry.py", folder / "tests")
        (folder / PATH).write_text(source, encoding="utf-8")
        self.folder = folder

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        environment["PYTHONPATH"] = os.pathsep.join([str(self.folder), str(self.folder / "cuda")])
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
        )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("contribution"), SOURCE)


def test_the_file_is_short_and_clean(checkout):
    assert len(SOURCE.splitlines()) < 60
    checked = checkout.run("ruff", "check", PATH)
    assert checked.returncode == 0, checked.stdout


def test_it_is_listed_and_shown(checkout):
    listed = {entry["name"]: entry for entry in json.loads(checkout.run("lossref.cli", "list", "--json").stdout)}
    assert listed[NAME]["family"] == Path(PATH).parent.name
    shown = checkout.run("lossref.cli", "show", NAME)
    assert shown.returncode == 0
    assert f"@{NAME}.gradient" in shown.stdout and str(checkout.folder) in "".join(shown.stdout.split())


def test_it_is_verified(checkout):
    verified = checkout.run("lossref.cli", "verify", "--loss", NAME)
    assert verified.returncode == 0, verified.stdout
    assert "1 losses, 2 path checks, 0 failures" in verified.stdout


def test_it_is_tested(checkout):
    tested = checkout.run("pytest", "tests/test_registry.py", "-q", "-k", NAME, "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    assert int(re.search(r"(\d+) passed", tested.stdout)[1]) > 15


def test_a_wrong_gradient_would_not_pass(tmp_path):
    wrong = SOURCE.replace("return -4 * sigmoid", "return -4.0001 * sigmoid")
    assert wrong != SOURCE
    checkout = Checkout(tmp_path, wrong)
    assert checkout.run("lossref.cli", "verify", "--loss", NAME).returncode == 1
    tested = checkout.run("pytest", "tests/test_registry.py", "-q", "-k", NAME, "-p", "no:cacheprovider")
    assert tested.returncode == 1
