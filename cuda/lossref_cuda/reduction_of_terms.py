"""From N terms to one number, and from its cotangent to the terms', on the device: the host never waits.

Partial sums a block, then one small block that adds them: always in the same order, no atomics. Sums are
float64: there is one number a row, against C for the loss itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda.device_arrays import Call, arithmetic_dtype
from lossref_cuda.instructions import device_function, load_at, real, store_at
from lossref_cuda.launching import THREADS, configured
from lossref_cuda.reductions import add_exactly, sum_over_block


@cuda.jit
def sum_of_terms(terms, partial_terms):
    total = real(partial_terms, 0.0)
    lost = real(partial_terms, 0.0)
    row = cuda.grid(1)
    while row < terms.shape[0]:
        total, lost = add_exactly(total, lost, real(partial_terms, load_at(terms, row)))
        row += cuda.gridsize(1)
    total, lost = sum_over_block(total, lost)
    if cuda.threadIdx.x == 0:
        partial_terms[cuda.blockIdx.x] = total - lost


@cuda.jit
def sum_of_label_weights(labels, weight, weighted, ignore_index, columns, partial_weights):
    total = real(partial_weights, 0.0)
    lost = real(partial_weights, 0.0)
    row = cuda.grid(1)
    while row < labels.shape[0]:
        label = labels[row]
        if label != ignore_index and label >= 0 and label < columns:
            w = real(partial_weights, 1.0)
            if weighted:
                w = real(partial_weights, load_at(weight, label))
            total, lost = add_exactly(total, lost, w)
        row += cuda.gridsize(1)
    total, lost = sum_over_block(total, lost)
    if cuda.threadIdx.x == 0:
        partial_weights[cuda.blockIdx.x] = total - lost


@device_function
def sum_of_partials(partial):
    total = 0.0
    index = 0
    while index < partial.shape[0]:
        total += partial[index]
        index += 1
    return total


@cuda.jit
def finish_reduction(partial_terms, partial_weights, mean, given, factor, result):
    """sum, or sum over the divisor: `factor` if given, else the weights of the kept rows; NaN if there are
    none."""
    if cuda.grid(1) == 0:
        total = sum_of_partials(partial_terms)
        if mean:
            divisor = factor if given else sum_of_partials(partial_weights)
            total = total / divisor if divisor != 0.0 else math.nan
        store_at(result, 0, real(result, total))


@cuda.jit
def scale_of_gradient(partial_weights, mean, given, factor, reduced_cotangent, scale):
    """The cotangent of every row's term: that of the reduced loss, divided as the loss is; 0 if no row is
    kept."""
    if cuda.grid(1) == 0:
        number = real(partial_weights, load_at(reduced_cotangent, 0))
        if mean:
            divisor = factor if given else sum_of_partials(partial_weights)
            number = number / divisor if divisor != 0.0 else 0.0
        store_at(scale, 0, real(scale, number))


KERNELS = (sum_of_terms, sum_of_label_weights, finish_reduction, scale_of_gradient)


class Reduction:
    """The "sum" or "mean" of one call. What the mean divides by is known before the gradient needs it."""

    def __init__(
        self, call: Call, labels: Any, columns: int, weight: Any, ignore_index: int, dtype: np.dtype, reduction: str,
        divisor: float | None,
    ):  # fmt: skip
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be none, sum or mean, got {reduction!r}")
        self.call, self.dtype = call, dtype
        self.mean, self.given = reduction == "mean", divisor is not None
        self.factor = 0.0 if divisor is None else float(divisor)
        self.blocks = max(1, min(64, -(-labels.shape[0] // THREADS)))
        self.weights = call.new((self.blocks,), np.dtype(np.float64))
        weighted = weight is not None
        stand_in = weight if weighted else call.new((1,), arithmetic_dtype(dtype))
        configured(sum_of_label_weights, self.blocks, THREADS, call.stream)(
            labels, stand_in, weighted, ignore_index, columns, self.weights
        )

    def scale(self, cotangent: Any) -> Any:
        """The cotangent of every term, (1,), from that of the reduced loss."""
        scale = self.call.new((1,), arithmetic_dtype(self.dtype))
        configured(scale_of_gradient, 1, 1, self.call.stream)(
            self.weights, self.mean, self.given, self.factor, cotangent, scale
        )
        return scale

    def result(self, terms: Any) -> Any:
        """The reduced loss, (1,), in the caller's dtype; the terms may be more precise."""
        partial_terms = self.call.new((self.blocks,), np.dtype(np.float64))
        result = self.call.new((1,), self.dtype)
        configured(sum_of_terms, self.blocks, THREADS, self.call.stream)(terms, partial_terms)
        configured(finish_reduction, 1, 1, self.call.stream)(
            partial_terms, self.weights, self.mean, self.given, self.factor, result
        )
        return result


def of_nothing(call: Call, reduction: str, dtype: np.dtype) -> Any:
    """The reduced loss of an empty batch: 0, or NaN for a mean."""
    number = 0.0 if reduction == "sum" else math.nan
    if call.on_device:
        return call.result(call.full((1,), dtype, number), dtype, ())
    return np.asarray(number, dtype).reshape(())
