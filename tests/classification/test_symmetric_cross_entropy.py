"""Symmetric cross-entropy: its two directions, and the papers' code written out."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(3)
STUDENT, TEACHER, LABELS = 2 * RNG.normal(size=(9, 5)), 2 * RNG.normal(size=(9, 5)), RNG.integers(0, 5, 9)


def test_directions():
    forward = lr.symmetric_cross_entropy(STUDENT, TEACHER, alpha=0.0, reduction="none")
    want = lr.soft_cross_entropy(STUDENT, lr.softmax(TEACHER), reduction="none")
    np.testing.assert_allclose(forward, want, rtol=1e-14)
    reverse = lr.symmetric_cross_entropy(STUDENT, TEACHER, alpha=1.0, reduction="none")
    np.testing.assert_allclose(
        reverse, lr.symmetric_cross_entropy(TEACHER, STUDENT, alpha=0.0, reduction="none"), rtol=1e-14
    )
    both = lr.symmetric_cross_entropy(STUDENT, TEACHER, reduction="none")
    np.testing.assert_allclose(both, (forward + reverse) / 2, rtol=1e-14)
    assert isinstance(lr.symmetric_cross_entropy.grad(STUDENT, TEACHER), np.ndarray)  # the teacher gets none


def test_two_sure_networks_keep_the_difference_of_their_doubts():
    student, teacher = np.array([[60.0, 0.0]]), np.array([[50.0, 0.0]])
    gradient = lr.symmetric_cross_entropy.grad(student, teacher, alpha=0.0)
    want = np.exp(-50.0) - np.exp(-60.0)
    np.testing.assert_allclose(gradient, [[want, -want]], rtol=1e-14)


def test_masks():
    student, teacher = np.array([[1.0, 0.0, -np.inf]]), np.array([[0.0, 1.0, -np.inf]])
    want, want_gradient = lr.symmetric_cross_entropy.value_and_grad(student[:, :2], teacher[:, :2])
    value, gradient = lr.symmetric_cross_entropy.value_and_grad(student, teacher)
    assert value == want
    np.testing.assert_array_equal(gradient, [[*want_gradient[0], 0.0]])
    for alpha, one, other in ((0.5, student, STUDENT[:1, :3]), (0.5, STUDENT[:1, :3], teacher)):
        assert lr.symmetric_cross_entropy(one, other, alpha=alpha) == np.inf
    assert np.isfinite(lr.symmetric_cross_entropy(student, STUDENT[:1, :3], alpha=1.0))
    unlikely = np.array([[0.0, 0.0, -900.0], [1.0, 0.0, 2.0]])  # however unlikely
    excluding = np.array([[0.0, 0.0, -np.inf], [0.0, 1.0, 0.0]])
    value, gradient = lr.symmetric_cross_entropy.value_and_grad(unlikely, excluding, reduction="none")
    assert value[0] == np.inf and np.isnan(gradient[0]).all()
    assert np.isfinite(value[1]) and np.isfinite(gradient[1]).all()
    assert np.isfinite(lr.symmetric_cross_entropy.grad(unlikely, excluding, alpha=0.0)).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_the_share_is_a_share(alpha):
    with pytest.raises(ValueError, match=r"^alpha: "):
        lr.symmetric_cross_entropy(STUDENT, TEACHER, alpha=alpha)


def test_of_labels_is_cross_entropy_plus_mae():
    want = 0.3 * lr.cross_entropy(STUDENT, LABELS) + 2 * 5 * lr.mae_classification(STUDENT, LABELS)
    got = lr.symmetric_cross_entropy_labels(STUDENT, LABELS, alpha=0.3, beta=2.0, log_zero=-5.0)
    assert got == pytest.approx(want, rel=1e-14)


def test_of_labels_with_clipped_probabilities_and_labels():
    """The paper's code: the prediction clipped to [1e-7, 1], the one-hot label to [1e-4, 1]."""
    logits = np.concatenate([STUDENT, [[40.0, 0, 0, 0, 0], [0, 40.0, 0, 0, 0]]])
    labels = np.append(LABELS, [1, 1])
    p, one_hot = lr.softmax(logits), np.eye(5)[labels]
    forward = -(one_hot * np.log(np.clip(p, 1e-7, 1))).sum(axis=1)
    reverse = -(p * np.log(np.clip(one_hot, 1e-4, 1))).sum(axis=1)
    options = {"alpha": 0.1, "beta": 1.0, "log_zero": np.log(1e-4), "prob_floor": 1e-7, "reduction": "none"}
    got = lr.symmetric_cross_entropy_labels(logits, labels, **options)
    np.testing.assert_allclose(got, 0.1 * forward + reverse, rtol=1e-12, atol=1e-16)
    gradient = lr.symmetric_cross_entropy_labels.grad(logits, labels, **options)
    assert abs(gradient[-2]).max() < 1e-15  # given up: only the vanishing pull of MAE is left


@pytest.mark.parametrize("log_zero", [0.0, 1.0])
def test_log_zero_is_negative(log_zero):
    with pytest.raises(ValueError, match=r"^log_zero: "):
        lr.symmetric_cross_entropy_labels(STUDENT, LABELS, log_zero=log_zero)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_papers_formula_by_pytorchs_autograd(alpha):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")
    x, teacher = torch.tensor(STUDENT, requires_grad=True), torch.tensor(TEACHER)
    forward = (teacher.softmax(1) * x.log_softmax(1)).sum(1)
    reverse = (x.softmax(1) * teacher.log_softmax(1)).sum(1)
    value = -(1 - alpha) * forward - alpha * reverse
    value.sum().backward()
    ours, gradient = lr.symmetric_cross_entropy.value_and_grad(STUDENT, TEACHER, alpha=alpha, reduction="none")
    np.testing.assert_allclose(ours, value.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-12, atol=1e-15)
