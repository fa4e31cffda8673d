"""HL-Gauss: regression as classification, with a Gaussian histogram around the value as target."""

from functools import cache

import numpy as np

from lossref.core import Count, Paper, Positive, Real, floats, is_exact, like, loss, total, where
from lossref.primitives import softmax_row
from lossref.primitives.gaussian import LONGDOUBLE_BITS, erf, erfcx

PAPER = Paper(
    "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL", 2024, "arXiv:2403.03950"
)


@loss(paper=PAPER, returns=lambda values, num_bins: (len(values), num_bins), reduces=False)
def hl_gauss_targets(
    values: Real("N"),
    *,
    v_min: Real = -10.0,
    v_max: Real = 10.0,
    num_bins: Count = 51,
    sigma_ratio: Positive = 0.75,
):
    r"""The histogram of a normal distribution around each value, cut off at the ends of the range.

    .. math::
        t_i = \frac{\Phi\big(\frac{e_{i+1} - v}{\sigma}\big) - \Phi\big(\frac{e_i - v}{\sigma}\big)}
                   {\Phi\big(\frac{e_C - v}{\sigma}\big) - \Phi\big(\frac{e_0 - v}{\sigma}\big)}, \qquad
        e_i = v_{\min} + i \varsigma,\quad \varsigma = \frac{v_{\max} - v_{\min}}{C},\quad \sigma = r \varsigma

    With the recommended r = 3/4 a value is spread over about six bins. Outside the range the mass piles up in the end
    bin, where the plain difference of error functions is soon 0/0. This is the paper's listing; its text has bins
    around atoms and does not divide.

    Parameters
    ----------
    values
        The values v.
    v_min
        The lower end of the first bin.
    v_max
        The upper end of the last bin.
    num_bins
        The number C of bins.
    sigma_ratio
        The ratio r of the standard deviation and the width of a bin.

    Examples
    --------
    >>> lr.hl_gauss_targets(np.array([0.2, 40.0]), v_min=-1.0, v_max=1.0, num_bins=4)
    array([[3.08149781e-002, 2.70563687e-001, 4.99807796e-001, 1.98813539e-001],
           [6.96229105e-185, 1.00117991e-122, 2.43366516e-061, 1.00000000e+000]])
    >>> from scipy.special import ndtr
    >>> cdf = ndtr((np.linspace(-1, 1, 5) - 0.2) / (0.75 * 0.5))
    >>> np.diff(cdf) / (cdf[-1] - cdf[0])  # the literal formula
    array([0.03081498, 0.27056369, 0.4998078 , 0.19881354])
    """
    return _histogram(values, num_bins, v_min, v_max, sigma_ratio)


@hl_gauss_targets.obvious
def _(values):
    from scipy.special import erf

    cdf = erf((np.linspace(-10, 10, 52) - values[:, None]) / (np.sqrt(2) * 0.75 * 20 / 51))
    return np.diff(cdf, axis=1) / (cdf[:, -1:] - cdf[:, :1])


@loss(of="logits", paper=PAPER, symmetries={"shift": (), "row permutation": ()})
def hl_gauss(
    logits: Real("N C", masked=True),
    values: Real("N"),
    *,
    v_min: Real = -10.0,
    v_max: Real = 10.0,
    sigma_ratio: Positive = 0.75,
):
    r"""Cross-entropy against the Gaussian histogram of :func:`hl_gauss_targets`, with as many bins as logits.

    .. math:: \ell = -\sum_i t_i \log p_i, \qquad t_i \propto \int_{e_i}^{e_{i+1}} e^{-(x-v)^2 / 2\sigma^2} dx

    Squared error takes a target for exact and has a gradient without bound; here the gradient is prediction minus
    target. The value is read off as :math:`\sum_i p_i z_i` with the centres z of the bins.

    Parameters
    ----------
    logits
        Scores of the bins.
    values
        The values to be learnt.
    v_min
        The lower end of the first bin.
    v_max
        The upper end of the last bin.
    sigma_ratio
        The ratio of the standard deviation and the width of a bin.

    Examples
    --------
    >>> logits, values = np.array([[0.0, 1.0, 2.0, 0.0]]), np.array([0.2])
    >>> lr.hl_gauss(logits, values, v_min=-1.0, v_max=1.0)
    np.float64(1.2236324...)
    >>> p = np.exp(logits) / np.exp(logits).sum()
    >>> -(lr.hl_gauss_targets(values, v_min=-1.0, v_max=1.0, num_bins=4) * np.log(p)).sum()  # the literal formula
    np.float64(1.2236324...)
    """
    t = _histogram(values, logits.shape[1], v_min, v_max, sigma_ratio)
    return total(where(logits == -np.inf, np.inf, -t * softmax_row(logits).log_p))  # t > 0, even where it underflows


@hl_gauss.gradient
def _(logits, values, v_min, v_max, sigma_ratio):
    return softmax_row(logits).p_minus_masses(_histogram(values, logits.shape[1], v_min, v_max, sigma_ratio))


@hl_gauss.kinks
def _(logits):
    return (logits == -np.inf).any(axis=1, keepdims=True)  # the loss is infinite


@hl_gauss.obvious
def _(logits, values):
    from scipy.special import erf

    count = logits.shape[1]
    cdf = erf((np.linspace(-10, 10, count + 1) - values[:, None]) / (np.sqrt(2) * 0.75 * 20 / count))
    t = np.diff(cdf, axis=1) / (cdf[:, -1:] - cdf[:, :1])
    return -(t * np.log(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))).sum(axis=1)


for _function in (hl_gauss_targets, hl_gauss):

    @_function.requires("v_max", "a number above v_min")
    def _(v_min, v_max):
        return v_max > v_min


def _histogram(values, num_bins, v_min, v_max, sigma_ratio):
    """t, from the tails beyond each edge as seen from the value, in units of the tail beyond the end of the range.

    For a value outside, everything lies in one tail of its distribution. With c the nearest end (or the value, if it is
    inside), ρ = |v - c| / σ and d = |e - c| / σ, the mass beyond an edge e over that beyond c is
    e^(-d(d/2 + ρ)) erfcx((ρ + d)/√2) / erfcx(ρ/√2): what would underflow has cancelled.
    """
    width = v_max - v_min
    values, zero = values[:, None], like(0, values)
    high = floats(values) > float(v_min + width / 2)  # edges are counted from the end that is nearer
    end = where(high, zero + v_max, zero + v_min)
    inside = where(values < v_min, zero + v_min, where(values > v_max, zero + v_max, values))
    outside = num_bins * abs(values - inside) / (sigma_ratio * width)
    # C (e_i - c) without a division, so that the side on which an edge lies is never in doubt.
    steps = like(np.arange(num_bins + 1), zero) - where(high, zero + num_bins, zero)
    offset = width * steps - num_bins * (inside - end)
    d, root = abs(offset) / (sigma_ratio * width), np.sqrt(like(2, values))
    tail = np.exp(-d * (d / 2 + outside)) * (erfcx((outside + d) / root) / erfcx(outside / root))
    around = (offset[:, :-1] < 0) & (offset[:, 1:] > 0)
    inner = erf(where(around, d[:, :-1], 0) / root) + erf(where(around, d[:, 1:], 0) / root)
    mass = where(around, inner, abs(tail[:, 1:] - tail[:, :-1]))
    if not is_exact(mass) and sigma_ratio > 1:
        steep = (np.maximum(d[:, 1:], d[:, :-1]) + outside) / sigma_ratio > 1
        centre = (offset[:, 1:] + offset[:, :-1]) / (2 * sigma_ratio * width)
        mass = where(steep, mass, _by_quadrature(centre, outside, sigma_ratio))
    return mass / total(mass, keepdims=True)


def _by_quadrature(centre, outside, sigma_ratio):
    """The masses of bins so narrow that differences of tails cancel, and on which ten nodes leave rounding only."""
    nodes, weights = (x.astype(centre.dtype) for x in _gauss_legendre(10))
    x, rho = abs(centre[..., None] + nodes / (2 * sigma_ratio)), outside[..., None]
    unit = np.sqrt(2 / np.arccos(like(-1, centre))) / erfcx(outside / np.sqrt(like(2, centre)))
    return unit / (2 * sigma_ratio) * total(weights * np.exp(-x * (x / 2 + rho)))


@cache
def _gauss_legendre(count):
    """Nodes and weights in longdouble: NumPy's leggauss has float64's digits only."""
    from flint import arb

    from lossref.exact.ball import longdoubles, precision

    with precision(LONGDOUBLE_BITS):
        return longdoubles(np.array([arb.legendre_p_root(count, k, weight=True) for k in range(count)], object).T)
