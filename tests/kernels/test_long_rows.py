"""A row that is divided among threads, against the same row in one piece.

Both ways go through the same formulas, so that they agree to a few roundings; that the formulas are right is tested
elsewhere. Three threads, however many this machine has: the pieces have unequal lengths, and one is in the middle.
"""

import numpy as np
import pytest

from lossref.kernels import cross_entropy, log_softmax, rows, softmax

DTYPES = [np.float32, np.float64]
LENGTH = 300_001
INSIDE = [0, 99_999, 102_400, 150_000, 204_799, 204_800, 300_000]  # around the borders of the pieces


@pytest.fixture
def divided(monkeypatch):
    """compute(function, …) → (the result of one piece, the result of three)."""

    def compute(module, function, *arguments, **options):
        results = []
        for threads in (1, 3):
            monkeypatch.setattr(rows, "thread_count", lambda threads=threads: threads)
            # One thread is no reason to divide anything.
            divides = rows.split_rows_or_elements if threads > 1 else (lambda rows: False)
            monkeypatch.setattr(module, "split_rows_or_elements", divides)
            results.append(getattr(module, function)(*arguments, **options))
        return results

    return compute


def test_there_are_three_pieces(monkeypatch):
    monkeypatch.setattr(rows, "thread_count", lambda: 3)
    assert rows.pieces_of_a_row(LENGTH) == [(0, 102_400), (102_400, 200_704), (200_704, LENGTH)]


def row_of(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return (3 * rng.standard_normal(LENGTH)).astype(dtype), rng.standard_normal(LENGTH).astype(dtype)


def hard_rows(dtype):
    x, _ = row_of(dtype)
    for place in INSIDE:
        leading = x.copy()
        leading[place] = 40 + x.max()
        yield leading
    masked = x.copy()
    masked[:102_400] = -np.inf
    yield masked
    masked[150_000:] = -np.inf
    yield masked
    yield np.zeros_like(x)
    yield np.sort(x)


@pytest.mark.parametrize("module", [softmax, log_softmax])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_gradients(divided, module, dtype):
    eps = np.finfo(dtype).eps
    for x in hard_rows(dtype):
        cotangent = row_of(dtype)[1]
        whole, parts = divided(module, "vjp", x, cotangent=cotangent)
        # p_j (ω_j − ⟨p, ω⟩) and ω_j − p_j Σω: what the sums' rounding may move.
        p = softmax.value(x)
        moved = p * (np.abs(cotangent) + (p * np.abs(cotangent)).sum())
        if module is log_softmax:
            moved = np.abs(whole) + p * np.abs(cotangent).sum()
        assert np.all(np.abs(whole - parts) <= 8 * eps * moved + np.finfo(dtype).smallest_subnormal)
        assert np.abs(whole).max() > 0


@pytest.mark.parametrize("module", [softmax, log_softmax])
@pytest.mark.parametrize("place", [0, 150_000, 300_000])
def test_nan_fills_the_gradient(divided, module, place):
    x, cotangent = row_of(np.float32)
    x[place] = np.nan
    whole, parts = divided(module, "vjp", x, cotangent=cotangent)
    np.testing.assert_array_equal(np.isnan(whole), np.isnan(parts))
    assert np.isnan(parts).all()


OPTIONS = [
    {},
    {"softcap": 10.0},
    {"z_loss_weight": 0.3},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "softcap": 10.0, "z_loss_weight": 0.3, "weight": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ", ".join(options) or "plain")
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(divided, dtype, options):
    eps = np.finfo(dtype).eps
    x = np.stack([row_of(dtype, seed)[0] for seed in (0, 1)])
    if "weight" in options:
        options = {**options, "weight": np.random.default_rng(2).uniform(0, 2, LENGTH).astype(dtype)}
    for place in INSIDE:
        x[0, place] = 45  # a right answer that leads
        x[1, 150_000] = 45  # a wrong one
        labels = np.array([place, 7])
        whole, parts = divided(cross_entropy, "value_and_vjp", x, labels, cotangent=np.array([0.5, -2.0]), **options)
        np.testing.assert_allclose(parts[0], whole[0], rtol=4 * eps, atol=0)
        # p_j A − w_j ε/C: the two parts may cancel; the cotangent and the weights are at most 2.
        share = 4 * options.get("label_smoothing", 0.0) / LENGTH
        atol = 8 * eps * share + np.finfo(dtype).smallest_subnormal
        np.testing.assert_allclose(parts[1], whole[1], rtol=8 * eps, atol=atol)
        np.testing.assert_array_equal(parts[0], divided(cross_entropy, "value", x, labels, **options)[1])
        assert np.all(parts[0] > 0) and parts[1][[0, 1], labels].all()


def test_cross_entropy_of_ignored_rows_and_in_place(divided, monkeypatch):
    x = np.stack([row_of(np.float64, seed)[0] for seed in (0, 1)])
    labels = np.array([150_000, -100])
    whole, parts = divided(cross_entropy, "value_and_vjp", x, labels, cotangent=1.0)
    assert parts[0][1] == whole[0][1] == 0 and not parts[1][1].any()
    logits = x.copy()
    monkeypatch.setattr(rows, "thread_count", lambda: 3)
    _, gradient = cross_entropy.value_and_vjp(logits, labels, cotangent=1.0, out=logits)
    assert gradient is logits
    np.testing.assert_array_equal(logits, parts[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_class_that_leads_and_bears_most_of_the_weight(divided, dtype):
    """Its gradient, p_k Σw − w_k, has a formula of its own; here both parts are nearly equal."""
    for place in INSIDE:
        x = row_of(dtype)[0]
        x[place] = 60
        weight = np.full(LENGTH, 1e-12, dtype)
        weight[place] = 1
        label = np.array([7])
        options = {"label_smoothing": 0.999, "weight": weight, "cotangent": 1.0, "softcap": 400.0}
        whole, parts = divided(cross_entropy, "value_and_vjp", x[None], label, **options)
        np.testing.assert_allclose(parts[1][0, place], whole[1][0, place], rtol=32 * np.finfo(dtype).eps)
        # The gradients of a row sum to 0 (the cap's slope apart), which the cancelled difference would miss.
        uncapped = {**options, "softcap": None}
        gradient = divided(cross_entropy, "value_and_vjp", x[None], label, **uncapped)[1][1][0].astype(np.longdouble)
        others = gradient.sum() - gradient[place]
        np.testing.assert_allclose(float(gradient[place]), -float(others), rtol=1e-3 if dtype == np.float32 else 1e-9)
