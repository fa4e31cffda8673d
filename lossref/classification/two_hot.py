"""Two-hot: regression as classification, with a value shared between the two atoms next to it."""

import numpy as np

from lossref.core import Paper, Real, floats, like, loss, times, total, where
from lossref.core.declarations import Whole
from lossref.primitives import softmax_row

PAPER = Paper("Stop Regressing: Training Value Functions via Classification", 2024, "arXiv:2403.03950")


@loss(paper=PAPER, returns=lambda values, num_bins: (len(values), num_bins), reduces=False)
def two_hot_targets(values: Real("N"), *, v_min: Real = -10.0, v_max: Real = 10.0, num_bins: Whole(low=2) = 51):
    r"""The distribution on fixed atoms that has its mass next to a value and the value as its mean.

    .. math::
        t_i = \max\Big(0,\; 1 - \frac{|v - z_i|}{\Delta}\Big), \qquad
        z_i = v_{\min} + i \Delta,\quad \Delta = \frac{v_{\max} - v_{\min}}{C - 1}

    There are atoms at both ends of the range, unlike the bins of :func:`hl_gauss_targets`. Values outside count as the
    nearest end.

    Parameters
    ----------
    values
        The values v.
    v_min
        The first atom.
    v_max
        The last atom.
    num_bins
        The number C of atoms.

    Examples
    --------
    >>> lr.two_hot_targets(np.array([0.1, 5.0]), v_min=-1.0, v_max=1.0, num_bins=5)
    array([[0. , 0. , 0.8, 0.2, 0. ],
           [0. , 0. , 0. , 0. , 1. ]])
    >>> np.maximum(0, 1 - abs(0.1 - np.linspace(-1, 1, 5)) / 0.5)  # the literal formula
    array([0. , 0. , 0.8, 0.2, 0. ])
    """
    return shares(values, num_bins, v_min, v_max)


@two_hot_targets.obvious
def _(values):
    return np.maximum(0, 1 - abs(np.clip(values, -10, 10)[:, None] - np.linspace(-10, 10, 51)) / 0.4)


@loss(of="logits", paper=PAPER, symmetries={"shift": (), "row permutation": ()})
def two_hot(logits: Real("N C", masked=True), values: Real("N"), *, v_min: Real = -10.0, v_max: Real = 10.0):
    r"""Cross-entropy against the two-hot target of :func:`two_hot_targets`, with as many atoms as logits.

    .. math:: \ell = -\sum_i t_i \log p_i, \qquad t_i = \max\Big(0,\; 1 - \frac{|v - z_i|}{\Delta}\Big)

    The gradient is prediction minus target. The value is read off as :math:`\sum_i p_i z_i` with the atoms z, which
    is exact for the target.

    Parameters
    ----------
    logits
        Scores of the atoms.
    values
        The values to be learnt.
    v_min
        The first atom.
    v_max
        The last atom.

    Examples
    --------
    >>> logits, values = np.array([[0.0, 1.0, 2.0]]), np.array([0.25])
    >>> lr.two_hot(logits, values, v_min=-1.0, v_max=1.0)
    np.float64(1.15760596...)
    >>> p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    >>> -0.75 * np.log(p[1]) - 0.25 * np.log(p[2])  # the literal formula
    np.float64(1.15760596...)
    """
    return total(times(shares(values, logits.shape[1], v_min, v_max), -softmax_row(logits).log_p))


@two_hot.gradient
def _(logits, values, v_min, v_max):
    return softmax_row(logits).p_minus_masses(shares(values, logits.shape[1], v_min, v_max))


@two_hot.requires("logits", "at least two columns")
def _(logits):
    return logits.shape[1] > 1


@two_hot.obvious
def _(logits, values):
    atoms = np.linspace(-10, 10, logits.shape[1])
    t = np.maximum(0, 1 - abs(np.clip(values, -10, 10)[:, None] - atoms) / (atoms[1] - atoms[0]))
    return -(t * np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))).sum(axis=1)


for _function in (two_hot_targets, two_hot):

    @_function.requires("v_max", "a number above v_min")
    def _(v_min, v_max):
        return v_max > v_min


def shares(values, num_bins, v_min, v_max):
    """Of each value what each atom gets, along a new last axis."""
    width, values, zero = v_max - v_min, values[..., None], like(0, values)
    high = floats(values) > float(v_min + width / 2)  # atoms are counted from the end that is nearer
    end = where(high, zero + v_max, zero + v_min)
    inside = where(values < v_min, zero + v_min, where(values > v_max, zero + v_max, values))
    # (C - 1) (v - z_i), without a division, so that a value on an atom belongs to it alone.
    steps = like(np.arange(num_bins), zero) - where(high, zero + (num_bins - 1), zero)
    distance = abs((num_bins - 1) * (inside - end) - width * steps)
    return where(distance < width, (width - distance) / width, 0)
