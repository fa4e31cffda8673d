"""Attention: each query gets the mean of the values under the softmax of its products with the keys."""

import numpy as np

from lossref.core import Count, Flag, Mask, Paper, Real, like, loss, total, where
from lossref.core.declarations import blind_band
from lossref.primitives import softmax_row


def product(a, b):
    """The matrix product in the dtype of its factors (NumPy multiplies bfloat16 matrices in float32)."""
    return like(a @ b, a)


def factor(queries, scale):
    """What the products of queries and keys are multiplied by: 1/√d unless it was given."""
    return 1 / np.sqrt(like(queries.shape[1], queries)) if scale is None else scale


def attendable(mask, causal, n, m):
    """True where a query may attend to a key, or None where every query may attend to every key."""
    if not causal:
        return mask
    past = np.arange(m) <= np.arange(n)[:, None]
    return past if mask is None else mask & past


def attention_logits(queries, keys, bias, mask, scale, causal):
    """The table whose softmax by rows weighs the values; -inf where a query may not attend."""
    logits = product(queries, keys.T) * factor(queries, scale)
    if bias is not None:
        logits = logits + bias
    allowed = attendable(mask, causal, *logits.shape)
    return logits if allowed is None else where(allowed, logits, -np.inf)


@loss(
    of=("queries", "keys", "values", "bias"),
    returns="n e",
    reduces=False,
    paper=Paper("Your Transformer May Not be as Powerful as You Expect", 2022, "arXiv:2205.13401"),
)
def softmax_attention(
    queries: Real("n d"),
    keys: Real("m d"),
    values: Real("m e"),
    bias: Real("n m", masked=True) = None,
    mask: Mask("n m") = None,
    *,
    scale: Real = None,
    causal: Flag = False,
    block_size: Count = None,
):
    r"""Softmax attention of one head over one sequence.

    .. math:: O = A V, \qquad A = \mathrm{softmax}(s\,Q K^\top + B) \text{ by rows}

    Each row of A is positive and sums to 1. So where all rows of V are equal the output is that row, whatever the bias
    B is: no relative position inside the softmax can tell the places of a constant sequence apart. A query that may
    attend to nothing is refused.

    It is the same monoid as log-sum-exp, with a weighted sum of values riding along: the kernels walk the keys block by
    block, and the table A never exists on them.

    Parameters
    ----------
    queries
        One vector per query.
    keys
        One vector per key.
    values
        One vector per key, of any length.
    bias
        What is added to the scaled products, such as an encoding of relative positions; -inf forbids a pair.
    mask
        True where a query may attend to a key, everywhere by default.
    scale
        The factor s of the products; by default one over the square root of the length of a query.
    causal
        Whether a query may attend only to the keys up to its own place.
    block_size
        How many keys the kernels take at a time; it changes rounding only, and nothing on the NumPy path.

    Examples
    --------
    >>> queries, keys = np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> lr.softmax_attention(queries, keys, values)
    array([[0.57597..., 0.14002...]])
    >>> e = np.exp(queries @ keys.T / np.sqrt(2))
    >>> e / e.sum(axis=1, keepdims=True) @ values  # the literal formula
    array([[0.57597..., 0.14002...]])
    """
    logits = attention_logits(queries, keys, bias, mask, scale, causal)
    return product(softmax_row(logits).p, values)


@softmax_attention.gradient
def _(queries, keys, values, bias, mask, scale, causal, cotangent):
    row = softmax_row(attention_logits(queries, keys, bias, mask, scale, causal))
    slopes = row.slope_of_mean(product(cotangent, values.T))
    # A row of slopes sums to 0. The pivot's comes from the others: then an offset of all keys changes nothing.
    others = where(row.is_pivot, 0.0, slopes)
    slopes = where(row.is_pivot, -total(others, keepdims=True), others)
    s = factor(queries, scale)
    return product(slopes, keys) * s, product(slopes.T, queries) * s, product(row.p.T, cotangent), slopes


@softmax_attention.requires("queries", "at least one feature")
def _(queries):
    return queries.shape[1] > 0


@softmax_attention.requires("keys", "at least one key")
def _(keys):
    return keys.shape[0] > 0


def _attends(bias, mask, causal, n, m):
    """True for queries that may attend to something."""
    allowed = attendable(mask, causal, n, m)
    allowed = np.ones((n, m), bool) if allowed is None else allowed
    return (allowed if bias is None else allowed & (bias > -np.inf)).any(axis=1)


@softmax_attention.requires("mask", "True somewhere in every row, where bias and causal allow it", scans=True)
def _(queries, keys, bias, mask, causal):
    return mask is None or _attends(bias, mask, causal, len(queries), len(keys))


@softmax_attention.requires("bias", "a finite entry in every row, where causal allows it", scans=True)
def _(queries, keys, bias, mask, causal):
    return bias is None or mask is not None or _attends(bias, None, causal, len(queries), len(keys))


@softmax_attention.hard
def _(rng, dtype):
    def vectors(*shape):
        return np.ldexp(rng.integers(-128, 128, shape), -6)

    given = {"queries": vectors(3, 2), "keys": vectors(4, 2), "values": vectors(4, 3)}
    bias = vectors(3, 4)
    yield "causal, with fewer queries than keys", {**given, "causal": True}
    yield "causal, with more queries than keys", {**given, "queries": vectors(6, 2), "causal": True}
    yield "a bias that masks", {**given, "bias": np.where(np.eye(3, 4, dtype=bool), -np.inf, bias)}
    yield "all but one key masked", {**given, "mask": np.arange(4) == rng.integers(0, 4, (3, 1))}
    for lead in blind_band(dtype):
        ahead = bias + np.ceil(lead) * (np.arange(4) == 2)
        yield f"one key leads every row by {np.ceil(lead):g}", {**given, "bias": ahead}
        yield f"one key leads every row by {np.ceil(lead):g}, causal", {**given, "bias": ahead, "causal": True}
    yield "a negative scale", {**given, "scale": -3.0, "mask": np.tri(3, 4, 1, dtype=bool)}


@softmax_attention.obvious
def _(queries, keys, values):
    e = np.exp(queries @ keys.T / np.sqrt(queries.shape[1]))
    return e / e.sum(axis=1, keepdims=True) @ values
