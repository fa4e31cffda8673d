"""⊥Grad: a gradient without its part along the weights."""

import ml_dtypes
import numpy as np

from lossref.core import Flag, NonNegative, Paper, Real, floats, is_exact, like, loss, total, where


@loss(
    returns="...",
    paper=Paper("Grokking at the Edge of Numerical Stability", 2025, "arXiv:2501.04697"),
    reduces=False,
)
def perp_grad(params: Real("..."), grads: Real("..."), *, rescale: Flag = False, eps: NonNegative = 1e-30):
    r"""The gradient projected off the weights, both taken as one long vector.

    .. math:: g_\perp = g - \frac{\langle w, g \rangle}{\langle w, w \rangle + \epsilon}\, w

    Where a network's logits scale with its weights, a step along w lowers the loss of rows that are right already
    without changing any prediction: "naive loss minimisation". With ``rescale`` the result has the length of g, as in
    the paper's code, which projects each parameter tensor by itself; the paper's formula is for all of them
    concatenated. Where nothing but rounding is left of g it is not scaled up: the result is 0.

    Parameters
    ----------
    params
        The weights w.
    grads
        The gradient g.
    rescale
        Whether the result is given the length of g.
    eps
        Added to the squared length of w, and to the length of the result that is divided by.

    Examples
    --------
    >>> w, g = np.array([1.0, 1.0]), np.array([3.0, 1.0])
    >>> lr.perp_grad(w, g)
    array([ 1., -1.])
    >>> g - (w * g).sum() / ((w * w).sum() + 1e-30) * w  # the literal formula
    array([ 1., -1.])
    """
    (w, w_size), (g, g_size) = _scaled(params), _scaled(grads)
    length_squared = _dot(w, w) + eps / w_size / w_size
    rest = g - where(length_squared == 0, 0, _dot(w, g) / length_squared) * w
    if rescale:
        left, length = np.sqrt(_dot(rest, rest)), np.sqrt(_dot(g, g))
        noise = 0 if is_exact(g) else 8 * ml_dtypes.finfo(g.dtype).eps * length
        gone = left <= noise
        rest = where(gone, 0, rest * (length / where(gone, 1, left + eps / g_size)))
    return rest * g_size


@perp_grad.obvious
def _(params, grads):
    return grads - (params * grads).sum() / ((params * params).sum() + 1e-30) * params


def _scaled(x):
    """x divided by a power of two near its largest entry, whose square may overflow; and that number."""
    largest = np.max(abs(floats(x)), initial=0)
    size = like(np.ldexp(1.0, np.frexp(float(largest))[1]) if largest > 0 else 1.0, x)
    return x / size, size


def _dot(x, y):
    return total((x * y).reshape(1, -1))[0]
