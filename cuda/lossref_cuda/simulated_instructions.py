"""The twins of `instructions` for Numba's CUDA simulator, where a thread is a Python thread.

Numbers are NumPy scalars, so float32 arithmetic rounds as on a GPU. `exp`, `log1p` and `tanh` are NumPy's and
differ from the GPU's in the last bit; `fma` and `ex2.approx` are imitated (the latter more accurate than the
real one). A shuffle goes through a list that the lanes of one warp share.
"""

import threading
from fractions import Fraction

import numpy as np
from numba import cuda


def device_function(function):
    """The simulator lends `cuda` to a device function for the time of each call, which is slow. Most never
    name it, and are ordinary functions."""
    return cuda.jit(device=True)(function) if "cuda" in function.__code__.co_names else function


full_block_kernel = cuda.jit  # nobody counts registers here


def _arithmetic(dtype):
    dtype = np.dtype(dtype)
    return np.float64 if dtype == np.float64 else np.float32


def _widen(value):
    if isinstance(value, np.uint16):  # bfloat16: the upper half of a float32
        return np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return _arithmetic(value.dtype)(value)


def _narrow(dtype, value):
    if dtype == np.uint16:
        if np.isnan(value):
            return np.uint16(0x7FC0)
        bits = int(np.float32(value).view(np.uint32))
        return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
    with np.errstate(over="ignore", under="ignore"):
        return dtype.type(value)


def load(array, row, column):
    return _widen(array[row, column])


def store(array, row, column, value):
    array[row, column] = _narrow(array.dtype, value)


def load_at(array, index):
    return _widen(array[index])


def store_at(array, index, value):
    array[index] = _narrow(array.dtype, value)


def as_row(array, columns):
    return array[:columns].reshape(1, columns)


def load4(array, row, column):
    assert (row * array.shape[1] + column) % 4 == 0, "load4 needs an aligned address"
    return tuple(_widen(array[row, column + k]) for k in range(4))


def store4(array, row, column, a, b, c, d):
    assert (row * array.shape[1] + column) % 4 == 0, "store4 needs an aligned address"
    for k, value in enumerate((a, b, c, d)):
        array[row, column + k] = _narrow(array.dtype, value)


def real(like, number):
    return _arithmetic(like.dtype)(number)


def is_float32(x):
    return x.dtype == np.float32


def lowest(like):
    return _arithmetic(like.dtype)(np.finfo(_arithmetic(like.dtype)).min)


def _quietly(function):
    """A GPU raises no floating-point warning."""

    def evaluate(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return evaluate


exp = _quietly(np.exp)
log1p = _quietly(np.log1p)
tanh = _quietly(np.tanh)
rint = _quietly(np.rint)


@_quietly
def fast_exp(x):
    if isinstance(x, np.float32):
        return np.exp2(x * np.float32(1.4426950408889634))
    return np.exp(x)


@_quietly
def fma(a, b, c):
    if isinstance(a, np.float32):
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    if not np.isfinite(a * b + c):
        return a * b + c
    return np.float64(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))


@_quietly
def power_of_two(n):
    lowest = -127 if isinstance(n, np.float32) else -1023
    if n <= lowest:
        return type(n)(0)
    return type(n)(np.exp2(np.float64(n)))


_first_use = threading.Lock()


class _Warp:
    """What the lanes of one warp share. Two slots, used in turn: a lane may write the next value while
    another still reads this one, and only one barrier is needed for each shuffle."""

    def __init__(self, lanes):
        self.barrier = threading.Barrier(lanes)
        self.slots = ([None] * lanes, [None] * lanes)


def _exchange(value):
    """The values of all lanes of this thread's warp, and this thread's lane."""
    thread = threading.current_thread()
    warp_number, lane = divmod(thread.thread_id, 32)
    block = thread._manager
    with _first_use:
        warps = block.__dict__.setdefault("warps", {})
        if warp_number not in warps:
            warps[warp_number] = _Warp(32)
    warp = warps[warp_number]
    turn = getattr(thread, "shuffles", 0)
    thread.shuffles = turn + 1
    slot = warp.slots[turn % 2]
    slot[lane] = value
    warp.barrier.wait(timeout=60)
    return slot, lane


def shuffle_xor(value, bits):
    values, lane = _exchange(value)
    return values[lane ^ bits]


def count_lanes(condition):
    conditions, _ = _exchange(condition)
    return sum(map(bool, conditions))


def wait_for_warp():
    _exchange(None)


def pack_bfloat16(low, high):
    halves = (int(_narrow(np.dtype(np.uint16), number)) for number in (low, high))
    return np.uint32(next(halves) | next(halves) << 16)


def _halves(word):
    return [_widen(np.uint16(int(word) & 0xFFFF)), _widen(np.uint16(int(word) >> 16))]


@_quietly
def multiply_tiles(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
    """The entries that the lanes hold, as the instruction's documentation lays them out; sums in float64, which
    is more than a tensor core keeps."""
    lanes, lane = _exchange((a0, a1, a2, a3, b0, b1))
    group, member = lane >> 2, lane & 3

    def along_depth(owner, first, second):
        """16 neighbours along the depth: the words `first` and `second` of the four lanes of one group."""
        words = [lanes[4 * owner + k][index] for index in (first, second) for k in range(4)]
        return np.array([half for word in words for half in _halves(word)], np.float64)

    rows = along_depth(group, 0, 2), along_depth(group, 1, 3)
    columns = along_depth(2 * member, 4, 5), along_depth(2 * member + 1, 4, 5)
    sums = (c0, c1, c2, c3)
    return tuple(np.float32(sums[2 * i + j] + rows[i] @ columns[j]) for i in range(2) for j in range(2))
