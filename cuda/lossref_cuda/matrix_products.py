"""The three matrix products of linear cross-entropy, where no library makes them.

For some rows of hidden states H, the classifier C, and the derivative G by their logits:

    logits        H C^T + b
    hidden        G C
    classifier    plus G^T H: added to what is there

Written as sum_k A[m, k] B[n, k], they differ only in which of A and B are read turned around, so each rung
below is one device function and three kernels that call it.

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_entry         the definition: one thread, one scalar product, everything read from memory
                                 TILE times as often as necessary
    shared_memory_tiles          a block copies two tiles to shared memory and uses each number TILE times;
                                 a thread keeps a few sums in registers. float32, or float64 for float64
    tensor_core_tiles            the same tiles in bfloat16: one instruction makes 16 x 8 sums over 16
                                 products each. Sums are float32, and so are the results

A tile of G that the gradient filter has dropped is not read: `alive` holds a flag for every TILE rows and TILE
classes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import cuda

from lossref_cuda.instructions import (
    SIMULATED,
    device_function,
    load,
    multiply_tiles,
    pack_bfloat16,
    real,
    store,
)
from lossref_cuda.launching import THREADS, configured

# A block makes TILE x TILE entries of the result. In the simulator, where a block is one warp, a quarter of the
# edge; everything else follows from it.
LOG_TILE = 4 if SIMULATED else 6
TILE = 1 << LOG_TILE

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sum_k A[m, k] B[n, k] in NumPy."""
    return a @ b.T


# ============================================================================================================
# Rungs
# ============================================================================================================


@device_function
def entry(a, turned, m, k, count, depth, like):
    """A[m, k], 0 beyond its edges; turned: A is stored as A[k, m]."""
    if m < count and k < depth:
        if turned:
            return load(a, k, m)
        return load(a, m, k)
    return real(like, 0.0)


@device_function
def is_alive(alive, filtered, classes_are_depth, m, k):
    """Whether the filter kept anything of the tile of G that starts at (m, k). The same for a whole block."""
    if not filtered:
        return True
    if classes_are_depth:
        return alive[m >> LOG_TILE, k >> LOG_TILE] != 0
    return alive[k >> LOG_TILE, m >> LOG_TILE] != 0


@device_function
def write_sum(result, m, n, number, bias, biased, added):
    if m < result.shape[0] and n < result.shape[1]:
        if biased:
            number += real(result, load(bias, 0, n))
        if added:
            number += load(result, m, n)
        store(result, m, n, number)


# ---- one_thread_per_entry ----


@device_function
def product_by_entries(
    a, a_turned, b, b_turned, out, depth, bias, biased, alive, filtered, classes_are_depth, added
):  # fmt: skip
    m = cuda.blockIdx.x * (THREADS >> 5) + (cuda.threadIdx.x >> 5)
    n = cuda.blockIdx.y * 32 + (cuda.threadIdx.x & 31)
    if m < out.shape[0] and n < out.shape[1]:
        total = real(out, 0.0)
        k = 0
        while k < depth:
            if is_alive(alive, filtered, classes_are_depth, m, k):
                x = entry(a, a_turned, m, k, out.shape[0], depth, out)
                total += x * entry(b, b_turned, n, k, out.shape[1], depth, out)
            k += 1
        write_sum(out, m, n, total, bias, biased, added)


@cuda.jit
def logits_by_entries(hidden, classifier, bias, biased, out):
    product_by_entries(hidden, False, classifier, False, out, hidden.shape[1], bias, biased, out, False, False, False)


@cuda.jit
def hidden_by_entries(g, classifier, alive, filtered, out):
    product_by_entries(g, False, classifier, True, out, g.shape[1], g, False, alive, filtered, True, False)


@cuda.jit
def classifier_by_entries(g, hidden, alive, filtered, out):
    product_by_entries(g, True, hidden, True, out, g.shape[0], g, False, alive, filtered, False, True)


# ---- shared_memory_tiles ----
# The threads of a block form a grid; a thread makes the sums of every ACROSSth column and every DOWNth row of the
# tile, so that neighbours read neighbours.

DEPTH = 8 if SIMULATED else 16
TILE_APART = TILE + 1  # the numbers of a column then lie in different banks of the memory
ACROSS, LOG_ACROSS = (4, 2) if SIMULATED else (16, 4)
DOWN = THREADS // ACROSS
ROWS_EACH, COLUMNS_EACH = TILE // DOWN, TILE // ACROSS


@device_function
def copy_tile(source, turned, first, k, count, depth, tile):
    """tile[k, m] of DEPTH x TILE, read along the direction in which the source lies in memory."""
    index = cuda.threadIdx.x
    while index < TILE * DEPTH:
        if turned:
            i, j = index & (TILE - 1), index >> LOG_TILE
        else:
            i, j = index // DEPTH, index & (DEPTH - 1)
        tile[j, i] = entry(source, turned, first + i, k + j, count, depth, tile)
        index += THREADS


@device_function
def product_by_tiles(
    a, a_turned, b, b_turned, out, depth, bias, biased, alive, filtered, classes_are_depth, added
):  # fmt: skip
    first_row, first_column = cuda.blockIdx.y << LOG_TILE, cuda.blockIdx.x << LOG_TILE
    across, down = cuda.threadIdx.x & (ACROSS - 1), cuda.threadIdx.x >> LOG_ACROSS
    left = cuda.shared.array((DEPTH, TILE_APART), out.dtype)
    right = cuda.shared.array((DEPTH, TILE_APART), out.dtype)
    sums = cuda.local.array((ROWS_EACH, COLUMNS_EACH), out.dtype)  # in registers: every index is a constant
    for i in range(ROWS_EACH):
        for j in range(COLUMNS_EACH):
            sums[i, j] = real(out, 0.0)
    k = 0
    while k < depth:
        if is_alive(alive, filtered, classes_are_depth, first_row, k):
            copy_tile(a, a_turned, first_row, k, out.shape[0], depth, left)
            copy_tile(b, b_turned, first_column, k, out.shape[1], depth, right)
            cuda.syncthreads()
            for inner in range(DEPTH):
                for i in range(ROWS_EACH):
                    x = left[inner, down + i * DOWN]
                    for j in range(COLUMNS_EACH):
                        sums[i, j] += x * right[inner, across + j * ACROSS]
            cuda.syncthreads()  # the tiles may be overwritten
        k += DEPTH
    for i in range(ROWS_EACH):
        for j in range(COLUMNS_EACH):
            m, n = first_row + down + i * DOWN, first_column + across + j * ACROSS
            write_sum(out, m, n, sums[i, j], bias, biased, added)


@cuda.jit
def logits_by_tiles(hidden, classifier, bias, biased, out):
    product_by_tiles(hidden, False, classifier, False, out, hidden.shape[1], bias, biased, out, False, False, False)


@cuda.jit
def hidden_by_tiles(g, classifier, alive, filtered, out):
    product_by_tiles(g, False, classifier, True, out, g.shape[1], g, False, alive, filtered, True, False)


@cuda.jit
def classifier_by_tiles(g, hidden, alive, filtered, out):
    product_by_tiles(g, True, hidden, True, out, g.shape[0], g, False, alive, filtered, False, True)


# ---- tensor_core_tiles ----
# The tiles are in shared memory as words of two bfloat16 that are neighbours along the depth. Each warp makes 16 rows
# and STRIPES x 8 columns of the tile.

WORDS = 8 if SIMULATED else 16  # of depth: twice as many numbers
LOG_WORDS = 3 if SIMULATED else 4
WORDS_APART = WORDS + 4  # 8 rows of 4 words then lie in 32 different banks
WARPS_DOWN, LOG_WARPS_DOWN = TILE // 16, LOG_TILE - 4
STRIPES = TILE * WARPS_DOWN // (8 * (THREADS // 32))


@device_function
def pack_tile(source, turned, first, k, count, depth, tile):
    """tile[m, w] of TILE x WORDS: source[m, k + 2w] and its neighbour in one word."""
    index = cuda.threadIdx.x
    zero = numba.float32(0.0)
    while index < TILE * WORDS:
        if turned:
            i, j = index & (TILE - 1), index >> LOG_TILE
        else:
            i, j = index >> LOG_WORDS, index & (WORDS - 1)
        low = entry(source, turned, first + i, k + 2 * j, count, depth, zero)
        high = entry(source, turned, first + i, k + 2 * j + 1, count, depth, zero)
        tile[i, j] = pack_bfloat16(low, high)
        index += THREADS


@device_function
def product_by_tensor_cores(
    a, a_turned, b, b_turned, out, depth, bias, biased, alive, filtered, classes_are_depth, added
):  # fmt: skip
    first_row, first_column = cuda.blockIdx.y << LOG_TILE, cuda.blockIdx.x << LOG_TILE
    warp, lane = cuda.threadIdx.x >> 5, cuda.threadIdx.x & 31
    group, member = lane >> 2, lane & 3
    top = ((warp & (WARPS_DOWN - 1)) << 4) + group  # of this lane's rows, top and top + 8
    stripe = (warp >> LOG_WARPS_DOWN) * STRIPES
    left = cuda.shared.array((TILE, WORDS_APART), numba.uint32)
    right = cuda.shared.array((TILE, WORDS_APART), numba.uint32)
    sums = cuda.local.array((STRIPES, 4), numba.float32)
    for s in range(STRIPES):
        for i in range(4):
            sums[s, i] = numba.float32(0.0)
    k = 0
    while k < depth:
        if is_alive(alive, filtered, classes_are_depth, first_row, k):
            pack_tile(a, a_turned, first_row, k, out.shape[0], depth, left)
            pack_tile(b, b_turned, first_column, k, out.shape[1], depth, right)
            cuda.syncthreads()
            for half in range(WORDS // 8):
                w = 8 * half + member
                a0, a1, a2, a3 = left[top, w], left[top + 8, w], left[top, w + 4], left[top + 8, w + 4]
                for s in range(STRIPES):
                    column = 8 * (stripe + s) + group
                    sums[s, 0], sums[s, 1], sums[s, 2], sums[s, 3] = multiply_tiles(
                        a0, a1, a2, a3, right[column, w], right[column, w + 4],
                        sums[s, 0], sums[s, 1], sums[s, 2], sums[s, 3],
                    )  # fmt: skip
            cuda.syncthreads()
        k += 2 * WORDS
    for s in range(STRIPES):
        m, n = first_row + top, first_column + 8 * (stripe + s) + 2 * member
        write_sum(out, m, n, sums[s, 0], bias, biased, added)
        write_sum(out, m, n + 1, sums[s, 1], bias, biased, added)
        write_sum(out, m + 8, n, sums[s, 2], bias, biased, added)
        write_sum(out, m + 8, n + 1, sums[s, 3], bias, biased, added)


@cuda.jit
def logits_by_tensor_cores(hidden, classifier, bias, biased, out):
    product_by_tensor_cores(
        hidden, False, classifier, False, out, hidden.shape[1], bias, biased, out, False, False, False
    )


@cuda.jit
def hidden_by_tensor_cores(g, classifier, alive, filtered, out):
    product_by_tensor_cores(g, False, classifier, True, out, g.shape[1], g, False, alive, filtered, True, False)


@cuda.jit
def classifier_by_tensor_cores(g, hidden, alive, filtered, out):
    product_by_tensor_cores(g, True, hidden, True, out, g.shape[0], g, False, alive, filtered, False, True)


# ============================================================================================================
# Launch
# ============================================================================================================

KERNELS = {
    "one_thread_per_entry": (logits_by_entries, hidden_by_entries, classifier_by_entries),
    "shared_memory_tiles": (logits_by_tiles, hidden_by_tiles, classifier_by_tiles),
    "tensor_core_tiles": (logits_by_tensor_cores, hidden_by_tensor_cores, classifier_by_tensor_cores),
}


class OwnProducts:
    """The products by the kernels of one rung, on one stream."""

    def __init__(self, rung: str, stream: Any):
        self.rung, self.stream = rung, stream
        self.kernels = KERNELS[rung]

    def logits(self, hidden: Any, classifier: Any, bias: Any, result: Any) -> None:
        if bias is None:
            self._launch(0, result, hidden, classifier, hidden, False)  # a matrix stands in, and is not read
        else:
            self._launch(0, result, hidden, classifier, bias.reshape((1, bias.size)), True)

    def hidden(self, g: Any, classifier: Any, tiles: Any, result: Any) -> None:
        self._launch(1, result, g, classifier, *self._alive(tiles, g))

    def classifier(self, g: Any, hidden: Any, tiles: Any, result: Any) -> None:
        self._launch(2, result, g, hidden, *self._alive(tiles, g))

    @staticmethod
    def _alive(tiles: Any, g: Any) -> tuple[Any, bool]:
        return (g, False) if tiles is None else (tiles.alive, True)

    def _launch(self, which: int, result: Any, *arguments: Any) -> None:
        rows, columns = result.shape
        if self.rung == "one_thread_per_entry":
            blocks = -(-rows // (THREADS // 32)), -(-columns // 32)  # there may be 65535 along the second
        else:
            blocks = -(-columns // TILE), -(-rows // TILE)
        configured(self.kernels[which], blocks, THREADS, self.stream)(*arguments, result)
