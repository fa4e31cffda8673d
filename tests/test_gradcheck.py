"""gradcheck sees what it says it sees, and raises no false alarm."""

import doctest
import inspect
import math

import numpy as np
import pytest

import lossref as lr
import lossref.gradcheck  # the module must not take the place of the function
from lossref.gradcheck import METHODS, SAMPLE, Entry, GradcheckReport, gradcheck


def rng(seed=0):
    return np.random.default_rng(seed)


# -- what a tolerance of 1e-3 or 1e-6 does not see -----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_gradient_of_zero_for_a_small_function_is_wrong(method):
    x = rng().standard_normal(5)
    assert not gradcheck(lambda x: 1e-6 * np.sum(x**2), lambda x: 0 * x, x, method=method)
    assert gradcheck(lambda x: 1e-6 * np.sum(x**2), lambda x: 2e-6 * x, x, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [1.0009, 1 - 1e-6, 1 + 1e-9])
def test_a_gradient_wrong_by_a_factor_is_wrong(method, factor):
    x = rng().standard_normal((2, 3))
    report = gradcheck(lambda x: np.sum(np.exp(x)), lambda x: factor * np.exp(x), x, method=method)
    assert not report
    assert report.arguments[0].wrong == 6
    assert report.worst_error == pytest.approx(abs(factor - 1) * abs(report.want), rel=0.01)


def textbook_cross_entropy(logits):
    return np.log(np.sum(np.exp(logits - logits[0]))) + logits[0] - logits[0]


def textbook_pull(logits):
    p = np.exp(logits - logits[0]) / np.sum(np.exp(logits - logits[0]))
    return p - (np.arange(len(p)) == 0)


def test_the_lost_pull_of_a_confident_right_answer_needs_exact_arithmetic():
    """Lead 50: the target's gradient is -3.9e-22, the textbook's is 0."""
    logits = np.array([50.0, 0.0, 0.0])
    by_differences = gradcheck(textbook_cross_entropy, textbook_pull, logits)
    assert by_differences.ok
    assert 'method="exact" can' in str(by_differences)
    report = gradcheck(textbook_cross_entropy, textbook_pull, logits, method="exact")
    assert not report.ok
    assert (report.argument, report.index, report.got) == ("logits", (0,), 0.0)
    assert report.want == pytest.approx(-2 * math.exp(-50), rel=1e-15)
    assert report.arguments[0].wrong == 1
    right = gradcheck(textbook_cross_entropy, lambda x: lr.cross_entropy.grad(x[None], [0])[0], logits, method="exact")
    assert right.ok


def test_differences_of_an_accurate_loss_see_it_too():
    logits, labels = np.array([[50.0, 0.0, -1.0]]), np.array([0])

    def pull(logits, labels, cotangent):
        return cotangent * (lr.softmax(logits) - np.eye(3)[labels])

    assert not gradcheck(lr.cross_entropy, pull, logits, labels)
    assert gradcheck(lr.cross_entropy, lr.cross_entropy.grad, logits, labels)


# -- the mistakes that people make -----------------------------------------------------------------------------------


def test_an_ignored_cotangent_is_seen():
    x = rng().standard_normal(4)
    assert not gradcheck(np.exp, lambda x, cotangent: np.exp(x), x)
    assert gradcheck(np.exp, lambda x, cotangent: cotangent * np.exp(x), x)


def test_one_wrong_entry_is_found_and_named():
    def wrong(a, b, cotangent):
        da, db = cotangent * b, cotangent * a
        db[1, 2] *= -1
        return da, db

    a, b = rng().standard_normal((2, 3, 4))
    report = gradcheck(lambda a, b: a * b, wrong, a, b)
    assert (report.argument, report.index) == ("b", (1, 2))
    assert [argument.wrong for argument in report.arguments] == [0, 1]
    assert report.got == pytest.approx(-report.want)
    with pytest.raises(AssertionError, match=r"b\[1, 2\]: the gradient says"):
        report.raise_if_wrong()


def test_a_wrong_entry_among_very_many_is_seen_by_a_direction():
    x = rng().standard_normal(1000)

    def wrong(x):
        g = np.cos(x)
        g[777] += 1e-3
        return g

    report = gradcheck(lambda x: np.sum(np.sin(x)), wrong, x, rng=1)
    assert report.arguments[0].checked == SAMPLE
    assert any(not entry.ok for entry in report.directions)
    assert gradcheck(lambda x: np.sum(np.sin(x)), np.cos, x, rng=1).ok


def test_nan_in_the_gradient_is_wrong():
    x = np.ones(3)
    assert not gradcheck(lambda x: np.sum(x), lambda x: np.array([1.0, np.nan, 1.0]), x)
    assert not gradcheck(lambda x: np.sum(x), lambda x: np.array([1.0, np.nan, 1.0]), x, method="exact")


# -- no false alarm --------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "log of small numbers": (np.log, lambda x, cotangent: cotangent / x, np.array([1e-8, 1e-3, 1.0, 1e6])),
    "at 0": (np.tanh, lambda x, cotangent: cotangent / np.cosh(x) ** 2, np.zeros(3)),
    "a common offset of 1e8": (
        lambda x: lr.log_softmax(x),
        lambda x, cotangent: lr.log_softmax.grad(x, cotangent=cotangent),
        1e8 + np.array([[1.0, 2.0, 3.0]]),
    ),
    "steep": (lambda x: np.exp(50 * x), lambda x, cotangent: 50 * cotangent * np.exp(50 * x), np.array([0.3, -2.0])),
    "wiggly": (lambda x: np.sin(99 * x), lambda x, cotangent: 99 * cotangent * np.cos(99 * x), np.array([0.3, -2.0])),
    "cancelling": (lambda x: (1e6 + x) - 1e6, lambda x, cotangent: cotangent * np.ones(2), np.array([0.3, -2.0])),
    "linear at 0": (
        lambda x: np.linspace(-1, 1, 33).reshape(11, 3) @ x,
        lambda x, cotangent: np.linspace(-1, 1, 33).reshape(11, 3).T @ cotangent,
        np.zeros(3),
    ),
    "next to the edge": (np.sqrt, lambda x, cotangent: cotangent / (2 * np.sqrt(x)), np.array([1e-5, 3.0])),
    "a scalar": (lambda x: x**3, lambda x, cotangent: cotangent * 3 * x**2, 0.7),
    "a float32 array": (np.exp, lambda x, cotangent: cotangent * np.exp(x), np.array([0.1, 2.0], np.float32)),
    "a nested list": (lambda x: np.sum(np.square(x)), lambda x: 2 * np.asarray(x), [[0.1, 2.0]]),
    "a kink nearby": (np.abs, lambda x, cotangent: cotangent * np.sign(x), np.array([1e-4, -3.0])),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_gradients_of_difficult_functions_pass(name):
    fn, grad, x = FUNCTIONS[name]
    for seed in range(5):
        gradcheck(fn, grad, x, rng=seed).raise_if_wrong()


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"a common offset of 1e8"}))
def test_and_right_gradients_wrong_by_a_thousandth_do_not(name):
    fn, grad, x = FUNCTIONS[name]
    takes_cotangent = name != "a nested list"

    def wrong(x, cotangent):
        return 1.001 * np.asarray(grad(x, cotangent=cotangent))

    assert not gradcheck(fn, wrong if takes_cotangent else lambda x: 1.001 * grad(x), x)


def at_a_kink(loss, example):
    if loss.kinks_rule is None:
        return False
    arguments = loss._bind((), example).arguments
    found = loss.kinks_rule(**{name: arguments[name] for name in inspect.signature(loss.kinks_rule).parameters})
    return any(np.any(kinks) for kinks in (found if isinstance(found, tuple) else (found,)))


# Differences leave the simplex of sinkhorn's masses.
DIFFERENTIABLE = sorted(name for name, loss in lr.losses().items() if loss.differentiable and name != "sinkhorn")


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_loss_passes(name):
    loss = lr.losses()[name]
    examples = (loss.defaults(rng(seed)) for seed in range(20))
    example = next(example for example in examples if not at_a_kink(loss, example))
    given = {name: example[name] for name, argument in loss.arguments.items() if argument.required}
    gradcheck(loss, loss.grad, **given, method="exact", rng=1).raise_if_wrong()
    if np.all(np.isfinite(loss(**given))):
        gradcheck(loss, loss.grad, **given, method="central", rng=1).raise_if_wrong()


def test_the_stated_bound_of_differences_holds():
    """The bound is a promise: over many smooth functions the exact derivative lies within it."""
    generator = rng(5)
    misses = 0
    for _ in range(60):
        a, b, c = generator.standard_normal(3)
        x = 3 * generator.standard_normal(3)

        def fn(x, a=a, b=b, c=c):
            return np.sin(a * x) * np.exp(b * x) + c / (1 + x**2)

        def grad(x, cotangent, a=a, b=b, c=c):
            e = np.exp(b * x)
            return cotangent * ((a * np.cos(a * x) + b * np.sin(a * x)) * e - 2 * c * x / (1 + x**2) ** 2)

        report = gradcheck(fn, grad, x, rng=generator)
        misses += not report.ok
        assert max(entry.allowed / abs(entry.want) for entry in report.entries) < 1e-5
    assert misses == 0


def test_entries_at_minus_infinity_are_not_checked_by_differences():
    logits, labels = np.array([[1.0, -np.inf, 2.0]]), np.array([0])
    report = gradcheck(lr.cross_entropy, lr.cross_entropy.grad, logits, labels)
    assert report.ok and report.arguments[0].checked == 2


# -- arguments -------------------------------------------------------------------------------------------------------


def test_options_and_chosen_arguments():
    def fn(x, scale, *, power=2):
        return scale * x**power

    def by_scale(x, scale, *, power=2, cotangent):
        return np.sum(cotangent * x**power)

    x = rng().standard_normal(3)
    assert gradcheck(fn, by_scale, x, 2.0, power=3, of="scale")
    assert gradcheck(fn, by_scale, x, 2.0, power=3, of=1)
    assert gradcheck(fn, by_scale, x, scale=2.0, of="scale")
    assert gradcheck(fn, by_scale, x, 2.0, power=3, of=("scale",), method="exact")
    assert gradcheck(fn, by_scale, x, 2.0, power=3, of="scale", cotangent=np.array([1.0, -2.0, 0.5]))


def test_inputs_are_not_modified():
    x = np.array([1.0, 2.0])

    def careless(x):
        x *= 2
        return np.sum(x)

    assert gradcheck(careless, lambda x: np.array([2.0, 2.0]), x)
    assert x.tolist() == [1.0, 2.0]


def test_the_exact_mode_reads_other_float_arrays_exactly_and_leaves_integers_alone():
    weights = np.array([0.1, 0.7])

    def fn(x, which, weights):
        return np.sum(np.log(weights) * x[which])

    def grad(x, which, weights, cotangent):
        g = np.zeros_like(x)
        np.add.at(g, which, cotangent * np.log(weights))
        return g

    gradcheck(fn, grad, np.array([1.0, 2.0, 3.0]), np.array([2, 0]), weights, of=0, method="exact").raise_if_wrong()


def test_the_same_every_time_and_free_with_rng():
    def report(**options):
        return gradcheck(np.exp, lambda x, cotangent: cotangent * np.exp(x), np.ones(3), **options)

    assert report() == report()
    assert report(rng=1) != report()
    assert report(rng=np.random.default_rng(1)) == report(rng=1)


GOOD = (lambda x: np.sum(x**2), lambda x: 2 * x)
BAD_CALLS = {
    "fn is no function": (TypeError, "fn: expected a function, got int", lambda: gradcheck(3, GOOD[1], np.ones(2))),
    "grad is no function": (TypeError, "grad: expected a function", lambda: gradcheck(GOOD[0], None, np.ones(2))),
    "unknown method": (ValueError, "method: expected", lambda: gradcheck(*GOOD, np.ones(2), method="forward")),
    "no floats": (TypeError, "args: expected at least one", lambda: gradcheck(*GOOD, np.array([1, 2]))),
    "unknown argument": (ValueError, "of: expected arguments", lambda: gradcheck(*GOOD, np.ones(2), of="y")),
    "integer argument": (TypeError, "of: expected floating", lambda: gradcheck(*GOOD, np.array([1]), of="x")),
    "shape of the gradient": (
        ValueError,
        r"grad: expected shape \(2,\) for x, got shape \(\)",
        lambda: gradcheck(GOOD[0], lambda x: 2.0, np.ones(2)),
    ),
    "number of gradients": (
        ValueError,
        "grad: expected 2 gradient.* of=",
        lambda: gradcheck(lambda x, y: np.sum(x * y), lambda x, y: y, np.ones(2), np.ones(2)),
    ),
    "an array without a cotangent": (
        ValueError,
        r"grad: expected a parameter named cotangent, because fn returns shape \(2,\)",
        lambda: gradcheck(np.exp, lambda x: np.exp(x), np.ones(2)),
    ),
    "shape of the cotangent": (
        ValueError,
        "cotangent: expected a number or shape",
        lambda: gradcheck(np.exp, lambda x, cotangent: x, np.ones(2), cotangent=np.ones(3)),
    ),
    "text as a gradient": (
        TypeError,
        "grad: expected real numbers",
        lambda: gradcheck(GOOD[0], lambda x: "2x", np.ones(2)),
    ),
    "text as a result": (
        TypeError,
        "fn: expected a real number",
        lambda: gradcheck(lambda x: "x", GOOD[1], np.ones(2)),
    ),
    "no value nearby": (
        ValueError,
        r"fn: expected finite values on both sides of x\[0\]",
        lambda: gradcheck(lambda x: np.sum(np.sqrt(x)), lambda x: x, np.zeros(2)),
    ),
    "not analytic": (
        ValueError,
        "fn: expected analytic code",
        lambda: gradcheck(lambda x: np.sum(np.abs(x)), lambda x: np.sign(x), np.ones(2), method="complex"),
    ),
    "not complex": (
        TypeError,
        "fn: expected code that runs on complex numbers",
        lambda: gradcheck(lambda x: np.sum(np.floor(x) + x), GOOD[1], np.ones(2) / 2, method="complex"),
    ),
    "not on objects": (
        TypeError,
        "fn: expected NumPy code that runs on object arrays",
        lambda: gradcheck(lambda x: np.linalg.norm(np.linalg.inv(x)), GOOD[1], np.eye(2), method="exact"),
    ),
    "leaves exact arithmetic": (
        TypeError,
        "fn: expected code that stays in exact arithmetic",
        lambda: gradcheck(lambda x: np.sum(np.asarray(x, float)), GOOD[1], np.ones(2), method="exact"),
    ),
}


@pytest.mark.parametrize("what", BAD_CALLS)
def test_readable_errors(what):
    kind, text, call = BAD_CALLS[what]
    with pytest.raises(kind, match=text):
        call()


# -- the report ------------------------------------------------------------------------------------------------------


def test_the_report_says_where_and_how_much():
    text = str(gradcheck(lambda x: np.sum(x**2), lambda x: 2 * x + 1e-3, np.array([1.0, 2.0])))
    assert "gradient of <lambda>: WRONG (method 'central')" in text
    assert "x, shape (2,): 2 of 2 entries checked, 2 wrong" in text
    assert "3 random directions" in text


def test_an_empty_argument_is_right():
    report = gradcheck(lambda x: np.sum(x), lambda x: x, np.empty((0, 3)))
    assert report.ok and report.worst_error == 0 and isinstance(report, GradcheckReport)


def test_entries_without_slack_and_error_are_right():
    assert Entry("x", (), 0.0, 0.0, 0.0, 0.0).ok
    assert Entry("x", (), 1.0, 0.0, 1.0, 0.0).badness == math.inf


def test_the_package_offers_the_function_not_the_module():
    assert lr.gradcheck is gradcheck and callable(lossref.gradcheck)


def test_docstring_examples():
    import sys

    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(sys.modules["lossref.gradcheck"], optionflags=flags)
    assert found.attempted > 5 and found.failed == 0
