"""What only a machine with a GPU can decide: arrays of PyTorch, CuPy and JAX, whose stream, whose memory; and that
every run gives the same bits."""

import ml_dtypes
import numpy as np
import pytest
from lossref_cuda import cross_entropy, linear_cross_entropy, log_softmax, logsumexp, softmax, softmax_attention
from numba import cuda

import lossref as lr


@pytest.fixture(scope="module")
def gpu(where):
    if where != "GPU":
        pytest.skip(f"needs a GPU: no library puts its arrays into the {where}")


@pytest.fixture(scope="module")
def torch(gpu):
    library = pytest.importorskip("torch")
    return library if library.cuda.is_available() else pytest.skip("PyTorch is installed without CUDA")


@pytest.fixture(scope="module")
def cupy(gpu):
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def jax(gpu):
    library = pytest.importorskip("jax")
    if library.default_backend() != "gpu":
        pytest.skip("JAX is installed without CUDA")
    return library


def test_torch_on_a_stream_of_its_own(torch):
    """The logits are the end of a long computation on that stream: without its order they would be zeros yet."""
    with torch.cuda.stream(torch.cuda.Stream()):
        x = torch.zeros(512, 2048, device="cuda")
        for _ in range(2000):
            x += 0.5
        x[:, 0] += 3
        y = torch.as_tensor(softmax.value(x), device="cuda")
        torch.testing.assert_close(y, torch.softmax(x, -1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("filter_eps", [None, 1e-4])
def test_torchs_products(torch, dtype, filter_eps):
    """A second chunk is added to the gradient of the classifier: out += a @ b, 16 bits into float32."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    hidden, classifier = (torch.randn(n, 64, device="cuda").div(4).to(kind) for n in (300, 500))
    labels = torch.randint(500, (300,), device="cuda", dtype=torch.int32)
    options = {"block_size": (128, 128), "filter_eps": filter_eps, "reduction": "sum", "rung": "library_products"}
    value, gradients = linear_cross_entropy.reduced_value_and_vjp(hidden, classifier, labels, **options)
    wide = [x.double().cpu().numpy() for x in (hidden, classifier)]
    want, want_gradients = lr.linear_cross_entropy.value_and_grad(*wide, labels.cpu().numpy(), reduction="sum")
    # TF32, if PyTorch is set to it, keeps 11 bits of a factor.
    tolerance = {"float32": 2.0**-10, "bfloat16": 2.0**-6, "float16": 2.0**-9}[dtype]
    np.testing.assert_allclose(float(value.copy_to_host()), want, rtol=tolerance)
    for found, right in zip(gradients, want_gradients, strict=True):
        here = found.copy_to_host().astype(np.float64)
        slack = 2e-3 if filter_eps else 0
        np.testing.assert_allclose(here, right, rtol=tolerance, atol=(tolerance + slack) * np.abs(right).max())


def test_training_by_lossref_torch(torch):
    logits = torch.randn(6, 5, device="cuda", dtype=torch.float64).requires_grad_()
    labels = torch.randint(5, (6,), device="cuda")
    lr.torch.cross_entropy(logits, labels).backward()
    want = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), logits)[0]
    torch.testing.assert_close(logits.grad, want)


def test_cupy(cupy):
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.arange(6000.0).reshape(3, 2000) % 7
        there = cupy.asarray(log_softmax.value(x))
        np.testing.assert_allclose(cupy.asnumpy(there), lr.log_softmax(cupy.asnumpy(x)), rtol=1e-12)
        hidden, classifier = (cupy.random.standard_normal((n, 16), dtype=cupy.float32) for n in (300, 40))
        labels = cupy.arange(300) % 40
        options = {"block_size": (128, 40), "reduction": "sum", "rung": "library_products"}
        value, gradients = linear_cross_entropy.reduced_value_and_vjp(hidden, classifier, labels, **options)
        here = [cupy.asnumpy(array) for array in (hidden, classifier, labels)]
        want, want_gradients = lr.linear_cross_entropy.value_and_grad(*here, reduction="sum")
        np.testing.assert_allclose(cupy.asnumpy(cupy.asarray(value)), want, rtol=1e-3)
        for found, right in zip(gradients, want_gradients, strict=True):
            np.testing.assert_allclose(cupy.asnumpy(cupy.asarray(found)), right, rtol=1e-2, atol=1e-2)


def test_jax(jax):
    """Its computation may still run when the array is handed over."""
    x = jax.numpy.zeros((512, 2048))
    for _ in range(200):
        x = x + 0.5
    x = x.at[:, 0].add(3)
    np.testing.assert_allclose(softmax.value(x).copy_to_host(), jax.nn.softmax(x), rtol=1e-5)
    narrow = x.astype(jax.numpy.bfloat16)
    assert softmax.value(narrow).copy_to_host().dtype == ml_dtypes.bfloat16


def test_every_run_gives_the_same_bits(where):
    """A race between threads would show in one of them."""
    sizes = {"simulator": (2, 2, 40, 3), "stand-in": (5, 10, 1500, 40), "GPU": (10, 300, 5000, 200)}
    runs, rows, columns, keys = sizes[where]
    rng = np.random.default_rng(0)

    def on_device(*shape):
        return cuda.to_device(rng.normal(size=shape).astype(np.float32))

    x, labels = on_device(rows, columns), cuda.to_device(np.arange(rows))
    q, k, v = on_device(rows // 2, keys // 2), on_device(keys, keys // 2), on_device(keys, keys // 2)
    hidden, classes = on_device(rows, keys), on_device(columns, keys)
    calls = {
        **{f"softmax {rung}": lambda rung=rung: [softmax.value(x, rung=rung)] for rung in softmax.RUNGS},
        **{f"lse {rung}": lambda rung=rung: logsumexp.reduced_value_and_vjp(x, rung=rung) for rung in logsumexp.RUNGS},
        **{
            f"cross_entropy {rung}": lambda rung=rung: cross_entropy.reduced_value_and_vjp(
                x, labels, label_smoothing=0.1, rung=rung
            )
            for rung in cross_entropy.RUNGS
        },
        **{
            f"attention {rung}": lambda rung=rung: softmax_attention.vjp(q, k, v, cotangent=1.0, rung=rung)
            for rung in softmax_attention.RUNGS
        },
        "linear": lambda: linear_cross_entropy.reduced_value_and_vjp(hidden, classes, labels, filter_eps=1e-5)[1],
    }
    differing = []
    for name, call in calls.items():
        first, *others = ([array.copy_to_host() for array in call()] for _ in range(runs))
        same = all(np.array_equal(a, b, equal_nan=True) for again in others for a, b in zip(first, again, strict=True))
        differing += [] if same else [name]
    assert differing == []
