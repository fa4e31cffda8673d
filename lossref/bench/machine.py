"""The machine that was measured, without its name or its paths: caches, memory, how pages are given out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

CPU = Path("/sys/devices/system/cpu")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def caches() -> dict[str, str]:
    """ "L1 data": "48K", … of the first core; "L3 unified": "32768K"."""
    found = {}
    for folder in sorted((CPU / "cpu0" / "cache").glob("index*")):
        level, kind, size = (_text(folder / name) for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level} {kind.lower()}"] = size
    return found


def memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def vector_width() -> str:
    """The widest vector instructions that Numba may use."""
    try:
        from llvmlite.binding import get_host_cpu_features

        features = get_host_cpu_features()
    except (ImportError, RuntimeError):
        return ""
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "neon": "NEON"}
    return next((name for feature, name in names.items() if features.get(feature)), "")


def load() -> float | None:
    """How many other things were running in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def description() -> dict[str, object]:
    return {
        "caches": caches(),
        "memory_bytes": memory_bytes(),
        "vectors": vector_width(),
        "transparent_huge_pages": _chosen(_text(HUGE_PAGES)),
        "load_before": load(),
    }


def commit() -> str:
    """The commit of a checkout, marked if the packages differ from it; "" where there is none."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments) -> str:
        run = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return ""
        changed = git("status", "--porcelain", "--", "lossref", "cuda")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _chosen(text: str) -> str:
    """ "always [madvise] never" → "madvise"."""
    return text.partition("[")[2].partition("]")[0]
