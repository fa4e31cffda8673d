import itertools

import numpy as np
import pytest

from lossref.kernels import cross_entropy

DTYPES = [np.float32, np.float64]
OPTIONS = {
    "weight": lambda dtype, classes: np.linspace(0.25, 2, classes).astype(dtype)[::-1],
    "label_smoothing": lambda dtype, classes: 0.125,
    "softcap": lambda dtype, classes: 6.0,
    "z_loss_weight": lambda dtype, classes: 0.0078125,
}
PAIRS = [(), *[(name,) for name in OPTIONS], *itertools.combinations(OPTIONS, 2), tuple(OPTIONS)]


def within_the_yardstick(exact, row, label, dtype, **options):
    """Value within 4 units, gradient within 8, of the definition itself."""
    value, gradient = cross_entropy.value_and_vjp(row[None], [label], cotangent=np.ones(1), **options)
    true = exact.Row(exact.cross_entropy_term(label, **options), row)
    # Only the plain loss (smoothed or weighted) is invariant under a shift of the logits.
    from_zero = bool(options.get("softcap") or options.get("z_loss_weight"))
    assert exact.units(value[0], true.value(), true.value_scale(from_zero), dtype) <= 4, (row, label)
    for j, g in enumerate(gradient[0]):
        if row[j] == -np.inf:
            assert g == 0
        else:
            scale = true.derivative_scale(j, from_zero)
            assert exact.units(g, true.derivative(j), scale, dtype) <= 8, (row, label, j)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hard_rows_within_the_yardstick(exact, hard_rows, dtype):
    for row in hard_rows(dtype):
        for label in range(min(row.size, 4)):
            if row[label] > -np.inf:
                within_the_yardstick(exact, row, label, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_every_pair_of_options_within_the_yardstick(exact, dtype, names):
    rows = [
        [5.0, -3.0, 0.0, 2.0],
        [0.0, 0.0, 0.0, 0.0],
        [25.0, 0.0, -1.0, 0.5],
        [40.0, 1.0, 0.0, -90.0] if dtype == np.float32 else [300.0, 1.0, 0.0, -90.0],
        [1e-3, -2e-3, 0.0, 1e-20],
    ]
    options = {name: OPTIONS[name](dtype, 4) for name in names}
    for row in rows:
        for label in (0, 3):
            within_the_yardstick(exact, np.array(row, dtype), label, dtype, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_obvious_code_misses_the_yardstick_in_the_blind_band(exact, dtype):
    row = np.array([17.5 if dtype == np.float32 else 37.43, 0], dtype)
    true = exact.Row(exact.cross_entropy_term(0), row)
    m = row.max()
    obvious = m + np.log(np.exp(row - m).sum()) - row[0]
    assert exact.units(obvious, true.value(), true.value_scale(), dtype) > 1000
    p = np.exp(row - m) / np.exp(row - m).sum()
    assert exact.units(p[0] - 1, true.derivative(0), true.derivative_scale(0), dtype) > 1000


def test_known_confident_rows():
    gradient = cross_entropy.vjp([[37.42994775023705, 0.0]], [0], cotangent=np.ones(1))
    np.testing.assert_allclose(gradient, [[-5.551115123125776e-17, 5.551115123125776e-17]], rtol=1e-14)
    assert cross_entropy.value([[750.0, 0.0]], [1]) == 750
    row = np.array([[98.0, 0.0, -1.0]], np.float32)
    assert float(cross_entropy.value(row, [0])[0]) == pytest.approx(
        np.log1p(np.exp(-98.0) + np.exp(-99.0)), abs=1.5e-45
    )


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6, 1e8, -1e8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_common_offset_changes_nothing(dtype, offset):
    differences = np.array([[0.0, 0.0, -64.0], [64.0, 0.0, -128.0]])
    x = (differences + offset).astype(dtype)
    for label in range(3):
        labels = [label, label]
        there = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(2), label_smoothing=0.1)
        here = cross_entropy.value_and_vjp(differences.astype(dtype), labels, cotangent=np.ones(2), label_smoothing=0.1)
        np.testing.assert_array_equal(there[0], here[0])
        np.testing.assert_array_equal(there[1], here[1])


def reference(x, labels, cotangent, weight, ignore_index, smoothing, softcap, z_weight):
    """Terms and gradient in longdouble, as the definition has them; for rows that are not extreme."""
    x = x.astype(np.longdouble)
    u = x if softcap is None else softcap * np.tanh(x / softcap)
    w = np.ones(x.shape[1]) if weight is None else weight.astype(np.longdouble)
    lse = np.log(np.exp(u - u.max(1, keepdims=True)).sum(1)) + u.max(1)
    log_p = u - lse[:, None]
    p = np.exp(log_p)
    keep = labels != ignore_index
    y = np.where(keep, labels, 0)
    one_hot = np.eye(x.shape[1])[y]
    target = (1 - smoothing) * w[y][:, None] * one_hot + smoothing / x.shape[1] * w
    terms = -(target * log_p).sum(1) + z_weight * w[y] * lse**2
    du = target.sum(1, keepdims=True) * p - target + (2 * z_weight * w[y] * lse)[:, None] * p
    if softcap is not None:
        du = du / np.cosh(x / softcap) ** 2
    return np.where(keep, terms, 0), np.where(keep[:, None], du * cotangent[:, None], 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("names", PAIRS, ids="+".join)
@pytest.mark.parametrize("classes", [1, 2, 15, 17, 64, 65, 129, 8193])
def test_options_and_row_lengths(dtype, names, classes):
    rng = np.random.default_rng(classes)
    x = (3 * rng.standard_normal((6, classes))).astype(dtype)
    labels = rng.integers(0, classes, 6)
    labels[:2] = 0, classes - 1
    labels[4] = -100
    cotangent = rng.standard_normal(6)
    options = {name: OPTIONS[name](dtype, classes) for name in names}
    value, gradient = cross_entropy.value_and_vjp(x, labels, cotangent=cotangent, **options)
    settings = {"weight": None, "ignore_index": -100, "smoothing": 0.0, "softcap": None, "z_weight": 0.0}
    settings |= {{"label_smoothing": "smoothing", "z_loss_weight": "z_weight"}.get(k, k): v for k, v in options.items()}
    terms, derivatives = reference(x, labels, cotangent, **settings)
    assert value.dtype == gradient.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(value.astype(np.longdouble), terms, rtol=20 * eps, atol=0 if classes > 1 else 1e-18)
    # Each entry is a difference p_j A − target_j: relative to its two parts.
    np.testing.assert_allclose(gradient, derivatives, rtol=40 * eps, atol=20 * eps / classes)
    assert value[4] == 0 and not gradient[4].any()
    np.testing.assert_array_equal(value, cross_entropy.value(x, labels, **options))
    np.testing.assert_array_equal(gradient, cross_entropy.vjp(x, labels, cotangent=cotangent, **options))


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_ignored_rows(names):
    """An ignored value inside [0, C) too; what stands in an ignored row does not matter, not even NaN."""
    rng = np.random.default_rng(0)
    options = {name: OPTIONS[name](np.float64, 5) for name in names}
    x = rng.standard_normal((6, 5))
    x[2] = np.nan
    x[4] = -np.inf
    labels = np.array([0, 1, 3, 2, 3, 4])
    value, gradient = cross_entropy.value_and_vjp(x, labels, cotangent=np.ones(6), ignore_index=3, **options)
    assert value[2] == value[4] == 0 and not gradient[[2, 4]].any()
    kept = [0, 1, 3, 5]
    alone = cross_entropy.value_and_vjp(x[kept], labels[kept], cotangent=np.ones(4), **options)
    np.testing.assert_array_equal(value[kept], alone[0])
    np.testing.assert_array_equal(gradient[kept], alone[1])
    everything = cross_entropy.value_and_vjp(x, np.full(6, -100), cotangent=np.ones(6), **options)
    assert not everything[0].any() and not everything[1].any()


def test_masked_classes():
    inf = np.inf
    x = np.array([[-inf, 0, 0], [-inf, 0, 0], [-inf, -inf, 2.0]])
    value, gradient = cross_entropy.value_and_vjp(x, [1, 0, 2], cotangent=np.ones(3))
    np.testing.assert_array_equal(value, [np.log(2), inf, 0])
    np.testing.assert_array_equal(gradient, [[0, -0.5, 0.5], [-1, 0.5, 0.5], [0, 0, 0]])
    smoothed = cross_entropy.value(x, [1, 0, 2], label_smoothing=0.1)
    np.testing.assert_array_equal(smoothed, [inf, inf, inf])
    for options in ({}, {"weight": np.array([2.0, 1, 1])}):  # of which smoothing pulls each class, as far away as it is
        slopes = cross_entropy.vjp(x[:1], [1], cotangent=np.ones(1), label_smoothing=0.3, **options)
        assert slopes[0, 0] == pytest.approx(-0.1 * options.get("weight", [1])[0], rel=1e-15)
    for label in (1, 2):  # a masked class that has no weight is not there
        one, g = cross_entropy.value_and_vjp(
            x[:1], [label], cotangent=np.ones(1), label_smoothing=0.1, weight=np.array([0, 1, 1.0])
        )
        np.testing.assert_allclose(one, (0.9 + 0.1 * 2 / 3) * np.log(2), rtol=1e-15)
        assert g[0, 0] == 0 and np.isfinite(g).all()
    capped, g = cross_entropy.value_and_vjp(x[:1], [1], cotangent=np.ones(1), softcap=3.0)
    assert capped == np.log(2) and np.array_equal(g, [[0, -0.5, 0.5]])


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"label_smoothing": 0.1}, {"z_loss_weight": 0.1}])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_bad_numbers_stay_in_their_row(options, bad, dtype):
    for classes in (2, 64, 70, 9000):
        for place in {0, classes // 2, classes - 1}:
            for label in {0, classes // 2, classes - 1}:
                x = np.zeros((3, classes), dtype)
                clean = cross_entropy.value_and_vjp(x, [label] * 3, cotangent=np.ones(3), **options)
                x[1, place] = bad
                value, gradient = cross_entropy.value_and_vjp(x, [label] * 3, cotangent=np.ones(3), **options)
                assert np.isnan(value[1])
                np.testing.assert_array_equal(value[[0, 2]], clean[0][[0, 2]])
                np.testing.assert_array_equal(gradient[[0, 2]], clean[1][[0, 2]])
    assert np.isnan(cross_entropy.value(np.full((1, 3), -np.inf), [0], **options)).all()


def test_weight_on_a_confident_wrong_class(exact):
    """All the class weight on the class that leads: its gradient is −w (1 − p), which p Σw − w is not."""
    weight = np.array([0.0, 1.0, 0.0])
    for lead in (5.0, 40.0, 200.0):
        row = np.array([0.0, lead, -1.0])
        within_the_yardstick(exact, row, 0, np.float64, weight=weight, label_smoothing=0.125)
        within_the_yardstick(exact, row, 0, np.float64, label_smoothing=1.0)


def test_uniform_rows_with_full_smoothing_have_no_gradient():
    for dtype in DTYPES:
        for classes in (2, 300, 32_000):
            gradient = cross_entropy.vjp(
                np.full((1, classes), 0.3, dtype), [1], cotangent=np.ones(1), label_smoothing=1.0
            )
            assert np.abs(gradient).max() <= 2 * np.finfo(dtype).eps / classes


def test_z_loss_is_off_unless_asked_for():
    x = np.random.default_rng(0).standard_normal((4, 1000))
    labels = [1, 2, 3, 4]
    plain = cross_entropy.value(x, labels)
    np.testing.assert_allclose(plain, reference(x, np.array(labels), np.ones(4), None, -100, 0, None, 0)[0], rtol=1e-13)


def test_out_and_many_rows_in_threads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 333)).astype(np.float32)
    labels = rng.integers(0, 333, 3000)
    cotangent = rng.random(3000)
    out = np.empty_like(x)
    value, gradient = cross_entropy.value_and_vjp(x, labels, cotangent=cotangent, out=out)
    assert gradient is out
    for part in (slice(0, 5), slice(1490, 1510), slice(2995, 3000)):
        alone = cross_entropy.value_and_vjp(x[part], labels[part], cotangent=cotangent[part])
        np.testing.assert_array_equal(value[part], alone[0])
        np.testing.assert_array_equal(gradient[part], alone[1])
    with pytest.raises(ValueError, match="out"):
        cross_entropy.vjp(x, labels, cotangent=cotangent, out=out.T)
    with pytest.raises(TypeError, match=r"logits: .*float16, bfloat16, float32 or float64"):
        cross_entropy.value(x.astype(np.longdouble), labels)


def test_no_rows():
    value, gradient = cross_entropy.value_and_vjp(np.zeros((0, 3)), np.zeros(0, int), cotangent=np.zeros(0))
    assert value.shape == (0,) and gradient.shape == (0, 3)
