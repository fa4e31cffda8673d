"""Cross-entropy's closest relatives: special cases and limits."""

import numpy as np
import pytest

import lossref as lr

RNG = np.random.default_rng(11)
LOGITS, LABELS = 2 * RNG.normal(size=(8, 5)), RNG.integers(0, 5, 8)
ONE_HOT = np.eye(5)[LABELS]
WEIGHT = RNG.uniform(0.2, 2, 5)


# -- soft_cross_entropy, nll ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"weight": WEIGHT}, {"label_smoothing": 0.2}, {"softcap": 3.0}, {"z_loss_weight": 0.1}],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_one_hot_targets_are_labels(options):
    dense, labels = lr.soft_cross_entropy, lr.cross_entropy
    for reduction in ("none", "sum"):
        want = labels(LOGITS, LABELS, **options, reduction=reduction)
        np.testing.assert_allclose(dense(LOGITS, ONE_HOT, **options, reduction=reduction), want, rtol=1e-13)
    want = labels.grad(LOGITS, LABELS, **options, reduction="none")
    got = dense.grad(LOGITS, ONE_HOT, **options, reduction="none")
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)


def test_dense_targets_average_over_rows_whatever_the_class_weights():
    by_label = lr.cross_entropy(LOGITS, LABELS, weight=WEIGHT)
    dense = lr.soft_cross_entropy(LOGITS, ONE_HOT, weight=WEIGHT)
    assert dense == pytest.approx(by_label * WEIGHT[LABELS].sum() / len(LABELS), rel=1e-13)
    assert abs(dense - by_label) > 1e-3


def test_the_z_term_counts_the_unsmoothed_mass():
    targets = RNG.uniform(size=(3, 5))
    options = {"weight": WEIGHT, "label_smoothing": 0.3, "reduction": "none"}
    z_term = lr.soft_cross_entropy(LOGITS[:3], targets, z_loss_weight=0.5, **options) - lr.soft_cross_entropy(
        LOGITS[:3], targets, **options
    )
    np.testing.assert_allclose(z_term, 0.5 * (targets @ WEIGHT) * lr.logsumexp(LOGITS[:3]) ** 2, rtol=1e-12)


def test_a_zero_target_on_a_masked_class_costs_nothing():
    logits, targets = np.array([[1.0, -np.inf, 0.0]]), np.array([[0.5, 0.0, 0.5]])
    want = lr.soft_cross_entropy(logits[:, [0, 2]], targets[:, [0, 2]])
    assert lr.soft_cross_entropy(logits, targets) == want
    assert lr.soft_cross_entropy.grad(logits, targets)[0, 1] == 0
    assert lr.soft_cross_entropy(logits, np.array([[0.5, 0.1, 0.4]])) == np.inf
    assert lr.soft_cross_entropy(logits, targets, label_smoothing=0.1) == np.inf


def test_nll_after_log_softmax_is_cross_entropy():
    labels = np.where(np.arange(8) == 2, -100, LABELS)
    log_p = lr.log_softmax(LOGITS)
    for options in ({}, {"weight": WEIGHT}, {"reduction": "none"}):
        np.testing.assert_allclose(lr.nll(log_p, labels, **options), lr.cross_entropy(LOGITS, labels, **options))
    through = lr.log_softmax.grad(LOGITS, cotangent=lr.nll.grad(log_p, labels, weight=WEIGHT))
    np.testing.assert_allclose(through, lr.cross_entropy.grad(LOGITS, labels, weight=WEIGHT), rtol=1e-12, atol=1e-16)


def test_nll_takes_any_numbers_as_they_are():
    assert lr.nll(np.array([[3.0, -np.inf]]), np.array([0])) == -3.0
    assert lr.nll(np.array([[3.0, -np.inf]]), np.array([1])) == np.inf
    assert lr.nll(np.array([[3.0, -np.inf]]), np.array([1]), weight=np.array([1.0, 0.0]), reduction="sum") == 0


def test_nothing_counts():
    ignored = np.full(8, -100)
    assert np.isnan(lr.nll(LOGITS, ignored)) and not lr.nll.grad(LOGITS, ignored).any()


# -- binary_cross_entropy ------------------------------------------------------------------------------------------


def test_the_floor_of_the_logarithms():
    p, t = np.array([0.0, 1.0, 0.0, 1.0, 1e-60]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])
    want = [100, 100, 0, 0, 100]
    np.testing.assert_array_equal(lr.binary_cross_entropy(p, t, reduction="none"), want)
    np.testing.assert_array_equal(lr.binary_cross_entropy.grad(p, t, reduction="sum"), [0, 0, 1, -1, 0])
    np.testing.assert_array_equal(
        lr.binary_cross_entropy(p, t, log_floor=None, reduction="none"), [np.inf, np.inf, 0, 0, -np.log(1e-60)]
    )
    np.testing.assert_array_equal(
        lr.binary_cross_entropy.grad(p, t, log_floor=None, reduction="sum"), [-np.inf, np.inf, 1, -1, -1e60]
    )


def test_logits_keep_what_probabilities_lose():
    x = np.array([37.0, 50.0, 700.0])
    from_logits = lr.binary_cross_entropy_with_logits(x, np.ones(3), reduction="none")
    np.testing.assert_allclose(from_logits, np.exp(-x), rtol=1e-14)
    assert not lr.binary_cross_entropy(lr.sigmoid(x), np.ones(3), reduction="none").any()


def test_at_a_logit_of_zero():
    targets = np.array([0.0, 0.5, 1.0])
    gradient = lr.binary_cross_entropy_with_logits.grad(np.zeros(3), targets, reduction="sum")
    np.testing.assert_array_equal(gradient, 0.5 - targets)


def test_the_positive_weight_is_a_number_or_one_per_column():
    x, t = RNG.normal(size=(2, 4, 3)), RNG.uniform(size=(2, 4, 3))
    loss = lr.binary_cross_entropy_with_logits
    positive, negative = t * np.log1p(np.exp(-x)), (1 - t) * np.log1p(np.exp(x))
    for weight in (2.5, np.array([2.5]), np.array([0.5, 1.0, 2.0])):
        want = weight * positive + negative
        np.testing.assert_allclose(loss(x, t, pos_weight=weight, reduction="none"), want, rtol=1e-13)
    for wrong in (np.ones(4), np.ones((4, 3)), np.ones((1, 3))):
        with pytest.raises(ValueError, match=r"^pos_weight: "):
            loss(x, t, pos_weight=wrong)
    assert loss(np.array(0.3), np.array(1.0), pos_weight=2.0) == pytest.approx(2 * np.log1p(np.exp(-0.3)))


def test_a_logit_of_minus_infinity_is_a_sure_no():
    x, t = np.array([-np.inf, -np.inf]), np.array([0.0, 1.0])
    np.testing.assert_array_equal(lr.binary_cross_entropy_with_logits(x, t, reduction="none"), [0, np.inf])
    np.testing.assert_array_equal(lr.binary_cross_entropy_with_logits.grad(x, t, reduction="sum"), [0, -1])


# -- focal losses --------------------------------------------------------------------------------------------------


def test_without_focus_sigmoid_focal_is_weighted_binary_cross_entropy():
    x, t = RNG.normal(size=20), (RNG.uniform(size=20) < 0.4).astype(float)
    plain = lr.binary_cross_entropy_with_logits(x, t, reduction="none")
    np.testing.assert_allclose(lr.sigmoid_focal(x, t, gamma=0.0, alpha=None, reduction="none"), plain, rtol=1e-15)
    weighted = np.where(t == 1, 0.25, 0.75) * plain
    np.testing.assert_allclose(lr.sigmoid_focal(x, t, gamma=0.0, reduction="none"), weighted, rtol=1e-15)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_an_answer_so_right_that_its_factor_underflows_has_gradient_zero(gamma):
    x, t = np.array([800.0, -800.0]), np.array([1.0, 0.0])
    value, gradient = lr.sigmoid_focal.value_and_grad(x, t, gamma=gamma, reduction="none")
    assert not value.any() and not gradient.any()
    gradient = lr.focal.grad(np.array([[0.0, 800.0]]), np.array([1]), gamma=gamma)
    np.testing.assert_array_equal(gradient, 0)


def test_a_class_that_does_not_count_costs_nothing_however_wrong():
    x, t = np.array([-np.inf, -np.inf, -800.0]), np.array([1.0, 0.0, 1.0])
    value, gradient = lr.sigmoid_focal.value_and_grad(x, t, alpha=0.0, reduction="none")
    assert not value.any() and not gradient.any()
    np.testing.assert_array_equal(lr.sigmoid_focal(x, t, alpha=1.0, reduction="none"), [np.inf, 0, 800])


def test_without_focus_focal_is_cross_entropy():
    want = lr.cross_entropy(LOGITS, LABELS, reduction="none")
    np.testing.assert_allclose(lr.focal(LOGITS, LABELS, gamma=0.0, reduction="none"), want, rtol=1e-15)
    want = WEIGHT[LABELS] * want
    np.testing.assert_allclose(lr.focal(LOGITS, LABELS, gamma=0.0, alpha=WEIGHT, reduction="none"), want, rtol=1e-15)
    mean = lr.focal(LOGITS, LABELS, alpha=WEIGHT)
    assert mean == pytest.approx(lr.focal(LOGITS, LABELS, alpha=WEIGHT, reduction="sum") / len(LABELS))


def test_two_classes_are_one_question():
    x = RNG.normal(size=10)
    two = np.stack([np.zeros(10), x], axis=1)
    want = lr.sigmoid_focal(x, np.ones(10), alpha=None, reduction="none")
    np.testing.assert_allclose(lr.focal(two, np.ones(10, int), reduction="none"), want, rtol=1e-13)


@pytest.mark.parametrize("name", ["focal", "poly_loss", "cross_entropy", "symmetric_cross_entropy_labels"])
def test_a_masked_label_costs_infinity_and_pulls_like_the_others(name):
    loss, logits = lr.losses()[name], np.array([[1.0, -np.inf, 0.0]])
    value, gradient = loss.value_and_grad(logits, np.array([1]))
    scale = 0.1 if name == "symmetric_cross_entropy_labels" else 1.0
    assert value == np.inf
    np.testing.assert_allclose(gradient, scale * np.array([[1 / (1 + np.exp(-1)), -1, 1 / (1 + np.e)]]), rtol=1e-14)


# -- kl_divergence, poly_loss --------------------------------------------------------------------------------------

TARGETS = RNG.dirichlet(np.ones(5), 8)


def test_forward_divergence_is_cross_entropy_minus_entropy():
    entropy = -(TARGETS * np.log(TARGETS)).sum(axis=1)
    want = lr.soft_cross_entropy(LOGITS, TARGETS, reduction="none") - entropy
    np.testing.assert_allclose(lr.kl_divergence(LOGITS, TARGETS, reduction="none"), want, rtol=1e-13)


def test_reverse_divergence_swaps_the_roles():
    swapped = lr.kl_divergence(np.log(TARGETS), lr.softmax(LOGITS), reduction="none")
    np.testing.assert_allclose(lr.kl_divergence(LOGITS, TARGETS, reverse=True, reduction="none"), swapped, rtol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12, 0.0])
def test_nearly_equal_distributions_are_never_closer_than_zero(reverse, size):
    targets = np.full((6, 4), 0.25)
    bump = size * np.array([1.0, -1.0, 2.0, -2.0]) * np.arange(1, 7)[:, None]
    value = lr.kl_divergence(bump, targets, reverse=reverse, reduction="none")
    assert (value >= 0).all()
    np.testing.assert_allclose(value, bump.var(axis=1) / 2, rtol=20 * size + 1e-15 / max(size, 1e-15))


def test_what_one_side_excludes():
    p = np.array([[0.3, 0.7, 0.0]])
    masked, targets = np.array([[0.0, 0.0, -np.inf]]), p
    want = (p[0, :2] * np.log(p[0, :2] / 0.5)).sum()
    assert lr.kl_divergence(masked, targets) == pytest.approx(want, rel=1e-14)
    assert lr.kl_divergence(masked, np.array([[0.3, 0.5, 0.2]])) == np.inf
    want = (0.5 * np.log(0.5 / p[0, :2])).sum()
    assert lr.kl_divergence(masked, targets, reverse=True) == pytest.approx(want, rel=1e-14)
    np.testing.assert_allclose(lr.kl_divergence.grad(masked, targets, reverse=True).sum(), 0, atol=1e-16)
    for unlikely in (0.0, -900.0):  # however unlikely
        logits = np.array([[0.0, 0.0, unlikely]])
        assert lr.kl_divergence(logits, targets, reverse=True) == np.inf
        assert np.isnan(lr.kl_divergence.grad(logits, targets, reverse=True)).all()
    # A class excluded here and possible there: reverse divergence does not mind.
    want = np.log(0.5 / 0.3) / 2 + np.log(0.5 / 0.5) / 2
    assert lr.kl_divergence(masked, np.array([[0.3, 0.5, 0.2]]), reverse=True) == pytest.approx(want, rel=1e-14)


def test_negative_targets_are_refused():
    with pytest.raises(ValueError, match=r"^targets: "):
        lr.kl_divergence(np.zeros((1, 3)), np.array([[-0.2, 0.6, 0.6]]))


def test_poly_changes_the_first_coefficient_of_the_series():
    confident = np.array([[30.0, 0.0, 0.0], [12.0, 0.0, 1.0]])
    labels, miss = np.zeros(2, int), lr.mae_classification(confident, np.zeros(2, int), reduction="none")
    none_left = lr.poly_loss(confident, labels, epsilon=-1.0, reduction="none")
    np.testing.assert_allclose(none_left, miss**2 / 2 + miss**3 / 3 + miss**4 / 4, rtol=1e-12)
    gradient = lr.poly_loss.grad(confident, labels, epsilon=-1.0, reduction="sum")
    np.testing.assert_allclose(gradient[:, 0], -(miss**2), rtol=1e-12)
    assert lr.poly_loss(LOGITS, LABELS, epsilon=0.0) == pytest.approx(lr.cross_entropy(LOGITS, LABELS), rel=1e-14)


# -- peers ---------------------------------------------------------------------------------------------------------


def torch_value_and_gradient(function, x):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")
    tensor = torch.tensor(x, requires_grad=True)
    value = function(torch, tensor)
    value.sum().backward()
    return value.detach().numpy(), tensor.grad.numpy()


def agree(loss, x, *rest, peer, rtol=1e-12, **options):
    value, gradient = torch_value_and_gradient(peer, x)
    np.testing.assert_allclose(loss(x, *rest, **options), value, rtol=rtol)
    np.testing.assert_allclose(loss.grad(x, *rest, **options), gradient, rtol=rtol, atol=1e-15)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
class TestPyTorch:
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
    def test_cross_entropy_with_probabilities(self, reduction, weighted, label_smoothing):
        options = {"label_smoothing": label_smoothing, "reduction": reduction}

        def peer(torch, x):
            w = torch.tensor(WEIGHT) if weighted else None
            return torch.nn.functional.cross_entropy(x, torch.tensor(TARGETS), weight=w, **options)

        weight = {"weight": WEIGHT} if weighted else {}
        agree(lr.soft_cross_entropy, LOGITS, TARGETS, peer=peer, **weight, **options)

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("ignore_index", [-100, 2])
    def test_nll_loss(self, reduction, weighted, ignore_index):
        labels, options = np.where(np.arange(8) == 3, ignore_index, LABELS), {"reduction": reduction}

        def peer(torch, x):
            w = torch.tensor(WEIGHT) if weighted else None
            return torch.nn.functional.nll_loss(
                x, torch.tensor(labels), weight=w, ignore_index=ignore_index, **options
            )

        weight = {"weight": WEIGHT} if weighted else {}
        agree(lr.nll, lr.log_softmax(LOGITS), labels, peer=peer, ignore_index=ignore_index, **weight, **options)

    def test_binary_cross_entropy(self, reduction):
        probs, targets = RNG.uniform(0.01, 0.99, (6, 3)), RNG.uniform(size=(6, 3))

        def peer(torch, p):
            return torch.nn.functional.binary_cross_entropy(p, torch.tensor(targets), reduction=reduction)

        agree(lr.binary_cross_entropy, probs, targets, peer=peer, reduction=reduction)

    @pytest.mark.parametrize("pos_weight", [None, 3.0, "per column"])
    def test_binary_cross_entropy_with_logits(self, reduction, pos_weight):
        x, targets = 3 * RNG.normal(size=(6, 5)), RNG.uniform(size=(6, 5))
        weight = WEIGHT if pos_weight == "per column" else pos_weight

        def peer(torch, x):
            w = None if weight is None else torch.tensor(weight, dtype=torch.float64)
            return torch.nn.functional.binary_cross_entropy_with_logits(
                x, torch.tensor(targets), pos_weight=w, reduction=reduction
            )

        options = {} if weight is None else {"pos_weight": weight}
        agree(lr.binary_cross_entropy_with_logits, x, targets, peer=peer, reduction=reduction, **options)

    def test_kl_div(self, reduction):
        theirs = {"mean": "batchmean"}.get(reduction, reduction)

        def peer(torch, x):
            value = torch.nn.functional.kl_div(x.log_softmax(1), torch.tensor(TARGETS), reduction=theirs)
            return value.sum(1) if reduction == "none" else value

        agree(lr.kl_divergence, LOGITS, TARGETS, peer=peer, reduction=reduction)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
class TestPyTorchElsewhere:
    def test_the_value_on_the_floor_and_another_gradient(self):
        p, t = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])

        def peer(torch, p):
            return torch.nn.functional.binary_cross_entropy(p, torch.tensor(t), reduction="none")

        value, gradient = torch_value_and_gradient(peer, p)
        np.testing.assert_array_equal(lr.binary_cross_entropy(p, t, reduction="none"), value)
        np.testing.assert_allclose(gradient, [0, -1e12, 1e12], rtol=1e-8)  # the true ones: 1, 0, 0

    def test_a_masked_class_without_a_target_is_nan_there(self):
        logits, targets = np.array([[1.0, -np.inf, 0.0]]), np.array([[0.5, 0.0, 0.5]])
        value, _ = torch_value_and_gradient(
            lambda torch, x: torch.nn.functional.cross_entropy(x, torch.tensor(targets)), logits
        )
        assert np.isnan(value) and np.isfinite(lr.soft_cross_entropy(logits, targets))

    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_focal_by_autograd(self, gamma):
        def peer(torch, x):
            log_p = torch.nn.functional.log_softmax(x, 1)[range(8), LABELS]
            return -torch.tensor(WEIGHT[LABELS]) * (1 - log_p.exp()) ** gamma * log_p

        agree(lr.focal, LOGITS, LABELS, peer=peer, gamma=gamma, alpha=WEIGHT, reduction="none", rtol=1e-11)

    def test_entropy_of_a_categorical(self):
        def peer(torch, x):
            return torch.distributions.Categorical(logits=x).entropy()

        agree(lr.softmax_entropy, LOGITS, peer=peer, reduction="none")


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
class TestOptax:
    @pytest.fixture
    def optax(self):
        jax = pytest.importorskip("jax", reason="JAX is not installed (pip install 'lossref[peers]')")
        with jax.enable_x64(True):
            yield pytest.importorskip("optax", reason="optax is not installed (pip install 'lossref[peers]')")

    def test_poly_loss_cross_entropy(self, optax):
        theirs = optax.losses.poly_loss_cross_entropy(LOGITS, ONE_HOT)
        np.testing.assert_allclose(lr.poly_loss(LOGITS, LABELS, epsilon=2.0, reduction="none"), theirs, rtol=1e-12)

    @pytest.mark.parametrize("alpha", [None, 0.25, 0.6])
    def test_sigmoid_focal_loss(self, optax, alpha):
        x, t = RNG.normal(size=30), (RNG.uniform(size=30) < 0.5).astype(float)
        theirs = optax.losses.sigmoid_focal_loss(x, t, alpha=alpha, gamma=1.5)
        ours = lr.sigmoid_focal(x, t, alpha=alpha, gamma=1.5, reduction="none")
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)

    def test_kl_divergence(self, optax):
        theirs = optax.losses.kl_divergence(lr.log_softmax(LOGITS), TARGETS)
        np.testing.assert_allclose(lr.kl_divergence(LOGITS, TARGETS, reduction="none"), theirs, rtol=1e-12)

    def test_softmax_cross_entropy(self, optax):
        theirs = optax.losses.softmax_cross_entropy(LOGITS, TARGETS)
        np.testing.assert_allclose(lr.soft_cross_entropy(LOGITS, TARGETS, reduction="none"), theirs, rtol=1e-12)
