"""Every known bug is rejected and named, although it looks right on ordinary inputs."""

import importlib

import numpy as np
import pytest

import lossref as lr

TOPICS = ("cross_entropies", "softmaxes", "contrastive", "sequences_and_preferences", "binary_and_divergences")
MUTANTS = [m for topic in TOPICS for m in importlib.import_module(f"mutants.{topic}").MUTANTS]


def need(mutant):
    if mutant.loss not in lr.losses():
        pytest.skip(f"loss not registered yet: {mutant.loss}")


def test_all_known_bugs_are_here():
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 37


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_looks_right_on_ordinary_inputs(mutant):
    need(mutant)
    *arrays, options = mutant.ordinary
    arrays = [a.astype(mutant.dtype) if a.dtype.kind == "f" else a for a in arrays]
    loss = lr.losses()[mutant.loss]
    for function, reference in ((mutant.value, loss), (mutant.grad, loss.grad if loss.differentiable else None)):
        if function is None or reference is None:
            continue
        fresh = [a.copy() for a in arrays]
        with np.errstate(all="ignore"):
            got, want = function(*fresh, **options), reference(*arrays, **options)
        got, want = (x if isinstance(x, tuple) else (x,) for x in (got, want))
        for g, w in zip(got, want, strict=True):
            np.testing.assert_allclose(np.asarray(g, float), np.asarray(w, float), mutant.tolerance, mutant.tolerance)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_is_caught_and_named(mutant):
    need(mutant)
    report = lr.oracle.check(mutant.loss, value=mutant.value, grad=mutant.grad, dtype=mutant.dtype,
        kwargs=mutant.kwargs,
                             quick=mutant.quick)  # fmt: skip
    assert report.verdict in mutant.verdict, str(report)
    assert set(mutant.diagnoses) & {f.diagnosis for f in report.findings[:4]}, str(report)
