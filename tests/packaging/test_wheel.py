"""The wheel holds what it should, and works from another directory."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built (by hatchling, of the extra "test") from a copy: no build leaves traces in the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", ".venv", ".git", "_build", "node_modules", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    options = ["--disable-pip-version-check", "--wheel-dir", str(folder)]
    subprocess.run([*command, *options], cwd=source, check=True, timeout=300)
    (found,) = folder.glob("lossref-*.whl")
    return found


def test_it_holds_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lossref", "lossref_cuda"}
    assert "lossref/py.typed" in names
    assert "lossref_cuda/__init__.py" in names
    data = [name for name in names if name.endswith(".npz")]
    assert data and all(name.startswith("lossref/data/") for name in data)
    assert not [name for name in names if "test" in Path(name).parts or name.endswith((".pyc", ".nbi", ".nbc"))]
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lossref").rglob("*.py")}
    assert sources <= set(names)


def test_it_works_in_another_environment_and_directory(wheel, tmp_path):
    """A fresh environment that borrows the dependencies of this one through a .pth file: nothing is downloaded."""
    home = tmp_path / "environment"
    venv.create(home, with_pip=False)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip())
    borrowed = tmp_path / "borrowed"  # everything that is installed here, except lossref itself
    borrowed.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "lossref" not in entry.name and not entry.name.endswith(".pth"):
            (borrowed / entry.name).symlink_to(entry)
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, "--disable-pip-version-check", str(wheel)], check=True, timeout=300)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}

    def run(*command):
        return subprocess.run(
            [scripts / "lossref", *command], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300
        )

    where = subprocess.run(
        [python, "-c", "import lossref; print(lossref.__file__)"],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert Path(where.strip()).is_relative_to(home)
    verified = run("verify", "--loss", "cross_entropy", "--path", "numpy")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.strip().endswith("1 losses, 2 path checks, 0 failures")
    assert "numpy numba cuda" in run("list").stdout
