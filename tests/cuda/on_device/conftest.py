"""Tests that run kernels: on a GPU, on the stand-in GPU of tests/cuda/stand_in, or in the simulator when
NUMBA_ENABLE_CUDASIM=1 is in the environment.

    NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda/on_device

With none there is nothing to collect here; `tests/cuda/test_simulator.py` then starts the command above, and
`tests/cuda/test_stand_in.py` the same on the stand-in.

The truth is computed in NumPy's longdouble (64 bits of mantissa on x86) by the accurate softmax row, and an
answer is judged by the yardstick: k eps(dtype) (|exact| + how much the answer moves when each input moves by
one rounding), plus half the smallest number of the dtype.
"""

import os
import sys
from types import SimpleNamespace

import lossref_cuda
import ml_dtypes
import numpy as np
import pytest

collect_ignore_glob = [] if lossref_cuda.availability().ok else ["test_*.py"]

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@pytest.fixture(scope="session")
def where():
    """What the kernels run on: "simulator", "stand-in" or "GPU"."""
    from lossref_cuda.instructions import SIMULATED

    return "simulator" if SIMULATED else "stand-in" if "STAND_IN_GPU" in os.environ else "GPU"


@pytest.fixture(autouse=True, scope="session")
def _simulated_threads_share_one_core(where):
    """The simulator's threads mostly wait for one another, and Python hands its lock from thread to thread
    ten times faster when they all live on one core."""
    if where != "simulator" or not hasattr(os, "sched_setaffinity"):
        yield
        return
    interval, cores = sys.getswitchinterval(), sorted(os.sched_getaffinity(0))
    sys.setswitchinterval(1e-4)
    worker = int(os.environ.get("LOSSREF_TEST_WORKER", os.getpid()))
    os.sched_setaffinity(0, {cores[worker % len(cores)]})
    yield
    os.sched_setaffinity(0, cores)
    sys.setswitchinterval(interval)


def _wide(x):
    return np.asarray(x).astype(np.longdouble)


def _row(x):
    """e**(x - m), 1 + r, r, x - m of each row: the accurate softmax row."""
    winner = x.argmax(axis=-1)[..., None]
    m = np.take_along_axis(x, winner, axis=-1)
    shifted = np.where(np.isneginf(x), -np.inf, x - np.where(np.isneginf(m), 0, m))
    e = np.exp(shifted)
    losers = e.copy()
    np.put_along_axis(losers, winner, 0, axis=-1)
    r = losers.sum(axis=-1, keepdims=True)
    return SimpleNamespace(m=m, shifted=shifted, e=e, r=r, p=e / (1 + r), rest=((1 - e) + r) / (1 + r))


def _times(a, b):
    """a b with 0 inf = 0."""
    with np.errstate(invalid="ignore"):
        return np.where((a == 0) | (b == 0), 0, a * b)


def _moves(row):
    """sum_k |d log p_j / d x_k (x_k - m)| for each j: how far one rounding of each input moves p_j,
    relatively."""
    drift = _times(row.p, np.abs(row.shifted))
    own = _times(row.rest, np.abs(row.shifted))
    return np.where(row.e == 0, 0, own) + drift.sum(axis=-1, keepdims=True) - drift


def logsumexp(x):
    """value, how much it may move; and the softmax with the same."""
    x = _wide(x)
    row = _row(x)
    value = (row.m + np.log1p(row.r))[..., 0]
    return value, np.abs(value) + _times(row.p, np.abs(x)).sum(axis=-1)


def softmax(x):
    row = _row(_wide(x))
    return row.p, row.p * (1 + _moves(row))


def log_softmax(x):
    row = _row(_wide(x))
    value = row.shifted - np.log1p(row.r)
    drift = _times(row.p, np.abs(row.shifted))
    move = np.where(row.e == 0, 0, _times(row.rest, np.abs(row.shifted)))
    return value, np.abs(value) + move + drift.sum(axis=-1, keepdims=True) - drift


def softmax_vjp(x, w):
    row = _row(_wide(x))
    w = _wide(w)
    at_maximum = np.take_along_axis(w, _wide(x).argmax(axis=-1)[..., None], axis=-1)
    terms = row.p * (at_maximum - w)
    centred = (w - at_maximum) + terms.sum(axis=-1, keepdims=True)
    gradient = row.p * centred
    drift = (row.p * np.abs(centred) * (1 + _moves(row))).sum(axis=-1, keepdims=True)
    return gradient, np.abs(gradient) * (1 + _moves(row)) + row.p * drift


def log_softmax_vjp(x, w):
    row = _row(_wide(x))
    w = np.where(np.isneginf(_wide(x)), 0, _wide(w))
    count = x.shape[-1]
    others = (w[..., None, :] * (1 - np.eye(count))).sum(axis=-1)
    gradient = w * row.rest - row.p * others
    # The cotangent is an input too: the answer is linear in it.
    from_cotangent = np.abs(w) * row.rest + row.p * (np.abs(w).sum(axis=-1, keepdims=True) - np.abs(w))
    from_logits = np.abs(w.sum(axis=-1, keepdims=True)) * row.p * _moves(row)
    return gradient, np.abs(gradient) + from_logits + from_cotangent


def cross_entropy(x, labels, *, weight=None, ignore_index=-100, label_smoothing=0.0, softcap=None, z_loss_weight=0.0):
    """terms, their allowance, the gradient of each term, its allowance."""
    x = _wide(x)
    rows, count = x.shape
    weight = np.ones(count, np.longdouble) if weight is None else _wide(weight)
    eps, zeta = np.longdouble(label_smoothing), np.longdouble(z_loss_weight)
    others = np.concatenate([[0], weight[:-1]]).cumsum() + np.concatenate([[0], weight[:0:-1]]).cumsum()[::-1]
    u, slope = x, np.ones_like(x)
    if softcap is not None:
        finite = np.isfinite(x)
        c = np.longdouble(softcap)
        u = np.where(finite, c * np.tanh(np.where(finite, x, 0) / c), x)
        slope = np.where(finite, 1 / np.cosh(np.where(finite, x, 0) / c) ** 2, 0)
    terms, gradient = np.zeros(rows, np.longdouble), np.zeros_like(x)
    terms_move, gradient_move = np.zeros_like(terms), np.zeros_like(x)
    for i, y in enumerate(labels):
        if y == ignore_index:
            continue
        row = _row(u[i : i + 1])
        p, rest = row.p[0], row.rest[0]
        log_norm = np.log1p(row.r[0, 0])
        lse = row.m[0, 0] + log_norm
        minus_log_p = log_norm - row.shifted[0]
        delta = np.arange(count) == y
        terms[i] = _times((1 - eps) * weight[y], minus_log_p[y]) + zeta * weight[y] * lse**2
        pull = (1 - eps) * weight[y] * np.where(delta, -rest, p)
        from_z = 2 * zeta * weight[y] * lse * p
        smooth = np.zeros_like(p)
        if eps:
            terms[i] += eps / count * _times(weight, minus_log_p).sum()
            smooth = eps / count * (p * others - weight * rest)
        gradient[i] = (pull + from_z + smooth) * slope[i]
        # An offset moves the loss only through the z term; the rest is measured from the maximum.
        shifted = row.shifted[0]
        moved = _times(np.abs(pull + smooth) * slope[i], np.abs(shifted)).sum()
        terms_move[i] = np.abs(terms[i]) + moved + _times(np.abs(from_z), np.abs(u[i])).sum()
        bend = np.zeros_like(p)
        if softcap is not None:  # the slope moves as well
            bend = 2 * np.abs(gradient[i]) * np.abs(np.where(np.isfinite(x[i]), x[i], 0)) / softcap
        share = (1 - eps) * weight[y] + np.abs(2 * zeta * weight[y] * lse) + eps / count * weight.sum()
        of_p = share * p * _moves(row)[0]
        of_lse = 2 * zeta * weight[y] * p * _times(p, np.abs(u[i])).sum()
        gradient_move[i] = np.abs(gradient[i]) + (of_p + of_lse) * slope[i] + bend
    return terms, terms_move, gradient, gradient_move


def _smallest(dtype):
    return {2: 6e-8, 4: 1.4e-45, 8: 4.9e-324}[dtype.itemsize] if dtype.kind == "f" else 9.2e-41


def _eps(dtype):
    return np.longdouble(float(ml_dtypes.finfo(dtype).eps))


def error(computed, truth, allowance, dtype):
    """The largest error in units of the yardstick. What is not finite must agree exactly."""
    dtype = np.dtype(dtype)
    computed, truth = _wide(computed), np.asarray(truth)
    assert computed.shape == truth.shape
    special = ~np.isfinite(truth)
    # A truth beyond the range of the dtype is its infinity.
    np.testing.assert_array_equal(computed[special], truth[special])
    unit = _eps(dtype) * np.where(special, 1, allowance) + np.longdouble(_smallest(dtype))
    with np.errstate(invalid="ignore"):
        difference = np.where(special, 0, np.abs(computed - truth))
    return float((difference / unit).max()) if difference.size else 0.0


@pytest.fixture(scope="session")
def exact():
    return SimpleNamespace(
        logsumexp=logsumexp,
        softmax=softmax,
        log_softmax=log_softmax,
        softmax_vjp=softmax_vjp,
        log_softmax_vjp=log_softmax_vjp,
        cross_entropy=cross_entropy,
        error=error,
    )


@pytest.fixture(scope="session")
def launch_options():
    """What makes a rung run on a tiny example as it would on a large one."""

    def options(rung):
        # pieces: how many, and how long. The rows here are at most 70 long; some pieces remain empty.
        return {"rung": rung, "pieces": (3, 24)} if rung == "long_row_split_over_blocks" else {"rung": rung}

    return options


@pytest.fixture(scope="session")
def hard_rows():
    """Rows of 35 numbers where the field does not look."""

    def build(dtype):
        dtype = np.dtype(dtype)
        wide = dtype in (np.float32, np.float64, DTYPES["bfloat16"])
        rng = np.random.default_rng(7)
        count = 35
        rows = [
            rng.normal(size=count),
            np.zeros(count),  # all equal
            np.linspace(-3, 3, count),  # every number a new maximum
            np.linspace(3, -3, count),  # none
            np.linspace(-800, 800, count) if wide else np.linspace(-80, 80, count),
            np.where(np.arange(count) == 4, 40.0, 0.0),  # leads by 40
            np.where(np.arange(count) == 33, 90.0, rng.normal(size=count)),  # by 90, among the last
            np.where(np.arange(count) < 18, -np.inf, rng.normal(size=count)),  # the first half masked
            np.where(np.arange(count) >= 18, -np.inf, rng.normal(size=count)),
            np.where(np.arange(count) == 20, 1.0, -np.inf),  # all but one masked
            np.where(np.arange(count) % 3 == 0, -1e9 if wide else -6e4, rng.normal(size=count)),
        ]
        if wide:
            rows += [
                np.where(np.arange(count) == 3, 750.0, 0.0),
                1e9 + 64.0 * rng.integers(0, 3, count),  # exact in float32
                -1e9 + 64.0 * rng.integers(0, 3, count),
                np.where(np.arange(count) % 2 == 0, -1e30, 2.0),
                np.full(count, -3e38),
            ]
        return np.array(rows).astype(dtype)

    return build
