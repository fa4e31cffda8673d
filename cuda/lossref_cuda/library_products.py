"""The three matrix products of linear cross-entropy by the library that owns the caller's arrays.

A library is asked for two things only: out = a @ b and out += a @ b, in its own arrays over our memory, on our
stream. PyTorch multiplies 16-bit matrices into a float32 result; CuPy's product with an addition knows float32 and
float64 only. Whether float32 is multiplied as TF32 is the library's setting, and the caller's business.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
from numba import cuda

from lossref_cuda.instructions import load, real, store
from lossref_cuda.launching import THREADS, configured


class Library(Protocol):
    """What a library has to be able to do."""

    def takes(self, dtype: np.dtype) -> bool:
        """Whether it multiplies matrices of this dtype into float32 (float64 into float64)."""

    def on(self, stream: Any) -> Any:
        """A context in which it works on this stream."""

    def array(self, array: Any, dtype: np.dtype) -> Any:
        """Its own array on the memory of a device array, whose numbers are of this dtype."""

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        """out = a @ b."""

    def multiply_and_add(self, a: Any, b: Any, out: Any) -> None:
        """out += a @ b."""


class Torch:
    def __init__(self, torch: Any):
        self.torch = torch

    def takes(self, dtype: np.dtype) -> bool:
        return True

    def on(self, stream: Any) -> Any:
        pointer, cuda_of_torch = int(stream), self.torch.cuda
        if pointer == cuda_of_torch.current_stream().cuda_stream:
            return nullcontext()
        # An ExternalStream of 0 would be one of PyTorch's pool, not the default stream.
        ours = cuda_of_torch.ExternalStream(pointer) if pointer else cuda_of_torch.default_stream()
        return cuda_of_torch.stream(ours)

    def array(self, array: Any, dtype: np.dtype) -> Any:
        if dtype.kind == "V":  # bfloat16, which the array interface cannot name
            return self.torch.as_tensor(array.view(np.int16), device="cuda").view(self.torch.bfloat16)
        return self.torch.as_tensor(array, device="cuda")

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        if a.dtype == out.dtype:
            self.torch.mm(a, b, out=out)
        else:
            self.torch.mm(a, b, out_dtype=out.dtype, out=out)

    def multiply_and_add(self, a: Any, b: Any, out: Any) -> None:
        if a.dtype == out.dtype:
            self.torch.addmm(out, a, b, out=out)
        else:
            self.torch.addmm(out, a, b, out_dtype=out.dtype, out=out)


class CuPy:
    def __init__(self, cupy: Any):
        self.cupy = cupy

    def takes(self, dtype: np.dtype) -> bool:
        return dtype in (np.float32, np.float64)

    def on(self, stream: Any) -> Any:
        pointer = int(stream)
        return self.cupy.cuda.ExternalStream(pointer) if pointer else self.cupy.cuda.Stream.null

    def array(self, array: Any, dtype: np.dtype) -> Any:
        return self.cupy.asarray(array.bind(0))  # of an array that names its stream, CuPy waits for that on the host

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        self.cupy.cublas.gemm("N", "N", a, b, out=out)

    def multiply_and_add(self, a: Any, b: Any, out: Any) -> None:
        self.cupy.cublas.gemm("N", "N", a, b, out=out, beta=1.0)


def library_of(array: Any) -> Library | None:
    """The library whose array this is; nothing is imported to find out."""
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(array, torch.Tensor):
        return Torch(torch)
    if cupy is not None and isinstance(array, cupy.ndarray):
        import cupy.cublas

        return CuPy(cupy)
    return None


@cuda.jit
def add_bias(out, bias):
    """Each row + bias: one more pass over the logits, which a library's product has already written."""
    row = cuda.blockIdx.x
    j = cuda.threadIdx.x
    while j < out.shape[1]:
        store(out, row, j, load(out, row, j) + real(out, load(bias, 0, j)))
        j += THREADS


KERNELS = (add_bias,)


class LibraryProducts:
    """The same three calls as `matrix_products.OwnProducts`. `dtype` is that of hidden, classifier and G."""

    def __init__(self, library: Library, dtype: np.dtype, stream: Any):
        self.library, self.dtype, self.stream = library, dtype, stream

    def logits(self, hidden: Any, classifier: Any, bias: Any, result: Any) -> None:
        array = self.library.array
        with self.library.on(self.stream):
            out = array(result, np.dtype(result.dtype))
            self.library.multiply(array(hidden, self.dtype), array(classifier, self.dtype).T, out)
        if bias is not None:
            configured(add_bias, result.shape[0], THREADS, self.stream)(result, bias.reshape((1, bias.size)))

    def hidden(self, g: Any, classifier: Any, tiles: Any, result: Any) -> None:
        with self.library.on(self.stream):
            g, classifier, out = self._arrays(g, classifier, result)
            for rows, spans in self._strips(g, tiles):
                if not spans:
                    out[rows] = 0
                for count, classes in enumerate(spans):
                    compute = self.library.multiply_and_add if count else self.library.multiply
                    compute(g[rows, classes], classifier[classes], out[rows])

    def classifier(self, g: Any, hidden: Any, tiles: Any, result: Any) -> None:
        with self.library.on(self.stream):
            g, hidden, out = self._arrays(g, hidden, result)
            for rows, spans in self._strips(g, tiles):
                for classes in spans:
                    self.library.multiply_and_add(g[rows, classes].T, hidden[rows], out[classes])

    def _arrays(self, g: Any, other: Any, result: Any) -> tuple:
        array = self.library.array
        return array(g, self.dtype), array(other, self.dtype), array(result, np.dtype(result.dtype))

    @staticmethod
    def _strips(g: Any, tiles: Any) -> list[tuple[slice, list[slice]]]:
        return [(slice(None), [slice(None)])] if tiles is None else tiles.strips
