"""By how much each class beats the label: what the hinges and the label-distributionally robust losses share."""

import ml_dtypes
import numpy as np

from lossref.core import at, floats, label_mask, total, where


def above(scores, classes):
    """x_k - x_c for a class c of each row, before a margin is added: so a common offset changes nothing."""
    return scores - at(scores, classes)[:, None]


def gaps(above_label, labels, margin):
    """The gaps q_k = x_k - x_y + margin, and 0 at the label y itself."""
    return where(label_mask(labels, above_label.shape[1]), 0, above_label + margin)


def leading_class(scores, labels, margin):
    """The class with the largest gap in each row, up to rounding."""
    x = floats(scores)
    return np.argmax(np.where(label_mask(labels, x.shape[1]), x - floats(margin), x), axis=1)


def gaps_below(above_class, classes, labels, margin):
    """q_k - q_c for a class c of each row. A softmax wants these from the leading class: q itself is a distance from
    the label, and where the label lies far below, its rounding would drown the differences among the leaders."""
    at_label, from_label = label_mask(labels, above_class.shape[1]), (classes == labels)[:, None]
    moved = where(at_label, above_class - margin, above_class + margin)
    return where(at_label == from_label, above_class, moved)


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


def distant_label(rng, dtype):
    """Two classes that lead closely, and a label so far below them that its distance is rounded coarsely."""
    logits = rng.normal(size=(4, 6)) + np.array([0.0, -2.0, -9.0, -9.0, -9.0, -3000.0])
    yield "a label far below close leaders", {"logits": logits, "labels": np.full(4, 5)}
