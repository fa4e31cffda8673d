"""Record what five libraries say of a right answer that leads by 40: python tutorials/recorded/libraries.py

Needs the extra ``peers``. The row is [40, 0] in float64: two classes, the first is right; the true loss is
log1p(e^-40) = 4.2e-18.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

ROW, LABEL = np.array([[40.0, 0.0]]), np.array([0])


def pytorch():
    import torch

    return torch.nn.functional.cross_entropy(torch.tensor(ROW), torch.tensor(LABEL)).item()


def optax():
    import jax

    jax.config.update("jax_enable_x64", True)
    import optax

    return float(
        optax.softmax_cross_entropy_with_integer_labels(jax.numpy.array(ROW), jax.numpy.array(LABEL))[0]
    )


def scipy():
    from scipy.special import logsumexp

    return float((logsumexp(ROW, axis=1) - ROW[[0], LABEL])[0])


def scikit_learn():
    from sklearn._loss import HalfMultinomialLoss

    return float(HalfMultinomialLoss(n_classes=3).loss(np.zeros(1), np.array([[40.0, 0.0, -1000.0]]))[0])


def onnx():
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node("SoftmaxCrossEntropyLoss", ["x", "y"], ["loss"])
    x = helper.make_tensor_value_info("x", TensorProto.DOUBLE, [1, 2])
    y = helper.make_tensor_value_info("y", TensorProto.INT64, [1])
    loss = helper.make_tensor_value_info("loss", TensorProto.DOUBLE, [])
    graph = helper.make_graph([node], "one", [x, y], [loss])
    return float(ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": ROW, "y": LABEL})[0])


LIBRARIES = {"PyTorch": (pytorch, "torch"), "optax": (optax, "optax"), "SciPy": (scipy, "scipy")}
LIBRARIES |= {"scikit-learn": (scikit_learn, "scikit-learn"), "ONNX's reference": (onnx, "onnx")}


def main():
    rows = [
        {"library": n, "version": version(package), "loss": run()} for n, (run, package) in LIBRARIES.items()
    ]
    record = {
        "made_by": "python tutorials/recorded/libraries.py",
        "lead": 40,
        "truth": float(np.log1p(np.exp(-40.0))),
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        print(f"{row['library']} {row['version']}: {row['loss']}")


if __name__ == "__main__":
    main()
