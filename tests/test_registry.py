"""Every loss is tested by being registered: nothing here names a loss."""

import doctest
import importlib
import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lossref as lr
from lossref.core.declarations import RealNumber
from lossref.exact.verification import DTYPES, GRADIENT_LIMIT, VALUE_LIMIT, Check, case_set, run
from lossref.exact.yardstick import yardstick

LOSSES = lr.losses()


def over(losses, *more):
    """One test per loss (and path), all of a loss in one process: the exact layer's answers are shared."""
    return [
        pytest.param(loss, *rest, id="-".join([loss.name, *map(str, rest)]), marks=pytest.mark.xdist_group(loss.name))
        for loss in losses
        for rest in (more[0](loss) if more else [()])
    ]


every_loss = pytest.mark.parametrize("loss", over(LOSSES.values()))
every_reducible_loss = pytest.mark.parametrize("loss", over(l for l in LOSSES.values() if l.reducible))
every_differentiable_loss = pytest.mark.parametrize("loss", over(l for l in LOSSES.values() if l.differentiable))
every_loss_and_path = pytest.mark.parametrize(
    "loss, path", over(LOSSES.values(), lambda l: [(p,) for p in ("numpy", "numba") if p in l.paths])
)
every_check = pytest.mark.parametrize(
    "loss, path, dtype",
    over(LOSSES.values(), lambda l: [(p, d) for p in ("numpy", "numba") if p in l.paths for d in DTYPES]),
)


def rng_for(loss, salt=0):
    return np.random.default_rng([salt, *loss.name.encode()])


def real_arrays(loss, arguments):
    return [
        name
        for name, value in arguments.items()
        if value is not None
        and loss.arguments[name].is_array
        and isinstance(loss.arguments[name].declaration, RealNumber)
    ]


def in_dtype(loss, arguments, dtype):
    reals = real_arrays(loss, arguments)
    return {n: np.asarray(v).astype(dtype) if n in reals else v for n, v in arguments.items()}


def as_tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def has_classes(loss):
    return any(a.is_array and "C" in a.declaration.names for a in loss.arguments.values())


def terms_options(loss):
    return {"reduction": "none"} if loss.reducible else {}


# -- right ---------------------------------------------------------------------------------------------------------


@every_check
def test_value_and_gradient_within_the_yardstick_of_the_exact_layer(loss, path, dtype):
    result = run(Check(loss.name, path, dtype))
    assert result.cases > 0
    assert result.verdict == "ok", result


@every_loss
def test_hard_cases_bite(loss):
    """The obvious code agrees on an ordinary input, and misses the yardstick somewhere on the hard ones."""
    assert loss.obvious_form is not None, "every loss shows the obvious code, and what it loses"
    required = [a.name for a in loss.arguments.values() if a.required]
    ordinary = loss.defaults(rng_for(loss))
    with np.errstate(all="ignore"):
        obvious = loss.obvious_form(*(np.asarray(ordinary[n]) for n in required))
    np.testing.assert_allclose(obvious, loss(**ordinary, **terms_options(loss)), rtol=1e-6, atol=1e-9)
    misses = 0
    for dtype in DTYPES:
        for case in case_set(loss.name, dtype, 0):
            if any(not _is_default(loss, n, v) for n, v in case.arguments.items() if n not in required):
                continue
            try:
                with np.errstate(all="ignore"):
                    obvious = np.asarray(loss.obvious_form(*(case.arguments[n] for n in required)))
            except IndexError:  # an ignored label: not in the literal formula
                continue
            misses += not np.max(case.truth.value_error(obvious.astype(dtype), dtype), initial=0.0) <= VALUE_LIMIT
    if any(isinstance(loss.arguments[n].declaration, RealNumber) for n in required) and loss.differentiable:
        assert misses, "no hard case shows what the obvious code loses"


def _is_default(loss, name, value):
    default = loss.arguments[name].default
    return value is default or (np.ndim(value) == 0 and np.ndim(default) == 0 and value == default)


@every_loss
def test_docstring_examples(loss):
    examples = doctest.DocTestParser().get_doctest(
        loss.definition.__doc__, {"lr": lr, "np": np}, loss.name, loss.definition.__code__.co_filename, 0
    )
    assert examples.examples, "every docstring has an executed example"
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with np.errstate(all="ignore"):
        runner.run(examples, out=output.append)
    assert not output, "".join(output)


@every_loss
def test_documentation_is_complete(loss):
    assert loss.formula, "a displayed formula (.. math::)"
    from lossref.core import documentation

    meanings = documentation.meanings(loss.definition.__doc__)
    assert set(meanings) == set(loss.arguments), "every argument is explained, and nothing else"
    assert all(meanings.values())
    assert loss.name in repr(loss)
    assert loss.formula in loss._repr_markdown_()
    assert pickle.loads(pickle.dumps(loss)).name == loss.name


# -- reductions and cotangents -------------------------------------------------------------------------------------


@every_reducible_loss
def test_sum_is_the_sum_of_the_terms_and_mean_divides_it(loss):
    for salt in range(5):
        arguments = loss.example(rng_for(loss, salt))
        terms = loss(**arguments, reduction="none")
        np.testing.assert_allclose(loss(**arguments, reduction="sum"), terms.sum(), rtol=1e-14, atol=1e-300)
        mean = loss(**arguments)
        if loss.mean_factor_rule is None:
            np.testing.assert_allclose(loss(**arguments, divisor=4.0), terms.sum() / 4.0, rtol=1e-14)
        if loss.mean_factor_rule is None and loss.divisor_rule is None:
            np.testing.assert_allclose(mean, terms.sum() / terms.size, rtol=1e-14)


@every_differentiable_loss
def test_reduced_value_and_gradient_are_exact(loss):
    """Mean, sum and a divisor of one's own, with a cotangent that is not 1."""
    reductions = [{"reduction": "mean"}, {"reduction": "sum"}, {"divisor": 7.0}] if loss.reducible else [{}]
    arguments = loss.example(rng_for(loss, 1))
    for options in reductions:
        value, gradients = loss.value_and_grad(**arguments, **options, cotangent=-0.75)
        true_value = lr.exact.value(loss, **arguments, **options)
        size = np.sum(abs(loss(**arguments, **terms_options(loss))))
        assert np.all(true_value.error(value) <= 1e-14 * size) or not np.isfinite(size), options
        true_gradients = as_tuple(lr.exact.grad(loss, **arguments, **options, cotangent=-0.75))
        for k, (gradient, truth) in enumerate(
            zip(gradients if isinstance(gradients, tuple) else (gradients,), true_gradients, strict=True)
        ):
            smooth = np.isfinite(truth.midpoint) & np.isfinite(gradient)
            scale = np.max(abs(truth.midpoint[smooth]), initial=0)
            assert np.all(truth.error(gradient)[smooth] <= 1e-12 * scale + 1e-300), (options, loss.of[k])


@every_reducible_loss
def test_parts_of_a_batch_add_up_to_the_whole(loss):
    """With the whole batch's divisor, means over parts sum to the mean: no mean of means."""
    arguments = loss.defaults(rng_for(loss), {"N": 6})
    rows = [n for n, a in loss.arguments.items() if a.is_array and a.declaration.names[:1] == ["N"]]
    if not loss.row_wise or not rows or loss.returns != "N":
        pytest.skip("terms are coupled, or the batch has no axis N to split")
    if loss.name == "info_nce":
        arguments["labels"] = np.arange(6)
    whole = loss(**arguments)
    count = 6 if loss.divisor_rule is None else loss(**arguments, reduction="sum") / whole
    parts = [
        {n: v[s] if n in rows and v is not None else v for n, v in arguments.items()}
        for s in (slice(0, 1), slice(1, 6))
    ]
    np.testing.assert_allclose(sum(loss(**part, divisor=float(count)) for part in parts), whole, rtol=1e-12)


@every_differentiable_loss
def test_gradient_is_linear_in_the_cotangent_and_each_term_has_its_own(loss):
    rng = rng_for(loss)
    arguments = loss.example(rng)
    options = terms_options(loss)
    shape = np.shape(loss(**arguments, **options))
    first, second = rng.standard_normal(shape), rng.standard_normal(shape)
    separate = [as_tuple(loss.grad(**arguments, **options, cotangent=c)) for c in (first, second)]
    together = as_tuple(loss.grad(**arguments, **options, cotangent=2 * first - second))
    for a, b, both in zip(*separate, together, strict=True):
        scale = np.max(np.abs(a), initial=0) + np.max(np.abs(b), initial=0)
        np.testing.assert_allclose(2 * a - b, both, rtol=1e-12, atol=1e-13 * scale)
    if shape and np.prod(shape) > 1:
        only_first = np.zeros(shape)
        only_first.flat[0] = 1.0
        each = [
            as_tuple(
                loss.grad(
                    **arguments, **options, cotangent=np.where(np.arange(np.prod(shape)).reshape(shape) == k, 1.0, 0.0)
                )
            )
            for k in range(int(np.prod(shape)))
        ]
        for k, total in enumerate(as_tuple(loss.grad(**arguments, **options))):
            scale = np.max(sum(abs(g[k]) for g in each), initial=0)
            np.testing.assert_allclose(sum(g[k] for g in each), total, rtol=1e-11, atol=1e-13 * scale)


@every_differentiable_loss
def test_value_and_grad_is_value_and_grad(loss):
    for salt in range(3):
        arguments = loss.example(rng_for(loss, salt))
        value, gradients = loss.value_and_grad(**arguments)
        np.testing.assert_array_equal(value, loss(**arguments))
        for together, alone in zip(as_tuple(gradients), as_tuple(loss.grad(**arguments)), strict=True):
            np.testing.assert_array_equal(together, alone)


@every_differentiable_loss
def test_gradient_has_a_field_for_every_differentiable_argument_given(loss):
    arguments = loss.example(rng_for(loss))
    given = [n for n in loss.of if arguments[n] is not None]
    gradients = loss.grad(**arguments)
    if len(given) == 1:
        assert gradients.shape == np.shape(arguments[given[0]])
    else:
        assert gradients._fields == tuple(given)
        assert all(g.shape == np.shape(arguments[n]) for n, g in zip(given, gradients, strict=True))


# -- dtypes, memory, sizes -----------------------------------------------------------------------------------------

FIRST_ORDER = "one rounding moves the answer by more than its size: the yardstick, a derivative, does not reach so far"
BEYOND_THE_YARDSTICK = {
    ("c51", "bfloat16"): "an atom that is rounded into the next bin gives a masked bin mass: the loss is infinite",
    ("categorical_projection", "bfloat16"): "an atom that is rounded into the next bin gives a bin mass that had none",
    ("ctc", "bfloat16"): FIRST_ORDER,
    ("sinkhorn", "float16"): FIRST_ORDER,
    ("smooth_adversarial_comp_sum", "float16"): FIRST_ORDER,
    ("binary_cross_entropy", "float16"): "the derivative overflows before it meets a small cotangent",
    ("z_loss_from_statistics", "float16"): "a sigmoid underflows before it meets a small deviation",
    ("smooth_adversarial_comp_sum", "bfloat16"): "two copies whose changes differ by less than a rounding: a kink",
}


@pytest.mark.slow
@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "longdouble"])
def test_other_dtypes_within_the_yardstick(loss, dtype):
    if (loss.name, dtype) in BEYOND_THE_YARDSTICK:
        pytest.skip(BEYOND_THE_YARDSTICK[loss.name, dtype])
    result = run(Check(loss.name, "numpy", dtype))
    assert result.verdict == "ok", result


@pytest.mark.slow
@pytest.mark.parametrize("loss", over(l for l in LOSSES.values() if l.reducible and has_classes(l)))
def test_fifty_thousand_classes(loss, monkeypatch):
    """One row; the yardstick by few random signs, which can only make it stricter."""
    monkeypatch.setattr(importlib.import_module("lossref.exact.yardstick"), "SIGNED", 3)
    rng = rng_for(loss)
    arguments = in_dtype(loss, loss.defaults(rng, {"C": 50_000, "N": 1}), np.float32)
    terms = np.asarray(loss(**arguments, reduction="none"))
    cotangent = rng.standard_normal(terms.shape).astype(np.float32)
    truth = yardstick(loss, **arguments, cotangent=cotangent)
    assert np.max(truth.value_error(terms, np.float32)) <= VALUE_LIMIT
    if loss.differentiable:
        gradients = as_tuple(loss.grad(**arguments, reduction="none", cotangent=cotangent))
        assert all(np.max(truth.gradient_error(k, g, np.float32)) <= GRADIENT_LIMIT for k, g in enumerate(gradients))



@every_loss
@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.longdouble], ids=lambda d: np.dtype(d).name
)
def test_the_callers_dtype_is_kept(loss, dtype):
    for salt in range(4):
        arguments = in_dtype(loss, loss.example(rng_for(loss, salt)), dtype)
        try:
            call = loss._bind((), arguments)
        except ValueError:  # rounding can make masses not sum to 1 in a 16-bit dtype
            continue
        if call.dtype != dtype:
            assert not real_arrays(loss, arguments)
            continue
        assert loss(**arguments, **terms_options(loss)).dtype in (dtype, np.dtype(bool))
        if loss.differentiable:
            assert all(g.dtype == dtype for g in as_tuple(loss.grad(**arguments)))
        with np.errstate(all="ignore"):
            terms = np.asarray(loss.definition(**call.arguments))
        assert terms.dtype in (dtype, np.dtype(bool)), "the definition itself widens or narrows"


@every_loss
def test_integers_compute_in_float64(loss):
    arguments = loss.defaults(rng_for(loss))
    if any(loss.arguments[n].declaration.interval.high <= 1 for n in real_arrays(loss, arguments)) or not real_arrays(
        loss, arguments
    ):
        pytest.skip("no argument takes integers freely")
    whole = {n: np.rint(v).astype(np.int64) if n in real_arrays(loss, arguments) else v for n, v in arguments.items()}
    try:
        loss._bind((), whole)
    except ValueError:
        pytest.skip("rounded to integers these arguments are not valid")
    assert np.asarray(loss(**whole)).dtype in (np.dtype(np.float64), np.dtype(bool))


@every_loss_and_path
def test_any_memory_layout_gives_the_same_and_inputs_stay(loss, path):
    loss = loss.path(path)
    arguments = loss.example(rng_for(loss))
    arrays = {n: np.asarray(v) for n, v in arguments.items() if v is not None and loss.arguments[n].is_array}
    want = loss(**arguments, **terms_options(loss))
    want_gradients = as_tuple(loss.grad(**arguments)) if loss.differentiable else ()

    def read_only(x):
        x = x.copy()
        x.flags.writeable = False
        return x

    def every_second(x):
        spread = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype) if x.ndim else np.zeros(2, x.dtype)
        spread[..., ::2] = x
        return spread[..., ::2] if x.ndim else spread[0]

    layouts = {
        "read-only": read_only,
        "strided": every_second,
        "reversed": lambda x: x[..., ::-1].copy()[..., ::-1] if x.ndim else x,
        "Fortran order": lambda x: np.asfortranarray(x),
    }
    for layout, lay in layouts.items():
        laid = {n: lay(x) for n, x in arrays.items()}
        before = {n: x.copy() for n, x in laid.items()}
        np.testing.assert_array_equal(loss(**(arguments | laid), **terms_options(loss)), want, err_msg=layout)
        if loss.differentiable:
            for got, wanted in zip(as_tuple(loss.grad(**(arguments | laid))), want_gradients, strict=True):
                np.testing.assert_array_equal(got, wanted, err_msg=layout)
        for name, x in laid.items():
            np.testing.assert_array_equal(x, before[name], err_msg=f"{layout}: {name} was modified")


@every_loss
@pytest.mark.parametrize("rows", [0, 1])
def test_empty_batches_and_batches_of_one(loss, rows):
    try:
        arguments = loss.defaults(rng_for(loss), {"N": rows, "...": (rows, 4)})
    except ValueError as refusal:
        pytest.skip(f"not defined for {rows} rows: {refusal}")
    options = terms_options(loss)
    terms = loss(**arguments, **options)
    if rows == 0 and loss.reducible and terms.size == 0:
        assert np.isnan(loss(**arguments)) and loss(**arguments, reduction="sum") == 0
    if loss.differentiable:
        for gradient in as_tuple(loss.grad(**arguments)):
            assert np.isfinite(gradient).all()


# -- symmetries ----------------------------------------------------------------------------------------------------


def symmetric(symmetry):
    return pytest.mark.parametrize("loss", over(l for l in LOSSES.values() if symmetry in l.symmetries))


searching = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def unbroken(loss, symmetry, seed):
    """An example whose options do not break the symmetry."""
    fixed = {option: loss.arguments[option].default for option in loss.symmetries[symmetry]}
    return loss.example(np.random.default_rng(seed), **fixed)


@symmetric("shift")
@searching
@given(seed=st.integers(0, 2**32), power=st.integers(0, 30))
def test_a_common_shift_of_a_row_changes_nothing_at_all(loss, seed, power):
    arguments = unbroken(loss, "shift", seed)
    name = loss.of[0]
    shifted = {**arguments, name: np.asarray(arguments[name]) + 2.0**power}
    np.testing.assert_array_equal(loss(**shifted, **terms_options(loss)), loss(**arguments, **terms_options(loss)))
    for got, want in zip(as_tuple(loss.grad(**shifted)), as_tuple(loss.grad(**arguments)), strict=True):
        np.testing.assert_array_equal(got, want)


@symmetric("row permutation")
@searching
@given(seed=st.integers(0, 2**32))
def test_permuted_rows_give_permuted_terms(loss, seed):
    arguments = unbroken(loss, "row permutation", seed)
    if loss.name == "info_nce" and arguments["labels"] is None:
        arguments["labels"] = np.arange(len(arguments["similarities"]))
    per_row = [
        n
        for n, a in loss.arguments.items()
        if a.is_array and a.declaration.names[0] in ("N", "...") and arguments[n] is not None
    ]
    count = len(np.asarray(arguments[per_row[0]]))
    if loss.arguments[per_row[0]].declaration.dims == "..." and "axis" in arguments:
        arguments["axis"] = -1
    order = np.random.default_rng(seed).permutation(count)
    permuted = {**arguments, **{n: np.asarray(arguments[n])[order] for n in per_row}}
    np.testing.assert_array_equal(
        loss(**permuted, **terms_options(loss)), loss(**arguments, **terms_options(loss))[order]
    )


@symmetric("class permutation")
@searching
@given(seed=st.integers(0, 2**32))
def test_permuted_classes_with_permuted_labels_give_the_same(loss, seed):
    arguments = unbroken(loss, "class permutation", seed)
    classes = np.asarray(arguments[real_arrays(loss, arguments)[0]]).shape[-1]
    order = np.random.default_rng(seed).permutation(classes)
    changed = dict(arguments)
    for name, argument in loss.arguments.items():
        value = arguments[name]
        if value is None or not argument.is_array:
            continue
        if getattr(argument.declaration, "below", None) == "C":
            legal = (value >= 0) & (value < classes)
            ignored = (
                legal & (value == arguments[argument.declaration.ignore]) if argument.declaration.ignore else ~legal
            )
            changed[name] = np.where(legal & ~ignored, np.argsort(order)[np.where(legal, value, 0)], value)
        elif argument.declaration.names[-1] == "C":
            changed[name] = np.asarray(value)[..., order]
    want, got = (loss(**a, **terms_options(loss)) for a in (arguments, changed))
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@symmetric("scale")
@searching
@given(seed=st.integers(0, 2**32), power=st.integers(-20, 20))
def test_a_common_positive_factor_changes_nothing(loss, seed, power):
    arguments = unbroken(loss, "scale", seed)
    name = loss.of[0]
    scaled = {**arguments, name: np.asarray(arguments[name]) * 2.0**power}
    np.testing.assert_allclose(
        loss(**scaled, **terms_options(loss)), loss(**arguments, **terms_options(loss)), rtol=1e-13
    )


# -- bad input -----------------------------------------------------------------------------------------------------


@every_loss_and_path
def test_bad_input_is_refused_by_name(loss, path):
    on_path = loss.path(path)
    seen = 0
    for name, what, arguments in loss.bad_calls(rng_for(loss)):
        with pytest.raises((ValueError, TypeError)) as refusal:
            on_path(**arguments)
            pytest.fail(f"{name} with {what} was accepted", pytrace=False)
        text = str(refusal.value)
        blamed = [name, *(n for n in loss.arguments if n in text)]
        assert any(text.startswith(n) for n in blamed), f"{name} with {what}: {text}"
        seen += 1
    assert seen
    with pytest.raises(TypeError, match="unexpected keyword"):
        loss(**loss.defaults(rng_for(loss)), no_such_option=1)


@every_differentiable_loss
def test_bad_cotangents_are_refused_by_name(loss):
    arguments = loss.example(rng_for(loss))
    for bad in (float("nan"), "abc", np.ones((3, 1, 4, 1, 5)), None):
        with pytest.raises((ValueError, TypeError), match=r"^cotangent"):
            loss.grad(**arguments, cotangent=bad)
