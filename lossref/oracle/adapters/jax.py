"""JAX: values from arrays, gradients from reverse mode, with or without jit; float64 under enable_x64."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from .framework import FrameworkCandidate, imported


def adapt(loss, value, grad, dtype, jit: bool = False) -> JaxCandidate:
    return JaxCandidate(loss, value, grad, imported("jax", "JAX", "jax"), np.dtype(dtype), jit)


class JaxCandidate(FrameworkCandidate):
    framework = "jax"
    tries = 6

    def __init__(self, loss, value, grad, jax, dtype, jit):
        super().__init__(loss, value, grad)
        self.jax, self.jit, self.wide = jax, jit, dtype == np.float64

    def settings(self):
        return self.jax.enable_x64(self.wide)

    def own(self, x):
        return self.jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x

    def array(self, x):
        array = np.asarray(x)
        return array.astype(ml_dtypes.bfloat16) if str(array.dtype) == "bfloat16" else array

    def evaluate(self, positional, keywords):
        """Under jit arrays are traced; options, which may be words, are fixed."""
        arrays = {name: x for name, x in keywords.items() if isinstance(x, self.jax.Array)}
        fixed = {name: x for name, x in keywords.items() if name not in arrays}

        def function(positional, arrays):
            return self.value_function(*positional, **arrays, **fixed)

        return (self.jax.jit(function) if self.jit else function)(positional, arrays)

    def pull_back(self, function, variables, cotangent):
        result, pull = self.jax.vjp(function, *variables)
        return list(pull(self.jax.numpy.asarray(cotangent).astype(result.dtype).reshape(result.shape)))
