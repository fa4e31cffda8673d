"""README.md shows what really comes out, and links to what is there."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


def test_examples():
    with np.errstate(all="ignore"):
        found = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=FLAGS)
    assert found.attempted > 12 and found.failed == 0


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_the_makefile_has_the_targets_that_are_named():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / page).read_text("utf-8")
        for target in re.findall(r"\bmake ([a-z]+)\b(?=[`\s]*(?:#|`|$))", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
