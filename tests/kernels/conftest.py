"""Exact references, and the yardstick |computed − exact| ≤ k eps (|exact| + Σ_j |∂/∂x_j (x_j − max x)|)."""

from types import SimpleNamespace

import numpy as np
import pytest
from flint import arb, ctx

PRECISION = 2600  # bits: e^−744 and its second differences keep 300 digits
STEP = 400  # derivatives are central differences with the step 2^−400: no formula of ours is in the reference


class ExactRow:
    """A function of one row of numbers and its derivatives, in 2600 bits. Masks (−∞) are constants."""

    def __init__(self, function, row):
        self.row = [None if x == -np.inf else arb(float(x)) for x in row]
        self.function = function
        self.step = arb(2) ** -STEP
        self.top = max((x for x in self.row if x is not None), key=float)
        self.free = [j for j, x in enumerate(self.row) if x is not None]

    def at(self, **moved):
        raise NotImplementedError

    def shifted(self, *moves):
        row = list(self.row)
        for j, steps in moves:
            row[j] = row[j] + steps * self.step
        return self.function(row)

    def value(self):
        return self.function(self.row)

    def derivative(self, j):
        return (self.shifted((j, 1)) - self.shifted((j, -1))) / (2 * self.step)

    def second(self, j, k):
        if j == k:
            return (self.shifted((j, 1)) + self.shifted((j, -1)) - 2 * self.value()) / self.step**2
        corners = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))
        return sum(s * self.shifted((j, a), (k, b)) for a, b, s in corners) / (4 * self.step**2)

    def distance(self, j, from_zero=False):
        return abs(self.row[j] if from_zero else self.row[j] - self.top)

    def value_scale(self, from_zero=False):
        return abs(self.value()) + sum(abs(self.derivative(j)) * self.distance(j, from_zero) for j in self.free)

    def derivative_scale(self, j, from_zero=False):
        moved = sum(abs(self.second(j, k)) * self.distance(k, from_zero) for k in self.free)
        return abs(self.derivative(j)) + moved


def units(computed, exact, scale, dtype):
    """The error in eps · scale. Half a unit of the last subnormal place is nobody's fault."""
    assert np.isfinite(computed), computed
    limits = np.finfo(dtype)
    error = abs(arb(float(computed)) - exact) - arb(float(limits.smallest_subnormal))
    if not error > 0:
        return 0.0
    return float((error / (arb(float(limits.eps)) * scale)).mid()) if scale > 0 else np.inf


@pytest.fixture(autouse=True)
def _precision():
    before, ctx.prec = ctx.prec, PRECISION
    yield
    ctx.prec = before


def log_sum_exp(row):
    return sum((x.exp() for x in row if x is not None), arb(0)).log()


def cross_entropy_term(label, weight=None, label_smoothing=0.0, softcap=None, z_loss_weight=0.0):
    """The definition, as naive as it can be written."""

    def term(row):
        u = row
        if softcap is not None:
            u = [None if x is None else softcap * (x / softcap).tanh() for x in row]
        lse = log_sum_exp(u)
        w = [arb(1)] * len(u) if weight is None else [arb(float(v)) for v in weight]
        smoothing = arb(float(label_smoothing))
        loss = (1 - smoothing) * w[label] * (lse - u[label])
        if label_smoothing:
            loss += smoothing / len(u) * sum(w[c] * (lse - u[c]) for c in range(len(u)))
        return loss + arb(float(z_loss_weight)) * w[label] * lse**2

    return term


@pytest.fixture
def exact():
    return SimpleNamespace(
        Row=ExactRow, units=units, log_sum_exp=log_sum_exp, cross_entropy_term=cross_entropy_term, ball=arb
    )


@pytest.fixture
def long_double():
    """The accurate row in NumPy's longdouble, for rows that are too long for balls."""

    def row(x):
        x = np.asarray(x, np.longdouble)
        top = x.argmax(-1)[..., None]
        m = np.take_along_axis(x, top, -1)
        e = np.exp(x - m)
        others = e.copy()
        np.put_along_axis(others, top, 0, -1)
        r = others.sum(-1, keepdims=True)
        p = e / (1 + r)
        # 1 − p is r/(1 + r) at the maximum, never a subtraction.
        rest = 1 - p
        np.put_along_axis(rest, top, r / (1 + r), -1)
        distance = m - np.where(x > -np.inf, x, m)
        return SimpleNamespace(
            p=p,
            one_minus_p=rest,
            log_sum_exp=(m + np.log1p(r))[..., 0],
            log_p=(x - m) - np.log1p(r),
            distance=distance,
            spread=(p * distance).sum(-1, keepdims=True),
        )

    return row


@pytest.fixture
def hard_rows():
    """Rows on which the usual formulas lose their digits, or their minds."""

    def rows(dtype):
        inf = np.inf
        leads = [17, 30, 40, 60, 88, 100] if dtype == np.float32 else [37, 60, 100, 300, 600, 744]
        found = [[lead, 0.0, 0.25, -1.0] for lead in leads] + [[0.0, -lead, -lead] for lead in leads]
        found += [
            [0.0, 750.0, 1.0],
            [1e8, 1e8, 1e8 - 8],
            [-1e9, -1e9 + 64, -1e9],
            [1e9, 1e9, 1e9 - 64],
            [-inf, 0.0, 1.0, -inf],
            [-1e9, 0.0, 1.0],
            [-1e30, 3.0, 1.0],
            [3.0, 3.0, 3.0, 3.0, 3.0],
            [0.0],
            [-7.0],
            [1e-30, -1e-30],
            [-0.6931472, -0.6931472],
            [5.0, -3.0, 0.0, 2.0, 4.0, -1.0],
        ]
        return [np.array(row, dtype) for row in found]

    return rows
