"""The oracle's verdict on every entry: one row for each (loss, implementation, dtype)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from lossref.core.registry import losses

from ..diagnosis import FORMS
from ..report import Finding, Report
from ..verdict import call_text, check
from .calling import Peer, comparable
from .libraries import PYTORCH

MAIN = (
    "cross_entropy",
    "linear_cross_entropy",
    "binary_cross_entropy_with_logits",
    "log_softmax",
    "logsumexp",
    "softmax",
)
UNINITIALISED = "uninitialised"
SHOWN = 24  # entries of an array; of a longer one the shape is enough


@dataclass(frozen=True)
class Question:
    """What is asked of one entry in one dtype. ``quick`` takes fewer sizes and no pairs of options."""

    loss: str
    implementation: str
    dtype: str
    quick: bool
    seed: int = 0

    @property
    def peer(self) -> Peer:
        return next(p for p in comparable()[self.loss] if p.title == self.implementation)


def questions(names: Iterable[str] | None = None, quick: bool = False, seed: int = 0) -> list[Question]:
    """float32 of every entry; float64 too of the losses that everybody uses, and bfloat16 of PyTorch's."""
    asked = []
    for name in names or comparable():
        for peer in comparable()[name]:
            dtypes = ["float32"]
            if name in MAIN:
                dtypes += ["float64", "bfloat16"] if peer.library is PYTORCH else ["float64"]
            # JAX compiles every operation anew for every shape: all cases would take minutes for each entry.
            slow = peer.library.framework == "jax"
            asked += [Question(name, peer.title, dtype, quick or slow, seed) for dtype in dtypes]
    return asked


def answers(asked: list[Question], jobs: int = 1) -> Iterator[dict]:
    """A row for each question, in the order in which they are done.

    They are asked in processes of their own: what one library sets does not reach the next.
    """
    by_library = sorted(asked, key=lambda q: q.peer.library.name)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_alone) as pool:
        for done in as_completed([pool.submit(answer, question) for question in by_library]):
            yield done.result()


def _alone() -> None:
    """One thread in each process, so that no sum depends on how many there are."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


def answer(question: Question) -> dict:
    """The row of one question."""
    peer = question.peer
    row = {
        "loss": question.loss, "implementation": question.implementation, "library": peer.library.name,
        "dtype": question.dtype, "quick": question.quick, "seed": question.seed,
    }  # fmt: skip
    if why := peer.library.absent():
        return {**row, "not_judged": f"{why} ({peer.library.remedy})"}
    value, gradient = peer.as_candidate()
    report = check(
        question.loss, value=value, grad=gradient, framework=peer.library.framework, dtype=question.dtype,
        quick=question.quick, seed=question.seed,
    )  # fmt: skip
    return {**row, "versions": peer.library.versions(), "has_gradient": peer.differentiates, **_told(report)}


def _told(report: Report) -> dict:
    """What the page needs of a report; nothing that differs from run to run."""
    whole = report.to_dict()
    kept = ("verdict", "cases", "options", "worst", "case_set")
    return {key: whole[key] for key in kept} | {"findings": [_finding(found, report) for found in report.findings]}


def _finding(found: Finding, report: Report) -> dict:
    whole = found.to_dict()
    kept = ("diagnosis", "quantity", "severity", "case", "cases", "got", "want", "error", "allowed")
    told = {key: whole[key] for key in kept}
    if found.diagnosis == UNINITIALISED:
        told["got"] = told["error"] = "differs from run to run"
    cause, *_ = found.message.splitlines()
    better = FORMS.get(found.diagnosis, "") if found.severity != "note" else ""
    inputs = {n: v if np.size(v) <= SHOWN else f"array of shape {np.shape(v)}" for n, v in whole["inputs"].items()}
    return told | {
        "cause": cause, "better": better, "call": call_text(losses()[report.loss], found.inputs), "inputs": inputs
    }  # fmt: skip
