"""What the theory says of comp-sum losses: how their excess bounds the excess error, and how small they can get."""

import numpy as np

from lossref.core import Count, Fraction, Masses, NonNegative, Paper, floats, loss, times, total, where
from lossref.primitives import softmax_row

THEORY = Paper("Cross-Entropy Loss Functions: Theoretical Analysis and Applications", 2023, "arXiv:2304.07288")


@loss(returns="...", reduces=False, paper=THEORY)
def comp_sum_transform(beta: Fraction("..."), *, tau: NonNegative = 1.0, num_classes: Count):
    r"""The least excess of a comp-sum loss at points where the excess error is β.

    .. math::
        \mathcal T_\tau(\beta) = \begin{cases}
        \frac{2^{1-\tau}}{1-\tau}(1 - A) & 0 \le \tau < 1 \\
        \frac{1+\beta}{2}\log(1+\beta) + \frac{1-\beta}{2}\log(1-\beta) & \tau = 1 \\
        \frac{A - 1}{(\tau-1)\,n^{\tau-1}} & 1 < \tau < 2 \\
        \frac{\beta}{(\tau-1)\,n^{\tau-1}} & \tau \ge 2
        \end{cases}
        \qquad A = \Big(\frac{(1+\beta)^{1/(2-\tau)} + (1-\beta)^{1/(2-\tau)}}{2}\Big)^{2-\tau}

    For complete, symmetric hypothesis sets. Near 0 it is β²/2 for cross-entropy: halving the excess error takes a
    quarter of the excess loss; for τ ≥ 2 it is linear, but n classes divide it.

    Parameters
    ----------
    beta
        Excess errors β.
    tau
        The exponent τ of the loss.
    num_classes
        The number of classes n.

    Examples
    --------
    >>> beta = np.array([0.1, 0.5, 1.0])
    >>> lr.comp_sum_transform(beta, tau=0.0, num_classes=10)
    array([0.00501256, 0.1339746 , 1.        ])
    >>> 2 * (1 - (((1 + beta) ** 0.5 + (1 - beta) ** 0.5) / 2) ** 2)  # the literal formula
    array([0.00501256, 0.1339746 , 1.        ])
    """
    if tau >= 2:
        return beta / ((tau - 1) * num_classes ** (tau - 1))
    up, down = np.log1p(beta), np.log1p(-beta)
    mean, half_gap = np.log1p(-beta * beta) / 2, np.arctanh(beta)  # (up ± down) / 2
    if tau == 1:
        ends = times((1 + beta) / 2, up) + times((1 - beta) / 2, down)
        return where(floats(beta) < 0.7, mean + beta * half_gap, ends)
    q = tau - 1
    h = q / (1 - q)  # 1/(2-τ) = 1 + h
    near = (floats(beta) < 0.7) & (abs(h) * floats(beta) < 0.7)
    # log A / (1-q) is the log of the mean of e^{h up} and e^{h down} with the weights (1 ± β)/2, once as 1 + …
    a = h * where(near, half_gap, 0)
    bent = 2 * np.sinh(a / 2) ** 2 + beta * np.sinh(a)
    excess = np.expm1(h * where(near, mean, 0)) + np.exp(h * where(near, mean, 0)) * bent
    # … and once with its larger part taken out.
    rest = np.log1p(times((1 - beta) / 2, np.expm1(-2 * h * half_gap)))
    log_a = where(near, (1 - q) * np.log1p(excess), q * up + (1 - q) * rest)
    return np.expm1(log_a) / (q * (2 if tau < 1 else num_classes) ** q)


@comp_sum_transform.obvious
def _(beta, num_classes):
    return (1 + beta) / 2 * np.log(1 + beta) + (1 - beta) / 2 * np.log(1 - beta)


@loss(returns="...", reduces=False, paper=THEORY)
def comp_sum_bound(gap: NonNegative("..."), *, tau: NonNegative = 1.0, num_classes: Count):
    r"""An upper bound of the excess error, from the excess of a comp-sum loss.

    .. math::
        \tilde\Gamma_\tau(t) = \begin{cases}
        \sqrt{2^\tau (2-\tau)\,t} & 0 \le \tau < 1 \\
        \sqrt{2 n^{\tau-1}\,t} & 1 \le \tau < 2 \\
        (\tau-1)\,n^{\tau-1}\,t & \tau \ge 2
        \end{cases}

    It lies above the inverse of ``comp_sum_transform``. Cross-entropy's bound has no number of classes in it; that of
    the mean absolute error grows like n: robust to noise, and hard to train with many classes.

    Parameters
    ----------
    gap
        Excess of the loss over the best in the hypothesis set, plus its minimizability gap.
    tau
        The exponent τ of the loss.
    num_classes
        The number of classes n.

    Examples
    --------
    >>> lr.comp_sum_bound(np.array([0.02, 0.5]), num_classes=10)
    array([0.2, 1. ])
    >>> np.sqrt(2 * np.array([0.02, 0.5]))  # the literal formula
    array([0.2, 1. ])
    """
    if tau >= 2:
        return (tau - 1) * num_classes ** (tau - 1) * gap
    return np.sqrt((2**tau * (2 - tau) if tau < 1 else 2 * num_classes ** (tau - 1)) * gap)


@comp_sum_bound.obvious
def _(gap, num_classes):
    return np.sqrt(2 * gap)


@loss(returns="N", reduces=False, paper=THEORY, symmetries={"row permutation": ()})
def comp_sum_best_conditional(probs: Masses("N C"), *, tau: NonNegative = 1.0):
    r"""The smallest expected comp-sum loss at a point whose label is drawn from given probabilities.

    .. math::
        \min_x \sum_y \pi_y\,\ell_\tau(x, y) = \begin{cases}
        \frac{1}{1-\tau}\Big[\big(\sum_k \pi_k^{1/(2-\tau)}\big)^{2-\tau} - 1\Big] & \tau < 2,\ \tau \ne 1 \\
        -\sum_k \pi_k \log \pi_k & \tau = 1 \\
        \frac{1 - \max_k \pi_k}{\tau-1} & \tau \ge 2
        \end{cases}

    The minimizability gap of a hypothesis set is its best loss minus the mean of this: what no scores could avoid does
    not count.

    Parameters
    ----------
    probs
        The probabilities π of the labels, one point a row.
    tau
        The exponent τ of the loss.

    Examples
    --------
    >>> pi = np.array([[0.5, 0.25, 0.25]])
    >>> lr.comp_sum_best_conditional(pi, tau=0.0)
    array([1.91421356])
    >>> np.sqrt(pi).sum() ** 2 - 1  # the literal formula
    np.float64(1.91421356...)
    """
    log_pi = np.log(probs)
    if tau == 1:
        return total(times(probs, -log_pi))
    if tau >= 2:
        largest = np.arange(probs.shape[-1]) == np.argmax(floats(probs), axis=-1)[:, None]
        return total(where(largest, 0, probs)) / (tau - 1)
    q = tau - 1
    excess = total(times(probs, np.expm1(q / (1 - q) * log_pi)))  # Σ π^{1/(2-τ)} - 1, since Σ π = 1
    near = floats(excess) > -0.5
    far = softmax_row(log_pi, temperature=1 - q).lse
    return -np.expm1((1 - q) * where(near, np.log1p(where(near, excess, 0)), far)) / q


@comp_sum_best_conditional.obvious
def _(probs):
    return -(probs * np.log(probs)).sum(axis=1)
