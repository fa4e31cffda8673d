"""docs/bridges.md: its examples print what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers
PAGE = Path(__file__).parents[2] / "docs" / "bridges.md"


def test_the_examples_print_what_the_page_says():
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE))
    said = re.findall(r"^print\(.*\) +# (.*)$", code, re.MULTILINE)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # it registers a loss
    assert run.stdout.splitlines() == said and len(said) > 5, run.stderr
