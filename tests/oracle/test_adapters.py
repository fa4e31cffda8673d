"""Every adapter on the same functions: what goes in, what comes back, in every style of calling and every dtype."""

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.oracle.adapters import FRAMEWORKS, adapted

pytestmark = pytest.mark.peers

# How each framework spells what the functions below need.
SPELLINGS = {
    "torch": ("torch", lambda f: SimpleNamespace(
        logsumexp=lambda x: f.logsumexp(x, 1), at=lambda x, y: x[f.arange(len(y)), y], total=f.sum)),
    "jax": ("jax", lambda f: SimpleNamespace(
        logsumexp=lambda x: f.nn.logsumexp(x, axis=1), at=lambda x, y: x[f.numpy.arange(len(y)), y],
        total=f.numpy.sum)),
    "tensorflow": ("tensorflow", lambda f: SimpleNamespace(
        logsumexp=lambda x: f.reduce_logsumexp(x, axis=1), at=lambda x, y: f.gather(x, y, axis=1, batch_dims=1),
        total=f.reduce_sum)),
    "mlx": ("mlx.core", lambda f: SimpleNamespace(
        logsumexp=lambda x: f.logsumexp(x, axis=1), at=lambda x, y: x[f.arange(y.size), y], total=f.sum)),
}  # fmt: skip


@pytest.fixture(params=list(SPELLINGS))
def framework(request):
    module, spell = SPELLINGS[request.param]
    return request.param, spell(pytest.importorskip(module))


CROSS_ENTROPY, DPO = lr.cross_entropy, lr.dpo
X = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1])
COTANGENT = np.array([1.0, -0.5, 2.0, 0.25], np.float32)


def value_and_gradient(loss, function, name, arguments, cotangent, dtype=np.float32, passed=(), **options):
    candidate = adapted(loss, function, None, name, dtype, options)
    full = {n: a.default for n, a in loss.arguments.items()} | arguments
    assert candidate.has_grad and candidate.takes_cotangent
    return candidate.value(full, passed, {}), candidate.grad(full, passed, {}, cotangent)


def test_arguments_by_position_and_the_cotangent_is_applied(framework):
    name, f = framework
    value, gradient = value_and_gradient(
        CROSS_ENTROPY, lambda x, y: f.logsumexp(x) - f.at(x, y), name, {"logits": X, "labels": LABELS}, COTANGENT
    )
    assert np.allclose(value, CROSS_ENTROPY(X, LABELS, reduction="none"), rtol=1e-5)
    own = CROSS_ENTROPY.grad(X, LABELS, reduction="none", cotangent=COTANGENT)
    assert np.allclose(gradient[0], own, rtol=1e-4, atol=1e-6) and gradient[0].dtype == np.float32


def test_differentiable_arguments_by_keyword_only(framework):
    name, f = framework

    def function(labels, *, logits):
        return f.total(f.logsumexp(logits) - f.at(logits, labels))

    value, gradient = value_and_gradient(
        CROSS_ENTROPY, function, name, {"logits": X, "labels": LABELS}, np.float32(1.5)
    )
    assert np.allclose(value, CROSS_ENTROPY(X, LABELS, reduction="sum"), rtol=1e-5)
    own = CROSS_ENTROPY.grad(X, LABELS, reduction="sum", cotangent=1.5)
    assert np.allclose(gradient[0], own, rtol=1e-4, atol=1e-6)


def test_an_optional_array_by_keyword_and_one_that_the_value_does_not_depend_on(framework):
    name, f = framework

    def function(hidden, classifier, labels, *, bias=None):
        return f.total(hidden[:, 0] * 3 + bias[0])

    arguments = {"hidden": X, "classifier": X, "labels": LABELS, "bias": X[:, 0].copy()}
    _, gradients = value_and_gradient(
        lr.linear_cross_entropy, function, name, arguments, np.float32(2.0), passed=("bias",)
    )
    assert [g.tolist() for g in gradients] == [[[6, 0, 0]] * 4, [[0, 0, 0]] * 4, [8, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16], ids=lambda d: np.dtype(d).name)
def test_numbers_go_in_and_come_back_unchanged(framework, dtype):
    name, _ = framework
    seen = []

    def function(x):
        seen.append(str(x.dtype))
        return x * 1

    x = np.array([[1 / 3, -2.0], [1e-4, 300.0]]).astype(dtype)
    for laid_out in (x, x[:, ::-1], x.T):
        value, gradient = value_and_gradient(
            lr.softplus, function, name, {"x": laid_out}, laid_out.astype(dtype), dtype
        )
        assert value.dtype == gradient[0].dtype == dtype
        assert np.array_equal(value, laid_out) and np.array_equal(gradient[0], laid_out)
    assert all(np.dtype(dtype).name in text for text in seen)


def test_a_gradient_function_of_ones_own(framework):
    name, _ = framework
    candidate = adapted(lr.softplus, None, lambda x, cotangent: x * cotangent, name, np.float32, {})
    assert np.array_equal(candidate.grad({"x": X}, (), {}, X), X * X)
    candidate = adapted(lr.softplus, None, lambda x: (x, x), name, np.float32, {})
    assert not candidate.takes_cotangent and len(candidate.grad({"x": X}, (), {}, X)) == 2


def test_a_compiled_torch_function():
    torch = pytest.importorskip("torch")
    torch._dynamo.reset()

    def function(x, y, *, label_smoothing=0.0):
        return torch.nn.functional.cross_entropy(x, y, label_smoothing=label_smoothing, reduction="none")

    compiled = torch.compile(function, backend="aot_eager")
    candidate = adapted(CROSS_ENTROPY, compiled, None, "torch", np.float32, {})
    assert candidate.takes("label_smoothing") and not candidate.takes("softcap")
    for smoothing in (0.0, 0.25):
        arguments = {n: a.default for n, a in CROSS_ENTROPY.arguments.items()}
        arguments |= {"logits": X, "labels": LABELS, "label_smoothing": smoothing}
        gradient = candidate.grad(arguments, ("label_smoothing",), {}, COTANGENT)
        own = CROSS_ENTROPY.grad(X, LABELS, label_smoothing=smoothing, reduction="none", cotangent=COTANGENT)
        assert np.allclose(gradient[0], own, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", ["cuda", "toaster"])
def test_a_device_that_is_not_there(device):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("this PyTorch has a GPU")
    with pytest.raises(ValueError, match=f"device: expected a device that PyTorch can use here, got '{device}'"):
        lr.oracle.check("softplus", torch.nn.functional.softplus, framework="torch", device=device)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_jax_under_jit_traces_arrays_and_fixes_options(dtype):
    jax = pytest.importorskip("jax")
    traced = []

    def function(logits, labels, *, label_smoothing=0.0, reduction="mean"):
        traced.append((isinstance(logits, jax.core.Tracer), isinstance(labels, jax.core.Tracer), logits.dtype))
        terms = jax.nn.logsumexp(logits, axis=1) - logits[jax.numpy.arange(len(labels)), labels]
        return terms if reduction == "none" else terms.mean()

    value, gradient = value_and_gradient(
        CROSS_ENTROPY, function, "jax", {"logits": X.astype(dtype), "labels": LABELS}, dtype(2), dtype, jit=True
    )
    assert traced == [(True, True, dtype)] * 2
    assert np.allclose(value, CROSS_ENTROPY(X, LABELS), rtol=1e-5) and value.dtype == dtype
    own = CROSS_ENTROPY.grad(X.astype(dtype), LABELS, cotangent=2)
    assert np.allclose(gradient[0], own, rtol=1e-13 if dtype == np.float64 else 1e-5, atol=1e-7)


def test_cupy_with_numpy_standing_in(monkeypatch):
    """What can be seen without a GPU: arrays go in through asarray and come back through asnumpy."""

    class OnDevice(np.ndarray):
        pass

    stand_in = SimpleNamespace(asarray=lambda x: np.array(x).view(OnDevice), asnumpy=lambda x: np.array(x, subok=False))
    monkeypatch.setitem(sys.modules, "cupy", stand_in)

    def value(logits, labels):
        assert isinstance(logits, OnDevice) and isinstance(labels, OnDevice)
        return CROSS_ENTROPY(np.asarray(logits), np.asarray(labels))

    def grad(logits, labels, cotangent):
        assert isinstance(logits, OnDevice) and isinstance(cotangent, OnDevice)
        return CROSS_ENTROPY.grad(np.asarray(logits), np.asarray(labels), cotangent=cotangent).view(OnDevice)

    candidate = adapted(CROSS_ENTROPY, value, grad, "cupy", np.float32, {})
    arguments = {n: a.default for n, a in CROSS_ENTROPY.arguments.items()} | {"logits": X, "labels": LABELS}
    assert candidate.value(arguments, (), {}) == CROSS_ENTROPY(X, LABELS)
    assert type(candidate.grad(arguments, (), {}, np.float32(2))) is np.ndarray
    assert not adapted(CROSS_ENTROPY, value, None, "cupy", np.float32, {}).has_grad


@pytest.mark.parametrize(("name", "says"), [("tensorflow", "TensorFlow"), ("mlx", "MLX"), ("cupy", "CuPy"),
                                            ("torch", "PyTorch"), ("jax", "JAX")])  # fmt: skip
def test_a_framework_that_is_not_there(monkeypatch, name, says):
    monkeypatch.setitem(sys.modules, {"mlx": "mlx.core"}.get(name, name), None)
    with pytest.raises(ImportError, match=rf"framework: expected {says} to be installed \(pip install"):
        adapted(lr.softplus, abs, None, name, np.float32, {})


def test_every_framework_is_tested_here():
    assert {*SPELLINGS, "numpy", "cupy", "process"} == set(FRAMEWORKS)


@pytest.mark.slow
def test_a_verdict_through_every_adapter(framework):
    name, f = framework
    report = lr.oracle.check(
        "cross_entropy", lambda x, y: f.logsumexp(x) - f.at(x, y), framework=name, dtype="float32", quick=True
    )
    assert report.verdict == "inaccurate", str(report)
    assert {"saturated", "p-minus-one"} <= {finding.diagnosis for finding in report.findings}, str(report)
