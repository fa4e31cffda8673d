"""Declarations of arguments: one per argument, in the signature of a loss.

    def cross_entropy(logits: Real("N C", masked=True), labels: Labels("N", below="C"), *, softcap: Positive = None)

A declaration without dimensions is a number, one with dimensions an array. It answers four questions:
what is valid (``check``), how to say so (``describe``), what a valid value looks like (``random``, ``hard``), and
what an invalid one looks like (``bad``). Errors, documentation, random tests and bad-input tests all come from here.

Dimensions are named ("N C"); one name has one size in a call. "..." stands for any number of axes.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import ml_dtypes
import numpy as np

from .errors import first_index, message, plain

INFINITY = float("inf")
REQUIRED = inspect.Parameter.empty
FLOAT64 = np.dtype(np.float64)


def smallest_normal(dtype) -> float:
    """The smallest normal number; for longdouble float64's, in which cases are written."""
    return max(float(ml_dtypes.finfo(dtype).smallest_normal), float(np.finfo(np.float64).smallest_normal))


def blind_band(dtype) -> tuple[float, float]:
    """The leads from which 1 + e^-lead rounds to 1 and up to which e^-lead does not underflow."""
    return -np.log(float(ml_dtypes.finfo(dtype).eps)) + 1.0, -np.log(smallest_normal(dtype)) - 2.0


@dataclass(frozen=True)
class Interval:
    """The numbers from low to high; an end is open unless it is said to be closed."""

    low: float = -INFINITY
    high: float = INFINITY
    low_closed: bool = False
    high_closed: bool = False

    def contains(self, x):
        above = x >= self.low if self.low_closed else x > self.low
        below = x <= self.high if self.high_closed else x < self.high
        return above & below

    def __str__(self):
        left = "[" if self.low_closed else "("
        right = "]" if self.high_closed else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass
class Context:
    """What is known of a call while its arguments are being checked."""

    sizes: dict = field(default_factory=dict)  # dimension -> (size, the argument that fixed it)
    values: dict = field(default_factory=dict)  # the arguments checked so far
    dtype: np.dtype = FLOAT64  # in which the call is computed
    scan: bool = True  # False: a kernel's result will show NaN; no pass over the data for it here
    device: bool = False  # True: arrays live on a GPU; only shapes and dtypes are looked at

    def size(self, dim: str) -> int:
        return self.sizes[dim][0]


@dataclass(frozen=True)
class Declaration:
    dims: str | None = None
    differentiable_kind = False  # whether a derivative with respect to such an argument can exist

    def __call__(self, dims: str, **options) -> Declaration:
        return replace(self, dims=dims, **options)

    @property
    def is_array(self) -> bool:
        return self.dims is not None

    @property
    def names(self) -> list[str]:
        """The names of the dimensions."""
        return (self.dims or "").split()

    @property
    def shape_text(self) -> str:
        names = self.names
        return f"({names[0]},)" if len(names) == 1 and names[0] != "..." else f"({', '.join(names)})"

    def describe(self) -> str:
        kind = self.kind()
        return f"{kind} array {self.shape_text}" if self.is_array else kind

    # -- validity ------------------------------------------------------------------------------------------------

    def check_form(self, name: str, value, context: Context):
        """An argument with the right dtype and shape; its sizes go to the context."""
        array = self.check_dtype(name, value, context)
        self.bind_shape(name, np.shape(array), context)
        return array

    def bind_shape(self, name: str, shape: tuple, context: Context) -> None:
        dims = self.names
        known = context.sizes
        if "..." in dims:
            free = len(shape) - (len(dims) - 1)
            at = dims.index("...")
            groups = [*dims[:at], "...", *dims[at + 1 :]]
            sizes = [*shape[:at], tuple(shape[at : at + max(free, 0)]), *shape[at + max(free, 0) :]]
            wrong_rank = free < 0
        else:
            groups, sizes, wrong_rank = dims, list(shape), len(shape) != len(dims)
        if wrong_rank:
            raise ValueError(message(name, f"an array of shape {self.shape_text}", f"shape {shape}"))
        for dim, size in zip(groups, sizes, strict=True):
            if dim in known and known[dim][0] != size:
                fixed, by = known[dim]
                meaning = f"shape {fixed}" if dim == "..." else f"{dim} = {fixed}"
                raise ValueError(message(name, f"shape {self.shape_text} with {meaning} as in {by}", f"shape {shape}"))
            if dim == "C" and size < 1:
                raise ValueError(message(name, f"shape {self.shape_text} with at least one class", f"shape {shape}"))
            known.setdefault(dim, (size, name))

    def shape(self, sizes: dict) -> tuple:
        parts = [sizes[dim] for dim in self.names]
        return tuple(n for part in parts for n in (part if isinstance(part, tuple) else (part,)))

    def kind(self) -> str:
        raise NotImplementedError

    def check_number(self, name, value, context):
        raise NotImplementedError

    def check_dtype(self, name, value, context):
        raise NotImplementedError

    def check_values(self, name, array, context):
        return array

    def filled(self, context: Context):
        """What an array that was left out stands for, if it stands for an array."""
        return None

    # -- examples ------------------------------------------------------------------------------------------------

    def random(self, rng, sizes: dict, values: dict):
        """A valid value, drawn at random."""
        raise NotImplementedError

    def vary(self, rng, value, values: dict):
        """The value with what options allow put in: ignored labels, say."""
        return value

    def hard(self, value, sizes: dict, values: dict, dtype) -> Iterator[tuple[str, object]]:
        """Valid values where the obvious code fails, as (what is hard about it, value)."""
        return iter(())

    def bad(self, value, sizes: dict, values: dict) -> Iterator[tuple[str, object]]:
        """Invalid values, made from a valid one, as (what is wrong with it, value)."""
        if self.is_array:
            yield "an object that is no array", object()
            yield "a text", "abc"
            if "..." not in self.names:
                yield "an axis too many", np.asarray(value)[None]
                if np.size(value):
                    yield "an axis too few", np.asarray(value)[0]
        else:
            yield "a text", "abc"
            yield "an array", np.ones(3)


def _as_array(name: str, value, expected: Callable[[], str]) -> np.ndarray:
    """`expected` says what is legal; only an error asks it."""
    try:
        array = np.asarray(value)
    except Exception as reason:
        raise TypeError(message(name, expected(), f"{type(value).__name__} ({reason})")) from None
    if array.dtype == object or (array.dtype.kind in "USVMmc" and array.dtype != ml_dtypes.bfloat16):
        got = type(value).__name__ if array.dtype == object else f"dtype {array.dtype}"
        raise TypeError(message(name, expected(), got))
    return array


def _on_device(name: str, value, kinds: str, expected: str):
    """A device array as it is, if its dtype can be seen and is of one of these kinds (or cannot be seen)."""
    interface = getattr(value, "__cuda_array_interface__", None)
    dtype = interface["typestr"] if interface else getattr(value, "dtype", None)
    if isinstance(dtype, (str, np.dtype)) and np.dtype(dtype).kind not in kinds:
        raise TypeError(message(name, expected, f"dtype {np.dtype(dtype)}"))
    return value


def is_floating(dtype) -> bool:
    dtype = np.dtype(dtype)
    return dtype.kind == "f" or dtype == ml_dtypes.bfloat16


@dataclass(frozen=True)
class RealNumber(Declaration):
    """Real numbers in an interval.

    scale: the size of a difference that matters, which examples are drawn by (a temperature, say).
    or_none: None is legal although the default is a number.
    counted: name of the mask of the same shape that says which entries count; the others may hold anything, also NaN.
    """

    interval: Interval = Interval()
    masked: bool = False  # -inf is legal
    all_masked: bool = False  # … and a whole row of it too
    scale: float = 1.0
    or_none: bool = False
    counted: str | None = None
    differentiable_kind = True

    def kind(self) -> str:
        text = {
            Interval(): "real",
            Interval(0): "positive",
            Interval(0, low_closed=True): "nonnegative",
            Interval(high=0, high_closed=True): "nonpositive",
        }.get(self.interval, f"real in {self.interval}")
        return text + (" or None" if self.or_none else "")

    def describe(self) -> str:
        return super().describe() + (", -inf legal" if self.masked else "")

    def check_number(self, name, value, context):
        if value is None and self.or_none:
            return None
        array = _as_array(name, value, lambda: f"a {self.kind()} number")
        if array.ndim or array.dtype == bool:
            raise TypeError(message(name, f"a {self.kind()} number", value))
        number = float(array)
        if not (np.isfinite(number) and self.interval.contains(number)):
            raise ValueError(message(name, f"a finite number in {self.interval}", number))
        return number

    def check_dtype(self, name, value, context):
        if context.device:
            return _on_device(name, value, "fV", f"a {self.kind()} array {self.shape_text}")  # V: bfloat16
        array = _as_array(name, value, lambda: f"a {self.kind()} array {self.shape_text}")
        return np.ascontiguousarray(array, context.dtype).reshape(array.shape)

    def check_values(self, name, array, context):
        if self.counted and context.values.get(self.counted) is not None:
            harmless = 0.0 if self.interval.contains(0.0) else 1.0
            array = np.where(context.values[self.counted], array, array.dtype.type(harmless))
        unbounded = self.interval == Interval()
        if array.size == 0 or (unbounded and self.masked and not context.scan):
            return array
        high, low = array.max(), array.min()  # NaN propagates through both
        inside = high < INFINITY and (low > -INFINITY or self.masked) and unbounded
        if not inside:
            slack = 4 * float(ml_dtypes.finfo(array.dtype).eps) if self.interval.high == 1 else 0.0
            widened = replace(self.interval, low=self.interval.low - slack, high=self.interval.high + slack)
            good = np.isfinite(array) & widened.contains(array)
            if self.masked:
                good |= array == -INFINITY
            if not good.all():
                index = first_index(~good)
                allowed = "finite numbers" if unbounded else f"numbers in {self.interval}"
                allowed += " or -inf" if self.masked else ""
                raise ValueError(message(name, allowed, array[index], index))
            if slack:  # a probability may exceed 1 by rounding: that is not the caller's mistake
                array = np.clip(array, self.interval.low, self.interval.high).astype(array.dtype)
        if self.masked and not self.all_masked and array.ndim > 1 and low == -INFINITY:
            empty = (array == -INFINITY).all(axis=-1)
            if empty.any():
                index = first_index(empty)
                raise ValueError(message(name, "a finite entry in every row", "only -inf", index))
        return array

    def random(self, rng, sizes, values):
        low, high = self.interval.low, self.interval.high
        shape = self.shape(sizes) if self.is_array else ()
        if np.isfinite(low) and np.isfinite(high):
            x = low + (high - low) * rng.uniform(0.02, 0.98, shape)
        elif np.isfinite(low):
            x = low + rng.gamma(2.0, 0.5, shape) + 0.01
        elif np.isfinite(high):
            x = high - rng.gamma(2.0, 0.5, shape) - 0.01
        else:
            x = 2.0 * self.scale * rng.standard_normal(shape)
        return self._shortened(x) if self.is_array else round(float(x), 3)

    def _shortened(self, x):
        """x with a few significant bits: the same number in every dtype, so that dtypes can be compared."""
        bits = 6 - int(np.floor(np.log2(self.scale)))
        return np.ldexp(np.rint(np.ldexp(x, bits)), -bits)

    def hard(self, value, sizes, values, dtype):
        if not self.is_array or np.size(value) == 0:
            return
        info = ml_dtypes.finfo(dtype)
        value = np.asarray(value, np.float64)
        if self.interval == Interval():
            blind, gone = blind_band(dtype)
            for lead in (np.ceil(blind), np.floor((blind + gone) / 2), np.floor(gone)):
                lead = float(self._shortened(lead * self.scale))
                if value.ndim >= 2 and value.shape[-1] > 1:
                    ahead, behind = value.copy(), value.copy()
                    ahead[..., 0] = value[..., 1:].max(axis=-1) + lead
                    behind[..., 0] = value[..., 1:].min(axis=-1) - lead
                    yield f"one entry leads its row by {lead:g}", ahead
                    yield f"one entry trails its row by {lead:g}", behind
                else:
                    yield f"raised by {lead:g}", value + lead
                    yield f"lowered by {lead:g}", value - lead
            if value.ndim >= 2:
                grid = 2.0 ** np.ceil(np.log2(self.scale))
                offset = grid * 2.0**-6 / float(info.eps)  # differences of multiples of the grid survive
                yield f"a common offset of {offset:g}", grid * np.rint(value / grid) + offset
                yield "all entries equal", np.zeros_like(value)
                if self.masked and value.shape[-1] > 2:
                    masked = value.copy()
                    masked[..., 1] = -INFINITY
                    yield "one entry of every row masked", masked
        if self.interval.low == 0:
            edge = value.copy()
            edge.flat[0] = 8 * smallest_normal(dtype) if not self.interval.low_closed else 0.0
            yield "next to its lower end", edge
            if self.interval.high == 1:
                yield (
                    "confident and wrong or right",
                    np.where(value > 0.5, 1 - float(info.eps) * 8, float(info.eps) ** 2),
                )

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        if self.is_array:
            if np.size(value):
                counted = values.get(self.counted)
                last = -1 if counted is None else np.flatnonzero(counted)[-1]
                for what, entry in self._bad_entries():
                    array = np.array(value, dtype=np.float64)
                    array.flat[last] = entry
                    yield what, array
            yield "complex numbers", np.asarray(value, dtype=np.complex128)
        else:
            yield from self._bad_entries()

    def _bad_entries(self):
        yield "NaN", float("nan")
        yield "+inf", INFINITY
        if not self.masked:
            yield "-inf", -INFINITY
        if np.isfinite(self.interval.low):
            yield "below the interval", self.interval.low - 0.5
            if not self.interval.low_closed:
                yield "the open lower end", self.interval.low
        if np.isfinite(self.interval.high):
            yield "above the interval", self.interval.high + 0.5


@dataclass(frozen=True)
class Whole(Declaration):
    """Integers, at least ``low``, and at most the size of the dimension ``up_to``."""

    low: int | None = None
    up_to: str | None = None

    def kind(self) -> str:
        low = "" if self.low is None else f" ≥ {self.low}"
        return "integer" + low + ("" if self.up_to is None else f" ≤ {self.up_to}")

    def check_number(self, name, value, context):
        try:
            if isinstance(value, (bool, np.bool_)):
                raise TypeError
            number = operator.index(value)
        except TypeError:
            raise TypeError(message(name, f"an {self.kind()}", value)) from None
        if (self.low is not None and number < self.low) or (
            self.up_to is not None and number > context.size(self.up_to)
        ):
            raise ValueError(message(name, f"an {self.kind()}", number))
        return number

    def check_dtype(self, name, value, context):
        if context.device:
            return _on_device(name, value, "iu", f"an array of integers {self.shape_text}")
        return _integers(name, value, f"an array of integers {self.shape_text}")

    def check_values(self, name, array, context):
        low = -INFINITY if self.low is None else self.low
        high = INFINITY if self.up_to is None else context.size(self.up_to)
        bad = (array < low) | (array > high)
        if bad.any():
            index = first_index(bad)
            raise ValueError(message(name, f"integers from {low} to {high}", array[index], index))
        return array

    def random(self, rng, sizes, values):
        low = 0 if self.low is None else self.low
        high = low + 3 if self.up_to is None else sizes[self.up_to]
        drawn = rng.integers(max(low, (high + 1) // 2), high + 1, self.shape(sizes) if self.is_array else ())
        return drawn if self.is_array else int(drawn)

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        yield "floats", np.asarray(value, np.float64) if self.is_array else 0.5
        if self.low is not None:
            yield "below the least", (np.asarray(value) * 0 + self.low - 1) if self.is_array else self.low - 1
        if self.up_to is not None and np.size(value):
            yield "beyond the most", np.asarray(value) * 0 + sizes[self.up_to] + 1


def _integers(name, value, expected):
    array = _as_array(name, value, lambda: expected)
    if array.size == 0 and array.dtype == np.float64:  # np.asarray([]) is float64
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(message(name, expected, f"dtype {array.dtype}"))
    return array.astype(np.int64)


@dataclass(frozen=True)
class ClassLabels(Declaration):
    """Class indices in [0, below).

    ignore: name of the argument whose value marks entries that do not count.
    lengths: name of the argument that says how many entries of each row are real (the rest is padding).
    excluding: name of the argument whose value is no label (the blank of CTC).
    """

    below: str = "C"
    ignore: str | None = None
    lengths: str | None = None
    excluding: str | None = None

    def kind(self) -> str:
        text = f"integer labels in [0, {self.below})"
        text += f", or {self.ignore}" if self.ignore else ""
        return text + (f", never {self.excluding}" if self.excluding else "")

    def describe(self) -> str:
        return f"{self.kind()}, array {self.shape_text}"

    def check_dtype(self, name, value, context):
        if context.device:
            return _on_device(name, value, "iu", f"an array of integer labels {self.shape_text}")
        return _integers(name, value, f"an array of integer labels {self.shape_text}")

    def check_values(self, name, array, context):
        count = context.size(self.below)
        bad = (array < 0) | (array >= count)
        expected = f"labels in [0, {count})"
        if self.excluding:
            blank = context.values[self.excluding]
            bad |= array == blank
            expected += f" other than {self.excluding} = {blank}"
        if self.ignore:
            ignored = context.values[self.ignore]
            bad &= array != ignored
            expected += f" or {self.ignore} = {ignored}"
        if self.lengths and context.values.get(self.lengths) is not None:
            bad &= np.arange(array.shape[-1]) < context.values[self.lengths][:, None]
        if bad.any():
            index = first_index(bad)
            raise ValueError(message(name, expected, array[index], index))
        return array

    def random(self, rng, sizes, values):
        shape, count = self.shape(sizes), sizes[self.below]
        labels = rng.integers(0, count, shape)
        if self.excluding:
            blank = values[self.excluding]
            labels = rng.integers(0, max(count - 1, 1), shape)
            labels = labels + (labels >= blank)
        return labels

    def vary(self, rng, value, values):
        if value is None or not self.ignore or np.size(value) < 2:
            return value
        return np.where(rng.uniform(size=np.shape(value)) < 0.2, values[self.ignore], value)

    def hard(self, value, sizes, values, dtype):
        yield "label 0 everywhere", np.zeros_like(value) if not self.excluding else value
        if self.ignore:
            ignored = np.array(value)
            ignored.flat[0] = values[self.ignore]
            yield "an ignored label", ignored

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        yield "float labels", np.asarray(value, np.float64)
        yield "boolean labels", np.asarray(value, bool)
        if np.size(value):
            for what, label in (("a label too large", sizes[self.below]), ("a negative label", -1)):
                if self.ignore and values[self.ignore] == label:
                    continue
                array = np.array(value)
                array.flat[0] = label
                yield what, array


@dataclass(frozen=True)
class BooleanMask(Declaration):
    """True and False."""

    def kind(self) -> str:
        return "boolean"

    def check_number(self, name, value, context):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(message(name, "True or False", value))
        return bool(value)

    def check_dtype(self, name, value, context):
        if context.device:
            return _on_device(name, value, "b", f"a boolean array {self.shape_text}")
        array = _as_array(name, value, lambda: f"a boolean array {self.shape_text}")
        if array.dtype != bool:
            raise TypeError(message(name, f"a boolean array {self.shape_text}", f"dtype {array.dtype}"))
        return array

    def random(self, rng, sizes, values):
        return rng.uniform(size=self.shape(sizes)) < 0.7 if self.is_array else bool(rng.integers(2))

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        yield "numbers", np.asarray(value, np.float64) if self.is_array else 1


@dataclass(frozen=True)
class Distribution(RealNumber):
    """Nonnegative masses that sum to 1 along the last axis."""

    interval: Interval = Interval(0.0, low_closed=True)

    def kind(self) -> str:
        return "nonnegative"

    def describe(self) -> str:
        return super().describe() + " of sum 1"

    def filled(self, context):
        shape = self.shape({dim: size for dim, (size, _) in context.sizes.items()})
        return np.full(shape, 1 / max(shape[-1], 1), context.dtype)

    def check_values(self, name, array, context):
        array = super().check_values(name, array, context)
        off = np.abs(total_mass := array.sum(axis=-1, dtype=np.promote_types(array.dtype, np.float32))) - 1
        tolerance = max(1e-9, 2 * float(ml_dtypes.finfo(array.dtype).eps) * max(array.shape[-1], 4))
        if (np.abs(off) > tolerance).any():
            worst = total_mass.flat[int(np.argmax(np.abs(off)))]
            raise ValueError(message(name, "masses that sum to 1", f"a sum of {plain(worst)}"))
        return array

    def random(self, rng, sizes, values):
        shape = self.shape(sizes)
        if not all(shape):
            return np.zeros(shape)
        parts = max(64, 2 ** shape[-1].bit_length())
        counts = 1 + rng.multinomial(parts - shape[-1], np.ones(shape[-1]) / shape[-1], shape[:-1])
        return counts / parts  # exact in every dtype, and so is the sum

    def hard(self, value, sizes, values, dtype):
        if np.shape(value) and np.shape(value)[-1] > 1:
            point = np.zeros_like(value)
            point[..., 0] = 1
            yield "all mass on one point", point

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        yield "a sum that is not 1", np.asarray(value) * 2


@dataclass(frozen=True)
class PerColumnNumber(RealNumber):
    """A number, or one for each entry of the last axis of the arrays that share its dimensions "..."."""

    @property
    def shape_text(self) -> str:
        return "() or (last axis,)"

    def bind_shape(self, name, shape, context):
        of = context.size("...")[-1:]
        if shape not in ((), (1,), of):
            raise ValueError(message(name, f"a number or shape {of}", f"shape {shape}"))

    def shape(self, sizes):
        return sizes["..."][-1:]


@dataclass(frozen=True)
class Choice(Declaration):
    """One of a few words."""

    words: tuple[str, ...] = ()

    def __init__(self, *words: str):
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "dims", None)

    def kind(self) -> str:
        return " or ".join(repr(word) for word in self.words)

    def check_number(self, name, value, context):
        if not isinstance(value, str):
            raise TypeError(message(name, self.kind(), value))
        if value not in self.words:
            raise ValueError(message(name, self.kind(), plain(value)))
        return value

    def random(self, rng, sizes, values):
        return self.words[int(rng.integers(len(self.words)))]

    def bad(self, value, sizes, values):
        yield "an unknown word", "no such choice"
        yield "a number", 3


@dataclass(frozen=True)
class Argument:
    """An argument of a loss: its name, its declaration, its default."""

    name: str
    declaration: Declaration
    default: object

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def is_array(self) -> bool:
        return self.declaration.is_array

    def depends_on_lengths(self) -> bool:
        """Whether another argument says which of its entries count, and so comes first."""
        return getattr(self.declaration, "lengths", None) is not None

    def describe(self) -> str:
        if self.required:
            return self.declaration.describe()
        default = "optional" if self.default is None else f"default {plain(self.default)}"
        return f"{self.declaration.describe()}, {default}"


@dataclass(frozen=True)
class Either(Declaration):
    """A value that one of several declarations accepts; examples are of the first."""

    options: tuple[Declaration, ...] = ()

    def __init__(self, *options: Declaration):
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "dims", None)

    def kind(self) -> str:
        return " or ".join(option.kind() for option in self.options)

    def check_number(self, name, value, context):
        refusals: list[Exception] = []
        for option in self.options:
            try:
                return option.check_number(name, value, context)
            except (TypeError, ValueError) as refusal:
                refusals.append(refusal)
        # A value of the right type but out of range is told so; the type is wrong only if no option takes it.
        for told in refusals:
            if isinstance(told, ValueError):
                raise told
        raise TypeError(message(name, self.kind(), value))

    def random(self, rng, sizes, values):
        return self.options[0].random(rng, sizes, values)

    def bad(self, value, sizes, values):
        yield "an object of no such kind", object()


@dataclass(frozen=True)
class PairOfCounts(Declaration):
    """A pair of counts, such as (rows, columns) of a tile."""

    def kind(self) -> str:
        return "pair of integers ≥ 1"

    def check_number(self, name, value, context):
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise TypeError(message(name, f"a {self.kind()}", value))
        return tuple(Count.check_number(name, part, context) for part in value)


Real = RealNumber()
Positive = RealNumber(interval=Interval(0.0))
NonNegative = RealNumber(interval=Interval(0.0, low_closed=True))
NonPositive = RealNumber(interval=Interval(high=0.0, high_closed=True))
Fraction = RealNumber(interval=Interval(0.0, 1.0, low_closed=True, high_closed=True))
Probability = Fraction
PerColumn = PerColumnNumber()
Masses = Distribution()
Labels = ClassLabels()
Integer = Whole()
Count = Whole(low=1)
Size = Whole(low=0)
CountPair = PairOfCounts()
Lengths = Whole(low=0)
Mask = BooleanMask()
Flag = BooleanMask()


@dataclass(frozen=True)
class BinaryTargets(RealNumber):
    """Targets that are 0 or 1."""

    interval: Interval = Interval(0.0, 1.0, low_closed=True, high_closed=True)

    def kind(self) -> str:
        return "binary (0 or 1)"

    def check_values(self, name, array, context):
        bad = (array != 0) & (array != 1)
        if bad.any():
            index = first_index(bad)
            raise ValueError(message(name, "targets that are 0 or 1", array[index], index))
        return array

    def random(self, rng, sizes, values):
        return (rng.uniform(size=self.shape(sizes)) < 0.5).astype(np.float64)

    def hard(self, value, sizes, values, dtype):
        yield "no positive target", np.zeros_like(value)
        yield "only positive targets", np.ones_like(value)

    def bad(self, value, sizes, values):
        yield from super().bad(value, sizes, values)
        if np.size(value):
            yield "a soft target", np.asarray(value) * 0 + 0.5


Binary = BinaryTargets()
