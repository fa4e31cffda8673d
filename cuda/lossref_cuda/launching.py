"""How rungs with the same name are launched, whatever they compute."""

from __future__ import annotations

from collections.abc import Iterable

from numba.cuda.core import config

from lossref_cuda.instructions import SIMULATED

# Threads of a block. A constant, because the compiler unrolls a loop by four and needs its trip count for
# that: with a step known only at run time that is a 64-bit division, a subroutine longer than many of the
# loops. In the simulator a thread is a Python thread, and one warp is plenty.
THREADS = 32 if SIMULATED else 256

# Shared memory that every GPU gives a block without asking, less the scratch of the reductions.
CHIP_BYTES = 47 * 1024

# These read 128 bits at a time.
WIDE_RUNGS = ("one_warp_per_row_vectorised", "row_in_registers", "vectorised", "long_row_split_over_blocks")


def chosen(rung: str, rungs: Iterable[str], aligned: bool) -> str:
    """The rung, or the reason why it cannot be had."""
    if rung not in rungs:
        raise ValueError(f"rung must be one of {', '.join(rungs)}, got {rung!r}")
    if rung in WIDE_RUNGS and not aligned:
        raise ValueError(f"rung {rung!r} needs arrays that start on a multiple of 16 bytes")
    return rung


def bytes_on_chip(columns: int, itemsize: int) -> int:
    """What a row needs in shared memory, if it fits."""
    if columns * itemsize > CHIP_BYTES:
        raise ValueError(f"a row of {columns} does not fit on the chip ({CHIP_BYTES} bytes)")
    return columns * itemsize


def configured(kernel, blocks, threads, stream, bytes_on_chip: int = 0):
    """kernel[blocks, threads, …] without Numba's warning that few blocks leave a GPU idle: a reduction ends in one
    block by nature, and how many rows there are is the caller's choice. No blocks are nothing to do, which the driver
    would refuse to be told."""
    if 0 in (blocks if isinstance(blocks, tuple) else (blocks,)):
        return lambda *arguments: None
    before = config.CUDA_LOW_OCCUPANCY_WARNINGS
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
    try:
        return kernel[blocks, threads, stream, bytes_on_chip]
    finally:
        config.CUDA_LOW_OCCUPANCY_WARNINGS = before


def geometry(rung: str, rows: int) -> tuple:
    """(blocks, threads of a block)."""
    if rung == "one_thread_per_row":
        return -(-rows // THREADS), THREADS
    if rung.startswith("one_warp_per_row"):
        return -(-rows // (THREADS // 32)), (32, THREADS // 32)
    return rows, THREADS


def rung_below_a_block(rows: int, columns: int, aligned: bool) -> str | None:
    """The rung of rows that are no work for a whole block, if they are not: docs/benchmarks/instructions.md counts what
    it costs to merge what threads have found. Of up to 32 numbers a warp has no more than one a lane, and would do
    little else; the warps of a block merge over shared memory, in 300 instructions a thread, as many as 32 numbers of a
    row take. With many rows a warp each keeps a GPU busy."""
    if columns <= 32:
        return "one_thread_per_row"
    if columns <= 1024 or (columns <= 8192 and rows >= 4096):
        return "one_warp_per_row_vectorised" if aligned else "one_warp_per_row"
    return None


def pieces_for(rows: int, columns: int) -> tuple[int, int]:
    """(pieces, their length): enough blocks for a large GPU, no piece shorter than 8192 numbers."""
    wanted = max(1, 1024 // max(1, rows))
    length = max(8192, -(-columns // wanted))
    length = -(-length // 4) * 4
    return -(-columns // length), length
