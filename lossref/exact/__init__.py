"""The exact layer: the true value and the true derivative of a loss, with a proven error bound.

The same NumPy lines that compute a loss in floating point run here on balls (enclosures of real numbers), and a
reverse sweep over what they did encloses every derivative. Precision rises until the enclosures are far narrower than
any float.

>>> import lossref as lr, numpy as np
>>> logits, labels = np.array([[40.0, 0.0]]), np.array([0])
>>> lr.exact.value(lr.cross_entropy, logits, labels)
4.248354255291588986...e-18 ± ...
>>> lr.exact.grad(lr.cross_entropy, logits, labels)[0, 0]
-4.2483542552915889...e-18 ± ...
"""

from .ball import Ball, UndecidedError
from .enclosure import Enclosure
from .evaluation import grad, value
from .yardstick import Yardstick, yardstick

__all__ = ["Ball", "Enclosure", "UndecidedError", "Yardstick", "grad", "value", "yardstick"]
