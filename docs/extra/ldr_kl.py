r"""Consistency, checked on random distributions

A loss is consistent for every k if the scores that minimise its expectation put the classes in the order of
their probabilities: who trains on it finds, in the limit, the best guess, and the best two, and so on. Left:
the minimising scores for the probabilities 0.4, 0.3, 0.2 and 0.1, with a margin of 1. They are in order at
every temperature above 0. Towards 0, where the loss becomes the hinge of Crammer and Singer, they meet: without
a majority that hinge prefers equal scores, and is not consistent. Right: the smallest difference, divided by
the temperature, between the scores of two classes that follow one another, for 40 random distributions over
five classes whose probabilities differ by at least 0.01. It stays positive, whatever the temperature.
"""

import numpy as np
from scipy.optimize import minimize

import lossref as lr

MARGIN = 1.0
TEMPERATURES = np.geomspace(0.15, 20, 15)


def best_scores(probs, temperature):
    """The scores divided by the temperature, of mean 0, that minimise the expected loss for each row of probs."""
    count, classes = probs.shape
    labels = np.tile(np.arange(classes), count)
    options = {"temperature": temperature, "margin": MARGIN, "reduction": "none"}

    def objective(flat):
        rows = temperature * np.repeat(flat.reshape(count, classes), classes, axis=0)
        terms, gradient = lr.ldr_kl.value_and_grad(rows, labels, cotangent=probs.ravel(), **options)
        gradient = gradient.reshape(count, classes, classes).sum(axis=1)
        return terms @ probs.ravel() / temperature, gradient.ravel()

    start = np.log(probs) - np.log(probs).mean(axis=1, keepdims=True)
    stop = {"maxiter": 5000, "maxfun": 20000, "ftol": 0, "gtol": 1e-11, "maxcor": 30}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=stop)
    return found.x.reshape(count, classes), np.abs(found.jac).max()


def draw(figure):
    left, right = figure.subplots(1, 2)
    rng = np.random.default_rng(0)
    random = np.sort(rng.dirichlet(np.ones(5), 200), axis=1)
    random = random[np.diff(random, axis=1, prepend=0).min(axis=1) > 0.01][:40]
    one = np.array([[0.4, 0.3, 0.2, 0.1]])
    scores, distances = [], []
    for temperature in TEMPERATURES:
        scores.append(best_scores(one, temperature)[0][0])
        found, residue = best_scores(random, temperature)
        distances.append(np.diff(found, axis=1).min(axis=1))
        if residue > 1e-6 or distances[-1].min() <= 0:
            raise AssertionError(f"ldr_kl, temperature={temperature}: scores out of order or not minimal")
    for k in range(4):
        left.plot(TEMPERATURES, np.array(scores)[:, k] * TEMPERATURES, label=f"{one[0, k]:g}")
    left.set(title="minimising scores", xlabel="temperature", xlim=(0, 3), ylim=(-2.2, 2.2))
    left.legend(title="probability", fontsize=7, title_fontsize=7, loc="lower left", ncols=2)
    right.plot(TEMPERATURES, distances, color="#1f5fa8", linewidth=0.7)
    right.set(title="smallest difference / temperature", xlabel="temperature", xscale="log", yscale="log")
