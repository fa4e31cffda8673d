"""The optimal potentials of entropic optimal transport: what the transport losses share."""

import warnings

import ml_dtypes
import numpy as np

from lossref.core import floats, held_constant, is_exact, like, midpoint, total, where, widened
from lossref.primitives import softmax_row


def plan(cost, a, b, f, g, epsilon):
    """The transport plan a_i b_j exp((f_i + g_j - C_ij) / ε) of potentials f and g."""
    return a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)


def potentials(cost, a, b, epsilon, max_iterations, tolerance):
    """Potentials f, g whose plan has the marginals a and b, as constants.

    The loss is a dual value: an error of the potentials enters it squared. In exact arithmetic they are known to
    within the last Newton step, and carry it as their radius.
    """
    if is_exact(cost):
        cost, a, b, epsilon = (midpoint(held_constant(np.atleast_1d(x))) for x in (cost, a, b, epsilon))
        epsilon = epsilon[0]
        start = potentials(floats(cost), floats(a), floats(b), float(epsilon), max_iterations, float(tolerance))
        f, g = (like(x, cost) for x in start)
        solve = _refined
    else:
        f, g = np.zeros_like(a), np.zeros_like(b)
        solve = _annealed
    rows, columns = floats(a) > 0, floats(b) > 0  # where there is no mass, there is nothing to be solved for
    part = (cost[rows][:, columns], a[rows], b[columns], f[rows], g[columns], epsilon)
    f[rows], g[columns] = solve(*part, max_iterations, tolerance)
    # The potential of a point without mass is what the other side's potentials make it.
    f = where(rows, f, soft_minimum(cost[:, columns], b[columns], g[columns], epsilon))
    return f, where(columns, g, soft_minimum(cost[rows].T, a[rows], f[rows], epsilon))


def soft_minimum(cost, mass, potential, epsilon):
    """-ε log Σ_j mass_j exp((potential_j - C_ij) / ε) for every row of cost.

    The masses sum to 1, so the sum is 1 + Σ mass · expm1(…): right near 0, where the logarithms of masses are not.
    """
    exponent = (potential - cost) / epsilon
    top = np.take_along_axis(exponent, np.argmax(floats(exponent), axis=1)[:, None], axis=1)
    excess = total(mass * np.expm1(exponent - top))
    near = floats(excess) > -0.5
    far = softmax_row(np.log(mass) + (exponent - top)).lse
    return -epsilon * (top[:, 0] + where(near, np.log1p(where(near, excess, 0.0)), far))


def _annealed(cost, a, b, f, g, epsilon, max_iterations, tolerance):
    """Sinkhorn's two softmaxes taking turns, finished by Newton's method, for ε falling from the range of the cost.

    The sweeps alone need about exp(range / ε) turns in the worst case; each stage here starts next to its solution.
    Fewer than 64 bits are not enough for it: an almost singular Newton step magnifies their rounding.
    """
    if ml_dtypes.finfo(cost.dtype).bits < 64:
        cost_, a_, b_, f, g = (x.astype(np.float64) for x in (cost, a, b, f, g))
        f, g = _annealed(cost_, a_ / a_.sum(), b_ / b_.sum(), f, g, float(epsilon), max_iterations, tolerance)
        f = f.astype(cost.dtype)
        return f, soft_minimum(cost.T, a, f, epsilon)  # the masses of b to the last bit
    eps = float(ml_dtypes.finfo(cost.dtype).eps)
    stages = [epsilon]
    while stages[-1] < np.ptp(cost) / 4:
        stages.append(4 * stages[-1])
    left, error = max_iterations, np.inf
    for stage in reversed(stages):
        goal = eps if stage == epsilon else 1e-3
        error, stalled = np.inf, 0
        while left > 0 and error > goal and stalled < 3:
            left -= 1
            f = soft_minimum(cost, b, g, stage)
            g = soft_minimum(cost.T, a, f, stage)
            before, error = error, _error(cost, a, b, f, g, stage)
            while left > 0 and error > goal:
                f_, g_ = _newton_step(cost, a, b, f, g, stage)
                improved = _error(cost, a, b, f + f_, g + g_, stage)
                if not improved < error / 2:
                    break
                left -= 1
                f, g, error = f + f_, g + g_, improved
            stalled = 0 if error < 0.9 * before or error > 1000 * eps else stalled + 1
    g = soft_minimum(cost.T, a, f, epsilon) if error < 1 else g  # the masses of b to the last bit
    if not error <= max(tolerance, 200 * eps):
        message = f"the marginals of the plan are off by {error:.1e} after {max_iterations} iterations"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return f, g


def _refined(cost, a, b, f, g, epsilon, *_):
    """Newton's method in exact arithmetic; the potentials with the last step as their radius."""
    size, radius = np.inf, None
    for _ in range(400):
        f_, g_ = _newton_step(cost, a, b, f, g, epsilon)
        radius = 2 * (total(abs(f_)) + total(abs(g_)))
        before, size = size, float(radius / epsilon)
        if size == 0 or (size < 1e-6 and not size < before):
            break
        # Far from the solution a step changes the exponential by a factor of e² at most: a longer one overshoots.
        damping = min(1.0, 2.0 / size)
        f, g = midpoint(f + damping * f_), midpoint(g + damping * g_)
    return widened(f, radius), widened(g, radius)


def _error(cost, a, b, f, g, epsilon):
    """How far the marginals of the plan are off, summed."""
    p = plan(cost, a, b, f, g, epsilon)
    return float(np.abs(total(p) - a).sum() + np.abs(total(p, axis=0) - b).sum())


def _newton_step(cost, a, b, f, g, epsilon):
    """The Newton step on the dual.

    The system [[diag(P1), P], [Pᵀ, diag(Pᵀ1)]] (δf, δg) = ε (a - P1, b - Pᵀ1) knows δf and δg up to a constant: the
    last δg is held at 0. Eliminating δf leaves a symmetric positive definite system for the others.
    """
    p = plan(cost, a, b, f, g, epsilon)
    row, column = total(p), total(p, axis=0)
    off_row, off_column = a - row, b - column
    scaled = p[:, :-1] / row[:, None]
    matrix = where(np.eye(len(b) - 1, dtype=bool), column[:-1], 0.0) - p[:, :-1].T @ scaled
    step = solve_positive_definite(matrix, off_column[:-1] - scaled.T @ off_row)
    step = np.concatenate([step, like(np.zeros(1), p)])
    return epsilon * (off_row - p @ step) / row, epsilon * step


def solve_positive_definite(matrix, right):
    """Gaussian elimination without pivoting, in whatever arithmetic the matrix has (LAPACK knows two)."""
    matrix, right = matrix.copy(), right.copy()
    size = len(right)
    for k in range(size):
        factor = matrix[k + 1 :, k] / matrix[k, k]
        matrix[k + 1 :, k:] = matrix[k + 1 :, k:] - factor[:, None] * matrix[k, k:]
        right[k + 1 :] = right[k + 1 :] - factor * right[k]
    for k in reversed(range(size)):
        right[k] = (right[k] - (matrix[k, k + 1 :] * right[k + 1 :]).sum()) / matrix[k, k]
    return right
