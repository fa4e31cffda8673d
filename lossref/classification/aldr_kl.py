"""ALDR-KL: LDR-KL whose temperature adapts to each row, as the price of leaving a given one."""

import numpy as np

from lossref.core import (
    Choice,
    Labels,
    NonNegative,
    Paper,
    Positive,
    Real,
    floats,
    held_constant,
    is_exact,
    label_mask,
    like,
    loss,
    midpoint,
    times,
    total,
    where,
    widened,
)
from lossref.core.declarations import Interval, RealNumber
from lossref.primitives import softmax_row

from .gaps import distant_label, gaps
from .ldr_kl import (
    SYMMETRIES,
    gaps_below_leader,
    has_scale,
    normalized,
    scores_above,
    soft_maximum,
    through_normalization,
)

PAPER = Paper("Label Distributionally Robust Losses for Multi-class Classification", 2023, "arXiv:2112.14869")
ABOVE_ONE = RealNumber(interval=Interval(1.0))


@loss(of="logits", paper=PAPER, symmetries=SYMMETRIES)
def aldr_kl(
    logits: Real("N C"),
    labels: Labels("N", below="C"),
    *,
    lambda0: Positive = 1.0,
    alpha: ABOVE_ONE = 2.0,
    margin: NonNegative = 0.1,
    normalize: Choice("softplus", "l1") = None,
    lambdas: Positive("N") = None,
):
    r"""LDR-KL at the temperature that makes it largest, less the price of leaving λ₀.

    .. math::
        \ell = \max_\lambda\; \lambda \log\Big(\frac1K \sum_k e^{q_k/\lambda}\Big)
               - \frac{\alpha \log K}{2\lambda_0} (\lambda - \lambda_0)^2, \qquad q_k = f_k - f_y + c\,[k \ne y]

    At the maximum :math:`\lambda = \lambda_0 (1 - \mathrm{KL}(\pi \| \tfrac1K) / (\alpha \log K))` with
    :math:`\pi = \mathrm{softmax}(q/\lambda)`: an uncertain row (flat π) keeps λ₀ and trusts its
    label less, a certain one falls towards λ₀(1 - 1/α). The gradient is π minus the label, as if λ were given
    (envelope theorem). Given ``lambdas`` are used as they are: the paper's code takes one step of
    :func:`aldr_kl_step` a visit, where π has no margin, instead of the maximum.

    Parameters
    ----------
    logits
        Scores of the classes.
    labels
        The right classes.
    lambda0
        The temperature λ₀ that costs nothing.
    alpha
        The price of leaving λ₀; above 1, so that the temperature stays positive.
    margin
        The margin c that every wrong class is given.
    normalize
        "softplus" for f = K h / Σh with h = sp(x), "l1" for f = K x / Σ\|x\|; by default f = x.
    lambdas
        A temperature for each row, a constant, instead of the maximum.

    Examples
    --------
    >>> logits, labels = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]]), np.array([0, 1])
    >>> lr.aldr_kl(logits, labels, reduction="none")
    array([-0.8055921...,  1.2876909...])
    >>> q = logits - logits[[0, 1], labels][:, None] + 0.1 * (labels[:, None] != np.arange(3))
    >>> lam = np.linspace(0.5, 1, 1001)[:, None, None]  # the literal formula, on a grid
    >>> (lam[..., 0] * np.log(np.exp(q / lam).mean(axis=-1)) - np.log(3) * (lam[..., 0] - 1) ** 2).max(axis=0)
    array([-0.8055921...,  1.2876909...])
    """
    q = gaps(scores_above(logits, labels, normalize), labels, margin)
    lam = lambdas if lambdas is not None else best_temperature(q, lambda0, alpha)
    return _at_temperature(q, lam, lambda0, alpha)


@aldr_kl.gradient
def _(logits, labels, lambda0, alpha, margin, normalize, lambdas):
    q = gaps_below_leader(logits, labels, margin, normalize)
    lam = lambdas if lambdas is not None else best_temperature(q, lambda0, alpha)
    row = softmax_row(q, lam[:, None])
    return through_normalization(row.p_minus(label_mask(labels, logits.shape[1])), logits, normalize)


@aldr_kl.kinks
def _(logits, normalize):
    return (logits == 0) & (normalize == "l1")


aldr_kl.hard(distant_label)


@aldr_kl.obvious
def _(logits, labels):
    rows, classes = np.arange(len(labels)), logits.shape[1]
    q = logits - logits[rows, labels][:, None] + 0.1
    q[rows, labels] = 0.0
    lam = np.ones((len(labels), 1))
    for _ in range(200):
        pi = np.exp(q / lam) / np.exp(q / lam).sum(axis=1, keepdims=True)
        lam = 1 - (pi * np.log(classes * pi)).sum(axis=1, keepdims=True) / (2 * np.log(classes))
    return lam[:, 0] * np.log(np.exp(q / lam).mean(axis=1)) - np.log(classes) * (lam[:, 0] - 1) ** 2


@loss(paper=PAPER, reduces=False)
def aldr_kl_step(
    logits: Real("N C"),
    lambdas: Positive("N"),
    *,
    lambda0: Positive = 1.0,
    alpha: Positive = 2.0,
    prob_floor: NonNegative = 0.0,
    normalize: Choice("softplus", "l1") = None,
):
    r"""The temperatures that follow from the present ones: one step towards the maximum of :func:`aldr_kl`.

    .. math:: \lambda' = \lambda_0 \Big(1 - \frac{\mathrm{KL}(\pi \,\|\, \tfrac1K)}{\alpha \log K}\Big),
        \qquad \pi = \mathrm{softmax}(f/\lambda)

    As in the paper's code there is no label and no margin in π. The code adds 1e-5 to the probabilities and divides
    by their sum again (``prob_floor``).

    Parameters
    ----------
    logits
        Scores of the classes.
    lambdas
        The present temperature of each row.
    lambda0
        The temperature λ₀ of a row about which nothing is known.
    alpha
        The price of leaving λ₀.
    prob_floor
        What is added to each probability, before they are divided by their sum.
    normalize
        "softplus" for f = K h / Σh with h = sp(x), "l1" for f = K x / Σ\|x\|; by default f = x.

    Examples
    --------
    >>> logits = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    >>> lr.aldr_kl_step(logits, np.ones(2))
    array([0.73860402, 1.        ])
    >>> p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    >>> 1 - (p * np.log(3 * p)).sum(axis=1) / (2 * np.log(3))  # the literal formula
    array([0.73860402, 1.        ])
    """
    h, scale = normalized(logits, normalize)
    row = softmax_row(h * scale, lambdas[:, None])
    pi = (row.p + prob_floor) / (1 + logits.shape[1] * prob_floor)
    log_pi = row.log_p if prob_floor == 0 else np.log(pi)
    return lambda0 * (1 - _divergence(pi, log_pi) / (alpha * _log_classes(logits)))


@aldr_kl_step.obvious
def _(logits, lambdas):
    p = np.exp(logits / lambdas[:, None])
    p = p / p.sum(axis=1, keepdims=True)
    return 1 - (p * np.log(logits.shape[1] * p)).sum(axis=1) / (2 * np.log(logits.shape[1]))


for _function in (aldr_kl, aldr_kl_step):

    @_function.requires("logits", 'a nonzero entry in every row with normalize="l1"')
    def _(logits, normalize):
        return has_scale(logits, normalize)


def best_temperature(q, lambda0, alpha):
    """The maximiser λ, as a constant: the fixed point of λ ↦ λ₀ (1 - KL(π_λ) / (α log K)).

    The map increases, so from both ends of [λ₀ (1 - 1/α), λ₀] it leads to the last and the first fixed point; the
    better one counts. Newton's method makes them exact.
    """
    q, lambda0, alpha = held_constant(q), held_constant(lambda0), held_constant(alpha)
    if is_exact(q):
        lam = like(best_temperature(floats(q), float(lambda0), float(alpha)), q)
        step = lam
        for _ in range(20):
            step, last = _newton_step(q, lam, lambda0, alpha), step
            lam = midpoint(lam - step)
            if not (abs(floats(step)) < abs(floats(last))).any():
                break
        return widened(lam, 2 * step)
    low, high = (like(end, q) for end in (lambda0 * (1 - 1 / alpha), lambda0))
    found = []
    for end in (low, high):
        lam = np.full(len(q), end)
        for _ in range(50):
            lam, last = _image(q, lam, lambda0, alpha)[0], lam
            if (abs(lam - last) <= 1e-3 * lam).all():
                break
        for _ in range(6):
            lam = np.minimum(np.maximum(lam - _newton_step(q, lam, lambda0, alpha), low), high)
        found.append(lam)
    first, last = (_at_temperature(q, lam, lambda0, alpha) for lam in found)
    return where(first > last, *found)


def _at_temperature(q, lam, lambda0, alpha):
    """What :func:`aldr_kl` maximises."""
    return soft_maximum(q, lam[:, None]) - alpha * _log_classes(q) / (2 * lambda0) * (lam - lambda0) ** 2


def _image(q, lam, lambda0, alpha):
    """λ₀ (1 - KL / (α log K)) and its derivative by λ."""
    row = softmax_row(q, lam[:, None])
    price = alpha * _log_classes(q)
    variance = total(q * row.slope_of_mean(q))
    return lambda0 * (1 - _divergence(row.p, row.log_p) / price), lambda0 * variance / (price * lam**3)


def _newton_step(q, lam, lambda0, alpha):
    image, slope = _image(q, lam, lambda0, alpha)
    return (lam - image) / (1 - slope)


def _divergence(p, log_p):
    """KL(p ‖ uniform)."""
    return np.log(like(p.shape[1], p)) + total(times(p, log_p))


def _log_classes(x):
    """log K, but for a single class log 2: its KL is 0, and 0 / log 1 is nothing."""
    return np.log(like(max(x.shape[1], 2), x))
