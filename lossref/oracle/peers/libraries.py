"""The libraries: whether they are here, in which version, and how NumPy arrays go in and gradients come out."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

FROM_THE_EXTRA = "pip install 'lossref[peers]'"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of no known version"


class Library:
    """A library whose functions take NumPy arrays; one that differentiates overrides the rest."""

    differentiates = False
    framework = "numpy"  # the oracle's word for its arrays

    def __init__(self, name: str, module: str, packages: tuple[str, ...], remedy: str = FROM_THE_EXTRA):
        self.name, self.module, self.packages, self.remedy = name, module, packages, remedy

    def absent(self) -> str:
        """Why the library cannot be used here; nothing if it can."""
        if find_spec(self.module.partition(".")[0]) is None:
            return f"{self.name} is not installed"
        try:
            self.load()
        except Exception as problem:
            return f"{self.name} cannot be imported: {str(problem).splitlines()[0] if str(problem) else problem!r}"
        return ""

    def versions(self) -> str:
        """What was measured: "0.2.8", or "0.2.8 (jax 0.10.2)" where one package alone does not say it."""
        own, *others = map(_version, self.packages)
        also = ", ".join(f"{package} {found}" for package, found in zip(self.packages[1:], others, strict=True))
        return f"{own} ({also})" if also else own

    def load(self) -> Any:
        """What the entries of this library are handed first."""
        return import_module(self.module)

    def arithmetic(self) -> AbstractContextManager:
        """Inside, the library computes in the dtype that it is given."""
        return nullcontext()

    def array(self, x: np.ndarray) -> Any:
        return np.array(x)

    def value(self, function: Callable, given: dict) -> np.ndarray:
        with self.arithmetic():
            return self.to_numpy(function(self.load(), **self._arrays(given)))

    def gradients(self, function: Callable, given: dict, of: tuple[str, ...], cotangent) -> tuple[np.ndarray, ...]:
        """The vector-Jacobian product by the library's own differentiation."""
        raise NotImplementedError

    def to_numpy(self, x) -> np.ndarray:
        return np.asarray(x)

    def _arrays(self, given: dict) -> dict:
        return {name: self.array(x) if isinstance(x, np.ndarray) else x for name, x in given.items()}


class PyTorch(Library):
    differentiates = True
    framework = "torch"

    def array(self, x):
        return import_module("torch").from_numpy(np.array(x))

    def gradients(self, function, given, of, cotangent):
        torch = import_module("torch")
        arrays = self._arrays(given)
        for name in of:
            arrays[name].requires_grad_()
        with self.arithmetic():
            value = function(self.load(), **arrays)
            if not value.requires_grad:  # it depends on nothing that could be differentiated
                return tuple(np.zeros_like(given[name]) for name in of)
            cotangent = torch.from_numpy(np.array(np.broadcast_to(cotangent, value.shape))).to(value.dtype)
            found = torch.autograd.grad(value, [arrays[name] for name in of], cotangent, allow_unused=True)
        return tuple(
            np.zeros_like(given[n]) if g is None else g.numpy(force=True) for n, g in zip(of, found, strict=True)
        )

    def to_numpy(self, x):
        return x.numpy(force=True)


class MetricLearning(PyTorch):
    def load(self):
        for part in ("losses", "distances", "reducers"):
            import_module(f"pytorch_metric_learning.{part}")
        return import_module("pytorch_metric_learning")


class Jax(Library):
    differentiates = True
    framework = "jax"

    def arithmetic(self):
        jax = import_module("jax")
        owner = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")  # where it was before
        return owner.enable_x64(True)  # without it every float64 becomes a float32

    def array(self, x):
        return import_module("jax.numpy").asarray(x)

    def gradients(self, function, given, of, cotangent):
        jax = import_module("jax")
        with self.arithmetic():
            arrays = self._arrays(given)

            def of_these(*moving):
                return function(self.load(), **{**arrays, **dict(zip(of, moving, strict=True))})

            value, vjp = jax.vjp(of_these, *[arrays[name] for name in of])
            cotangent = jax.numpy.asarray(np.broadcast_to(cotangent, value.shape), value.dtype)
            return tuple(np.asarray(g) for g in vjp(cotangent))


class Keras(Jax):
    """Keras on its JAX backend."""

    def load(self):
        os.environ.setdefault("KERAS_BACKEND", "jax")
        keras = import_module("keras")
        backend = keras.backend.backend()
        if backend != "jax":
            raise RuntimeError(f"its backend is {backend!r}; set KERAS_BACKEND=jax, which is compared here")
        return keras


class Onnx(Library):
    """ONNX's reference evaluator: every operator as a model of one node."""

    def load(self) -> Callable:
        helper = import_module("onnx.helper")
        evaluator = import_module("onnx.reference").ReferenceEvaluator

        def run(operator: str, *inputs, **attributes):
            names = [f"x{k}" for k in range(len(inputs))]
            node = helper.make_node(operator, names, ["y"], **attributes)
            return evaluator(node).run(None, dict(zip(names, inputs, strict=True)))[0]

        return run


class ScikitLearn(Library):
    def load(self):
        for part in ("metrics", "utils.extmath", "_loss"):
            import_module(f"sklearn.{part}")
        return import_module("sklearn")


class Lossref(Library):
    """This library, asked and measured like any other."""

    differentiates = True

    def gradients(self, function, given, of, cotangent):
        found = function.grad(**given, cotangent=cotangent)
        return found if isinstance(found, tuple) else (found,)

    def value(self, function, given):
        return np.asarray(function(**given))


LOSSREF = Lossref("lossref", "lossref", ("lossref",))
PYTORCH = PyTorch("PyTorch", "torch", ("torch",))
TORCHVISION = PyTorch("torchvision", "torchvision.ops", ("torchvision",), "pip install torchvision")
JAX = Jax("JAX", "jax", ("jax",))
OPTAX = Jax("optax", "optax", ("optax", "jax"))
KERAS = Keras("Keras", "keras", ("keras", "jax"))
METRIC_LEARNING = MetricLearning(
    "pytorch-metric-learning", "pytorch_metric_learning", ("pytorch-metric-learning", "torch")
)
ONNX = Onnx("ONNX", "onnx", ("onnx",))
SCIKIT_LEARN = ScikitLearn("scikit-learn", "sklearn", ("scikit-learn",))
SCIPY = Library("SciPy", "scipy.special", ("scipy",), "pip install scipy")

LIBRARIES = (PYTORCH, TORCHVISION, METRIC_LEARNING, OPTAX, JAX, KERAS, ONNX, SCIKIT_LEARN, SCIPY)
