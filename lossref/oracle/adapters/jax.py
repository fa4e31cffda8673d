"""JAX: values from arrays, gradients from reverse mode, with or without jit; float64 needs jax_enable_x64."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lossref.core.errors import message

from ..candidates import Candidate, quiet


def adapt(loss, value, grad, dtype, jit: bool = False) -> Candidate:
    try:
        import jax
    except ImportError as problem:
        raise ImportError(message("framework", "JAX to be installed (pip install jax)", str(problem))) from None
    return JaxCandidate(loss, value, grad, jax, np.dtype(dtype), jit)


class JaxCandidate(Candidate):
    """A function of JAX arrays. Its gradient is that of jax.vjp, unless a gradient function of its own is given."""

    framework = "jax"
    tries = 6

    def __init__(self, loss, value, grad, jax, dtype, jit):
        super().__init__(loss, value, grad)
        self.jax, self.jit, self.wide = jax, jit, dtype == np.float64
        self.by_autodiff = grad is None
        self.has_grad = loss.differentiable

    @property
    def takes_cotangent(self) -> bool:
        return self.by_autodiff or super().takes_cotangent

    def _precision(self):
        from jax import enable_x64

        return enable_x64(self.wide)

    def own(self, x):
        return self.jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x

    @staticmethod
    def array(x) -> np.ndarray:
        array = np.asarray(x)
        return array.astype(ml_dtypes.bfloat16) if str(array.dtype) == "bfloat16" else array

    def _function(self, options):
        def function(*arrays):
            return self.value_function(*arrays, **options)

        return self.jax.jit(function) if self.jit else function

    def run_value(self, positional, keywords):
        with quiet(), self._precision():
            options = {n: self.own(v) for n, v in keywords.items()}
            return self.array(self._function(options)(*map(self.own, positional)))

    def run_grad(self, positional, keywords, cotangent):
        with quiet(), self._precision():
            options = {n: self.own(v) for n, v in keywords.items()}
            if not self.by_autodiff:
                if self.takes_cotangent:
                    options["cotangent"] = self.own(np.asarray(cotangent))
                result = self.grad_function(*map(self.own, positional), **options)
                return tuple(map(self.array, result)) if isinstance(result, (tuple, list)) else self.array(result)
            names = self.positional_names
            places = [k for k, n in enumerate(names[: len(positional)]) if n in self.loss.of]
            arrays = [self.own(x) for x in positional]
            function = self._function(options)

            def of_variables(*variables):
                replaced = list(arrays)
                for place, variable in zip(places, variables, strict=True):
                    replaced[place] = variable
                return function(*replaced)

            result, pull = self.jax.vjp(of_variables, *(arrays[k] for k in places))
            given = self.jax.numpy.asarray(np.asarray(cotangent)).astype(result.dtype).reshape(result.shape)
            return tuple(self.array(g) for g in pull(given))
