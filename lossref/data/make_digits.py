"""Make digits_logits.npz: ``python -m lossref.data.make_digits`` (needs scikit-learn).

A softmax classifier, one linear layer on the pixels, is trained on scikit-learn's digits with lossref's own
cross-entropy and its gradient; what it says about 64 images that it never saw is what the file holds.
"""

from pathlib import Path

import numpy as np
from scipy.optimize import minimize

import lossref as lr

NUM_HELD_OUT = 64
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))


def with_bias(images):
    """Pixels from 0 to 1 and a constant 1, one row an image."""
    pixels = images.reshape(len(images), -1) / 16
    return np.column_stack([pixels, np.ones(len(pixels))])


def train(features, labels, steps):
    """The weights (features, classes) after so many steps of L-BFGS from 0."""
    shape = (features.shape[1], int(labels.max()) + 1)

    def objective(flat):
        value, d_logits = lr.cross_entropy.value_and_grad(features @ flat.reshape(shape), labels)
        return value, (features.T @ d_logits).ravel()

    found = minimize(
        objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": steps, "ftol": 0.0, "gtol": 1e-5},
    )  # fmt: skip
    return found.x.reshape(shape), found


def shifted(images, rng):
    """Each image moved by one pixel, in a direction of its own; what enters is paper."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    chosen = rng.integers(len(MOVES), size=len(images))
    return np.stack(
        [padded[i, 1 + dy : 9 + dy, 1 + dx : 9 + dx] for i, (dy, dx) in enumerate(MOVES[c] for c in chosen)]
    )


def unit_length(images):
    vectors = images.reshape(len(images), -1).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make():
    """The arrays of lossref.data.Digits by name, and the result of the optimiser."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images, held_out, labels, held_out_labels = train_test_split(
        data.images, data.target, test_size=NUM_HELD_OUT, stratify=data.target, random_state=0
    )
    features, inputs = with_bias(images), with_bias(held_out)
    early, _ = train(features, labels, steps=3)
    converged, found = train(features, labels, steps=10_000)
    arrays = {
        "images": held_out.astype(np.uint8),
        "labels": held_out_labels.astype(np.int64),
        "logits": inputs @ converged,
        "early_logits": inputs @ early,
        "embeddings": unit_length(held_out),
        "shifted_embeddings": unit_length(shifted(held_out, np.random.default_rng(0))),
    }
    return arrays, found


def main():
    arrays, found = make()
    target = Path(__file__).with_name("digits_logits.npz")
    np.savez_compressed(target, **arrays)
    print(f"trained for {found.nit} steps to a loss of {found.fun:.2e} ({found.message})")
    for name in ("early_logits", "logits"):
        logits, labels = arrays[name], arrays["labels"]
        others = np.where(np.arange(10) == labels[:, None], -np.inf, logits).max(axis=1)
        leads = logits[np.arange(len(labels)), labels] - others
        low, middle, high = np.quantile(leads, [0, 0.5, 1])
        right = f"{(leads > 0).sum()} of {len(labels)} right"
        print(f"{name}: {right}; leads {low:.1f} to {high:.1f}, half above {middle:.1f}")
    print(f"wrote {target.name}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
