"""Cross-entropy: every rung with every option, hard rows, and the reduction on the device."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import cross_entropy
from lossref_cuda.device_arrays import Call
from numba import cuda

DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.2},
    "all smoothing": {"label_smoothing": 1.0},
    "softcap": {"softcap": 3.0},
    "z": {"z_loss_weight": 0.1},
    "weight": {"weight": True},
    "everything": {
        "label_smoothing": 0.1,
        "softcap": 5.0,
        "z_loss_weight": 0.01,
        "weight": True,
        "ignore_index": 2,
    },
}


def judge(exact, x, labels, dtype, launch, *, limits=(4, 8), **options):
    cotangent = np.linspace(0.5, 2, len(x)).astype(np.float32)
    terms, gradient = cross_entropy.value_and_vjp(x, labels, cotangent=cotangent, **launch, **options)
    assert terms.dtype == gradient.dtype == np.dtype(dtype)
    value, value_moves, slope, slope_moves = exact.cross_entropy(x, labels, **options)
    w = cotangent.astype(np.longdouble)[:, None]
    assert exact.error(terms, value, value_moves, dtype) <= limits[0]
    assert exact.error(gradient, w * slope, w * slope_moves, dtype) <= limits[1]
    return terms, gradient


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@pytest.mark.parametrize("length", [1, 3, 33, 70])
def test_ordinary_rows(exact, launch_options, rung, length):
    rng = np.random.default_rng(length)
    x = rng.normal(size=(3, length)).astype(np.float32) * 4
    judge(exact, x, np.array([0, length - 1, length // 2]), np.float32, launch_options(rung))


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@pytest.mark.parametrize("case", OPTIONS)
def test_options(exact, launch_options, rung, case):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 21)) * 4
    options = dict(OPTIONS[case])
    if options.get("weight"):
        options["weight"] = rng.uniform(0, 2, size=21)
        options["weight"][[3, 20]] = 0
    judge(exact, x, np.array([0, 2, 20, 7]), np.float64, launch_options(rung), **options)


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_hard_rows(exact, launch_options, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    labels = np.array([3, 34, 34, 0, 34, 4, 33, 30, 2, 20, 4, 3, 0, 1, 1, 5])[: len(x)]
    judge(exact, x, labels, dtype, launch_options(rung))


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_blind_band(exact, launch_options, rung, dtype):
    """Right by 40 and wrong by 750: the textbook form says 0 and its gradient 0."""
    x = np.array([[40, 0], [37, 0], [100, 0], [0, 750], [1e8 + 16, 1e8]], dtype)
    labels = np.zeros(5, int)
    m = x.max(1)
    textbook = m + np.log(np.exp(x - m[:, None]).sum(1)) - x[:, 0]
    p = np.exp(x[:, 0] - m) / np.exp(x - m[:, None]).sum(1)
    assert (textbook[:2] == 0).all()
    assert (p[:3] - 1 == 0).all()
    terms, gradient = judge(exact, x, labels, dtype, launch_options(rung))
    np.testing.assert_allclose(terms[0], np.exp(-40.0), rtol=1e-5 if dtype == np.float32 else 1e-14)
    np.testing.assert_allclose(gradient[0, 0], -0.5 * np.exp(-40.0), rtol=1e-5)
    assert terms[3] == 750
    assert terms[2] > 0


@pytest.mark.parametrize("rung", [rung for rung in cross_entropy.RUNGS if rung != cross_entropy.SPLIT])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "softcap": 3.0}], ids=["plain", "options"])
def test_the_gradient_may_be_written_over_the_logits(rung, options):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(3, 67)).astype(np.float32), np.array([0, 66, 31])
    want = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(3), rung=rung, **options)
    there, ones = cuda.to_device(x), cuda.to_device(np.ones(1, np.float32))
    terms = cuda.device_array(3, np.float32)
    call = Call(there)
    cross_entropy.launch(call, there, cuda.to_device(labels), None, ones, terms, there, rung=rung, **options)
    np.testing.assert_array_equal(terms.copy_to_host(), want[0])
    np.testing.assert_array_equal(there.copy_to_host(), want[1])


def test_a_row_shared_by_blocks_is_not_overwritten():
    """Few rows of a vocabulary are split over blocks, but not where the gradient goes over the logits."""
    split = "long_row_split_over_blocks"
    assert cross_entropy.best_rung(8, 2**17, 4) == split
    assert cross_entropy.best_rung(8, 2**17, 4, in_place=True) == "vectorised"
    x, ones = cuda.to_device(np.zeros((1, 8), np.float32)), cuda.to_device(np.ones(1, np.float32))
    with pytest.raises(ValueError, match="cannot write the gradient over the logits"):
        cross_entropy.launch(Call(x), x, cuda.to_device(np.zeros(1, int)), None, ones, ones, x, rung=split)


def test_a_row_that_does_not_fit_on_the_chip():
    with pytest.raises(ValueError, match="does not fit on the chip"):
        cross_entropy.value(np.zeros((1, 2**14)), [0], rung="row_on_chip")


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
def test_a_common_offset_changes_nothing(launch_options, rung):
    x = np.array([[0, 8, -16, 0, 24]], np.float32)
    alone = cross_entropy.value_and_vjp(x, [3], cotangent=[1.0], **launch_options(rung))
    moved = cross_entropy.value_and_vjp(x + np.float32(1e8), [3], cotangent=[1.0], **launch_options(rung))
    np.testing.assert_array_equal(alone[0], moved[0])
    np.testing.assert_array_equal(alone[1], moved[1])


@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
def test_masks(launch_options, rung):
    """A masked class; a masked label: +inf with gradient p - e_y."""
    x = np.array([[-np.inf, 0, 0], [-np.inf, 0, 0], [-np.inf, 1, -np.inf]], np.float32)
    terms, gradient = cross_entropy.value_and_vjp(x, [1, 0, 1], cotangent=np.ones(3), **launch_options(rung))
    np.testing.assert_allclose(terms, [np.log(2), np.inf, 0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, -0.5, 0.5], [-1, 0.5, 0.5], [0, 0, 0]], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy scalars warn in the simulator, a GPU does not
@pytest.mark.parametrize("rung", cross_entropy.RUNGS)
def test_bad_rows_stay_alone(launch_options, rung):
    """NaN, +inf, an impossible label, each in its own row; an ignored row is 0 whatever it holds."""
    x = np.zeros((8, 9), np.float32)
    x[1, 8] = np.nan
    x[2, 4] = np.nan
    x[3, 0] = np.inf
    x[4, 4] = np.inf
    x[6] = np.nan
    labels = np.array([4, 4, 4, 4, 4, 9, -100, -1])
    terms, gradient = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(8), **launch_options(rung))
    bad = np.array([0, 1, 1, 1, 1, 1, 0, 1], bool)
    np.testing.assert_array_equal(np.isnan(terms), bad)
    np.testing.assert_array_equal(np.isnan(gradient).any(1), bad)
    np.testing.assert_allclose(terms[0], np.log(9), rtol=1e-6)
    assert terms[6] == 0
    assert (gradient[6] == 0).all()


@pytest.mark.parametrize("rung", ["one_warp_per_row", "vectorised"])
def test_masked_class_with_smoothing(launch_options, rung):
    """As in PyTorch: with smoothing a masked class costs infinity, unless its weight is 0."""
    x = np.array([[-np.inf, 0, 1, 2, 3]])
    assert cross_entropy.value(x, [1], label_smoothing=0.1, **launch_options(rung))[0] == np.inf
    weight = np.array([0.0, 1, 1, 1, 1])
    value = cross_entropy.value(x, [1], label_smoothing=0.1, weight=weight, **launch_options(rung))
    log_p = x[0, 1:] - np.log(np.exp(x[0, 1:]).sum())
    np.testing.assert_allclose(value, [0.9 * -log_p[0] + 0.1 / 5 * -log_p.sum()], rtol=1e-13)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("divisor", [None, 7.0])
def test_reduction_on_the_device(exact, weighted, reduction, divisor):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(6, 5)), np.array([0, 4, -100, 2, -100, 1])
    weight = rng.uniform(0.5, 2, size=5) if weighted else None
    truth, _, slope, _ = exact.cross_entropy(x, labels, weight=weight)
    kept = labels >= 0
    total = kept.sum() if weight is None else weight[labels[kept]].sum()
    by = 1 if reduction == "sum" else (divisor or total)
    device = {"weight": None if weight is None else cuda.to_device(weight)}
    value, gradient = cross_entropy.reduced_value_and_vjp(
        cuda.to_device(x),
        cuda.to_device(labels),
        reduction=reduction,
        divisor=divisor,
        cotangent=1.5,
        **device,
    )
    assert value.shape == ()
    np.testing.assert_allclose(value.copy_to_host(), float(truth.sum() / by), rtol=1e-13)
    np.testing.assert_allclose(gradient.copy_to_host(), (1.5 * slope / by).astype(float), rtol=1e-12)
    alone = cross_entropy.reduced_value(x, labels, reduction=reduction, divisor=divisor, weight=weight)
    assert isinstance(alone, np.ndarray)
    np.testing.assert_allclose(alone, value.copy_to_host(), rtol=0)


def test_no_kept_row():
    x, labels = np.ones((3, 4), np.float32), np.full(3, -100)
    value, gradient = cross_entropy.reduced_value_and_vjp(x, labels, reduction="mean")
    assert np.isnan(value)
    assert (gradient == 0).all()
    value, gradient = cross_entropy.reduced_value_and_vjp(x, labels, reduction="sum")
    assert value == 0
    assert (gradient == 0).all()


def test_empty_batch():
    x, labels = np.ones((0, 4), np.float32), np.empty(0, int)
    assert cross_entropy.value(x, labels).shape == (0,)
    assert np.isnan(cross_entropy.reduced_value(x, labels, reduction="mean"))
    assert cross_entropy.reduced_value(x, labels, reduction="sum") == 0


def test_device_arrays_stay_on_the_device():
    x = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    labels = np.array([1, 2, 3], np.int32)
    there = cuda.to_device(x)
    terms, gradient = cross_entropy.value_and_vjp(there, cuda.to_device(labels), cotangent=cuda.to_device(np.ones(3)))
    assert not isinstance(terms, np.ndarray)
    assert not isinstance(gradient, np.ndarray)
    here = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(3))
    np.testing.assert_array_equal(terms.copy_to_host(), here[0])
    np.testing.assert_array_equal(gradient.copy_to_host(), here[1])
    np.testing.assert_array_equal(there.copy_to_host(), x)  # not written to
    with pytest.raises(TypeError, match="all arrays must live on the device"):
        cross_entropy.value(there, labels)
    with pytest.raises(ValueError, match="reduction must be"):
        cross_entropy.reduced_value(x, labels, reduction="median")
