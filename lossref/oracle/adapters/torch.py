"""PyTorch: values from tensors, gradients from autograd, on any device and in any dtype, compiled or not."""

from __future__ import annotations

import numpy as np

from lossref.core.errors import message

from .framework import FrameworkCandidate, imported


def adapt(loss, value, grad, dtype, device: str = "cpu") -> TorchCandidate:
    torch = imported("torch", "PyTorch", "torch")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:  # a PyTorch without CUDA asserts
        reason = str(problem).splitlines()[0]
        raise ValueError(message("device", "a device that PyTorch can use here", f"{device!r} ({reason})")) from None
    return TorchCandidate(loss, value, grad, torch, device)


class TorchCandidate(FrameworkCandidate):
    framework = "torch"
    tries = 40

    def __init__(self, loss, value, grad, torch, device):
        super().__init__(loss, value, grad)
        self.torch, self.device = torch, device

    def own(self, x):
        """A tensor with the same numbers, and where PyTorch can, in the same places in memory."""
        from lossref.torch import from_numpy

        return from_numpy(x).to(self.device) if isinstance(x, np.ndarray) else x

    def array(self, x):
        from lossref.torch import to_numpy

        return to_numpy(x) if isinstance(x, self.torch.Tensor) else np.asarray(x)

    def pull_back(self, function, variables, cotangent):
        variables = [variable.detach().requires_grad_() for variable in variables]
        result = function(*variables)
        given = self.own(np.ascontiguousarray(cotangent)).to(result.dtype).reshape(result.shape)
        found = self.torch.autograd.grad(result, variables, given, allow_unused=True)
        return [self.torch.zeros_like(v) if g is None else g for g, v in zip(found, variables, strict=True)]
