r"""Test vectors for other languages: inputs, and exact values and gradients with a proven error bound.

A folder holds one JSON-lines file for each loss, ``schema.json``, ``manifest.json`` (version of the case set, dtype,
SHA-256 of each file) and readers in C, Rust and JavaScript. One vector to a line::

    {"id": 3, "case": "…", "arguments": {"logits": {"shape": [1, 2], "data": ["0x1.0p+1", "0x0.0p+0"]}, …},
     "options": {"label_smoothing": 0.1}, "cotangent": {"shape": [1], "data": ["-0x1.8p+0"]},
     "terms": {"shape": [1], "mid": ["0x1.2…p-3"], "rad": ["0x1p-57"], "unit": ["0x1p-52"]},
     "gradients": {"logits": {"shape": …, "mid": …, "rad": …, "unit": …}}}

The true number is within ``rad`` of ``mid``, proven. ``unit`` is one unit of the yardstick for float64: an accurate
implementation is within 4 of them for a term, within 8 for a gradient entry. Reals are hexadecimal floats, infinities
``inf`` and ``-inf``, undefined numbers ``nan``. Loading never executes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lossref.core.registry import losses

from .cases import VERSION, Case, Scope, case_set
from .truth import EXACT_ENTRIES, epsilon, is_real, smallest, terms_shape

KINDS = ("ordinary", "lead", "offset", "hard", "edge", "mask", "ignored")
PER_LOSS = 60
READERS = ("reader.c", "reader.rs", "reader.mjs")

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A test vector of a loss",
    "type": "object",
    "required": ["id", "case", "arguments", "options", "cotangent", "terms", "gradients"],
    "properties": {
        "id": {"type": "integer"},
        "case": {"type": "string"},
        "arguments": {"type": "object", "additionalProperties": {"$ref": "#/$defs/array"}},
        "options": {"type": "object"},
        "cotangent": {"$ref": "#/$defs/array"},
        "terms": {"$ref": "#/$defs/enclosure"},
        "gradients": {"type": "object", "additionalProperties": {"$ref": "#/$defs/enclosure"}},
    },
    "$defs": {
        "real": {"type": "string", "pattern": r"^(-?0x[0-9a-f.]+p[+-][0-9]+|-?inf|nan)$"},
        "array": {
            "type": "object",
            "required": ["shape", "data"],
            "properties": {
                "shape": {"type": "array", "items": {"type": "integer"}},
                "data": {
                    "type": "array",
                    "items": {"anyOf": [{"type": ["integer", "boolean"]}, {"$ref": "#/$defs/real"}]},
                },
            },
        },
        "enclosure": {
            "type": "object",
            "required": ["shape", "mid", "rad", "unit"],
            "properties": {
                "shape": {"type": "array", "items": {"type": "integer"}},
                **{name: {"type": "array", "items": {"$ref": "#/$defs/real"}} for name in ("mid", "rad", "unit")},
            },
        },
    },
}


def export(folder, names: list[str] | None = None, seed: int = 0) -> Iterator[tuple[Path, int]]:
    """Write the vectors of these losses (all by default) to a folder; yields each file with its number of vectors."""
    return iter(list(_export(Path(folder), names, seed)))


def _export(folder: Path, names, seed) -> Iterator[tuple[Path, int]]:
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in names or losses():
        lines = [json.dumps(v, ensure_ascii=False, allow_nan=False) for v in vectors(name, seed)]
        text = "".join(line + "\n" for line in lines)
        path = folder / f"{name}.jsonl"
        path.write_text(text, encoding="utf-8", newline="\n")
        files[path.name] = {"vectors": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        yield path, len(lines)
    manifest = {
        "case_set": VERSION,
        "dtype": "float64",
        "seed": seed,
        "limits": {"terms": 4, "gradients": 8},
        "files": files,
    }
    (folder / "schema.json").write_text(json.dumps(SCHEMA, indent=2) + "\n", encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for reader in READERS:
        source = Path(__file__).parent / "examples" / reader
        (folder / reader).write_bytes(source.read_bytes())


def vectors(name: str, seed: int = 0) -> Iterator[dict]:
    """The vectors of a loss in float64."""
    from lossref.exact.ball import UndecidedError

    loss = losses()[name]
    accepted = tuple(n for n, a in loss.arguments.items() if not a.required)
    scope = Scope(loss, np.dtype(np.float64), accepted, None, seed)
    number = 0
    for case in _spread(case_set(scope)):
        entries = sum(np.size(v) for n, v in case.arguments.items() if v is not None and is_real(loss, n))
        if entries > EXACT_ENTRIES:
            continue
        try:
            yield _vector(loss, case, number, seed)
        except (UndecidedError, ValueError, TypeError):
            continue
        number += 1


def _spread(cases) -> list[Case]:
    """As many as fit, of every kind in turn."""
    by_kind: dict[str, list[Case]] = {kind: [] for kind in KINDS}
    for case in cases:
        if case.kind in by_kind:
            by_kind[case.kind].append(case)
    share = max(PER_LOSS // len(KINDS), 1)
    chosen = []
    for found in by_kind.values():
        step = max(len(found) // share, 1)
        chosen += found[::step][: share + 4]
    return chosen


def _vector(loss, case: Case, number: int, seed: int) -> dict:
    from lossref.exact.yardstick import yardstick

    shape = terms_shape(loss, case.arguments)
    rng = np.random.default_rng([seed, 13, number])
    drawn = np.rint(rng.standard_normal(shape) * 16)
    cotangent = np.asarray(np.where(drawn == 0, 1, drawn) / 16)
    if not loss.reducible:
        with np.errstate(all="ignore"):
            cotangent = np.asarray(np.where(np.isfinite(loss(**case.arguments)), cotangent, 0))
    y = yardstick(loss, **case.arguments, cotangent=cotangent)
    arrays = {n: v for n, v in case.arguments.items() if isinstance(v, np.ndarray)}
    plain = {n: v for n, v in case.arguments.items() if v is not None and n not in arrays}
    return {
        "id": number, "case": case.name, "arguments": {n: _array(v) for n, v in arrays.items()},
        "options": {n: _option(v) for n, v in plain.items()}, "cotangent": _array(cotangent),
        "terms": _enclosure(y.terms, y.term_scale, None),
        "gradients": {
            n: _enclosure(g, s, k)
            for n, g, s, k in zip(y.given, y.gradients, y.gradient_scales, y.kinks, strict=True)
        },
    }  # fmt: skip


def _option(value):
    if isinstance(value, (bool, str, int)):
        return value
    value = float(value)
    return value if np.isfinite(value) else repr(value)


def _array(x: np.ndarray) -> dict:
    flat = np.asarray(x).ravel()
    data = flat.tolist() if flat.dtype.kind in "iub" else [float(v).hex() for v in flat]
    return {"shape": list(np.shape(x)), "data": data}


def _enclosure(truth, scale, kinks) -> dict:
    mid, rad = truth.midpoint, truth.radius
    # The midpoint is rounded to float64: the bound grows by half an ulp of it.
    with np.errstate(all="ignore"):
        half = np.where(np.isfinite(mid), np.spacing(np.abs(mid)) / 2, 0.0)
        rad = np.where(np.isfinite(mid), np.nextafter(rad + half, np.inf), 0.0)
    unit = epsilon(np.float64) * np.broadcast_to(scale, mid.shape) + smallest(np.float64)
    if kinks is not None:  # where no derivative exists, any number will do
        unit = np.where(kinks, np.inf, unit)
    return {"shape": list(mid.shape), **{n: [float(v).hex() for v in np.ravel(a)] for n, a in
                                         (("mid", mid), ("rad", rad), ("unit", unit))}}  # fmt: skip
