"""The gate of a sparse mixture of experts: the softmax of the k best scores, and 0 for all others."""

import ml_dtypes
import numpy as np

from lossref.core import Paper, Real, floats, loss, total, where
from lossref.core.declarations import Whole
from lossref.primitives.softmax import softmax_row


def order_of(scores):
    """The places of each row's scores from the largest to the smallest; of equal scores the lower index comes first."""
    return np.argsort(-floats(scores), axis=-1, kind="stable")


def among_largest(scores, k):
    """True at the k largest scores of each row."""
    chosen = np.zeros(scores.shape, bool)
    np.put_along_axis(chosen, order_of(scores)[:, :k], True, axis=-1)
    return chosen


def sum_from_largest(scores, bias):
    """scores + bias, counted from the row's largest sum, each difference as if the sums had not been rounded.

    What an addition has rounded away is known exactly (Knuth), and so an offset of 1e8 in the scores or in the bias
    changes nothing.
    """
    rounded = scores + bias
    bias_part = rounded - scores
    lost = (scores - (rounded - bias_part)) + (bias - bias_part)
    lost = where(floats(scores) == -np.inf, 0.0, lost)  # a mask loses nothing, and -inf - (-inf) is nothing
    largest = np.argmax(floats(rounded), axis=-1)[:, None]
    from_largest = rounded - np.take_along_axis(rounded, largest, axis=-1)
    return from_largest + (lost - np.take_along_axis(lost, largest, axis=-1))


def gate(scores, k, bias):
    """The softmax row of the chosen scores, with a mask at all others."""
    chosen = where(among_largest(scores, k), scores, -np.inf)
    return softmax_row(chosen if bias is None else sum_from_largest(chosen, bias))


@loss(
    of=("scores", "bias"),
    returns="N E",
    reduces=False,
    paper=Paper("Statistical Perspective of Top-K Sparse Softmax Gating Mixture of Experts", 2024, "arXiv:2309.13850"),
    symmetries={"shift": (), "row permutation": ()},
)
def top_k_softmax(scores: Real("N E", masked=True), *, k: Whole(low=1, up_to="E"), bias: Real("E") = None):
    r"""The gate of a mixture of experts: the softmax of the k largest scores of each row, and 0 elsewhere.

    .. math::
        g_i = \frac{e^{v_i + b_i}}{\sum_{j \in T} e^{v_j + b_j}} \text{ for } i \in T, \quad 0 \text{ otherwise},
        \qquad T = \text{the } k \text{ largest } v_i

    The bias takes part in the gates, not in the choice. Of equal scores the one with the lower index is chosen. Where
    the k-th and the next score are equal the gate jumps; elsewhere the choice stays as it is near by, and the gradient
    says nothing of which expert should have been chosen. With k = 1 the gate is 1 and its gradient exactly 0: such a
    router learns nothing from its gate.

    Without a bias, the softmax of all scores, cut to the k largest and divided by their sum, is the same function.

    Parameters
    ----------
    scores
        What each expert scores for each row; -inf marks experts that must not be chosen.
    k
        How many experts are chosen.
    bias
        One number per expert, added to the scores of the chosen; none by default.

    Examples
    --------
    >>> scores = np.array([[1.0, 3.0, 2.0, 3.0]])
    >>> lr.top_k_softmax(scores, k=2)
    array([[0. , 0.5, 0. , 0.5]])
    >>> lr.top_k_softmax(scores, k=3)
    array([[0.       , 0.4223188, 0.1553624, 0.4223188]])
    >>> e = np.exp(scores) * (scores >= 2.0)
    >>> e / e.sum()  # the literal formula, for the three largest
    array([[0.       , 0.4223188, 0.1553624, 0.4223188]])
    """
    return gate(scores, k, bias).p


@top_k_softmax.gradient
def _(scores, k, bias, cotangent):
    slopes = gate(scores, k, bias).slope_of_mean(cotangent)
    return slopes, total(slopes, axis=0)


@top_k_softmax.kinks
def _(scores, k):
    if k == scores.shape[1]:
        return np.bool_(False), np.bool_(False)
    in_order = np.take_along_axis(scores, order_of(scores), axis=-1)
    last, next_one = in_order[:, k - 1 : k], in_order[:, k : k + 1]
    tied = (last == next_one) & (next_one > -np.inf)  # two masks have the gate 0 both
    return tied, tied.any()


@top_k_softmax.hard
def _(rng, dtype):
    scores = np.ldexp(rng.integers(-64, 64, (4, 6)) + rng.uniform(size=6).argsort() / 8, -4)
    bias = np.ldexp(rng.integers(-64, 64, 6), -4)
    yield "one expert", {"scores": scores, "k": 1}
    yield "every expert, and a bias", {"scores": scores, "k": 6, "bias": bias}
    yield "a bias", {"scores": scores, "k": 3, "bias": bias}
    yield "a bias that outweighs the scores", {"scores": scores, "k": 3, "bias": 32 * bias}
    yield "ties at the edge of the choice", {"scores": np.tile([1.0, 2.0, 1.0, 3.0, 1.0, 1.0], (2, 1)), "k": 3}
    masked = np.where(np.arange(6) < 4, -np.inf, scores)
    yield "fewer experts than are to be chosen", {"scores": masked, "k": 4, "bias": bias}
    offset = 0.25 / float(ml_dtypes.finfo(dtype).eps)
    whole, whole_bias = np.rint(scores), np.rint(bias)
    yield "offsets of scores and bias that hide both", {"scores": whole + offset, "k": 4, "bias": whole_bias + offset}
    yield "offsets that cancel", {"scores": whole + offset, "k": 4, "bias": whole_bias - offset}


@top_k_softmax.obvious
def _(scores, k):
    chosen = np.argsort(-scores, axis=-1, kind="stable")[:, : int(k)]
    gates = np.zeros_like(scores)
    e = np.exp(np.take_along_axis(scores, chosen, axis=-1))
    np.put_along_axis(gates, chosen, e / e.sum(axis=-1, keepdims=True), axis=-1)
    return gates
