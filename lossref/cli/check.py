"""``lossref check``: judge an implementation from the command line."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import lossref

from .terminal import console, known, usage_error


def check_candidate(
    target: str, loss: str, grad: str | None, framework: str, dtypes: list[str] | None, kwargs: str | None,
    json_file: Path | None, html_file: Path | None, xfails: Path | None, seed: int, quick: bool, gradient: bool,
    options: list[str] | None, device: str | None = None, jit: bool = False,
) -> int:  # fmt: skip
    """The whole command; 0: accurate, 1: not, 2: the command line is wrong."""
    from lossref.oracle.adapters import FRAMEWORKS

    known("loss", loss, lossref.losses())
    known("framework", framework, FRAMEWORKS)
    fixed = _kwargs(kwargs)
    more: dict = {}
    if framework == "process":
        value, own_gradient = target, None
        more = {"options": tuple(options or ()), "gradient": gradient}
    else:
        value, own_gradient = _function(target), None if grad is None else _function(grad)
    for option, given, belongs_to in (("device", device, "torch"), ("jit", jit, "jax")):
        if given and framework != belongs_to:
            usage_error(f"--{option} is for --framework {belongs_to}, not for {framework}")
        if given:
            more[option] = given
    expected = None
    if xfails is not None:
        try:
            expected = xfails.read_text(encoding="utf-8")
        except OSError as problem:
            usage_error(f"the xfails file cannot be read: {problem}")
    reports = []
    to_stdout = json_file is not None and str(json_file) == "-"
    out = console(to_errors=to_stdout)
    for dtype in dtypes or ["float64"]:
        known("dtype", dtype, ("float64", "float32", "float16", "bfloat16"))
        with _progress() as progress:
            task = progress.add_task("", total=None)

            def show(number, case, progress=progress, task=task, dtype=dtype):
                progress.update(task, completed=number, description=f"{dtype}: {case}")

            try:
                report = lossref.oracle.check(
                    loss, value=value, grad=own_gradient, dtype=dtype, kwargs=fixed, framework=framework, seed=seed,
                    quick=quick, expected_failures=expected, progress=show, **more,
                )  # fmt: skip
            except (TypeError, ValueError, ImportError, OSError) as problem:
                usage_error(str(problem))
        reports.append(report)
        out.print(report)
    if json_file is not None:
        body = [r.to_dict() for r in reports]
        text = json.dumps(body[0] if len(body) == 1 else body, indent=2, ensure_ascii=False) + "\n"
        if to_stdout:
            sys.stdout.write(text)
        else:
            json_file.write_text(text, encoding="utf-8")
    if html_file is not None:
        from lossref.oracle.page import page

        html_file.write_text(page(reports), encoding="utf-8")
    return 0 if all(r.verdict == "accurate" for r in reports) else 1


def _function(target: str):
    """module:function, or file.py:function, with dots for attributes."""
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        usage_error(f"expected module:function, got {target!r}")
    sys.path.insert(0, os.getcwd())
    try:
        if place.endswith(".py"):
            from importlib.util import module_from_spec, spec_from_file_location

            spec = spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is no Python file")
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        found = module
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, OSError) as problem:
        usage_error(f"{target!r} cannot be loaded: {problem}")
    if not callable(found):
        usage_error(f"{target!r} is no function")
    return found


def _kwargs(text: str | None) -> dict | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as problem:
        usage_error(f"--kwargs: expected a JSON object, got {text!r} ({problem})")
    if not isinstance(found, dict):
        usage_error(f"--kwargs: expected a JSON object, got {text!r}")
    return found


def _progress() -> Progress:
    out = console(to_errors=True)
    return Progress(BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=out, transient=True,
                    disable=not out.is_terminal)  # fmt: skip
