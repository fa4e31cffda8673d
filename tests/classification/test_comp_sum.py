"""Comp-sum losses: the family's members, their symmetry, and the bounds of their theory on random distributions."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(5)
LOGITS, LABELS = 2 * RNG.normal(size=(10, 4)), RNG.integers(0, 4, 10)
TAUS = (0.0, 0.3, 0.7, 1.0, 1.4, 1.7, 2.0, 2.5)


# -- the family ----------------------------------------------------------------------------------------------------


def same(loss, other, options=None, other_options=None, rtol=1e-13):
    options, other_options = {"reduction": "none", **(options or {})}, {"reduction": "none", **(other_options or {})}
    value, gradient = loss.value_and_grad(LOGITS, LABELS, **options)
    want, want_gradient = other.value_and_grad(LOGITS, LABELS, **other_options)
    np.testing.assert_allclose(value, want, rtol=rtol)
    np.testing.assert_allclose(gradient, want_gradient, rtol=rtol)


def test_members():
    same(lr.comp_sum, lr.cross_entropy)
    same(lr.comp_sum, lr.mae_classification, {"tau": 2.0})
    same(lr.comp_sum, lr.generalized_cross_entropy, {"tau": 1.7}, {"q": 0.7})
    same(lr.mae_classification, lr.generalized_cross_entropy, {}, {"q": 1.0})
    same(lr.generalized_cross_entropy, lr.cross_entropy, {"q": 1e-12}, rtol=1e-10)
    gaps = LOGITS - LOGITS[np.arange(10), LABELS][:, None]
    sum_exponential = np.exp(gaps).sum(axis=1) - 1
    np.testing.assert_allclose(lr.comp_sum(LOGITS, LABELS, tau=0.0, reduction="none"), sum_exponential, rtol=1e-13)


@pytest.mark.parametrize("tau", [1 - 1e-9, 1 + 1e-9, 1 - 2**-52])
def test_continuous_at_cross_entropy(tau):
    want = lr.cross_entropy(LOGITS, LABELS, reduction="none")
    np.testing.assert_allclose(lr.comp_sum(LOGITS, LABELS, tau=tau, reduction="none"), want, rtol=1e-8)


def test_a_very_wrong_row_overflows_only_where_it_must():
    logits = np.array([[800.0, 0.0, 700.0, -np.inf]])
    value, gradient = lr.comp_sum.value_and_grad(logits, np.array([1]), tau=0.0)
    assert value == np.inf
    np.testing.assert_allclose(gradient, [[np.inf, -np.inf, np.exp(700.0), 0.0]], rtol=1e-12)
    assert np.isfinite(lr.comp_sum(logits, np.array([1]), tau=1.0))


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5, 2.0])
def test_a_masked_label(tau):
    value, gradient = lr.comp_sum.value_and_grad(np.array([[0.0, 0.0, -np.inf]]), np.array([2]), tau=tau)
    assert value == (np.inf if tau <= 1 else 1 / (tau - 1))
    if tau == 1:
        np.testing.assert_array_equal(gradient, [[0.5, 0.5, -1]])
    elif tau > 1:
        np.testing.assert_array_equal(gradient, 0)


def test_truncated_rows_are_given_up():
    logits, labels = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([0, 0, 0])
    value, gradient = lr.generalized_cross_entropy.value_and_grad(
        logits, labels, truncation=0.5, reduction="none"
    )
    given_up = (1 - 0.5**0.7) / 0.7
    np.testing.assert_allclose(value[[0, 2]], given_up, rtol=1e-15)
    assert value[1] < given_up
    np.testing.assert_array_equal(gradient[[0, 2]], 0)
    np.testing.assert_array_equal(gradient[1], lr.generalized_cross_entropy.grad(logits, labels, reduction="none")[1])


def test_mae_is_symmetric_in_the_labels():
    over_labels = sum(lr.mae_classification(LOGITS, np.full(10, y), reduction="none") for y in range(4))
    np.testing.assert_allclose(over_labels, 3.0, rtol=1e-14)
    one_hot = np.eye(4)[LABELS]
    l1 = abs(lr.softmax(LOGITS) - one_hot).sum(axis=1)
    np.testing.assert_allclose(lr.mae_classification(LOGITS, LABELS, scale=2.0, reduction="none"), l1, rtol=1e-12)


# -- the smooth adversarial loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0])
def test_without_perturbation_it_is_comp_sum_of_scaled_scores(tau):
    loss, options = lr.smooth_adversarial_comp_sum, {"tau": tau, "rho": 0.5, "reduction": "none"}
    value, (clean, moved) = loss.value_and_grad(LOGITS, LOGITS, LABELS, **options)
    want, want_gradient = lr.comp_sum.value_and_grad(2 * LOGITS, LABELS, tau=tau, reduction="none")
    np.testing.assert_allclose(value, want, rtol=1e-13)
    np.testing.assert_allclose(clean, 2 * want_gradient, rtol=1e-13)
    np.testing.assert_array_equal(moved, 0)


def test_the_worst_copy_counts():
    copies = LOGITS[:, None] + RNG.normal(size=(10, 3, 4))
    loss = lr.smooth_adversarial_comp_sum
    each = np.stack([loss(LOGITS, copies[:, m], LABELS, nu=0.7, reduction="none") for m in range(3)])
    value, (_, gradient) = loss.value_and_grad(LOGITS, copies, LABELS, nu=0.7, reduction="none")
    np.testing.assert_allclose(value, each.max(axis=0), rtol=1e-14)
    moving = gradient.any(axis=2)
    np.testing.assert_array_equal(np.argmax(moving, axis=1), np.argmax(each, axis=0))
    assert (moving.sum(axis=1) == 1).all()


def test_equal_copies_share_nothing():
    copies = np.repeat(LOGITS[:, None] + 1.0 * np.eye(4)[0], 2, axis=1)
    gradient = lr.smooth_adversarial_comp_sum.grad(LOGITS, copies, LABELS).adversarial_logits
    assert gradient[:, 0].any(axis=1).all() and not gradient[:, 1].any()


def test_margins_too_large_to_square():
    x, z, labels = np.array([[0.0, 0.0, 0.0]]), np.array([[0.0, -3e200, -4e200]]), np.array([0])
    assert lr.smooth_adversarial_comp_sum(x, z, labels) == pytest.approx(5e200)


@pytest.mark.parametrize("shape", [(10, 0, 4), (10, 2, 2, 4)])
def test_copies_are_one_axis_and_at_least_one(shape):
    with pytest.raises(ValueError, match=r"^adversarial_logits: "):
        lr.smooth_adversarial_comp_sum(LOGITS, np.zeros(shape), LABELS)


# -- the theory ----------------------------------------------------------------------------------------------------


def distributions(count, classes):
    """From nearly uniform to nearly certain."""
    return np.concatenate([RNG.dirichlet(np.full(classes, a), count) for a in (0.1, 0.5, 1.0, 5.0)])


def conditional_loss(pi, logits, tau):
    """The expected loss at points with label probabilities pi."""
    classes = pi.shape[1]
    rows = [lr.comp_sum(logits, np.full(len(pi), y), tau=tau, reduction="none") for y in range(classes)]
    return sum(np.where(pi[:, y] == 0, 0, pi[:, y] * rows[y]) for y in range(classes))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_no_scores_do_better_than_the_best_conditional(tau, classes):
    pi = distributions(200, classes)
    best = lr.comp_sum_best_conditional(pi, tau=tau)
    assert (best >= 0).all()
    for scale in (0.1, 1.0, 5.0):
        logits = np.log(pi) * scale + RNG.normal(size=pi.shape) * scale
        assert (conditional_loss(pi, logits, tau) >= best * (1 - 1e-9) - 1e-12).all()
    if tau < 2:  # attained where p is proportional to π^(1/(2-τ))
        np.testing.assert_allclose(conditional_loss(pi, np.log(pi) / (2 - tau), tau), best, rtol=1e-7, atol=1e-12)
    else:  # approached by scores that are sure of the most probable label
        sure = 50.0 * np.eye(classes)[np.argmax(pi, axis=1)]
        np.testing.assert_allclose(conditional_loss(pi, sure, tau), best, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_excess_loss_bounds_excess_error(tau, classes):
    pi = distributions(2000, classes)
    logits = np.log(pi) * RNG.uniform(0, 2, (len(pi), 1)) + RNG.normal(size=pi.shape) * RNG.uniform(0, 3, (len(pi), 1))
    excess_loss = conditional_loss(pi, logits, tau) - lr.comp_sum_best_conditional(pi, tau=tau)
    chosen = pi[np.arange(len(pi)), np.argmax(logits, axis=1)]
    excess_error = pi.max(axis=1) - chosen
    excess_loss = np.maximum(excess_loss, 0)
    options = {"tau": tau, "num_classes": classes}
    assert (lr.comp_sum_transform(excess_error, **options) <= excess_loss * (1 + 1e-9) + 1e-12).all()
    assert (lr.comp_sum_bound(excess_loss, **options) >= excess_error * (1 - 1e-9) - 1e-6).all()


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.7, 1.0])
def test_the_transform_is_attained(tau):
    """Two classes with probabilities (1 ± β)/2, and scores that cannot tell them apart."""
    beta = np.linspace(0, 1, 41)
    pi = np.stack([(1 + beta) / 2, (1 - beta) / 2], axis=1)
    regret = conditional_loss(pi, np.zeros_like(pi), tau) - lr.comp_sum_best_conditional(pi, tau=tau)
    np.testing.assert_allclose(lr.comp_sum_transform(beta, tau=tau, num_classes=2), regret, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_bound_is_above_the_inverse_of_the_transform(tau, classes):
    beta = np.linspace(0, 1, 101)
    options = {"tau": tau, "num_classes": classes}
    transformed = lr.comp_sum_transform(beta, **options)
    assert (np.diff(transformed) > 0).all() and transformed[0] == 0
    assert (np.diff(transformed, 2) > -1e-14).all()  # convex
    assert (lr.comp_sum_bound(transformed, **options) >= beta * (1 - 1e-12)).all()


def test_the_transform_has_no_steps_in_tau():
    beta = np.array([1e-8, 0.1, 0.6999, 0.7001, 0.95, 1.0])
    for tau in (1.0, 2.0):
        at = lr.comp_sum_transform(beta, tau=tau, num_classes=10)
        for near in (tau * (1 - 1e-9), tau * (1 + 1e-9)):
            if tau == 2.0 and near < 2:
                continue  # there 1/(2-τ) is 1e9: a step in all but the limit
            np.testing.assert_allclose(lr.comp_sum_transform(beta, tau=near, num_classes=10), at, rtol=1e-7)


def test_cross_entropys_bound_has_no_number_of_classes():
    gap = np.array([0.0, 0.02, 0.5])
    np.testing.assert_allclose(lr.comp_sum_bound(gap, num_classes=2), np.sqrt(2 * gap))
    np.testing.assert_array_equal(lr.comp_sum_bound(gap, num_classes=2), lr.comp_sum_bound(gap, num_classes=1000))
    np.testing.assert_allclose(lr.comp_sum_bound(gap, tau=2.0, num_classes=7), 7 * gap)


# -- peers ---------------------------------------------------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.7, 2.0, 3.0])
def test_the_definition_by_pytorchs_autograd(tau):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")
    x = torch.tensor(LOGITS, requires_grad=True)
    gaps = (x - x[range(10), LABELS][:, None]).exp().sum(1) - 1
    value = torch.log1p(gaps) if tau == 1 else ((1 + gaps) ** (1 - tau) - 1) / (1 - tau)
    value.sum().backward()
    ours, gradient = lr.comp_sum.value_and_grad(LOGITS, LABELS, tau=tau, reduction="none")
    np.testing.assert_allclose(ours, value.detach().numpy(), rtol=1e-11)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-11, atol=1e-14)
