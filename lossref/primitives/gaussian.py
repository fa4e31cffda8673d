"""The error function and the normal distribution, which NumPy lacks: SciPy's for floats, Arb's for balls."""

import numpy as np

from lossref.core import floats, is_exact, like, where


def erf(x):
    """2/√π ∫_0^x e^(-t²) dt."""
    return _each(x, "erf") if is_exact(x) else _scipy("erf", x)


def erfcx(x):
    """e^(x²) (1 - erf x): the upper tail without the factor that makes it vanish."""
    return np.exp(x * x) * _each(x, "erfc") if is_exact(x) else _scipy("erfcx", x)


def log_ndtr(x):
    """log Φ(x), the log of the normal distribution function, right in both tails."""
    if not is_exact(x):
        return _scipy("log_ndtr", x)
    upper = floats(x) > 0
    tail = _each(where(upper, x, -x) / np.sqrt(like(2, x)), "erfc") / 2
    return where(upper, np.log1p(-tail), np.log(tail))


def _each(x, method):
    return np.frompyfunc(lambda ball: getattr(ball, method)(), 1, 1)(x)


def _scipy(name, x):
    from scipy import special  # takes a while to load, so only when it is needed

    known = x.astype({2: np.float32, 4: np.float32}.get(x.dtype.itemsize, np.float64))  # nothing wider is offered
    return getattr(special, name)(known).astype(x.dtype)
