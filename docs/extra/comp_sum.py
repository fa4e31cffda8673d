r"""The bounds, checked on random distributions

How much more often than necessary does a classifier err whose loss is almost as small as possible? Each point
is one random distribution :math:`\pi` of the label over four classes, with random scores. To the right: how
much more often they err than the best guess, :math:`\beta = \max\pi - \pi_{\arg\max x}`. Upwards: how much
larger their expected loss is than the smallest possible one, ``comp_sum_best_conditional``. The black curve is
the bound of the paper, ``comp_sum_transform``: no point lies below it, and for :math:`\tau \le 1` points come
as near as you like. The dotted curve is the simpler ``comp_sum_bound``, read from the left axis to the lower
one. For :math:`\tau > 1` the bounds flatten with the number of classes: a small excess loss says less.
"""

import numpy as np

import lossref as lr

CLASSES, POINTS = 4, 4000


def random_cases(rng):
    """Distributions with two strong classes, and scores: random ones, and noisy logarithms of the probabilities."""
    probs = rng.dirichlet(np.full(CLASSES, 0.3), POINTS)
    scores = rng.normal(size=(POINTS, CLASSES)) * rng.choice([0.01, 1, 4], (POINTS, 1))
    near = rng.random(POINTS) < 0.7
    guess = np.log(np.maximum(probs, 1e-12)) * rng.uniform(0, 1.5, (POINTS, 1))
    top = np.sort(guess, axis=1)[:, -2:].mean(axis=1, keepdims=True)  # the two best tie, almost
    guess = np.where(guess >= np.sort(guess, axis=1)[:, -2:-1], top, guess)
    return probs, np.where(near[:, None], guess + 1e-3 * scores, scores)


def expected_loss(scores, probs, tau):
    rows, labels = np.repeat(scores, CLASSES, axis=0), np.tile(np.arange(CLASSES), len(scores))
    terms = lr.comp_sum(rows, labels, tau=tau, reduction="none").reshape(probs.shape)
    return (probs * terms).sum(axis=1)


def draw(figure):
    probs, scores = random_cases(np.random.default_rng(0))
    error = probs.max(axis=1) - probs[np.arange(POINTS), scores.argmax(axis=1)]
    beta = np.linspace(0, 1, 101)
    for axes, tau in zip(figure.subplots(1, 4), (0.0, 1.0, 1.5, 2.0), strict=True):
        options = {"tau": tau, "num_classes": CLASSES}
        excess = expected_loss(scores, probs, tau) - lr.comp_sum_best_conditional(probs, tau=tau)
        below = excess < lr.comp_sum_transform(error, **options) - 1e-9
        if below.any():
            raise AssertionError(f"comp_sum, tau={tau}: the bound fails for {probs[below][0]}")
        bound = lr.comp_sum_transform(beta, **options)
        gap = np.linspace(0, 2 * bound.max(), 201)
        axes.plot(error, excess, ".", color="#1f5fa8", markersize=1.5, alpha=0.5)
        axes.plot(beta, bound, color="black", linewidth=1.5)
        axes.plot(lr.comp_sum_bound(gap, **options), gap, color="black", linewidth=1, linestyle=":")
        axes.set(xlim=(0, 1), ylim=(0, 2 * bound.max()), title=f"τ = {tau:g}", xlabel="excess error")
    figure.axes[0].set_ylabel("excess loss")
