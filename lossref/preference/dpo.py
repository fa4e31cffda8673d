"""Direct preference optimisation: a classifier whose logit is a difference of log-ratios."""

import numpy as np

from lossref.core import Flag, Fraction, Paper, Positive, Real, loss, times
from lossref.primitives import sigmoid, softplus


@loss(
    of=("chosen_logps", "rejected_logps"),
    paper=Paper("Direct Preference Optimization", 2023, "arXiv:2305.18290", "7"),
    symmetries={"row permutation": ()},
)
def dpo(
    chosen_logps: Real("N", masked=True),
    rejected_logps: Real("N", masked=True),
    ref_chosen_logps: Real("N"),
    ref_rejected_logps: Real("N"),
    *,
    beta: Positive = 0.1,
    label_smoothing: Fraction = 0.0,
    robust: Flag = False,
):
    r"""DPO, and its conservative and robust variants for preferences that may be wrong.

    .. math::
        L = (1-\epsilon)\,\mathrm{sp}(-z) + \epsilon\,\mathrm{sp}(z), \qquad
        z = \beta\big[(\log\pi_w - \log\pi^0_w) - (\log\pi_l - \log\pi^0_l)\big]

    With ``robust=True`` the loss is the unbiased estimate under flipped labels,
    :math:`[(1-\epsilon)\,\mathrm{sp}(-z) - \epsilon\,\mathrm{sp}(z)] / (1-2\epsilon)`, which is unbounded below.
    A policy log-probability of -inf (an impossible response) is legal; both of a pair at -inf have no margin: nan.

    Parameters
    ----------
    chosen_logps
        Log-probability of the preferred response under the policy, summed over its tokens.
    rejected_logps
        The same for the other response.
    ref_chosen_logps
        The same for the preferred response under the reference model.
    ref_rejected_logps
        The same for the other response under the reference model.
    beta
        How strongly the policy is held to the reference.
    label_smoothing
        The probability ε that a preference is flipped.
    robust
        Whether to divide out the flips instead of averaging over them.

    Examples
    --------
    >>> w, l, w0, l0 = np.array([[-10.0], [-14.0], [-12.0], [-13.0]])
    >>> lr.dpo(w, l, w0, l0)
    np.float64(0.554355...)
    >>> -np.log(1 / (1 + np.exp(-0.1 * ((w - w0) - (l - l0))))).mean()  # the literal formula
    np.float64(0.554355...)
    """
    z = _margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    right, flipped = times(1 - label_smoothing, softplus(-z)), times(label_smoothing, softplus(z))
    return (right - flipped) / (1 - 2 * label_smoothing) if robust else right + flipped


@dpo.gradient
def _(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta, label_smoothing, robust):
    z = _margin(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    right, flipped = -(1 - label_smoothing) * sigmoid(-z), label_smoothing * sigmoid(z)
    slope = (right - flipped) / (1 - 2 * label_smoothing) if robust else right + flipped
    return beta * slope, -beta * slope


@dpo.obvious
def _(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps):
    z = 0.1 * ((chosen_logps - rejected_logps) - (ref_chosen_logps - ref_rejected_logps))
    return -np.log(1 / (1 + np.exp(-z)))


@dpo.requires("label_smoothing", "less than 1/2 with robust=True")
def _(label_smoothing, robust):
    return not robust or label_smoothing < 0.5


def _margin(chosen, rejected, ref_chosen, ref_rejected, beta):
    # Each policy minus its own reference first: the two are close, so that subtraction is exact or nearly so.
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
