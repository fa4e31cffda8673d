"""Direct coverage: the loss of a problem that counts as solved when one of N tries is right."""

import numpy as np

from lossref.core import Count, Mask, NonPositive, Paper, floats, like, loss, total, where
from lossref.primitives import log1mexp

PAPER = Paper("Rethinking Fine-Tuning when Scaling Test-Time Compute", 2025, "arXiv:2502.07154")
LOG_2 = 0.6931471805599453


@loss(of="logps", paper=PAPER, symmetries={"row permutation": ()})
def direct_coverage(logps: NonPositive("N", masked=True), *, n_samples: Count = 256):
    r"""Minus the log of the probability that at least one of N samples is right (pass@N).

    .. math:: \ell = -\log\big(1 - (1 - p)^N\big), \qquad p = e^{\mathtt{logps}}

    Its gradient is that of cross-entropy times :func:`direct_coverage_weight`, which falls to 0 as soon as p is well
    above 1/N: N tries will find that answer anyway. N = 1 is cross-entropy. The paper's code multiplies the weight by
    the *mean* loss of the answer's tokens, which divides the gradient by the length of the answer.

    Parameters
    ----------
    logps
        Log-probability of the whole right answer: the sum over its tokens.
    n_samples
        The number N of tries.

    Examples
    --------
    >>> logps = np.log(np.array([0.5, 0.01, 1e-30]))
    >>> lr.direct_coverage(logps, n_samples=8, reduction="none")
    array([3.91389932e-03, 2.56063969e+00, 6.69981112e+01])
    >>> -np.log(1 - (1 - np.exp(logps)) ** 8)  # the literal formula: the last is lost
    array([0.0039139 , 2.56063969,        inf])
    """
    return _minus_log_coverage(logps, n_samples)


@direct_coverage.gradient
def _(logps, n_samples):
    return -_weight(logps, n_samples)


@direct_coverage.kinks
def _(logps):
    return logps == 0


@direct_coverage.obvious
def _(logps):
    return -np.log(1 - (1 - np.exp(logps)) ** 256)


@loss(paper=PAPER, reduces=False, symmetries={"row permutation": ()})
def direct_coverage_weight(logps: NonPositive("N", masked=True), *, n_samples: Count = 256):
    r"""By how much direct coverage weakens the gradient of cross-entropy: 1 for hopeless answers, 0 for sure ones.

    .. math:: F = \frac{N p\,(1 - p)^{N-1}}{1 - (1 - p)^N}, \qquad p = e^{\mathtt{logps}}

    The paper's code approximates it for Np < 0.1 and leaves out samples where it is small.

    Parameters
    ----------
    logps
        Log-probability of the whole right answer.
    n_samples
        The number N of tries.

    Examples
    --------
    >>> p = np.array([0.5, 0.01, 1e-30])
    >>> lr.direct_coverage_weight(np.log(p), n_samples=8)
    array([0.03137255, 0.96517938, 1.        ])
    >>> 8 * p * (1 - p) ** 7 / (1 - (1 - p) ** 8)  # the literal formula: the last is lost
    array([0.03137255, 0.96517938,        inf])
    """
    return _weight(logps, n_samples)


@direct_coverage_weight.obvious
def _(logps):
    p = np.exp(logps)
    return 256 * p * (1 - p) ** 255 / (1 - (1 - p) ** 256)


@loss(of="step_logps", paper=PAPER, symmetries={"row permutation": ()})
def direct_coverage_step(
    step_logps: NonPositive("N T", masked=True, all_masked=True, counted="mask"),
    mask: Mask("N T"),
    *,
    n_samples: Count = 8,
):
    r"""Direct coverage of each step of a proof, where a search may try every step N times.

    .. math:: \ell = \sum_{i \in \text{mask}} -\log\big(1 - (1 - p_i)^N\big), \qquad p_i = e^{\mathtt{step\_logps}_i}

    A proof of L steps may take N to the power L tries: N is the branching factor that the search can pay for. N = 1 is
    the negative log-likelihood of the proof. The paper's code trains on single steps; here a term is a whole proof.

    Parameters
    ----------
    step_logps
        Log-probability of each step; off the mask it may hold anything.
    mask
        True where there is a step.
    n_samples
        The number N of tries for each step.

    Examples
    --------
    >>> p, mask = np.array([[0.5, 0.01, 0.3]]), np.array([[True, True, False]])
    >>> lr.direct_coverage_step(np.log(p), mask)
    np.float64(2.564553584...)
    >>> -np.log(1 - (1 - p[mask]) ** 8).sum()  # the literal formula
    np.float64(2.564553584...)
    """
    return total(where(mask, _minus_log_coverage(where(mask, step_logps, 0), n_samples), 0))


@direct_coverage_step.gradient
def _(step_logps, mask, n_samples):
    return where(mask, -_weight(where(mask, step_logps, 0), n_samples), 0)


@direct_coverage_step.kinks
def _(step_logps, mask):
    return (step_logps == 0) & mask


@direct_coverage_step.obvious
def _(step_logps, mask):
    return -(mask * np.log(1 - (1 - np.exp(step_logps)) ** 8)).sum(axis=1)


def _minus_log_coverage(logps, n_samples):
    p, likely, log_miss = _parts(logps)
    often = floats(log_miss * -n_samples) > LOG_2
    # 1 - (1-p)^N directly; by the log of 1 - p; and, as Np may underflow, as Np times what is nearly 1.
    by_power = -np.log1p(-((-np.expm1(where(likely, logps, -1))) ** n_samples))
    by_log = -log1mexp(where(often, n_samples * log_miss, -1))
    by_share = -logps - np.log(like(n_samples, logps)) - np.log(_share(p, log_miss, n_samples))
    return where(likely, by_power, where(often, by_log, by_share))


def _weight(logps, n_samples):
    p, likely, log_miss = _parts(logps)
    miss = -np.expm1(where(likely, logps, -1))
    half = (n_samples - 1) // 2  # (1-p)^(N-1) in two parts: it can underflow where Np (1-p)^(N-1) does not
    rest = n_samples - 1 - half
    by_power = n_samples * p * miss**half * miss**rest / (1 - miss**n_samples)
    by_share = np.exp(half * log_miss) / _share(p, log_miss, n_samples) * np.exp(rest * log_miss)
    return where(likely, by_power, by_share)


def _parts(logps):
    """p, whether it is above 1/2, and log(1 - p) where it is not."""
    p, likely = np.exp(logps), floats(logps) > -LOG_2
    return p, likely, np.log1p(-where(likely, 0, p))


def _share(p, log_miss, n_samples):
    """(1 - (1 - p)^N) / (Np), which tends to 1 for small p."""
    none = floats(log_miss) == 0
    return where(none, 1, -np.expm1(n_samples * log_miss) / where(none, 1, n_samples * p))
