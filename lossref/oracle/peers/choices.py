"""What a library says in its own documentation about results that the oracle finds: choices, not defects.

A line here is not an opinion: the words stand in the docstring that is named, and a test reads them there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A finding of one implementation that its documentation announces."""

    loss: str
    implementation: str
    diagnosis: str
    documented_in: str  # module:object
    words: str  # what stands there
    link: str


CHOICES = (
    Choice(
        "binary_cross_entropy",
        "PyTorch F.binary_cross_entropy",
        "clamp-ignored",
        "torch.nn:BCELoss",
        "This way, we can always have a finite loss value and a linear backward method",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html",
    ),
    Choice(
        "kl_divergence",
        "PyTorch F.kl_div of F.log_softmax",
        "wrong-reduction",
        "torch.nn:KLDivLoss",
        "doesn't return the true KL divergence value",
        "https://docs.pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html",
    ),
    Choice(
        "binary_cross_entropy",
        "scikit-learn metrics.log_loss",
        "floor-epsilon",
        "sklearn.metrics:log_loss",
        "values are clipped to `[eps, 1-eps]` where `eps` is the machine precision",
        "https://scikit-learn.org/stable/modules/generated/sklearn.metrics.log_loss.html",
    ),
    Choice(
        "ctc",
        "optax ctc_loss",
        "floor-epsilon",
        "optax:ctc_loss",
        "log_epsilon: Numerically-stable approximation of log(+0)",
        "https://optax.readthedocs.io/en/latest/api/losses.html#optax.losses.ctc_loss",
    ),
    Choice(
        "soft_cross_entropy",
        "optax softmax_cross_entropy",
        "nan-leak",
        "optax:softmax_cross_entropy",
        "provides an alternative implementation that differs on how ``logits=-inf`` are handled",
        "https://optax.readthedocs.io/en/latest/api/losses.html#optax.losses.softmax_cross_entropy",
    ),
    Choice(
        "kl_divergence",
        "Keras KLDivergence of softmax",
        "invalid-input-hidden",
        "keras.losses:KLDivergence",
        "They will get clipped to the `[0, 1]` range",
        "https://keras.io/api/losses/probabilistic_losses/#kldivergence-class",
    ),
)


def choice(row: dict, finding: dict) -> Choice | None:
    """The documented choice that a finding is, if it is one."""
    for one in CHOICES:
        if (one.loss, one.implementation, one.diagnosis) == (row["loss"], row["implementation"], finding["diagnosis"]):
            return one
    return None


def is_choice(row: dict, finding: dict) -> bool:
    """A choice is what the documentation announces, or one of the meanings on which people do not agree."""
    return finding["severity"] == "note" or choice(row, finding) is not None


def verdict(row: dict) -> str:
    """The oracle's verdict, documented choices apart."""
    severities = {finding["severity"] for finding in row["findings"] if not is_choice(row, finding)}
    return "wrong" if "wrong" in severities else "inaccurate" if "inaccurate" in severities else "accurate"
