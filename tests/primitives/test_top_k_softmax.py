"""What is special to the gate of a mixture of experts."""

import numpy as np
import pytest

import lossref as lr

SCORES = np.random.default_rng(0).normal(size=(5, 7)) * 3
BIAS = np.random.default_rng(1).normal(size=7)
COTANGENT = np.random.default_rng(2).normal(size=(5, 7))

paths = pytest.mark.parametrize("gate", [lr.top_k_softmax, lr.top_k_softmax.path("numba")], ids=["numpy", "numba"])


@paths
def test_every_expert_chosen_is_softmax(gate):
    np.testing.assert_allclose(gate(SCORES, k=7), lr.softmax(SCORES), rtol=1e-15)
    np.testing.assert_allclose(gate(SCORES, k=7, bias=BIAS), lr.softmax(SCORES + BIAS), rtol=1e-14)


@paths
def test_softmax_cut_to_the_largest_and_normalised_is_the_same(gate):
    p = lr.softmax(SCORES)
    p = np.where(p >= np.sort(p, axis=1)[:, [-3]], p, 0)
    np.testing.assert_allclose(gate(SCORES, k=3), p / p.sum(axis=1, keepdims=True), rtol=1e-14)


@paths
def test_one_expert_gets_all_and_learns_nothing(gate):
    gates = gate(SCORES, k=1, bias=BIAS)
    np.testing.assert_array_equal(gates, np.eye(7)[SCORES.argmax(axis=1)])
    gradient = gate.grad(SCORES, k=1, bias=BIAS, cotangent=COTANGENT)
    assert not gradient.scores.any() and not gradient.bias.any()


@paths
@pytest.mark.parametrize("k", range(1, 7))
def test_of_equal_scores_the_lower_index_is_chosen(gate, k):
    scores = np.array([[1.0, 3.0, 1.0, 3.0, 1.0, 3.0]])
    chosen = [1, 3, 5, 0, 2, 4][:k]
    assert np.flatnonzero(gate(scores, k=k)).tolist() == sorted(chosen)


@paths
def test_the_bias_has_no_say_in_the_choice(gate):
    gates = gate(np.array([[1.0, 2.0, 3.0]]), k=2, bias=np.array([1e3, 0.0, 0.0]))
    np.testing.assert_allclose(gates, [[0, 1 / (1 + np.e), np.e / (1 + np.e)]], rtol=1e-15)


@paths
def test_offsets_of_scores_and_of_the_bias_change_nothing(gate):
    whole, bias = np.rint(SCORES), np.rint(4 * BIAS)
    want = gate(whole, k=4, bias=bias)
    np.testing.assert_array_equal(gate(whole + 2.0**50, k=4, bias=bias - 2.0**49), want)


@paths
def test_a_gate_of_1e_300_keeps_its_digits(gate):
    gates = gate(np.array([[700.0, 9.0, 0.0]]), k=2)
    np.testing.assert_allclose(gates[0, 1], np.exp(-691.0), rtol=1e-15)


@paths
def test_more_experts_than_there_are(gate):
    with pytest.raises(ValueError, match=r"^k: expected"):
        gate(SCORES, k=8)


def test_the_gradient_at_a_tie_is_that_of_the_choice_made():
    scores = np.array([[2.0, 1.0, 1.0]])
    assert lr.top_k_softmax.kinks_rule(scores, 2)[0].all()
    assert not lr.top_k_softmax.kinks_rule(scores, 1)[0].any()
    gradient = lr.top_k_softmax.grad(scores, k=2, cotangent=np.array([[1.0, 0.0, 0.0]]))
    slope = np.e / (1 + np.e) ** 2
    np.testing.assert_allclose(gradient, [[slope, -slope, 0.0]], rtol=1e-14)
