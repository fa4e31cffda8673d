"""CuPy: values and gradients are functions of arrays on a GPU. CuPy has no automatic differentiation: give both.

This adapter has never run on a GPU: tests run it with NumPy standing in for CuPy.
"""

from __future__ import annotations

import numpy as np

from .framework import FrameworkCandidate, imported


def adapt(loss, value, grad, dtype) -> CupyCandidate:
    return CupyCandidate(loss, value, grad, imported("cupy", "CuPy", "cupy-cuda13x"))


class CupyCandidate(FrameworkCandidate):
    framework = "cupy"
    tries = 40

    def __init__(self, loss, value, grad, cupy):
        super().__init__(loss, value, grad)
        self.cupy = cupy
        self.has_grad = grad is not None

    def own(self, x):
        return self.cupy.asarray(x) if isinstance(x, np.ndarray) else x

    def array(self, x):
        return self.cupy.asnumpy(x)
