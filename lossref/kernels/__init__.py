"""The Numba CPU path of the primitives and of the fused losses.

A function NAME has a path "numba" exactly when the module ``lossref.kernels.NAME`` exists. Each such module
defines

    value(*arrays, **options)                      the output of a primitive; the N terms of a loss
    vjp(*arrays, cotangent, **options)             the gradient (a tuple for several differentiable arguments)
    value_and_vjp(*arrays, cotangent, **options)   both, in one sweep where one sweep gives both

What they share, from the bottom up:

    compilation          how a kernel is compiled and cached
    lanes                vectors of numbers that fill the registers: load, store, arithmetic
    exponential          e^x and tanh on lanes, by polynomial
    streaming_state      log-sum-exp as a monoid: the state (m, r), its merge, and one pass over a row
    exponents            the same sum held as mantissa and exponent, which needs no maximum
    states               arrays of states, merged by whoever has the parts of a row: public
    cross_entropy_of_a_row, cross_entropy_in_parts, softmax_in_parts
                         a loss of rows whose parts are with different threads, processes or machines
    writing              the last pass over a row: an elementwise formula, stored around the caches
    rows                 any axis, any strides, any dtype → rows; and the division of rows among threads

Nothing is imported here: ``import lossref.kernels`` costs nothing, and Numba comes in with the first
computation. Of the modules' contents these are public, as ``lossref.kernels.merge`` and so on:

    log_sum_exp_state    the states of the rows of an array
    merge                the states of unions
    log_sum_exp          from a state to its log-sum-exp
    softmax_of_part      from numbers and the state of their whole row to probabilities
"""

from importlib import import_module

_PUBLIC = ("log_sum_exp", "log_sum_exp_state", "merge", "softmax_of_part")


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(import_module("lossref.kernels.states"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_PUBLIC})
