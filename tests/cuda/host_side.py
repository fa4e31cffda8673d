"""Everything that the host does for the CUDA path, on the stand-in GPU: see test_host_side.py, whose program this is.
Prints what became of each case: its error, how often the host waited, how many kernels it began."""

import ctypes
import json
import types
import warnings

import ml_dtypes
import numpy as np
import stand_in_gpu  # noqa: F401  before anything is compiled
from lossref_cuda import (
    cross_entropy,
    device_arrays,
    library_products,
    linear_cross_entropy,
    log_softmax,
    logsumexp,
    softmax,
    softmax_attention,
    top_k_softmax,
)
from numba import cuda

DRIVER = ctypes.CDLL("libcuda.so.1")
OURS, THEIRS = 0x5EED0, 0x7EED0  # streams
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
ROW_WISE = {"logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax}
rng = np.random.default_rng(0)


class Interface:
    """An array that offers the array interface, with the stream on which it is made, and may offer DLPack."""

    def __init__(self, array, stream=OURS, version=3):
        self.array, self.dtype, self.ndim, self.shape = array, array.dtype, array.ndim, array.shape
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "version": version, "stream": stream}


class ByDLPack:
    """An array that offers DLPack, and may offer an array interface that names no stream."""

    def __init__(self, array, beside=False):
        DRIVER.stand_in_lend(ctypes.c_uint64(array.ctypes.data), ctypes.c_uint64(array.nbytes))
        self.array, self.dtype, self.ndim, self.shape = array, array.dtype, array.ndim, array.shape
        self.asked = []
        if beside:
            data = (array.ctypes.data, True)
            self.__cuda_array_interface__ = {
                "shape": array.shape, "typestr": array.dtype.str, "data": data, "version": 2
            }  # fmt: skip

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream=None, **others):
        self.asked.append(stream)
        return self.array.__dlpack__()


def on_device(array):
    return device_arrays.to_device(np.asarray(array))


def on_our_stream(array):
    return Interface(on_device(array))


def x(*shape, dtype=np.float32):
    return rng.normal(size=shape).astype(dtype)


def labels(count, classes=4, dtype=np.int64):
    return rng.integers(0, classes, count).astype(dtype)


def cases_of(put):
    """name -> (arrays, computation), for arrays that `put` has put somewhere."""
    for name, module in ROW_WISE.items():
        for shape in ((3, 40), (0, 5), (1, 5)):
            arrays = (put(x(*shape)),)
            yield f"{name} {shape}", arrays, lambda a, module=module: module.reduced_value_and_vjp(a)
        yield f"{name} bfloat16", (put(x(3, 40, dtype=BFLOAT16)),), lambda a, module=module: module.value(a)
        yield f"{name} axis 0", (put(x(3, 40)),), lambda a, module=module: module.value(a, axis=0)
    for shape in ((2, 2000), (2, 70000)):
        yield f"softmax {shape}", (put(x(*shape)),), softmax.value
    softened = {"label_smoothing": 0.1, "softcap": 5.0}
    for reduction in ("none", "sum", "mean"):
        compute = {"reduction": reduction}
        for rows in (5, 0):
            yield (
                f"cross_entropy {reduction} {rows}",
                (put(x(rows, 4)), put(labels(rows))),
                (lambda a, b, compute=compute: cross_entropy.reduced_value_and_vjp(a, b, **compute)),
            )
            arrays = put(x(rows, 8)), put(x(4, 8)), put(labels(rows))
            yield (
                f"linear_cross_entropy {reduction} {rows}",
                arrays,
                (lambda a, b, c, compute=compute: linear_cross_entropy.reduced_value_and_vjp(a, b, c, **compute)),
            )
    arrays = put(x(5, 4, dtype=BFLOAT16)), put(labels(5))
    yield "cross_entropy bfloat16", arrays, lambda a, b: cross_entropy.reduced_value_and_vjp(a, b)
    yield (
        "cross_entropy nothing, bfloat16",
        (put(x(0, 4, dtype=BFLOAT16)), put(labels(0))),
        (lambda a, b: cross_entropy.reduced_value(a, b)),
    )
    yield (
        "cross_entropy options",
        (put(x(5, 4)), put(labels(5, dtype=np.int32)), put(x(4, dtype=np.float64))),
        (lambda a, b, w: cross_entropy.reduced_value_and_vjp(a, b, weight=w, **softened)),
    )
    yield (
        "cross_entropy long rows",
        (put(x(2, 70000)), put(labels(2))),
        (lambda a, b: cross_entropy.reduced_value_and_vjp(a, b, cotangent=2.0)),
    )
    yield "cross_entropy no classes", (put(x(3, 0)), put(labels(3))), cross_entropy.reduced_value_and_vjp
    yield (
        "cross_entropy cotangents",
        (put(x(5, 4)), put(labels(5)), put(x(5))),
        (lambda a, b, c: cross_entropy.value_and_vjp(a, b, cotangent=c)),
    )
    for dtype in (np.int32, np.uint64):
        arrays = put(x(5, 8)), put(x(4, 8)), put(labels(5, dtype=dtype))
        yield (
            f"linear_cross_entropy {np.dtype(dtype)}",
            arrays,
            (lambda a, b, c: linear_cross_entropy.reduced_value_and_vjp(a, b, c, filter_eps="auto")),
        )
    arrays = put(x(2, 5, 8)), put(x(4, 8)), put(labels(10).reshape(2, 5)), put(x(4))
    yield (
        "linear_cross_entropy shift",
        arrays,
        (lambda a, b, c, d: linear_cross_entropy.reduced_value_and_vjp(a, b, c, bias=d, shift=1)),
    )
    arrays = put(x(5, 0)), put(x(4, 0)), put(labels(5))
    yield "linear_cross_entropy no features", arrays, linear_cross_entropy.reduced_value_and_vjp
    arrays = put(x(5, 8)), put(x(0, 8)), put(labels(5))
    yield "linear_cross_entropy no classes", arrays, linear_cross_entropy.reduced_value_and_vjp
    arrays = put(x(5, 8, dtype=BFLOAT16)), put(x(4, 8, dtype=BFLOAT16)), put(labels(5))
    yield "linear_cross_entropy bfloat16", arrays, linear_cross_entropy.reduced_value_and_vjp
    for rows in (5, 0):
        arrays = put(x(rows, 8)), put(x(8))
        yield f"top_k_softmax {rows}", arrays, (lambda a, b: top_k_softmax.value_and_vjp(a, k=2, bias=b, cotangent=1.0))
    for queries, keys in ((5, 7), (0, 7)):
        for rung in softmax_attention.RUNGS:
            arrays = put(x(queries, 3)), put(x(keys, 3)), put(x(keys, 4))
            yield (
                f"softmax_attention {queries} {keys} {rung}",
                arrays,
                (lambda a, b, c, rung=rung: softmax_attention.value_and_vjp(a, b, c, cotangent=1.0, rung=rung)),
            )
    arrays = put(x(5, 3)), put(x(7, 3)), put(x(7, 4)), put(x(5, 7)), put(np.ones((5, 7), bool))
    yield "softmax_attention mask", arrays, lambda *a: softmax_attention.value_and_vjp(*a, cotangent=1.0)
    yield "out", (put(x(3, 40)), put(x(3, 40))), lambda a, out: softmax.value(a, out=out)
    yield "out, axis 0", (put(x(3, 40)), put(x(3, 40))), lambda a, out: softmax.vjp(a, cotangent=1.0, axis=0, out=out)
    yield "out, in place", (put(x(3, 40)), put(labels(3))), lambda a, b: cross_entropy.vjp(a, b, cotangent=1.0, out=a)
    arrays = put(x(5, 8)), put(x(4, 8)), put(labels(5)), put(x(5, 8)), put(x(4, 8))
    yield "outs", arrays, lambda a, b, c, *outs: linear_cross_entropy.vjp(a, b, c, cotangent=1.0, out=outs)
    arrays = put(x(5, 3)), put(x(7, 3)), put(x(7, 4)), put(x(5, 3)), put(x(7, 3)), put(x(7, 4))
    yield "outs, attention", arrays, lambda a, b, c, *outs: softmax_attention.vjp(a, b, c, cotangent=1.0, out=outs)


def more_cases():
    """What is peculiar to one kind of array."""
    yield "host: a new axis", (x(5)[None],), lambda a: softmax.value_and_vjp(a, cotangent=a)
    yield "host: one number", (np.float32(3)[None][None],), softmax.value
    arrays = x(5, 8), x(4, 8), labels(5), np.broadcast_to(np.float32(1), 5)
    yield (
        "host: a repeated cotangent",
        arrays,
        (
            lambda a, b, c, d: linear_cross_entropy.value_and_vjp(
                a, b, c, cotangent=d, stream=cuda.external_stream(OURS)
            )
        ),
    )
    yield (
        "host: softmax_attention",
        (x(0, 3), x(7, 3), x(7, 4)),
        (lambda a, b, c: softmax_attention.value_and_vjp(a, b, c, cotangent=np.ones((0, 4), np.float32))),
    )
    arrays = on_device(x(530_000, 1)), on_device(x(2, 1)), on_device(labels(530_000, 2))
    how = {"rung": "one_thread_per_entry", "block_size": (530_000, 2)}  # more than 65535 blocks of 8 rows
    yield (
        "device: linear_cross_entropy many rows at a time",
        arrays,
        (lambda a, b, c: linear_cross_entropy.reduced_value_and_vjp(a, b, c, **how)),
    )
    yield "device: any strides", (on_device(x(6, 10)),), lambda a: softmax.value(a[::2, 1:9:3])
    yield "refused: no keys", (on_device(x(5, 3)), on_device(x(0, 3)), on_device(x(0, 4))), softmax_attention.value
    yield "device: repeated", (Interface(on_device(x(1, 5)), None),), softmax.value
    yield "device: DLPack alone", (ByDLPack(x(3, 40)),), softmax.value
    yield (
        "device: linear_cross_entropy of DLPack",
        (ByDLPack(x(5, 8)), ByDLPack(x(4, 8)), ByDLPack(labels(5))),
        (lambda a, b, c: linear_cross_entropy.reduced_value_and_vjp(a, b, c)),
    )


def run(arrays, compute):
    waits, launches = DRIVER.stand_in_waits(), DRIVER.stand_in_launches()
    try:
        compute(*arrays)
        error = None
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
    return {
        "error": error, "waits": DRIVER.stand_in_waits() - waits, "launches": DRIVER.stand_in_launches() - launches
    }  # fmt: skip


def results_know_their_stream():
    """The interfaces of the results of arrays on our stream."""
    a = on_our_stream(x(3, 40))
    gradients = linear_cross_entropy.reduced_value_and_vjp(
        on_our_stream(x(5, 8)), on_our_stream(x(4, 8)), on_our_stream(labels(5))
    )
    narrow = softmax.value(on_our_stream(x(3, 40, dtype=BFLOAT16)))
    found = [logsumexp.value(a, axis=0), softmax.value(a, axis=0), narrow, gradients[0], *gradients[1]]
    return [result.__cuda_array_interface__["stream"] for result in found]


def streams_wait_for_each_other():
    """How often a stream is told to wait for another, for labels made on ours, on theirs, on none that is known."""

    def count(made_on, **options):
        arrays = on_our_stream(x(5, 4)), Interface(on_device(labels(5)), made_on)
        before = DRIVER.stand_in_waits_of_streams()
        cross_entropy.value(*arrays, **options)
        return DRIVER.stand_in_waits_of_streams() - before

    return [count(OURS), count(THEIRS), count(None), count(OURS, stream=cuda.external_stream(THEIRS))]


def stream_shown_to_cupy():
    stand_in = types.SimpleNamespace(asarray=lambda array: array.__cuda_array_interface__)
    made = device_arrays.Call(on_our_stream(x(3))).new((3,), np.dtype(np.float32))
    assert made.__cuda_array_interface__["stream"] == OURS
    return library_products.CuPy(stand_in).array(made, made.dtype)["stream"]


def main():
    warnings.simplefilter("error")  # one that Numba gives on a GPU only, the user would see as well
    found = {}
    for place, put in (("device", on_device), ("stream", on_our_stream)):
        for name, arrays, compute in cases_of(put):
            found[f"{place}: {name}"] = run(arrays, compute)
    for name, arrays, compute in more_cases():
        found[name] = run(arrays, compute)
    producer = ByDLPack(x(3, 40), beside=True)
    softmax.value(producer)
    print(
        json.dumps(
            {
                "cases": found,
                "streams of results": results_know_their_stream(),
                "waits between streams": streams_wait_for_each_other(),
                "stream shown to CuPy": stream_shown_to_cupy(),
                "asked of DLPack beside version 2": producer.asked,
            }
        )
    )


if __name__ == "__main__":
    main()
