"""lossref.jax: the numbers are lossref's own, under jit, grad and vmap."""

import doctest
import subprocess
import sys

import numpy as np
import pytest
from bridge_examples import NAMES, as_tuple, example

import lossref as lr

jax = pytest.importorskip("jax")
import lossref.jax as lj  # noqa: E402 - only where JAX is

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_those_of_the_loss_also_compiled(name):
    loss, arrays, options = example(name)
    moving = [n for n in loss.of if n in arrays]

    def weighted(moved, still, cotangent):
        return (getattr(lj, name)(**moved, **still, **options) * cotangent).sum()

    own = np.asarray(loss(**arrays, **options))
    cotangent = np.random.default_rng(3).standard_normal(own.shape)
    with jax.enable_x64(True):
        assert np.array_equal(getattr(lj, name)(**arrays, **options), own)
        found = jax.jit(jax.grad(weighted))(
            {n: jax.numpy.asarray(arrays[n]) for n in moving},
            {n: jax.numpy.asarray(a) for n, a in arrays.items() if n not in moving},
            cotangent,
        )
    ours = as_tuple(loss.grad(**arrays, **options, cotangent=cotangent))
    for n, gradient in zip(moving, ours, strict=True):
        assert np.array_equal(found[n], gradient) and found[n].dtype == np.float64, n


def test_the_derivative_is_right_by_jax_s_own_check():
    from jax.test_util import check_grads

    _, arrays, options = example("linear_cross_entropy")
    with jax.enable_x64(True):
        check_grads(
            lambda h, c: lj.linear_cross_entropy(h, c, arrays["labels"], **options),
            (arrays["hidden"], arrays["classifier"]), order=1, modes=["rev"],
        )  # fmt: skip


LOGITS = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
LABELS = np.arange(15).reshape(3, 5) % 4


def test_vmap_is_a_loop():
    values = jax.vmap(lj.cross_entropy)(LOGITS, LABELS)
    assert np.array_equal(values, [lr.cross_entropy(x, y) for x, y in zip(LOGITS, LABELS, strict=True)])
    gradients = jax.jit(jax.vmap(jax.grad(lj.cross_entropy), in_axes=(0, None)))(LOGITS, LABELS[0])
    assert np.array_equal(gradients, [lr.cross_entropy.grad(x, LABELS[0]) for x in LOGITS])


def test_under_scan_and_checkpoint():
    x, target = jax.numpy.asarray(LOGITS[0]), jax.nn.softmax(LOGITS[1])

    def descent(x, _):
        return x - jax.grad(jax.checkpoint(lambda x: lj.kl_divergence(x, target)))(x), None

    expected = LOGITS[0]
    for _ in range(3):
        expected = expected - lr.kl_divergence.grad(expected, np.asarray(target))
    assert np.allclose(jax.lax.scan(descent, x, None, length=3)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_the_caller_s(dtype):
    x, y = jax.numpy.asarray(LOGITS[0], dtype), LABELS[0]
    for value, gradient in (
        (lj.cross_entropy(x, y), jax.grad(lj.cross_entropy)(x, y)),
        jax.jit(jax.value_and_grad(lj.cross_entropy))(x, y),
    ):
        assert value.dtype == gradient.dtype == dtype
        assert np.array_equal(gradient, lr.cross_entropy.grad(np.asarray(x), y))


def test_integers_are_float32_where_jax_has_no_float64():
    assert jax.jit(lj.cross_entropy)([[3, 1]], [0]).dtype == np.float32


def test_large_arrays_through_a_compiled_callback():
    x, y = np.random.default_rng(0).standard_normal((2000, 500)).astype(np.float32), np.zeros(2000, int)
    assert np.array_equal(jax.jit(jax.grad(lj.cross_entropy))(x, y), lr.cross_entropy.grad(x, y))


def by_targets(targets):
    return lj.kl_divergence(LOGITS[0], targets)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: lj.cross_entropy(LOGITS[0]), TypeError, "cross_entropy: missing a required argument: 'labels'"),
        (lambda: lj.cross_entropy(LOGITS[0], LABELS[0] + 1), ValueError, r"labels: .*got 4 at index \(3,\)"),
        (lambda: jax.grad(by_targets)(jax.nn.softmax(LOGITS[0])), TypeError, "targets: .*is differentiated"),
        (lambda: jax.grad(jax.jit(by_targets))(jax.nn.softmax(LOGITS[0])), TypeError, "targets: .* no gradient"),
        (lambda: jax.jit(lambda s: lj.cross_entropy(LOGITS[0], LABELS[0], label_smoothing=s))(0.1), TypeError,
         "label_smoothing: .*got a traced value"),
        (lambda: lj.cross_entropy(LOGITS[0], LABELS[0], softcap=jax.numpy.float32(-1)), ValueError, "softcap"),
        (lambda: jax.jvp(lj.softplus, (LOGITS,), (LOGITS,)), TypeError, "forward-mode"),
        (lambda: lj.cross_entrpy, AttributeError, "no attribute 'cross_entrpy'"),
        (lambda: lj.two_hot_targets, AttributeError, "two_hot_targets: it has no gradient"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_options_may_be_jax_s_numbers_and_lists():
    hidden, classifier, labels = np.ones((4, 3)), np.ones((5, 3)), np.arange(4)
    options = {"block_size": [2, 3], "label_smoothing": jax.numpy.float32(0.5)}
    with jax.enable_x64(True):
        found = jax.grad(lambda h: lj.linear_cross_entropy(h, classifier, labels, **options))(hidden)
    own = lr.linear_cross_entropy.grad(hidden, classifier, labels, block_size=(2, 3), label_smoothing=0.5)
    assert np.array_equal(found, own.hidden)


def test_names_and_documentation_are_carried():
    assert set(NAMES) <= set(dir(lj)) and "two_hot_targets" not in dir(lj)
    assert lr.jax.focal is lj.focal and lj.focal.__doc__ == lr.focal.__doc__


def test_examples():
    tried = doctest.testmod(lj)
    assert tried.failed == 0 and tried.attempted > 5


def test_without_jax_the_error_names_the_extra():
    code = "import sys; sys.modules['jax'] = None\nimport lossref\ntry: lossref.jax\nexcept ImportError as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'lossref.jax needs JAX: pip install "lossref[jax]"' in done.stdout, done.stderr


def test_without_frameworks_the_package_can_be_looked_through():
    code = (
        "import sys, inspect; sys.modules['jax'] = sys.modules['torch'] = sys.modules['dask'] = None\nimport lossref\n"
    )
    code += "print({'jax', 'torch', 'dask'} & set(dict(inspect.getmembers(lossref))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
    assert "jax" in dir(lr)
