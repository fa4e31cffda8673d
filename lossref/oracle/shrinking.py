"""Making a failing case small: fewer rows, fewer classes, fewer options, simpler numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lossref.core.declarations import ClassLabels, RealNumber

from .cases import Case
from .judging import Failure, Judge
from .truth import is_real


def shrink(judge: Judge, failure: Failure) -> Failure:
    """The same failure on a smaller case; the failure itself where none is found."""
    if failure.case.kind in ("size", "large", "empty"):
        return failure  # its size is the point
    search = _Search(judge, failure)
    search.options()
    search.dimensions()
    search.entries()
    return search.best


class _Search:
    def __init__(self, judge: Judge, failure: Failure):
        self.judge, self.best, self.tries = judge, failure, 0
        self.nature = _nature(failure)

    def attempt(self, arguments: dict, passed=None) -> bool:
        """Whether the failure stays with these arguments; then they are the best so far."""
        if self.tries >= self.judge.candidate.tries:
            return False
        self.tries += 1
        case: Case = self.best.case
        tags = {k: v for k, v in case.tags.items() if k in ("nothing counts", "excluded", "masked", "uniform")}
        smaller = replace(case, arguments=arguments, passed=case.passed if passed is None else passed, tags=tags)
        try:
            self.judge.loss._bind((), arguments)
            if not self._keeps_masses(arguments):
                return False
            found = self.judge.judge(smaller, self.best.reduction, record=False)
        except Exception:
            return False
        for other in found:
            if (
                other.quantity == self.best.quantity
                and other.position == self.best.position
                and _nature(other) == self.nature
            ):
                self.best = other
                return True
        return False

    def _keeps_masses(self, arguments: dict) -> bool:
        """Targets that sum to 1 still do: an input that the loss was not made for convinces nobody."""
        for name, argument in self.judge.loss.arguments.items():
            if not (isinstance(argument.declaration, RealNumber) and argument.declaration.interval.low == 0):
                continue
            before, after = self.best.case.arguments[name], arguments[name]
            if np.ndim(before) > 1 and _sums_to_one(before) and not _sums_to_one(after):
                return False
        return True

    def options(self) -> None:
        for name in self.best.case.passed:
            if self.judge.fixed is None or name not in self.judge.fixed:
                default = self.judge.loss.arguments[name].default
                passed = tuple(n for n in self.best.case.passed if n != name)
                self.attempt({**self.best.case.arguments, name: default}, passed)

    def dimensions(self) -> None:
        """Keep one half, then drop one index after another, of every named dimension."""
        loss = self.judge.loss
        dims = list(dict.fromkeys(d for a in loss.arguments.values() if a.is_array for d in a.declaration.names))
        for dim in dims:
            size = self._size(dim)
            while size > 1:
                halves = (np.arange(size // 2), np.arange(size // 2, size))
                if not any(self.attempt(kept) for half in halves if (kept := self._taken(dim, half)) is not None):
                    break
                size = self._size(dim)
            index = 0
            while 1 < size <= 24 and index < size:
                kept = self._taken(dim, np.delete(np.arange(size), index))
                if kept is not None and self.attempt(kept):
                    size = self._size(dim)
                else:
                    index += 1

    def _axis(self, name: str, dim: str):
        declaration = self.judge.loss.arguments[name].declaration
        if not self.judge.loss.arguments[name].is_array or self.best.case.arguments[name] is None:
            return None
        dims = declaration.names
        if dim not in dims or ("..." in dims and len(dims) > 1):
            return None
        return dims.index(dim)

    def _size(self, dim: str) -> int:
        for name in self.judge.loss.arguments:
            axis = self._axis(name, dim)
            if axis is not None:
                shape = np.shape(self.best.case.arguments[name])
                return shape[axis] if len(shape) > axis else 0
        return 0

    def _taken(self, dim: str, index: np.ndarray):
        """All arrays with only these indices of a dimension; labels are renumbered."""
        arguments = dict(self.best.case.arguments)
        place = {int(old): new for new, old in enumerate(index)}
        for name, argument in self.judge.loss.arguments.items():
            value = arguments[name]
            axis = self._axis(name, dim)
            if axis is not None and np.ndim(value) > axis:
                value = np.take(value, index, axis=axis)
            declaration = argument.declaration
            if value is not None and isinstance(declaration, ClassLabels) and declaration.below == dim:
                ignored = arguments.get(declaration.ignore) if declaration.ignore else None
                labels = np.asarray(value)
                if any(int(k) not in place and k != ignored for k in labels.flat):
                    return None
                value = np.array([k if k == ignored else place[int(k)] for k in labels.flat], labels.dtype).reshape(
                    labels.shape
                )
            arguments[name] = value
        return arguments

    def entries(self) -> None:
        """Zeros and whole numbers where they will do."""
        loss = self.judge.loss
        for name, argument in loss.arguments.items():
            value = self.best.case.arguments[name]
            if value is None or not argument.is_array or not is_real(loss, name) or np.size(value) > 16:
                continue
            for index in np.ndindex(np.shape(value)):
                now = self.best.case.arguments[name]
                with np.errstate(all="ignore"):
                    simpler = [0.0, float(np.rint(np.asarray(now[index], np.float64)))]
                for entry in simpler:
                    if not np.isfinite(entry) or float(now[index]) == entry:
                        break
                    changed = np.array(now)
                    changed[index] = entry
                    if self.attempt({**self.best.case.arguments, name: changed}):
                        break


def _sums_to_one(x) -> bool:
    x = np.asarray(x).astype(np.float64)
    return bool(np.all(np.abs(x.sum(axis=-1) - 1) < 1e-2))


def _nature(failure: Failure) -> tuple:
    at = failure.failing
    bad = bool(at.any()) and not np.all(np.isfinite(failure.got[at])) if at.shape == np.shape(failure.got) else False
    zero = failure.severity != "wrong" and bool(at.any()) and bool((failure.got[at] == 0).any())
    return (failure.severity, bad, bool(failure.problem), zero)
