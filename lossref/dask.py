r"""Log-sum-exp, softmax and cross-entropy of Dask arrays, chunked along every axis: ``pip install lossref[dask]``.

The vocabulary may be sharded over workers, and a row may be larger than memory. Nothing is computed until Dask is
asked to. Each chunk is read twice: once for what it says of its rows (a state of the log-sum-exp and a few numbers
more, see `lossref.kernels.states`), and, once those have been merged, to write its share of the result. No chunk ever
meets another. A chunk is computed by the Numba kernels in its own dtype, so the numbers are those of
``lossref.cross_entropy.path("numba")`` up to rounding, and a confident row keeps its digits here too: in each chunk
the label's logit stays out of the sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import dask.array as da
except ImportError:
    raise ImportError("lossref.dask needs Dask's arrays: pip install 'lossref[dask]'") from None

import lossref
from lossref.core.declarations import Context
from lossref.core.errors import first_index, message
from lossref.core.loss import Call, Loss, _call_with, _check_reduction, wide
from lossref.kernels import cross_entropy_in_parts, softmax_in_parts
from lossref.kernels.rows import computed_in, read_only
from lossref.kernels.states import STATE, log_sum_exp, log_sum_exp_state, merge, softmax_of_part

__all__ = ["cross_entropy", "logsumexp", "softmax"]


class OnDask:
    """A loss for Dask arrays: call it for the value; ``.grad`` and ``.value_and_grad`` as everywhere in lossref."""

    def __init__(self, compute: Callable, loss: Loss):
        self.loss = loss
        self.compute = compute  # (call, cotangent or None) → value, or (value, gradient)
        functools.update_wrapper(self, compute)

    def __call__(self, *args, **kwargs):
        return self.compute(bind(self.loss, args, kwargs), None)[0]

    def value_and_grad(self, *args, cotangent=1.0, **kwargs):
        """The value and the gradient. Computed together (``dask.compute``), they share their first pass."""
        call = bind(self.loss, args, kwargs)
        return self.compute(call, cotangent)

    def grad(self, *args, cotangent=1.0, **kwargs):
        """The gradient, chunked as the argument is."""
        return self.value_and_grad(*args, cotangent=cotangent, **kwargs)[1]

    def __repr__(self):
        return f"<lossref.dask.{self.loss.name}{self.loss.__signature__}>"


def on_dask(loss: Loss):
    """Decorator: the function computes `loss` on Dask arrays."""
    return lambda compute: OnDask(compute, loss)


# ------------------------------------------------------------------------------------------------- arguments


def bind(loss: Loss, args, kwargs) -> Call:
    """The arguments as Dask arrays. Shapes, dtypes and options are checked now, what the arrays hold when they are
    computed."""
    try:
        bound = loss.__signature__.bind(*args, **kwargs)
    except TypeError as problem:
        raise TypeError(f"{loss.name}: {problem}") from None
    bound.apply_defaults()
    values = dict(bound.arguments)
    reduction, divisor = values.pop("reduction", "none"), values.pop("divisor", None)
    if loss.reducible:
        _check_reduction(reduction, divisor)
    context = Context(device=True)  # data are not looked at
    found = context.values
    for argument in loss.arguments.values():
        value = values[argument.name]
        if value is not None and argument.is_array:
            value = as_dask(argument, value)
            argument.declaration.check_form(argument.name, value, context)
            if argument.declaration.differentiable_kind:
                computed_in(argument.name, value)
        elif value is not None:
            value = argument.declaration.check_number(argument.name, value, context)
        found[argument.name] = value
    for name, expected, scans, condition in loss.constraints:
        if not scans and not _call_with(condition, found):
            got = found[name]
            raise ValueError(message(name, expected, f"shape {got.shape}" if isinstance(got, da.Array) else got))
    context.dtype = found[loss.of[0]].dtype
    return Call(dict(found), context, reduction, divisor, given=loss.of)


def as_dask(argument, value):
    """A Dask array, of floating-point numbers where the argument is real."""
    if not isinstance(value, da.Array):
        try:
            value = np.asarray(value)
        except Exception as reason:
            expected = f"a {argument.declaration.kind()} array {argument.declaration.shape_text}"
            raise TypeError(message(argument.name, expected, f"{type(value).__name__} ({reason})")) from None
        value = da.from_array(value)
    if any(np.isnan(size) for size in value.shape):
        raise ValueError(message(argument.name, "known chunk sizes (see compute_chunk_sizes)", f"shape {value.shape}"))
    if argument.declaration.differentiable_kind and value.dtype.kind in "biu":
        value = value.astype(np.float64)
    return value


def cotangent_as_dask(loss: Loss, call: Call, cotangent, shape, chunks):
    """The cotangent of a result of this shape and these chunks; of a number, if the terms are reduced."""
    if loss.reducible and call.reduction != "none":
        shape, chunks = (), ()
    if isinstance(cotangent, da.Array):
        if cotangent.dtype.kind not in "fiuV":
            raise TypeError(message("cotangent", "a real number or array", f"dtype {cotangent.dtype}"))
        if cotangent.shape not in ((), shape):
            raise ValueError(message("cotangent", f"a number or shape {shape}", f"shape {cotangent.shape}"))
        found = cotangent.astype(call.dtype)
    else:
        loss._check_cotangent(cotangent, shape, call)
        found = da.from_array(np.asarray(cotangent, call.dtype))
    return found.rechunk(chunks) if found.ndim else da.broadcast_to(found, shape, chunks=chunks)


# ---------------------------------------------------------------------------------------------------- chunks


def in_chunks(function: Callable, *arrays, dtype, chunks, **options):
    """function(*chunks, **options) for chunks that belong together; an axis of length 1 belongs to all."""
    meta = np.empty((0,) * len(chunks), dtype)
    return da.map_blocks(function, *arrays, **options, dtype=dtype, chunks=chunks, meta=meta)


def with_one_entry(chunks, axis):
    """The chunks of an array that has one entry along the axis for each chunk."""
    return tuple((1,) * len(sizes) if k == axis else sizes for k, sizes in enumerate(chunks))


def merged(summaries, axis: int, merge_many: Callable):
    """The merge of all summaries along an axis, a tree of tasks; merge_many(list of arrays) → array."""
    merge_chunk = functools.partial(_merge_chunk, merge_many=merge_many)
    return da.reduction(
        summaries,
        chunk=_as_it_is,
        combine=merge_chunk,
        aggregate=merge_chunk,
        axis=axis,
        keepdims=True,
        dtype=summaries.dtype,
        meta=np.empty((0,) * summaries.ndim, summaries.dtype),
    )


def _as_it_is(summaries, axis, keepdims):
    return summaries


def _merge_chunk(summaries, axis, keepdims, merge_many):
    (axis,) = axis
    parts = np.moveaxis(summaries, axis, 0)
    whole = merge_many([np.ascontiguousarray(part).reshape(-1) for part in parts])
    return np.expand_dims(whole.reshape(parts.shape[1:]), axis)


def merge_states(states):
    return merge(*states)


def refuse_bad_numbers(name, chunk, bad_rows, block_info):
    """An error that names the first NaN or +inf, if a row's summary shows that there is one."""
    if not np.any(bad_rows):
        return
    bad = np.isnan(chunk) | (chunk == np.inf)
    index = first_index(bad)
    offset = [start for start, _ in block_info[0]["array-location"]]
    raise ValueError(message(name, "finite numbers or -inf", chunk[index], np.add(index, offset)))


def refuse_masked_rows(name, masked, axis, block_info):
    """An error that names the first row of nothing but -inf; `masked` has one entry along the axis of the rows."""
    if masked.any():
        offset = [start for start, _ in block_info[0]["array-location"]]
        index = np.delete(np.add(first_index(masked), offset), axis)
        raise ValueError(message(name, "a finite entry in every row", "only -inf", index))


# ------------------------------------------------------------------------------------- log-sum-exp, softmax


def states_along(x, axis):
    """The state of every row, with one entry along the axis."""
    states = in_chunks(_states, x, axis=axis, dtype=STATE, chunks=with_one_entry(x.chunks, axis))
    return merged(states, axis, merge_states)


def _states(x, axis, block_info=None):
    states = log_sum_exp_state(x, axis=axis)
    refuse_bad_numbers("x", x, np.isnan(states["r"]), block_info)
    return np.expand_dims(states, axis)


@on_dask(lossref.logsumexp)
def logsumexp(call: Call, cotangent: Any):
    """The logarithm of the sum of exponentials along an axis, as `lossref.logsumexp`.

    Parameters
    ----------
    x : Dask array (...), -inf legal
        Numbers, in chunks of any size along every axis.
    axis : integer, default -1
        The axis that is summed over.
    keepdims : True or False, default False
        Whether the axis stays, with length 1.

    Returns
    -------
    Dask array

    Examples
    --------
    >>> x = da.from_array(np.array([[1.0, 2.0, 3.0], [1000.0, 1000.0, -np.inf]]), chunks=(1, 2))
    >>> lossref.dask.logsumexp(x).compute()
    array([   3.40760596, 1000.69314718])
    >>> lossref.dask.logsumexp.grad(x).compute()
    array([[0.09003057, 0.24472847, 0.66524096],
           [0.5       , 0.5       , 0.        ]])
    """
    x, axis, keepdims = (
        call.arguments["x"],
        call.arguments["axis"] % call.arguments["x"].ndim,
        call.arguments["keepdims"],
    )
    states = states_along(x, axis)
    value = in_chunks(_log_sum_exp, states, to=x.dtype, dtype=x.dtype, chunks=states.chunks)
    value = value if keepdims else da.squeeze(value, axis)
    if cotangent is None:
        return value, None
    weights = cotangent_as_dask(lossref.logsumexp, call, cotangent, value.shape, value.chunks)
    weights = weights if keepdims else da.expand_dims(weights, axis)
    gradient = in_chunks(_softmax, x, states, weights, axis=axis, dtype=x.dtype, chunks=x.chunks)
    return value, gradient


def _log_sum_exp(states, to):
    return log_sum_exp(states).astype(to)


def _softmax(x, states, cotangent=None, *, axis):
    weights = 1.0 if cotangent is None else np.squeeze(cotangent, axis)
    return softmax_of_part(x, np.squeeze(states, axis), axis=axis, cotangent=weights)


@on_dask(lossref.softmax)
def softmax(call: Call, cotangent: Any):
    """The softmax along an axis, as `lossref.softmax`.

    Parameters
    ----------
    x : Dask array (...), -inf legal
        Logits, in chunks of any size along every axis.
    axis : integer, default -1
        The axis that sums to 1.
    algorithm : "three_pass", "online" or "two_pass"
        Accepted so that calls need not change. The states are those of the online algorithm.

    Returns
    -------
    Dask array
        Chunked as `x`.

    Examples
    --------
    >>> x = da.from_array(np.array([1.0, 2.0, 3.0]), chunks=2)
    >>> lossref.dask.softmax(x).compute()
    array([0.09003057, 0.24472847, 0.66524096])
    """
    x, axis = call.arguments["x"], call.arguments["axis"] % call.arguments["x"].ndim
    states = states_along(x, axis)
    states = in_chunks(_unmasked_states, states, axis=axis, dtype=STATE, chunks=states.chunks)
    value = in_chunks(_softmax, x, states, axis=axis, dtype=x.dtype, chunks=x.chunks)
    if cotangent is None:
        return value, None
    weights = cotangent_as_dask(lossref.softmax, call, cotangent, x.shape, x.chunks)
    one_entry = with_one_entry(x.chunks, axis)
    summaries = in_chunks(_softmax_summaries, x, weights, axis=axis, dtype=softmax_in_parts.SUMMARY, chunks=one_entry)
    whole = merged(summaries, axis, softmax_in_parts.merged_summaries)
    whole = in_chunks(_unmasked_states, whole, axis=axis, dtype=whole.dtype, chunks=whole.chunks)
    return value, in_chunks(_softmax_slopes, x, weights, whole, axis=axis, dtype=x.dtype, chunks=x.chunks)


def _unmasked_states(states, axis, block_info=None):
    refuse_masked_rows("x", states["m"] == -np.inf, axis, block_info)
    return states


def _as_rows(array, axis, dtype):
    moved = np.moveaxis(array, axis, -1)
    return read_only(moved.reshape(-1, moved.shape[-1]), dtype), moved.shape


def _softmax_summaries(x, cotangent, axis, block_info=None):
    dtype = computed_in("x", x)
    rows, shape = _as_rows(x, axis, dtype)
    found = softmax_in_parts.summaries(rows, _as_rows(cotangent, axis, dtype)[0])
    refuse_bad_numbers("x", x, np.isnan(found["r"]), block_info)
    return np.expand_dims(found.reshape(shape[:-1]), axis)


def _softmax_slopes(x, cotangent, whole, axis):
    dtype = computed_in("x", x)
    rows, shape = _as_rows(x, axis, dtype)
    gradient = np.empty(rows.shape, dtype)
    whole = np.ascontiguousarray(np.squeeze(whole, axis)).reshape(-1)
    softmax_in_parts.write_slopes(rows, _as_rows(cotangent, axis, dtype)[0], whole, gradient)
    return np.moveaxis(gradient.reshape(shape), -1, axis).astype(x.dtype, copy=False)


# --------------------------------------------------------------------------------------------- cross-entropy


@on_dask(lossref.cross_entropy)
def cross_entropy(call: Call, cotangent: Any):
    """Cross-entropy of the softmax of logits against labels, as `lossref.cross_entropy`, with all its options.

    Parameters
    ----------
    logits : Dask array (N, C), -inf legal
        Unnormalised scores of the classes, in chunks of any size along both axes.
    labels : integer array (N,), of Dask or NumPy
        The right classes.
    weight, ignore_index, label_smoothing, softcap, z_loss_weight, reduction, divisor
        As for `lossref.cross_entropy`; `weight` may be a Dask array.

    Returns
    -------
    Dask array
        Without dimensions, or of shape (N,) with ``reduction="none"``. The gradient is chunked as the logits.

    Raises
    ------
    ValueError, TypeError
        Naming the argument. What only the data can tell (a label that is no class, NaN) is raised when they are
        computed.

    Examples
    --------
    >>> logits = da.from_array(np.array([[2.0, 0.0, -1.0], [0.0, 40.0, 0.0]]), chunks=(2, 2))
    >>> labels = np.array([0, 1])
    >>> lossref.dask.cross_entropy(logits, labels, reduction="none").compute()
    array([1.69846020e-01, 8.49670851e-18])
    >>> value, gradient = lossref.dask.cross_entropy.value_and_grad(logits, labels)
    >>> gradient
    dask.array<_gradient, shape=(2, 3), dtype=float64, chunksize=(2, 2), chunktype=numpy.ndarray>
    >>> gradient[1].compute()
    array([ 2.12417713e-18, -4.24835426e-18,  2.12417713e-18])
    """
    arguments = call.arguments
    logits, weight, ignored = arguments["logits"], arguments["weight"], arguments["ignore_index"]
    row_chunks, class_chunks = logits.chunks
    one_each, of_rows = ((1,) * len(class_chunks)), (row_chunks, (1,))
    options = cross_entropy_in_parts.Options(
        logits.shape[1],
        float(arguments["label_smoothing"]),
        float(arguments["z_loss_weight"]),
        None if arguments["softcap"] is None else float(arguments["softcap"]),
    )
    labels = in_chunks(
        _labels,
        arguments["labels"].rechunk((row_chunks,))[:, None],
        classes=logits.shape[1],
        ignored=ignored,
        dtype=np.int64,
        chunks=of_rows,
    )
    if weight is not None:
        weight = in_chunks(_class_weights, weight.astype(logits.dtype), dtype=logits.dtype, chunks=weight.chunks)
    shards = []  # of the class weights, which only smoothing needs chunk by chunk
    if options.smoothing:
        every = da.ones(options.classes, dtype=logits.dtype) if weight is None else weight
        shards = [every.rechunk((class_chunks,))[None, :]]
    # The weight of each row's label: all class weights come together for it, one number a class.
    label_weights = in_chunks(
        _label_weights,
        labels,
        *([] if weight is None else [weight.rechunk(-1)[None, :]]),
        ignored=ignored,
        dtype=np.float64,
        chunks=of_rows,
    )
    same = {"ignored": ignored, "options": options}
    summaries = in_chunks(
        _summaries,
        logits,
        labels,
        *shards,
        **same,
        dtype=cross_entropy_in_parts.SUMMARY,
        chunks=(row_chunks, one_each),
    )
    whole = merged(summaries, 1, cross_entropy_in_parts.merged_summaries)
    terms = in_chunks(_terms, whole, labels, label_weights, **same, dtype=np.float64, chunks=of_rows)
    terms = in_chunks(_rounded, terms[:, 0], to=logits.dtype, dtype=logits.dtype, chunks=(row_chunks,))
    divisor = None
    value = terms
    if call.reduction != "none":
        value = terms.sum(dtype=wide(logits.dtype))
    if call.reduction == "mean":
        divisor = label_weights.sum() if call.divisor is None else da.asarray(np.float64(call.divisor))
        value = in_chunks(_quotient, value, divisor, dtype=value.dtype, chunks=())
    value = in_chunks(_rounded, value, to=logits.dtype, dtype=logits.dtype, chunks=value.chunks)
    if cotangent is None:
        return value, None
    scales = cotangent_as_dask(lossref.cross_entropy, call, cotangent, terms.shape, terms.chunks)
    scales = scales.astype(np.float64)
    if divisor is not None:
        scales = in_chunks(_quotient_or_zero, scales, divisor, dtype=np.float64, chunks=())
    scales = scales[:, None] if scales.ndim else scales[None, None]
    slopes = in_chunks(
        _slopes,
        whole,
        labels,
        label_weights,
        scales,
        options=options,
        dtype=cross_entropy_in_parts.SLOPES,
        chunks=of_rows,
    )
    gradient = in_chunks(_gradient, logits, labels, slopes, *shards, **same, dtype=logits.dtype, chunks=logits.chunks)
    return value, gradient


def _labels(labels, classes, ignored, block_info=None):
    bad = ((labels < 0) | (labels >= classes)) & (labels != ignored)
    if bad.any():
        index = first_index(bad)
        row = index[0] + block_info[0]["array-location"][0][0]
        expected = f"labels in [0, {classes}) or ignore_index = {ignored}"
        raise ValueError(message("labels", expected, labels[index], (row,)))
    return labels.astype(np.int64)


def _class_weights(weight, block_info=None):
    bad = ~(np.isfinite(weight) & (weight >= 0))
    if bad.any():
        index = first_index(bad)
        offset = block_info[0]["array-location"][0][0]
        raise ValueError(message("weight", "numbers in [0, inf)", weight[index], (index[0] + offset,)))
    return weight


def _label_weights(labels, weight=None, *, ignored):
    """w_y, and 0 for a row that is ignored: then their sum is what "mean" divides by."""
    keep = labels != ignored
    of_labels = 1.0 if weight is None else weight[0, np.where(keep, labels, 0)].astype(np.float64)
    return np.where(keep, of_labels, 0.0)


def _part(logits, labels, weights, ignored, options, block_info):
    """A chunk as the kernels take it: (logits, first class, labels, keep, weights, options)."""
    dtype = computed_in("logits", logits)
    first = block_info[0]["array-location"][1][0]
    labels = np.ascontiguousarray(labels[:, 0])
    weights = None if weights is None else read_only(weights[0], dtype)
    return read_only(logits, dtype), first, labels, labels != ignored, weights, options


def _summaries(logits, labels, weights=None, *, ignored, options, block_info=None):
    found = cross_entropy_in_parts.summaries(*_part(logits, labels, weights, ignored, options, block_info))
    refuse_bad_numbers("logits", logits, np.isnan(found["r"]) | ~(found["target"] < np.inf), block_info)
    return found[:, None]


def _terms(whole, labels, label_weights, ignored, options, block_info=None):
    keep = labels != ignored
    refuse_masked_rows("logits", (np.maximum(whole["m"], whole["target"]) == -np.inf) & keep, 1, block_info)
    columns = [np.ascontiguousarray(array[:, 0]) for array in (whole, keep, label_weights)]
    return cross_entropy_in_parts.terms(*columns, options)[:, None]


def _slopes(whole, labels, label_weights, scales, options):
    columns = [np.ascontiguousarray(array[:, 0]) for array in (whole, labels, label_weights)]
    scales = np.ascontiguousarray(np.broadcast_to(scales[:, 0], columns[0].shape))
    return cross_entropy_in_parts.slopes(*columns, scales, options)[:, None]


def _gradient(logits, labels, slopes, weights=None, *, ignored, options, block_info=None):
    part, first, _, keep, weights, options = _part(logits, labels, weights, ignored, options, block_info)
    gradient = np.empty(part.shape, part.dtype)
    slopes = np.ascontiguousarray(slopes[:, 0])
    cross_entropy_in_parts.write_gradient(part, first, keep, slopes, weights, options, gradient)
    return gradient.astype(logits.dtype, copy=False)


def _rounded(numbers, to):
    with np.errstate(over="ignore"):  # a loss may be too large for its dtype
        return numbers.astype(to)


def _quotient(a, b):
    with np.errstate(all="ignore"):  # a mean of nothing is NaN
        return np.asarray(a / b, a.dtype)


def _quotient_or_zero(a, b):
    with np.errstate(all="ignore"):
        return np.where(b == 0, 0.0, a / b)
