"""Is this gradient the gradient of that function? For any function, yours included.

Three ways to the truth: differences of the function along each entry, with a bound of their own error; a step in the
imaginary direction, where the function is analytic code; and exact arithmetic, where the function is NumPy code that
runs on object arrays. The first works for everything and sees errors down to rounding; the last sees everything.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from lossref.core.loss import Loss

METHODS = ("central", "complex", "exact")
EPS = float(np.finfo(np.float64).eps)

EVERY_ENTRY = 400  # up to so many entries, every one is checked
SAMPLE = 64  # of more entries, so many at random, besides the directions
DIRECTIONS = 3  # random directions through all arguments at once

# Differences: the steps are the entry's scale times 2**-3, 2**-5, … 2**-17, around the best step of a fourth-order
# formula, eps**(1/5), and down to that of the second-order one, eps**(1/3).
STEPS = tuple(2.0 ** -(3 + 2 * k) for k in range(8))
NOISE_SPACING = 2.0**-26
NOISE_POINTS = 6
COARSEST_GRID = 2.0**-20  # steps that rounding displaces by more than this part are not made
CAUTION = 8.0  # by how much the estimate of rounding is multiplied to be called a bound

IMAGINARY_STEP = 2.0**-100  # its square is below every rounding
COMPLEX_UNITS = 64.0

EXACT_UNITS = 8.0  # the yardstick of every gradient in lossref
EXACT_STEP = 2.0**-40
ONE_BY_ONE = 64  # up to so many entries are moved one by one to see how the gradient moves; more by random signs
SIGN_PATTERNS = 16


@dataclass(frozen=True)
class Entry:
    """One derivative: what the gradient says, what it must be, and how far apart the two may lie."""

    argument: str
    index: tuple[int, ...]
    got: float
    want: float
    error: float
    allowed: float

    @classmethod
    def compared(cls, argument: str, index: tuple[int, ...], got, want: float, bound: float) -> Entry:
        """A derivative with the truth known up to a bound; 8 roundings of its own are allowed on top."""
        error = abs(float(got) - want)
        return cls(
            argument, index, float(got), want, math.inf if math.isnan(error) else error, bound + 8 * EPS * abs(want)
        )

    @property
    def ok(self) -> bool:
        return self.error <= self.allowed

    @property
    def badness(self) -> float:
        """The error in units of what is allowed."""
        if self.error == 0:
            return 0.0
        return self.error / self.allowed if self.allowed > 0 and not math.isnan(self.error) else math.inf

    @property
    def resolved(self) -> bool:
        """Whether a gradient of 0 in its place, or one wrong by a hundredth, would have been noticed."""
        return self.allowed <= 0.01 * abs(self.want) or self.want == self.got == 0

    @property
    def place(self) -> str:
        if self.argument == "":
            return "along a random direction"
        return self.argument + (f"[{', '.join(map(str, self.index))}]" if self.index else "")


@dataclass(frozen=True)
class ArgumentReport:
    """What was found for one argument: ``worst`` is the entry with the largest error relative to what is allowed."""

    name: str
    shape: tuple[int, ...]
    checked: int
    wrong: int
    unresolved: int
    worst: Entry | None


@dataclass(frozen=True)
class GradcheckReport:
    """The verdict of :func:`gradcheck`. True in an ``if`` when the gradient is right.

    Attributes
    ----------
    ok
        Whether every checked entry and direction is within its bound.
    method
        How the truth was found: "central", "complex" or "exact".
    worst_error, allowed
        |got - want| at the worst entry, and how large it might have been.
    argument, index
        Where that is; the argument is "" if the worst one is a random direction through all arguments.
    got, want
        What the gradient says there, and what it must be.
    arguments
        One :class:`ArgumentReport` for each argument.
    directions
        The random directions: derivative along each from the gradient (got) and from the function (want).
    """

    function: str
    method: str
    arguments: tuple[ArgumentReport, ...]
    directions: tuple[Entry, ...] = ()
    entries: tuple[Entry, ...] = field(default=(), repr=False)

    @property
    def _all(self) -> tuple[Entry, ...]:
        return self.entries + self.directions

    @property
    def ok(self) -> bool:
        return all(entry.ok for entry in self._all)

    @property
    def worst(self) -> Entry:
        """The worst wrong entry; without one, the worst wrong direction; without any, what came nearest to wrong."""
        wrong = [entry for entry in self.entries if not entry.ok] or [line for line in self.directions if not line.ok]
        return _worst(wrong or self._all) or Entry("", (), 0.0, 0.0, 0.0, 0.0)

    @property
    def worst_error(self) -> float:
        return self.worst.error

    @property
    def allowed(self) -> float:
        return self.worst.allowed

    @property
    def argument(self) -> str:
        return self.worst.argument

    @property
    def index(self) -> tuple[int, ...]:
        return self.worst.index

    @property
    def got(self) -> float:
        return self.worst.got

    @property
    def want(self) -> float:
        return self.worst.want

    def __bool__(self) -> bool:
        return self.ok

    def raise_if_wrong(self) -> GradcheckReport:
        """Raise an AssertionError with this report if the gradient is wrong; otherwise return the report."""
        if not self.ok:
            raise AssertionError(str(self))
        return self

    def __str__(self) -> str:
        verdict = "right" if self.ok else "WRONG"
        lines = [f"gradient of {self.function}: {verdict} (method {self.method!r})"]
        worst = self.worst
        if self._all:
            relative = f", relative {worst.error / abs(worst.want):.2g}" if worst.want else ""
            lines.append(
                f"  worst: {worst.place}: the gradient says {worst.got:.10g}, it must be {worst.want:.10g} "
                f"(error {worst.error:.2g}{relative}; allowed {worst.allowed:.2g})"
            )
        for argument in self.arguments:
            size = int(np.prod(argument.shape))
            lines.append(
                f"  {argument.name}, shape {argument.shape}: {argument.checked} of {size} entries checked, "
                f"{argument.wrong} wrong"
            )
        if self.directions:
            wrong = sum(not entry.ok for entry in self.directions)
            lines.append(f"  {len(self.directions)} random directions through all arguments, {wrong} wrong")
        unresolved = sum(argument.unresolved for argument in self.arguments)
        if unresolved:
            lines.append(
                f"  {unresolved} entries are too small for this method to see an error of 1 % in them; "
                'method="exact" can'
            )
        return "\n".join(lines)


def gradcheck(
    fn: Callable,
    grad: Callable,
    *args,
    cotangent=None,
    method: str = "central",
    rng: np.random.Generator | int | None = None,
    of: str | int | Sequence[str | int] | None = None,
    **kwargs,
) -> GradcheckReport:
    """Check a gradient against the function that it claims to be the gradient of.

    Every entry is checked where there are few, a random sample where there are many, and random directions through
    all arguments at once. The cotangent is random, never ones: a gradient that ignores it is wrong.

    Parameters
    ----------
    fn : callable
        ``fn(*args, **kwargs)`` returns a number or an array. Any function: a loss of this library or your own.
    grad : callable
        ``grad(*args, cotangent=…, **kwargs)`` returns the vector-Jacobian product: one array, or a tuple with one
        for each argument of ``of``. If it has no parameter ``cotangent``, it is the gradient of an ``fn`` that
        returns one number.
    *args, **kwargs
        Where to check. Both functions get them.
    cotangent : number or array, optional
        What multiplies the outputs of ``fn``; random if left out.
    method : {"central", "complex", "exact"}
        "central": differences at eight steps per entry, extrapolated to fourth order. The bound of their error, from
        how much they disagree (truncation) and from how noisy ``fn`` is (rounding), is what the gradient may deviate.
        Narrower floats than float64 are checked in float64: is the formula right?
        "complex": a step in the imaginary direction, for analytic ``fn`` without comparisons, abs or max.
        "exact": ``fn`` runs on enclosures of real numbers (:mod:`lossref.exact`), and each entry of the gradient must
        lie within 8 roundings of the truth, however small it is: with x_k the inputs and g the entry, a rounding is
        eps · (|g| + Σ_k \\|∂g/∂x_k · x_k|). For NumPy code that runs on object arrays, and for every loss here.
    rng : numpy.random.Generator or int, optional
        The source of directions and cotangents; the same every time if left out.
    of : str, int or a sequence of them, optional
        The names or positions of the arguments that ``grad`` differentiates by. Without it: those of a loss, or every
        positional argument of floating-point numbers.

    Returns
    -------
    GradcheckReport
        True in an ``if`` when the gradient is right; ``print`` it; ``.raise_if_wrong()`` in tests.

    Raises
    ------
    TypeError, ValueError
        If ``fn`` or ``grad`` cannot be checked in this way: not callable, wrong shapes, code that does not run on
        complex or exact numbers. A wrong gradient raises nothing.
    lossref.exact.UndecidedError
        By "exact", at a tie or a kink, where the derivative does not exist.

    Examples
    --------
    >>> import numpy as np, lossref as lr
    >>> x = np.array([0.5, -1.0, 2.0])
    >>> print(lr.gradcheck(lambda x: np.sum(x**3), lambda x: 3.001 * x**2, x))
    gradient of <lambda>: WRONG (method 'central')
      worst: x[...]: the gradient says ..., it must be ... (error ..., relative 0.00033; allowed ...)
      x, shape (3,): 3 of 3 entries checked, 3 wrong
      3 random directions through all arguments, 3 wrong

    An error that differences cannot see: a right answer that leads by 50 pulls with 2e-22, not with 0.

    >>> def loss(x):
    ...     return np.log(np.sum(np.exp(x - x[0])))
    >>> def its_gradient(x):
    ...     p = np.exp(x - x[0]) / np.sum(np.exp(x - x[0]))
    ...     return p - np.array([1.0, 0.0])
    >>> x = np.array([50.0, 0.0])
    >>> lr.gradcheck(loss, its_gradient, x).ok
    True
    >>> report = lr.gradcheck(loss, its_gradient, x, method="exact")
    >>> report.ok, report.index, report.got
    (False, (0,), 0.0)
    """
    problem = _Problem(fn, grad, args, kwargs, of, method)
    rng = np.random.default_rng(0 if rng is None else rng)
    outputs = problem.outputs()
    problem.choose_cotangent(cotangent, outputs, rng)
    got = problem.gradient()
    directions: tuple[Entry, ...] = ()
    if method == "exact":
        entries = _exact_entries(problem, got)
    else:
        derivative = _by_differences if method == "central" else _by_complex_step
        if method == "complex":
            _refuse_code_that_is_not_analytic(problem, rng)
        entries = [
            Entry.compared(name, index, got[name][index], *derivative(problem, {name: _unit(problem, name, index)}))
            for name, index in _chosen_entries(problem, rng)
        ]
        directions = tuple(_directions(problem, got, derivative, rng))
    return GradcheckReport(
        problem.function_name, method, tuple(_by_argument(problem, entries)), directions, tuple(entries)
    )


# -- the question ----------------------------------------------------------------------------------------------------


class _Problem:
    """The two functions, the arguments by name, and which of them are differentiated by."""

    def __init__(self, fn, grad, args: tuple, kwargs: dict, of, method: str):
        for name, function in (("fn", fn), ("grad", grad)):
            if not callable(function):
                raise TypeError(f"{name}: expected a function, got {type(function).__name__}")
        if method not in METHODS:
            raise ValueError(f"method: expected {' or '.join(map(repr, METHODS))}, got {method!r}")
        self.fn, self.grad = fn, grad
        self.function_name = getattr(fn, "__name__", type(fn).__name__)
        self.positional = _positional_names(fn, len(args))
        self.keywords = tuple(kwargs)
        self.inputs: dict[str, object] = dict(zip(self.positional, args, strict=True)) | kwargs
        self.of = self._differentiable(of)
        self.refusal = ""  # what fn said when it last refused arguments near the given ones
        self.takes_cotangent = "cotangent" in _parameters(grad)
        if method != "exact":  # is the formula right? how accurate a narrow dtype is, is another question
            floats = {name: value for name, value in self.inputs.items() if _is_floats(value)}
            self.inputs |= {name: np.array(value, np.float64) for name, value in floats.items()}
        self.at = {name: np.asarray(self.inputs[name]) for name in self.of}

    def _differentiable(self, of) -> tuple[str, ...]:
        if of is None:
            if isinstance(self.fn, Loss):
                found = [name for name in self.fn.of if self.inputs.get(name) is not None]
            else:
                found = [name for name in self.positional if _is_floats(self.inputs[name])]
            if not found:
                raise TypeError("args: expected at least one argument of floating-point numbers, or of=…")
            return tuple(found)
        names = []
        for which in [of] if isinstance(of, (str, int)) else of:
            if isinstance(which, int) and -len(self.positional) <= which < len(self.positional):
                which = self.positional[which]
            if which not in self.inputs:
                raise ValueError(f"of: expected arguments that were given ({', '.join(self.inputs)}), got {which!r}")
            if not _is_floats(self.inputs[which]):
                raise TypeError(f"of: expected floating-point numbers as {which}, got {_kind(self.inputs[which])}")
            names.append(which)
        return tuple(names)

    def call(self, function, changed: dict, **more):
        inputs = {
            name: np.array(value) if isinstance(value, np.ndarray) else value  # a function may write into its inputs
            for name, value in (self.inputs | changed).items()
        }
        args = (inputs[name] for name in self.positional)
        return function(*args, **{name: inputs[name] for name in self.keywords}, **more)

    def outputs(self, changed: dict | None = None, dtype=np.float64) -> np.ndarray:
        """What fn returns, as an array."""
        with np.errstate(all="ignore"):
            result = np.asarray(self.call(self.fn, changed or {}))
        if result.dtype.kind not in ("fiuc" if dtype == complex else "fiu") and result.dtype.name != "bfloat16":
            raise TypeError(f"fn: expected a real number or array as its result, got {_kind(result)}")
        return result.astype(dtype)

    def outputs_nearby(self, changed: dict) -> np.ndarray:
        """The same for changed arguments, which may lie outside of fn's domain: NaN where fn refuses them."""
        try:
            return self.outputs(changed)
        except (ValueError, ArithmeticError) as reason:
            self.refusal = str(reason)
            return np.full(self.cotangent.shape, np.nan)

    def choose_cotangent(self, cotangent, outputs: np.ndarray, rng) -> None:
        shape = outputs.shape
        if not self.takes_cotangent:
            if shape != () or cotangent is not None:
                why = f"fn returns shape {shape}" if shape != () else "a cotangent was given"
                raise ValueError(f"grad: expected a parameter named cotangent, because {why}, got none")
            self.cotangent = np.ones(())
        elif cotangent is None:
            # Short significands, away from 0: the same in every dtype, and every output counts.
            drawn = rng.uniform(0.5, 2.0, shape) * rng.choice([-1.0, 1.0], shape)
            self.cotangent = np.asarray(np.rint(drawn * 64) / 64)
        else:
            self.cotangent = np.asarray(cotangent, np.float64)
            if self.cotangent.shape not in ((), shape):
                raise ValueError(f"cotangent: expected a number or shape {shape}, got shape {self.cotangent.shape}")
            self.cotangent = np.array(np.broadcast_to(self.cotangent, shape))

    def gradient(self) -> dict[str, np.ndarray]:
        """What grad returns, by argument."""
        more = {"cotangent": self.cotangent[()]} if self.takes_cotangent else {}
        with np.errstate(all="ignore"):
            result = self.call(self.grad, {}, **more)
        parts = tuple(result) if isinstance(result, (tuple, list)) else (result,)
        if len(parts) != len(self.of):
            raise ValueError(
                f"grad: expected {len(self.of)} gradient(s), for {', '.join(self.of)}, got {len(parts)}; "
                "say which arguments it differentiates by with of="
            )
        gradients = {}
        for name, part in zip(self.of, parts, strict=True):
            array = np.asarray(part)
            if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
                raise TypeError(f"grad: expected real numbers for {name}, got {_kind(part)}")
            if array.shape != self.at[name].shape:
                raise ValueError(f"grad: expected shape {self.at[name].shape} for {name}, got shape {array.shape}")
            gradients[name] = array
        return gradients


def _parameters(function) -> dict:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin that does not say
        return {}


def _positional_names(fn, count: int) -> tuple[str, ...]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, parameter in _parameters(fn).items() if parameter.kind in kinds][:count]
    return tuple(names) + tuple(f"argument {position}" for position in range(len(names), count))


def _is_floats(value) -> bool:
    if isinstance(value, float):
        return True
    dtype = getattr(value, "dtype", None)
    if not isinstance(dtype, np.dtype):
        if not isinstance(value, (list, tuple)) or not value:
            return False
        dtype = np.asarray(value).dtype
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _kind(value) -> str:
    dtype = getattr(value, "dtype", None)
    return f"dtype {dtype}" if dtype is not None else type(value).__name__


# -- what is checked -------------------------------------------------------------------------------------------------


def _chosen_entries(problem: _Problem, rng) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every finite entry of every argument, or a random sample of them."""
    found = [(name, index) for name in problem.of for index in np.ndindex(problem.at[name].shape)]
    found = [(name, index) for name, index in found if np.isfinite(problem.at[name][index])]
    if len(found) <= EVERY_ENTRY:
        yield from found
    else:
        for which in sorted(rng.choice(len(found), SAMPLE, replace=False)):
            yield found[which]


def _unit(problem: _Problem, name: str, index: tuple[int, ...]) -> np.ndarray:
    direction = np.zeros(problem.at[name].shape)
    direction[index] = 1.0
    return direction


def _random_direction(problem: _Problem, rng) -> dict[str, np.ndarray]:
    """Through all finite entries, each moved by about its size but by no more than about 1.

    Short significands: steps along it are then nearly exact.
    """
    direction = {}
    for name, at in problem.at.items():
        size = np.where(np.isfinite(at) & (at != 0), np.minimum(np.abs(at), 1.0), 1.0)
        drawn = np.rint(1024 * rng.standard_normal(at.shape)) / 1024
        direction[name] = np.where(np.isfinite(at), drawn * 2.0 ** np.ceil(np.log2(size)), 0.0)
    return direction


def _directions(problem: _Problem, got: dict, derivative: Callable, rng) -> Iterator[Entry]:
    for _ in range(DIRECTIONS):
        direction = _random_direction(problem, rng)
        if not any(np.any(step) for step in direction.values()):
            return
        products = np.concatenate([(got[name] * direction[name]).ravel() for name in problem.of])
        along = math.fsum(products) if np.isfinite(products).all() else math.nan
        own_rounding = EPS * float(np.abs(products).sum())
        want, bound = derivative(problem, direction)
        yield Entry.compared("", (), along, want, bound + own_rounding)


def _worst(entries) -> Entry | None:
    return max(entries, key=lambda entry: entry.badness, default=None)


def _by_argument(problem: _Problem, entries: Sequence[Entry]) -> Iterator[ArgumentReport]:
    for name in problem.of:
        own = [entry for entry in entries if entry.argument == name]
        wrong = sum(not entry.ok for entry in own)
        unresolved = sum(entry.ok and not entry.resolved for entry in own)
        yield ArgumentReport(name, problem.at[name].shape, len(own), wrong, unresolved, _worst(own))


# -- central differences ---------------------------------------------------------------------------------------------


def _by_differences(problem: _Problem, direction: dict[str, np.ndarray]) -> tuple[float, float]:
    """The derivative of Σ cotangent · fn along a direction, and a bound of its error.

    From fine steps to coarse ones: seen from far away every function looks like straight lines, with slopes that
    agree perfectly and are wrong. So coarse steps may sharpen what fine ones found, but not contradict it.
    """
    best = (math.nan, math.inf)
    for scale in _scales(problem, direction):
        derivative, bound = _extrapolated(problem, direction, scale)
        if math.isinf(bound):
            continue
        if math.isfinite(best[1]) and abs(derivative - best[0]) > bound + best[1]:
            break
        best = min(best, (derivative, bound), key=lambda found: found[1])
        if best[1] <= 1e-10 * abs(best[0]):
            break
    if math.isinf(best[1]):
        where = ", ".join(_place(name, d) for name, d in direction.items())
        refusal = f" (it said: {problem.refusal})" if problem.refusal else ""
        raise ValueError(
            f"fn: expected finite values on both sides of {where} for method='central', got none{refusal}; "
            "method='exact' needs only the point itself"
        )
    return best


def _place(name: str, direction: np.ndarray) -> str:
    """logits[0, 1] for a unit vector, logits for any other direction."""
    if direction.ndim == 0 or np.count_nonzero(direction) != 1:
        return name
    return f"{name}[{', '.join(str(axis[0]) for axis in np.nonzero(direction))}]"


def _scales(problem: _Problem, direction: dict[str, np.ndarray]) -> list[float]:
    """Over which distances fn may be expected to bend, finest first; powers of two, so that steps are exact."""
    at = problem.at
    moving = np.concatenate([np.abs(at[name][d != 0] / d[d != 0]).ravel() for name, d in direction.items()])
    everything = np.concatenate([np.abs(x[np.isfinite(x)]).ravel() for x in at.values()])
    own, typical = float(np.median(moving)), float(np.median(everything))
    guesses = (float(moving.min()), own, typical, 1.0, 2.0**-10 * min(max(own, typical), 1.0))
    return sorted({2.0 ** math.ceil(math.log2(guess)) for guess in guesses if guess > 1e-300})


def _extrapolated(problem: _Problem, direction: dict[str, np.ndarray], scale: float) -> tuple[float, float]:
    """Differences at all steps, each pair extrapolated; the pair with the smallest bound."""
    weights = np.abs(problem.cotangent)
    noise = _noise(problem, direction, scale)
    slopes, roundings = [], []
    for fraction in STEPS:
        step = fraction * scale
        slopes.append(math.nan)
        roundings.append(math.inf)
        misplaced = _misplaced(problem, direction, step)
        if misplaced > COARSEST_GRID:
            continue
        ahead, behind, width = _both_sides(problem, direction, step)
        if not (np.isfinite(ahead).all() and np.isfinite(behind).all()):
            continue
        slopes[-1] = math.fsum((problem.cotangent * (ahead - behind)).ravel()) / width
        size = np.maximum(np.abs(ahead), np.abs(behind))
        # No change at all: fn may have rounded it away beside a 1, as log(1 + tiny) does.
        size = np.where(ahead == behind, np.maximum(size, 1.0), size)
        rounding = EPS * float((weights * size).sum()) + misplaced * float((weights * np.abs(ahead - behind)).sum())
        roundings[-1] = CAUTION * (rounding + noise) / width
    # D(h) = D + a h² + b h⁴ + …: from h and h/4, (16 D(h/4) - D(h)) / 15 has no h² left.
    fourth = [(16 * fine - coarse) / 15 for coarse, fine in pairwise(slopes)]
    best = (math.nan, math.inf)
    for k in range(1, len(fourth)):
        rounding = (16 * roundings[k + 1] + roundings[k]) / 15
        # The coarser extrapolation errs by up to 256 times as much as this one, so their difference exceeds this
        # one's error, unless the two agree by chance: then the difference before tells.
        disagreement = abs(fourth[k] - fourth[k - 1])
        if k > 1 and not math.isnan(fourth[k - 2]):
            disagreement = max(disagreement, abs(fourth[k - 1] - fourth[k - 2]) / 16)
        bound = 2 * disagreement + rounding
        if bound < best[1]:
            best = fourth[k], bound
    return best


def _both_sides(problem: _Problem, direction, step: float) -> tuple[np.ndarray, np.ndarray, float]:
    ahead = {name: problem.at[name] + step * d for name, d in direction.items()}
    behind = {name: problem.at[name] - step * d for name, d in direction.items()}
    width = 2 * step
    if _is_single(direction):  # the step that was really made, after rounding
        ((name, d),) = direction.items()
        width = float(((ahead[name][d != 0] - behind[name][d != 0]) / d[d != 0]).item())
    return problem.outputs_nearby(ahead), problem.outputs_nearby(behind), width


def _misplaced(problem: _Problem, direction, step: float) -> float:
    """By how much rounding moves the points that a step leads to, relative to the step; a single entry is measured."""
    if _is_single(direction):
        ((name, d),) = direction.items()
        at = problem.at[name][d != 0]
        return 0.0 if np.all(at + step * d[d != 0] != at) else math.inf
    worst = 0.0
    for name, d in direction.items():
        x, move = problem.at[name][d != 0], step * d[d != 0]
        for side in (move, -move):
            worst = max(worst, float(np.max(np.abs(((x + side) - x) - side) / np.abs(move).mean(), initial=0.0)))
    return worst


def _is_single(direction: dict[str, np.ndarray]) -> bool:
    return len(direction) == 1 and all(np.count_nonzero(d) == 1 for d in direction.values())


def _noise(problem: _Problem, direction, scale: float) -> float:
    """How much Σ cotangent · fn trembles: the high differences of neighbouring values (Hamming; Moré and Wild).

    A smooth function has none; rounding has them all, each larger than the one before by a known factor.
    """
    largest = max(float(np.abs(problem.at[name][step != 0]).max(initial=0.0)) for name, step in direction.items())
    spacing = max(NOISE_SPACING * scale, 2.0**-46 * 2.0 ** math.ceil(math.log2(max(largest, 1e-300))))
    # On some grids all neighbours are rounded alike, and nothing trembles: two that have nothing in common.
    return max(_tremble(problem, direction, spacing * factor) for factor in (math.pi, -math.e))


def _tremble(problem: _Problem, direction, spacing: float) -> float:
    table = np.empty(NOISE_POINTS)
    for k in range(NOISE_POINTS):
        offset = (k - (NOISE_POINTS - 1) / 2) * spacing
        outputs = problem.outputs_nearby({name: problem.at[name] + offset * d for name, d in direction.items()})
        if not np.isfinite(outputs).all():
            return 0.0  # next to the edge of the domain; the larger steps have their own say
        table[k] = math.fsum((problem.cotangent * outputs).ravel())
    found = 0.0
    for order in range(1, NOISE_POINTS):
        table = np.diff(table)
        if order >= 3:
            found = max(found, math.sqrt(float(np.mean(table**2)) / math.comb(2 * order, order)))
    return found


# -- the complex step ------------------------------------------------------------------------------------------------


def _by_complex_step(problem: _Problem, direction: dict[str, np.ndarray]) -> tuple[float, float]:
    """Im fn(x + ih d) / h: no difference, so nothing cancels."""
    moved = {name: problem.at[name] + 1j * IMAGINARY_STEP * d for name, d in direction.items()}
    try:
        outputs = problem.outputs(moved, complex)
    except (TypeError, ValueError) as reason:
        raise TypeError(f"fn: expected code that runs on complex numbers for method='complex': {reason}") from None
    products = (problem.cotangent * outputs.imag / IMAGINARY_STEP).ravel()
    if not np.isfinite(products).all():
        raise ValueError("fn: expected finite results for method='complex', got inf or nan")
    return math.fsum(products), COMPLEX_UNITS * EPS * float(np.abs(products).sum())


def _refuse_code_that_is_not_analytic(problem: _Problem, rng) -> None:
    """abs, max or a comparison in fn would make the complex step wrong: differences along a direction tell."""
    direction = _random_direction(problem, rng)
    if not any(np.any(step) for step in direction.values()):
        return
    stepped, rounding = _by_complex_step(problem, direction)
    slope, bound = _by_differences(problem, direction)
    if not abs(stepped - slope) <= bound + rounding + 1e-12 * abs(slope):
        raise ValueError(
            "fn: expected analytic code for method='complex' (no abs, max, comparison or conjugate), got a complex "
            f"step of {stepped:.10g} where differences give {slope:.10g}; method='central' works for any code"
        )


# -- exact arithmetic ------------------------------------------------------------------------------------------------


def _exact_entries(problem: _Problem, got: dict[str, np.ndarray]) -> list[Entry]:
    from lossref.exact import Enclosure

    truth, scales = _truth(problem)
    entries = []
    for name, balls, scale in zip(problem.of, truth, scales, strict=True):
        enclosure = Enclosure(balls)
        given = got[name] if got[name].dtype.kind not in "iu" else got[name].astype(np.float64)
        unit = _eps_of(given.dtype)
        errors, want = np.asarray(enclosure.error(given)), np.asarray(enclosure.midpoint)
        for index in np.ndindex(given.shape):
            allowed = EXACT_UNITS * unit * float(scale[index])
            entries.append(
                Entry(name, index, float(given[index]), float(want[index]), float(errors[index]), allowed)
            )
    return entries


def _eps_of(dtype) -> float:
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _truth(problem: _Problem) -> tuple[tuple, list[np.ndarray]]:
    """Enclosures of the gradients, and how much each entry moves when the inputs move by one rounding."""
    from lossref.exact.ball import UndecidedError, collector_paused, lift, precision
    from lossref.exact.evaluation import with_precision

    gradients, bits = with_precision(lambda: _exact_gradients(problem, {}))
    base = [_floats(g) for g in gradients]
    scales = [np.where(np.isfinite(g), np.abs(g), 0.0) for g in base]
    with precision(bits - 2 * math.frexp(EXACT_STEP)[1]), collector_paused(), np.errstate(all="ignore"):
        origin = _exact_gradients(problem, {})
        for name, moves, combine in _roundings_of_inputs(problem):
            moved = []
            for move in moves:
                point = lift(problem.at[name]) + lift(EXACT_STEP * move)
                try:
                    there = _exact_gradients(problem, {name: point})
                except UndecidedError:
                    continue
                changes = [np.abs(_floats(t - o)) / EXACT_STEP for t, o in zip(there, origin, strict=True)]
                moved.append([np.where(np.isfinite(change), change, 0.0) for change in changes])
            if moved:
                scales = [scale + combine([move[k] for move in moved], axis=0) for k, scale in enumerate(scales)]
    return gradients, scales


def _floats(balls) -> np.ndarray:
    return np.asarray(balls, dtype=object).astype(np.float64)


def _roundings_of_inputs(problem: _Problem) -> Iterator[tuple[str, list[np.ndarray], Callable]]:
    """For each argument, the moves to try and how to combine what they do: one entry each, or all with random signs.

    A sum with random signs is at most the sum of the absolute values: never too lenient.
    """
    rng = np.random.default_rng(0)
    for name, at in problem.at.items():
        size = np.where(np.isfinite(at), at, 0).astype(np.float64)
        moving = [index for index in np.ndindex(size.shape) if size[index] != 0]
        if len(moving) <= ONE_BY_ONE:
            yield name, [np.where(_unit(problem, name, index) == 1, size, 0.0) for index in moving], np.sum
        else:
            yield name, [size * rng.choice([-1.0, 1.0], size.shape) for _ in range(SIGN_PATTERNS)], np.max


def _exact_gradients(problem: _Problem, changed: dict) -> tuple:
    """One run of fn on balls, and the sweep back."""
    from lossref.exact.ball import Ball, backward, lift, variables

    if isinstance(problem.fn, Loss):
        outputs, inputs = _loss_on_balls(problem, changed)
    else:
        made = {name: variables(changed.get(name, problem.at[name])) for name in problem.of}
        constants = {
            name: lift(value)
            for name, value in problem.inputs.items()
            if name not in made and isinstance(value, np.ndarray) and _is_floats(value)
        }
        try:
            with np.errstate(all="ignore"):
                outputs = problem.call(problem.fn, constants | {name: balls[()] for name, balls in made.items()})
        except (TypeError, AttributeError) as reason:
            raise TypeError(
                "fn: expected NumPy code that runs on object arrays for method='exact' "
                f"(method='central' works for any code): {reason}"
            ) from reason
        outputs = np.asarray(outputs, dtype=object)
        if outputs.size and not any(isinstance(number, Ball) for number in outputs.flat):
            raise TypeError(
                "fn: expected code that stays in exact arithmetic for method='exact', got a result of "
                f"{type(outputs.flat[0]).__name__}: something in it converts to floating point"
            )
        outputs, inputs = lift(outputs), tuple(made.values())
    return backward(outputs, problem.cotangent, inputs)


def _loss_on_balls(problem: _Problem, changed: dict):
    from lossref.exact.evaluation import Evaluation

    kwargs = {name: problem.inputs[name] for name in problem.keywords}
    call = problem.fn._bind([problem.inputs[name] for name in problem.positional], kwargs, scan=True)
    evaluation = Evaluation(problem.fn, call, problem.of, changed)
    inputs = tuple(np.asarray(evaluation.arguments[name], dtype=object) for name in problem.of)
    return evaluation.reduced(), inputs
