import itertools

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.kernels import cross_entropy, linear_cross_entropy

OPTIONS = {"bias": True, "softcap": 4.0, "label_smoothing": 0.125, "z_loss_weight": 0.015625}
PAIRS = [(), *[(name,) for name in OPTIONS], *itertools.combinations(OPTIONS, 2), tuple(OPTIONS)]


def softmax_and_gradient(a, labels, softcap, smoothing, z_weight):
    """Terms, S and ∂term/∂a for a table of logits, as the definition has them."""
    z = a if softcap is None else softcap * np.tanh(a / softcap)
    lse = np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1)
    s = np.exp(z - lse[:, None])
    one_hot = np.eye(a.shape[1])[labels]
    target = (1 - smoothing) * one_hot + smoothing / a.shape[1]
    terms = lse - (target * z).sum(1) + z_weight * lse**2
    g = (1 + 2 * z_weight * lse)[:, None] * s - target
    return terms, s - one_hot, g if softcap is None else g * (1 - np.tanh(a / softcap) ** 2)


def reference(hidden, classifier, labels, cotangent, bias=None, softcap=None, label_smoothing=0.0,
              z_loss_weight=0.0, ignore_index=-100, limit=0.0, tile=(128, 128)):  # fmt: skip
    h, c = hidden.astype(np.longdouble), classifier.astype(np.longdouble)
    kept = np.flatnonzero(labels != ignore_index)
    a = h[kept] @ c.T + (0 if bias is None else bias)
    terms, difference, g = softmax_and_gradient(a, labels[kept], softcap, label_smoothing, z_loss_weight)
    g = g * cotangent[kept, None]
    for i, v in itertools.product(range(0, a.shape[0], tile[0]), range(0, a.shape[1], tile[1])):
        if np.abs(difference[i : i + tile[0], v : v + tile[1]]).max() < limit:
            g[i : i + tile[0], v : v + tile[1]] = 0
    every = np.zeros(len(labels), np.longdouble)
    every[kept] = terms
    d_hidden = np.zeros_like(h)
    d_hidden[kept] = g @ c
    gradients = [d_hidden, g.T @ h[kept]] + ([] if bias is None else [g.sum(0)])
    return every, gradients


def problem(rng, rows, classes, width, dtype):
    hidden = rng.standard_normal((rows, width)).astype(dtype)
    classifier = rng.standard_normal((classes, width)).astype(dtype)
    labels = rng.integers(0, classes, rows)
    labels[1::5] = -100
    return hidden, classifier, labels, rng.standard_normal(rows), rng.standard_normal(classes).astype(dtype)


def close(found, expected, dtype, factor=200):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        scale = np.abs(b).max()
        np.testing.assert_allclose(a.astype(np.longdouble), b, rtol=0, atol=float(factor * np.finfo(dtype).eps * scale))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_every_pair_of_options(names, dtype):
    hidden, classifier, labels, cotangent, bias = problem(np.random.default_rng(0), 11, 67, 9, dtype)
    options = {name: bias if name == "bias" else OPTIONS[name] for name in names}
    terms, gradients = linear_cross_entropy.value_and_vjp(hidden, classifier, labels, cotangent=cotangent, **options)
    expected, derivatives = reference(hidden, classifier, labels, cotangent, **options)
    close([terms, *gradients], [expected, *derivatives], dtype)
    assert not terms[1::5].any() and not gradients[0][1::5].any()
    np.testing.assert_array_equal(linear_cross_entropy.value(hidden, classifier, labels, **options), terms)
    again = linear_cross_entropy.vjp(hidden, classifier, labels, cotangent=cotangent, **options)
    for a, b in zip(again, gradients, strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_groups_of_rows_and_an_ignored_label_that_is_a_class():
    rng = np.random.default_rng(1)
    hidden, classifier, labels, cotangent, bias = problem(rng, 700, 33, 5, np.float64)
    labels[labels == -100] = 7
    expected, derivatives = reference(hidden, classifier, labels, cotangent, bias, ignore_index=7)
    for block_size in (None, 16, (64, 10), (1, 33), (1000, 1)):
        terms, gradients = linear_cross_entropy.value_and_vjp(
            hidden, classifier, labels, cotangent=cotangent, bias=bias, ignore_index=7, block_size=block_size
        )
        close([terms, *gradients], [expected, *derivatives], np.float64)


@pytest.mark.parametrize("tile", [(8, 16), (7, 5), (5, 200)])
@pytest.mark.parametrize("names", [(), tuple(OPTIONS)], ids="+".join)
def test_filter(tile, names):
    rng = np.random.default_rng(2)
    hidden, classifier, labels, cotangent, bias = problem(rng, 300, 100, 6, np.float64)
    hidden *= 6
    options = {name: bias if name == "bias" else OPTIONS[name] for name in names} | {"softcap": None}
    limit = 2.0**-12
    arguments = {"cotangent": cotangent, "filter_eps": limit, "block_size": tile}
    terms, gradients = linear_cross_entropy.value_and_vjp(hidden, classifier, labels, **arguments, **options)
    expected, derivatives = reference(hidden, classifier, labels, cotangent, limit=limit, tile=tile, **options)
    close([terms, *gradients], [expected, *derivatives], np.float64)
    if tile != (5, 200):  # some tiles must have been dropped for this to be a test
        exact = reference(hidden, classifier, labels, cotangent, **options)[1]
        assert np.abs(gradients[1] - exact[1]).max() > 1e-9


def test_automatic_filter():
    hidden, classifier, labels, cotangent, _ = problem(np.random.default_rng(3), 40, 300, 6, np.float32)
    hidden *= 10
    arguments = {"cotangent": cotangent, "block_size": (4, 4)}
    for dtype, limit in [(np.float32, 2.0**-28), (np.float64, 2.0**-57), (np.float16, 2.0**-15),
                         (ml_dtypes.bfloat16, 2.0**-12)]:  # fmt: skip
        h, c = hidden.astype(dtype), classifier.astype(dtype)
        automatic = linear_cross_entropy.vjp(h, c, labels, filter_eps="auto", **arguments)
        given = linear_cross_entropy.vjp(h, c, labels, filter_eps=limit, **arguments)
        for a, b in zip(automatic, given, strict=True):
            assert a.dtype == dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_shift(shift):
    rng = np.random.default_rng(4)
    hidden, classifier = rng.standard_normal((2, 3, 5, 4)), rng.standard_normal((7, 4))
    labels = rng.integers(0, 7, (2, 3, 5))
    labels[0, 1, 4] = labels[1, 2, 0] = -100
    cotangent = rng.standard_normal((2, 3, 5 - shift))
    terms, (d_hidden, d_classifier) = linear_cross_entropy.value_and_vjp(
        hidden, classifier, labels, cotangent=cotangent, shift=shift
    )
    used = hidden[..., : 5 - shift, :]
    expected, gradients = reference(used.reshape(-1, 4), classifier, labels[..., shift:].ravel(), cotangent.ravel())
    np.testing.assert_allclose(terms, expected.reshape(cotangent.shape).astype(float), rtol=1e-13)
    assert d_hidden.shape == hidden.shape and not d_hidden[..., 5 - shift :, :].any()
    np.testing.assert_allclose(
        d_hidden[..., : 5 - shift, :], gradients[0].reshape(used.shape).astype(float), atol=1e-13
    )
    np.testing.assert_allclose(d_classifier, gradients[1].astype(float), atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_with_the_identity_it_is_cross_entropy(dtype):
    """The same numbers, confident rows included: the label's logit comes out of the same table."""
    x = np.array([[40, 0, 1], [100, 0, -1], [0, 750, 2], [1, 2, 3]], dtype)
    labels = [0, 0, 0, 2]
    terms, gradients = linear_cross_entropy.value_and_vjp(x, np.eye(3, dtype=dtype), labels, cotangent=np.ones(4))
    expected = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(4))
    np.testing.assert_array_equal(terms, expected[0])
    np.testing.assert_array_equal(gradients[0], expected[1])
    assert 0 < terms[1] < 1e-40


@pytest.mark.parametrize("classes", [1, 7, 63, 64, 65, 129])
def test_no_phantom_columns(classes):
    """Logits near −20: a padded column with the logit 0 would be the whole sum."""
    rng = np.random.default_rng(classes)
    hidden = np.concatenate([rng.standard_normal((5, 3)), np.full((5, 1), -20.0)], axis=1)
    classifier = np.concatenate([rng.standard_normal((classes, 3)), np.ones((classes, 1))], axis=1)
    labels = rng.integers(0, classes, 5)
    expected, _ = reference(hidden, classifier, labels, np.ones(5))
    found = linear_cross_entropy.value(hidden, classifier, labels)
    np.testing.assert_allclose(found, expected.astype(float), rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_are_computed_wide_and_rounded_once(dtype):
    hidden, classifier, labels, cotangent, bias = problem(np.random.default_rng(5), 11, 67, 9, dtype)
    arguments = (hidden, classifier, labels)
    terms, gradients = linear_cross_entropy.value_and_vjp(*arguments, cotangent=cotangent, bias=bias)
    wide = linear_cross_entropy.value_and_vjp(
        hidden.astype(np.float32), classifier.astype(np.float32), labels, cotangent=cotangent,
        bias=bias.astype(np.float32)
    )  # fmt: skip
    for a, b in zip([terms, *gradients], [wide[0], *wide[1]], strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, b.astype(dtype))


def test_layouts_and_out():
    hidden, classifier, labels, cotangent, _ = problem(np.random.default_rng(6), 11, 67, 9, np.float64)
    expected = linear_cross_entropy.vjp(hidden, classifier, labels, cotangent=cotangent)
    for h, c in [
        (np.asfortranarray(hidden), np.asfortranarray(classifier)),
        (hidden[::-1][::-1], classifier),
    ]:
        h.flags.writeable = False
        found = linear_cross_entropy.vjp(h, c, labels, cotangent=cotangent)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)
    out = (np.empty_like(hidden), np.empty_like(classifier))
    found = linear_cross_entropy.vjp(hidden, classifier, labels, cotangent=cotangent, out=out)
    assert found[0] is out[0] and found[1] is out[1]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="out"):
        linear_cross_entropy.vjp(hidden, classifier, labels, cotangent=cotangent, out=out[:1])
    with pytest.raises(TypeError, match=r"classifier: .*float16, bfloat16, float32 or float64"):
        linear_cross_entropy.value(hidden, classifier.astype(np.longdouble), labels)


def test_no_row_that_counts():
    hidden, classifier = np.ones((3, 2)), np.ones((4, 2))
    terms, gradients = linear_cross_entropy.value_and_vjp(
        hidden, classifier, [-100] * 3, cotangent=np.full(3, np.nan), bias=np.zeros(4)
    )
    assert not terms.any() and not any(g.any() for g in gradients)
    assert [g.shape for g in gradients] == [(3, 2), (4, 2), (4,)]


def test_bad_numbers_stay_in_their_row():
    hidden, classifier, labels, _, _ = problem(np.random.default_rng(7), 4, 67, 9, np.float64)
    clean = linear_cross_entropy.value(hidden, classifier, labels)
    hidden[2, 3] = np.nan
    found = linear_cross_entropy.value(hidden, classifier, labels)
    assert np.isnan(found[2])
    np.testing.assert_allclose(found[[0, 1, 3]], clean[[0, 1, 3]], rtol=1e-14)


def test_the_filter_does_not_hide_a_bad_row():
    hidden, classifier = 50 * np.eye(4), np.eye(40, 4)
    arguments = {"labels": np.arange(4), "cotangent": np.ones(4), "filter_eps": 2.0**-12, "block_size": (4, 8)}
    assert not linear_cross_entropy.vjp(hidden, classifier, **arguments)[1][8:].any()
    hidden[1, 1] = np.nan
    assert np.isnan(linear_cross_entropy.vjp(hidden, classifier, **arguments)[1][:, 1]).all()


def test_out_may_be_the_arguments_themselves():
    hidden, classifier, labels, cotangent, _ = problem(np.random.default_rng(8), 300, 60, 9, np.float64)
    expected = linear_cross_entropy.value_and_vjp(hidden, classifier, labels, cotangent=cotangent)
    terms, found = linear_cross_entropy.value_and_vjp(
        hidden, classifier, labels, cotangent=cotangent, block_size=(64, 60), out=(hidden, classifier)
    )
    assert found[0] is hidden and found[1] is classifier
    close([terms, *found], [expected[0], *expected[1]], np.float64)


@pytest.mark.parametrize("path", ["numpy", "numba"])
def test_a_single_state(path):
    """Without any axis of rows."""
    hidden, classifier = np.array([1.0, 2.0, -1.0]), np.eye(3)
    loss = lr.linear_cross_entropy.path(path)
    one, row = (loss.value_and_grad(h, classifier, y) for h, y in ((hidden, 1), (hidden[None], [1])))
    assert one[0] == row[0] and one[1].hidden.shape == (3,)
    np.testing.assert_array_equal(one[1].hidden, row[1].hidden[0])
    np.testing.assert_array_equal(one[1].classifier, row[1].classifier)
    with pytest.raises(ValueError, match=r"^shift"):
        loss(hidden, classifier, 1, shift=1)
