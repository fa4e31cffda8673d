"""What a peer means, found out by calling it: what its mean divides by, what an option does, what it makes of edges.

Every question is put to this library's loss in the same words. Nothing is known beforehand: an answer is what came out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lossref.core.registry import losses

from .accuracy import _first_line
from .calling import NotTaken, Peer

NO = "–"  # there is no such option


@dataclass(frozen=True)
class Answer:
    """A question and what each peer answered, by title."""

    question: str
    answers: dict[str, str]


@dataclass(frozen=True)
class Question:
    text: str
    of: tuple[str, ...]
    ask: Callable[[Peer, dict], str]


QUESTIONS: list[Question] = []

LABELLED = "cross_entropy nll focal poly_loss multi_margin crammer_singer_hinge"
DENSE = "soft_cross_entropy kl_divergence"
BINARY = "binary_cross_entropy binary_cross_entropy_with_logits sigmoid_focal"
LOGITS = "cross_entropy soft_cross_entropy focal poly_loss kl_divergence"
PRIMITIVES = "softmax log_softmax logsumexp softplus log_sigmoid sigmoid"


def question(text: str, of: str) -> Callable:
    """Decorator: (peer, probe) → what it answered. The probe holds the required arguments, far from special."""

    def declare(ask):
        QUESTIONS.append(Question(text, tuple(of.split()), ask))
        return ask

    return declare


def interview(peers: list[Peer]) -> list[Answer]:
    """All questions about a loss, put to each of its peers; one that nobody has an answer to is left out."""
    name = peers[0].loss_name
    asked = []
    for q in QUESTIONS:
        if name in q.of:
            answers = {peer.title: _answer(q, peer) for peer in peers}
            if any(answer != NO for answer in answers.values()):
                asked.append(Answer(q.text, answers))
    return asked


def _answer(q: Question, peer: Peer) -> str:
    try:
        return q.ask(peer, probe(peer.loss_name))
    except NotTaken:
        return NO
    except Exception as problem:
        return _refusal(problem)


def _refusal(problem: Exception) -> str:
    return f"refused ({_first_line(problem).partition(':')[0]})"


def probe(name: str) -> dict:
    """The required arguments of a loss: 6 rows, 5 classes, float64; the same whenever it is asked."""
    loss = losses()[name]
    rng = np.random.default_rng([5, *name.encode()])
    sizes = {"N": 6, "C": 5, "M": 6, "...": (3, 4), "T": 9, "S": 2, "D": 3, "V": 5}
    drawn = loss.defaults(rng, sizes)
    required = {n: drawn[n] for n, a in loss.arguments.items() if a.required}
    if "labels" in required and np.ndim(required["labels"]) == 1:
        required["labels"] = np.array([3, 1, 4, 0, 2, 1])
    return required


# -- how answers are put into words -----------------------------------------------------------------------------------


def _close(x, y, tolerance: float = 1e-6) -> bool:
    return bool(np.shape(x) == np.shape(y) and np.allclose(x, y, rtol=tolerance, atol=1e-12, equal_nan=True))


def _number(x) -> str:
    x = float(x)
    return "nan" if np.isnan(x) else f"{x:.6g}"


def _terms(name: str, arguments: dict) -> np.ndarray:
    loss = losses()[name]
    return np.asarray(loss(**arguments, reduction="none"))


def _as_here(peer: Peer, arguments: dict) -> dict:
    """The same with our defaults spelled out, where the peer may have others."""
    loss = losses()[peer.loss_name]
    defaults = {name: loss.arguments[name].default for name in peer.options if name in loss.arguments}
    return {name: value for name, value in defaults.items() if isinstance(value, float)} | arguments


def _divisor(peer: Peer, arguments: dict, candidates: dict[str, float]) -> str:
    """By what the peer divides the sum of our terms."""
    arguments = _as_here(peer, arguments)
    mean = float(peer.value(arguments, "mean"))
    quotient = float(_terms(peer.loss_name, arguments).sum()) / mean
    for words, number in candidates.items():
        if _close(quotient, float(number)):
            return words
    return f"{_number(quotient)}, which is none of: {', '.join(candidates)}"


def _gradient(peer: Peer, arguments: dict, reduction: str | None = "none") -> np.ndarray | None:
    if not peer.differentiates:
        return None
    return np.asarray(peer.gradients(arguments, losses()[peer.loss_name].of[:1], 1.0, reduction)[0])


def _of_gradient(g: np.ndarray | None, row: int | None = None) -> str:
    """The gradient, or one row of it, in words."""
    if g is None:
        return "no gradient"
    g = g if row is None else g[row]
    if np.isnan(g).any():
        return "gradient nan"
    if np.isinf(g).any():
        return "gradient inf"
    return "gradient 0" if not g.any() else f"gradient {_number(g.flat[0])}" if g.size == 1 else "gradient finite"


def _default(peer: Peer, arguments: dict, option: str, candidates) -> str:
    """The value of an option that gives the same as leaving it out."""
    left_out = peer.value(arguments)
    for value in candidates:
        if _close(left_out, peer.value({**arguments, option: value})):
            return str(value)
    return "another one"


# -- reductions -------------------------------------------------------------------------------------------------------


@question("unless told, it returns", f"{LABELLED} {DENSE} {BINARY} info_nce linear_cross_entropy ctc")
def _(peer, given):
    value, terms = peer.value(given, None), _terms(peer.loss_name, given)
    if np.shape(value) == terms.shape:
        return "one number per " + ("element" if terms.ndim > 1 else "row")
    if np.shape(value) != ():
        return f"an array of shape {np.shape(value)}"
    return "a sum" if _close(value, terms.sum()) else "a mean"


@question("its mean divides by", f"{LABELLED} {DENSE} {BINARY} info_nce linear_cross_entropy")
def _(peer, given):
    terms = _terms(peer.loss_name, given)
    if terms.ndim > 1:
        return _divisor(peer, given, {"the number of elements": terms.size, "the number of rows": len(terms)})
    candidates = {"the number of rows": terms.size}
    if peer.loss_name in f"{LABELLED} {DENSE}".split():
        candidates["rows · classes"] = terms.size * next(iter(given.values())).shape[1]
    return _divisor(peer, given, candidates)


@question("… with class weights, by", "cross_entropy nll multi_margin")
def _(peer, given):
    weight = np.array([0.5, 2.0, 0.25, 1.5, 3.0])
    totals = {"the sum of the labels' weights": weight[given["labels"]].sum(), "the number of rows": 6}
    return _divisor(peer, {**given, "weight": weight}, totals)


@question("… with a row ignored, by", "cross_entropy nll linear_cross_entropy")
def _(peer, given):
    rows = given["labels"].size
    return _divisor(peer, _with_label(given, -100), {"the number of rows kept": rows - 1, "the number of rows": rows})


@question("… with both, by", "cross_entropy nll")
def _(peer, given):
    weight = np.array([0.5, 2.0, 0.25, 1.5, 3.0])
    given = _with_label(given, -100) | {"weight": weight, "ignore_index": -100}
    kept = weight[given["labels"][given["labels"] >= 0]].sum()
    totals = {"the weights of the labels kept": kept, "the number of rows kept": 5, "the number of rows": 6}
    return _divisor(peer, given, totals)


@question("… with class weights, by", "soft_cross_entropy")
def _(peer, given):
    weight = np.array([0.5, 2.0, 0.25, 1.5, 3.0])
    masses = (weight * given["targets"]).sum()
    return _divisor(
        peer, {**given, "weight": weight}, {"the number of rows": 6, "the weighted sum of the targets": masses}
    )


@question("its mean is", "ctc")
def _(peer, given):
    given = {**given, "targets": np.array([[1, 2], [2, 3], [3, 1], [1, 1], [4, 2], [2, 1]])}
    given["target_lengths"] = lengths = np.array([1, 2, 2, 1, 2, 1])
    mean, terms = float(peer.value(given, "mean")), _terms("ctc", given)
    words = {
        "of the samples, each divided by its target's length": (terms / lengths).mean(),
        "of the samples": terms.mean(),
        "the sum divided by all target lengths": terms.sum() / lengths.sum(),
    }
    return next((text for text, number in words.items() if _close(mean, number)), _number(mean))


@question("the mean of no rows", f"{LABELLED} {DENSE} {BINARY}")
def _(peer, given):
    value = peer.value({name: x[:0] for name, x in given.items()}, "mean")
    if np.shape(value):
        return f"no number, an array of shape {np.shape(value)}"
    return _number(value) if value == 0 or np.isnan(value) else "whatever the memory held"


@question("the mean when every row is ignored", "cross_entropy nll linear_cross_entropy")
def _(peer, given):
    given = {**given, "labels": np.full(np.shape(given["labels"]), -100), "ignore_index": -100}
    value = _number(peer.value(given, "mean"))
    return f"{value}, {_of_gradient(_gradient(peer, given, 'mean'))}"


# -- labels and targets -----------------------------------------------------------------------------------------------


def _with_label(given: dict, label: int) -> dict:
    labels = given["labels"].copy()
    labels.flat[2] = label
    return {**given, "labels": labels, "ignore_index": -100} if label == -100 else {**given, "labels": labels}


def _strange_label(peer: Peer, given: dict, label: int) -> str:
    if peer.untried_labels:
        return f"not tried: {peer.untried_labels}"
    labels = given["labels"].copy()
    labels[2] = label
    try:
        value = peer.value({**given, "labels": labels})[2]
    except NotTaken:
        raise
    except Exception as problem:
        return _refusal(problem)
    for k in range(5):
        labels[2] = k
        if _close(value, _terms(peer.loss_name, {**given, "labels": labels})[2]):
            return f"taken for class {k}"
    return "counts nothing" if value == 0 else "nan" if np.isnan(value) else f"{_number(value)}, no class's"


@question("a label of -100, nothing said about it", LABELLED)
def _(peer, given):
    return _strange_label(peer, given, -100)


@question("a label of C, which is no class", LABELLED)
def _(peer, given):
    return _strange_label(peer, given, 5)


@question("label smoothing ε", "cross_entropy soft_cross_entropy linear_cross_entropy")
def _(peer, given):
    value = peer.value({**given, "label_smoothing": 0.2}, "sum" if peer.reduces else "none").sum()
    plain = _terms(peer.loss_name, given).sum()
    ours = _terms(peer.loss_name, {**given, "label_smoothing": 0.2}).sum()
    uniform = (ours - 0.8 * plain) / 0.2  # the mean over all classes
    classes = 5
    words = {
        "ε/C for every class": ours,
        "ε/(C-1) for every other class": 0.8 * plain + 0.2 / (classes - 1) * (classes * uniform - plain),
        "no effect": plain,
    }
    return next((text for text, number in words.items() if _close(value, number)), "something else")


@question("targets that sum to 2", "soft_cross_entropy")
def _(peer, given):
    once = given["targets"] / given["targets"].sum(axis=1, keepdims=True)
    ratio = peer.value({**given, "targets": 2 * once}).sum() / peer.value({**given, "targets": once}).sum()
    return {2.0: "twice the loss", 1.0: "normalised"}.get(round(float(ratio), 6), f"{ratio:.6g} times the loss")


@question("a target of 0 on a masked class", "soft_cross_entropy kl_divergence")
def _(peer, given):
    given = {name: x.copy() for name, x in given.items()}
    given["targets"][0] = [0.25, 0.0, 0.5, 0.25, 0.0]
    given["logits"][0, 1] = -np.inf
    right = np.isfinite(peer.value(given)[0])
    return f"{'finite' if right else 'not finite'}, {_of_gradient(_gradient(peer, given), 0)}"


@question("a masked class (-inf) that is not the label", "cross_entropy focal poly_loss")
def _(peer, given):
    logits, masked = given["logits"].copy(), (given["labels"][0] + 1) % 5
    logits[0, masked] = -np.inf
    given = {**given, "logits": logits}
    value, g = peer.value(_as_here(peer, given))[0], _gradient(peer, given)
    words = "does not count" if _close(value, _terms(peer.loss_name, given)[0]) else _number(value)
    return f"{words}, {_of_gradient(g, 0) if g is None else f'gradient there {_number(g[0, masked])}'}"


@question("the label itself masked", "cross_entropy focal poly_loss")
def _(peer, given):
    logits = given["logits"].copy()
    logits[0, given["labels"][0]] = -np.inf
    given = {**given, "logits": logits}
    return f"{_number(peer.value(given)[0])}, {_of_gradient(_gradient(peer, given), 0)}"


@question("a target of 0.3", "binary_cross_entropy binary_cross_entropy_with_logits sigmoid_focal")
def _(peer, given):
    given = _as_here(peer, {**given, "targets": np.full(np.shape(given["targets"]), 0.3)})
    right = _close(peer.value(given), _terms(peer.loss_name, given), 1e-5)
    return "a probability, as here" if right else "means something else"


# -- single losses ----------------------------------------------------------------------------------------------------


def _element(peer: Peer, **given) -> str:
    """Value and gradient of one element."""
    given = {name: np.array([x]) for name, x in given.items()}
    g = _gradient(peer, given)
    return f"{_number(peer.value(given)[0])}, {_of_gradient(g)}"


@question("p = 0 where the target is 1", "binary_cross_entropy")
def _(peer, given):
    return _element(peer, probs=0.0, targets=1.0)


@question("p = 0 where the target is 0", "binary_cross_entropy")
def _(peer, given):
    return _element(peer, probs=0.0, targets=0.0)


@question("a logit of -inf where the target is 0", "binary_cross_entropy_with_logits sigmoid_focal")
def _(peer, given):
    return _element(peer, logits=-np.inf, targets=0.0)


@question("the weight of the positive class multiplies", "binary_cross_entropy_with_logits")
def _(peer, given):
    given = {**given, "pos_weight": 3.0}
    right = _close(peer.value(given), _terms(peer.loss_name, given))
    return "the term of the target, not the other" if right else "something else"


@question("α unless told", "sigmoid_focal")
def _(peer, given):
    return _default(peer, given, "alpha", (None, 0.25, 0.5))


@question("γ unless told", "sigmoid_focal focal")
def _(peer, given):
    return _default(peer, given, "gamma", (2.0, 0.0, 1.0))


@question("α weighs", "sigmoid_focal")
def _(peer, given):
    plain, value = (peer.value({**given, "alpha": alpha}) for alpha in (None, 0.2))
    t = given["targets"]
    words = {"positives by α, negatives by 1-α": plain * (0.2 * t + 0.8 * (1 - t)), "everything by α": plain * 0.2}
    return next((text for text, numbers in words.items() if _close(value, numbers)), "something else")


@question("ε unless told", "poly_loss")
def _(peer, given):
    return _default(peer, given, "epsilon", (1.0, 2.0))


@question("the sum over the classes is divided by", "multi_margin")
def _(peer, given):
    hinges = _terms("weston_watkins_hinge", {n: given[n] for n in ("logits", "labels")})
    quotient = float((hinges / peer.value(given))[hinges > 0][0])
    return {5.0: "C", 4.0: "C - 1", 1.0: "nothing"}.get(round(quotient, 9), _number(quotient))


@question("the gradient where label and rival tie", "crammer_singer_hinge")
def _(peer, given):
    g = _gradient(peer, {"logits": np.array([[2.0, 1.0, -3.0]]), "labels": np.array([0])})
    return "no gradient" if g is None else "0" if not g.any() else str([round(float(x), 6) for x in g[0]])


@question("a target of 0", "kl_divergence")
def _(peer, given):
    targets = given["targets"].copy()
    targets[0] = [0.0, 0.5, 0.25, 0.25, 0.0]
    given = {**given, "targets": targets}
    value = peer.value(given)
    words = "adds nothing" if _close(value, _terms("kl_divergence", given), 1e-5) else _number(value[0])
    return f"{words}, {_of_gradient(_gradient(peer, given), 0)}"


@question("a target that cannot be aligned", "ctc")
def _(peer, given):
    given = {"logits": given["logits"][:1, :2], "targets": np.array([[1, 1]])}
    g = _gradient(peer, given)
    return f"{_number(peer.value(given)[0])}, {_of_gradient(g)}"


@question("a target of length 0", "ctc")
def _(peer, given):
    given = {"logits": given["logits"][:1], "targets": np.array([[1, 1]]), "target_lengths": np.array([0])}
    right = _close(peer.value(given), _terms("ctc", given), 1e-5)
    return "the cost of blanks alone" if right else _number(peer.value(given)[0])


# -- primitives -------------------------------------------------------------------------------------------------------


@question("a row of only -inf", "softmax log_softmax logsumexp")
def _(peer, given):
    given = {"x": np.full((1, 3), -np.inf)}
    value = np.asarray(peer.value(given)).ravel()[0]
    return f"{_number(value)}, {_of_gradient(_gradient(peer, given))}"


@question("a masked entry (-inf)", "softmax log_softmax logsumexp softplus log_sigmoid sigmoid")
def _(peer, given):
    given = {"x": np.array([1.0, -np.inf, 2.0])}
    value = np.asarray(peer.value(given))
    text, g = _number(value if value.ndim == 0 else value[1]), _gradient(peer, given)
    return f"{text}, {_of_gradient(g) if g is None else f'gradient there {_number(g[1])}'}"


@question("float16 in gives", PRIMITIVES)
def _(peer, given):
    return str(np.asarray(peer.value({"x": given["x"].astype(np.float16)})).dtype)
