"""Linear cross-entropy: every rung with every option, the gradient filter, the order of the vocabulary, the reduction.

The truth is the NumPy path in float64, whose own error against exact arithmetic tests/ knows. Where the device's memory
is the host's, in the simulator and on the stand-in, a NumPy object stands in for the library whose GEMM the fast rung
uses; on a GPU it is PyTorch, or that rung is not tested.
"""

from contextlib import nullcontext
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import library_products, linear_cross_entropy
from numba import cuda

import lossref as lr


class NumPy:
    """out = a @ b and out += a @ b, on arrays whose memory is the host's; counts what it is asked for."""

    def __init__(self, where):
        self.where = where
        self.products = []

    def takes(self, dtype):
        return True

    def on(self, stream):
        return nullcontext()

    def array(self, array, dtype):
        if self.where == "simulator":
            return array._ary.view(dtype)
        return np.asarray(SimpleNamespace(__array_interface__=array.__cuda_array_interface__)).view(dtype)

    def multiply(self, a, b, out):
        self.products.append((*a.shape, b.shape[1]))
        out[...] = a.astype(np.float64) @ b.astype(np.float64)

    def multiply_and_add(self, a, b, out):
        self.products.append((*a.shape, b.shape[1]))
        out += (a.astype(np.float64) @ b.astype(np.float64)).astype(out.dtype)


@pytest.fixture
def library(where):
    if where != "GPU":
        return NumPy(where)
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch is installed without CUDA")
    return library_products.Torch(torch)


@pytest.fixture
def launch(request):
    def options(rung):
        if rung != "library_products":
            return {"rung": rung}
        return {"rung": rung, "library": request.getfixturevalue("library")}

    return options


WIDE_RUNGS = [rung for rung in linear_cross_entropy.RUNGS if rung != "tensor_core_tiles"]  # float32 and float64
OPTIONS = {
    "plain": {},
    "bias": {"bias": True},
    "softcap": {"softcap": 3.0},
    "smoothing": {"label_smoothing": 0.2},
    "z": {"z_loss_weight": 0.1},
    "shift": {"shift": 2},
    "two chunks": {"block_size": (4, 5)},
    "filter": {"filter_eps": 0.08, "block_size": (2, 3)},
    "everything": {
        "bias": True, "softcap": 4.0, "label_smoothing": 0.1, "z_loss_weight": 0.01, "shift": 1, "ignore_index": 3,
        "filter_eps": 0.1, "block_size": (3, 4),
    },
}  # fmt: skip


def problem(dtype=np.float64, *, bias=False, classes=21, features=6, length=4, seed=0, **options):
    """hidden, classifier and labels of two sequences, with an ignored row; and the options."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(2, length, features)).astype(dtype)
    classifier = rng.normal(size=(classes, features)).astype(dtype)
    labels = rng.integers(0, classes, (2, length))
    labels[0, 2] = options.get("ignore_index", -100)
    if bias:
        options["bias"] = rng.normal(size=classes).astype(dtype)
    return (hidden, classifier, labels), options


def truth(arrays, cotangent, **options):
    """Terms and gradients on the NumPy path, in float64."""
    *real, labels = arrays
    wide = [*(array.astype(np.float64) for array in real), labels]
    if options.get("bias") is not None:
        options["bias"] = options["bias"].astype(np.float64)
    terms = lr.linear_cross_entropy(*wide, reduction="none", **options)
    return terms, lr.linear_cross_entropy.grad(*wide, reduction="none", cotangent=cotangent, **options)


def compare(found, wanted, tolerance):
    assert len(found) == len(wanted)
    for array, want in zip(found, wanted, strict=True):
        assert array.shape == want.shape
        scale = np.abs(want).max(initial=1e-300)
        np.testing.assert_allclose(array.astype(np.float64), want, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("rung", WIDE_RUNGS)
@pytest.mark.parametrize("case", OPTIONS)
def test_options(launch, rung, case):
    arrays, options = problem(**OPTIONS[case])
    shape = arrays[2][..., options.get("shift", 0) :].shape
    cotangent = np.linspace(0.5, 2, np.prod(shape)).reshape(shape)
    want, want_gradients = truth(arrays, cotangent, **options)
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, cotangent=cotangent, **options, **launch(rung))
    assert terms.shape == shape
    assert terms.dtype == gradients[0].dtype == np.float64
    compare([terms, *gradients], [want, *want_gradients], 1e-13)
    np.testing.assert_array_equal(linear_cross_entropy.value(*arrays, **options, **launch(rung)), terms)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("case", ["shift", "filter", "everything"])
def test_the_host_need_not_know_which_rows_count(case, on_device):
    """Device arrays: ignored rows are computed, last, and count for nothing."""
    arrays, options = problem(**OPTIONS[case])
    want, want_gradients = truth(arrays, 1.0, **options)
    if on_device:
        arrays = [cuda.to_device(array) for array in arrays]
        options = {k: cuda.to_device(v) if k == "bias" else v for k, v in options.items()}
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, cotangent=1.0, **options)
    if on_device:
        terms, *gradients = (array.copy_to_host() for array in (terms, *gradients))
    compare([terms, *gradients], [want, *want_gradients], 1e-13)


@pytest.mark.parametrize("rung", linear_cross_entropy.RUNGS)
@pytest.mark.parametrize("sizes", [(17, 1), (33, 40)], ids=lambda sizes: f"{sizes[0]} classes, {sizes[1]} features")
def test_bfloat16_into_float32(launch, rung, sizes):
    """The logits and the sums of products are float32: what is lost is the rounding of the factors G and of the
    results, 8 bits each."""
    classes, features = sizes
    arrays, _ = problem(ml_dtypes.bfloat16, classes=classes, features=features, length=9)
    want, want_gradients = truth(arrays, 1.0)
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, cotangent=1.0, **launch(rung))
    assert terms.dtype == gradients[0].dtype == gradients[1].dtype == ml_dtypes.bfloat16
    compare([terms, *gradients], [want, *want_gradients], 2.0**-7)
    # A sum of rounded products would be further off than the tolerance: logits in bfloat16 are.
    if features > 1:
        rounded = (arrays[0] @ arrays[1].T).astype(ml_dtypes.bfloat16).astype(np.float64)
        coarse = lr.cross_entropy(rounded.reshape(-1, classes), arrays[2].ravel(), reduction="none")
        ours = linear_cross_entropy.reduced_value(*arrays, reduction="sum", **launch(rung)).astype(np.float64)
        assert abs(coarse - want.ravel()).max() > 2.0**-8
        assert abs(ours - want.sum()) <= 2.0**-8 * want.sum()


@pytest.mark.parametrize("rung", WIDE_RUNGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=lambda d: np.dtype(d).name)
def test_other_dtypes(launch, rung, dtype):
    arrays, options = problem(dtype, bias=True)
    want, want_gradients = truth(arrays, 1.0, **options)
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, cotangent=1.0, **options, **launch(rung))
    compare([terms, *gradients], [want, *want_gradients], 8 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("rung", linear_cross_entropy.RUNGS)
def test_the_blind_band(launch, rung):
    """Right by 40: the loss is e**-40, because the label's logit comes out of the table of the others."""
    dtype = ml_dtypes.bfloat16 if rung == "tensor_core_tiles" else np.float32
    hidden, classifier = np.array([[1.0, 8.0]], dtype), np.array([[0.0, 5.0], [0.0, 0.0], [0.0, 0.0]], dtype)
    terms, gradients = linear_cross_entropy.value_and_vjp(hidden, classifier, [0], cotangent=[1.0], **launch(rung))
    tolerance = 2.0**-8 if rung == "tensor_core_tiles" else 1e-5
    np.testing.assert_allclose(terms.astype(float), [2 * np.exp(-40.0)], rtol=tolerance)
    np.testing.assert_allclose(gradients[0].astype(float), [[0, -10 * np.exp(-40.0)]], rtol=2 * tolerance)
    logits = hidden.astype(np.float32) @ classifier.astype(np.float32).T
    assert np.log(np.exp(logits - 40).sum()) == 0  # the textbook


@pytest.mark.parametrize("rung", ["shared_memory_tiles", "library_products"])
def test_dropped_tiles_cost_nothing(where, launch, rung):
    """Rows that are sure of class 0: of 40 classes only the first tile matters, and only it is multiplied."""
    if rung == "library_products" and where == "GPU":
        pytest.skip("counts the products of the library made of NumPy")
    hidden = np.ones((16, 1))
    classifier = np.concatenate([[[60.0]], [[59.0]], np.zeros((38, 1))])
    labels = np.zeros(16, int)
    options, how = {"filter_eps": 1e-3, "block_size": (8, 4)}, launch(rung)
    _, gradients = linear_cross_entropy.value_and_vjp(
        hidden, classifier, labels, cotangent=np.ones(16), **options, **how
    )
    compare(gradients, truth((hidden, classifier, labels), 1.0, **options)[1], 1e-13)
    assert (gradients[1][4:] == 0).all()
    unfiltered = linear_cross_entropy.vjp(hidden, classifier, labels, cotangent=np.ones(16))[1]
    assert (unfiltered[4:] != 0).all()
    if rung == "library_products":
        first, *others = how["library"].products
        assert first == (16, 1, 40)
        assert sum(np.prod(product) for product in others) == 2 * 16 * 4


@pytest.mark.parametrize("rung", WIDE_RUNGS)
def test_everything_dropped(launch, rung):
    hidden, classifier = np.ones((2, 1)), np.array([[60.0], [0.0], [0.0]])
    gradients = linear_cross_entropy.vjp(
        hidden, classifier, [0, 0], cotangent=np.ones(2), filter_eps="auto", **launch(rung)
    )
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("rung", WIDE_RUNGS)
def test_vocabulary_order(launch, rung):
    """Frequent classes strewn over the vocabulary keep every tile; ordered, they share one."""
    rng = np.random.default_rng(3)
    classes, frequent = 24, [1, 7, 13, 22]
    hidden = np.concatenate([np.ones((8, 1)), rng.normal(size=(8, 2)) / 4], axis=1)
    classifier = np.concatenate([np.zeros((classes, 1)), rng.normal(size=(classes, 2))], axis=1)
    classifier[frequent, 0] = 30
    bias = rng.normal(size=classes)
    labels = np.array(frequent * 2)
    options = {"bias": bias, "cotangent": np.ones(8), "filter_eps": 1e-6, "block_size": (8, 4), **launch(rung)}
    arrays = hidden, classifier, labels
    exact_terms, exact_gradients = truth(arrays, 1.0, bias=bias)
    kept = {}
    for order in (None, "mean_logit"):
        terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, vocabulary_order=order, **options)
        compare([terms, *gradients], [exact_terms, *exact_gradients], 1e-5)
        kept[order] = (gradients[1] != 0).all(1).sum()
    assert kept[None] == 16  # of 6 tiles of 4 classes, 4 hold a frequent one
    assert kept["mean_logit"] == 4
    backwards = np.arange(classes)[::-1]
    unfiltered = {**options, "filter_eps": None}
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, vocabulary_order=backwards, **unfiltered)
    compare([terms, *gradients], [exact_terms, *exact_gradients], 1e-13)
    with pytest.raises(ValueError, match="vocabulary_order"):
        linear_cross_entropy.value(*arrays, vocabulary_order=np.zeros(classes, int))


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", None), ("mean", None), ("mean", 7.0), ("none", None)])
@pytest.mark.parametrize("case", ["plain", "everything"])
def test_reduction_on_the_device(reduction, divisor, case):
    arrays, options = problem(**OPTIONS[case])
    kept = arrays[2][..., options.get("shift", 0) :] != options.get("ignore_index", -100)
    by = (divisor or kept.sum()) if reduction == "mean" else 1
    terms, gradients = truth(arrays, 1.5 / by, **options)
    there = {k: cuda.to_device(v) if k == "bias" else v for k, v in options.items()}
    value, found = linear_cross_entropy.reduced_value_and_vjp(
        *map(cuda.to_device, arrays), reduction=reduction, divisor=divisor, cotangent=1.5, **there
    )
    want = terms if reduction == "none" else terms.sum() / by
    compare([a.copy_to_host() for a in (value, *found)], [np.asarray(want), *gradients], 1e-13)
    here = linear_cross_entropy.reduced_value(*arrays, reduction=reduction, divisor=divisor, **options)
    np.testing.assert_allclose(here, want, rtol=1e-13)


def test_through_core():
    """The registered loss has the path, with its checks and its named gradients."""
    loss = lr.linear_cross_entropy.path("cuda")
    arrays, options = problem(bias=True, shift=1)
    want = lr.linear_cross_entropy.value_and_grad(*arrays, **options)
    for move in (np.asarray, cuda.to_device):
        there = {"bias": move(options["bias"]), "shift": 1}
        value, gradients = loss.value_and_grad(*map(move, arrays), **there)
        assert gradients._fields == ("hidden", "classifier", "bias")
        fetched = [np.asarray(a if move is np.asarray else a.copy_to_host()) for a in (value, *gradients)]
        compare(fetched, [want[0], *want[1]], 1e-13)
    with pytest.raises(ValueError, match="labels"):
        loss(arrays[0], arrays[1], np.full((2, 4), 21))


def test_nothing_counts():
    hidden, classifier = np.ones((3, 2), np.float32), np.ones((4, 2), np.float32)
    for labels in (np.full(3, -100), np.empty(0, int)):
        states = hidden[: labels.size]
        for move in (np.asarray, cuda.to_device):
            if move is cuda.to_device and labels.size == 0:
                continue  # an empty array on the device is Numba's, and looks like NumPy's
            value, gradients = linear_cross_entropy.reduced_value_and_vjp(move(states), move(classifier), move(labels))
            value, *gradients = (np.asarray(a) if move is np.asarray else a.copy_to_host() for a in (value, *gradients))
            assert np.isnan(value)
            assert [g.shape for g in gradients] == [states.shape, (4, 2)]
            assert all((g == 0).all() for g in gradients)
        assert linear_cross_entropy.reduced_value(states, classifier, labels, reduction="sum") == 0
    terms, (d_hidden, d_classifier) = linear_cross_entropy.value_and_vjp(
        np.empty((2, 0)), np.empty((3, 0)), [0, 1], cotangent=np.ones(2)
    )
    np.testing.assert_allclose(terms, np.log(3))
    assert d_hidden.shape == (2, 0)
    assert d_classifier.shape == (3, 0)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy scalars warn in the simulator, a GPU does not
@pytest.mark.parametrize("filter_eps", [None, 1e-3])
def test_an_impossible_label_is_nan(filter_eps):
    arrays = [cuda.to_device(a) for a in (np.ones((3, 2)), np.ones((4, 2)), np.array([0, 4, -1]))]
    terms, gradients = linear_cross_entropy.value_and_vjp(*arrays, cotangent=1.0, filter_eps=filter_eps)
    np.testing.assert_array_equal(np.isnan(terms.copy_to_host()), [False, True, True])
    np.testing.assert_array_equal(np.isnan(gradients[0].copy_to_host()).any(1), [False, True, True])
    assert np.isnan(gradients[1].copy_to_host()).all()


def test_errors_by_name():
    arrays, _ = problem(np.float32)
    with pytest.raises(ValueError, match="rung must be one of"):
        linear_cross_entropy.value(*arrays, rung="fastest")
    with pytest.raises(ValueError, match="multiplies bfloat16, not float32"):
        linear_cross_entropy.value(*arrays, rung="tensor_core_tiles")
    with pytest.raises(ValueError, match="needs arrays of PyTorch or CuPy"):
        linear_cross_entropy.value(*arrays, rung="library_products")
    with pytest.raises(ValueError, match="reduction must be"):
        linear_cross_entropy.reduced_value(*arrays, reduction="median")
    with pytest.raises(TypeError, match="one dtype"):
        linear_cross_entropy.value(arrays[0], arrays[1].astype(np.float64), arrays[2])
