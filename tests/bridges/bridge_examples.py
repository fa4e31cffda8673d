"""Random calls of every loss that a bridge offers."""

import inspect
import zlib

import numpy as np

import lossref as lr
from lossref.bridge import names

NAMES = names()


def example(name: str, dtype=np.float64) -> tuple[lr.Loss, dict, dict]:
    """A loss, the arrays of a random call of it (those with a gradient in this dtype), and the options."""
    loss = lr.losses()[name]
    drawn = loss.example(np.random.default_rng(zlib.crc32(name.encode())))
    arrays = {n: np.asarray(v) for n, v in drawn.items() if loss.arguments[n].is_array and v is not None}
    arrays |= {n: arrays[n].astype(dtype) for n in loss.of if n in arrays}
    return loss, arrays, {n: v for n, v in drawn.items() if not loss.arguments[n].is_array}


def holds_constants(loss: lr.Loss) -> bool:
    """Whether the gradient is by definition not that of the value: a term of the paper's is held constant."""
    return "held_constant" in inspect.getsource(loss.definition)


def as_tuple(gradients) -> tuple:
    return gradients if isinstance(gradients, tuple) else (gradients,)
