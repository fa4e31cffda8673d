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
    writing              the last pass over a row: an elementwise formula, stored around the caches
    rows                 any axis, any strides, any dtype → rows; and the division of rows among threads

Nothing is imported here: ``import lossref.kernels`` costs nothing, and Numba comes in with the first
computation.
"""
