"""``lossref vectors``: test vectors for other languages."""

from __future__ import annotations

from pathlib import Path

import lossref

from .terminal import console, known


def export_vectors(folder: Path, names: list[str] | None, seed: int) -> int:
    for name in names or ():
        known("loss", name, lossref.losses())
    out = console()
    for path, count in lossref.oracle.export(folder, names, seed=seed):
        out.print(f"{path}: {count} vectors")
    return 0
