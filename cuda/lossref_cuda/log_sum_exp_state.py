"""The running state of a log-sum-exp, and how two of them merge.

A set of numbers is summarised by the pair (m, r) with

    sum of e**x  =  e**m * (1 + r),        m the largest x, r the sum of e**(x - m) over all the others.

The 1 of the maximum itself is left out of r. That is the whole trick: log-sum-exp is m + log1p(r), and where
the maximum leads by 40, r is 4e-18 and log1p(r) is too, while 1 + r would have rounded to 1 and its log to 0.

While one thread walks its elements it keeps r relative to a reference that lags behind the maximum,

    r = sum over the losers of e**(x - reference),        reference <= m <= reference + SLACK,

because then a new maximum costs nothing: of the two, the old maximum and the new number, the *loser* is
added. One exponential an element, whoever wins. Only when the maximum has run away by more than SLACK is r
rescaled; rescaling at every new maximum instead would round everything that was summed before, every time,
and a slowly rising row of a hundred thousand would lose five digits.

The sum is compensated (Kahan): `lost` is what the last addition rounded away. Four additions instead of one
are free in a loop that waits for memory.

NaN: comparisons with NaN are false, so a NaN always loses, is added, and r is NaN from then on. +inf wins,
and then inf - inf makes r NaN at the end. Masks: -inf loses against everything and adds e**-inf = 0. The
state of no numbers at all, or of masks only, is (-inf, 0), and it is the identity of the merge.
"""

import math

import numba
from numba import cuda

from lossref_cuda.instructions import count_lanes, device_function, exp, fast_exp, load, load4, lowest, real
from lossref_cuda.reductions import maximum_over_warp, sum_over_lanes

SLACK = 8.0


@device_function
def empty(like):
    """maximum, r, lost, reference of nothing. A finite reference: -inf minus it is -inf, not NaN."""
    return real(like, -math.inf), real(like, 0.0), real(like, 0.0), lowest(like)


@device_function
def add(r, lost, term):
    """Kahan: r - lost is the sum to twice the precision."""
    term = term - lost
    total = r + term
    lost = (total - r) - term
    return total, lost


@device_function
def lowered(r, difference):
    """r e**difference. The two factors of e**(difference / 2) keep the digits that the product has where e**difference
    itself lies below the normal numbers and has few."""
    half = exp(real(r, 0.5) * difference)
    return r * half * half


@device_function
def follow(m, r, lost, reference):
    """Move the reference up to the maximum where it lags too far behind."""
    if m - reference > real(m, SLACK):
        r = lowered(r, reference - m)
        lost = lowered(lost, reference - m)
        reference = m
    return r, lost, reference


@device_function
def absorb(m, r, lost, reference, x):
    """The state after one more number."""
    loser = x
    if x > m:
        loser = m
        m = x
    r, lost = add(r, lost, exp(loser - reference))
    r, lost, reference = follow(m, r, lost, reference)
    return m, r, lost, reference


@device_function
def absorb4(m, r, lost, reference, a, b, c, d):
    """Four more numbers: four plays, one addition to the compensated sum, one look at the reference."""
    if a > m:
        a, m = m, a
    if b > m:
        b, m = m, b
    if c > m:
        c, m = m, c
    if d > m:
        d, m = m, d
    # The reference must have caught up *before* the losers are raised against it.
    r, lost, reference = follow(m, r, lost, reference)
    pair = fast_exp(a - reference) + fast_exp(b - reference)
    other = fast_exp(c - reference) + fast_exp(d - reference)
    r, lost = add(r, lost, pair + other)
    return m, r, lost, reference


@device_function
def settle(m, r, lost, reference):
    """(m, r) of the walk: r relative to the maximum itself."""
    if m == -math.inf:
        return m, r  # 0, or NaN where a NaN was met
    return m, lowered(r - lost, reference - m)


@device_function
def merge(m1, r1, m2, r2):
    """(m1, r1) and (m2, r2) as one, whichever comes first."""
    if m2 > m1 or (m2 == m1 and r2 > r1):
        m1, m2 = m2, m1
        r1, r2 = r2, r1
    if m2 == -math.inf:
        return m1, r1 + r2  # nothing but masks on one side: r2 is 0, or the NaN that must not get lost
    return m1, r1 + lowered(real(m1, 1.0) + r2, m2 - m1)


@device_function
def finite_or_zero(m):
    """What to subtract from x before exp: in a row of masks, x - m would be -inf minus -inf."""
    if m == -math.inf:
        return real(m, 0.0)
    return m


@device_function
def merge_over_warp(m, r):
    """Every lane ends with the state of all 32, and with the same bits. First the maximum, then one exponential a
    lane: merging two by two would take five. Where several lanes have the maximum, one of them is left out."""
    top = maximum_over_warp(m)
    if top == -math.inf:
        return top, sum_over_lanes(r)  # 0, or the NaN that must not get lost
    leads = m == top
    rest = r if leads else lowered(real(m, 1.0) + r, m - top)
    return top, real(m, count_lanes(leads) - 1) + sum_over_lanes(rest)


@device_function
def merge_over_block(m, r):
    """Every thread ends with the state of the whole block (one dimension, a multiple of 32 threads)."""
    m, r = merge_over_warp(m, r)
    maxima = cuda.shared.array(32, numba.float64)
    rests = cuda.shared.array(32, numba.float64)
    lane = cuda.threadIdx.x & 31
    if lane == 0:
        maxima[cuda.threadIdx.x >> 5] = m
        rests[cuda.threadIdx.x >> 5] = r
    cuda.syncthreads()
    # Each warp merges the warps' states for itself: cheaper than sending the result around again.
    other_m = real(m, -math.inf)
    other_r = real(m, 0.0)
    if lane < cuda.blockDim.x >> 5:
        other_m = real(m, maxima[lane])
        other_r = real(m, rests[lane])
    m, r = merge_over_warp(other_m, other_r)
    cuda.syncthreads()  # the two arrays may now be used again
    return m, r


@device_function
def walk(x, row, start, stop, first, step):
    """(m, r) of x[row, start + first : stop : step]."""
    m, r, lost, reference = empty(x)
    j = start + first
    while j < stop:
        m, r, lost, reference = absorb(m, r, lost, reference, load(x, row, j))
        j += step
    return settle(m, r, lost, reference)


@device_function
def aligned_part(x, row, start, stop):
    """The largest piece of x[row, start:stop] that begins and ends on a multiple of four elements in
    memory."""
    begin = start + (-(row * x.shape[1] + start) & 3)
    if begin > stop:
        begin = stop
    return begin, begin + ((stop - begin) & -4)


@device_function
def walk4(x, row, start, stop, first, step):
    """(m, r) of this thread's share of x[row, start:stop], four neighbours at a time; step is at least 4."""
    m, r, lost, reference = empty(x)
    begin, end = aligned_part(x, row, start, stop)
    if start + first < begin:
        m, r, lost, reference = absorb(m, r, lost, reference, load(x, row, start + first))
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(x, row, j)
        m, r, lost, reference = absorb4(m, r, lost, reference, a, b, c, d)
        j += 4 * step
    if end + first < stop:
        m, r, lost, reference = absorb(m, r, lost, reference, load(x, row, end + first))
    return settle(m, r, lost, reference)


@device_function
def merge_over_team(team, m, r):
    """Over the threads that share a row: 1, a warp of 32, or a block; see `reductions`."""
    if team == 1:
        return m, r
    if team == 32:
        return merge_over_warp(m, r)
    return merge_over_block(m, r)
