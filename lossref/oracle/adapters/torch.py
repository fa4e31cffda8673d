"""PyTorch: values from tensors, gradients from autograd, on any device and in any dtype, compiled or not."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from lossref.core.errors import message

from ..candidates import Candidate, quiet


def adapt(loss, value, grad, dtype, device: str | None = None) -> Candidate:
    try:
        import torch
    except ImportError as problem:
        raise ImportError(message("framework", "PyTorch to be installed (pip install torch)", str(problem))) from None
    return TorchCandidate(loss, value, grad, torch, device or "cpu")


class TorchCandidate(Candidate):
    """A function of tensors. Its gradient is that of autograd, unless a gradient function of its own is given."""

    framework = "torch"
    tries = 40

    def __init__(self, loss, value, grad, torch, device):
        super().__init__(loss, value, grad)
        self.torch, self.device = torch, device
        self.by_autograd = grad is None
        self.has_grad = loss.differentiable

    @property
    def takes_cotangent(self) -> bool:
        return self.by_autograd or super().takes_cotangent

    def tensor(self, array, requires_grad=False):
        """A tensor with the same numbers, and where PyTorch can, in the same places in memory."""
        if not isinstance(array, np.ndarray):
            return array
        torch = self.torch
        if array.dtype == ml_dtypes.bfloat16:
            result = torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
        else:
            positive = all(stride >= 0 for stride in array.strides) and array.flags.writeable
            result = torch.from_numpy(array if positive else array.copy())
        result = result.to(self.device)
        if requires_grad:
            result = result.detach().requires_grad_()
        return result

    def array(self, tensor) -> np.ndarray:
        if not isinstance(tensor, self.torch.Tensor):
            return np.asarray(tensor)
        tensor = tensor.detach().cpu()
        if tensor.dtype == self.torch.bfloat16:
            return tensor.to(self.torch.float32).numpy().astype(ml_dtypes.bfloat16)
        return tensor.numpy()

    def run_value(self, positional, keywords):
        with quiet():
            result = self.value_function(
                *map(self.tensor, positional), **{n: self.tensor(v) for n, v in keywords.items()}
            )
        return self.array(result)

    def run_grad(self, positional, keywords, cotangent):
        if not self.by_autograd:
            tensors = [self.tensor(x) for x in positional]
            options = {n: self.tensor(v) for n, v in keywords.items()}
            given = self.tensor(np.asarray(cotangent))
            with quiet():
                if self.takes_cotangent:
                    options["cotangent"] = given
                result = self.grad_function(*tensors, **options)
            return tuple(map(self.array, result)) if isinstance(result, (tuple, list)) else self.array(result)
        variables = []
        tensors = []
        names = self.positional_names
        for name, x in zip(names, positional, strict=False):
            tensors.append(self.tensor(x, name in self.loss.of))
            if name in self.loss.of:
                variables.append(tensors[-1])
        tensors += [self.tensor(x) for x in positional[len(names) :]]
        options = {n: self.tensor(v, n in self.loss.of) for n, v in keywords.items()}
        variables += [options[n] for n in self.loss.of if n in options]
        with quiet():
            result = self.value_function(*tensors, **options)
            given = self.tensor(np.ascontiguousarray(cotangent)).to(result.dtype).reshape(result.shape)
            gradients = self.torch.autograd.grad(result, variables, given, allow_unused=True)
        zeros = (self.torch.zeros_like(v) for v in variables)
        return tuple(self.array(zero if g is None else g) for g, zero in zip(gradients, zeros, strict=True))
