"""From the caller's array to rows, and the division of rows among threads.

A kernel sees rows: a C-contiguous, aligned, read-only array of shape (rows, length) in float32 or float64.
An axis that is not the last is moved to the end, which copies; float16 and bfloat16 become float32 and are
rounded once, at the end. Inputs are passed read-only, so that a kernel that writes to one does not compile.

Threads are Python's own: a kernel runs without the interpreter's lock, calls from several threads at once
are safe, nothing spins between calls, and a forked process starts anew. Their number is Numba's
(`NUMBA_NUM_THREADS`, `numba.set_num_threads`). Since they sleep between calls, a scheduler may wake them on the
core that the caller is on, where they wait for the caller to finish; so on Linux they are kept off it.
"""

import contextlib
import ctypes
import functools
import inspect
import itertools
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numba
import numpy as np

__all__ = [
    "apart",
    "around_caches",
    "check_out",
    "check_outs",
    "computed_in",
    "empty_result",
    "finish",
    "half_in_parts",
    "in_parallel",
    "pieces",
    "pieces_of_a_row",
    "read_only",
    "split_rows_or_elements",
    "to_rows",
]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
COMPUTED_IN = {
    np.dtype(np.float16): np.dtype(np.float32),
    BFLOAT16: np.dtype(np.float32),
    np.dtype(np.float32): np.dtype(np.float32),
    np.dtype(np.float64): np.dtype(np.float64),
}

# Below this many elements a second thread costs more than it brings.
WORTH_A_THREAD = 100_000
# A 16-bit array larger than this is computed in parts.
HALF_AT_A_TIME = 1 << 24
# The arguments that have an entry, or a row of them, for each row.
BY_ROW = ("labels", "cotangent", "out")
# A result larger than this will not be found in a cache by whoever reads it, so it need not pass through one.
LARGER_THAN_CACHES = 32 << 20


def computed_in(name, array):
    """The dtype in which a kernel computes for this argument."""
    try:
        return COMPUTED_IN[array.dtype]
    except KeyError:
        raise TypeError(
            f"{name}: the numba path takes float16, bfloat16, float32 or float64, not {array.dtype}"
        ) from None


def read_only(array, dtype):
    """A C-contiguous, aligned, read-only view (a copy where it must be)."""
    view = np.require(array, dtype, ["C", "A"]).view()
    view.flags.writeable = False
    return view


def to_rows(name, array, axis):
    """(rows, axis as a non-negative number). The reduced axis must not be empty."""
    array = np.asarray(array)
    dtype = computed_in(name, array)
    if array.ndim == 0:
        raise ValueError(f"{name}: expected at least one dimension, got a scalar")
    if not -array.ndim <= axis < array.ndim:
        raise ValueError(f"axis: {axis} is out of range for {name} of shape {array.shape}")
    axis %= array.ndim
    length = array.shape[axis]
    if length == 0:
        raise ValueError(f"{name}: the reduced axis {axis} is empty (shape {array.shape})")
    moved = np.moveaxis(array, axis, -1)
    return read_only(moved.reshape(math.prod(moved.shape[:-1]), length), dtype), axis


def empty_result(rows, array, axis, out):
    """Rows to write to: the memory of `out` where that is possible, else fresh memory (allocated by NumPy,
    which asks for huge pages)."""
    if out is not None:
        check_out(out, array.shape, array.dtype)
        if out.dtype == rows.dtype and axis == out.ndim - 1 and out.flags.aligned:
            result = out.reshape(rows.shape)
            if not overlaps_elsewhere(result, rows):
                return result
    return np.empty(rows.shape, rows.dtype)


def check_out(out, shape, dtype):
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"out: expected an array of {dtype} {shape}, got {got}")
    if not out.flags.c_contiguous:
        raise ValueError("out: must be C-contiguous")
    if not out.flags.writeable:
        raise ValueError("out: must be writeable")


def check_outs(out, arrays):
    """A tuple of arrays to write to, each like one of `arrays`, and none in the memory of another."""
    if not isinstance(out, tuple | list) or len(out) != len(arrays):
        raise ValueError(f"out: expected a tuple of {len(arrays)} arrays")
    for array, target in zip(arrays, out, strict=True):
        check_out(target, array.shape, array.dtype)
    if any(np.may_share_memory(*two) for two in itertools.combinations(out, 2)):
        raise ValueError("out: two of its arrays share memory")


def overlaps_elsewhere(out, array):
    """Whether writing a row of `out` may destroy another row of `array`. (A row may be written over itself.)"""
    same = out.ctypes.data == array.ctypes.data and array.flags.c_contiguous
    return not same and np.may_share_memory(out, array)


def apart(out, arrays):
    """`out`, or fresh memory where one of the arrays is still to be read there."""
    return np.empty_like(out) if any(np.may_share_memory(out, array) for array in arrays) else out


def finish(result, array, axis, out):
    """Result rows in the shape, axis order and dtype of `array`."""
    if out is not None and np.may_share_memory(result, out):
        return out
    moved_shape = array.shape[:axis] + array.shape[axis + 1 :] + (array.shape[axis],)
    moved = np.moveaxis(result.reshape(moved_shape), -1, axis)
    if out is None:
        return moved.astype(array.dtype, copy=False)
    out[...] = moved
    return out


def half_in_parts(function):
    """Decorator: a large 16-bit array is taken some rows at a time, so that there is never a float32 copy of all of
    it, twice as large as itself. `function` takes rows as its first argument and whatever belongs to rows by name."""
    signature = inspect.signature(function)
    first = next(iter(signature.parameters))

    @functools.wraps(function)
    def in_parts(*args, **kwargs):
        x = np.asarray(args[0] if args else kwargs[first])
        if x.dtype.itemsize != 2 or x.size <= HALF_AT_A_TIME or x.ndim < 2:
            return function(*args, **kwargs)
        arguments = signature.bind(*args, **kwargs).arguments
        if arguments.get("axis", -1) % x.ndim == 0:
            return function(*args, **kwargs)
        if arguments.get("out") is not None:
            check_out(arguments["out"], x.shape, x.dtype)
            if overlaps_elsewhere(arguments["out"], x):
                return function(*args, **kwargs)
        for name in {"cotangent", "labels"} & arguments.keys():
            arguments[name] = np.asarray(arguments[name])
        arguments[first] = x
        by_row = [name for name in (first, *BY_ROW) if getattr(arguments.get(name), "ndim", 0)]
        if any(arguments[name].shape[0] != x.shape[0] for name in by_row):
            return function(*args, **kwargs)
        results: tuple = ()
        each = max(1, HALF_AT_A_TIME * x.shape[0] // x.size)
        for start in range(0, x.shape[0], each):
            part = slice(start, start + each)
            found = function(**{**arguments, **{name: arguments[name][part] for name in by_row}})
            parts = found if isinstance(found, tuple) else (found,)
            if not results:
                results = tuple(np.empty(x.shape[:1] + p.shape[1:], p.dtype) for p in parts)
                if arguments.get("out") is not None:  # it belongs to the last result
                    results = (*results[:-1], arguments["out"])
            for result, computed in zip(results, parts, strict=True):
                if not np.may_share_memory(result, computed):
                    result[part] = computed
        return results if isinstance(found, tuple) else results[0]

    return in_parts


# -------------------------------------------------------------------------------------------------- threads

_pool = None
_workers: dict[int, set[int]] = {}  # the cores on which each thread of the pool may run


def _forget_pool():
    global _pool
    _pool = None
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def in_parallel(work, parts):
    """[work(*part) for part in parts], the first one in this thread."""
    global _pool
    if len(parts) <= 1:
        return [work(*part) for part in parts]
    if _pool is None:
        _pool = ThreadPoolExecutor(
            max(1, numba.config.NUMBA_NUM_THREADS),
            "lossref",
            initializer=lambda: _workers.setdefault(threading.get_native_id(), set()),
        )
    keep_off_this_core()
    others = [_pool.submit(work, *part) for part in parts[1:]]
    try:
        first = work(*parts[0])
    finally:
        for other in others:
            other.exception()
    return [first] + [other.result() for other in others]


_current_core = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None


def keep_off_this_core():
    """Let the pool's threads run on every core that the caller may use but the one it is on. (On Linux; elsewhere
    this is left to the scheduler.)"""
    if _current_core is None:
        return
    cores = os.sched_getaffinity(0) - {_current_core()}
    for worker, allowed in list(_workers.items()):
        if cores and cores != allowed:
            with contextlib.suppress(OSError):  # a matter of speed only
                os.sched_setaffinity(worker, cores)
            _workers[worker] = cores


def thread_count():
    """Numba's number of threads. To ask for it would start Numba's own threads, which nothing here uses, so
    it is asked only if they are there (`numba.set_num_threads` starts them)."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    if getattr(parallel, "_is_initialized", False):
        return numba.get_num_threads()
    return numba.config.NUMBA_NUM_THREADS


def pieces(count, elements_each):
    """Consecutive (start, stop) that divide `count` things of so many elements among the threads."""
    if count * elements_each < 2 * WORTH_A_THREAD:
        return [(0, count)]
    threads = min(thread_count(), count, count * elements_each // WORTH_A_THREAD)
    bounds = [count * k // threads for k in range(threads + 1)]
    return list(itertools.pairwise(bounds))


def pieces_of_a_row(length):
    """The same for the elements of one row, in multiples of 4096 elements."""
    bounds = [(start + 4095) // 4096 * 4096 for start, _ in pieces(length, 1)] + [length]
    return list(itertools.pairwise(bounds))


def split_rows_or_elements(rows):
    """True where there are fewer rows than threads and they are long: then the elements of each row are
    divided."""
    count, length = rows.shape
    return length >= 2 * WORTH_A_THREAD and count < 2 * thread_count()


def around_caches(result):
    return result.nbytes > LARGER_THAN_CACHES
