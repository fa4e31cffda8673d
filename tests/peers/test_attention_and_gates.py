"""Attention and the top-k gate against PyTorch and JAX, where they define the same thing."""

import numpy as np
import pytest

import lossref as lr

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'lossref[peers]')")

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

RNG = np.random.default_rng(5)
ARRAYS = [RNG.normal(size=shape) for shape in ((9, 4), (7, 4), (7, 5))]
BIAS, COTANGENT = RNG.normal(size=(9, 7)), RNG.normal(size=(9, 5))
MASK = RNG.uniform(size=(9, 7)) < 0.6
MASK[:, 2] = True

OPTIONS = {
    "plain": ({}, {}),
    "causal": ({"causal": True}, {"is_causal": True}),
    "mask": ({"mask": MASK}, {"attn_mask": MASK}),
    "bias": ({"bias": BIAS}, {"attn_mask": BIAS}),
    "scale": ({"scale": 0.3}, {"scale": 0.3}),
}


@pytest.mark.parametrize("path", ["numpy", "numba"])
@pytest.mark.parametrize("name", OPTIONS)
def test_attention_of_pytorch(name, path):
    ours, theirs = OPTIONS[name]
    tensors = [torch.tensor(x, requires_grad=True) for x in ARRAYS]
    theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in theirs.items()}
    if name == "bias":
        tensors.append(theirs["attn_mask"].requires_grad_())
    output = torch.nn.functional.scaled_dot_product_attention(*tensors[:3], **theirs)
    gradients = torch.autograd.grad(output, tensors, torch.tensor(COTANGENT))
    value, found = lr.softmax_attention.path(path).value_and_grad(*ARRAYS, **ours, cotangent=COTANGENT)
    np.testing.assert_allclose(value, output.detach().numpy(), rtol=1e-12, atol=1e-14)
    for a, b in zip(found, gradients, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-11, atol=1e-13)


SCORES, GATE_COTANGENT = RNG.normal(size=(6, 8)), RNG.normal(size=(6, 8))


@pytest.mark.parametrize("path", ["numpy", "numba"])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_and_softmax_of_pytorch(k, path):
    scores = torch.tensor(SCORES, requires_grad=True)
    best, places = scores.topk(k, dim=-1)
    gates = torch.zeros_like(scores).scatter(-1, places, best.softmax(dim=-1))
    (gradient,) = torch.autograd.grad(gates, scores, torch.tensor(GATE_COTANGENT))
    value, found = lr.top_k_softmax.path(path).value_and_grad(SCORES, k=k, cotangent=GATE_COTANGENT)
    np.testing.assert_allclose(value, gates.detach().numpy(), rtol=1e-13)
    np.testing.assert_allclose(found, gradient.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("k", [2, 5])
def test_top_k_and_softmax_of_jax(k):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy

    def gate(scores):
        best, places = jax.lax.top_k(scores, k)
        rows = jnp.arange(scores.shape[0])[:, None]
        return jnp.zeros_like(scores).at[rows, places].set(jax.nn.softmax(best, axis=-1))

    scores = SCORES.astype(np.float32)
    gates, pull = jax.vjp(gate, scores)
    np.testing.assert_allclose(lr.top_k_softmax(scores, k=k), gates, rtol=1e-6)
    (gradient,) = pull(jnp.asarray(GATE_COTANGENT, jnp.float32))
    found = lr.top_k_softmax.grad(scores, k=k, cotangent=GATE_COTANGENT.astype(np.float32))
    np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-7)
