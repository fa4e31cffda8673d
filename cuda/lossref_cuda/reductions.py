"""Sums, maxima and minima over a warp or a block. Every thread ends with the result, and the order in which
numbers are added never changes from run to run."""

import math

import numba
from numba import cuda

from lossref_cuda.instructions import device_function, real, shuffle_xor


@device_function
def add_exactly(total, lost, term):
    """total - lost is the running sum to twice the precision, terms of any sign and size (Knuth)."""
    new = total + term
    if abs(new) == math.inf:
        return new, lost  # the rounding error of an infinite sum would be inf - inf
    from_term = new - total
    error = (total - (new - from_term)) + (term - from_term)
    return new, lost - error


@device_function
def maximum_over_warp(value):
    step = 16
    while step > 0:
        other = shuffle_xor(value, step)
        if other > value:
            value = other
        step >>= 1
    return value


@device_function
def minimum_over_warp(value):
    step = 16
    while step > 0:
        other = shuffle_xor(value, step)
        if other < value:
            value = other
        step >>= 1
    return value


@device_function
def sum_over_lanes(value):
    """Of 32 numbers that need no compensation."""
    step = 16
    while step > 0:
        value = value + shuffle_xor(value, step)
        step >>= 1
    return value


@device_function
def sum_over_warp(total, lost):
    """The sum of total - lost over 32 lanes, again as such a pair."""
    step = 16
    while step > 0:
        other_total = shuffle_xor(total, step)
        other_lost = shuffle_xor(lost, step)
        total, lost = add_exactly(total, lost + other_lost, other_total)
        step >>= 1
    return total, lost


@device_function
def maximum_over_block(value):
    value = maximum_over_warp(value)
    values = cuda.shared.array(32, numba.float64)
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        values[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    if lane < cuda.blockDim.x >> 5:
        value = real(value, values[lane])
    value = maximum_over_warp(value)
    cuda.syncthreads()
    return value


@device_function
def minimum_over_block(value):
    """Of integers: a position in the row."""
    value = minimum_over_warp(value)
    values = cuda.shared.array(32, numba.int64)
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        values[cuda.threadIdx.x >> 5] = value
    cuda.syncthreads()
    if lane < cuda.blockDim.x >> 5:
        value = values[lane]
    value = minimum_over_warp(value)
    cuda.syncthreads()
    return value


@device_function
def sum_over_block(total, lost):
    total, lost = sum_over_warp(total, lost)
    totals = cuda.shared.array(32, numba.float64)
    losts = cuda.shared.array(32, numba.float64)
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        totals[cuda.threadIdx.x >> 5] = total
        losts[cuda.threadIdx.x >> 5] = lost
    cuda.syncthreads()
    warp_total = real(total, 0.0)
    warp_lost = real(total, 0.0)
    if lane < cuda.blockDim.x >> 5:
        warp_total = real(total, totals[lane])
        warp_lost = real(total, losts[lane])
    total, lost = sum_over_warp(warp_total, warp_lost)
    cuda.syncthreads()
    return total, lost


# A team is who works together on a row: 1 thread, a warp of 32, or a BLOCK. The compiler decides the
# branches.

BLOCK = 1024


@device_function
def sum_over_team(team, total, lost):
    if team == 1:
        return total, lost
    if team == 32:
        return sum_over_warp(total, lost)
    return sum_over_block(total, lost)


@device_function
def maximum_over_team(team, value):
    if team == 1:
        return value
    if team == 32:
        return maximum_over_warp(value)
    return maximum_over_block(value)


@device_function
def minimum_over_team(team, value):
    if team == 1:
        return value
    if team == 32:
        return minimum_over_warp(value)
    return minimum_over_block(value)
