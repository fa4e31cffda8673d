"""lossref.dask against lossref itself: in this process, in threads, and on a cluster of two processes."""

import doctest
import logging
import subprocess
import sys

import dask
import dask.array as da
import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref import dask as on_dask

ROWS, CLASSES = 7, 23
CHUNKS = [((7,), (23,)), ((3, 4), (8, 8, 7)), ((1,) * 7, (1, 22)), ((7,), (1,) * 23), ((0, 7), (5, 0, 18))]
CHUNK_NAMES = ["one chunk", "both axes", "single rows", "single classes", "empty chunks"]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def logits_and_labels(rng, dtype=np.float64):
    logits = (3 * rng.standard_normal((ROWS, CLASSES))).astype(dtype)
    labels = rng.integers(0, CLASSES, ROWS)
    logits[4, labels[4]] = 45  # a right answer that leads
    logits[5, (labels[5] + 1) % CLASSES] = 45  # a wrong one
    labels[1] = -100
    return logits, labels


def agrees(result, expected, units=8):
    result = np.asarray(result)
    assert result.dtype == expected.dtype and result.shape == expected.shape
    eps = float(ml_dtypes.finfo(expected.dtype).eps)
    np.testing.assert_allclose(result.astype(float), np.asarray(expected).astype(float), rtol=units * eps, atol=1e-300)


def options(rng):
    weight = rng.uniform(0.1, 2, CLASSES)
    return {
        "plain": {},
        "sum": {"reduction": "sum"},
        "none": {"reduction": "none"},
        "divisor": {"divisor": 3.5},
        "weight": {"weight": weight},
        "smoothing": {"label_smoothing": 0.1},
        "softcap": {"softcap": 20.0},
        "z-term": {"z_loss_weight": 0.3},
        "ignored 3": {"ignore_index": 3},
        "all": {"weight": weight, "label_smoothing": 0.1, "softcap": 20.0, "z_loss_weight": 0.3, "reduction": "sum"},
    }


@pytest.mark.parametrize("chunks", CHUNKS, ids=CHUNK_NAMES)
@pytest.mark.parametrize("which", options(np.random.default_rng(0)))
def test_cross_entropy(rng, chunks, which):
    logits, labels = logits_and_labels(rng)
    given = options(rng)[which]
    if given.get("ignore_index") == 3:
        labels[1] = 3
    elif "label_smoothing" not in given:
        logits[2, (labels[2] + 1) % CLASSES] = -np.inf
    cotangent = rng.standard_normal(ROWS) if which == "none" else 1.7
    expected = lr.cross_entropy.path("numba").value_and_grad(logits, labels, cotangent=cotangent, **given)
    lazy = da.from_array(logits, chunks=chunks)
    value, gradient = on_dask.cross_entropy.value_and_grad(lazy, labels, cotangent=cotangent, **given)
    assert isinstance(value, da.Array) and gradient.chunks == lazy.chunks
    agrees(value.compute(), expected[0])
    agrees(gradient.compute(), expected[1], units=32 if "label_smoothing" in given else 8)
    agrees(on_dask.cross_entropy(lazy, labels, **given).compute(), expected[0])
    agrees(on_dask.cross_entropy.grad(lazy, labels, cotangent=cotangent, **given).compute(), gradient.compute(), 0)
    assert expected[1].any()


def test_a_confident_row_keeps_its_digits_in_any_chunks(rng):
    for lead in (40.0, 90.0, 600.0):
        logits = np.array([[lead, 0.0, 1.0, -2.0]])
        expected = lr.cross_entropy.value_and_grad(logits, [0])
        assert 0 < expected[0] < 1e-16
        for width in (1, 2, 3, 4):
            lazy = da.from_array(logits, chunks=(1, width))
            value, gradient = dask.compute(*on_dask.cross_entropy.value_and_grad(lazy, [0]))
            agrees(value, expected[0])
            agrees(gradient, expected[1])


def test_a_leading_wrong_class_that_bears_the_weight(rng):
    """Its gradient has a formula of its own, and the leader may be in any chunk."""
    logits, labels = logits_and_labels(rng)
    leader = (labels[5] + 1) % CLASSES
    weight = np.full(CLASSES, 1e-12)
    weight[leader] = 1.0
    given = {"weight": weight, "label_smoothing": 0.999, "reduction": "sum"}
    expected = lr.cross_entropy.path("numba").grad(logits, labels, **given)
    for chunks in CHUNKS:
        lazy = da.from_array(logits, chunks=chunks)
        lazy_weight = da.from_array(weight, chunks=4)
        gradient = on_dask.cross_entropy.grad(lazy, labels, **{**given, "weight": lazy_weight}).compute()
        np.testing.assert_allclose(gradient[5, leader], expected[5, leader], rtol=1e-13)
        np.testing.assert_allclose(gradient[4:6], expected[4:6], rtol=1e-10, atol=1e-25)


@pytest.mark.parametrize("name", ["logsumexp", "softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_log_sum_exp_and_softmax(rng, name, axis):
    x = 10 * rng.standard_normal((4, 5, 6))
    x[0, 0, 1:] = x[1:, 1, 1] = -np.inf
    ours, theirs = getattr(on_dask, name), getattr(lr, name).path("numba")
    cotangent = rng.standard_normal(np.shape(theirs(x, axis=axis)))
    expected = theirs.value_and_grad(x, axis=axis, cotangent=cotangent)
    for chunks in ((4, 5, 6), (2, 3, 4), (1, 2, 1)):
        lazy = da.from_array(x, chunks=chunks)
        for given in (cotangent, da.from_array(cotangent, chunks=2)):
            value, gradient = ours.value_and_grad(lazy, axis=axis, cotangent=given)
            agrees(value.compute(), expected[0])
            # Sums of both signs: the size of the parts is what rounding is measured by.
            np.testing.assert_allclose(gradient.compute(), expected[1], rtol=1e-13, atol=1e-15)
            assert gradient.chunks == lazy.chunks
        np.testing.assert_allclose(
            ours.grad(lazy, axis=axis).compute(), theirs.grad(x, axis=axis), rtol=1e-13, atol=1e-15
        )


def test_keepdims_and_masked_rows():
    x = np.array([[-np.inf, -np.inf, -np.inf], [0.0, -np.inf, 1.0]])
    lazy = da.from_array(x, chunks=(1, 2))
    for keepdims in (False, True):
        expected = lr.logsumexp.value_and_grad(x, keepdims=keepdims)
        value, gradient = dask.compute(*on_dask.logsumexp.value_and_grad(lazy, keepdims=keepdims))
        agrees(value, expected[0])
        agrees(gradient, expected[1])
    with pytest.raises(ValueError, match=r"x: expected a finite entry in every row, got only -inf at index \(0,\)"):
        on_dask.softmax(lazy).compute()
    with pytest.raises(ValueError, match=r"x: expected a finite entry in every row"):
        on_dask.softmax.grad(lazy).compute()
    with pytest.raises(
        ValueError, match=r"logits: expected a finite entry in every row, got only -inf at index \(1,\)"
    ):
        on_dask.cross_entropy(lazy[::-1], [0, 1]).compute()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_dtypes(rng, dtype):
    logits, labels = logits_and_labels(rng, dtype)
    lazy = da.from_array(logits, chunks=(3, 8))
    expected = lr.cross_entropy.path("numba").value_and_grad(logits, labels)
    value, gradient = dask.compute(*on_dask.cross_entropy.value_and_grad(lazy, labels))
    agrees(value, expected[0], units=2)
    agrees(gradient, expected[1], units=8)
    agrees(on_dask.softmax(lazy).compute(), lr.softmax.path("numba")(logits), units=8)
    agrees(on_dask.logsumexp(lazy).compute(), lr.logsumexp.path("numba")(logits), units=2)


def test_integers_and_numpy_arrays_are_welcome(rng):
    logits = rng.integers(-5, 5, (ROWS, CLASSES))
    labels = rng.integers(0, CLASSES, ROWS).astype(np.int32)
    expected = lr.cross_entropy(logits, labels)
    agrees(on_dask.cross_entropy(logits, labels).compute(), expected)
    agrees(on_dask.cross_entropy(da.from_array(logits, chunks=5), da.from_array(labels, chunks=2)).compute(), expected)


def test_a_loss_too_large_for_its_dtype_is_infinite():
    """As on the other paths, and without a warning."""
    logits, labels = np.array([[6e4, -6e4], [0.0, 1.0]], np.float16), np.array([1, 0])
    lazy = da.from_array(logits, chunks=1)
    assert on_dask.cross_entropy(lazy, labels, reduction="sum").compute() == np.inf
    terms = on_dask.cross_entropy(lazy, labels, reduction="none").compute()
    np.testing.assert_array_equal(terms, lr.cross_entropy.path("numba")(logits, labels, reduction="none"))


def test_nothing_is_kept(rng):
    logits = da.from_array(logits_and_labels(rng)[0], chunks=(3, 8))
    value, gradient = on_dask.cross_entropy.value_and_grad(logits, np.full(ROWS, -100))
    assert np.isnan(value.compute()) and not gradient.compute().any()
    for reduction, expected in (("mean", np.nan), ("sum", 0.0)):
        value, gradient = on_dask.cross_entropy.value_and_grad(logits[:0], np.zeros(0, int), reduction=reduction)
        np.testing.assert_array_equal(value.compute(), expected)
        assert gradient.compute().shape == (0, CLASSES)
    with pytest.raises(ValueError, match=r"logits: .*at least one class"):
        on_dask.cross_entropy(logits[:, :0], np.zeros(ROWS, int))


def test_errors_before_anything_is_computed(rng):
    logits, labels = logits_and_labels(rng)
    lazy = da.from_array(logits, chunks=(3, 8))
    bad_calls = [
        (ValueError, "logits: ", (lazy[0], labels), {}),
        (ValueError, "labels: .*N = 7", (lazy, labels[:3]), {}),
        (TypeError, "labels: .*integer labels", (lazy, labels * 1.0), {}),
        (ValueError, "weight: .*C = 23", (lazy, labels), {"weight": np.ones(3)}),
        (ValueError, "softcap: ", (lazy, labels), {"softcap": 0.0}),
        (ValueError, "label_smoothing: ", (lazy, labels), {"label_smoothing": 1.5}),
        (TypeError, "ignore_index: ", (lazy, labels), {"ignore_index": 0.5}),
        (ValueError, "reduction: ", (lazy, labels), {"reduction": "average"}),
        (ValueError, "divisor: ", (lazy, labels), {"divisor": 0}),
        (TypeError, "logits: ", (lazy.astype(complex), labels), {}),
        (TypeError, "logits: .*longdouble|logits: .*float128", (lazy.astype(np.longdouble), labels), {}),
        (TypeError, "logits: ", (object(), labels), {}),
        (ValueError, "logits: .*known chunk sizes", (lazy[lazy[:, 0] > 0], labels), {}),
        (TypeError, "cross_entropy: .*temperature", (lazy, labels), {"temperature": 1.0}),
    ]
    for kind, text, args, given in bad_calls:
        with pytest.raises(kind, match=text):
            on_dask.cross_entropy(*args, **given)
    for cotangent in (np.ones(3), da.ones(3), "one", np.nan):
        with pytest.raises((TypeError, ValueError), match="cotangent: "):
            on_dask.cross_entropy.grad(lazy, labels, cotangent=cotangent)
    for axis in (2, -3):
        with pytest.raises(ValueError, match="axis: expected an axis of x"):
            on_dask.softmax(lazy, axis=axis)
    with pytest.raises(ValueError, match="x: expected at least one entry along the axis"):
        on_dask.logsumexp(lazy[:, :0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_errors_in_the_data_name_the_place(rng, bad):
    logits, labels = logits_and_labels(rng)
    logits[6, 17] = bad
    lazy = da.from_array(logits, chunks=(3, 8))
    place = rf": expected finite numbers or -inf, got {bad} at index \(6, 17\)"
    for lazy_result in (
        on_dask.cross_entropy(lazy, labels),
        on_dask.cross_entropy.grad(lazy, np.full(ROWS, 17)),  # the label's own logit
        on_dask.softmax(lazy),
        on_dask.softmax.grad(lazy, axis=0),
        on_dask.logsumexp(lazy, axis=0),
    ):
        with pytest.raises(ValueError, match=place):
            lazy_result.compute()
    logits[6, 17] = 0
    for label in (-1, CLASSES):
        wrong = labels.copy()
        wrong[5] = label
        with pytest.raises(
            ValueError, match=rf"labels: expected labels in \[0, 23\) or .*, got {label} at index \(5,\)"
        ):
            on_dask.cross_entropy(da.from_array(logits, chunks=(3, 8)), wrong).compute()
    weight = np.ones(CLASSES)
    weight[20] = -1
    with pytest.raises(ValueError, match=r"weight: expected numbers in \[0, inf\), got -1.0 at index \(20,\)"):
        on_dask.cross_entropy(da.from_array(logits), labels, weight=da.from_array(weight, chunks=7)).compute()


def test_in_threads(rng):
    logits = rng.standard_normal((64, 5000)).astype(np.float32)
    labels = rng.integers(0, 5000, 64)
    expected = lr.cross_entropy.path("numba").value_and_grad(logits, labels)
    lazy = da.from_array(logits, chunks=(16, 999))
    with dask.config.set(scheduler="threads", num_workers=4):
        value, gradient = dask.compute(*on_dask.cross_entropy.value_and_grad(lazy, labels))
    agrees(value, expected[0])
    agrees(gradient, expected[1])


def test_lossref_does_not_need_dask():
    """It is an extra: nothing but lossref.dask imports it, and that says what to install."""
    program = "import sys; sys.modules['dask'] = None; import lossref; lossref.logsumexp([0.0]); lossref.dask"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'lossref[dask]'" in ran.stderr.splitlines()[-1]


def test_the_examples_are_right():
    result = doctest.testmod(on_dask)
    assert result.failed == 0
    finder = doctest.DocTestFinder()
    assert all(finder.find(f.compute)[0].examples for f in (on_dask.logsumexp, on_dask.softmax, on_dask.cross_entropy))


@pytest.mark.xdist_group("dask cluster")
def test_on_a_cluster_of_two_processes(rng):
    """A vocabulary sharded over two workers: each has half of the classes of every row."""
    from distributed import Client, LocalCluster

    logits = (5 * rng.standard_normal((40, 6000))).astype(np.float32)
    labels = rng.integers(0, 6000, 40)
    labels[3] = -100
    logits[7, labels[7]] = 90
    given = {"label_smoothing": 0.1, "weight": rng.uniform(0.5, 2, 6000).astype(np.float32)}
    expected = lr.cross_entropy.path("numba").value_and_grad(logits, labels)
    smoothed = lr.cross_entropy.path("numba").value_and_grad(logits, labels, **given)
    cluster = LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", silence_logs=logging.ERROR
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        workers = list(client.scheduler_info()["workers"])
        assert len({client.run(lambda: __import__("os").getpid(), workers=[w])[w] for w in workers}) == 2
        lazy = da.from_array(logits, chunks=(20, 3000))
        halves = [
            client.persist(lazy[:, half], workers=[worker])
            for half, worker in zip((np.s_[:3000], np.s_[3000:]), workers, strict=True)
        ]
        client.gather(client.compute([half.sum() for half in halves]))  # until both are there
        sharded = da.concatenate(halves, axis=1)
        assert all(client.has_what()[w] for w in workers)

        def computed(*arrays):
            return client.gather(client.compute(arrays))

        value, gradient = computed(*on_dask.cross_entropy.value_and_grad(sharded, labels))
        agrees(value, expected[0])
        agrees(gradient, expected[1])
        value, gradient = computed(*on_dask.cross_entropy.value_and_grad(sharded, labels, **given))
        agrees(value, smoothed[0])
        np.testing.assert_allclose(gradient, smoothed[1], rtol=1e-4, atol=1e-10)
        p, lse = computed(on_dask.softmax(sharded), on_dask.logsumexp(sharded))
        agrees(p, lr.softmax.path("numba")(logits), units=64)
        agrees(lse, lr.logsumexp.path("numba")(logits))
        with pytest.raises(ValueError, match="labels: expected labels in"):
            computed(on_dask.cross_entropy(sharded, np.full(40, 6000)))
