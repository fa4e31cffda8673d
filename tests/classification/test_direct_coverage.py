"""Direct coverage: its ends, what it reduces to, and the paper's code."""

import numpy as np
import pytest

import lossref as lr

LOGPS = np.log(np.array([0.9, 0.5, 0.4999, 0.1, 0.01, 1e-3, 1e-5, 1e-9, 1e-40]))


@pytest.mark.parametrize("logps", [LOGPS, np.array([-0.0, -1e-300, -1e-17, -800.0, -1e6, -1e300])])
def test_one_sample_is_cross_entropy(logps):
    value, gradient = lr.direct_coverage.value_and_grad(logps, n_samples=1, reduction="none")
    np.testing.assert_allclose(value, -logps, rtol=1e-15)
    np.testing.assert_allclose(gradient, -1, rtol=1e-15)
    np.testing.assert_allclose(lr.direct_coverage_weight(logps, n_samples=1), 1, rtol=1e-15)


def test_gradient_is_minus_the_weight():
    for n in (1, 2, 8, 256, 4096):
        got = lr.direct_coverage.grad(LOGPS, n_samples=n, reduction="none")
        np.testing.assert_array_equal(got, -lr.direct_coverage_weight(LOGPS, n_samples=n))


def test_a_sure_answer_costs_and_pulls_nothing():
    value, gradient = lr.direct_coverage.value_and_grad(np.zeros(2), n_samples=2, reduction="none")
    assert (value == 0).all() and (gradient == 0).all()


def test_a_hopeless_answer_is_pulled_as_by_cross_entropy():
    logps = np.array([-50.0, -700.0, -745.0, -1e5, -np.inf])
    value, gradient = lr.direct_coverage.value_and_grad(logps, reduction="none")
    np.testing.assert_allclose(value, -logps - np.log(256), rtol=1e-15)
    np.testing.assert_allclose(gradient, -1, rtol=1e-15)


def test_weight_between_0_and_1_falls_with_p():
    weight = lr.direct_coverage_weight(np.linspace(-60, 0, 20001))
    assert (weight >= 0).all() and (weight <= 1).all() and (np.diff(weight) <= 1e-15).all()


def test_log_probabilities_above_0_are_refused():
    for function in (lr.direct_coverage, lr.direct_coverage_weight):
        with pytest.raises(ValueError, match=r"^logps: "):
            function(np.array([-1.0, 1e-9]))
        with pytest.raises(ValueError, match=r"^n_samples: "):
            function(LOGPS, n_samples=0)


def test_a_proof_is_the_sum_over_its_steps():
    rng = np.random.default_rng(3)
    steps, mask = -rng.gamma(1, 2, (5, 4)), rng.uniform(size=(5, 4)) < 0.6
    each = lr.direct_coverage(steps.ravel(), n_samples=8, reduction="none").reshape(5, 4)
    np.testing.assert_allclose(
        lr.direct_coverage_step(steps, mask, reduction="none"), np.where(mask, each, 0).sum(axis=1), rtol=1e-14
    )
    likelihood = lr.direct_coverage_step(steps, mask, n_samples=1, reduction="none")
    np.testing.assert_allclose(likelihood, -np.where(mask, steps, 0).sum(axis=1), rtol=1e-14)


def test_off_the_mask_anything_goes():
    steps = np.array([[-1.0, np.nan, -2.0], [np.inf, 7.0, -0.5]])
    mask = np.array([[True, False, True], [False, False, True]])
    value, gradient = lr.direct_coverage_step.value_and_grad(steps, mask, reduction="none")
    clean = np.where(mask, steps, -1.0)
    np.testing.assert_array_equal(value, lr.direct_coverage_step(clean, mask, reduction="none"))
    assert (gradient[~mask] == 0).all() and (gradient[mask] < 0).all()
    with pytest.raises(ValueError, match=r"^step_logps: .*nan"):
        lr.direct_coverage_step(steps, np.ones_like(mask))


@pytest.mark.parametrize("n", [2, 8, 256, 4096])
def test_the_papers_code(n):
    """It takes a ratio of two quadratics where Np < 0.1, which is off by 1.4e-4 at most, and the formula elsewhere."""
    p = np.exp(np.linspace(-30, -1e-3, 400))
    top = 1 - (n - 1) * p + (n - 1) * (n - 2) * p**2 / 2
    bottom = 1 - (n - 1) / 2 * p + (n - 1) * (n - 2) / 6 * p**2
    with np.errstate(all="ignore"):
        theirs = np.where(n * p < 0.1, top / bottom, n * (1 - p) ** (n - 1) * p / (1 - (1 - p) ** n))
    ours = lr.direct_coverage_weight(np.log(p), n_samples=n)
    np.testing.assert_allclose(theirs, ours, rtol=1.6e-4)
    np.testing.assert_allclose(theirs[n * p >= 0.1], ours[n * p >= 0.1], rtol=1e-9, atol=1e-300)
