"""Softmax collapse, StableMax cross-entropy and ⊥Grad."""

import ml_dtypes
import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(21)
DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


# -- softmax_collapse ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, lead", [("float16", 7.62), ("bfloat16", 5.55), ("float32", 16.64), ("float64", 36.74)])
def test_leads_at_which_two_classes_collapse(dtype, lead):
    for logits, want in (([lead - 0.02, 0.0], False), ([lead + 0.02, 0.0], True)):
        assert lr.softmax_collapse(np.array([logits]), np.array([0]), dtype=dtype) == [want]


def test_equal_rivals_need_a_greater_lead():
    lead = 24 * np.log(2) + np.log(999)
    for shift, want in ((-0.01, False), (0.01, True)):
        logits = np.concatenate([[lead + shift], np.zeros(999)])[None]
        assert lr.softmax_collapse(logits, np.array([0])) == [want]


@pytest.mark.parametrize("name", DTYPES)
def test_it_is_what_the_arithmetic_does(name):
    """1 + ρ, rounded, is 1."""
    leads = np.linspace(3, 45, 400)
    added = (1 + np.exp(-leads)).astype(DTYPES[name])
    if name == "float64":  # 1 + ρ is the rounded number already
        added = 1 + np.exp(-leads)
    logits = np.stack([leads, np.zeros_like(leads)], axis=1)
    np.testing.assert_array_equal(lr.softmax_collapse(logits, np.zeros(400, int), dtype=name), added == 1)


def test_the_answer_does_not_depend_on_the_dtype_of_the_logits():
    logits, labels = np.array([[20.0, 0.0], [40.0, 0.0]]), np.array([0, 0])
    for dtype in DTYPES.values():
        assert lr.softmax_collapse(logits.astype(dtype), labels, dtype="float64").tolist() == [False, True]
        assert lr.softmax_collapse(logits.astype(dtype), labels).tolist() == [True, True]


def test_wrong_masked_and_single_classes():
    inf = np.inf
    logits = np.array([[0.0, 30.0, 0.0], [0.0, -inf, -inf], [-inf, 0.0, 1.0]])
    assert lr.softmax_collapse(logits, np.zeros(3, int)).tolist() == [False, True, False]
    assert lr.softmax_collapse(np.zeros((1, 1)), np.array([0])).tolist() == [True]


def test_the_library_itself_does_not_collapse():
    logits, labels = np.array([[60.0, 0.0, 1.0]], np.float32), np.array([0])
    assert lr.softmax_collapse(logits, labels).all()
    value, gradient = lr.cross_entropy.value_and_grad(logits, labels)
    assert value > 0 and (gradient != 0).all()


# -- stablemax_cross_entropy ---------------------------------------------------------------------------------------


def test_it_is_cross_entropy_of_symmetric_logarithms():
    logits, labels = 10 * RNG.normal(size=(20, 5)), RNG.integers(0, 5, 20)
    stretched = np.sign(logits) * np.log1p(abs(logits))
    got = lr.stablemax_cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(got, lr.cross_entropy(stretched, labels, reduction="none"), rtol=1e-13)
    got = lr.stablemax_cross_entropy.grad(logits, labels)
    want = lr.cross_entropy.grad(stretched, labels) / (1 + abs(logits))
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(
        lr.stablemax_cross_entropy(logits, labels),
        -np.log(lr.stablemax(logits))[np.arange(20), labels].mean(),
        rtol=1e-13,
    )


def test_huge_scores():
    logits = np.array([[-1e300, 1e300], [1e300, -1e300], [1e308, 1e308]])
    got = lr.stablemax_cross_entropy(logits, np.zeros(3, int), reduction="none")
    np.testing.assert_allclose(got, [600 * np.log(10), 0, np.log(2)], rtol=1e-14)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_the_papers_formula_in_pytorch():
    torch = pytest.importorskip("torch")
    logits, labels = 10 * RNG.normal(size=(20, 5)), RNG.integers(0, 5, 20)
    x = torch.tensor(logits, requires_grad=True)
    s = torch.where(x < 0, 1 / (1 - x), x + 1)
    peer = -torch.log(s / s.sum(dim=1, keepdim=True))[range(20), labels].mean()
    peer.backward()
    np.testing.assert_allclose(lr.stablemax_cross_entropy(logits, labels), peer.item(), rtol=1e-13)
    np.testing.assert_allclose(lr.stablemax_cross_entropy.grad(logits, labels), x.grad.numpy(), rtol=1e-11, atol=1e-16)


# -- perp_grad -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4), ()])
@pytest.mark.parametrize("rescale", [False, True])
def test_the_papers_formula(shape, rescale):
    w, g = RNG.normal(size=shape), RNG.normal(size=shape)
    want = g - (w * g).sum() / ((w * w).sum() + 1e-30) * w
    if rescale:
        want = want * (np.linalg.norm(g) / (np.linalg.norm(want) + 1e-30))
    if shape == ():
        want = 0  # a number has nothing across; the code scales the rounding up
    np.testing.assert_allclose(lr.perp_grad(w, g, rescale=rescale), want, rtol=1e-12, atol=1e-15)


def test_nothing_is_left_along_the_weights():
    w, g = RNG.normal(size=100), RNG.normal(size=100)
    for rescale in (False, True):
        assert abs(w @ lr.perp_grad(w, g, rescale=rescale)) < 1e-13
    assert np.linalg.norm(lr.perp_grad(w, g, rescale=True)) == pytest.approx(np.linalg.norm(g), rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_weights_leave_the_gradient_and_a_parallel_gradient_vanishes(dtype):
    g = RNG.normal(size=9).astype(dtype)
    for rescale in (False, True):
        np.testing.assert_allclose(
            lr.perp_grad(np.zeros(9, dtype), g, rescale=rescale), g, rtol=4 * np.finfo(dtype).eps
        )
    np.testing.assert_array_equal(lr.perp_grad(g, 2 * g, rescale=True), 0)
    np.testing.assert_array_equal(lr.perp_grad(g, 0 * g, rescale=True), 0)


def test_sizes_whose_squares_overflow_or_vanish():
    w, g = RNG.normal(size=5), RNG.normal(size=5)
    want = lr.perp_grad(w, g)
    np.testing.assert_allclose(lr.perp_grad(1e200 * w, 1e300 * g) / 1e300, want, rtol=1e-12)
    np.testing.assert_allclose(lr.perp_grad(1e-200 * w, g, eps=0.0), want, rtol=1e-12)
    np.testing.assert_allclose(lr.perp_grad(1e-200 * w, g), g, rtol=1e-15)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"^grads: "):
        lr.perp_grad(np.ones(3), np.ones((3, 1)))
