"""PyTorch, JAX and SciPy, each called as its own documentation says."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from .interleaving import Contender
from .problems import Problem


def installed(name: str) -> bool:
    return find_spec(name) is not None


def torch(problem: Problem, inputs: tuple, out: tuple) -> Iterator[Contender]:
    import torch
    from torch.nn import functional

    given = [torch.from_numpy(x) for x in inputs]
    target = torch.from_numpy(out[0])
    if problem.kernel == "gemm":
        yield Contender("torch", "matmul", "out=", lambda: torch.matmul(*given, out=target))
    elif problem.kernel in ("softmax", "log_softmax", "logsumexp"):
        function = getattr(torch, problem.kernel)
        yield Contender("torch", "", "fresh", lambda: function(given[0], -1))
        if problem.kernel != "logsumexp":
            yield Contender("torch", "", "out=", lambda: function(given[0], -1, out=target))
    elif problem.kernel == "cross_entropy":
        logits = given[0].requires_grad_()

        def value_and_gradient():
            value = functional.cross_entropy(logits, given[1])
            return value, torch.autograd.grad(value, logits)

        yield Contender("torch", "", "fresh", value_and_gradient)
    elif problem.kernel == "top_k_softmax":
        scores = given[0]

        def gate():
            best, places = scores.topk(problem.options["k"], dim=-1)
            return torch.zeros_like(scores).scatter_(-1, places, best.softmax(-1))

        yield Contender("torch", "topk, softmax, scatter", "fresh", gate)
    elif problem.kernel == "softmax_attention":
        tensors = [x.requires_grad_() for x in given]
        ones = torch.ones(given[0].shape[0], given[2].shape[1], dtype=given[0].dtype)

        def attention():
            # A batch and a head of one: the fused kernels take four dimensions.
            output = functional.scaled_dot_product_attention(*(x[None, None] for x in tensors))[0, 0]
            return output, torch.autograd.grad(output, tensors, ones)

        yield Contender("torch", "scaled_dot_product_attention", "fresh", attention)
    elif problem.kernel == "linear_cross_entropy":
        hidden, classifier = (x.requires_grad_() for x in given[:2])

        def both(compute):
            value = compute(hidden, classifier, given[2])
            return value, torch.autograd.grad(value, (hidden, classifier))

        two_steps = lambda h, c, labels: functional.cross_entropy(functional.linear(h, c), labels)  # noqa: E731
        yield Contender("torch", "linear, cross_entropy", "fresh", lambda: both(two_steps))
        chunks = getattr(torch.nn, "LinearCrossEntropyOptions", None)
        if chunks is not None:
            in_chunks = lambda h, c, labels: functional.linear_cross_entropy(h, c, labels, options=chunks())  # noqa: E731
            yield Contender("torch", "linear_cross_entropy, chunks", "fresh", lambda: both(in_chunks))


def jax(problem: Problem, inputs: tuple, out: tuple) -> Iterator[Contender]:
    import jax

    if problem.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    from jax import numpy as jnp

    def mean_loss(logits, labels):
        at_label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        return (jax.nn.logsumexp(logits, axis=-1) - at_label).mean()

    def gate(scores):
        best, places = jax.lax.top_k(scores, problem.options["k"])
        rows = jnp.arange(scores.shape[0])[:, None]
        return jnp.zeros_like(scores).at[rows, places].set(jax.nn.softmax(best, axis=-1))

    def attention(queries, keys, values):
        def forward(q, k, v):
            return jax.nn.softmax(q @ k.T / q.shape[1] ** 0.5, axis=-1) @ v

        output, pull = jax.vjp(forward, queries, keys, values)
        return output, pull(jnp.ones_like(output))

    functions: dict[str, Callable] = {
        "gemm": jnp.matmul,
        "softmax": jax.nn.softmax,
        "log_softmax": jax.nn.log_softmax,
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=-1),
        "cross_entropy": jax.value_and_grad(mean_loss),
        "top_k_softmax": gate,
        "softmax_attention": attention,
        "linear_cross_entropy": jax.value_and_grad(lambda h, c, labels: mean_loss(h @ c.T, labels), argnums=(0, 1)),
    }
    if problem.kernel not in functions:
        return
    # The very memory that the others read, without a copy; labels are copied.
    given = [jnp.from_dlpack(x) if x.dtype.kind == "f" else jnp.asarray(x, jnp.int32) for x in inputs]
    compiled = jax.jit(functions[problem.kernel]).lower(*given).compile()
    algorithm = "jit, matmul" if problem.kernel == "gemm" else "jit"
    yield Contender("jax", algorithm, "fresh", lambda: jax.block_until_ready(compiled(*given)))


def scipy(problem: Problem, inputs: tuple, out: tuple) -> Iterator[Contender]:
    from scipy import special

    if problem.kernel in ("softmax", "log_softmax", "logsumexp"):
        function = getattr(special, problem.kernel)
        yield Contender("scipy", "", "fresh", lambda: function(inputs[0], axis=-1))


PEERS = {"torch": torch, "jax": jax, "scipy": scipy}
