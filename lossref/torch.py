"""Every loss as a differentiable function of PyTorch tensors: ``lossref.torch.cross_entropy(logits, labels)``.

The numbers are lossref's own: value and gradient are those of ``lossref.cross_entropy``. Tensors on the CPU are seen
by NumPy in place, tensors on a GPU by the CUDA path in place, where a loss has one. Each function is a pair of custom
operators (the loss, its gradient), so that ``torch.compile(fullgraph=True)`` takes them.

>>> import torch, lossref.torch as lt
>>> logits = torch.tensor([[41.0, 1.0, 0.0]], requires_grad=True)
>>> loss = lt.cross_entropy(logits, torch.tensor([0]))
>>> loss.backward()
>>> print(f"{loss:.3e}", *(f"{g:.3e}" for g in logits.grad[0]))
5.811e-18 -5.811e-18 4.248e-18 1.563e-18
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

try:
    import torch
except ImportError as problem:
    raise ImportError(f'lossref.torch needs PyTorch: pip install "lossref[torch]" ({problem})') from None

from .bridge import Bridge, differentiable_loss, names
from .core.declarations import BooleanMask, Choice, RealNumber, Whole
from .core.errors import message
from .core.loss import Loss

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def differentiable(loss: Loss):
    """A loss, your own for example, as a differentiable function of tensors.

    Parameters
    ----------
    loss : Loss
        Any loss with a gradient, on any path: ``differentiable(lossref.cross_entropy.path("numba"))``. Make the
        function once and keep it: every call of ``differentiable`` registers two operators with PyTorch.

    Returns
    -------
    function
        It takes what the loss takes, tensors in place of arrays. ``.operator`` is the operator behind it, for
        ``torch.library.opcheck``, and ``.loss`` the loss.

    Examples
    --------
    >>> import torch, lossref, lossref.torch
    >>> fast = lossref.torch.differentiable(lossref.log_softmax.path("numba"))
    >>> fast(torch.zeros(2))
    tensor([-0.6931, -0.6931])
    """
    bridge = Bridge(loss)
    operator = _operators(bridge)
    fixed = [name for name in bridge.arrays if name not in loss.of]
    kinds = {name: _kind(bridge, name) for name in bridge.options}

    def function(*args, **kwargs):
        values = bridge.bound(args, kwargs)
        device = next((v.device for v in values.values() if isinstance(v, torch.Tensor)), None)
        if device is not None and device.type not in ("cpu", "cuda", "meta"):
            raise ValueError(message(loss.name, "tensors on the CPU or on a CUDA device", f"tensors on {device}"))
        for name in bridge.arrays:
            if values[name] is not None and not isinstance(values[name], torch.Tensor):
                values[name] = torch.as_tensor(np.asarray(values[name]), device=device)
        for name in fixed:
            if values[name] is not None and values[name].requires_grad and torch.is_grad_enabled():
                expected = f"a tensor that needs no gradient, since {loss.name} has none by it (.detach() says so)"
                raise TypeError(message(name, expected, "one that requires grad"))
        for name, kind in kinds.items():
            if values[name] is not None:
                values[name] = _as_kind(kind, name, values[name])
        return operator(*[values[name] for name in bridge.arrays], *[values[name] for name in bridge.options])

    function.operator = operator  # type: ignore[attr-defined]
    return bridge.dress(function, "torch")


# -- the operators -----------------------------------------------------------------------------------------------------


def _operators(bridge: Bridge):
    """The operator of the value; that of the gradient is registered as its derivative.

    The gradient has to be an operator too: what a compiler traces are tensors without numbers.
    """
    loss, arrays, options = bridge.loss, bridge.arrays, bridge.options
    name = _unused_name(loss)
    typed = [f"Tensor{'' if loss.arguments[n].required else '?'} {n}" for n in arrays]
    kinds = {n: _kind(bridge, n) for n in options}
    typed += [f"{'str' if kind == WRITTEN else kind}? {n}" for n, kind in kinds.items()]

    def sorted_out(given: tuple) -> tuple[dict, dict]:
        settings = dict(zip(options, given[len(arrays) :], strict=True))
        for n, kind in kinds.items():
            if kind == WRITTEN and settings[n] is not None:
                settings[n] = ast.literal_eval(settings[n])
        return dict(zip(arrays, given, strict=False)), settings

    @torch.library.custom_op(f"lossref::{name}", mutates_args=(), schema=f"({', '.join(typed)}) -> Tensor")
    def value(*given):
        tensors, settings = sorted_out(given)
        if device := _gpu(tensors):
            return _from_gpu(_on_cuda(loss)(**_detached(tensors), **settings), device)
        return from_numpy(bridge.value(_arrays(tensors), settings))

    @torch.library.custom_op(
        f"lossref::{name}_gradient", mutates_args=(), schema=f"(Tensor cotangent, {', '.join(typed)}) -> Tensor[]"
    )
    def gradient(cotangent, *given):
        tensors, settings = sorted_out(given)
        if device := _gpu(tensors):
            found = _on_cuda(loss).grad(**_detached(tensors), **settings, cotangent=cotangent.detach())
            return [_from_gpu(g, device) for g in (found if isinstance(found, tuple) else (found,))]
        return [from_numpy(g) for g in bridge.gradients(_arrays(tensors), settings, to_numpy(cotangent)).values()]

    def described(tensors):
        return {n: (tuple(t.shape), _numpy_dtype(t.dtype)) for n, t in tensors.items() if t is not None}

    @value.register_fake
    def _(*given):
        tensors, settings = sorted_out(given)
        shape, dtype = bridge.result(described(tensors), settings)
        return tensors[arrays[0]].new_empty(shape, dtype=_torch_dtype(dtype))

    @gradient.register_fake
    def _(cotangent, *given):
        tensors, _ = sorted_out(given)
        return [tensors[n].new_empty(tensors[n].shape, dtype=cotangent.dtype) for n in bridge.given(tensors)]

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[: len(arrays)])
        ctx.options = inputs[len(arrays) :]

    def backward(ctx, cotangent):
        tensors = dict(zip(arrays, ctx.saved_tensors, strict=True))
        found = gradient(cotangent, *tensors.values(), *ctx.options)
        by_name = dict(zip(bridge.given(tensors), found, strict=True))
        needed = dict(zip(arrays, ctx.needs_input_grad, strict=False))
        wanted = [by_name[n].to(tensors[n].dtype) if needed[n] else None for n in arrays]
        return (*wanted, *[None] * len(options))

    value.register_autograd(backward, setup_context=setup_context)
    return value._opoverload


_taken: Counter = Counter()


def _unused_name(loss: Loss) -> str:
    name = loss.name if loss.path_name == "numpy" else f"{loss.name}_{loss.path_name}"
    _taken[name] += 1
    return name if _taken[name] == 1 else f"{name}_{_taken[name]}"


# -- options -----------------------------------------------------------------------------------------------------------

PYTHON: dict[str, Any] = {"float": (float, int), "int": (int,), "bool": (bool,), "str": (str,)}
WRITTEN = "one of several kinds"  # the schema of an operator has no word for it: it travels as Python writes it


def _kind(bridge: Bridge, name: str) -> str:
    """The type of an option in an operator's schema."""
    if name not in bridge.loss.arguments:
        return {"reduction": "str", "divisor": "float"}[name]
    declared = bridge.loss.arguments[name].declaration
    for kind, word in ((RealNumber, "float"), (Whole, "int"), (BooleanMask, "bool"), (Choice, "str")):
        if isinstance(declared, kind):
            return word
    return WRITTEN


def _as_kind(kind: str, name: str, value: Any):
    if isinstance(value, torch.Tensor):
        raise TypeError(message(name, "a number, by which there is no gradient (.item() makes one)", "a tensor"))
    if isinstance(value, np.generic):
        value = value.item()
    if kind == WRITTEN:
        return repr(value)
    if not isinstance(value, PYTHON[kind]) or (kind != "bool" and isinstance(value, bool)):
        raise TypeError(message(name, f"a value of type {kind}", value))
    return float(value) if kind == "float" else value


# -- tensors and arrays ------------------------------------------------------------------------------------------------


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor as a NumPy array, in place where they are on the CPU; bfloat16 as that of ml_dtypes."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """The tensor with the numbers of an array, in place where PyTorch can; bfloat16 from that of ml_dtypes."""
    array = np.asarray(array)
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _arrays(tensors: dict) -> dict:
    return {name: None if tensor is None else to_numpy(tensor) for name, tensor in tensors.items()}


def _numpy_dtype(dtype: torch.dtype) -> np.dtype:
    name = str(dtype).removeprefix("torch.")
    return _BFLOAT16 if name == "bfloat16" else np.dtype(name)


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return getattr(torch, dtype.name)


# -- the CUDA path -----------------------------------------------------------------------------------------------------


def _gpu(tensors: dict) -> torch.device | None:
    """The GPU on which the tensors are, if they are."""
    return next((t.device for t in tensors.values() if t is not None and t.is_cuda), None)


def _detached(tensors: dict) -> dict:
    """Within an operator a tensor still says that it requires a gradient, and such a one PyTorch does not export."""
    return {name: None if tensor is None else tensor.detach() for name, tensor in tensors.items()}


def _on_cuda(loss: Loss) -> Loss:
    """The loss on its CUDA path, which raises by itself where it cannot run."""
    if "cuda" not in loss.paths:
        has = " and ".join(loss.paths)
        raise ValueError(message(loss.name, f"tensors on the CPU (.cpu()), since its paths are {has}", "CUDA tensors"))
    return loss.path("cuda")


def _from_gpu(array, device: torch.device) -> torch.Tensor:
    """A result of the CUDA path as a tensor on the same memory."""
    if np.dtype(array.dtype).kind == "V":  # bfloat16, which the array interface cannot name
        return torch.as_tensor(array.view(np.int16), device=device).view(torch.bfloat16).contiguous()
    return torch.as_tensor(array, device=device).contiguous()


# -- the losses by name ------------------------------------------------------------------------------------------------


@cache
def _registered(name: str):
    return differentiable(differentiable_loss(__name__, name))


def __getattr__(name: str):
    return _registered(name)


def __dir__():
    return sorted({*globals(), *names()})
