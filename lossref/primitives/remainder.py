"""What is left of the exponential above its tangent: the term of every divergence that is 0 only where two agree."""

import numpy as np

from lossref.core import floats, is_exact, where


def exp_above_tangent(u):
    """e^u - 1 - u ≥ 0, by its series near 0, where all but u²/2 cancels."""
    above = np.expm1(u) - u
    if is_exact(u):  # balls grow wide where digits cancel, and precision rises until they are narrow
        return above
    near = abs(floats(u)) < 0.5
    small, series = where(near, u, 0), 1
    for k in range(17, 2, -1):
        series = 1 + small * series / k
    return where(near, small * small * series / 2, above)
