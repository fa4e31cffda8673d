"""Other people's implementations of the first six losses, where they define the same."""

import numpy as np
import pytest

import lossref as lr

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def torch_value_and_gradients(function, *arrays):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    value = function(torch, *tensors)
    value.sum().backward()
    return value.detach().numpy(), [t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_is_pytorchs(rng, reduction, weighted, label_smoothing, ignore_index):
    logits, labels = 2 * rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    labels[3] = ignore_index
    options = {"label_smoothing": label_smoothing, "ignore_index": ignore_index, "reduction": reduction}
    weight = rng.uniform(0.1, 2, 5) if weighted else None

    def peer(torch, x):
        w = None if weight is None else torch.tensor(weight)
        return torch.nn.functional.cross_entropy(x, torch.tensor(labels), weight=w, **options)

    value, (gradient,) = torch_value_and_gradients(peer, logits)
    np.testing.assert_allclose(lr.cross_entropy(logits, labels, weight=weight, **options), value, rtol=1e-13)
    np.testing.assert_allclose(
        lr.cross_entropy.grad(logits, labels, weight=weight, **options), gradient, rtol=1e-12, atol=1e-16
    )


def test_cross_entropy_softcap_and_z_term_by_pytorchs_autograd(rng):
    logits, labels = 30 * rng.standard_normal((6, 5)), rng.integers(0, 5, 6)

    def peer(torch, x):
        u = 20.0 * torch.tanh(x / 20.0)
        z = torch.logsumexp(u, -1) ** 2
        return torch.nn.functional.cross_entropy(u, torch.tensor(labels)) + 1e-3 * z.mean()

    value, (gradient,) = torch_value_and_gradients(peer, logits)
    options = {"softcap": 20.0, "z_loss_weight": 1e-3}
    np.testing.assert_allclose(lr.cross_entropy(logits, labels, **options), value, rtol=1e-13)
    np.testing.assert_allclose(lr.cross_entropy.grad(logits, labels, **options), gradient, rtol=1e-10, atol=1e-15)


def test_cross_entropy_is_optaxs_rows(rng):
    optax = pytest.importorskip("optax", reason="optax is not installed (pip install 'lossref[peers]')")
    logits, labels = rng.standard_normal((9, 5)).astype(np.float32), rng.integers(0, 5, 9)
    peer = np.asarray(optax.softmax_cross_entropy_with_integer_labels(logits, labels))
    np.testing.assert_allclose(lr.cross_entropy(logits, labels, reduction="none"), peer, rtol=1e-5)


def test_cross_entropy_is_scikit_learns(rng):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    logits, labels = rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    peer = metrics.log_loss(labels, lr.softmax(logits), labels=np.arange(5))
    np.testing.assert_allclose(lr.cross_entropy(logits, labels), peer, rtol=1e-12)


def test_cross_entropy_is_onnxs(rng):
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed (pip install 'lossref[peers]')")
    from onnx.reference import ReferenceEvaluator

    logits, labels = rng.standard_normal((9, 5)), rng.integers(0, 5, 9)
    weight = rng.uniform(0.1, 2, 5)
    labels[4] = -100
    node = onnx.helper.make_node("SoftmaxCrossEntropyLoss", ["x", "y", "w"], ["l"], ignore_index=-100, reduction="mean")
    (peer,) = ReferenceEvaluator(node).run(None, {"x": logits, "y": labels, "w": weight})
    np.testing.assert_allclose(lr.cross_entropy(logits, labels, weight=weight), peer, rtol=1e-12)


def test_the_failure_that_five_libraries_share_is_not_ours(rng):
    """A right answer that leads by 40 has loss 0 in PyTorch and optax; one that trails by 750 is infinite in ONNX."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed (pip install 'lossref[peers]')")
    from onnx.reference import ReferenceEvaluator

    sure, lost = np.array([[40.0, 0.0]]), np.array([[750.0, 0.0]])
    node = onnx.helper.make_node("SoftmaxCrossEntropyLoss", ["x", "y"], ["l"], reduction="mean")
    with np.errstate(all="ignore"):
        (by_onnx,) = ReferenceEvaluator(node).run(None, {"x": lost, "y": np.array([1])})
    assert np.isinf(by_onnx)
    assert torch.nn.functional.cross_entropy(torch.tensor(sure), torch.tensor([0])).item() == 0
    for path in ("numpy", "numba"):
        loss = lr.cross_entropy.path(path)
        np.testing.assert_allclose(loss(sure, [0]), 4.248354255291589e-18, rtol=1e-15)
        np.testing.assert_allclose(loss.grad(sure, [0]), [[-4.248354255291589e-18, 4.248354255291589e-18]], rtol=1e-15)
        assert loss(lost, [1]) == 750


def test_info_nce_is_pytorchs_cross_entropy_of_scaled_similarities(rng):
    similarities = rng.uniform(-1, 1, (6, 6))

    def peer(torch, s):
        return torch.nn.functional.cross_entropy(s / 0.1, torch.arange(6))

    value, (gradient,) = torch_value_and_gradients(peer, similarities)
    np.testing.assert_allclose(lr.info_nce(similarities, temperature=0.1), value, rtol=1e-13)
    np.testing.assert_allclose(lr.info_nce.grad(similarities, temperature=0.1), gradient, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("robust", [False, True])
def test_dpo_is_its_formula_in_pytorch(rng, robust):
    w, l, w0, l0 = rng.uniform(-30, -10, (4, 8))

    def peer(torch, chosen, rejected):
        z = 0.1 * ((chosen - torch.tensor(w0)) - (rejected - torch.tensor(l0)))
        log_sigmoid = torch.nn.functional.logsigmoid
        if robust:
            return (-0.9 * log_sigmoid(z) + 0.1 * log_sigmoid(-z)) / 0.8
        return -0.9 * log_sigmoid(z) - 0.1 * log_sigmoid(-z)

    value, gradients = torch_value_and_gradients(peer, w, l)
    options = {"label_smoothing": 0.1, "robust": robust}
    np.testing.assert_allclose(lr.dpo(w, l, w0, l0, **options, reduction="none"), value, rtol=1e-12)
    for got, want in zip(lr.dpo.grad(w, l, w0, l0, **options, reduction="sum"), gradients, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11)


@pytest.mark.parametrize("level", ["sample", "set"])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0, 2.5])
def test_self_adjusting_dice_is_its_formula_in_pytorch(rng, level, squared, alpha):
    probs, targets = rng.uniform(0.05, 0.95, (3, 7)), rng.integers(0, 2, (3, 7))

    def peer(torch, p):
        y = torch.tensor(targets)
        w = (1 - p) ** alpha * p
        up, down = 2 * w * y, (w**2 + y**2 if squared else w + y)
        if level == "set":
            up, down = up.sum(1), down.sum(1)
        return 1 - (up + 1e-2) / (down + 1e-2)

    value, (gradient,) = torch_value_and_gradients(peer, probs)
    options = {"level": level, "squared": squared, "alpha": alpha, "smooth": 1e-2}
    np.testing.assert_allclose(lr.self_adjusting_dice(probs, targets, **options, reduction="none"), value, rtol=1e-11)
    np.testing.assert_allclose(
        lr.self_adjusting_dice.grad(probs, targets, **options, reduction="sum"), gradient, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_ctc_is_pytorchs(rng, reduction):
    logits = rng.standard_normal((4, 9, 5))
    targets = np.array([[1, 2, 2], [3, 1, 0], [4, 0, 0], [1, 1, 1]])
    frames, lengths = np.array([9, 7, 5, 8]), np.array([3, 2, 0, 3])

    def peer(torch, x):
        log_probs = torch.log_softmax(x, -1).transpose(0, 1)
        parts = (torch.tensor(targets), torch.tensor(frames), torch.tensor(lengths))
        return torch.nn.functional.ctc_loss(log_probs, *parts, reduction=reduction)

    value, (gradient,) = torch_value_and_gradients(peer, logits)
    np.testing.assert_allclose(lr.ctc(logits, targets, frames, lengths, reduction=reduction), value, rtol=1e-12)
    ours = lr.ctc.grad(logits, targets, frames, lengths, reduction=reduction)
    np.testing.assert_allclose(ours, gradient, rtol=1e-9, atol=1e-14)


def test_ctc_of_a_target_that_cannot_be_aligned():
    logits, targets = np.zeros((2, 2, 3)), np.array([[1, 1], [1, 2]])
    values = lr.ctc(logits, targets, reduction="none")
    assert values[0] == np.inf and np.isfinite(values[1])
    gradient = lr.ctc.grad(logits, targets, reduction="none")
    assert np.isnan(gradient[0]).all() and np.isfinite(gradient[1]).all()
    assert lr.ctc(logits, targets, zero_infinity=True) == pytest.approx(values[1] / 2 / 2)
    assert (lr.ctc.grad(logits, targets, zero_infinity=True)[0] == 0).all()


def test_ctc_at_uniform_logits():
    """L = T log C - log binomial(T + L, 2L) for targets without repeats."""
    from math import comb, log

    value = lr.ctc(np.zeros((1, 8, 5)), np.array([[1, 2, 3]]), reduction="none")
    assert value[0] == pytest.approx(8 * log(5) - log(comb(8 + 3, 6)), rel=1e-14)


@pytest.mark.parametrize("regularizer, reg_type", [("kl", "KL"), ("entropy", "entropy")])
@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.03])
def test_sinkhorn_is_pots(rng, regularizer, reg_type, epsilon):
    ot = pytest.importorskip("ot", reason="POT is not installed (pip install 'lossref[peers]')")
    cost = rng.uniform(size=(5, 4))
    a, b = np.array([0.1, 0.2, 0.3, 0.15, 0.25]), np.array([0.5, 0.2, 0.2, 0.1])
    peer = ot.solve(cost, a, b, reg=epsilon, reg_type=reg_type, max_iter=100_000, tol=1e-12)
    options = {"epsilon": epsilon, "regularizer": regularizer}
    np.testing.assert_allclose(lr.sinkhorn(cost, a, b, **options), peer.value, rtol=1e-9)
    np.testing.assert_allclose(lr.sinkhorn.grad(cost, a, b, **options).cost, peer.plan, rtol=1e-7, atol=1e-10)


def test_sinkhorn_between_its_limits(rng):
    linprog = pytest.importorskip("scipy.optimize").linprog
    cost = rng.uniform(size=(4, 4))
    rows, columns = np.kron(np.eye(4), np.ones(4)), np.kron(np.ones(4), np.eye(4))
    exact = linprog(cost.ravel(), A_eq=np.vstack([rows, columns])[:-1], b_eq=np.full(7, 0.25)).fun
    assert lr.sinkhorn(cost, epsilon=1e-3) == pytest.approx(exact, abs=1e-3 * np.log(16))
    assert lr.sinkhorn(cost, epsilon=1e6) == pytest.approx(cost.mean(), rel=1e-6)


def test_sinkhorn_says_when_it_did_not_converge(rng):
    with pytest.warns(RuntimeWarning, match="marginals"):
        lr.sinkhorn(rng.uniform(size=(5, 4)), epsilon=1e-3, max_iterations=1)
