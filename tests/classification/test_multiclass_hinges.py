"""The multiclass hinges: special cases, ties, and peers."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(7)
LOGITS, LABELS = RNG.normal(size=(12, 6)) * 2, RNG.integers(0, 6, 12)


def literal(margin):
    """The gaps, one by one."""
    return np.array(
        [[margin * (k != y) + row[k] - row[y] for k in range(6)] for row, y in zip(LOGITS, LABELS, strict=True)]
    )


def test_top_1_is_crammer_and_singer():
    for variant in ("alpha", "beta"):
        options = {"k": 1, "variant": variant, "margin": 0.7}
        want = lr.crammer_singer_hinge(LOGITS, LABELS, margin=0.7)
        np.testing.assert_allclose(lr.top_k_hinge(LOGITS, LABELS, **options), want, rtol=1e-14)
        want = lr.crammer_singer_hinge.grad(LOGITS, LABELS, margin=0.7)
        np.testing.assert_allclose(lr.top_k_hinge.grad(LOGITS, LABELS, **options), want, rtol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_top_k_of_the_literal_gaps(k):
    largest = np.sort(literal(1.0), axis=1)[:, ::-1][:, :k]
    alpha, beta = np.maximum(0, largest.mean(axis=1)), np.maximum(0, largest).mean(axis=1)
    np.testing.assert_allclose(lr.top_k_hinge(LOGITS, LABELS, k=k, reduction="none"), alpha, rtol=1e-13)
    np.testing.assert_allclose(lr.top_k_hinge(LOGITS, LABELS, k=k, variant="beta", reduction="none"), beta, rtol=1e-13)


def test_all_k_after_the_hinge_is_weston_and_watkins_over_the_number_of_classes():
    want = lr.weston_watkins_hinge(LOGITS, LABELS) / 6
    np.testing.assert_allclose(lr.top_k_hinge(LOGITS, LABELS, k=6, variant="beta"), want, rtol=1e-14)
    np.testing.assert_allclose(lr.multi_margin(LOGITS, LABELS), want, rtol=1e-14)


def test_more_guesses_than_classes_are_refused():
    with pytest.raises(ValueError, match=r"^k: "):
        lr.top_k_hinge(LOGITS, LABELS, k=7)
    with pytest.raises(ValueError, match=r"^k: "):
        lr.top_k_hinge(LOGITS[:, :3], LABELS % 3)


def test_only_first_and_second_powers():
    with pytest.raises(ValueError, match=r"^p: "):
        lr.multi_margin(LOGITS, LABELS, p=3)


def test_a_maximum_that_the_label_attains_has_no_gradient():
    logits = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 1.0]])  # the rival is exactly on the margin
    np.testing.assert_array_equal(lr.crammer_singer_hinge.grad(logits, np.array([0, 0])), 0)
    np.testing.assert_array_equal(lr.weston_watkins_hinge.grad(logits, np.array([0, 0])), 0)
    np.testing.assert_array_equal(lr.top_k_hinge.grad(logits, np.array([0, 0]), k=1), 0)


def test_among_equal_rivals_the_first_is_pushed():
    gradient = lr.crammer_singer_hinge.grad(np.array([[1.0, 1.0, 0.0]]), np.array([2]))
    np.testing.assert_array_equal(gradient, [[1, 0, -1]])


def test_masks_make_no_sense():
    logits = LOGITS.copy()
    logits[3, 2] = -np.inf
    for hinge in (lr.crammer_singer_hinge, lr.weston_watkins_hinge, lr.multi_margin, lr.top_k_hinge):
        with pytest.raises(ValueError, match=r"^logits: "):
            hinge(logits, LABELS)


@pytest.mark.peers
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_pytorch_multi_margin(p, weighted, reduction):
    torch = pytest.importorskip("torch")
    weight = np.linspace(0.5, 2, 6) if weighted else None
    x = torch.tensor(LOGITS, requires_grad=True)
    peer = torch.nn.functional.multi_margin_loss(
        x,
        torch.tensor(LABELS),
        p=p,
        margin=0.8,
        weight=None if weight is None else torch.tensor(weight),
        reduction=reduction,
    )
    peer.sum().backward()
    options = {"p": p, "margin": 0.8, "weight": weight, "reduction": reduction}
    np.testing.assert_allclose(lr.multi_margin(LOGITS, LABELS, **options), peer.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(lr.multi_margin.grad(LOGITS, LABELS, **options), x.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.peers
def test_optax_multiclass_hinge_loss():
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    logits = LOGITS.astype(np.float32)
    want = optax.losses.multiclass_hinge_loss(logits, LABELS)
    np.testing.assert_allclose(lr.crammer_singer_hinge(logits, LABELS, reduction="none"), want, rtol=1e-6)
    want = jax.grad(lambda x: optax.losses.multiclass_hinge_loss(x, LABELS).mean())(logits)
    np.testing.assert_allclose(lr.crammer_singer_hinge.grad(logits, LABELS), want, atol=1e-7)


@pytest.mark.peers
def test_scikit_learn_hinge_loss():
    metrics = pytest.importorskip("sklearn.metrics")
    want = metrics.hinge_loss(LABELS, LOGITS, labels=np.arange(6))
    np.testing.assert_allclose(lr.crammer_singer_hinge(LOGITS, LABELS), want, rtol=1e-13)
