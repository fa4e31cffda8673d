"""The Loss object: everything that is the same for every loss, so that a loss file is mathematics and nothing else.

A loss file gives a definition (one value per term), a gradient, and what is special about its mean. This module
binds and validates the arguments, chooses the dtype, runs the path that was asked for, reduces the terms, and carries
the cotangent from the reduction back to the terms.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np

from . import documentation
from .arithmetic import is_exact, times
from .declarations import Argument, Context, Declaration, is_floating
from .errors import first_index, message, plain
from .examples import Examples
from .paper import Paper

REDUCTIONS = ("mean", "sum", "none")

# Where a path lives: the module of a function NAME on a path is f"{package}.{NAME}".
PATHS = {"numpy": None, "numba": "lossref.kernels", "cuda": "lossref_cuda"}


@dataclass
class Call:
    """One validated call."""

    arguments: dict
    context: Context
    reduction: str
    divisor: float | None
    cotangent: Any = 1.0
    given: tuple[str, ...] = ()  # the differentiable arguments that were given

    @property
    def dtype(self) -> np.dtype:
        return self.context.dtype


def wide(dtype) -> np.dtype:
    """The dtype in which numbers of this dtype are summed: float32 for 16-bit floats, as in numpy.mean."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize == 2 else np.dtype(dtype)


def is_device_array(x) -> bool:
    """Whether x lives on a CUDA device."""
    if isinstance(x, np.ndarray):
        return False
    if hasattr(x, "__cuda_array_interface__") or hasattr(x, "copy_to_host"):  # the latter: Numba's simulator too
        return True
    return hasattr(x, "__dlpack_device__") and x.__dlpack_device__()[0] == 2  # kDLCUDA


class Loss(Examples):
    """A loss function: call it for the value; ``.grad``, ``.value_and_grad`` and ``.path`` for the rest."""

    name: str
    family: str

    def __init__(self, definition, of, paper, returns, symmetries, reducible):
        self.definition = definition
        self.name = definition.__name__
        self.family = definition.__module__.split(".")[1] if "." in definition.__module__ else "user"
        self.paper: Paper | None = paper
        self.returns = returns
        self.symmetries: dict[str, tuple[str, ...]] = dict(symmetries)
        self.reducible = reducible
        self.of: tuple[str, ...] = (of,) if isinstance(of, str) else tuple(of)
        self.path_name = "numpy"
        self.gradient_rule: Callable | None = None
        self.divisor_rule: Callable | None = None
        self.mean_factor_rule: Callable | None = None
        self.kinks_rule: Callable | None = None
        self.parts_rule: Callable | None = None
        self.hard_rule: Callable | None = None
        self.arrange_rule: Callable | None = None
        self.obvious_form: Callable | None = None
        self.constraints: list[tuple[str, str, bool, Callable]] = []
        parameters = inspect.signature(definition).parameters
        self.arguments = {p.name: Argument(p.name, p.annotation, p.default) for p in parameters.values()}
        for argument in self.arguments.values():
            if not isinstance(argument.declaration, Declaration):
                raise TypeError(f"{self.name}: argument {argument.name} has no declaration")
        for name in self.of:
            if name not in self.arguments:
                raise TypeError(f"{self.name}: of={name!r} names no argument")
        self.formula = documentation.formula(definition.__doc__)
        self.__name__ = self.name
        self.__module__ = definition.__module__
        self.__doc__ = documentation.numpydoc(self)

    # -- what a loss file adds to its definition -----------------------------------------------------------------

    def gradient(self, rule: Callable) -> Callable:
        """Decorator: the derivative of each term, or, if the rule takes ``cotangent``, the vector-Jacobian product.

        A rule names only the arguments that it needs. One array per argument of ``of``, in that order.
        """
        self.gradient_rule = rule
        return rule

    def divisor(self, rule: Callable) -> Callable:
        """Decorator: what "mean" divides by, where that is not the number of terms."""
        self.divisor_rule = rule
        return rule

    def mean_factor(self, rule: Callable) -> Callable:
        """Decorator: a factor of each term inside "mean" only."""
        self.mean_factor_rule = rule
        return rule

    def kinks(self, rule: Callable) -> Callable:
        """Decorator: True where the derivative does not exist and the gradient is a convention."""
        self.kinks_rule = rule
        return rule

    def parts(self, rule: Callable) -> Callable:
        """Decorator: the size of the rounding of numbers whose difference the gradient is, where nothing avoids it."""
        self.parts_rule = rule
        return rule

    def hard(self, rule: Callable) -> Callable:
        """Decorator: (rng, dtype) → hard cases of this loss alone, as (what is hard, arguments by name)."""
        self.hard_rule = rule
        return rule

    def arrange(self, rule: Callable) -> Callable:
        """Decorator: random arguments by name → valid ones, where independent draws would hardly ever be valid."""
        self.arrange_rule = rule
        return rule

    def obvious(self, form: Callable) -> Callable:
        """Decorator: the literal formula in the most naive NumPy, for required arguments and default options."""
        self.obvious_form = form
        return form

    def requires(self, name: str, expected: str, scans: bool = False) -> Callable:
        """Decorator: a condition between arguments; an argument that breaks it is refused by name.

        scans: it reads all the data, so a kernel's path checks it only when the result shows a NaN.
        """

        def add(condition: Callable) -> Callable:
            self.constraints.append((name, expected, scans, condition))
            return condition

        return add

    # -- what a user calls ---------------------------------------------------------------------------------------

    def __call__(self, *args, **kwargs):
        kwargs, out = self._take_out(kwargs)
        call = self._bind(args, kwargs)
        if call.context.device:
            return self._on_device(call, **out)
        with np.errstate(all="ignore"):
            terms = self._value(call, **out)
            self._refuse_nan(call, args, kwargs, terms)
            return self._reduce(call, terms)

    def grad(self, *args, cotangent=1.0, **kwargs):
        """The gradient: one array, or a named tuple with one field per differentiable argument that was given.

        On the kernels' paths ``out`` takes a buffer for it.
        """
        return self._value_and_grad(args, kwargs, cotangent, want_value=False)[1]

    def value_and_grad(self, *args, cotangent=1.0, **kwargs):
        """The value and the gradient, in one sweep where the path can; ``out`` as in ``grad``."""
        return self._value_and_grad(args, kwargs, cotangent, want_value=True)

    def path(self, name: str) -> Loss:
        """The same loss on another path: "numpy", "numba" or "cuda"."""
        if name not in self.paths:
            raise ValueError(message("path", " or ".join(map(repr, self.paths)) + f" for {self.name}", plain(name)))
        other = object.__new__(Loss)
        other.__dict__.update(self.__dict__, path_name=name, _binder=self._binder, _names=self._names)
        return other

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths that implement this loss (lossref doctor says which of them can run here)."""
        return tuple(
            path
            for path, package in PATHS.items()
            if package is None or (find_spec(package) and find_spec(f"{package}.{self.name}"))
        )

    @property
    def differentiable(self) -> bool:
        return self.gradient_rule is not None

    @property
    def row_wise(self) -> bool:
        """Whether each term depends on its own entries of the differentiable arguments alone."""
        rule = self.gradient_rule
        return rule is not None and "cotangent" not in _parameters(rule)

    @property
    def __signature__(self) -> inspect.Signature:
        parameters = list(inspect.signature(self.definition).parameters.values())
        if self.reducible:
            for name, default in (("reduction", "mean"), ("divisor", None)):
                parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
        return inspect.Signature([_Readable.parameter(p) for p in parameters])

    def describe_result(self) -> str:
        if not self.reducible:
            return "number" if self.returns == "" else f"array ({self.returns})"
        shape = f"({self.returns},)" if isinstance(self.returns, str) and " " not in self.returns else "one per term"
        return f'a number; with reduction="none" an array {shape}'

    def __repr__(self):
        at = "" if self.path_name == "numpy" else f", path {self.path_name!r}"
        return f"<lossref.{self.name}{self.__signature__}{at}>"

    def _repr_markdown_(self) -> str:
        return documentation.markdown(self)

    # -- binding and validation ----------------------------------------------------------------------------------

    @cached_property
    def _binder(self) -> inspect.Signature:
        return self.__signature__

    @cached_property
    def _names(self) -> tuple[list[str], dict, set[str]]:
        """The parameters that may be given by position, the defaults of the others, and those that must be given."""
        parameters = self._binder.parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        by_position = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        return by_position, defaults, self._binder.parameters.keys() - defaults.keys()

    def _arguments_by_name(self, args, kwargs) -> dict:
        by_position, defaults, needed = self._names
        given = dict(zip(by_position, args, strict=False)) | kwargs
        known = given.keys() <= self._binder.parameters.keys()
        if not (known and len(given) == len(args) + len(kwargs) and needed <= given.keys()):
            # `bind` takes as long as all the rest of a small call, so it is asked only what is wrong.
            try:
                self._binder.bind(*args, **kwargs)
            except TypeError as problem:
                raise TypeError(f"{self.name}: {problem}") from None
        return defaults | given

    def _bind(self, args, kwargs, scan=None) -> Call:
        """Bind and validate; scan=False leaves the search for NaN to the kernel's result."""
        values = self._arguments_by_name(args, kwargs)
        reduction = values.pop("reduction", "none")
        divisor = values.pop("divisor", None)
        if self.reducible:
            _check_reduction(reduction, divisor)
        device = self.path_name == "cuda" and any(
            is_device_array(values[a.name]) for a in self.arguments.values() if a.is_array
        )
        scan = self.path_name != "numba" if scan is None else scan
        context = Context(scan=scan, device=device)
        if not device:
            context.dtype = self._dtype(values)
        checked = context.values
        given = [a for a in self.arguments.values() if values[a.name] is not None or a.default is not None]
        checked.update(dict.fromkeys(self.arguments))
        arrays = [a for a in given if a.is_array]
        for argument in arrays:
            checked[argument.name] = argument.declaration.check_form(argument.name, values[argument.name], context)
        for argument in given:  # numbers before entries: labels need to know which value is ignored
            if not argument.is_array:
                number = argument.declaration.check_number(argument.name, values[argument.name], context)
                if isinstance(number, float) and context.dtype in (ml_dtypes.bfloat16, np.longdouble):
                    # A Python float would widen bfloat16 to float32, and 1 - 0.1 be rounded to float64.
                    number = context.dtype.type(number)
                checked[argument.name] = number
        if not device:
            for argument in sorted(arrays, key=Argument.depends_on_lengths):
                checked[argument.name] = argument.declaration.check_values(
                    argument.name, checked[argument.name], context
                )
        differentiable = tuple(name for name in self.of if checked[name] is not None)
        for name, argument in self.arguments.items():
            if checked[name] is None and argument.is_array and not device:
                checked[name] = argument.declaration.filled(context)
        arguments = dict(checked)
        if not device:
            for name, expected, scans, condition in self.constraints:
                if scans and not scan:
                    continue
                with np.errstate(all="ignore"):
                    holds = _call_with(condition, arguments)
                if not np.all(holds):
                    index = first_index(~np.asarray(holds)) if np.ndim(holds) else None
                    got = arguments[name]
                    if np.ndim(got):
                        got = (
                            f"shape {np.shape(got)}" if index is None else plain(np.asarray(got)[index[: np.ndim(got)]])
                        )
                    raise ValueError(message(name, expected, got, index))
        return Call(arguments, context, reduction, divisor, given=differentiable)

    def _dtype(self, values: dict) -> np.dtype:
        """The caller's dtype: that of the differentiable arguments; integers count as float64."""
        found = []
        for name in self.of or [a.name for a in self.arguments.values() if a.is_array]:
            if values[name] is None or not self.arguments[name].declaration.differentiable_kind:
                continue
            dtype = getattr(values[name], "dtype", None)
            if not isinstance(dtype, np.dtype):
                try:
                    dtype = np.asarray(values[name]).dtype
                except Exception:  # an object that is no array: its own check says so, by name
                    continue
            found.append(dtype if is_floating(dtype) else np.dtype(np.float64))
        return np.result_type(*found) if found else np.dtype(np.float64)

    # -- paths ---------------------------------------------------------------------------------------------------

    @property
    def _backend(self):
        return import_module(f"{PATHS[self.path_name]}.{self.name}")

    def _take_out(self, kwargs: dict) -> tuple[dict, dict]:
        """The caller's buffer apart from the arguments; only kernels write into one."""
        if self.path_name == "numpy" or kwargs.get("out") is None:
            return kwargs, {}
        return {name: value for name, value in kwargs.items() if name != "out"}, {"out": kwargs["out"]}

    def _value(self, call: Call, **out):
        """The terms of a loss (the output of a function that does not reduce)."""
        if self.path_name != "numpy":
            return self._backend.value(**call.arguments, **out)
        terms = self.definition(**call.arguments)
        answers = getattr(terms, "dtype", None) == bool  # yes or no stays so
        return terms if answers or is_exact(terms) else np.asarray(terms, call.dtype)

    def _vjp(self, call: Call, weights, **out) -> tuple:
        """One gradient per differentiable argument that was given, for given weights of the terms."""
        if self.path_name != "numpy":
            return _as_tuple(self._backend.vjp(**call.arguments, cotangent=weights, **out))
        return self._apply_gradient_rule(call, weights)

    def _on_device(self, call: Call, cotangent=None, **out):
        """Everything on the GPU, the reduction too: nothing waits for the host."""
        backend, options = self._backend, self._reduction_options(call)
        if cotangent is None:
            return (backend.reduced_value if options else backend.value)(**call.arguments, **options, **out)
        compute = backend.reduced_value_and_vjp if options else backend.value_and_vjp
        return compute(**call.arguments, **options, cotangent=cotangent, **out)

    def _apply_gradient_rule(self, call: Call, weights) -> tuple:
        rule = self.gradient_rule
        if not self.row_wise:
            gradients = _as_tuple(_call_with(rule, {**call.arguments, "cotangent": weights}))
        else:
            rows = _as_tuple(_call_with(rule, call.arguments))
            # A term that does not count (weight 0) has gradient 0, even where its own derivative is infinite.
            gradients = tuple(None if g is None else times(_beside(weights, g), g) for g in rows)
        return tuple(
            np.ascontiguousarray(g, call.dtype).reshape(np.shape(call.arguments[name]))
            for name, g in zip(self.of, gradients, strict=True)
            if name in call.given
        )

    def _refuse_nan(self, call: Call, args, kwargs, result) -> None:
        """Kernels do not scan for NaN: if a row's result shows one, the full validation says where it came from."""
        if call.context.scan:
            return
        axis = call.arguments.get("axis")
        along = axis is not None and result.ndim == call.arguments[self.of[0]].ndim and result.size
        if np.isnan(np.take(result, 0, axis=axis) if along else result).any():
            self._bind(args, kwargs, scan=True)

    # -- reduction and cotangent ---------------------------------------------------------------------------------

    def _divisor(self, call: Call, arguments: dict, num_terms: int):
        if call.divisor is not None:
            return call.divisor
        return num_terms if self.divisor_rule is None else _call_with(self.divisor_rule, arguments)

    def _reduce(self, call: Call, terms):
        if not self.reducible or call.reduction == "none":
            return terms if terms.ndim else terms[()]  # as NumPy: `out` itself, and a scalar for no dimension
        if call.reduction == "mean" and self.mean_factor_rule is not None:
            terms = terms * _call_with(self.mean_factor_rule, call.arguments).astype(call.dtype)
        accurate = wide(call.dtype).type
        result = np.ascontiguousarray(terms).sum(dtype=accurate)
        if call.reduction == "mean":
            result = result / accurate(self._divisor(call, call.arguments, terms.size))
        return call.dtype.type(result)

    def _weights(self, call: Call, arguments: dict, shape: tuple):
        """The derivative of the reduced value by each term, times the cotangent."""
        cotangent = call.cotangent
        if not self.reducible or call.reduction == "none":
            return cotangent
        weights = cotangent
        if call.reduction == "mean":
            divisor = self._divisor(call, arguments, int(np.prod(shape)))
            weights = cotangent * 0 if divisor == 0 else cotangent / divisor  # no row counts: no gradient
            if self.mean_factor_rule is not None:
                weights = weights * _call_with(self.mean_factor_rule, arguments)
        return np.broadcast_to(weights, shape)

    def _terms_shape(self, call: Call) -> tuple:
        if callable(self.returns):
            return _call_with(self.returns, call.arguments)
        sizes = {dim: size for dim, (size, _) in call.context.sizes.items()}
        return Declaration(self.returns).shape(sizes)

    def _check_cotangent(self, cotangent, shape: tuple, call: Call):
        array = np.asarray(cotangent)
        if not (is_floating(array.dtype) or array.dtype.kind in "iu"):
            raise TypeError(message("cotangent", "a real number or array", cotangent))
        if self.reducible and call.reduction != "none":
            shape = ()
        if array.shape not in ((), shape):
            raise ValueError(message("cotangent", f"a number or shape {shape}", f"shape {array.shape}"))
        with np.errstate(over="ignore"):
            converted = array.astype(call.dtype)
        if not np.isfinite(converted).all():
            index = first_index(~np.isfinite(converted))
            raise ValueError(message("cotangent", f"finite numbers of {call.dtype}", array[index], index))
        return np.broadcast_to(converted, shape)

    def _reduction_options(self, call: Call) -> dict:
        return {"reduction": call.reduction, "divisor": call.divisor} if self.reducible else {}

    def _value_and_grad(self, args, kwargs, cotangent, want_value: bool):
        if not self.differentiable:
            raise TypeError(f"{self.name} has no gradient")
        kwargs, out = self._take_out(kwargs)
        call = self._bind(args, kwargs)
        if call.context.device:
            value, gradients = self._on_device(call, cotangent, **out)
            return value, self._pack(call, _as_tuple(gradients))
        shape = self._terms_shape(call)
        call.cotangent = self._check_cotangent(cotangent, shape, call)
        value = None
        with np.errstate(all="ignore"):
            weights = np.asarray(self._weights(call, call.arguments, shape), call.dtype)
            if self.path_name == "numpy":
                gradients = self._vjp(call, weights)
                if want_value:
                    value = self._reduce(call, self._value(call))
            elif want_value or self.reducible:
                terms, gradients = self._backend.value_and_vjp(**call.arguments, cotangent=weights, **out)
                gradients = _as_tuple(gradients)
                self._refuse_nan(call, args, kwargs, terms)
                value = self._reduce(call, terms)
            else:
                gradients = self._vjp(call, weights, **out)
                self._refuse_nan(call, args, kwargs, gradients[0])
        return value, self._pack(call, gradients)

    def _pack(self, call: Call, gradients: tuple):
        return gradients[0] if len(gradients) == 1 else self._gradients_type(call.given)(*gradients)

    def _gradients_type(self, given: tuple[str, ...]):
        return namedtuple(f"{self.name}_gradient", given)


class _Readable:
    """An annotation that help() and completion show as words."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self):
        return self.text

    @classmethod
    def parameter(cls, p: inspect.Parameter) -> inspect.Parameter:
        if isinstance(p.annotation, Declaration):
            return p.replace(annotation=cls(p.annotation.describe()))
        return p


def _as_tuple(gradients) -> tuple:
    return gradients if isinstance(gradients, tuple) else (gradients,)


def _call_with(function: Callable | None, arguments: dict):
    """Call a rule with the arguments that it names."""
    assert function is not None
    return function(**{name: arguments[name] for name in _parameters(function)})


@cache
def _parameters(function: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _beside(weights, gradient):
    """weights (one per term) shaped to multiply a gradient whose leading axes are the terms'."""
    return weights.reshape(weights.shape + (1,) * (gradient.ndim - weights.ndim))


def _check_reduction(reduction, divisor) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(message("reduction", " or ".join(map(repr, REDUCTIONS)), plain(reduction)))
    if divisor is None:
        return
    if reduction != "mean":
        raise ValueError(message("divisor", 'None unless reduction is "mean"', divisor))
    array = np.asarray(divisor)
    if array.dtype.kind not in "iuf" or array.ndim:
        raise TypeError(message("divisor", "a positive number", divisor))
    if not (np.isfinite(array) and array > 0):
        raise ValueError(message("divisor", "a positive number", array))
