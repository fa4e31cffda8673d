"""By how much each class beats the label: what the hinges and the label-distributionally robust losses share."""

import ml_dtypes
import numpy as np

from lossref.core import at, label_mask, total, where


def above_label(scores, labels):
    """x_k - x_y, before a margin is added: so a common offset changes nothing."""
    return scores - at(scores, labels)[:, None]


def gaps(above, labels, margin):
    """The gaps q_k = x_k - x_y + margin, and 0 at the label y itself."""
    return where(label_mask(labels, above.shape[1]), 0, above + margin)


def shifted_gaps(above, labels, margin):
    """q_k - margin: what a softmax of the gaps needs, with the other classes' differences as exact as they came."""
    return where(label_mask(labels, above.shape[1]), -margin, above)


def pull_of(push, labels):
    """Each class's push on its own score, and at the label minus the pushes of all others."""
    is_label = label_mask(labels, push.shape[1])
    others = where(is_label, 0, push)
    return where(is_label, -total(others, keepdims=True), others)


def large_scores(rng, dtype):
    """Scores and labels where x_k + 1 is rounded back to x_k, so the margin must come after the difference."""
    steps = np.array([[2, 0, 3, 2, 1, 2], [1, 4, 2, 4, 0, 3], [1, 1, 1, 1, 1, 1]])
    logits = 4.0 * (1 / float(ml_dtypes.finfo(dtype).eps) + steps)
    yield "scores so large that they swallow the margin", {"logits": logits, "labels": rng.integers(0, 6, 3)}
