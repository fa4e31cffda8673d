"""The last pass over a row: out[j] = formula(row[j]), element by element.

A result that is larger than the caches is stored around them: an ordinary store reads the line from memory
before it writes it. Such stores need addresses that are multiples of 64 bytes, so the row's first few
elements are written apart. A smaller result is asked for in advance: else a store waits for its line, and the
arithmetic waits for the stores.
"""

from lossref.kernels.compilation import inlined
from lossref.kernels.lanes import (
    load,
    load_tail,
    misalignment,
    prefetch,
    store,
    store_around_caches,
    store_tail,
    whole,
    width,
)

__all__ = ["write", "write_beside"]

# So many elements in advance.
AHEAD = 2048


@inlined
def write(formula, row, constants, out, around_caches):
    """out[j] = formula(row[j], *constants)."""
    if around_caches:
        head = min(misalignment(out), row.size)
        if head > 0:
            store_tail(out[:head], 0, formula(load_tail(row[:head], 0, 0.0), constants))
        row, out = row[head:], out[head:]
        for j in range(0, whole(row), width(row)):
            store_around_caches(out, j, formula(load(row, j), constants))
    else:
        for j in range(0, whole(row), width(row)):
            prefetch(out, j + AHEAD)
            store(out, j, formula(load(row, j), constants))
    if whole(row) < row.size:
        store_tail(out, whole(row), formula(load_tail(row, whole(row), 0.0), constants))


@inlined
def write_beside(formula, row, other, constants, out, around_caches):
    """out[j] = formula(row[j], other[j], *constants)."""
    if around_caches:
        head = min(misalignment(out), row.size)
        if head > 0:
            store_tail(
                out[:head],
                0,
                formula(load_tail(row[:head], 0, 0.0), load_tail(other[:head], 0, 0.0), constants),
            )
        row, other, out = row[head:], other[head:], out[head:]
        for j in range(0, whole(row), width(row)):
            store_around_caches(out, j, formula(load(row, j), load(other, j), constants))
    else:
        for j in range(0, whole(row), width(row)):
            prefetch(out, j + AHEAD)
            store(out, j, formula(load(row, j), load(other, j), constants))
    if whole(row) < row.size:
        tail, beside = load_tail(row, whole(row), 0.0), load_tail(other, whole(row), 0.0)
        store_tail(out, whole(row), formula(tail, beside, constants))
