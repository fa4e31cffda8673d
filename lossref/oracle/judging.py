"""Judging: run a candidate on every case, compare with the truth, say what is wrong and how wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import ml_dtypes
import numpy as np

from lossref.core.declarations import ClassLabels, RealNumber
from lossref.core.errors import plain
from lossref.core.loss import REDUCTIONS, Loss, _call_with

from .candidates import Candidate, NotTaken, as_array, as_gradients
from .cases import Case, Scope, case_set, invalid_cases, laid_out
from .truth import LONG, Truth, epsilon, is_real, smallest, terms_shape, truth, widened

VALUE_LIMIT, GRADIENT_LIMIT = 4.0, 8.0
BESIDE_OURS = 2.5  # an error is allowed that lossref's own code makes in the same dtype, times this
WRONG, INACCURATE, NOTE = "wrong", "inaccurate", "note"
SEMANTICS = {
    "mean": ("declared", "all rows", "kept rows"),
    "empty mean": ("nan", "zero", "error"),
}


@dataclass
class Failure:
    """One result on one case that is not within its allowance."""

    case: Case
    reduction: str
    quantity: str  # "value" or "grad"
    position: int  # which gradient
    got: np.ndarray
    want: np.ndarray
    unit: np.ndarray  # one unit of the yardstick
    limit: float  # how many units are allowed
    coarse: np.ndarray
    failing: np.ndarray  # True where the result is not within its allowance
    severity: str
    cotangent: object = 1.0
    wrong: np.ndarray | None = None  # True where it is more than lost digits
    narrow: str = ""  # the dtype whose digits the results have, where it is narrower than the input's
    problem: str = ""  # the exception, where the candidate raised one

    @property
    def error(self) -> np.ndarray:
        return distance(self.got, self.want)

    @property
    def units(self) -> float:
        with np.errstate(all="ignore"):
            units = np.where(self.failing, self.error / self.unit, 0)
        return float(np.max(units, initial=0.0)) if self.failing.size else float("inf")


@dataclass
class Outcome:
    """What was seen on one case: for the plots and the summary."""

    case: Case
    reduction: str
    quantity: str
    units: np.ndarray
    limit: float


def distance(got, want) -> np.ndarray:
    """|got - want|; 0 for two equal infinities or two NaN, inf where only one of them is no finite number."""
    with np.errstate(all="ignore"):
        difference = np.abs(got - want)
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        return np.where(same, LONG(0), np.where(np.isfinite(got) & np.isfinite(want), difference, np.inf))


class Judge:
    """Judges one candidate in one dtype."""

    def __init__(
        self, loss: Loss, candidate: Candidate, dtype, fixed: dict | None, seed=0, quick=False, semantics=None
    ):
        self.loss, self.candidate, self.dtype = loss, candidate, np.dtype(dtype)
        self.seed, self.quick = seed, quick
        self.eps = epsilon(self.dtype)
        self.fixed = None if fixed is None else dict(fixed)
        self.declared = {"mean": "declared", "empty mean": "nan", **(semantics or {})}
        self.failures: list[Failure] = []
        self.outcomes: list[Outcome] = []
        self.notes: dict[tuple[str, str], tuple[Case, str]] = {}
        self.overwritten: dict[str, tuple[Case, str]] = {}
        self.typical: dict[tuple, tuple[float, float, float]] = {}
        self.cases_run = self.cases_skipped = self.calls = 0
        self.not_taken: Counter[str] = Counter()  # calls, by what the candidate said that it lacks
        self.hidden: list[tuple[Case, np.ndarray]] = []  # invalid inputs for which a number was returned
        self.other_means: set[str] = set()
        self.lead_cases: list[Case] = []
        self._cap: float | None = None
        self._cap_probed = False
        self.inferred: str | None = None
        self.hypotheses: list[tuple[str, float]] = []  # options and values that explained a wrong result
        optional = [n for n, a in loss.arguments.items() if not a.required]
        self.accepted = tuple(n for n in optional if candidate.takes(n))
        if self.fixed is not None:
            declarations = [a.declaration for a in loss.arguments.values()]
            named = {d.ignore for d in declarations if isinstance(d, ClassLabels)} - {None}
            self.scope_accepted = tuple(
                n for n in self.accepted if n in named and (candidate.names(n) or candidate.takes(n))
            )
        else:
            self.scope_accepted = self.accepted

    # -- the run -----------------------------------------------------------------------------------------------------

    def scope(self) -> Scope:
        fixed = None if self.fixed is None else {n: v for n, v in self.fixed.items() if n in self.loss.arguments}
        return Scope(self.loss, self.dtype, self.scope_accepted, fixed, self.seed, self.quick)

    def run(self, progress: Callable[[int, str], None] | None = None) -> None:
        scope = self.scope()
        for number, case in enumerate(case_set(scope)):
            if progress is not None:
                progress(number, case.name)
            for reduction in self.reductions(case):
                try:
                    self.judge(case, reduction)
                except _Undecided:
                    self.cases_skipped += 1
                self.cases_run += 1
        for case in invalid_cases(scope):
            self._judge_invalid(case)
        self._excuse_narrow_results()

    def _excuse_narrow_results(self) -> None:
        """Results rounded to a narrower dtype have lost digits; they are wrong only beyond that dtype's rounding."""
        narrower = {8: (np.float32, ml_dtypes.bfloat16, np.float16), 4: (np.float16, ml_dtypes.bfloat16)}
        of_the_value = None
        for quantity in ("value", "grad"):
            mine = [f for f in self.failures if f.quantity == quantity and not f.problem]
            parts = [np.ravel(f.got[f.failing]) for f in mine if f.case.ordinary]
            every = np.concatenate(parts) if parts else np.zeros(0, LONG)
            got = every[np.isfinite(every) & (every != 0)].astype(np.float64)
            for dtype in narrower.get(self.dtype.itemsize, ()):
                with np.errstate(all="ignore"):
                    narrow = got == got.astype(dtype).astype(np.float64)
                    few = got.size < 8 or narrow.mean() < 0.5  # what is summed afterwards may have more digits
                    if few and not (quantity == "grad" and dtype is of_the_value):
                        continue
                of_the_value = dtype if quantity == "value" else of_the_value
                for f in mine:
                    if f.wrong is not None:
                        f.wrong = f.wrong & (f.error > f.coarse * (epsilon(dtype) / self.eps))
                        f.severity = WRONG if f.wrong.any() else INACCURATE
                        f.narrow = "" if f.wrong.any() else str(np.dtype(dtype))
                break

    def cap(self) -> float | None:
        """The value at which the candidate stops rising while the truth goes on, if there is one."""
        if not self._cap_probed:
            self._cap, self._cap_probed = self._probe_cap(), True
        return self._cap

    def _probe_cap(self) -> float | None:
        seen = []
        for case in self.lead_cases:
            rows = len(case.tags["lead"])
            for row in range(rows - 8, rows):
                one = {
                    n: v[row : row + 1] if isinstance(v, np.ndarray) and v.ndim and len(v) == rows else v
                    for n, v in case.arguments.items()
                }
                try:
                    want = self.loss(**widened(self.loss, one), **({"reduction": "sum"} if self.loss.reducible else {}))
                    got = as_array(self.candidate.value(one, case.passed, self.reduction_options("sum")))
                except Exception:
                    continue
                if np.size(want) == got.size == 1 and np.isfinite([float(got.ravel()[0]), np.ravel(want)[0]]).all():
                    seen.append((float(np.ravel(want)[0]), float(got.ravel()[0])))
        seen += self._probe_probabilities()
        seen.sort()
        for (low, at_low), (high, at_high) in pairwise(seen):
            if high - low > 1 and abs(at_high - at_low) <= 1e-3 * abs(at_high) and low > at_low > 1:
                return at_high
        return None

    def _probe_probabilities(self) -> list[tuple[float, float]]:
        """The same for probabilities that approach 0 where the target is 1."""
        both = [
            n for n, a in self.loss.arguments.items()
            if a.is_array and a.required and isinstance(a.declaration, RealNumber)
            and (a.declaration.interval.low, a.declaration.interval.high) == (0, 1)
        ]  # fmt: skip
        if len(both) != 2 or both[0] not in self.loss.of or not self.loss.reducible or self.loss.returns != "...":
            return []
        seen = []
        for p in (1e-3, 1e-5, 1e-8, 1e-11, 1e-14, 1e-17, 1e-20, 1e-24, 1e-28):
            one = {n: a.default for n, a in self.loss.arguments.items() if not a.required}
            one |= {both[0]: np.full(1, p).astype(self.dtype), both[1]: np.ones(1).astype(self.dtype)}
            one = {n: one[n] for n in self.loss.arguments}
            try:
                got = as_array(self.candidate.value(one, (), self.reduction_options("sum")))
                seen.append((float(self.loss(**widened(self.loss, one), reduction="sum")), float(got.ravel()[0])))
            except Exception:
                continue
        return [(want, got) for want, got in seen if np.isfinite(want) and np.isfinite(got)]

    def _judge_invalid(self, case: Case) -> None:
        """Where the mathematics is undefined, a number is worse than NaN or an error."""
        if not self.candidate.has_value:
            return
        self.cases_run += 1
        try:
            reduction = self.reduction_options(self.inferred or "mean")
            got = as_array(self.candidate.value(self.fresh(case), case.passed, reduction))
        except Exception:
            return
        if np.isfinite(got.astype(np.float64)).all():
            self.hidden.append((case, got))

    def tried_options(self) -> tuple[str, ...]:
        names = self.scope_accepted if self.fixed is None else tuple(self.fixed)
        names = tuple(n for n in names if n not in self.candidate.refused)
        reduces = self.loss.reducible and self.candidate.takes("reduction") and "reduction" not in names
        return (*names, "reduction") if reduces else names

    def reductions(self, case: Case) -> tuple[str, ...]:
        """The reductions to try on a case."""
        if not self.loss.reducible:
            return ("none",)
        if self.fixed is not None and "reduction" in self.fixed:
            return (self.fixed["reduction"],)
        if self.candidate.takes("reduction"):
            if case.kind in ("ordinary", "ignored", "empty"):
                return REDUCTIONS
            return ("none",) if case.kind != "layout" else ("none", "mean")
        if self.inferred is None:
            self.inferred = self._infer_reduction(case)
        return (self.inferred,)

    def _infer_reduction(self, case: Case) -> str:
        """Without a reduction argument, an array of one number per term is "none", a number is "mean"."""
        if not self.candidate.has_value:
            return "mean"
        try:
            got = as_array(self.candidate.value(self.fresh(case), case.passed, {}))
        except Exception:
            return "mean"
        shape = terms_shape(self.loss, case.arguments)
        return "none" if got.shape == shape and shape != () else "mean"

    def fresh(self, case: Case) -> dict:
        """The arguments as new arrays, lying in memory as the case wants."""
        return {n: laid_out(v, case.view) if isinstance(v, np.ndarray) else v for n, v in case.arguments.items()}

    def reduction_options(self, reduction: str) -> dict:
        options = {"reduction": reduction} if self.loss.reducible and self.candidate.takes("reduction") else {}
        if self.fixed is not None and self.fixed.get("divisor") is not None:
            options["divisor"] = self.fixed["divisor"]
        return options

    def cotangent(self, case: Case, reduction: str):
        """Never ones: a number, or a different number for every term."""
        if not self.candidate.takes_cotangent:
            return (
                np.float64(1.0)
                if self.loss.reducible and reduction != "none"
                else np.ones(terms_shape(self.loss, case.arguments))
            )
        rng = np.random.default_rng([self.seed, 11, *case.name.encode()])
        if self.loss.reducible and reduction != "none":
            return np.float64(1.375)
        drawn = np.rint(rng.standard_normal(terms_shape(self.loss, case.arguments)) * 16)
        drawn = np.where(drawn == 0, 1, drawn) / 16
        if case.tags.get("uniform"):
            drawn = np.ones(drawn.shape)
        if "alone" in case.tags and drawn.ndim > 1:
            drawn = np.where(np.arange(drawn.shape[-1]) == case.tags["alone"], drawn, 0)
        if not self.loss.reducible:  # the derivative of an entry that stays -inf is nobody's business
            with np.errstate(all="ignore"):
                drawn = np.where(np.isfinite(np.asarray(self.loss(**widened(self.loss, case.arguments)))), drawn, 0)
        return np.asarray(drawn.astype(self.dtype).astype(np.float64))

    # -- one case ----------------------------------------------------------------------------------------------------

    def judge(self, case: Case, reduction: str, record: bool = True) -> list[Failure]:
        """Run the candidate on a case; returns (and remembers) what is not within its allowance."""
        cotangent = self.cotangent(case, reduction)
        divisor = None if self.fixed is None else self.fixed.get("divisor")
        if reduction != "mean":
            divisor = None
        true = self._truth(case, reduction, divisor, cotangent)
        found: list[Failure] = []
        if case.kind == "ordinary":
            self._learn(case)
        if case.kind == "lead" and record and case not in self.lead_cases[-1:]:
            self.lead_cases.append(case)
        nothing = False  # an empty array in place of a number: there is nothing to differentiate
        if self.candidate.has_value:
            got, failure = self._call(case, reduction, "value", cotangent, record)
            nothing = got is not None and got[0].size == 0 < true.value.size
            if failure is not None:
                found.append(failure)
            elif got is not None:
                value_failure, true = self._judge_value(case, reduction, got[0], true, cotangent, divisor, record)
                if value_failure is not None:
                    found.append(value_failure)
        if self.candidate.has_grad and self.loss.differentiable and not nothing:
            got, failure = self._call(case, reduction, "grad", cotangent, record)
            if failure is not None:
                found.append(failure)
            elif got is not None:
                found += self._judge_gradients(case, reduction, got, true, cotangent, record)
        if record:
            self.failures += found
        return found

    def _truth(self, case, reduction, divisor, cotangent) -> Truth:
        from lossref.exact.ball import UndecidedError

        try:
            found = truth(self.loss, case.arguments, reduction, divisor, cotangent)
        except (UndecidedError, ValueError, TypeError, ArithmeticError, IndexError) as undecided:
            raise _Undecided from undecided  # nothing is said about an input whose truth is not known
        if any(np.any(k) for k in found.kinks):
            found = self._settled(case, reduction, divisor, cotangent, found)
        return found

    def _settled(self, case, reduction, divisor, cotangent, found: Truth) -> Truth:
        """Where "no derivative" holds in a whole neighbourhood, the declared gradient is a definition, not a choice."""
        moved = {n: v for n, v in widened(self.loss, case.arguments).items()}
        rng = np.random.default_rng(5)
        for name in self.loss.of:
            if moved[name] is not None:
                x = np.asarray(moved[name])
                moved[name] = x + np.where(np.isfinite(x), 1e-3 * (1 + np.abs(x)) * rng.uniform(-1, 1, x.shape), 0)
        options = {"reduction": reduction, "divisor": divisor} if self.loss.reducible else {}
        try:
            ours = self.loss.grad(**widened(self.loss, case.arguments), **options, cotangent=cotangent)
            with np.errstate(all="ignore"):
                persistent = _call_with(self.loss.kinks_rule, self.loss._bind((), moved).arguments)
        except (ValueError, TypeError):
            return found
        ours = ours if isinstance(ours, tuple) else (ours,)
        persistent = persistent if isinstance(persistent, tuple) else (persistent,) * len(self.loss.of)
        by_name = dict(zip(self.loss.of, persistent, strict=True))
        kinks, gradients = [], []
        for name, kink, want, own in zip(found.given, found.kinks, found.gradients, ours, strict=True):
            stays = np.broadcast_to(by_name[name], np.shape(kink)) & kink
            kinks.append(kink & ~stays)
            gradients.append(np.where(kink, own.astype(LONG), want))
        return replace(found, kinks=tuple(kinks), gradients=tuple(gradients))

    def _learn(self, case: Case) -> None:
        """The size of ordinary terms and gradients with these options: what "rounding of ordinary numbers" means."""
        key = self._options_key(case)
        if key in self.typical:
            return
        shape = terms_shape(self.loss, case.arguments)
        some = np.where(np.arange(int(np.prod(shape))).reshape(shape) % 3 == 1, -0.75, 1.0)
        one = truth(self.loss, case.arguments, "none", None, some)
        largest = [np.max(_finite(part), initial=0.0) for part in (one.terms, *one.gradients)]
        moves = [np.max(_finite(part), initial=0.0) for part in (one.scale, *one.gradient_scales)]
        self.typical[key] = (
            float(max(largest[0], moves[0])), float(max(largest[1:], default=0)), float(max(moves[1:], default=0))
        )  # fmt: skip

    def _options_key(self, case: Case) -> tuple:
        return tuple((n, plain(case.arguments[n]) if np.ndim(case.arguments[n]) == 0 else "array") for n in case.passed)

    def _typical(self, case: Case) -> tuple[float, float, float]:
        found = self.typical.get(self._options_key(case))
        return found or next(iter(self.typical.values()), (1.0, 1.0, 1.0))

    # -- calling the candidate ---------------------------------------------------------------------------------------

    def _call(self, case: Case, reduction: str, quantity: str, cotangent, record: bool):
        """The result of the candidate as arrays; or a failure; or neither, where refusing is no fault."""
        arguments = self.fresh(case)
        before = {n: v.copy() for n, v in arguments.items() if isinstance(v, np.ndarray)}
        options = self.reduction_options(reduction)
        self.calls += 1
        try:
            if quantity == "value":
                got = (as_array(self.candidate.value(arguments, case.passed, options)),)
            else:
                given = np.asarray(cotangent).astype(self.dtype)
                if case.view and given.ndim:
                    given = laid_out(given, case.view)
                got = self.candidate.grad(arguments, case.passed, options, given[()] if given.ndim == 0 else given)
                got = as_gradients(got, self._count_given(case))
        except Exception as problem:
            return None, self._raised(case, reduction, quantity, problem, cotangent, record)
        if record:
            for name, array in before.items():
                if array.tobytes() != np.ascontiguousarray(arguments[name]).tobytes():
                    self.overwritten.setdefault(name, (case, quantity))
        return got, None

    def _count_given(self, case: Case) -> int:
        return sum(case.arguments[name] is not None for name in self.loss.of)

    def _raised(self, case, reduction, quantity, problem, cotangent, record) -> Failure | None:
        if isinstance(problem, NotTaken):
            if record:
                self.not_taken[str(problem)] += 1
            return None
        text = f"{type(problem).__name__}: {problem}".splitlines()[0][:200]
        if isinstance(problem, TypeError) and "unexpected keyword" in str(problem):
            guilty = [n for n in (*case.passed, "reduction", "divisor") if f"'{n}'" in str(problem)]
            if guilty and not all(self.candidate.names(n) for n in guilty):
                self.candidate.refused.update(guilty)
                return None
        if "read-only" in str(problem) or "read only" in str(problem):
            if record:
                self.overwritten.setdefault("read-only", (case, quantity))
            return None
        if case.kind in ("empty",) or case.tags.get("nothing counts"):
            if record:
                self._note("empty-mean" if reduction == "mean" else "empty-batch", case, f"raises {text}")
            return None
        if case.kind == "mask" and isinstance(problem, ValueError):
            if record:
                self._note("refuses-masked-entries", case, f"raises {text}")
            return None
        nothing = np.zeros(())
        return Failure(case, reduction, quantity, 0, nothing, nothing, nothing, 0.0, nothing, nothing > 0, WRONG,
                       cotangent, problem=text)  # fmt: skip

    def _note(self, diagnosis: str, case: Case, text: str) -> None:
        self.notes.setdefault((diagnosis, text), (case, text))

    # -- comparing ---------------------------------------------------------------------------------------------------

    def _judge_value(self, case, reduction, got, true: Truth, cotangent, divisor, record):
        want = true.value
        if got.shape != want.shape and got.size == want.size == 1:
            got = got.reshape(want.shape)
        if got.size == 0 < want.size and case.tags.get("nothing counts"):
            if record:
                self._note("empty-mean", case, f"the {reduction} of no rows is an empty array")
            return None, true
        if got.shape != want.shape:
            return self._misshapen(case, reduction, "value", 0, got, want, cotangent), true
        got = got.astype(LONG)
        if want.ndim == 0 and np.isnan(want) and (case.tags.get("nothing counts")):
            if np.isfinite(got) and got == 0:
                if record and self.declared["empty mean"] != "zero":
                    self._note("empty-mean", case, "returns 0")
                return None, true
            if np.isnan(got):
                return None, true
        unit, coarse = self._value_unit(case, true), self._value_coarse(case, true)
        error = distance(got, want)
        failing = error > VALUE_LIMIT * unit
        failing &= ~self._overflows(got, want)
        self._see(case, reduction, "value", error / unit, VALUE_LIMIT, record)
        if failing.any() and reduction == "mean":
            other = self._other_mean(case, got, true, cotangent, coarse, record)
            if other is not None:
                return None, other
        if failing.any():
            failing &= ~(error <= BESIDE_OURS * self._own_error(case, reduction, "value", 0, true, cotangent, divisor))
        if not failing.any():
            return None, true
        return self._failure(
            case, reduction, "value", 0, got, want, unit, VALUE_LIMIT, coarse, failing, cotangent
        ), true

    def _judge_gradients(self, case, reduction, got, true: Truth, cotangent, record, retried=False) -> list[Failure]:
        if len(got) > len(true.gradients):  # one for every real array, also for those that have no gradient here
            every = [n for n, a in self.loss.arguments.items() if a.is_array and is_real(self.loss, n) and a.required]
            if len(got) == len(every) and set(true.given) <= set(every):
                got = tuple(got[every.index(n)] for n in true.given)
        if len(got) != len(true.gradients):
            if len(got) == 1 or len(got) > len(true.gradients):
                return [self._misshapen(case, reduction, "grad", 0, got[0], true.gradients[0], cotangent)]
            got = (*got, *(None,) * (len(true.gradients) - len(got)))
        found = []
        for k, (g, want) in enumerate(zip(got, true.gradients, strict=True)):
            if g is None:
                continue
            if g.shape != want.shape:
                found.append(self._misshapen(case, reduction, "grad", k, g, want, cotangent))
                continue
            g = g.astype(LONG)
            unit, coarse = (
                self._gradient_unit(k, true, cotangent),
                self._gradient_coarse(case, k, true, cotangent, reduction),
            )
            error = distance(g, want)
            kink = true.kinks[k]
            excused = (kink & (np.isfinite(g) | ~np.isfinite(want))) | (np.isnan(want) & (g == 0))
            if self.loss.row_wise and not self.loss.reducible:  # a pole, where each entry has a value of its own
                excused |= ~np.isfinite(true.value.astype(np.float64))
            error = np.where(excused, LONG(0), error)
            failing = (error > GRADIENT_LIMIT * unit) & ~self._overflows(g, want)
            self._see(case, reduction, "grad", error / unit, GRADIENT_LIMIT, record)
            if failing.any():
                failing &= ~(error <= BESIDE_OURS * self._own_error(case, reduction, "grad", k, true, cotangent, None))
            if failing.any():
                found.append(
                    self._failure(case, reduction, "grad", k, g, want, unit, GRADIENT_LIMIT, coarse, failing, cotangent)
                )
        if found and reduction == "mean" and not retried:
            for other in self._other_means(case, true, cotangent):
                # The value cannot tell where it is 0: a mean that divided by something else before may do so here.
                if self._divides(other) and not self._judge_gradients(
                    case, reduction, got, other, cotangent, False, True
                ):
                    return []
        return found

    def _failure(self, case, reduction, quantity, k, got, want, unit, limit, coarse, failing, cotangent) -> Failure:
        beyond = failing & ~(distance(got, want) <= coarse)
        wrong = beyond
        if not case.ordinary:
            lost = np.isfinite(want) != np.isfinite(got)  # an infinity or NaN in place of a number, or the reverse
            wrong = beyond & (lost | self._obvious_is_right(case, reduction, want.shape))
        severity = WRONG if wrong.any() else INACCURATE
        return Failure(
            case, reduction, quantity, k, got, want, unit, limit, coarse, failing, severity, cotangent, wrong
        )

    def _misshapen(self, case, reduction, quantity, k, got, want, cotangent) -> Failure:
        nothing = np.zeros(())
        return Failure(case, reduction, quantity, k, np.asarray(got), want, nothing, 0.0, nothing, nothing > 0, WRONG,
                       cotangent, problem=f"shape {np.shape(got)} instead of {want.shape}")  # fmt: skip

    def _see(self, case, reduction, quantity, units, limit, record) -> None:
        if record:
            with np.errstate(all="ignore"):
                self.outcomes.append(Outcome(case, reduction, quantity, np.asarray(units, np.float64), limit))

    def _overflows(self, got, want) -> np.ndarray:
        """An infinity is right where the truth is beyond the dtype."""
        largest = float(ml_dtypes.finfo(self.dtype).max)
        with np.errstate(all="ignore"):
            return (np.abs(want) > largest * (1 - self.eps)) & (got == np.sign(want) * np.inf)

    def _value_unit(self, case, true: Truth) -> np.ndarray:
        return np.asarray(self.eps * true.scale + smallest(self.dtype), LONG)

    def _gradient_unit(self, k, true: Truth, cotangent) -> np.ndarray:
        return self.eps * true.gradient_scales[k] + smallest(self.dtype)

    # How much rounding of ordinary numbers a careless but correct implementation may show.

    @property
    def _careless(self) -> float:
        return (64 if self.dtype.itemsize > 2 else 12) * self.eps

    def _magnitude(self, case: Case) -> float:
        """The largest finite entry of the differentiable arguments."""
        arrays = [
            np.asarray(case.arguments[n]).astype(np.float64) for n in self.loss.of if case.arguments[n] is not None
        ]
        return float(max((np.max(_finite(a), initial=0.0) for a in arrays), default=0.0))

    def _row_magnitude(self, case: Case, shape: tuple):
        """The same for every term, where terms are rows of one array; otherwise of all."""
        if self.loss.row_wise and len(shape):
            parts = []
            for name in self.loss.of:
                x = case.arguments[name]
                if x is not None and np.size(x) and np.shape(x)[: len(shape)] == shape:
                    parts.append(
                        _finite(np.asarray(x).astype(np.float64)).reshape(*shape, -1).max(axis=-1, initial=0.0)
                    )
            if parts:
                return np.max(parts, axis=0)
        return self._magnitude(case)

    def _value_coarse(self, case, true: Truth) -> np.ndarray:
        term, slope, _ = self._typical(case)
        shape = np.shape(true.terms)
        width = self._width(case, shape)
        ordinary = term + self._row_magnitude(case, shape) * slope
        if (np.ndim(true.value) == len(shape) and self.loss.reducible is False) or true.value.shape == shape:
            return self._careless * (true.scale + ordinary) * (1 + width / 64)
        counts = np.abs(true.weights)
        total = np.sum(counts * np.broadcast_to(ordinary, shape)) + true.scale
        return np.asarray(self._careless * total * (1 + true.terms.size / 64 + width / 64), LONG)

    def _gradient_coarse(self, case, k, true: Truth, cotangent, reduction) -> np.ndarray:
        _, slope, moves = self._typical(case)
        g, shape = true.gradients[k], np.shape(true.terms)
        by = np.abs(true.weights) * np.abs(cotangent)
        by = np.broadcast_to(by, shape)
        magnitude = self._row_magnitude(case, shape)
        ordinary = by * (slope + moves) * (1 + magnitude * slope)
        finite = _finite(g)
        if self.loss.row_wise and g.shape[: len(shape)] == shape:
            ordinary = ordinary.reshape(shape + (1,) * (g.ndim - len(shape)))
            around = finite.max(axis=-1, keepdims=True, initial=0.0) if g.ndim > len(shape) else finite
        else:
            ordinary, around = np.max(ordinary, initial=0.0), np.max(finite, initial=0.0)
        width = self._width(case, shape)
        return np.asarray(self._careless * (true.gradient_scales[k] + ordinary + around) * (1 + width / 64), LONG)

    def _width(self, case, shape) -> float:
        """How many entries one term depends on."""
        entries = max((np.size(case.arguments[n]) for n in self.loss.of if case.arguments[n] is not None), default=1)
        return entries / max(int(np.prod(shape)), 1) if self.loss.row_wise else entries

    # -- what is fair ------------------------------------------------------------------------------------------------

    def _obvious_is_right(self, case: Case, reduction: str, shape: tuple) -> np.ndarray:
        """Whether the literal formula, in this dtype, survives this input: per term where results are per term."""
        required = {n: case.arguments[n] for n, a in self.loss.arguments.items() if a.required}
        defaults = {n: a.default for n, a in self.loss.arguments.items() if not a.required}
        right: np.ndarray = np.zeros((), bool)
        if self.loss.obvious_form is not None and sum(np.size(v) for v in required.values()) <= 20000:
            try:
                usable = {n: self._legal(n, case) for n in required}
                with np.errstate(all="ignore"):
                    got = np.asarray(self.loss.obvious_form(**usable)).astype(LONG)
                true = truth(self.loss, {**usable, **defaults}, "none", None,
                             np.ones(terms_shape(self.loss, {**usable, **defaults})))  # fmt: skip
                plain_case = replace(case, arguments={**usable, **defaults}, passed=())
                right = distance(got, true.terms) <= self._value_coarse(plain_case, true)
            except Exception:
                right = np.zeros((), bool)
        if (
            right.ndim
            and right.shape == shape[: right.ndim]
            and self.loss.row_wise
            and (reduction == "none" or len(shape) >= right.ndim)
        ):
            return right.reshape(right.shape + (1,) * (len(shape) - right.ndim))
        return np.broadcast_to(right.all(), shape)

    def _legal(self, name: str, case: Case):
        """An argument of the case; ignored labels become legal ones, since the literal formula knows none."""
        value = case.arguments[name]
        ignore = getattr(self.loss.arguments[name].declaration, "ignore", None)
        if ignore is not None:
            return np.where(np.asarray(value) == case.arguments[ignore], 0, value)
        return value

    def _own_error(self, case, reduction, quantity, k, true: Truth, cotangent, divisor) -> np.ndarray:
        """The error of lossref's own NumPy path on the same input in the same dtype."""
        options = {"reduction": reduction, "divisor": divisor} if self.loss.reducible else {}
        try:
            if quantity == "value":
                ours, want = np.asarray(self.loss(**case.arguments, **options)), true.value
            else:
                given = np.asarray(cotangent).astype(self.dtype)
                ours = self.loss.grad(**case.arguments, **options, cotangent=given)
                ours, want = (ours if isinstance(ours, tuple) else (ours,))[k], true.gradients[k]
        except (ValueError, TypeError):
            return np.zeros(())
        error = distance(ours.astype(LONG), want)
        return np.where(np.isfinite(error), error, 0)

    def _other_mean(self, case, got, true: Truth, cotangent, coarse, record) -> Truth | None:
        """A mean that divides by something else that people agree on."""
        for other in self._other_means(case, true, cotangent):
            if distance(got, other.value) <= VALUE_LIMIT * self._value_unit(case, other):
                self.other_means.add(other.divides_by)
                if record and self.declared["mean"] != other.divides_by:
                    self._note(
                        "mean-divides-by-" + other.divides_by.replace(" ", "-"),
                        case,
                        f"a mean divides by {other.divides_by}",
                    )
                return other
        return None

    def _other_means(self, case, true: Truth, cotangent):
        count = true.terms.size
        kept = int(np.count_nonzero(true.weights))
        for meaning, divisor in (("all rows", count), ("kept rows", kept)):
            if divisor > 0 and self.loss.mean_factor_rule is None:
                yield replace(self._truth(case, "mean", float(divisor), cotangent), divides_by=meaning)

    def _divides(self, other: Truth) -> bool:
        return other.divides_by in self.other_means or not self.candidate.has_value


class _Undecided(Exception):
    """The truth of a case is not known: a tie that no precision decides."""


def _finite(x) -> np.ndarray:
    x = np.abs(np.asarray(x))
    return np.where(np.isfinite(x), x, 0)
