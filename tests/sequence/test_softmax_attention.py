"""What is special to attention: its invariances, its masks, its limits."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(0)
QUERIES, KEYS, VALUES = RNG.normal(size=(5, 3)), RNG.normal(size=(6, 3)), RNG.normal(size=(6, 4))
BIAS = RNG.normal(size=(5, 6))
COTANGENT = RNG.normal(size=(5, 4))

paths = pytest.mark.parametrize(
    "attention", [lr.softmax_attention, lr.softmax_attention.path("numba")], ids=["numpy", "numba"]
)


@paths
def test_equal_values_are_the_answer_whatever_the_bias_is(attention):
    """Why no relative position inside the softmax can tell the places of a constant sequence apart."""
    value = np.array([0.5, -2.0, 3.0, 1.0])
    answer = attention(QUERIES, KEYS, np.tile(value, (6, 1)), BIAS)
    np.testing.assert_allclose(answer, np.tile(value, (5, 1)), rtol=1e-15)


@paths
def test_a_scale_of_0_is_the_mean(attention):
    np.testing.assert_allclose(
        attention(QUERIES, KEYS, VALUES, scale=0.0), np.tile(VALUES.mean(axis=0), (5, 1)), rtol=1e-14
    )


@paths
def test_a_great_scale_finds_the_nearest_key(attention):
    nearest = (QUERIES @ KEYS.T).argmax(axis=1)
    np.testing.assert_array_equal(attention(QUERIES, KEYS, VALUES, scale=1e6), VALUES[nearest])


@paths
def test_the_order_of_the_keys_does_not_matter(attention):
    order = np.array([3, 0, 5, 1, 4, 2])
    got = attention(QUERIES, KEYS[order], VALUES[order], BIAS[:, order])
    np.testing.assert_allclose(got, attention(QUERIES, KEYS, VALUES, BIAS), rtol=1e-13)


@paths
def test_causal_is_a_mask_and_a_bias_of_minus_infinity(attention):
    past = np.tri(5, 6, dtype=bool)
    causal = attention.value_and_grad(QUERIES, KEYS, VALUES, BIAS, causal=True, cotangent=COTANGENT)
    masked = attention.value_and_grad(QUERIES, KEYS, VALUES, BIAS, past, cotangent=COTANGENT)
    biased = attention.value_and_grad(QUERIES, KEYS, VALUES, np.where(past, BIAS, -np.inf), cotangent=COTANGENT)
    for other in (masked, biased):
        np.testing.assert_array_equal(other[0], causal[0])
        for a, b in zip(other[1], causal[1], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not causal[1].bias[~past].any()
    assert not causal[1].keys[5].any(), "no query may attend to the last key"
    np.testing.assert_array_equal(causal[0][0], VALUES[0], "the first place sees only itself")


@paths
def test_with_identities_it_is_softmax(attention):
    got = attention(BIAS, np.eye(6), np.eye(6), scale=1.0)
    np.testing.assert_allclose(got, lr.softmax(BIAS), rtol=1e-14)


@paths
@pytest.mark.parametrize("block_size", [1, 2, 5, 6, 100])
def test_the_block_size_changes_rounding_only(attention, block_size):
    want = lr.softmax_attention.value_and_grad(QUERIES, KEYS, VALUES, BIAS, cotangent=COTANGENT)
    got = attention.value_and_grad(QUERIES, KEYS, VALUES, BIAS, block_size=block_size, cotangent=COTANGENT)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-14)
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


NOTHING = np.ones((5, 6), bool)
NOTHING[2] = False
LATE = np.triu(np.ones((5, 6), bool), 1)  # causal leaves nothing of it


@paths
@pytest.mark.parametrize(
    ("blamed", "options"),
    [
        ("mask", {"mask": NOTHING}),
        ("mask", {"mask": LATE, "causal": True}),
        ("mask", {"mask": np.eye(5, 6, dtype=bool), "bias": np.where(np.eye(5, 6), -np.inf, 0.0)}),
        ("bias", {"bias": np.where(NOTHING, 0.0, -np.inf)}),
        ("bias", {"bias": np.where(LATE, 0.0, -np.inf), "causal": True}),
    ],
)
def test_a_query_that_may_attend_to_nothing_is_refused(attention, blamed, options):
    for call in (attention, attention.grad, attention.value_and_grad):
        with pytest.raises(ValueError, match=rf"^{blamed}"):
            call(QUERIES, KEYS, VALUES, **options)


@paths
def test_no_keys_and_no_features(attention):
    with pytest.raises(ValueError, match=r"^keys"):
        attention(QUERIES, KEYS[:0], VALUES[:0])
    with pytest.raises(ValueError, match=r"^queries"):
        attention(QUERIES[:, :0], KEYS[:, :0], VALUES)


@paths
def test_no_queries(attention):
    assert attention(QUERIES[:0], KEYS, VALUES).shape == (0, 4)
    gradient = attention.grad(QUERIES[:0], KEYS, VALUES)
    assert gradient.queries.shape == (0, 3) and not gradient.keys.any() and not gradient.values.any()


@paths
def test_an_offset_of_all_keys_or_of_all_values(attention):
    """The first moves no weight, the second only the answer: also where it hides the differences' last digits."""
    whole = [np.rint(4 * x) for x in (QUERIES, KEYS, VALUES)]
    plain = attention.grad(*whole, scale=0.125, cotangent=np.rint(4 * COTANGENT))
    for k in (1, 2):
        moved = [x + 2.0**20 * (number == k) for number, x in enumerate(whole)]
        gradient = attention.grad(*moved, scale=0.125, cotangent=np.rint(4 * COTANGENT))
        np.testing.assert_allclose(gradient.queries, plain.queries, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(gradient.keys, plain.keys, rtol=1e-8, atol=1e-8)
