"""The instructions that the compiler does not offer: on a GPU the real ones, in the simulator their twins."""

import ml_dtypes
import numba
import numpy as np
import pytest
from lossref_cuda.instructions import as_row, load, multiply_tiles, pack_bfloat16, shuffle_xor, store
from lossref_cuda.launching import configured
from numba import cuda


@cuda.jit
def multiply_one_tile(a, b, c, d):
    """d = a b + c for one warp: each lane takes what the documentation of `multiply_tiles` says it holds."""
    lane = cuda.threadIdx.x
    group, member = lane >> 2, lane & 3
    k = 2 * member
    a0 = pack_bfloat16(load(a, group, k), load(a, group, k + 1))
    a1 = pack_bfloat16(load(a, group + 8, k), load(a, group + 8, k + 1))
    a2 = pack_bfloat16(load(a, group, k + 8), load(a, group, k + 9))
    a3 = pack_bfloat16(load(a, group + 8, k + 8), load(a, group + 8, k + 9))
    b0 = pack_bfloat16(load(b, k, group), load(b, k + 1, group))
    b1 = pack_bfloat16(load(b, k + 8, group), load(b, k + 9, group))
    c0, c1 = load(c, group, k), load(c, group, k + 1)
    c2, c3 = load(c, group + 8, k), load(c, group + 8, k + 1)
    d0, d1, d2, d3 = multiply_tiles(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3)
    store(d, group, k, d0)
    store(d, group, k + 1, d1)
    store(d, group + 8, k, d2)
    store(d, group + 8, k + 1, d3)


def test_a_warp_multiplies_two_tiles():
    """Whole numbers up to 100, which bfloat16 holds: the result is exact, so a single entry out of place shows."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(-100, 100, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8)))
    d = cuda.device_array((16, 8), np.float32)
    configured(multiply_one_tile, 1, 32, 0)(*map(cuda.to_device, (a, b, c)), d)
    np.testing.assert_array_equal(d.copy_to_host(), a @ b + c)


@cuda.jit
def pack_pairs(pairs, words):
    index = cuda.threadIdx.x
    if index < words.shape[0]:
        words[index] = pack_bfloat16(load(pairs, index, 0), load(pairs, index, 1))


def test_bfloat16_is_rounded_to_nearest():
    numbers = np.array([[1.0, -2.0], [1 + 2**-8, 1 + 3 * 2**-8], [np.inf, -np.inf], [3.3e38, 1e-40]], np.float32)
    words = cuda.device_array(4, np.uint32)
    configured(pack_pairs, 1, 32, 0)(cuda.to_device(numbers), words)
    halves = words.copy_to_host().view(np.uint16).reshape(4, 2).view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(halves.astype(np.float32), numbers.astype(ml_dtypes.bfloat16).astype(np.float32))


@cuda.jit
def reverse_on_chip(x, y):
    chip = as_row(cuda.shared.array(64, numba.float32), x.shape[1])
    j = cuda.threadIdx.x
    if j < x.shape[1]:
        chip[0, j] = x[0, j]
    cuda.syncthreads()
    if j < x.shape[1]:
        store(y, 0, j, load(chip, 0, x.shape[1] - 1 - j))


def test_shared_memory_as_a_row():
    x = np.arange(20, dtype=np.float32)[None]
    y = cuda.device_array((1, 20), np.float32)
    configured(reverse_on_chip, 1, 32, 0)(cuda.to_device(x), y)
    np.testing.assert_array_equal(y.copy_to_host(), x[:, ::-1])


@cuda.jit
def swap_lanes(x, y, bits):
    lane = cuda.threadIdx.x
    y[lane] = shuffle_xor(x[lane], bits)


@pytest.mark.parametrize("bits", [1, 16, 31])
def test_shuffle(bits):
    x = np.arange(32, dtype=np.float32)
    y = cuda.device_array(32, np.float32)
    configured(swap_lanes, 1, 32, 0)(cuda.to_device(x), y, bits)
    np.testing.assert_array_equal(y.copy_to_host(), x[np.arange(32) ^ bits])
