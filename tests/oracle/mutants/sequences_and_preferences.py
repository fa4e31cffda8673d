"""CTC and DPO, wrong."""

import numpy as np

import lossref as lr

from . import Mutant

rng = np.random.default_rng(3)
LOGITS, TARGETS = rng.standard_normal((2, 5, 4)), np.array([[1, 2], [3, 3]])
LOGPS = tuple(-np.abs(rng.standard_normal(4)) for _ in range(4))


def ctc_value(
    logits, targets, input_lengths=None, target_lengths=None, *, blank=0, zero_infinity=False, reduction="mean"
):
    return lr.ctc(
        logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=zero_infinity, reduction=reduction
    )


def ctc_grad(logits, targets, input_lengths=None, target_lengths=None, *, blank=0, zero_infinity=False,
    reduction="mean",
             cotangent=1.0):  # fmt: skip
    return lr.ctc.grad(logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=zero_infinity,
                       reduction=reduction, cotangent=cotangent)  # fmt: skip


def frames(logits, input_lengths):
    lengths = np.full(len(logits), logits.shape[1]) if input_lengths is None else np.asarray(input_lengths)
    return (np.arange(logits.shape[1]) < lengths[:, None])[..., None]


def partial_cotangent(logits, targets, input_lengths=None, target_lengths=None, *, blank=0, zero_infinity=False,
                      reduction="mean", cotangent=1.0):  # fmt: skip
    """softmax - cotangent · occupancy."""
    one = ctc_grad(
        logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=zero_infinity, reduction="none"
    )
    p = lr.softmax(logits) * frames(logits, input_lengths)
    terms = ctc_value(logits, targets, input_lengths, target_lengths, blank=blank, reduction="none")
    occupancy = np.where(np.isinf(terms)[:, None, None], 0, p - one)
    by = np.broadcast_to(np.asarray(cotangent, logits.dtype), len(logits))
    if reduction == "mean":
        lengths = np.full(len(targets), targets.shape[1]) if target_lengths is None else np.asarray(target_lengths)
        by = by / np.maximum(lengths, 1) / max(len(logits), 1)
    return (p - by[:, None, None] * occupancy).astype(logits.dtype)


def infeasible_gradient(logits, targets, input_lengths=None, target_lengths=None, *, blank=0, zero_infinity=False,
                        reduction="mean", cotangent=1.0):  # fmt: skip
    g = ctc_grad(logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=zero_infinity,
                 reduction=reduction, cotangent=cotangent)  # fmt: skip
    terms = ctc_value(logits, targets, input_lengths, target_lengths, blank=blank, reduction="none")
    by = np.broadcast_to(np.asarray(cotangent, logits.dtype), len(logits))[:, None, None]
    p = by * lr.softmax(logits) * frames(logits, input_lengths)
    return np.where(np.isinf(terms)[:, None, None], p, g)


def empty_target(
    logits, targets, input_lengths=None, target_lengths=None, *, blank=0, zero_infinity=False, reduction="mean"
):
    """The last state is counted twice where the target is empty."""
    terms = ctc_value(
        logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=zero_infinity, reduction="none"
    )
    lengths = np.full(len(targets), targets.shape[1]) if target_lengths is None else np.asarray(target_lengths)
    terms = np.where(lengths == 0, terms - np.log(2), terms).astype(logits.dtype)
    if reduction == "none":
        return terms
    return terms.sum() if reduction == "sum" else (terms / np.maximum(lengths, 1)).mean()


def dpo(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1, label_smoothing=0.0, robust=False, reduction="mean"):
    return lr.dpo(chosen, rejected, ref_chosen, ref_rejected, beta=beta, reduction=reduction)


def dpo_grad(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1, label_smoothing=0.0, robust=False,
    reduction="mean",
             cotangent=1.0):  # fmt: skip
    return lr.dpo.grad(chosen, rejected, ref_chosen, ref_rejected, beta=beta, reduction=reduction, cotangent=cotangent)


MUTANTS = [
    Mutant("ctc-partial-cotangent", "ctc", ctc_value, partial_cotangent, ("cotangent-ignored",),
           (LOGITS, TARGETS, {"reduction": "none"}), dtype="float64", quick=True),
    Mutant("ctc-infeasible-gradient", "ctc", ctc_value, infeasible_gradient,
           ("gradient-of-another-function", "gradient-without-a-path"), (LOGITS, TARGETS, {}), dtype="float64",
           quick=False),
    Mutant("ctc-empty-target", "ctc", empty_target, None, ("wrong-value", "option-misused", "empty-target"),
           (LOGITS, TARGETS, {}),
           dtype="float64"),
    Mutant("dpo-smoothing-dropped", "dpo", dpo, dpo_grad, ("option-ignored",), (*LOGPS, {}), dtype="float64"),
]  # fmt: skip
