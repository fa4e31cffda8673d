"""How a kernel is compiled: when first called, once per dtype, and cached on disk; it runs without the
interpreter's lock.

No fast-math flag is set anywhere. `nnan` and `ninf` would make a masked class (−∞) or a NaN undefined
behaviour, and the freedom to reorder a sum is not needed where the lanes are written out (see `lanes`).
Division by zero follows IEEE 754.

`_nrt=False` compiles without Numba's reference counts: each slice of a row would count up and down, in the middle of
the arithmetic, by an instruction that waits for memory. A kernel therefore allocates nothing: its caller holds all
arrays and hands in the buffers.
"""

from pathlib import Path

from numba import njit

__all__ = ["OPTIONS", "inlined", "kernel"]

OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False}


def _stamp_of_all_kernels():
    """The newest modification and the total size of this folder's sources."""
    files = [path.stat() for path in Path(__file__).parent.glob("*.py")]
    return max(file.st_mtime for file in files), sum(file.st_size for file in files)


_STAMP = _stamp_of_all_kernels()


def kernel(function):
    """Compile `function` for each dtype that it meets, and keep the machine code on disk.

    Numba's disk cache asks only whether the *function's own* file has changed. A kernel is made of
    functions from several files (a new polynomial in `exponential` must recompile `softmax`), so the stamp
    of the whole folder replaces it.
    """
    dispatcher = njit(cache=True, **OPTIONS)(function)
    cache_file = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = _STAMP
    return dispatcher


def inlined(function):
    """A function that is always compiled into its caller: lanes stay in registers across the call."""
    return njit(forceinline=True, **OPTIONS)(function)
