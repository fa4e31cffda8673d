"""softmax: every rung of every algorithm, and the vector-Jacobian product."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import softmax

LENGTHS = (1, 3, 31, 33, 64, 70)
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("rung", softmax.RUNGS)
@pytest.mark.parametrize("length", LENGTHS)
def test_ordinary_rows(exact, launch_options, rung, length):
    x = np.random.default_rng(length).normal(size=(3, length)).astype(np.float32) * 5
    y = softmax.value(x, **launch_options(rung))
    assert y.dtype == np.float32
    assert exact.error(y, *exact.softmax(x), np.float32) <= 4


NARROW_ONLY = "row_in_registers"
RUNGS_AND_DTYPES = [
    pytest.param(rung, dtype, id=f"{np.dtype(dtype).name}-{rung}")
    for rung in softmax.RUNGS
    for dtype in DTYPES
    if (rung, dtype) != (NARROW_ONLY, np.float64)
]


@pytest.mark.parametrize(("rung", "dtype"), RUNGS_AND_DTYPES)
def test_hard_rows(exact, launch_options, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    y = softmax.value(x, **launch_options(rung))
    truth, allowance = exact.softmax(x)
    if rung == "two_pass_mantissa_exponent":
        # By construction: results below the smallest normal number are 0.
        truth = np.where(truth < ml_dtypes.finfo(np.dtype(dtype)).smallest_normal, 0, truth)
        y = np.where(y < ml_dtypes.finfo(np.dtype(dtype)).smallest_normal, np.zeros_like(y), y)
    assert exact.error(y, truth, allowance, dtype) <= 4


@pytest.mark.parametrize("algorithm", ["three_pass", "online", "two_pass"])
def test_algorithms_agree(exact, algorithm):
    x = np.random.default_rng(0).normal(size=(2, 40))
    assert exact.error(softmax.value(x, algorithm=algorithm), *exact.softmax(x), np.float64) <= 4


@pytest.mark.parametrize("short_of", [0, 1, 2, 3, 30])
def test_rows_that_fill_the_registers(exact, short_of):
    """Several warps on a GPU; and a second row that starts on any multiple of four bytes."""
    length = softmax.LONGEST_IN_REGISTERS - short_of
    x = np.random.default_rng(short_of).normal(size=(2, length)).astype(np.float32) * 5
    y = softmax.value(x, rung=NARROW_ONLY)
    assert exact.error(y, *exact.softmax(x), np.float32) <= 4


def test_what_does_not_fit_into_registers():
    with pytest.raises(ValueError, match="does not take float64"):
        softmax.value(np.zeros((1, 8)), rung=NARROW_ONLY)
    with pytest.raises(ValueError, match="does not fit into registers"):
        softmax.value(np.zeros((1, softmax.LONGEST_IN_REGISTERS + 1), np.float32), rung=NARROW_ONLY)


@pytest.mark.parametrize("aligned", [True, False])
def test_the_best_rung_reads_a_row_once_while_it_can(aligned):
    longest = softmax.LONGEST_IN_REGISTERS
    for columns, itemsize in ((600, 4), (longest, 4), (longest + 1, 4), (600, 8), (2**17, 2)):
        rung = softmax.best_rung(4096, columns, itemsize, "three_pass", aligned)
        fits = aligned and columns <= longest and itemsize < 8
        beyond = "vectorised" if aligned else "block_per_row_online"
        on_chip = columns * itemsize <= softmax.CHIP_BYTES
        assert rung == (NARROW_ONLY if fits else "row_on_chip" if on_chip else beyond)
    if aligned:
        assert softmax.best_rung(8, 2**17, 4, "three_pass") == "long_row_split_over_blocks"


def test_unknown_algorithm():
    with pytest.raises(ValueError, match="algorithm must be one of"):
        softmax.value(np.zeros((1, 2)), algorithm="four_pass")


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy scalars warn in the simulator, a GPU does not
@pytest.mark.parametrize("rung", softmax.RUNGS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(launch_options, rung, bad):
    x = np.zeros((3, 35), np.float32)
    x[1, 34] = bad
    y = softmax.value(x, **launch_options(rung))
    assert np.isnan(y[1]).all()
    np.testing.assert_allclose(y[[0, 2]], 1 / 35, rtol=1e-6)


def test_two_pass_beyond_its_range_falls_back(exact):
    """From |x| of about 1e5 the rounding of x / ln 2 shows; the kernel notices and does three passes."""
    x = np.array([[1e6, 1e6 + 1, 1e6 - 3], [-3e38, -3e38, -3e38]], np.float32)
    y = softmax.value(x, algorithm="two_pass")
    assert exact.error(y, *exact.softmax(x), np.float32) <= 4


@pytest.mark.parametrize("rung", softmax.RUNGS)
def test_below_the_normal_numbers(exact, launch_options, rung):
    """Down to the smallest number there is, and to zero."""
    for dtype, end in ((np.float32, 106), (np.float64, 748)):
        if rung == NARROW_ONLY and dtype == np.float64:
            continue
        x = -np.linspace(end - 20, end, 40).astype(dtype)
        x[0] = 0
        y = softmax.value(x[None], **launch_options(rung))
        assert 0 < y[0, 1:].min(initial=1, where=y[0, 1:] > 0) < 4 * np.finfo(dtype).smallest_subnormal
        assert exact.error(y, *exact.softmax(x[None]), dtype) <= 4


@pytest.mark.parametrize("rung", softmax.VJP_RUNGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_vjp(exact, hard_rows, rung, dtype):
    x = hard_rows(dtype)
    w = np.random.default_rng(3).normal(size=x.shape).astype(dtype)
    gradient = softmax.vjp(x, cotangent=w, rung=rung)
    assert exact.error(gradient, *exact.softmax_vjp(x, w), dtype) <= 8


@pytest.mark.parametrize("rung", softmax.VJP_RUNGS)
def test_vjp_of_a_constant_is_zero(rung):
    x = np.random.default_rng(3).normal(size=(2, 35)).astype(np.float32)
    gradient = softmax.vjp(x, cotangent=np.full_like(x, 0.3), rung=rung)
    assert (gradient == 0).all()


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_axis(axis):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    w = np.random.default_rng(1).normal(size=x.shape)
    y, gradient = softmax.value_and_vjp(x, cotangent=w, axis=axis)
    e = np.exp(x)
    p = e / e.sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(y, p, rtol=1e-13)
    np.testing.assert_allclose(gradient, p * (w - (p * w).sum(axis=axis, keepdims=True)), rtol=1e-10, atol=1e-14)


def test_empty_batch():
    assert softmax.value(np.empty((0, 3))).shape == (0, 3)
    assert softmax.vjp(np.empty((0, 3)), cotangent=np.empty((0, 3))).shape == (0, 3)
