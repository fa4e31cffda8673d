"""The real thing: PyTorch and optax, judged through their adapters."""

import pytest

import lossref as lr

pytestmark = pytest.mark.peers


def test_torch_cross_entropy():
    functional = pytest.importorskip("torch.nn.functional")

    def value(logits, labels, *, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
        return functional.cross_entropy(
            logits, labels, label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction
        )

    report = lr.oracle.check("cross_entropy", value=value, framework="torch", dtype="float32", quick=True)
    assert report.verdict == "inaccurate", str(report)
    assert {"p-minus-one", "saturated"} <= {f.diagnosis for f in report.findings}


def test_a_cross_entropy_in_torch_with_a_bug():
    torch = pytest.importorskip("torch")

    def value(logits, labels):
        p = torch.softmax(logits, dim=1)
        return -torch.log(p[torch.arange(len(labels)), labels] + 1e-6).mean()

    report = lr.oracle.check("cross_entropy", value=value, framework="torch", dtype="float32", quick=True)
    assert report.verdict == "wrong", str(report)
    assert "floor-epsilon" in {f.diagnosis for f in report.findings}, str(report)


def test_lossref_behind_torch_tensors():
    torch = pytest.importorskip("torch")

    def value(x):
        return torch.from_numpy(lr.log_sigmoid(x.detach().numpy()))

    def grad(x, cotangent):
        return torch.from_numpy(lr.log_sigmoid.grad(x.detach().numpy(), cotangent=cotangent.numpy()))

    report = lr.oracle.check("log_sigmoid", value=value, grad=grad, framework="torch", dtype="float32", quick=True)
    assert report.verdict == "accurate", str(report)


@pytest.mark.slow
def test_jax_softplus_and_a_wrong_one():
    jax = pytest.importorskip("jax")
    report = lr.oracle.check(
        "softplus", value=lambda x: jax.nn.softplus(x), framework="jax", dtype="float32", quick=True
    )
    assert report.verdict != "wrong", str(report)

    def naive(x):
        return jax.numpy.log(1 + jax.numpy.exp(x))

    report = lr.oracle.check("softplus", value=naive, framework="jax", dtype="float32", quick=True)
    assert report.verdict == "wrong" and "overflow" in {f.diagnosis for f in report.findings}, str(report)
