"""The error function and the normal distribution, which NumPy lacks: SciPy's for floats, Arb's for balls."""

import numpy as np

from lossref.core import floats, is_exact, like, where

LONGDOUBLE_BITS = 192


def erf(x):
    """2/√π ∫_0^x e^(-t²) dt."""
    return _each(x, "erf") if is_exact(x) else _of_floats(erf, x)


def erfcx(x):
    """e^(x²) (1 - erf x): the upper tail without the factor that makes it vanish."""
    return np.exp(x * x) * _each(x, "erfc") if is_exact(x) else _of_floats(erfcx, x)


def log_ndtr(x):
    """log Φ(x), the log of the normal distribution function, right in both tails."""
    if not is_exact(x):
        return _of_floats(log_ndtr, x)
    upper = floats(x) > 0
    tail = _each(where(upper, x, -x) / np.sqrt(like(2, x)), "erfc") / 2
    return where(upper, np.log1p(-tail), np.log(tail))


def _each(x, method):
    return np.frompyfunc(lambda ball: getattr(ball, method)(), 1, 1)(x)


def _of_floats(function, x):
    from scipy import special  # takes a while to load, so only when it is needed

    known = x.astype({2: np.float32, 4: np.float32}.get(x.dtype.itemsize, np.float64))  # nothing wider is offered
    y = np.asarray(getattr(special, function.__name__)(known)).astype(x.dtype)
    finite = np.isfinite(x) & np.isfinite(y)
    if x.dtype == np.longdouble and finite.any():
        from lossref.exact.ball import lift, longdoubles, precision

        with precision(LONGDOUBLE_BITS):
            y[finite] = longdoubles(function(lift(x[finite])))
    return y
