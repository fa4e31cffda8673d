"""lossref.torch: the numbers are lossref's own, and PyTorch's machinery takes the functions for its own."""

import doctest
import subprocess
import sys
from functools import partial

import ml_dtypes
import numpy as np
import pytest
from bridge_examples import NAMES, as_tuple, example, holds_constants

import lossref as lr
from lossref.bridge import Bridge

torch = pytest.importorskip("torch")
import lossref.torch as lt  # noqa: E402 - only where PyTorch is

pytestmark = pytest.mark.peers


def as_tensors(loss, arrays: dict) -> tuple[dict, list]:
    """The arrays as tensors, and among them those that need a gradient."""
    tensors = {n: lt.from_numpy(a).requires_grad_(n in loss.of) for n, a in arrays.items()}
    return tensors, [tensors[n] for n in loss.of if n in tensors]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_loss(name, dtype):
    loss, arrays, options = example(name, dtype)
    tensors, variables = as_tensors(loss, arrays)
    value = getattr(lt, name)(**tensors, **options)
    own = np.asarray(loss(**arrays, **options))
    assert np.array_equal(lt.to_numpy(value), own) and lt.to_numpy(value).dtype == own.dtype
    cotangent = np.random.default_rng(3).standard_normal(own.shape).astype(own.dtype)
    gradients = torch.autograd.grad(value, variables, lt.from_numpy(cotangent))
    for ours, theirs in zip(as_tuple(loss.grad(**arrays, **options, cotangent=cotangent)), gradients, strict=True):
        assert np.array_equal(lt.to_numpy(theirs), ours) and np.any(ours != 0), name


@pytest.mark.parametrize("name", [n for n in NAMES if not holds_constants(lr.losses()[n])])
def test_gradcheck(name):
    loss, arrays, options = example(name)
    tensors, variables = as_tensors(loss, arrays)
    moving = [n for n in loss.of if n in tensors]

    def function(*moved):
        return getattr(lt, name)(**{**tensors, **dict(zip(moving, moved, strict=True))}, **options)

    assert torch.autograd.gradcheck(function, variables)


def operator_call(name: str) -> tuple:
    """The operator of a loss, and what it is called with."""
    loss, arrays, options = example(name)
    tensors, _ = as_tensors(loss, arrays)
    bridge = Bridge(loss)
    values = bridge.bound((), {**tensors, **options})
    for option in bridge.options:
        if values[option] is not None:
            values[option] = lt._as_kind(lt._kind(bridge, option), option, values[option])
    return getattr(lt, name).operator, tuple(values[n] for n in (*bridge.arrays, *bridge.options))


# Several gradients with an optional one, a shape that depends on an option, an axis, a pair of logits, a 0-d result.
SAMPLE = ["cross_entropy", "linear_cross_entropy", "logsumexp", "dpo", "sinkhorn"]


@pytest.mark.parametrize("name", SAMPLE)
def test_opcheck(name):
    operator, arguments = operator_call(name)
    found = torch.library.opcheck(operator, arguments)
    assert len(found) == 4 and set(found.values()) == {"SUCCESS"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in SAMPLE])
def test_opcheck_of_the_rest(name):
    operator, arguments = operator_call(name)
    assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def compiled_agrees(name, backend, reduction=None):
    torch._dynamo.reset()  # its limit of recompilations is for one piece of code, and here that is the lambda below
    loss, arrays, options = example(name)
    options |= {} if reduction is None else {"reduction": reduction}
    compiled = torch.compile(
        lambda *arrays: getattr(lt, name)(**dict(zip(given, arrays, strict=True)), **options).sum() * 2,
        fullgraph=True, backend=backend,
    )  # fmt: skip
    given = list(arrays)
    tensors, variables = as_tensors(loss, arrays)
    gradients = torch.autograd.grad(compiled(*tensors.values()), variables)
    ones = np.full(np.shape(loss(**arrays, **options)), 2.0)
    for ours, theirs in zip(as_tuple(loss.grad(**arrays, **options, cotangent=ones)), gradients, strict=True):
        assert np.array_equal(theirs.numpy(), ours)


@pytest.mark.parametrize("name", SAMPLE)
def test_compiled_without_a_break_in_the_graph(name):
    compiled_agrees(name, "aot_eager", "none" if lr.losses()[name].reducible else None)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in SAMPLE])
def test_the_rest_compiled(name):
    compiled_agrees(name, "aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the compiler are not ours
def test_compiled_by_inductor():
    compiled_agrees("cross_entropy", "inductor")


def test_every_loss_has_a_limit_of_recompilations_of_its_own():
    names = ["softplus", "sigmoid", "log_sigmoid", "softmax", "log_softmax", "logsumexp", "log1mexp", "stablemax",
             "spherical_softmax", "taylor_softmax"]  # fmt: skip
    assert len(names) > torch._dynamo.config.recompile_limit
    for name in names:
        x = -torch.ones(2, 3)
        compiled = torch.compile(getattr(lt, name), fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), getattr(lt, name)(x))


def test_a_batch_of_another_size_compiles_once_more_and_no_more():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(lt.cross_entropy, reduction="none"), fullgraph=True, backend=counter)
    for size in (5, 6, 7, 8):
        logits, labels = torch.randn(size, 4, dtype=torch.float64), torch.arange(size) % 4
        own = lr.cross_entropy(logits.numpy(), labels.numpy(), reduction="none")
        assert np.array_equal(compiled(logits, labels).numpy(), own)
    assert counter.frame_count == 2  # one for the first size, one for all


def test_a_model_is_trained_through_a_loss_of_ones_own():
    def squared_error(prediction: lr.core.Real("N"), target: lr.core.Real("N")):
        return (prediction - target) ** 2

    own = lr.Loss(squared_error, "prediction", None, "N", {}, True)
    own.gradient(lambda prediction, target: 2 * (prediction - target))
    function = lt.differentiable(own)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    x = torch.randn(50, 3)
    target = x @ torch.tensor([1.0, -2.0, 0.5])
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        function(model(x)[:, 0], target).backward()
        optimizer.step()
    assert function(model(x)[:, 0], target).item() < 1e-4


def test_several_arrays_and_only_one_of_them_needs_a_gradient():
    hidden, classifier = torch.randn(4, 3), torch.randn(5, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, -100])
    value = lt.linear_cross_entropy(hidden, classifier, labels, block_size=(2, 3), label_smoothing=0.1)
    value.backward()
    own = lr.linear_cross_entropy.grad(
        hidden.numpy(), classifier.detach().numpy(), labels.numpy(), block_size=(2, 3), label_smoothing=0.1
    )
    assert np.array_equal(classifier.grad.numpy(), own.classifier) and hidden.grad is None


def test_arrays_that_are_no_tensors_and_integers_count_as_in_numpy():
    logits = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    value = lt.binary_cross_entropy_with_logits(logits, [[1.0, 0.0]], pos_weight=0.1)
    assert value.item() == lr.binary_cross_entropy_with_logits(logits.numpy(), [[1.0, 0.0]], pos_weight=0.1)
    whole = lt.cross_entropy(torch.tensor([[3, 1]]), torch.tensor([0], dtype=torch.int32))
    assert whole.dtype == torch.float64 and whole.item() == lr.cross_entropy([[3, 1]], [0])


def test_an_array_is_shared_not_copied():
    for dtype in (torch.float64, torch.bfloat16):
        tensor = torch.zeros(6, dtype=dtype)[::2]
        lt.to_numpy(tensor)[1] = 7
        assert tensor[1] == 7
        back = lt.from_numpy(lt.to_numpy(tensor))
        assert back.dtype == dtype and back.data_ptr() == tensor.data_ptr()
    reversed_view = np.arange(3.0)[::-1]
    assert lt.from_numpy(reversed_view).tolist() == [2, 1, 0]
    assert lt.from_numpy(np.broadcast_to(1.0, 2)).tolist() == [1, 1]


LOGITS, LABELS = torch.zeros(2, 3, requires_grad=True), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: lt.cross_entropy(LOGITS), TypeError, "cross_entropy: missing a required argument: 'labels'"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, smoothing=1), TypeError, "unexpected keyword argument 'smoothing'"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, logits=LOGITS), TypeError, "multiple values for argument 'logits'"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, None), TypeError, "too many positional arguments"),
        (lambda: lt.cross_entropy(LOGITS, torch.tensor([0, 3])), ValueError, r"labels: .*got 3 at index \(1,\)"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, softcap=torch.tensor(1.0)), TypeError, "softcap: .*got a tensor"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, softcap=True), TypeError, "softcap: .*got True"),
        (lambda: lt.cross_entropy(LOGITS, LABELS, reduction="most"), ValueError, "reduction: "),
        (lambda: lt.kl_divergence(LOGITS, LOGITS.softmax(1)), TypeError, "targets: .*got one that requires grad"),
        (lambda: lt.cross_entrpy, AttributeError, "no attribute 'cross_entrpy'"),
        (lambda: lt.two_hot_targets, AttributeError, "two_hot_targets: it has no gradient"),
        (lambda: lt.differentiable(lr.two_hot_targets), TypeError, "two_hot_targets, which has none"),
        (lambda: lt.differentiable(len), TypeError, "loss: expected a Loss"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_a_second_derivative_is_refused():
    x = torch.zeros(2, requires_grad=True)
    (first,) = torch.autograd.grad(lt.softplus(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        first.sum().backward()


# -- tensors on a GPU: what can be seen without one -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_a_result_keeps_its_dtype_and_its_place(dtype):
    """The CPU stands for the GPU, NumPy's array for Numba's: both have .dtype and .view, and PyTorch takes both."""
    array = np.arange(6).astype(dtype).reshape(2, 3)
    tensor = lt._from_gpu(array, torch.device("cpu"))
    assert np.array_equal(lt.to_numpy(tensor), array) and lt.to_numpy(tensor).dtype == dtype
    assert tensor.data_ptr() == array.ctypes.data
    assert lt._from_gpu(array.T, torch.device("cpu")).is_contiguous()


def test_where_tensors_on_a_gpu_go():
    with pytest.raises(ValueError, match=r"focal: expected tensors on the CPU .* its paths are numpy, got CUDA"):
        lt._on_cuda(lr.focal)
    assert lt._on_cuda(lr.cross_entropy).path_name == "cuda"


class StandInForTheCudaPath:
    """Takes tensors as the array interface of those on a GPU gives them away: only without a gradient to come."""

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, **arguments):
        return self.loss(**self.exported(arguments))

    def grad(self, **arguments):
        return self.loss.grad(**self.exported(arguments))

    @staticmethod
    def exported(arguments):
        tensors = {n: v for n, v in arguments.items() if isinstance(v, torch.Tensor)}
        if any(tensor.requires_grad for tensor in tensors.values()):
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")
        return {**arguments, **{n: tensor.numpy() for n, tensor in tensors.items()}}


def test_the_cuda_path_gets_tensors_without_a_gradient_to_come(monkeypatch):
    monkeypatch.setattr(lt, "_gpu", lambda tensors: torch.device("cpu"))
    monkeypatch.setattr(lt, "_on_cuda", StandInForTheCudaPath)
    logits, labels = torch.randn(4, 5, dtype=torch.float64).requires_grad_(), torch.tensor([0, 1, 2, 4])
    value = lt.cross_entropy(logits, labels)
    value.backward()
    torch.testing.assert_close(logits.grad, torch.from_numpy(lr.cross_entropy.grad(logits.detach().numpy(), labels)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_on_a_gpu(dtype, reduction):
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 33).to(dtype), torch.randint(33, (7,))
    there = logits.cuda().requires_grad_()
    value = lt.cross_entropy(there, labels.cuda(), label_smoothing=0.1, reduction=reduction)
    cotangent = torch.randn(value.shape).to(dtype)
    (gradient,) = torch.autograd.grad(value, there, cotangent.cuda())
    assert value.is_cuda and gradient.is_cuda and value.dtype == gradient.dtype == dtype
    wide = lt.to_numpy(logits.double())
    options = {"label_smoothing": 0.1, "reduction": reduction}
    eps = torch.finfo(dtype).eps
    own = lr.cross_entropy(wide, labels.numpy(), **options)
    assert np.allclose(lt.to_numpy(value.double()), own, rtol=8 * eps)
    own = lr.cross_entropy.grad(wide, labels.numpy(), **options, cotangent=lt.to_numpy(cotangent.double()))
    assert np.allclose(lt.to_numpy(gradient.double()), own, rtol=16 * eps, atol=eps)


# -- names, documentation, what is loaded -----------------------------------------------------------------------------


def test_names_and_documentation_are_carried():
    assert set(NAMES) <= set(dir(lt)) and "two_hot_targets" not in dir(lt)
    assert lr.torch.focal is lt.focal and lt.focal.__doc__ == lr.focal.__doc__
    assert list(lt.focal.__signature__.parameters) == list(lr.focal.__signature__.parameters)


def test_examples():
    tried = doctest.testmod(lt)
    assert tried.failed == 0 and tried.attempted > 5


def test_without_pytorch_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\nimport lossref\ntry: lossref.torch\nexcept ImportError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'lossref.torch needs PyTorch: pip install "lossref[torch]"' in done.stdout, done.stderr
