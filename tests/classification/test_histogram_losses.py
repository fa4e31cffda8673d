"""Values by classification: HL-Gauss, two-hot and C51."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import special

import lossref as lr
from lossref.primitives import gaussian

RNG = np.random.default_rng(17)
VALUES = np.concatenate([RNG.uniform(-10, 10, 12), [-10.0, 10.0, 0.0]])
LOGITS = RNG.normal(size=(15, 51))
ATOMS = np.linspace(-10, 10, 51)


# -- hl_gauss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_ratio", [0.1, 0.5, 0.75, 1.0, 1.5, 3.0])
def test_the_papers_listing_inside_the_range(sigma_ratio):
    edges = np.linspace(-10, 10, 52)
    cdf = special.erf((edges - VALUES[:, None]) / (np.sqrt(2) * sigma_ratio * 20 / 51))
    want = np.diff(cdf, axis=1) / (cdf[:, -1:] - cdf[:, :1])
    got = lr.hl_gauss_targets(VALUES, sigma_ratio=sigma_ratio)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-14)


def test_far_tails_keep_their_digits():
    got = lr.hl_gauss_targets(np.array([0.3]), num_bins=41, sigma_ratio=0.75)[0]
    edges, sigma = np.linspace(-10, 10, 42), 0.75 * 20 / 41
    log_cdf = special.log_ndtr(-(edges - 0.3) / sigma)  # the upper tail
    want = log_cdf[24:-1] + np.log1p(-np.exp(np.diff(log_cdf[24:])))
    np.testing.assert_allclose(np.log(got[24:]), want, rtol=1e-12)
    assert got[-1] < 1e-100


@pytest.mark.parametrize("sign", [1, -1])
def test_values_outside_pile_up_at_the_end(sign):
    for value in (10.5, 30.0, 1e3, 1e8, 1e150):
        t = lr.hl_gauss_targets(np.array([sign * value]))[0]
        assert np.isfinite(t).all() and t.sum() == pytest.approx(1, rel=1e-14)
        assert (np.diff(sign * t) >= 0).all()
    assert t[-1 if sign > 0 else 0] == 1


def test_mirrored_values_have_mirrored_targets():
    for ratio in (0.75, 2.0):
        got = lr.hl_gauss_targets(-VALUES, sigma_ratio=ratio)
        np.testing.assert_allclose(
            got, lr.hl_gauss_targets(VALUES, sigma_ratio=ratio)[:, ::-1], rtol=1e-11, atol=1e-300
        )


def test_a_value_on_an_edge():
    t = lr.hl_gauss_targets(np.array([0.0]), num_bins=4)[0]
    np.testing.assert_allclose(t, t[::-1], rtol=1e-15)


# -- two_hot -------------------------------------------------------------------------------------------------------


def test_two_hot_has_the_value_as_its_mean():
    t = lr.two_hot_targets(VALUES)
    np.testing.assert_allclose(t @ ATOMS, VALUES, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(t.sum(axis=1), 1, rtol=1e-15)
    assert ((t > 0).sum(axis=1) <= 2).all()


def test_two_hot_on_atoms_and_outside():
    whole = np.array([-10.0, -2.0, 0.0, 4.0, 10.0])
    t = lr.two_hot_targets(whole)
    np.testing.assert_array_equal((t > 0).sum(axis=1), 1)
    np.testing.assert_array_equal(np.argmax(t, axis=1), [0, 20, 25, 35, 50])
    np.testing.assert_array_equal(
        lr.two_hot_targets(np.array([-99.0, 1e300])), lr.two_hot_targets(np.array([-10.0, 10.0]))
    )


# -- c51 -----------------------------------------------------------------------------------------------------------


def projected_by_loops(atoms, probs, v_min, v_max, count):
    step, out = (v_max - v_min) / (count - 1), np.zeros((len(atoms), count))
    for n, (row, masses) in enumerate(zip(atoms, probs, strict=True)):
        for a, mass in zip(np.clip(row, v_min, v_max), masses, strict=True):
            place = (a - v_min) / step
            low = min(int(np.floor(place)), count - 2)
            out[n, low] += mass * (low + 1 - place)
            out[n, low + 1] += mass * (place - low)
    return out


def test_projection():
    atoms, probs = 9 * RNG.normal(size=(8, 13)), RNG.dirichlet(np.ones(13), 8)
    got = lr.categorical_projection(atoms, probs, v_min=-5.0, v_max=7.0, num_bins=17)
    np.testing.assert_allclose(got, projected_by_loops(atoms, probs, -5.0, 7.0, 17), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-14)


def test_projection_of_a_bellman_update_keeps_mass_and_mean():
    probs = RNG.dirichlet(np.ones(51), 4)
    updated = RNG.uniform(-0.5, 0.5, (4, 1)) + 0.9 * ATOMS
    t = lr.categorical_projection(updated, probs)
    np.testing.assert_allclose(t @ ATOMS, (probs * updated).sum(axis=1), rtol=1e-12, atol=1e-13)
    unchanged = lr.categorical_projection(np.broadcast_to(ATOMS, (4, 51)), probs)
    np.testing.assert_allclose(unchanged, probs, rtol=1e-12, atol=1e-15)


# -- the three losses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hl_gauss", "two_hot", "c51"])
def test_each_is_soft_cross_entropy_against_its_histogram(name):
    if name == "c51":
        arguments = VALUES[:, None] + RNG.normal(size=(15, 7)), RNG.dirichlet(np.ones(7), 15)
        t = lr.categorical_projection(*arguments)
    else:
        arguments = (VALUES,)
        t = lr.losses()[f"{name}_targets"](VALUES)
    loss = lr.losses()[name]
    for reduction in ("mean", "sum", "none"):
        want = lr.soft_cross_entropy(LOGITS, t, reduction=reduction)
        np.testing.assert_allclose(loss(LOGITS, *arguments, reduction=reduction), want, rtol=1e-14)
    p = lr.softmax(LOGITS)
    np.testing.assert_allclose(loss.grad(LOGITS, *arguments, reduction="sum"), p - t, rtol=1e-9, atol=1e-15)


def test_two_hot_and_c51_of_a_point_are_the_same():
    got = lr.c51(LOGITS, VALUES[:, None], np.ones((15, 1)))
    assert got == pytest.approx(lr.two_hot(LOGITS, VALUES), rel=1e-14)


def test_a_masked_atom_without_mass_does_not_matter():
    logits = LOGITS[:1].copy()
    logits[0, 3] = -np.inf
    assert np.isfinite(lr.two_hot(logits, np.array([5.1])))
    assert lr.two_hot(logits, np.array([-8.7])) == np.inf
    assert lr.hl_gauss(logits, np.array([5.1])) == np.inf  # a normal distribution leaves no bin empty


@pytest.mark.parametrize("name", ["hl_gauss", "two_hot"])
def test_the_range_must_be_one(name):
    for function, first in ((lr.losses()[name], (LOGITS, VALUES)), (lr.losses()[f"{name}_targets"], (VALUES,))):
        with pytest.raises(ValueError, match=r"^v_max: "):
            function(*first, v_min=1.0, v_max=1.0)


def test_one_atom_is_too_few():
    with pytest.raises(ValueError, match=r"^num_bins: "):
        lr.two_hot_targets(VALUES, num_bins=1)
    with pytest.raises(ValueError, match=r"^logits: "):
        lr.two_hot(LOGITS[:, :1], VALUES)
    with pytest.raises(ValueError, match=r"^logits: "):
        lr.c51(LOGITS[:, :1], VALUES[:, None], np.ones((15, 1)))


# -- the normal distribution ---------------------------------------------------------------------------------------


def test_floats_and_balls_agree():
    from lossref.exact.ball import lift, precision

    x = np.array([-40.0, -3.0, -0.1, 0.0, 0.7, 2.0, 5.0])  # further out the answer itself moves by x² roundings
    with precision(1000):
        for function in (gaussian.erf, gaussian.log_ndtr):
            np.testing.assert_allclose(function(x), function(lift(x)).astype(float), rtol=1e-12)
        np.testing.assert_allclose(gaussian.erfcx(x[2:]), gaussian.erfcx(lift(x[2:])).astype(float), rtol=1e-14)


def test_scipy_comes_in_only_when_it_is_used():
    code = "import sys, lossref; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
