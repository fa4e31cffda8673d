"""Arrays in and out: NumPy arrays are copied to the device and back, device arrays are viewed.

A kernel sees C-contiguous rows (rows, columns) or a vector. `Call` turns the arguments of one call into that
shape and turns the results back. bfloat16 is handed to the kernels as uint16.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda import require
from lossref_cuda.instructions import SIMULATED, real, store_at
from lossref_cuda.launching import THREADS, configured

CUDA_DLPACK_DEVICES = (2, 13)  # kDLCUDA, kDLCUDAManaged
LEGACY_STREAM = 1  # another name of the default stream, 0, where 0 would be ambiguous


def lives_on_device(array: Any) -> bool:
    if isinstance(array, np.ndarray | np.generic | int | float) or array is None:
        return False
    if getattr(array, "__cuda_ndarray__", False) or hasattr(array, "__cuda_array_interface__"):
        return True
    where = getattr(array, "__dlpack_device__", None)
    return where is not None and where()[0] in CUDA_DLPACK_DEVICES


def bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _is_bfloat16(dtype: np.dtype) -> bool:
    # ml_dtypes registers itself as a void of two bytes, and that is how bfloat16 arrives through the CUDA
    # array interface, where PyTorch calls it <V2 as well.
    return dtype.kind == "V" and dtype.itemsize == 2


def storage_dtype(dtype: np.dtype) -> np.dtype:
    """How the kernels see an array of this dtype."""
    return np.dtype(np.uint16) if _is_bfloat16(dtype) else dtype


def arithmetic_dtype(dtype: np.dtype) -> np.dtype:
    """The dtype in which the kernels compute."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def is_torchs(array: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def producers_stream(array: Any) -> int | None:
    """The stream on which the producer of an array works, or None where it cannot be known.

    The array interface has a field for it. PyTorch leaves that out and has a current stream instead. DLPack knows no
    producer's stream; its arrays are asked to be ready on ours.
    """
    if is_torchs(array):
        return sys.modules["torch"].cuda.current_stream(array.device).cuda_stream
    return (getattr(array, "__cuda_array_interface__", None) or {}).get("stream")


def stream_pointer_of(arrays: Iterable[Any]) -> int:
    """The first stream on which one of the arrays is made: launching there needs no waiting. 0 is the default."""
    return next((pointer for pointer in map(producers_stream, arrays) if pointer is not None), 0)


def wait_for_producer(array: Any, stream: Any) -> None:
    """Let our stream wait, on the device, for what the producer of an array has under way on another."""
    pointer, ours = producers_stream(array), int(stream)
    if pointer is None or (pointer or LEGACY_STREAM) == (ours or LEGACY_STREAM):
        return
    event = cuda.event(timing=False)
    event.record(cuda.external_stream(pointer) if pointer else 0)
    event.wait(stream)


def interface_of(array: Any, stream_pointer: int) -> tuple[dict, Any]:
    """The array as the CUDA array interface describes it, and the object that keeps the memory alive.

    Nothing waits on the host: what comes by DLPack is ordered before our stream by its producer. That goes before an
    interface of version 2 (JAX has one), which cannot say whose stream is still at work on the array.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None and ("stream" in interface or is_torchs(array) or not hasattr(array, "__dlpack__")):
        return interface, array
    from cuda.core.utils import StridedMemoryView

    memory = StridedMemoryView.from_dlpack(array, stream_ptr=stream_pointer or LEGACY_STREAM)
    dtype = np.dtype(memory.dtype)  # bfloat16 as well
    strides = memory.strides
    interface = {
        "shape": tuple(memory.shape),
        "strides": None if strides is None else tuple(s * dtype.itemsize for s in strides),
        "typestr": dtype.str,
        "data": (memory.ptr, memory.readonly),
        "version": 3,
    }
    return interface, memory


class Call:
    """The arrays of one call. All on the host, or all on the device."""

    def __init__(self, *arrays: Any, stream: Any = None):
        require()
        present = [array for array in arrays if array is not None and not isinstance(array, int | float)]
        self.on_device = any(lives_on_device(array) for array in present)
        if self.on_device and not all(lives_on_device(array) for array in present):
            raise TypeError("all arrays must live on the device, or all must be NumPy arrays")
        if stream is None:
            pointer = 0 if SIMULATED or not self.on_device else stream_pointer_of(present)
            stream = cuda.external_stream(pointer) if pointer else 0
        self.stream = stream
        self.sent: list[np.ndarray] = []  # what a copy on the stream may still have to read
        if self.on_device and not SIMULATED:
            for array in present:
                wait_for_producer(array, stream)

    # ---- in ------------------------------------------------------------------------------------------

    def rows(self, array: Any, axis: int = -1) -> tuple[Any, np.dtype, tuple[int, ...]]:
        """(kernel's view of shape (rows, columns), dtype, shape with `axis` moved to the end)."""
        array, dtype = self._view(array)
        axis = range(array.ndim)[axis]
        shape = (*array.shape[:axis], *array.shape[axis + 1 :], array.shape[axis])
        if dtype.kind != "f" and not _is_bfloat16(dtype):
            raise TypeError(f"expected float16, bfloat16, float32 or float64, got {dtype}")
        order = (*(d for d in range(array.ndim) if d != axis), axis)
        return self._contiguous(array, order, (math.prod(shape[:-1]), shape[-1])), dtype, shape

    def dtype(self, array: Any) -> np.dtype:
        return self._view(array)[1]

    def vector(self, array: Any) -> Any:
        """The kernel's view of an array of any shape, flattened."""
        array, _ = self._view(array)
        return self._contiguous(array, tuple(range(array.ndim)), (math.prod(array.shape),))

    def numbers(self, numbers: Any, dtype: np.dtype) -> Any:
        """A vector, or one number for all rows as a vector of length 1, in the dtype of the arithmetic."""
        if self.on_device and lives_on_device(numbers):
            return self.vector(numbers)
        numbers = np.asarray(numbers, arithmetic_dtype(dtype))
        if self.on_device and numbers.size == 1:  # written by a kernel: a copy would wait for the stream
            return self.full((1,), numbers.dtype, float(numbers.ravel()[0]))
        return self.send(np.ascontiguousarray(numbers).reshape(-1))

    def cotangent(self, cotangent: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """A cotangent of this shape; a number stands for an array of it."""
        if lives_on_device(cotangent):
            return cotangent
        array = np.asarray(cotangent)
        if not self.on_device:
            return np.broadcast_to(array, shape)
        if array.ndim:
            raise TypeError("the cotangent must live on the device like the other arrays, or be a number")
        full = self.full(shape, dtype, float(array))
        return with_dtype(full, dtype) if _is_bfloat16(dtype) else full

    def _view(self, array: Any) -> tuple[Any, np.dtype]:
        if not self.on_device:
            array = np.asarray(array)
            dtype = array.dtype
            return (array.view(np.uint16) if _is_bfloat16(dtype) else array), dtype
        return view_of_device_array(array, self.stream)

    def _contiguous(self, array: Any, order: tuple[int, ...], shape: tuple[int, ...]) -> Any:
        if 0 in shape:
            return self.new(shape, array.dtype)
        if not self.on_device:
            return self.send(np.ascontiguousarray(array.transpose(order)).reshape(shape))
        array = permuted(array, order)
        if array.is_c_contiguous():
            return array.reshape(shape)
        packed = cuda.device_array(array.shape, array.dtype, stream=self.stream)
        _gather(array, packed, self.stream)
        return packed.reshape(shape)

    def send(self, array: np.ndarray) -> Any:
        """A contiguous NumPy array, copied to the device."""
        if 0 in array.strides:  # of an axis of length 1, as in x[None]: NumPy does not mind, Numba's layout does
            array = array.copy()
        self.sent.append(array)
        return cuda.to_device(array, self.stream)

    # ---- out -----------------------------------------------------------------------------------------

    def new(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        """Uninitialised device memory, as the kernels see it."""
        return cuda.device_array(shape, storage_dtype(np.dtype(dtype)), stream=self.stream)

    def full(self, shape: tuple[int, ...], dtype: np.dtype, number: float) -> Any:
        """The same, filled with a number."""
        return self.filled(self.new(shape, dtype), number)

    def filled(self, array: Any, number: float) -> Any:
        """The kernels' view of an array, all of it now this number."""
        if array.size:
            configured(fill, _blocks(array.size), THREADS, self.stream)(array.reshape((array.size,)), number)
        return array

    def to_host(self, array: Any) -> np.ndarray:
        """A copy that is complete: Numba's own, on a stream, promises only to be begun."""
        host = array.copy_to_host(stream=self.stream)
        if self.stream:
            self.stream.synchronize()
        return host

    def output(
        self, out: Any, shape: tuple[int, ...], dtype: np.dtype, axis: int = -1, *, reads: Iterable[Any] = (),
        in_place: bool = True,
    ) -> Any:  # fmt: skip
        """Rows for a kernel to write to, the result being of this shape: the memory of `out` where that is possible,
        else new memory, from which `result` copies. `reads` are the views that the kernel reads (or None); `in_place`
        says whether it may write over one of them."""
        axis = range(len(shape))[axis]
        rows = math.prod(shape[:axis] + shape[axis + 1 :]), shape[axis]
        if out is None:
            return self.new(rows, dtype)
        self.check_out(out, shape, dtype)
        if not self.on_device or axis != len(shape) - 1 or not (target := self._view(out)[0]).is_c_contiguous():
            return self.new(rows, dtype)
        target = target.reshape(rows)
        for array in filter(lambda array: array is not None, reads):
            same = start_of(array) == start_of(target) and (array.shape, array.dtype) == (rows, target.dtype)
            if same and in_place:
                target = array
            elif overlap(array, target):
                return self.new(rows, dtype)
        return target

    def check_out(self, out: Any, shape: tuple[int, ...], dtype: np.dtype) -> None:
        where = "on the device" if self.on_device else "of NumPy"
        if lives_on_device(out) != self.on_device or not hasattr(out, "shape"):
            raise ValueError(f"out: expected an array {where}, got {type(out).__name__}")
        found = self._view(out)[1]
        if tuple(out.shape) != tuple(shape) or found != dtype:
            raise ValueError(f"out: expected an array of {dtype} {tuple(shape)}, got {found} {tuple(out.shape)}")
        if is_read_only(out, self.stream) if self.on_device else not out.flags.writeable:
            raise ValueError("out: must be writeable")

    def check_outs(self, out: Any, results: list[tuple[tuple[int, ...], np.dtype]]) -> tuple:
        """A tuple of arrays to write to, or None for each."""
        if out is None:
            return (None,) * len(results)
        if not isinstance(out, tuple | list) or len(out) != len(results):
            raise ValueError(f"out: expected a tuple of {len(results)} arrays")
        for each, (shape, dtype) in zip(out, results, strict=True):
            self.check_out(each, shape, dtype)
        views = [self._view(each)[0] for each in out]
        for first, second in itertools.combinations(views, 2):
            if overlap(first, second) if self.on_device else np.may_share_memory(first, second):
                raise ValueError("out: two of its arrays share memory")
        return tuple(out)

    def result(self, array: Any, dtype: np.dtype, shape: tuple[int, ...], axis: int = -1, out: Any = None) -> Any:
        """A kernel's output in the caller's shape and dtype; the last axis goes back to where it came from. In `out`,
        if there is one."""
        order: tuple[int, ...] = tuple(range(len(shape)))
        if shape:
            axis = range(len(shape))[axis]
            order = (*order[:axis], len(shape) - 1, *order[axis:-1])
        if not self.on_device:
            host = self.to_host(array)
            host = (host.view(dtype) if _is_bfloat16(dtype) else host).reshape(shape).transpose(order)
            if out is None:
                return host
            out[...] = host
            return out
        array = permuted(array.reshape(shape), order)
        if out is not None:
            target = self._view(out)[0]
            if array.size and start_of(target) != start_of(array):
                _gather(array, target, self.stream)
            return out
        # Who takes it over has to know where it is made, and Numba's views forget.
        return (with_dtype(array, dtype) if _is_bfloat16(dtype) else array).bind(self.stream)


def empty_result(call: Call, shape: tuple[int, ...], dtype: np.dtype, out: Any = None) -> Any:
    if out is not None:
        call.check_out(out, shape, dtype)
        return out
    if call.on_device:
        array = call.new(shape, dtype)
        return with_dtype(array, dtype) if _is_bfloat16(dtype) else array
    return np.empty(shape, dtype)


# ---- strided views -----------------------------------------------------------------------------------------
# The simulator's device arrays are NumPy arrays in a wrapper; the real ones are described by shape, strides
# and a pointer.

if SIMULATED:
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    def view_of_device_array(array: Any, stream: Any) -> tuple[Any, np.dtype]:
        dtype = array.dtype
        return (FakeCUDAArray(array._ary.view(np.uint16)) if _is_bfloat16(dtype) else array), dtype

    def permuted(array: Any, order: tuple[int, ...]) -> Any:
        raw = array._ary if isinstance(array, FakeCUDAArray) else array
        return FakeCUDAArray(raw.transpose(order))

    def with_dtype(array: Any, dtype: np.dtype) -> Any:
        return FakeCUDAArray(array._ary.view(dtype))

    def start_of(array: Any) -> int:
        return array._ary.ctypes.data

    def starts_on_16_bytes(array: Any) -> bool:
        return True

    def is_read_only(array: Any, stream: Any) -> bool:
        return not array._ary.flags.writeable

else:
    from numba.cuda.cudadrv.devicearray import DeviceNDArray

    def view_of_device_array(array: Any, stream: Any) -> tuple[Any, np.dtype]:
        """A device array of Numba's on the same memory, and the dtype. Does not wait for anything."""
        interface, owner = interface_of(array, int(stream))
        dtype = np.dtype(interface["typestr"])
        if _is_bfloat16(dtype):
            dtype = bfloat16()
            interface = {**interface, "typestr": "<u2"}
        return cuda.from_cuda_array_interface(interface, owner=owner, sync=False), dtype

    def permuted(array: Any, order: tuple[int, ...]) -> Any:
        if order == tuple(range(array.ndim)):
            return array
        shape = tuple(array.shape[d] for d in order)
        strides = tuple(array.strides[d] for d in order)
        return DeviceNDArray(shape, strides, array.dtype, gpu_data=array.gpu_data)

    def with_dtype(array: Any, dtype: np.dtype) -> Any:
        return DeviceNDArray(array.shape, array.strides, dtype, array.stream, array.gpu_data)

    def start_of(array: Any) -> int:
        return array.device_ctypes_pointer.value or 0  # None of an array without elements

    def starts_on_16_bytes(array: Any) -> bool:
        return start_of(array) % 16 == 0

    def is_read_only(array: Any, stream: Any) -> bool:
        return bool(interface_of(array, int(stream))[0]["data"][1])


def overlap(first: Any, second: Any) -> bool:
    """Whether two views have memory in common; between the elements of a view that is not contiguous counts too."""
    begin, end = zip(*(extent(array) for array in (first, second)), strict=True)
    return max(begin) < min(end)


def extent(array: Any) -> tuple[int, int]:
    begin = end = start_of(array)
    if array.size == 0:
        return begin, end
    for size, stride in zip(array.shape, array.strides, strict=True):
        begin += min(0, (size - 1) * stride)
        end += max(0, (size - 1) * stride)
    return begin, end + array.dtype.itemsize


def to_device(array: np.ndarray) -> Any:
    """One of Numba's arrays on the device, of bfloat16 too, which Numba itself does not copy."""
    if _is_bfloat16(array.dtype):
        return with_dtype(cuda.to_device(array.view(np.uint16)), array.dtype)
    return cuda.to_device(array)


@cuda.jit
def fill(target, number):
    index = cuda.grid(1)
    while index < target.shape[0]:
        store_at(target, index, real(target, number))
        index += cuda.gridsize(1)


@cuda.jit
def gather_four_dimensions(source, target):
    """target[a, b, c, d] = source[a, b, c, d], whatever the strides of source."""
    n_b, n_c, n_d = source.shape[1], source.shape[2], source.shape[3]
    size = source.shape[0] * n_b * n_c * n_d
    flat = cuda.grid(1)
    while flat < size:
        rest = flat // n_d
        outer = rest // n_c
        target[outer // n_b, outer % n_b, rest % n_c, flat % n_d] = source[
            outer // n_b, outer % n_b, rest % n_c, flat % n_d
        ]
        flat += cuda.gridsize(1)


def _gather(source: Any, target: Any, stream: Any) -> None:
    if source.ndim > 4:
        for index in range(source.shape[0]):
            _gather(source[index], target[index], stream)
        return
    if source.ndim < 4:
        missing = 4 - source.ndim
        source = _with_leading_ones(source, missing)
        target = _with_leading_ones(target, missing)
    configured(gather_four_dimensions, _blocks(math.prod(source.shape)), THREADS, stream)(source, target)


def _blocks(size: int) -> int:
    return max(1, min(1024, -(-size // THREADS)))


def _with_leading_ones(array: Any, count: int) -> Any:
    shape = (1,) * count + tuple(array.shape)
    if SIMULATED:
        return FakeCUDAArray(array._ary.reshape(shape) if array.is_c_contiguous() else array._ary[(None,) * count])
    return DeviceNDArray(shape, (0,) * count + tuple(array.strides), array.dtype, gpu_data=array.gpu_data)
