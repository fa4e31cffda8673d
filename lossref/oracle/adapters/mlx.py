"""MLX: values from arrays, gradients from mlx.core.vjp. float64 exists there on the CPU only."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from .framework import FrameworkCandidate, imported


def adapt(loss, value, grad, dtype) -> MlxCandidate:
    return MlxCandidate(loss, value, grad, imported("mlx.core", "MLX", "mlx"), np.dtype(dtype))


class MlxCandidate(FrameworkCandidate):
    framework = "mlx"
    tries = 20

    def __init__(self, loss, value, grad, mlx, dtype):
        super().__init__(loss, value, grad)
        self.mlx, self.wide = mlx, dtype == np.float64

    def settings(self):
        return self.mlx.stream(self.mlx.cpu if self.wide else self.mlx.default_device())

    def own(self, x):
        if not isinstance(x, np.ndarray):
            return x
        x = x.copy()  # MLX takes no negative strides
        if x.dtype == ml_dtypes.bfloat16:  # NumPy has no name for it that MLX knows: the bits do
            return self.mlx.array(x.view(np.uint16)).view(self.mlx.bfloat16)
        return self.mlx.array(x, dtype=getattr(self.mlx, "bool_" if x.dtype == bool else x.dtype.name))

    def array(self, x):
        if isinstance(x, self.mlx.array) and x.dtype == self.mlx.bfloat16:
            return np.array(x.view(self.mlx.uint16)).view(ml_dtypes.bfloat16)
        return np.array(x)

    def pull_back(self, function, variables, cotangent):
        # vjp wants the cotangent before it has run the function: shape and dtype of the value are found by running it.
        result = function(*variables)
        given = self.own(cotangent).astype(result.dtype).reshape(result.shape)
        return self.mlx.vjp(function, variables, [given])[1]
