"""Cross-entropy of logits and labels, value and gradient in one kernel.

With u = c tanh(x / c) if softcap = c, else u = x; p = softmax(u); y the label; w the class weights; a row
gives 0 if its label is ignored, else

    (1 - eps) w_y (-log p_y)  +  eps/C sum_c w_c (-log p_c)  +  zeta w_y lse(u)**2.

The label is left out of the sum. With L' the log-sum-exp of all *other* classes and d = L' - u_y,

    -log p_y = softplus(d)        1 - p_y = sigmoid(d)

so neither a subtraction of two large numbers nor p_y - 1 ever happens: a right answer that leads by 40 costs
e**-40, a wrong one that trails by 750 costs 750, and 1e8 on every logit changes nothing.

Rungs, from the obvious kernel to the fast one, each with its reason:

    one_thread_per_row           the definition: one thread walks a row, loads do not coalesce
    one_warp_per_row             32 lanes read 32 neighbours; shuffles merge the states
    one_warp_per_row_vectorised  128-bit loads and stores, and ex2.approx: a third of the instructions
    block_per_row_online         a vocabulary-sized row keeps a whole block busy
    row_on_chip                  the same over a copy in shared memory: one read, one write, the least there
                                 can be. Up to 47 KB a row
    vectorised                   a block a row, by 128-bit loads and stores
    long_row_split_over_blocks   several blocks a row, states merged in a fixed order; for few long rows

The vectorised ones and the last are compiled once more without the options: half of the instructions, and fewer
registers.

A walk for the state, one more for the gradient while the row is still in the cache, one more where there is
label smoothing. The gradient at the label is written from d, never read back and corrected.

A label outside [0, C) that is not ignore_index makes its own row NaN, as do NaN and +inf among its logits.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from lossref_cuda import reduction_of_terms
from lossref_cuda.device_arrays import (
    Call,
    arithmetic_dtype,
    empty_result,
    lives_on_device,
    starts_on_16_bytes,
)
from lossref_cuda.instructions import (
    as_row,
    device_function,
    exp,
    fast_exp,
    load,
    load4,
    load_at,
    log1p,
    real,
    store,
    store4,
    store_at,
    tanh,
    wait_for_warp,
)
from lossref_cuda.launching import (
    CHIP_BYTES,
    THREADS,
    bytes_on_chip,
    chosen,
    configured,
    geometry,
    pieces_for,
    rung_below_a_block,
)
from lossref_cuda.log_sum_exp_state import (
    absorb,
    absorb4,
    aligned_part,
    empty,
    merge,
    merge_over_block,
    merge_over_team,
    settle,
)
from lossref_cuda.logsumexp import merge_pieces
from lossref_cuda.reduction_of_terms import Reduction, of_nothing
from lossref_cuda.reductions import BLOCK, add_exactly, sum_over_team

# ============================================================================================================
# Reference
# ============================================================================================================


def reference(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Terms and gradient in NumPy, without the options."""
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    m = others.max(axis=1)
    s = np.exp(others - m[:, None]).sum(axis=1)
    d = (m - logits[rows, labels]) + np.log(s)
    terms = np.maximum(d, 0) + np.log1p(np.exp(-np.abs(d)))
    miss = np.where(d > 0, 1 / (1 + np.exp(-np.abs(d))), np.exp(-np.abs(d)) / (1 + np.exp(-np.abs(d))))
    gradient = np.exp(others - m[:, None]) / s[:, None] * miss[:, None]
    gradient[rows, labels] = -miss
    return terms, gradient


# ============================================================================================================
# Rungs
# ============================================================================================================
# Every kernel takes the logits (N, C), the labels (N,), the class weights (C,) if `weighted`, the cotangent
# of the terms, (N,) or (1,) for all rows, the terms (N,) and, if `wanted`, the gradient (N, C).


@device_function
def capped(x, cap, inverse):
    """c tanh(x / c); cap 0 means none. Infinities stay what they are: a mask is applied after the cap."""
    if cap > real(cap, 0.0) and abs(x) < math.inf:
        return cap * tanh(x * inverse)
    return x


@device_function
def slope(x, cap, inverse):
    """The derivative of `capped`: 1 / cosh(x / c)**2, without 1 - tanh**2."""
    one = real(cap, 1.0)
    if cap > real(cap, 0.0):
        e = exp(real(cap, -2.0) * abs(x * inverse))
        return real(cap, 4.0) * e / ((one + e) * (one + e))
    return one


@device_function
def weight_of(weight, weighted, logits, j):
    if weighted:
        return real(logits, load_at(weight, j))
    return real(logits, 1.0)


@device_function
def rival(logits, row, j, label, cap, inverse):
    """The capped logit, and a mask at the label: the walk is over the others."""
    if j == label:
        return real(logits, -math.inf)
    return capped(load(logits, row, j), cap, inverse)


@device_function
def walk_rivals(logits, row, label, cap, inverse, start, stop, first, step):
    m, r, lost, reference = empty(logits)
    j = start + first
    while j < stop:
        m, r, lost, reference = absorb(m, r, lost, reference, rival(logits, row, j, label, cap, inverse))
        j += step
    return settle(m, r, lost, reference)


@device_function
def walk_rivals4(logits, row, label, cap, inverse, start, stop, first, step):
    """The same, four neighbours at a time."""
    m, r, lost, reference = empty(logits)
    begin, end = aligned_part(logits, row, start, stop)
    masked = real(logits, -math.inf)
    if start + first < begin:
        x = rival(logits, row, start + first, label, cap, inverse)
        m, r, lost, reference = absorb(m, r, lost, reference, x)
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(logits, row, j)
        a, b = capped(a, cap, inverse), capped(b, cap, inverse)
        c, d = capped(c, cap, inverse), capped(d, cap, inverse)
        if j <= label and label < j + 4:
            a = masked if j == label else a
            b = masked if j + 1 == label else b
            c = masked if j + 2 == label else c
            d = masked if j + 3 == label else d
        m, r, lost, reference = absorb4(m, r, lost, reference, a, b, c, d)
        j += 4 * step
    if end + first < stop:
        x = rival(logits, row, end + first, label, cap, inverse)
        m, r, lost, reference = absorb(m, r, lost, reference, x)
    return settle(m, r, lost, reference)


@device_function
def softplus(d):
    """log(1 + e**d), to full relative accuracy for both signs."""
    if d > real(d, 0.0):
        return d + log1p(exp(-d))
    return log1p(exp(d))


@device_function
def sigmoid(d):
    if d > real(d, 0.0):
        return real(d, 1.0) / (real(d, 1.0) + exp(-d))
    e = exp(d)
    return e / (real(d, 1.0) + e)


@device_function
def target_logit(logits, row, label, cap, inverse):
    """The label's logit. The walk sees only the others, so an invalid +inf has to be caught here."""
    target = capped(load(logits, row, label), cap, inverse)
    if target == math.inf:
        return real(logits, math.nan)
    return target


@device_function
def smoothing_sums(logits, weight, weighted, row, m, cap, inverse, start, stop, first, step):
    """sum_c w_c (m - u_c) and sum_c w_c: terms of one sign, which is why m must be known first."""
    spread = real(logits, 0.0)
    spread_lost = real(logits, 0.0)
    total = real(logits, 0.0)
    total_lost = real(logits, 0.0)
    j = start + first
    while j < stop:
        w = weight_of(weight, weighted, logits, j)
        if w != real(w, 0.0):  # a masked class of weight 0 costs nothing, not 0 * inf
            u = capped(load(logits, row, j), cap, inverse)
            spread, spread_lost = add_exactly(spread, spread_lost, w * (m - u))
            total, total_lost = add_exactly(total, total_lost, w)
        j += step
    return spread, spread_lost, total, total_lost


@device_function
def term_of(logits, surprise, w, lse, spread, total, log_norm, label_smoothing, z_loss_weight):
    eps = real(logits, label_smoothing)
    zeta = real(logits, z_loss_weight)
    pull = (real(logits, 1.0) - eps) * w
    term = real(logits, 0.0)
    if pull != term:
        term = pull * surprise
    if label_smoothing > 0.0:
        term += (spread + total * log_norm) * (eps / real(logits, logits.shape[1]))
    if z_loss_weight > 0.0:
        term += zeta * w * (lse * lse)
    return term


@device_function
def entry(e, w_j, r, share, smooth, total):
    """d term / d u_j for a class that is not the label, e = e**(u_j - m); share and smooth contain 1 / (1 + r).

    1 - p_j = ((1 - e) + r) / (1 + r): at the maximum e is 1 and what is left is r.
    """
    g = share * e
    if smooth > real(e, 0.0):
        g += smooth * (e * (total - w_j) - w_j * ((real(e, 1.0) - e) + r))
    return g


@device_function
def write_gradient(
    logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total, kappa,
    cap, inverse, start, stop, first, step,
):  # fmt: skip
    j = start + first
    while j < stop:
        x = load(logits, at, j)
        g = at_label
        if j != label:
            w_j = weight_of(weight, weighted, logits, j)
            g = entry(exp(capped(x, cap, inverse) - m), w_j, r, share, smooth, total)
        store(gradient, row, j, kappa * g * slope(x, cap, inverse))
        j += step


@device_function
def one_entry(logits, weight, weighted, j, x, m, r, share, smooth, total, kappa, cap, inverse):
    w_j = weight_of(weight, weighted, logits, j)
    g = entry(fast_exp(capped(x, cap, inverse) - m), w_j, r, share, smooth, total)
    return kappa * g * slope(x, cap, inverse)


@device_function
def write_gradient4(
    logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total, kappa,
    cap, inverse, start, stop, first, step,
):  # fmt: skip
    """The same with 128-bit accesses; what is not aligned at the two ends goes one by one. Four entries do not ask
    whether the label is among them: the thread that has written it writes it again."""
    begin, end = aligned_part(logits, at, start, stop)
    if start + first < begin:
        write_gradient(
            logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total, kappa,
            cap, inverse, start, begin, first, step,
        )  # fmt: skip
    mine = begin <= label and label < end and ((label - begin) >> 2) & (step - 1) == first
    again = kappa * at_label
    if mine:  # the logit, before it may be overwritten
        again *= slope(load(logits, at, label), cap, inverse)
    j = begin + 4 * first
    while j < end:
        a, b, c, d = load4(logits, at, j)
        a = one_entry(logits, weight, weighted, j, a, m, r, share, smooth, total, kappa, cap, inverse)
        b = one_entry(logits, weight, weighted, j + 1, b, m, r, share, smooth, total, kappa, cap, inverse)
        c = one_entry(logits, weight, weighted, j + 2, c, m, r, share, smooth, total, kappa, cap, inverse)
        d = one_entry(logits, weight, weighted, j + 3, d, m, r, share, smooth, total, kappa, cap, inverse)
        store4(gradient, row, j, a, b, c, d)
        j += 4 * step
    if mine:
        store(gradient, row, label, again)
    if end + first < stop:
        write_gradient(
            logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total, kappa,
            cap, inverse, end, stop, first, step,
        )  # fmt: skip


@device_function
def fill_row(terms, gradient, wanted, row, number, start, stop, first, step):
    """An ignored row is 0, an impossible label NaN: the value, and every entry of the gradient."""
    if start + first == 0:
        store_at(terms, row, number)
    if wanted:
        j = start + first
        while j < stop:
            store(gradient, row, j, number)
            j += step


@device_function
def finish_row(
    logits, weight, cotangent, terms, gradient, wanted, weighted, label_smoothing, softcap, z_loss_weight,
    at, row, label, target, m, r, start, stop, first, step, team, wide,
):  # fmt: skip
    """From the label's logit and the state (m, r) of its rivals: the term, and this thread's share of the
    gradient in [start, stop). The logits are read from their row `at`, results go to their `row`."""
    one = real(logits, 1.0)
    cap = real(logits, softcap)
    inverse = one / cap if softcap > 0.0 else cap
    d = (m - target) + log1p(r)  # L' - u_y, large numbers subtracted first
    surprise = softplus(d)  # -log p_y
    miss = sigmoid(d)  # 1 - p_y
    m, r = merge(m, r, target, real(logits, 0.0))  # and now the state of the whole row
    log_norm = log1p(r)
    lse = m + log_norm

    w = weight_of(weight, weighted, logits, label)
    spread = real(logits, 0.0)
    total = real(logits, 0.0)
    if label_smoothing > 0.0:
        spread, spread_lost, total, total_lost = smoothing_sums(
            logits, weight, weighted, at, m, cap, inverse, 0, logits.shape[1], first, step
        )
        spread, spread_lost = sum_over_team(team, spread, spread_lost)
        total, total_lost = sum_over_team(team, total, total_lost)
        spread -= spread_lost
        total -= total_lost
    if start + first == 0:
        term = term_of(logits, surprise, w, lse, spread, total, log_norm, label_smoothing, z_loss_weight)
        store_at(terms, row, term)

    if wanted:
        kappa = real(logits, load_at(cotangent, row if cotangent.shape[0] > 1 else 0))
        eps = real(logits, label_smoothing)
        eps_over_c = eps / real(logits, logits.shape[1]) if label_smoothing > 0.0 else real(logits, 0.0)
        from_z = real(logits, 2.0 * z_loss_weight) * w * lse if z_loss_weight > 0.0 else real(logits, 0.0)
        p_y = exp(target - m) / (one + r)
        at_label = -(one - eps) * w * miss + from_z * p_y + eps_over_c * (p_y * (total - w) - w * miss)
        share = ((one - eps) * w + from_z) / (one + r)
        smooth = eps_over_c / (one + r)
        if team == 32:
            wait_for_warp()
        if wide:
            write_gradient4(
                logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total,
                kappa, cap, inverse, start, stop, first, step,
            )  # fmt: skip
        else:
            write_gradient(
                logits, at, weight, weighted, gradient, row, label, m, r, share, at_label, smooth, total,
                kappa, cap, inverse, start, stop, first, step,
            )  # fmt: skip


@device_function
def whole_row(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight, at, row, first, step, team, wide,
):  # fmt: skip
    """Everything about one row, by the `team` of threads that share it.

    The gradient may be written over the logits: what a thread needs of its neighbours' entries, the label's
    logit and the state, it has before any of them passes the barrier, of the merge where the team is a block.
    """
    columns = logits.shape[1]
    label = labels[row]
    if label == ignore_index:
        fill_row(terms, gradient, wanted, row, real(logits, 0.0), 0, columns, first, step)
    elif label < 0 or label >= columns:
        fill_row(terms, gradient, wanted, row, real(logits, math.nan), 0, columns, first, step)
    else:
        cap = real(logits, softcap)
        inverse = real(logits, 1.0) / cap if softcap > 0.0 else cap
        target = target_logit(logits, at, label, cap, inverse)
        if wide:
            m, r = walk_rivals4(logits, at, label, cap, inverse, 0, columns, first, step)
        else:
            m, r = walk_rivals(logits, at, label, cap, inverse, 0, columns, first, step)
        m, r = merge_over_team(team, m, r)
        finish_row(
            logits, weight, cotangent, terms, gradient, wanted, weighted, label_smoothing, softcap,
            z_loss_weight, at, row, label, target, m, r, 0, columns, first, step, team, wide,
        )  # fmt: skip


@cuda.jit
def one_thread_per_row(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    row = cuda.grid(1)
    if row < logits.shape[0]:
        whole_row(
            logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index,
            label_smoothing, softcap, z_loss_weight, row, row, 0, 1, 1, False,
        )  # fmt: skip


@device_function
def row_of_this_warp(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight, wide,
):  # fmt: skip
    row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    if row < logits.shape[0]:
        whole_row(
            logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index,
            label_smoothing, softcap, z_loss_weight, row, row, cuda.threadIdx.x, 32, 32, wide,
        )  # fmt: skip


@cuda.jit
def one_warp_per_row(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    row_of_this_warp(
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, False,
    )  # fmt: skip


@cuda.jit
def one_warp_per_row_vectorised(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    row_of_this_warp(
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, True,
    )  # fmt: skip


@cuda.jit
def one_warp_per_row_vectorised_without_options(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    row_of_this_warp(
        logits, labels, weight, cotangent, terms, gradient, wanted, False, ignore_index, 0.0, 0.0, 0.0,
        True,
    )  # fmt: skip


@cuda.jit
def block_per_row_online(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    whole_row(
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, cuda.blockIdx.x, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK, False,
    )  # fmt: skip


@cuda.jit
def vectorised(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    whole_row(
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, cuda.blockIdx.x, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK, True,
    )  # fmt: skip


@cuda.jit
def vectorised_without_options(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    whole_row(
        logits, labels, weight, cotangent, terms, gradient, wanted, False, ignore_index, 0.0,
        0.0, 0.0, cuda.blockIdx.x, cuda.blockIdx.x, cuda.threadIdx.x, THREADS, BLOCK, True,
    )  # fmt: skip


@cuda.jit
def row_on_chip(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight,
):  # fmt: skip
    """The walks of block_per_row_online, over a copy in shared memory."""
    row = cuda.blockIdx.x
    step = THREADS
    chip = as_row(cuda.shared.array(0, logits.dtype), logits.shape[1])  # as many bytes as the launch asks for
    j = cuda.threadIdx.x
    while j < logits.shape[1]:
        store(chip, 0, j, load(logits, row, j))
        j += step
    cuda.syncthreads()  # the label's logit is everybody's
    whole_row(
        chip, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, 0, row, cuda.threadIdx.x, THREADS, BLOCK, False,
    )  # fmt: skip


# ---- long_row_split_over_blocks: the states of the pieces, then everything else ----


@cuda.jit
def summarise_rivals(logits, labels, softcap, pieces_m, pieces_r, length):
    """Block (piece, row) leaves the state of its piece, without the label."""
    cap = real(logits, softcap)
    inverse = real(logits, 1.0) / cap if softcap > 0.0 else cap
    row = cuda.blockIdx.y
    while row < logits.shape[0]:
        start = cuda.blockIdx.x * length
        stop = min(start + length, logits.shape[1])
        m, r = walk_rivals4(logits, row, labels[row], cap, inverse, start, stop, cuda.threadIdx.x, THREADS)
        m, r = merge_over_block(m, r)
        if cuda.threadIdx.x == 0:
            store(pieces_m, row, cuda.blockIdx.x, m)
            store(pieces_r, row, cuda.blockIdx.x, r)
        row += cuda.gridDim.y


@device_function
def rest_of_piece(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight, pieces_m, pieces_r, length,
):  # fmt: skip
    """What is left to do once the pieces are summarised."""
    row = cuda.blockIdx.y
    while row < logits.shape[0]:
        start = cuda.blockIdx.x * length
        stop = min(start + length, logits.shape[1])
        label = labels[row]
        if label == ignore_index or label < 0 or label >= logits.shape[1]:
            number = real(logits, 0.0) if label == ignore_index else real(logits, math.nan)
            fill_row(terms, gradient, wanted, row, number, start, stop, cuda.threadIdx.x, THREADS)
        else:
            m, r = merge_pieces(pieces_m, pieces_r, row)
            cap = real(logits, softcap)
            inverse = real(logits, 1.0) / cap if softcap > 0.0 else cap
            target = target_logit(logits, row, label, cap, inverse)
            finish_row(
                logits, weight, cotangent, terms, gradient, wanted, weighted, label_smoothing, softcap,
                z_loss_weight, row, row, label, target, m, r, start, stop, cuda.threadIdx.x, THREADS, BLOCK, True,
            )  # fmt: skip
        row += cuda.gridDim.y


@cuda.jit
def finish_piece(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight, pieces_m, pieces_r, length,
):  # fmt: skip
    rest_of_piece(
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
        softcap, z_loss_weight, pieces_m, pieces_r, length,
    )  # fmt: skip


@cuda.jit
def finish_piece_without_options(
    logits, labels, weight, cotangent, terms, gradient, wanted, weighted, ignore_index, label_smoothing,
    softcap, z_loss_weight, pieces_m, pieces_r, length,
):  # fmt: skip
    rest_of_piece(
        logits, labels, weight, cotangent, terms, gradient, wanted, False, ignore_index, 0.0,
        0.0, 0.0, pieces_m, pieces_r, length,
    )  # fmt: skip


# ============================================================================================================
# Launch
# ============================================================================================================

RUNGS = (
    "one_thread_per_row",
    "one_warp_per_row",
    "one_warp_per_row_vectorised",
    "block_per_row_online",
    "row_on_chip",
    "vectorised",
    "long_row_split_over_blocks",
)
KERNELS = {
    "one_thread_per_row": (one_thread_per_row,),
    "one_warp_per_row": (one_warp_per_row,),
    "one_warp_per_row_vectorised": (one_warp_per_row_vectorised, one_warp_per_row_vectorised_without_options),
    "block_per_row_online": (block_per_row_online,),
    "row_on_chip": (row_on_chip,),
    "vectorised": (vectorised, vectorised_without_options),
    "long_row_split_over_blocks": (summarise_rivals, finish_piece, finish_piece_without_options),
    "reduction": reduction_of_terms.KERNELS,
}


SPLIT = "long_row_split_over_blocks"


def best_rung(rows: int, columns: int, itemsize: int, aligned: bool = True, in_place: bool = False) -> str:
    """Few classes, or many rows: a thread or a warp a row. Else a block; for few rows of a vocabulary, several. A copy
    on the chip saves reading the row again, which the cache serves, and is no help where the loads are wide."""
    if below := rung_below_a_block(rows, columns, aligned):
        return below
    if not aligned:
        return "row_on_chip" if columns * itemsize <= CHIP_BYTES else "block_per_row_online"
    return SPLIT if rows < 64 and columns >= 65536 and not in_place else "vectorised"


def launch(
    call: Call,
    logits: Any,
    labels: Any,
    weight: Any,
    cotangent: Any,
    terms: Any,
    gradient: Any,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    softcap: float | None = None,
    z_loss_weight: float = 0.0,
    rung: str | None = None,
    pieces: tuple[int, int] | None = None,
) -> None:
    """Run one rung on kernel views. `weight` and `gradient` (with `cotangent`) may be None; `gradient` may be the
    logits themselves, except where several blocks share a row: one would overwrite what another has yet to read."""
    rows, columns = logits.shape
    aligned = starts_on_16_bytes(logits) and (gradient is None or starts_on_16_bytes(gradient))
    itemsize = np.dtype(logits.dtype).itemsize
    in_place = gradient is logits
    rung = chosen(rung or best_rung(rows, columns, itemsize, aligned, in_place), RUNGS, aligned)
    if in_place and rung == SPLIT:
        raise ValueError(f"rung {SPLIT!r} cannot write the gradient over the logits")
    number = arithmetic_dtype(np.dtype(logits.dtype))
    weighted, wanted = weight is not None, gradient is not None
    weight = weight if weighted else call.new((1,), number)
    cotangent = cotangent if wanted else call.new((1,), number)
    gradient = gradient if wanted else call.new((1, 1), np.dtype(logits.dtype))
    arguments = (
        logits, labels, weight, cotangent, terms, gradient, wanted, weighted, int(ignore_index),
        float(label_smoothing), float(softcap or 0.0), float(z_loss_weight),
    )  # fmt: skip
    ordinary = not (weighted or label_smoothing or softcap or z_loss_weight)
    if rung == SPLIT:
        count, length = pieces or pieces_for(rows, columns)
        pieces_m, pieces_r = call.new((rows, count), number), call.new((rows, count), number)
        grid = (count, min(rows, 65535))
        finish = finish_piece_without_options if ordinary else finish_piece
        configured(summarise_rivals, grid, THREADS, call.stream)(
            logits, labels, float(softcap or 0.0), pieces_m, pieces_r, length
        )
        configured(finish, grid, THREADS, call.stream)(*arguments, pieces_m, pieces_r, length)
        return
    on_chip = bytes_on_chip(columns, itemsize) if rung == "row_on_chip" else 0
    kernel = KERNELS[rung][-1 if ordinary else 0]
    configured(kernel, *geometry(rung, rows), call.stream, on_chip)(*arguments)


def _prepared(call: Call, logits: Any, labels: Any, weight: Any) -> tuple:
    rows, dtype, _ = call.rows(logits)
    if not call.on_device:
        labels = np.asarray(labels).astype(np.int64, copy=False)
        weight = None if weight is None else np.asarray(weight).astype(arithmetic_dtype(dtype), copy=False)
    return rows, dtype, call.vector(labels), None if weight is None else call.vector(weight)


def _run(logits, labels, cotangent, weight, want_gradient, options, out=None):
    on_device = [cotangent] if lives_on_device(cotangent) else []
    call = Call(logits, labels, weight, *on_device, out, stream=options.pop("stream", None))
    rows, dtype, labels, weight = _prepared(call, logits, labels, weight)
    count = rows.shape[0]
    if count == 0:
        return empty_result(call, (0,), dtype), empty_result(call, tuple(rows.shape), dtype, out)
    terms = call.new((count,), dtype)
    gradient = weights = None
    if want_gradient:
        weights = call.numbers(cotangent, dtype)
        gradient = call.output(out, tuple(rows.shape), dtype, reads=[rows, labels, weight, weights])
    launch(call, rows, labels, weight, weights, terms, gradient, **options)
    values = call.result(terms, dtype, (count,))
    return values, call.result(gradient, dtype, tuple(rows.shape), out=out) if want_gradient else None


def value(logits: Any, labels: Any, *, weight: Any = None, **options: Any) -> Any:
    """The N terms. Options: ignore_index, label_smoothing, softcap, z_loss_weight; rung, stream."""
    return _run(logits, labels, None, weight, False, options)[0]


def vjp(
    logits: Any, labels: Any, *, cotangent: Any, weight: Any = None, out: Any = None, **options: Any
) -> Any:  # fmt: skip
    """d (sum of cotangent * terms) / d logits. `out` may be the logits."""
    return _run(logits, labels, cotangent, weight, True, options, out)[1]


def value_and_vjp(
    logits: Any, labels: Any, *, cotangent: Any, weight: Any = None, out: Any = None, **options: Any
) -> tuple[Any, Any]:  # fmt: skip
    """Both, from one kernel; `out` is for the gradient."""
    return _run(logits, labels, cotangent, weight, True, options, out)


def _reduced(logits, labels, reduction, divisor, cotangent, weight, want_gradient, options, out=None):
    if reduction == "none":
        return _run(logits, labels, cotangent, weight, want_gradient, options, out)
    there = [cotangent] if lives_on_device(cotangent) else []
    call = Call(logits, labels, weight, *there, out, stream=options.pop("stream", None))
    rows, dtype, labels, weight = _prepared(call, logits, labels, weight)
    count, columns = rows.shape
    if count == 0:
        return of_nothing(call, reduction, dtype), empty_result(call, tuple(rows.shape), dtype, out)
    ignore_index = int(options.get("ignore_index", -100))
    whole = Reduction(call, labels, columns, weight, ignore_index, dtype, reduction, divisor)
    terms = call.new((count,), arithmetic_dtype(dtype))  # not yet rounded to the caller's dtype
    gradient = scale = None
    if want_gradient:
        gradient = call.output(out, tuple(rows.shape), dtype, reads=[rows, labels, weight])
        scale = whole.scale(call.numbers(cotangent, dtype))
    launch(call, rows, labels, weight, scale, terms, gradient, **options)
    values = call.result(whole.result(terms), dtype, ())
    return values, call.result(gradient, dtype, tuple(rows.shape), out=out) if want_gradient else None


def reduced_value(
    logits: Any,
    labels: Any,
    *,
    reduction: str = "mean",
    divisor: float | None = None,
    weight: Any = None,
    **options: Any,
) -> Any:
    """The reduced loss, without the host ever waiting: an array of no dimension on the device."""
    return _reduced(logits, labels, reduction, divisor, 1.0, weight, False, options)[0]


def reduced_value_and_vjp(
    logits: Any,
    labels: Any,
    *,
    reduction: str = "mean",
    divisor: float | None = None,
    cotangent: Any = 1.0,
    weight: Any = None,
    out: Any = None,
    **options: Any,
) -> tuple[Any, Any]:
    """The reduced loss and its gradient. The divisor is computed on the device before the gradient needs
    it."""
    return _reduced(logits, labels, reduction, divisor, cotangent, weight, True, options, out)
