"""What is probably wrong, recognised from the outputs: the source of a candidate is never read.

Each test asks whether the wrong result equals what a known mistake would have given: the sign, the divisor, an
option left out, a label beside the right one, an epsilon inside the logarithm. The first that fits names the finding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np

from lossref.core.declarations import Distribution, RealNumber
from lossref.core.errors import plain

from .cases import Case
from .judging import Failure, Judge
from .truth import LONG, terms_shape, widened

FORMS = {
    "p-minus-one": "minus the sum of the other probabilities at the label, instead of p - 1",
    "saturated": "log1p of the sum over the other classes, instead of logsumexp(x) - x[label]; log1p and expm1 "
    "beside 0 and 1",
    "floor-epsilon": "no epsilon and no clamp: log-probabilities from the logits, x - logsumexp(x)",
    "offset-sensitive": "subtract the row's maximum before anything else, and never add it back before a difference",
    "mask-leak": "select before computing (where on the input), do not multiply by a mask afterwards",
    "nan-leak": "select with where before the logarithm or the division, so that no 0 · inf and no 0/0 is formed",
    "overflow": "exponentials of differences from the maximum only, logarithms that are never taken of a probability",
    "low-precision-accumulation": "accumulate in a wider dtype or pairwise, and round once at the end",
    "wrong-reduction": "divide the sum by what the loss's definition says, once, at the end",
    "cotangent-ignored": "multiply every term of the gradient by the incoming cotangent of its own row",
    "clamp-ignored": "the derivative of the clamp too, which is 0, or no clamp",
    "uninitialised": "the answer for no rows first: NaN, 0 or an error",
    "wrong-sign": "the loss is minus the log-probability; its gradient is prediction minus target",
    "label-off-by-one": "labels count from 0",
    "gradient-of-another-function": "the derivative of the very value that is returned",
    "index-overflow": "64-bit indices: row · C + class exceeds the index type",
    "tail-of-a-tile": "mask the last, partly filled tile: its padding must not enter the sum",
    "strides-ignored": "use the strides of every array, or copy to contiguous memory first",
    "input-overwritten": "write into a new array, or say in the name that the input is destroyed",
    "option-ignored": "forward the option to where the loss is computed, or refuse it",
    "option-misused": "the loss's own definition of the option, alone and together with the others",
    "option-default": "`if option is None`, not `option or default`: 0 is a value",
    "cancellation": "rearrange the difference so that the small part is computed by itself",
    "shape": "one number for mean and sum, one per term for none; gradients in the shape of their argument",
}


@dataclass
class Diagnosis:
    slug: str
    cause: str


def diagnose(judge: Judge, failure: Failure, all_failures: list[Failure]) -> Diagnosis:
    """The likely cause of one failure."""
    return _Examination(judge, failure, all_failures).result()


class _Examination:
    def __init__(self, judge: Judge, failure: Failure, all_failures: list[Failure]):
        self.judge, self.failure, self.all = judge, failure, all_failures
        self.loss, self.case = judge.loss, failure.case
        self.got, self.want = failure.got, failure.want

    def result(self) -> Diagnosis:
        failure, case = self.failure, self.case
        if failure.problem:
            return Diagnosis("shape" if failure.problem.startswith("shape") else "raises", failure.problem)
        tests = [self.view, self.not_finite, self.digits]
        if failure.severity == "wrong":
            tests += [self.finite, self.from_nothing]
            tests += [self.sign, self.large, self.options, self.reductions, self.cotangents, self.masks, self.labels,
                      self.floor, self.options_as_if, self.tiles, self.neutral, self.company, self.own_value,
                      self.offset]  # fmt: skip
        else:
            tests += [self.floor, self.offset, self.far_from_zero, self.lost]
        for test in tests:
            if (found := test()) is not None:
                return found
        what = "value" if failure.quantity == "value" else "gradient"
        return Diagnosis(f"wrong-{what}" if failure.severity == "wrong" else "cancellation",
                         f"the {what} is not that of {self.loss.name}" if failure.severity == "wrong"
                         else f"digits of the {what} are lost on {case.name}")  # fmt: skip

    # -- what would have been the result of a mistake ----------------------------------------------------------------

    def matches(self, other) -> bool:
        """Whether the result equals another one within rounding, and that is not the truth."""
        other = np.asarray(other, LONG)
        if other.shape != self.got.shape or not other.size:
            return False
        with np.errstate(all="ignore"):
            off = np.abs(self.got - self.want)
            most = np.max(off[np.isfinite(off)], initial=0.0)
            rounding = 64 * self.failure.unit + 64 * self.judge.eps * np.abs(other)
            allowed = np.minimum(self.failure.coarse + 64 * self.judge.eps * np.abs(other), 0.03 * most + rounding)
            near = np.abs(self.got - other) <= allowed
            near |= (self.got == other) | (np.isnan(self.got) & np.isnan(other))
        return bool(near.all() and (off > 4 * allowed).any())

    def as_if(self, arguments: dict, reduction=None, cotangent=None, divisor=None):
        """The library's own result, in float64, for changed arguments."""
        reduction = self.failure.reduction if reduction is None else reduction
        options = {"reduction": reduction} if self.loss.reducible else {}
        if divisor is not None and reduction == "mean":
            options["divisor"] = divisor
        wide = widened(self.loss, arguments)
        try:
            if self.failure.quantity == "value":
                return np.asarray(self.loss(**wide, **options))
            cotangent = self.failure.cotangent if cotangent is None else cotangent
            result = self.loss.grad(**wide, **options, cotangent=cotangent)
            result = result if isinstance(result, tuple) else (result,)
            return result[self.failure.position]
        except (ValueError, TypeError, IndexError):
            return np.full(1, np.nan)

    def passes(self, **changes) -> bool:
        """Whether the candidate is right on a changed case."""
        try:
            case = replace(self.case, **changes)
            self.loss._bind((), case.arguments)
            found = self.judge.judge(case, self.failure.reduction, record=False)
        except Exception:
            return False
        return not any(f.quantity == self.failure.quantity for f in found)

    # -- the tests ---------------------------------------------------------------------------------------------------

    def view(self):
        if self.case.view and self.passes(view=""):
            return Diagnosis(
                "strides-ignored",
                f"right for fresh arrays, wrong for {self.case.name}: memory is read as if it were contiguous",
            )

    def not_finite(self):
        if self.failure.quantity == "grad" and (
            self.failure.failing & np.isfinite(self.got) & (self.got != 0) & np.isnan(self.want)
        ).any():
            return Diagnosis(
                "gradient-of-another-function", "a finite gradient where the value is infinite in a whole neighbourhood"
            )
        bad = self.failure.failing & ~np.isfinite(self.got) & np.isfinite(self.want)
        if not bad.any():
            return None
        if np.isnan(self.got[bad]).any():
            because = "0 · inf, inf - inf or 0/0 was formed"
            if np.isneginf(_any_real(self.case, self.loss)).any():
                because = "an entry masked with -inf met a multiplication or a difference (0 · -inf, -inf - -inf)"
            if self.case.tags.get("excluded"):
                because = "an excluded entry overflowed and was multiplied by 0"
                if self.failure.quantity == "grad":
                    return Diagnosis("mask-leak", f"NaN: {because}")
            if self.case.tags.get("nothing counts"):
                because = "the number of rows that count, 0, divides"
            return Diagnosis("nan-leak", f"NaN: {because}")
        if self.case.tags.get("excluded"):
            return Diagnosis("mask-leak", "an excluded entry overflowed")
        far = "an exponential overflowed"
        if self.failure.quantity == "value" and np.any(np.isposinf(self.got[bad])):
            far = "an exponential overflowed, or the logarithm was taken of a probability that underflowed to 0"
        return Diagnosis("overflow", f"an infinity where the answer is an ordinary number: {far}")

    def finite(self):
        """A large number in place of an infinite loss."""
        at = self.failure.failing & np.isposinf(self.want) & np.isfinite(self.got)
        if self.failure.quantity == "value" and at.any() and (self.got[at] > 1e3).all():
            return Diagnosis(
                "floor-epsilon",
                f"{float(self.got[at].max()):.6g} where the loss is infinite: a number stands for the logarithm of 0",
            )

    def from_nothing(self):
        if self.case.kind == "empty" and self.failure.quantity == "value" and self.got.ndim == 0:
            return Diagnosis(
                "uninitialised",
                "a number out of nothing: there are no rows, and the result is neither 0 nor NaN nor an error; "
                "probably it is what lay in memory before",
            )

    def sign(self):
        if self.matches(-self.want):
            return Diagnosis("wrong-sign", "minus the right answer")

    def elsewhere(self, kind: str) -> bool:
        """Whether the same quantity is wrong on cases of another kind, too."""
        return any(
            f.severity == "wrong" and f.quantity == self.failure.quantity and f.case.kind != kind for f in self.all
        )

    def large(self):
        if self.case.kind != "large":
            return None
        if self.elsewhere("large"):
            return None
        index = np.argwhere(self.failure.failing)
        shape = self.case.tags["shape"]
        first = ""
        if index.size and self.failure.failing.ndim:
            at = int(index[0][0]) * int(np.prod(shape[1:]))
            bits = [b for b in (15, 16, 31, 32) if 2**b <= at + shape[-1]]
            first = f" from element {at} on" + (f" (2^{bits[-1]} = {2 ** bits[-1]})" if bits else "")
        return Diagnosis(
            "index-overflow",
            f"right for small inputs, wrong for {int(np.prod(shape))} entries{first}: an index does not hold row · "
            "C + class",
        )

    def options(self):
        for name in self.case.passed:
            argument = self.loss.arguments[name]
            if self.matches(self.as_if({**self.case.arguments, name: argument.default})):
                return Diagnosis(
                    "option-ignored", f"the result is that of {name}={plain(argument.default)}: {name} was not used"
                )
        return None

    def reductions(self):
        if not self.loss.reducible or self.failure.reduction == "none":
            return self._shares()
        arguments, reduction = self.case.arguments, self.failure.reduction
        count = int(np.prod(terms_shape(self.loss, arguments)))
        kept = int(np.count_nonzero(self.as_weights(arguments)))
        entries = max(np.size(arguments[n]) for n in self.loss.of if arguments[n] is not None)
        for text, divisor in (
            ("the sum over all rows", 1), ("divided by the number of all rows", count),
            ("divided by the number of rows that count", kept), ("divided by the number of all entries", entries),
            ("divided by the number of entries per row", max(entries // max(count, 1), 1)),
        ):  # fmt: skip
            if divisor and self.matches(self.as_if(arguments, "mean", divisor=float(divisor))):
                return Diagnosis("wrong-reduction", f"reduction={reduction!r} is {text}")
        return self.halves() or self._shares()

    def as_weights(self, arguments):
        from .truth import term_weights

        return term_weights(self.loss, arguments, "mean", None, 1.0)

    def halves(self):
        """The mean of the means of two or more parts."""
        if self.failure.quantity != "value" or self.failure.reduction != "mean" or not self.loss.row_wise:
            return None
        n = terms_shape(self.loss, self.case.arguments)[0] if terms_shape(self.loss, self.case.arguments) else 0
        for parts in (2, 3, 4):
            if n < parts:
                continue
            means = []
            for rows in np.array_split(np.arange(n), parts):
                part = {
                    k: v[rows] if np.ndim(v) and len(v) == n and self._by_row(k) else v
                    for k, v in self.case.arguments.items()
                }
                means.append(self.as_if(part))
            means = np.array([m for m in map(np.ravel, means) if m.size == 1 and np.isfinite(m).all()])
            if means.size and self.matches(np.asarray(means.mean()).reshape(self.got.shape)):
                return Diagnosis(
                    "wrong-reduction", f"the mean of the means of {parts} parts, which hold different numbers of rows"
                )
        return None

    def _by_row(self, name: str) -> bool:
        dims = (self.loss.arguments[name].declaration.dims or "").split()
        return (
            bool(dims) and dims[0] == (self.loss.returns.split() or [""])[0]
            if isinstance(self.loss.returns, str)
            else False
        )

    def _shares(self):
        """A constant factor on every case of these options."""
        ratios = []
        for f in self.all:
            if (
                f.severity == "wrong"
                and f.quantity == self.failure.quantity
                and f.case.kind == "ordinary"
                and not f.problem
            ):
                with np.errstate(all="ignore"):
                    r = (f.got / f.want)[f.failing & (f.want != 0)]
                ratios += list(np.ravel(r[np.isfinite(r)]))
        if len(ratios) > 3 and np.ptp(ratios) <= 1e-3 * abs(np.mean(ratios)) and abs(np.mean(ratios) - 1) > 1e-3:
            if abs(np.mean(ratios) + 1) < 1e-3:
                return Diagnosis("wrong-sign", "minus the right answer")
            return Diagnosis("wrong-reduction", f"{float(np.mean(ratios)):.6g} times the right answer on every input")
        return None

    def cotangents(self):
        if self.failure.quantity != "grad" or not self.judge.candidate.takes_cotangent:
            return None
        ones = np.ones(np.shape(self.failure.cotangent))
        if self.matches(self.as_if(self.case.arguments, cotangent=ones)):
            return Diagnosis("cotangent-ignored", "the result is the one for a cotangent of 1")
        judge, case = self.judge, self.case
        try:
            options = judge.reduction_options(self.failure.reduction)
            results = []
            for by in (1.0, 2.0):
                given = (np.asarray(self.failure.cotangent) * by).astype(judge.dtype)
                result = judge.candidate.grad(
                    judge.fresh(case), case.passed, options, given[()] if given.ndim == 0 else given
                )
                from .candidates import as_gradients

                results.append(as_gradients(result, judge._count_given(case))[self.failure.position].astype(LONG))
            with np.errstate(all="ignore"):
                off = np.abs(results[1] - 2 * results[0]) > 4 * self.failure.coarse + 64 * judge.eps * np.abs(
                    results[1]
                )
        except Exception:
            return None
        if off.any():
            return Diagnosis(
                "cotangent-ignored",
                "doubling the cotangent does not double the gradient: a part of it is not multiplied",
            )
        if self.failure.reduction == "none" and np.ndim(self.failure.cotangent) and np.size(self.failure.cotangent) > 1:
            mean = np.full(np.shape(self.failure.cotangent), np.mean(self.failure.cotangent))
            if self.matches(self.as_if(case.arguments, cotangent=mean)):
                return Diagnosis(
                    "cotangent-ignored", "every row is multiplied by the mean cotangent instead of its own"
                )
        return None

    def masks(self):
        """Rows and entries that do not count must not matter."""
        for label in self.loss.arguments:
            ignore = getattr(self.loss.arguments[label].declaration, "ignore", None)
            if not ignore or self.case.arguments[label] is None:
                continue
            labels, ignored = np.asarray(self.case.arguments[label]), self.case.arguments[ignore]
            if not (labels == ignored).any():
                continue
            if self.failure.quantity == "grad" and self.failure.failing.shape[: labels.ndim] == labels.shape:
                rows = self.failure.failing.reshape(*labels.shape, -1).any(axis=-1)
                if not (rows & (labels != ignored)).any():
                    return Diagnosis("mask-leak", "ignored rows have a gradient")
            if self.failure.quantity == "value" and self.failure.reduction == "none":
                rows = self.failure.failing
                if rows.shape == labels.shape and not (rows & (labels != ignored)).any():
                    return Diagnosis("mask-leak", "ignored rows have a loss")
            legal = np.where(labels == ignored, 0 if ignored != 0 else 1, labels)
            passed = tuple(n for n in self.case.passed)
            if self.passes(arguments={**self.case.arguments, label: legal}, passed=passed):
                options = [n for n in self.case.passed if n != ignore]
                with_ = f" together with {', '.join(options)}" if options else ""
                return Diagnosis(
                    "mask-leak",
                    f"right as long as no row is ignored{with_}: ignored rows enter the result or its divisor",
                )
        if self.case.tags.get("excluded") or any(
            getattr(v, "dtype", None) == bool and not v.all() for v in self.case.arguments.values()
        ):
            full = {
                n: np.ones_like(v) if getattr(v, "dtype", None) == bool else v for n, v in self.case.arguments.items()
            }
            if self.passes(arguments=full):
                return Diagnosis(
                    "mask-leak", "right as long as the mask excludes nothing: excluded entries enter the result"
                )
        return None

    def tiles(self):
        if (tile := self._tile()) is not None:
            dim, size = tile
            own = self.case.tags.get("size") if self.case.kind == "size" else self._size(dim)
            if own is not None and own % size and self.case.tags.get("dim", dim) == dim:
                return Diagnosis(
                    "tail-of-a-tile",
                    f"wrong where {dim} is not a multiple of {size}: padding of the last tile enters the result",
                )
        if self.case.kind != "size" or self.elsewhere("size"):
            return None
        dim = self.case.tags["dim"]
        failed = self._failed_sizes(dim)
        return Diagnosis("tail-of-a-tile", f"wrong for {dim} in {sorted(failed)}, right for the other sizes tried")

    def _size(self, dim: str):
        try:
            size = self.loss._bind((), self.case.arguments).context.size(dim)
        except Exception:
            return None
        return size[-1] if isinstance(size, tuple) else size

    def _failed_sizes(self, dim: str) -> set:
        return {f.case.tags["size"] for f in self.all if f.case.kind == "size" and f.severity == "wrong"
                and f.case.tags["dim"] == dim and f.quantity == self.failure.quantity}  # fmt: skip

    def _tile(self):
        """A dimension and a tile size such that multiples are right and nearly all others wrong."""
        for dim in dict.fromkeys(f.case.tags["dim"] for f in self.all if f.case.kind == "size"):
            failed = self._failed_sizes(dim)
            tried = {
                o.case.tags["size"] for o in self.judge.outcomes if o.case.kind == "size" and o.case.tags["dim"] == dim
            }
            for tile in (128, 64, 32, 16, 8, 4):
                multiples = [s for s in tried if s % tile == 0]
                others = [s for s in tried if s % tile and s < 2 * tile]
                if multiples and not failed & set(multiples) and len(failed & set(others)) >= max(2, len(others) - 2):
                    return dim, tile
        return None

    def labels(self):
        for name in self.loss.arguments:
            declaration = self.loss.arguments[name].declaration
            value = self.case.arguments[name]
            if not hasattr(declaration, "below") or value is None:
                continue
            try:
                count = self.loss._bind((), self.case.arguments).context.size(declaration.below)
            except Exception:
                continue
            value = np.asarray(value)
            ignored = self.case.arguments.get(declaration.ignore) if declaration.ignore else None
            for by in (-1, 1):
                for moved in ((value + by) % count, np.clip(value + by, 0, count - 1)):
                    if ignored is not None:
                        moved = np.where(value == ignored, ignored, moved)
                    if self.matches(self.as_if({**self.case.arguments, name: moved})):
                        return Diagnosis("label-off-by-one", f"the result is that of {name} {'+' if by > 0 else '-'} 1")
        return None

    def floor(self):
        """An epsilon inside a logarithm, or a clamp: the value stops rising at -log ε."""
        cap = self.judge.cap() if self.judge.candidate.has_value else None
        if cap is None:
            return self.added()
        epsilon = float(np.exp(-cap))
        weighed = any(a.required and isinstance(a.declaration, Distribution) for a in self.loss.arguments.values())
        said = (
            f"the loss stops at {cap:.6g}, however wrong the answer is: probabilities are clamped, or something is "
            "added to them"
            if weighed  # by how much does not follow from a sum of logarithms
            else f"the loss stops at {cap:.6g} = -log({epsilon:.3g}), however wrong the answer is: "
            f"a probability is clamped at {epsilon:.3g}, or that much is added to it"
        )
        if self.failure.quantity == "grad":
            return Diagnosis("floor-epsilon", f"{said}; beyond, the gradient fades")
        lower = self.got[self.failure.failing] <= self.want[self.failure.failing] + 4 * epsilon + 4 * self.judge.eps
        return Diagnosis("floor-epsilon", said) if lower.all() else None

    def added(self):
        """The same seen from one result, where no row could be made that is wrong by more and more."""
        if self.failure.quantity == "grad":
            same = [f for f in self.all if f.quantity == "value" and f.case is self.case and not f.problem]
            found = [_Examination(self.judge, f, self.all).added() for f in same]
            return next((d for d in found if d is not None), None)
        if (found := self.stuck()) is not None:
            return found
        if not self.loss.reducible or np.shape(self.want) != terms_shape(self.loss, self.case.arguments):
            return None
        far = self.failure.failing & (self.want > 2) & np.isfinite(self.want) & (self.got > 2)
        if not far.any():
            return None
        got, want = self.got[far], self.want[far]
        tiny = float(ml_dtypes.finfo(self.judge.dtype).smallest_normal)
        for epsilon in (tiny, self.judge.eps, 1e-16, 1e-15, 1e-12, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
            with np.errstate(all="ignore"):
                result = -np.log(np.exp(-want) + LONG(epsilon))
            off = np.abs(got - result)
            if (off <= 64 * self.judge.eps * result).all() and (np.abs(got - want) > 10 * off).all():
                return Diagnosis(
                    "floor-epsilon", f"the result is that of {epsilon:.3g} added to a probability before its logarithm"
                )
        return None

    def stuck(self):
        """Scores twice as far apart are twice as wrong, and the candidate says the same; half as far it did not."""
        if not self.loss.reducible:
            return None
        name, case = self.loss.of[0], self.case
        reduction = "none" if self.judge.candidate.takes("reduction") else self.failure.reduction
        results = []
        for by in (0.25, 1.0, 2.0):
            x = np.asarray(case.arguments[name]).astype(np.float64) * by
            moved = replace(case, arguments={**case.arguments, name: x.astype(self.judge.dtype)})
            options = self.judge.reduction_options(reduction)
            try:
                got = np.asarray(self.judge.candidate.value(self.judge.fresh(moved), case.passed, options), np.float64)
                want = self.loss(**widened(self.loss, moved.arguments), reduction=reduction)
                results.append((got, np.asarray(want, np.float64)))
            except Exception:  # not a legal input
                return None
        (near, _), (got, want), (far, beyond) = results
        if not np.shape(near) == np.shape(got) == np.shape(far) == np.shape(want):
            return None
        with np.errstate(all="ignore"):
            at = np.isfinite(got) & (got > 1) & (np.abs(far - got) <= 1e-6 * got) & (np.abs(near - got) > 1e-3 * got)
            at &= (want > 1.001 * got) & (beyond > 1.05 * want)
        if at.any():
            return Diagnosis(
                "floor-epsilon",
                f"the loss stops at {float(got[at].max()):.6g}, however wrong the answer is: probabilities are "
                "clamped, or something is added to them",
            )
        return None

    def options_as_if(self):
        """The result of this loss with another value of an option."""
        known = [h for h in self.judge.hypotheses if self._holds(*h, self)]
        if known:
            return self._named(*known[0])
        for name, argument in self.loss.arguments.items():
            if argument.is_array or argument.required or not isinstance(argument.declaration, RealNumber):
                continue
            value = self._solve(name, self.case.arguments[name])
            if value is not None:
                self.judge.hypotheses.append((name, value))
                return self._named(name, value)
        return None

    def _named(self, name: str, value: float):
        now = plain(self.case.arguments[name])
        slug = "option-misused" if name in self.case.passed else "option-default"
        return Diagnosis(slug, f"the result is that of {name}={value:.4g} instead of {now}")

    @staticmethod
    def _holds(name: str, value: float, examination) -> bool:
        return examination.matches(examination.as_if({**examination.case.arguments, name: value}))

    def _solve(self, name: str, now) -> float | None:
        """A value of an option that explains the result, here and on another case with the same options."""
        start = 1.0 if now is None else float(now)
        tried = [1.0, 0.5, 0.0, 2 * start, start / 2, start**2, -start, 1 - start, *([1 / start] if start else [])]
        step = 1e-3 if start == 0 else start * 1e-3
        low = self.as_if({**self.case.arguments, name: start})
        high = self.as_if({**self.case.arguments, name: start + step})
        with np.errstate(all="ignore"):
            if np.shape(high) == self.got.shape == np.shape(low):
                slope, off = (high - low) / step, self.got - low
                sound = np.isfinite(slope) & np.isfinite(off)
                if sound.any() and (squares := np.sum(slope[sound] ** 2)) > 0:
                    tried.append(start + float(np.sum(slope[sound] * off[sound]) / squares))
        for value in tried:
            if (now is None or abs(value - start) > 1e-9 * (1 + abs(start))) and self._holds(name, value, self):
                others = [
                    f for f in self.all
                    if f.quantity == self.failure.quantity and f.case is not self.case
                    and not f.problem and f.severity == "wrong"
                    and f.case.arguments[name] == now and f.case.passed == self.case.passed and f.case.ordinary
                ][:2]  # fmt: skip
                if (others or self.got.size > 1) and all(
                    self._holds(name, value, _Examination(self.judge, f, self.all)) for f in others
                ):
                    return value
        return None

    def neutral(self):
        """Right at the value of an option that hides where it is used."""
        for name, argument in self.loss.arguments.items():
            now = self.case.arguments[name]
            if (
                argument.is_array
                or argument.required
                or now is None
                or not isinstance(argument.declaration, RealNumber)
            ):
                continue
            if not self.judge.candidate.takes(name) or (self.judge.fixed is not None and name in self.judge.fixed):
                continue
            for value in (1.0, 0.5, 0.0):
                passed = tuple(dict.fromkeys((*self.case.passed, name)))
                arguments = {**self.case.arguments, name: value}
                with np.errstate(all="ignore"):
                    if value == now or not np.any(self.as_if(arguments)):
                        continue  # where everything vanishes everybody is right
                if self.passes(arguments=arguments, passed=passed):
                    return Diagnosis(
                        "option-misused",
                        f"right at {name}={value:g}, wrong at {now:g}: {name} is not applied everywhere where it "
                        "belongs, or where it does not",
                    )
        return None

    def company(self):
        """Right without some option, or wrong only where two of them meet."""
        if self.judge.fixed is not None:
            return None
        passed = [set(f.case.passed) for f in self.all if f.severity == "wrong" and f.quantity == self.failure.quantity]
        common = set.intersection(*passed) if passed else set()
        if not common:
            return None
        if len(common) == 1:
            return Diagnosis("option-misused", f"wrong only with {', '.join(common)}: without it the result is right")
        return Diagnosis(
            "option-misused", f"wrong only where {' and '.join(sorted(common))} are given together; each alone is right"
        )

    def own_value(self):
        """A gradient that is not the derivative of the candidate's own value."""
        if self.failure.quantity != "grad" or not self.judge.candidate.has_value:
            return None
        if any(f.quantity == "value" and f.severity == "wrong" and f.case.name == self.case.name for f in self.all):
            return None
        what = ""
        if self.case.kind == "edge":
            what = f" on {self.case.name}"
        return Diagnosis(
            "gradient-of-another-function", f"the value is right, and the gradient is not its derivative{what}"
        )

    def offset(self):
        if "shift" not in self.loss.symmetries:
            return None
        if self.case.kind != "offset" and "common offset" not in self.case.name:
            return None
        rows = self.case.tags.get("offset")
        failing = self.failure.failing
        if rows is not None and failing.ndim and len(failing) == len(rows):
            wrong = rows[np.asarray(failing.reshape(len(rows), -1).any(axis=1))]
            if (wrong == 0).any():
                return None
            smallest = wrong[np.argmin(np.abs(wrong))]
            return Diagnosis(
                "offset-sensitive",
                f"adding {smallest:g} to every entry of a row changes the answer, which depends on differences only",
            )
        return Diagnosis(
            "offset-sensitive",
            "a constant added to every entry of a row changes the answer, which depends on differences only",
        )

    def far_from_zero(self):
        """Right for the same differences nearer to 0."""
        if "shift" not in self.loss.symmetries or "axis" in self.case.passed:
            return None
        (name, *_) = self.loss.of
        x = np.asarray(self.case.arguments[name]).astype(np.float64)
        if not x.size or not np.isfinite(x).all():
            return None
        top, spread = x.max(axis=-1, keepdims=True), np.ptp(x, axis=-1, keepdims=True)
        if not (np.abs(top) > 4 * spread).any():
            return None
        near = (x - top).astype(self.judge.dtype)
        if self.passes(arguments={**self.case.arguments, name: near}):
            return Diagnosis(
                "offset-sensitive",
                "a constant added to every entry of a row changes the answer, which depends on differences only: "
                "with the row's maximum taken off first it is right",
            )

    def digits(self):
        """Results that have only the digits of a narrower dtype."""
        if self.failure.narrow:
            return Diagnosis(
                "low-precision-accumulation",
                f"results have the digits of {self.failure.narrow} although the input is {self.judge.dtype}: "
                "somewhere inside everything is rounded to it",
            )

    def summed(self) -> float:
        """How many entries one entry of the result depends on: of a row's own loss or gradient, its own row's."""
        shape = terms_shape(self.loss, self.case.arguments)
        width = self.judge._width(self.case, shape)
        every = self.failure.quantity == "value" and np.shape(self.got) != shape
        return width * int(np.prod(shape)) if every and self.loss.row_wise else width

    def lost(self):
        failure, case = self.failure, self.case
        at = failure.failing
        if failure.quantity == "value":
            if (at & (failure.got == 0) & (failure.want != 0)).any():
                return Diagnosis(
                    "saturated",
                    "exactly 0 in the blind band, where the answer is small and representable: 1 + e^-lead was "
                    "rounded to 1",
                )
            if case.kind in ("large", "size") and self.summed() > 60:
                return Diagnosis(
                    "low-precision-accumulation", f"the error grows with the size of the input ({case.name})"
                )
            return Diagnosis(
                "cancellation",
                "few digits are right where the answer is small: it is a difference of nearly equal numbers",
            )
        if (at & np.isfinite(failure.got) & (np.abs(failure.got) > 1e6 * (1 + np.abs(failure.want)))).any():
            return Diagnosis("clamp-ignored", "a huge gradient where the value is clamped and hardly changes")
        tiny = failure.error[at]
        by = np.max(np.abs(np.asarray(failure.cotangent, np.float64)), initial=0.0)
        kinds = ("lead", "hard", "ordinary", "edge", "ignored", "size", "mask", "large")
        rounding = 1024 * self.judge.eps * max(float(by), 1.0)
        if case.kind in kinds and self.summed() <= 60 and _concentrated(at, failure) and np.max(tiny) <= rounding:
            size = "exactly 0" if (failure.got[at] == 0).any() else f"off by {float(np.max(tiny)):.2g}"
            return Diagnosis(
                "p-minus-one",
                f"the gradient at the winning entry is {size}: a probability near 1 was rounded before 1 (or the "
                f"whole cotangent, {float(by):.3g}) was subtracted",
            )
        if case.tags.get("uniform") or (case.kind in ("large", "size") and self.summed() > 60):
            return Diagnosis(
                "low-precision-accumulation",
                f"a systematic error of {float(np.max(tiny)):.2g} in every entry ({case.name}): sums and products "
                "of rounded numbers do not cancel",
            )
        return None


def _concentrated(at, failure: Failure) -> bool:
    """Whether at most about one entry of a row fails, and by no more than a rounding of 1."""
    if at.ndim == 0:
        return False
    rows = at.reshape(-1, at.shape[-1]) if at.ndim > 1 else at[None]
    if at.ndim == 1:
        return True
    return bool(np.mean(rows.sum(axis=1)[rows.any(axis=1)]) <= max(1.5, 0.34 * rows.shape[1]))


def _any_real(case: Case, loss) -> np.ndarray:
    arrays = [
        np.ravel(np.asarray(case.arguments[n]).astype(np.float64)) for n in loss.of if case.arguments[n] is not None
    ]
    return np.concatenate(arrays) if arrays else np.zeros(0)


__all__ = ["FORMS", "Diagnosis", "diagnose"]
