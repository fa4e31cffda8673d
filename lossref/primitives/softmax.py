"""Log-sum-exp and softmax with full relative accuracy: the maximum stays out of the sum.

With m the largest entry of a row and r the sum of e^(x_k - m) over all the *other* entries,

    lse = m + log1p(r),   log p_j = (x_j - m) - log1p(r),   p_j = e^(x_j - m) / (1 + r),   1 - p_max = r / (1 + r).

The usual form keeps s = 1 + r instead of r, and an r below half an ulp of 1 is gone: that is why the loss of a right
answer that leads by 40 is 0 everywhere else, and 4.2e-18 here.
"""

from functools import cached_property

import numpy as np

from lossref.core import Choice, Flag, Integer, Paper, Real, floats, held_constant, loss, times, total, where
from lossref.core.arithmetic import is_exact


class SoftmaxRow:
    """Everything that losses need of the softmax of each row (last axis) of x / temperature."""

    def __init__(self, x, temperature=1):
        # Any entry may be taken out of the sum, and the largest keeps the rest ≤ 1: a rounded comparison will do.
        pivot = np.argmax(floats(x), axis=-1)[..., None]
        self.is_pivot = np.arange(x.shape[-1]) == pivot
        self.maximum = np.take_along_axis(x, pivot, axis=-1)
        some = self.maximum > -np.inf  # a row of only -inf has no shift: -inf - (-inf) is nothing
        difference = (x - where(some, self.maximum, 0.0)) / temperature  # before all else: an offset changes nothing
        self.shifted = where(self.is_pivot & some, 0.0, difference)
        self.terms = np.exp(self.shifted)
        self.r = total(where(self.is_pivot, 0.0, self.terms), keepdims=True)
        self.temperature = temperature

    @cached_property
    def lse(self):
        """log Σ e^x, one per row."""
        return (self.maximum / self.temperature + np.log1p(self.r))[..., 0]

    @cached_property
    def log_p(self):
        return self.shifted - np.log1p(self.r)

    @cached_property
    def p(self):
        return self.terms / (1 + self.r)

    @cached_property
    def not_p(self):
        """1 - p, never formed by subtracting p from 1."""
        return where(self.is_pivot, self.r, 1 + (self.r - self.terms)) / (1 + self.r)

    def p_minus(self, is_target):
        """p - onehot, for a boolean one-hot matrix: minus the sum of the others at the target."""
        return where(is_target, -self.not_p, self.p)

    def p_minus_masses(self, masses):
        """p_j Σ_k a_k - a_j, the derivative of -Σ a_k log p_k, for masses a ≥ 0: as p_j Σ_{k≠j} a_k - a_j (1 - p_j)."""
        largest = np.argmax(masses, axis=-1)[..., None]
        is_largest = np.arange(masses.shape[-1]) == largest
        rest = total(where(is_largest, 0.0, masses), keepdims=True)
        of_others = where(is_largest, rest, np.take_along_axis(masses, largest, axis=-1) + (rest - masses))
        return self.p * of_others - masses * self.not_p

    def slope_of_mean(self, c):
        """p_j (c_j - Σ p_k c_k), the derivative of Σ p_k c_k; c counts from the pivot, so nothing cancels."""
        relative = c - np.take_along_axis(c, np.argmax(self.is_pivot, axis=-1)[..., None], axis=-1)
        return times(self.p, relative - total(times(self.p, relative), keepdims=True))


softmax_row = SoftmaxRow


def _last(x, axis):
    """x with the axis last and contiguous, so that rows are rows."""
    moved = np.moveaxis(x, axis, -1)
    return moved if is_exact(moved) else np.ascontiguousarray(moved)


@loss(
    of="x",
    returns=lambda x, axis, keepdims: np.take(x, [0] if keepdims else 0, axis=axis).shape,
    reduces=False,
    symmetries={"row permutation": ()},
)
def logsumexp(x: Real("...", masked=True, all_masked=True), *, axis: Integer = -1, keepdims: Flag = False):
    r"""The logarithm of the sum of exponentials along an axis.

    .. math:: \mathrm{lse}(x) = \log \sum_k e^{x_k}

    Its gradient is the softmax. A row of only -inf has the value -inf and the gradient 0.

    Parameters
    ----------
    x
        Numbers; -inf marks entries that do not count.
    axis
        The axis that is summed over.
    keepdims
        Whether the axis stays, with length 1.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> lr.logsumexp(x)
    array([3.40760596])
    >>> np.log(np.exp(x).sum(axis=-1))  # the literal formula
    array([3.40760596])
    >>> lr.logsumexp(np.array([1000.0, 1000.0]))
    np.float64(1000.6931471805599)
    """
    lse = np.asarray(softmax_row(_last(x, axis)).lse)
    return np.expand_dims(lse, axis) if keepdims else lse


@logsumexp.gradient
def _(x, axis, keepdims, cotangent):
    weights = cotangent if keepdims else np.expand_dims(cotangent, axis)
    return weights * np.moveaxis(softmax_row(_last(x, axis)).p, -1, axis)


@logsumexp.obvious
def _(x):
    return np.log(np.exp(x).sum(axis=-1))


@loss(
    of="x",
    returns="...",
    reduces=False,
    paper=Paper("The Two-Pass Softmax Algorithm", 2020, "arXiv:2001.04438"),
    symmetries={"shift": (), "row permutation": ()},
)
def softmax(
    x: Real("...", masked=True, all_masked=True),
    *,
    axis: Integer = -1,
    algorithm: Choice("three_pass", "online", "two_pass") = "three_pass",
):
    r"""The softmax along an axis: positive, summing to 1, invariant to a common shift.

    .. math:: p_j = \frac{e^{x_j}}{\sum_k e^{x_k}}

    Parameters
    ----------
    x
        Logits; -inf marks entries that get probability 0.
    axis
        The axis that sums to 1.
    algorithm
        How the kernels walk the row; it changes rounding only, and nothing on the NumPy path.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> lr.softmax(x)
    array([0.09003057, 0.24472847, 0.66524096])
    >>> np.exp(x) / np.exp(x).sum()  # the literal formula
    array([0.09003057, 0.24472847, 0.66524096])
    """
    return np.moveaxis(softmax_row(_last(x, axis)).p, -1, axis)


@softmax.gradient
def _(x, axis, cotangent):
    return np.moveaxis(softmax_row(_last(x, axis)).slope_of_mean(np.moveaxis(cotangent, axis, -1)), -1, axis)


@softmax.obvious
def _(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


@loss(of="x", returns="...", reduces=False, symmetries={"shift": (), "row permutation": ()})
def log_softmax(x: Real("...", masked=True, all_masked=True), *, axis: Integer = -1):
    r"""The logarithm of the softmax along an axis.

    .. math:: \log p_j = x_j - \log \sum_k e^{x_k}

    Parameters
    ----------
    x
        Logits; -inf marks entries that get log-probability -inf. A cotangent there is ignored.
    axis
        The axis along which probabilities sum to 1.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> lr.log_softmax(x)
    array([-2.40760596, -1.40760596, -0.40760596])
    >>> x - np.log(np.exp(x).sum())  # the literal formula
    array([-2.40760596, -1.40760596, -0.40760596])
    """
    moved = _last(x, axis)
    log_p = softmax_row(moved).log_p
    return np.moveaxis(where(moved == -np.inf, held_constant(log_p), log_p), -1, axis)


@log_softmax.gradient
def _(x, axis, cotangent):
    moved = _last(x, axis)
    row, c = softmax_row(moved), np.moveaxis(cotangent, axis, -1)
    c = where(moved == -np.inf, 0.0, c)
    # c_j - p_j Σ c_k, with the j-th part of the sum moved to 1 - p_j: nothing cancels when p_j is nearly 1.
    return np.moveaxis(c * row.not_p - row.p * (_sum_of_others(c)), -1, axis)


def _sum_of_others(c):
    """Σ_{k≠j} c_k for every j, from running sums on both sides: never a total minus its own part."""
    zero = np.zeros_like(c[..., :1])
    before = np.concatenate([zero, np.cumsum(c, axis=-1)[..., :-1]], axis=-1)
    after = np.concatenate([np.cumsum(c[..., ::-1], axis=-1)[..., ::-1][..., 1:], zero], axis=-1)
    return before + after


@log_softmax.obvious
def _(x):
    return np.log(np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True))


for _function in (logsumexp, softmax, log_softmax):

    @_function.requires("axis", "an axis of x")
    def _(x, axis):
        return -x.ndim <= axis < x.ndim

    @_function.requires("x", "at least one entry along the axis")
    def _(x, axis):
        return x.shape[axis] > 0


for _function in (softmax, log_softmax):

    @_function.requires("x", "a finite entry in every row", scans=True)
    def _(x, axis):
        return x.size == 0 or not (x == -np.inf).all(axis=axis).any()
