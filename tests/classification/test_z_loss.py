"""The Z-loss: invariances, constant rows, the statistics that suffice, and the update that they suffice for."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(5)
LOGITS, LABELS = 3 * RNG.normal(size=(9, 8)) + 1, RNG.integers(0, 8, 9)
ROWS = np.arange(9)


@pytest.mark.parametrize("a, b", [(1.0, 0.0), (0.3, 1.5), (20.0, -0.7)])
def test_the_papers_formulas(a, b):
    mean, deviation = LOGITS.mean(axis=1, keepdims=True), LOGITS.std(axis=1, keepdims=True)
    z = (LOGITS - mean) / deviation
    z_label = z[ROWS, LABELS][:, None]
    np.testing.assert_allclose(
        lr.z_loss(LOGITS, LABELS, a=a, b=b, reduction="none"), np.log1p(np.exp(a * (b - z_label[:, 0]))) / a, rtol=1e-12
    )
    slope = np.eye(8)[LABELS] - 1 / 8 - z_label * z / 8
    want = -1 / (1 + np.exp(-a * (b - z_label))) / deviation * slope
    got = lr.z_loss.grad(LOGITS, LABELS, a=a, b=b, reduction="none")
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-15)


def test_gradient_cannot_shift_or_scale_the_row():
    got = lr.z_loss.grad(LOGITS, LABELS, reduction="none")
    centred = LOGITS - LOGITS.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-15)
    np.testing.assert_allclose((got * centred).sum(axis=1), 0, atol=1e-14)


def test_a_constant_row_says_nothing():
    logits, labels = np.full((2, 5), 3.0), np.array([0, 4])
    for eps in (0.0, 0.1):
        value, gradient = lr.z_loss.value_and_grad(logits, labels, a=2.0, b=0.5, eps=eps, reduction="none")
        np.testing.assert_allclose(value, np.log1p(np.exp(1.0)) / 2, rtol=1e-15)
        np.testing.assert_array_equal(gradient, 0)


def test_the_most_that_a_score_can_stand_out():
    logits = np.eye(10)[:1] * 1e5
    z = -np.log(np.expm1(lr.z_loss(logits, np.array([0]))))
    assert z == pytest.approx(3.0, rel=1e-12)  # √(D - 1)
    np.testing.assert_allclose(lr.z_loss.grad(logits, np.array([0])), 0, atol=1e-30)


def test_large_offsets():
    exact = np.rint(LOGITS * 16) / 16
    np.testing.assert_array_equal(
        lr.z_loss(exact + 2.0**40, LABELS, reduction="none"), lr.z_loss(exact, LABELS, reduction="none")
    )


@pytest.mark.parametrize("a, b", [(1.0, 0.0), (2.0, 1.0)])
def test_the_statistics_suffice(a, b):
    statistics = LOGITS[ROWS, LABELS], LOGITS.sum(axis=1), (LOGITS**2).sum(axis=1)
    options = {"a": a, "b": b}
    got = lr.z_loss_from_statistics(*statistics, num_classes=8, **options)
    assert got == pytest.approx(lr.z_loss(LOGITS, LABELS, **options), rel=1e-12)
    g = lr.z_loss_from_statistics.grad(*statistics, num_classes=8, **options, reduction="sum")
    dense = g.sum_logits[:, None] + 2 * g.sum_squares[:, None] * LOGITS + g.target_logits[:, None] * np.eye(8)[LABELS]
    np.testing.assert_allclose(dense, lr.z_loss.grad(LOGITS, LABELS, **options, reduction="sum"), rtol=1e-9, atol=1e-13)


def test_statistics_of_a_constant_row_are_refused():
    with pytest.raises(ValueError, match=r"^sum_squares: "):
        lr.z_loss_from_statistics(np.ones(2), np.full(2, 4.0), np.full(2, 4.0), num_classes=4)


def test_a_step_that_does_not_touch_every_class():
    """W = V Uᵀ + 1 νᵀ: a gradient step on all classes is a change of U (d × d), of ν, and of one row of V."""
    classes, size, rate = 50, 4, 0.1
    w, h, label = RNG.normal(size=(classes, size)), RNG.normal(size=size), 7
    q_matrix, w_bar = w.T @ w, w.sum(axis=0)
    statistics = (w[[label]] @ h, np.array([w_bar @ h]), np.array([h @ q_matrix @ h]))
    g = [part.item() for part in lr.z_loss_from_statistics.grad(*statistics, num_classes=classes)]

    logits = w @ h
    dense = lr.z_loss.grad(logits[None], np.array([label]))[0]
    np.testing.assert_allclose(g[1] * w_bar + 2 * g[2] * q_matrix @ h + g[0] * w[label], w.T @ dense, rtol=1e-9)

    v, u, nu = w.copy(), np.eye(size), np.zeros(size)
    shrink = np.eye(size) - 2 * rate * g[2] * np.outer(h, h)
    u, nu = shrink @ u, shrink @ nu - rate * g[1] * h
    v[label] -= rate * g[0] * np.linalg.solve(u, h)
    np.testing.assert_allclose(v @ u.T + nu, w - rate * np.outer(dense, h), rtol=1e-9, atol=1e-12)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_the_papers_code():
    """Softplus of (μ - o_c) / (σ + 1e-12), summed over the batch, differentiated by PyTorch."""
    torch = pytest.importorskip("torch")
    x = torch.tensor(LOGITS, requires_grad=True)
    deviation = (x.pow(2).mean(dim=1) - x.mean(dim=1) ** 2).sqrt()
    peer = torch.nn.functional.softplus((x.mean(dim=1) - x[ROWS, LABELS]) / (deviation + 1e-12)).sum()
    peer.backward()
    options = {"eps": 1e-12, "reduction": "sum"}
    assert lr.z_loss(LOGITS, LABELS, **options) == pytest.approx(peer.item(), rel=1e-12)
    np.testing.assert_allclose(lr.z_loss.grad(LOGITS, LABELS, **options), x.grad.numpy(), rtol=1e-9, atol=1e-14)
