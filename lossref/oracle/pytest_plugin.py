"""pytest: the fixture ``lossref_check``, and a report for every check of the run.

Loaded in every pytest run of everybody who has lossref installed: nothing is imported here before it is used.
"""

from __future__ import annotations

import pytest


def pytest_addoption(parser) -> None:
    group = parser.getgroup("lossref")
    group.addoption(
        "--lossref-report", metavar="DIR", default=None, help="write a JSON and an HTML report of every check here"
    )
    group.addoption("--lossref-seed", type=int, default=0, metavar="N", help="draw other random inputs")
    group.addoption("--lossref-quick", action="store_true", help="fewer cases: a few seconds a loss")
    group.addoption(
        "--lossref-xfails", metavar="FILE", default=None, help="findings that are expected, one substring a line"
    )


@pytest.fixture
def lossref_check(request):
    """``lossref_check("cross_entropy", value=f, grad=g, dtype="float32")``: fails unless the verdict is "accurate".

    ``at_least="inaccurate"`` accepts lost digits. Everything else goes to ``lossref.oracle.check``.
    """

    def run(loss, candidate=None, *, at_least: str = "accurate", **options):
        from pathlib import Path

        from lossref.oracle import check

        config = request.config
        options.setdefault("seed", config.getoption("--lossref-seed"))
        options.setdefault("quick", config.getoption("--lossref-quick"))
        if (file := config.getoption("--lossref-xfails")) and "expected_failures" not in options:
            options["expected_failures"] = Path(file).read_text(encoding="utf-8")
        report = check(loss, candidate, **options)
        if folder := config.getoption("--lossref-report"):
            name = "".join(c if c.isalnum() else "_" for c in request.node.name) + f"_{report.loss}_{report.dtype}"
            path = Path(folder)
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.json").write_text(report.to_json(), encoding="utf-8")
            (path / f"{name}.html").write_text(report.to_html(), encoding="utf-8")
        if at_least == "accurate":
            report.raise_if("inaccurate")
        elif at_least == "inaccurate":
            report.raise_if("wrong")
        else:
            raise ValueError(f'at_least: expected "accurate" or "inaccurate", got {at_least!r}')
        return report

    return run
