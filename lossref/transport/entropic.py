"""The optimal potentials of entropic optimal transport: what the transport losses share."""

import warnings

import numpy as np

from lossref.core import floats, held_constant, is_exact, like, midpoint, total, where
from lossref.primitives import softmax_row


def uniform(size, x):
    """Equal masses that sum to 1, of x's kind."""
    return like(np.ones(size), x) / size


def plan(cost, a, b, f, g, epsilon):
    """The transport plan a_i b_j exp((f_i + g_j - C_ij) / ε) of potentials f and g."""
    return a[:, None] * b * np.exp((f[:, None] + g - cost) / epsilon)


def potentials(cost, a, b, epsilon, max_iterations, tolerance):
    """Potentials f, g whose plan has the marginals a and b, as constants.

    Sinkhorn's two softmaxes taking turns, finished by Newton's method on the dual, whose error squares at every step.
    The loss is the dual value: an error of the potentials enters it squared, so rounded potentials are good enough.
    """
    cost, a, b = (midpoint(held_constant(x)) for x in (cost, a, b))
    if is_exact(cost):
        start = potentials(floats(cost), floats(a), floats(b), float(floats(epsilon)), max_iterations, tolerance)
        f, g = (like(x, cost) for x in start)
        rows, columns = floats(a) > 0, floats(b) > 0
        worst = np.inf
        for _ in range(12):  # from 53 bits every step doubles them
            f_, g_, error = _newton(cost[rows][:, columns], a[rows], b[columns], f[rows], g[columns], epsilon)
            if not error < worst:
                break
            f[rows], g[columns], worst = midpoint(f_), midpoint(g_), error
        return _complete(cost, a, b, f, g, epsilon)
    rows, columns = a > 0, b > 0
    f, g = np.zeros_like(a), np.zeros_like(b)
    f[rows], g[columns], error = _solve(
        cost[rows][:, columns], a[rows], b[columns], epsilon, max_iterations, tolerance
    )
    if not error <= max(tolerance, 64 * np.finfo(np.float32 if cost.itemsize == 2 else cost.dtype).eps * cost.itemsize):
        warnings.warn(f"sinkhorn: the marginals are off by {error:.1e} after {max_iterations} iterations", RuntimeWarning, stacklevel=2)
    return _complete(cost, a, b, f, g, epsilon)


def soft_minimum(cost, log_mass, potential, epsilon):
    """-ε log Σ_j mass_j exp((potential_j - C_ij) / ε) for every row of cost."""
    return -epsilon * softmax_row(log_mass + (potential - cost) / epsilon).lse


def _complete(cost, a, b, f, g, epsilon):
    """Potentials also where there is no mass: the value that the other side's potentials give them."""
    f = where(floats(a) > 0, f, soft_minimum(cost, np.log(b), g, epsilon))
    return f, where(floats(b) > 0, g, soft_minimum(cost.T, np.log(a), f, epsilon))


def _solve(cost, a, b, epsilon, max_iterations, tolerance):
    """Sinkhorn sweeps, with a Newton step tried whenever the sweeps are close or slow."""
    log_a, log_b = np.log(a), np.log(b)
    f, g = np.zeros_like(a), np.zeros_like(b)
    error, tried, stalled = np.inf, 0, False
    for iteration in range(max_iterations):
        if error < 0.05 or iteration - tried >= 50:
            tried = iteration
            f_, g_, before = _newton(cost, a, b, f, g, epsilon)
            after = _error(cost, a, b, f_, g_, epsilon)
            if after < 0.5 * before:
                f, g, error = f_, g_, after
                continue
            if before <= max(tolerance, 0.0):  # as good as this arithmetic gets
                error = before
                break
            stalled = True
        f = soft_minimum(cost, log_b, g, epsilon)
        g = soft_minimum(cost.T, log_a, f, epsilon)
        swept = _error(cost, a, b, f, g, epsilon)
        if stalled and not swept < error and swept < 64 * np.finfo(np.float32 if cost.itemsize == 2 else cost.dtype).eps:
            error = swept
            break
        error = swept
    return f, g, float(error)


def _error(cost, a, b, f, g, epsilon):
    p = plan(cost, a, b, f, g, epsilon)
    return float(np.abs(p.sum(axis=1) - a).sum() + np.abs(p.sum(axis=0) - b).sum())


def _newton(cost, a, b, f, g, epsilon):
    """One Newton step on the dual, and the error of the marginals before it.

    The system [[diag(P1), P], [Pᵀ, diag(Pᵀ1)]] (δf, δg) = ε (a - P1, b - Pᵀ1) knows δf and δg up to a constant: the
    last δg is held at 0. Eliminating δf leaves a symmetric positive definite system for the others.
    """
    p = plan(cost, a, b, f, g, epsilon)
    row, column = total(p), total(p, axis=0)
    off_row, off_column = a - row, b - column
    error = float(np.abs(floats(off_row)).sum() + np.abs(floats(off_column)).sum())
    inner = p[:, :-1]
    scaled = inner / row[:, None]
    matrix = np.diag(column[:-1]) - inner.T @ scaled if not is_exact(p) else _diagonal(column[:-1]) - inner.T @ scaled
    step = solve_positive_definite(matrix, off_column[:-1] - scaled.T @ off_row)
    step = np.concatenate([step, like(np.zeros(1), p)])
    return f + epsilon * (off_row - p @ step) / row, g + epsilon * step, error


def _diagonal(values):
    return where(np.eye(len(values), dtype=bool), values, 0.0)


def solve_positive_definite(matrix, right):
    """Gaussian elimination without pivoting, in whatever arithmetic the matrix has (LAPACK has two)."""
    matrix, right = matrix.copy(), right.copy()
    size = len(right)
    for k in range(size):
        factor = matrix[k + 1 :, k] / matrix[k, k]
        matrix[k + 1 :, k:] = matrix[k + 1 :, k:] - factor[:, None] * matrix[k, k:]
        right[k + 1 :] = right[k + 1 :] - factor * right[k]
    for k in reversed(range(size)):
        right[k] = (right[k] - (matrix[k, k + 1 :] * right[k + 1 :]).sum()) / matrix[k, k]
    return right
