"""Arrays of log-sum-exp states: the part of a row that is here, merged with the parts that are elsewhere.

A state says of a set of numbers what their log-sum-exp needs, in two numbers (see `streaming_state`). States of
disjoint sets merge, in any order and any grouping. So a row may be divided among blocks of a file, threads, processes,
devices or moments in time; nothing but its states has to come together.

    m    the largest number (−∞ of an empty set)
    r    Σ e^{x − m} over the others

An array of states is a NumPy array with these two fields; it is indexed, reshaped, stored and sent like any other.
"""

import functools

import numpy as np

from lossref.kernels.compilation import kernel
from lossref.kernels.exponential import shifted_exponential
from lossref.kernels.lanes import memory_fence
from lossref.kernels.rows import (
    around_caches,
    computed_in,
    empty_result,
    finish,
    in_parallel,
    pieces,
    read_only,
    split_rows_or_elements,
    to_rows,
)
from lossref.kernels.streaming_state import IDENTITY, absorb, finite, state_of_long_row
from lossref.kernels.streaming_state import merge as merge_of_two
from lossref.kernels.writing import write

__all__ = ["STATE", "log_sum_exp", "log_sum_exp_state", "merge", "softmax_of_part"]

#: The dtype of a state.
STATE = np.dtype([("m", np.float64), ("r", np.float64)])


@kernel
def states_of_rows(rows, states):
    for i in range(rows.shape[0]):
        state = states[i]
        state.m, state.r = absorb(rows[i], -np.inf, 0.0, None)


@kernel
def merge_pairs(one, other, both):
    for i in range(both.size):
        a, b, c = one[i], other[i], both[i]
        c.m, c.r = merge_of_two(a.m, a.r, b.m, b.r)


@kernel
def softmax_of_rows(rows, states, weights, result, streamed):
    for i in range(rows.shape[0]):
        m, r = states[i].m, states[i].r
        write(shifted_exponential, rows[i], (finite(m), weights[i] / (1.0 + r)), result[i], streamed)
    memory_fence()


# Launch
# ======


def log_sum_exp_state(x, *, axis=-1):
    """The state of each row of numbers.

    Parameters
    ----------
    x : real array (...), -inf legal
        Numbers, or a part of them, in float16, bfloat16, float32 or float64.
    axis : integer, default -1
        The axis along which the numbers of a set lie. It may be empty.

    Returns
    -------
    array of states
        Its shape is that of `x` without the axis. ``state["m"]`` is the largest number, ``state["r"]`` the sum of
        e^(x - m) over the others. NaN or +inf among the numbers makes r NaN.

    Examples
    --------
    >>> x = np.array([[40.0, 0.0, 1.0], [-np.inf, 2.0, 2.0]])
    >>> state = lr.kernels.log_sum_exp_state(x)
    >>> state["m"], state["r"]
    (array([40.,  2.]), array([1.57965784e-17, 1.00000000e+00]))
    """
    x = np.asarray(x)
    computed_in("x", x)
    if x.ndim and -x.ndim <= axis < x.ndim and x.shape[axis] == 0:
        return np.full(np.delete(x.shape, axis), np.array(IDENTITY, STATE))
    rows, axis = to_rows("x", x, axis)
    states = np.empty(rows.shape[0], STATE)
    if split_rows_or_elements(rows):
        for i, row in enumerate(rows):
            states[i] = state_of_long_row(row)
    else:
        in_parallel(lambda a, b: states_of_rows(rows[a:b], states[a:b]), pieces(*rows.shape))
    return states.reshape(x.shape[:axis] + x.shape[axis + 1 :])


def merge(*states):
    """The states of the unions: of the first states of all arrays, of the second ones, and so on.

    Merging is associative and commutative, up to rounding, and the state of no number, ``merge()``, changes nothing.

    Parameters
    ----------
    *states : arrays of states
        As `log_sum_exp_state` gives them; shapes are broadcast.

    Returns
    -------
    array of states

    Examples
    --------
    A row of a million numbers of which no more than a tenth is ever looked at:

    >>> x = np.random.default_rng(0).normal(size=1_000_000)
    >>> parts = [lr.kernels.log_sum_exp_state(part) for part in np.split(x, 10)]
    >>> whole = lr.kernels.merge(*parts)
    >>> float(lr.kernels.log_sum_exp(whole)), float(lr.logsumexp(x))
    (14.31700297..., 14.31700297...)
    >>> lr.kernels.merge()
    array((-inf, 0.), dtype=[('m', '<f8'), ('r', '<f8')])
    """

    arrays = [np.array(IDENTITY, STATE), *(np.asarray(state, STATE) for state in states)]
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return folded(merge_pairs, [np.broadcast_to(array, shape).flatten() for array in arrays]).reshape(shape)


def folded(merge_two, arrays):
    """All arrays merged into one, two at a time; merge_two(one, other, both) is a kernel."""

    def merged(one, other):
        both = np.empty_like(one)
        merge_two(one, other, both)
        return both

    return functools.reduce(merged, arrays)


def log_sum_exp(state):
    """The logarithm of the sum of exponentials of all the numbers in each state, in float64.

    Parameters
    ----------
    state : array of states

    Returns
    -------
    array
        m + log1p(r), of the shape of `state`.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> lr.kernels.log_sum_exp(lr.kernels.log_sum_exp_state(x))
    array([3.40760596])
    """
    state = np.asarray(state, STATE)
    with np.errstate(invalid="ignore"):  # NaN is a legal answer
        return state["m"] + np.log1p(state["r"])


def softmax_of_part(x, state, *, axis=-1, cotangent=1.0):
    """The probabilities of numbers that are a part of a row, given the state of the whole row.

    Parameters
    ----------
    x : real array (...), -inf legal
        The part of each row that is here.
    state : array of states
        Of the whole rows; its shape is that of `x` without the axis.
    axis : integer, default -1
        The axis along which the numbers of a row lie.
    cotangent : real number or array, default 1.0
        A factor of each row: with it, this is the gradient of the log-sum-exp.

    Returns
    -------
    array
        e^(x - m) / (1 + r), of the shape and dtype of `x`; 0 where all of a row is masked.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> here, elsewhere = x[:2], x[2:]
    >>> state = lr.kernels.merge(*map(lr.kernels.log_sum_exp_state, (here, elsewhere)))
    >>> lr.kernels.softmax_of_part(here, state)
    array([0.09003057, 0.24472847])
    >>> lr.softmax(x)
    array([0.09003057, 0.24472847, 0.66524096])
    """
    x = np.asarray(x)
    if x.size == 0:
        return x.copy()
    rows, axis = to_rows("x", x, axis)
    state = np.ascontiguousarray(state, STATE).reshape(-1)
    weights = read_only(np.broadcast_to(cotangent, x.shape[:axis] + x.shape[axis + 1 :]).reshape(-1), np.float64)
    result = empty_result(rows, x, axis, None)
    streamed = around_caches(result)
    in_parallel(
        lambda a, b: softmax_of_rows(rows[a:b], state[a:b], weights[a:b], result[a:b], streamed), pieces(*rows.shape)
    )
    return finish(result, x, axis, None)
