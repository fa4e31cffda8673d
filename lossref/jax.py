"""Every loss as a differentiable function of JAX arrays: ``lossref.jax.cross_entropy(logits, labels)``.

The numbers are lossref's own: JAX calls back to the NumPy function, also from inside ``jit``, ``grad`` and ``vmap``.
An option is a Python value: it is fixed when a function is traced. float64 needs ``jax_enable_x64``, as always in JAX.

>>> import jax, lossref.jax as lj
>>> gradient = jax.jit(jax.grad(lj.cross_entropy))([[41.0, 1.0, 0.0]], [0])
>>> print(*(f"{g:.3e}" for g in gradient[0]))
-5.811e-18 4.248e-18 1.563e-18
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np

try:
    import jax
except ImportError as problem:
    raise ImportError(f'lossref.jax needs JAX: pip install "lossref[jax]" ({problem})') from None

from jax.custom_derivatives import SymbolicZero

from .bridge import Bridge, differentiable_loss, names
from .core.errors import message
from .core.loss import Loss


def differentiable(loss: Loss):
    """A loss, your own for example, as a differentiable function of JAX arrays.

    Parameters
    ----------
    loss : Loss
        Any loss with a gradient, on the NumPy or the Numba path:
        ``differentiable(lossref.cross_entropy.path("numba"))``.

    Returns
    -------
    function
        It takes what the loss takes, JAX arrays in place of NumPy's. ``.loss`` is the loss.

    Examples
    --------
    >>> import jax, lossref, lossref.jax
    >>> fast = lossref.jax.differentiable(lossref.log_softmax.path("numba"))
    >>> jax.jit(fast)(jax.numpy.zeros(2))
    Array([-0.6931472, -0.6931472], dtype=float32)
    """
    bridge = Bridge(loss)
    apply = _with_gradient(bridge)

    def function(*args, **kwargs):
        values = bridge.bound(args, kwargs)
        arrays = {n: jax.numpy.asarray(values[n]) for n in bridge.arrays if values[n] is not None}
        options = {n: _fixed(n, values[n]) for n in bridge.options}
        if not any(isinstance(array, jax.core.Tracer) for array in arrays.values()):
            return jax.numpy.asarray(bridge.value(_on_host(arrays), options))  # errors are the loss's own, not XLA's
        return apply(tuple(options.items()), arrays)

    return bridge.dress(function, "jax")


def _with_gradient(bridge: Bridge):
    """A function of (options, arrays), with the loss's gradient for its derivative."""
    loss = bridge.loss

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def apply(options: tuple, arrays: dict):
        settings = dict(options)
        shape, dtype = bridge.result({n: (a.shape, a.dtype) for n, a in arrays.items()}, settings)
        out = jax.ShapeDtypeStruct(shape, _representable(dtype))

        def compute(arrays):
            return bridge.value(_on_host(arrays), settings).astype(out.dtype)

        # "sequential": the loss is called once for every element of a mapped axis, in the shapes that it declares.
        return jax.pure_callback(compute, out, arrays, vmap_method="sequential")

    def forward(options, primals):
        for name, primal in primals.items():
            if primal.perturbed and name not in loss.of and jax.numpy.issubdtype(primal.value.dtype, np.floating):
                expected = f"an array that needs no gradient, since {loss.name} has none by it (jax.lax.stop_gradient)"
                raise TypeError(message(name, expected, "one that is differentiated"))
        arrays = {name: primal.value for name, primal in primals.items()}
        return apply(options, arrays), arrays

    def backward(options, arrays, cotangent):
        if isinstance(cotangent, SymbolicZero):
            return (dict.fromkeys(arrays),)
        settings = dict(options)
        real = [n for n in bridge.given(arrays) if jax.numpy.issubdtype(arrays[n].dtype, np.floating)]
        out = {n: jax.ShapeDtypeStruct(arrays[n].shape, arrays[n].dtype) for n in real}

        def compute(arrays, cotangent):
            found = bridge.gradients(_on_host(arrays), settings, np.asarray(cotangent))
            return {n: found[n].astype(out[n].dtype) for n in real}

        found = jax.pure_callback(compute, out, arrays, cotangent, vmap_method="sequential")
        return ({name: found.get(name) for name in arrays},)  # None: no derivative by labels and the like

    apply.defvjp(forward, backward, symbolic_zeros=True)
    return apply


def _on_host(arrays: dict) -> dict:
    return {name: np.asarray(array) for name, array in arrays.items()}


def _representable(dtype):
    """The dtype that JAX has for this one: without jax_enable_x64, float32 for float64."""
    return jax.dtypes.canonicalize_dtype(dtype)


def _fixed(name: str, value):
    """An option as a Python value: by a traced one there would be no gradient."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(message(name, "a number that is not traced, since there is no gradient by it (static_argnames)",
                                "a traced value"))  # fmt: skip
    if isinstance(value, (jax.Array, np.generic)):
        return value.item()
    return tuple(value) if isinstance(value, list) else value


# -- the losses by name ------------------------------------------------------------------------------------------------


@cache
def _registered(name: str):
    return differentiable(differentiable_loss(__name__, name))


def __getattr__(name: str):
    return _registered(name)


def __dir__():
    return sorted({*globals(), *names()})
