"""The label-distributionally robust losses: limits, special cases, the inner maximum, the papers' code."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(11)
LOGITS, LABELS = 2 * RNG.normal(size=(16, 7)), RNG.integers(0, 7, 16)
NONE = {"reduction": "none"}


def literal_gaps(margin):
    return np.array(
        [[row[k] - row[y] + margin * (k != y) for k in range(7)] for row, y in zip(LOGITS, LABELS, strict=True)]
    )


def divergence(pi):
    return np.log(7) + (pi * np.log(pi)).sum(axis=1)


# -- ldr_kl --------------------------------------------------------------------------------------------------------


def test_at_temperature_1_without_margin_it_is_cross_entropy_less_log_k():
    got = lr.ldr_kl(LOGITS, LABELS, margin=0.0, **NONE)
    np.testing.assert_allclose(got, lr.cross_entropy(LOGITS, LABELS, **NONE) - np.log(7), rtol=1e-12)
    np.testing.assert_allclose(
        lr.ldr_kl.grad(LOGITS, LABELS, margin=0.0), lr.cross_entropy.grad(LOGITS, LABELS), rtol=1e-12
    )


@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_without_margin_it_is_temperature_scaled_cross_entropy(temperature):
    got = lr.ldr_kl(LOGITS, LABELS, margin=0.0, temperature=temperature, **NONE)
    want = temperature * (lr.cross_entropy(LOGITS / temperature, LABELS, **NONE) - np.log(7))
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("margin", [0.0, 0.1, 2.0])
def test_temperature_to_0_is_the_hinge_of_crammer_and_singer(margin):
    for temperature in (1e-4, 1e-9, 1e-300):
        got = lr.ldr_kl(LOGITS, LABELS, margin=margin, temperature=temperature, **NONE)
        want = lr.crammer_singer_hinge(LOGITS, LABELS, margin=margin, **NONE)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=temperature * np.log(7) * (1 + 1e-12))
    got = lr.ldr_kl.grad(LOGITS, LABELS, margin=margin, temperature=1e-6)
    np.testing.assert_allclose(got, lr.crammer_singer_hinge.grad(LOGITS, LABELS, margin=margin), atol=1e-12)


def test_temperature_to_infinity_is_the_mean_gap_and_symmetric_over_the_labels():
    want = LOGITS.mean(axis=1) - LOGITS[np.arange(16), LABELS] + 0.1 * 6 / 7
    for temperature in (1e12, 1e100, 1e300):
        np.testing.assert_allclose(lr.ldr_kl(LOGITS, LABELS, temperature=temperature, **NONE), want, rtol=1e-10)
    over_labels = sum(lr.ldr_kl(LOGITS, np.full(16, y), temperature=1e100, **NONE) for y in range(7))
    np.testing.assert_allclose(over_labels, 0.6, rtol=1e-12)


def test_no_less_than_minus_lambda_log_k():
    logits = np.array([[1e4, 0.0, 0.0]])
    assert lr.ldr_kl(logits, np.array([0]), temperature=2.0) == pytest.approx(-2 * np.log(3), rel=1e-15)


def test_softplus_scores_of_very_negative_logits_do_not_vanish():
    logits = np.array([[-1.0, 0.0, 1.0]])
    far = lr.ldr_kl(logits - 3000, np.array([1]), normalize="softplus")
    limit = 3 * np.exp(logits) / np.exp(logits).sum()  # softplus is the exponential there
    assert far == pytest.approx(lr.ldr_kl(limit, np.array([1])), rel=1e-14)
    assert np.isfinite(lr.ldr_kl.grad(logits - 3000, np.array([1]), normalize="softplus")).all()


def test_l1_scores_do_not_depend_on_the_scale_and_need_one():
    got = lr.ldr_kl(1000 * LOGITS, LABELS, normalize="l1")
    assert got == pytest.approx(lr.ldr_kl(LOGITS, LABELS, normalize="l1"), rel=1e-13)
    for function, other in ((lr.ldr_kl, LABELS), (lr.aldr_kl, LABELS), (lr.aldr_kl_step, np.ones(16))):
        with pytest.raises(ValueError, match=r"^logits: .*l1"):
            function(LOGITS * (np.arange(16) != 3)[:, None], other, normalize="l1")


# -- aldr_kl -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lambda0, alpha", [(1.0, 2.0), (0.2, 1.1), (10.0, 1.5)])
def test_it_is_the_maximum_over_temperatures(lambda0, alpha):
    got = lr.aldr_kl(LOGITS, LABELS, lambda0=lambda0, alpha=alpha, **NONE)
    on_grid = [
        lr.aldr_kl(LOGITS, LABELS, lambda0=lambda0, alpha=alpha, lambdas=np.full(16, lam), **NONE)
        for lam in np.linspace(lambda0 * (1 - 1 / alpha), lambda0, 2001)
    ]
    assert (got >= np.max(on_grid, axis=0) - 1e-13).all()
    np.testing.assert_allclose(got, np.max(on_grid, axis=0), rtol=1e-5, atol=1e-5 * lambda0)


def test_gradient_at_given_temperatures_is_that_of_ldr_kl():
    lambdas = RNG.uniform(0.3, 2, 16)
    got = lr.aldr_kl.grad(LOGITS, LABELS, lambdas=lambdas, reduction="none")
    for row in range(16):
        want = lr.ldr_kl.grad(LOGITS[[row]], LABELS[[row]], temperature=lambdas[row])
        np.testing.assert_allclose(got[[row]], want, rtol=1e-13)


def test_steps_with_the_margin_of_the_loss_lead_to_its_maximum():
    # Without a margin the gaps and the scores have the same softmax, so the steps find the maximiser.
    lambdas = np.ones(16)
    for _ in range(300):
        lambdas = lr.aldr_kl_step(LOGITS, lambdas)
    got = lr.aldr_kl(LOGITS, LABELS, margin=0.0, lambdas=lambdas, **NONE)
    np.testing.assert_allclose(got, lr.aldr_kl(LOGITS, LABELS, margin=0.0, **NONE), rtol=1e-12)


def test_a_flat_row_keeps_its_temperature_and_a_certain_one_loses_all_it_can():
    got = lr.aldr_kl_step(np.array([[0.0, 0.0, 0.0], [500.0, 0.0, 0.0]]), np.ones(2), lambda0=2.0, alpha=4.0)
    np.testing.assert_allclose(got, [2.0, 2.0 * (1 - 1 / 4)], rtol=1e-15)


def test_a_probability_floor():
    p = np.exp(LOGITS / 0.5) / np.exp(LOGITS / 0.5).sum(axis=1, keepdims=True) + 1e-5
    p /= p.sum(axis=1, keepdims=True)
    got = lr.aldr_kl_step(LOGITS, np.full(16, 0.5), prob_floor=1e-5, lambda0=3.0, alpha=5.0)
    np.testing.assert_allclose(got, 3 * (1 - divergence(p) / (5 * np.log(7))), rtol=1e-12)


def test_alpha_must_exceed_1():
    with pytest.raises(ValueError, match=r"^alpha: "):
        lr.aldr_kl(LOGITS, LABELS, alpha=1.0)


def test_a_single_class_loses_nothing():
    logits, labels = np.array([[3.0], [-1.0]]), np.array([0, 0])
    for function in (
        lr.ldr_kl,
        lr.aldr_kl,
        lr.crammer_singer_hinge,
        lr.weston_watkins_hinge,
    ):
        np.testing.assert_array_equal(function(logits, labels, **NONE), 0)
        np.testing.assert_array_equal(function.grad(logits, labels), 0)
    np.testing.assert_array_equal(lr.aldr_kl_step(logits, np.ones(2), lambda0=0.5), 0.5)


# -- ldr_topk_kl ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.1, 1.0, 100.0])
def test_top_1_is_ldr_kl(temperature):
    options = {"temperature": temperature, "margin": 0.4}
    got, want = lr.ldr_topk_kl(LOGITS, LABELS, k=1, **options, **NONE), lr.ldr_kl(LOGITS, LABELS, **options, **NONE)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    got, want = lr.ldr_topk_kl.grad(LOGITS, LABELS, k=1, **options), lr.ldr_kl.grad(LOGITS, LABELS, **options)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("k", [2, 5, 7])
def test_temperature_to_0_is_the_mean_of_the_k_largest_gaps(k):
    want = np.sort(literal_gaps(0.1), axis=1)[:, ::-1][:, :k].mean(axis=1)
    np.testing.assert_allclose(lr.ldr_topk_kl(LOGITS, LABELS, k=k, temperature=1e-14, **NONE), want, rtol=1e-10)
    at_most_0 = np.maximum(lr.ldr_topk_kl(LOGITS, LABELS, k=k, temperature=1e-14, **NONE), 0)
    np.testing.assert_allclose(at_most_0, lr.top_k_hinge(LOGITS, LABELS, k=k, margin=0.1, **NONE), rtol=1e-10)


@pytest.mark.parametrize("k, temperature", [(2, 1.0), (3, 0.5), (5, 3.0), (6, 0.2)])
def test_it_is_the_maximum_over_capped_distributions(k, temperature):
    """The optimality conditions: π ∝ e^(q/λ) where it is below the cap, and no less than that at the cap."""
    pi = lr.ldr_topk_kl.grad(LOGITS, LABELS, k=k, temperature=temperature, reduction="none")
    pi[np.arange(16), LABELS] += 1
    q = literal_gaps(0.1)
    np.testing.assert_allclose(pi.sum(axis=1), 1, rtol=1e-14)
    assert (pi <= 1 / k + 1e-15).all()
    for row in range(16):
        free = pi[row] < 1 / k - 1e-12
        slope = q[row] - temperature * np.log(pi[row])
        if free.any():
            assert np.ptp(slope[free]) < 1e-10
            assert (slope[~free] >= slope[free].max() - 1e-10).all()
    want = (pi * q).sum(axis=1) - temperature * (pi * np.log(7 * pi)).sum(axis=1)
    got = lr.ldr_topk_kl(LOGITS, LABELS, k=k, temperature=temperature, **NONE)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


# -- the paper's code, as formulas that PyTorch differentiates ---------------------------------------------------------


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("normalize", ["softplus", "l1"])
def test_the_papers_code(normalize):
    torch = pytest.importorskip("torch")
    x, one_hot = torch.tensor(LOGITS, requires_grad=True), torch.nn.functional.one_hot(torch.tensor(LABELS), 7).double()
    positive = torch.nn.functional.softplus(x) if normalize == "softplus" else x
    f = positive / positive.abs().mean(dim=1, keepdim=True)
    q = 0.1 * (1 - one_hot) + f - (f * one_hot).sum(dim=1, keepdim=True)
    pi = torch.softmax(f / 1.5, dim=1) + 1e-5
    pi = pi / pi.sum(dim=1, keepdim=True)
    lam = (2.0 - 2.0 * (pi * torch.log(7 * pi)).sum(dim=1) / (3 * np.log(7))).detach()
    robust = lam * torch.log(torch.exp(q / lam[:, None]).mean(dim=1))
    adaptive = (robust - 3 * np.log(7) / (2 * 2.0) * (lam - 2.0) ** 2).mean()
    adaptive.backward()

    lambdas = lr.aldr_kl_step(LOGITS, np.full(16, 1.5), lambda0=2.0, alpha=3.0, prob_floor=1e-5, normalize=normalize)
    np.testing.assert_allclose(lambdas, lam.numpy(), rtol=1e-12)
    options = {"lambda0": 2.0, "alpha": 3.0, "normalize": normalize, "lambdas": lambdas}
    np.testing.assert_allclose(lr.aldr_kl(LOGITS, LABELS, **options), adaptive.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(lr.aldr_kl.grad(LOGITS, LABELS, **options), x.grad.numpy(), rtol=1e-11, atol=1e-15)
