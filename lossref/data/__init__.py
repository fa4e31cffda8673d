"""Real data, small enough to ship: what a classifier makes of 64 handwritten digits.

The file is made by ``python -m lossref.data.make_digits``.
"""

from importlib.resources import files
from typing import NamedTuple

import numpy as np

__all__ = ["Digits", "digits"]


class Digits(NamedTuple):
    """64 images of scikit-learn's digits that the classifier was not trained on, about as many of each class.

    Fields
    ------
    images
        uint8 (64, 8, 8): the images, from 0 (paper) to 16 (ink).
    labels
        int64 (64,): the right classes, 0 to 9.
    logits
        float64 (64, 10): of a softmax classifier (one linear layer on the pixels) trained until it converged.
        58 images are right; half of all lead by more than 62, the surest by 164; the worst is wrong by 74.
    early_logits
        float64 (64, 10): of the same classifier after three steps of its training: leads from -3.5 to 4.8.
    embeddings
        float64 (64, 64): the images as vectors of length 1. ``embeddings @ shifted_embeddings.T`` are
        similarities, with the positives on the diagonal.
    shifted_embeddings
        float64 (64, 64): a second view, each image moved by one pixel, again of length 1.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    early_logits: np.ndarray
    embeddings: np.ndarray
    shifted_embeddings: np.ndarray


def digits() -> Digits:
    """The shipped arrays, freshly read: change them as you like."""
    path = files(__name__) / "digits_logits.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Digits(**{name: arrays[name] for name in Digits._fields})
