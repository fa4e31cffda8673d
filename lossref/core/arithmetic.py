"""The few operations that NumPy lacks or that behave differently on balls.

Loss code runs on float16 to longdouble, on bfloat16, and on object arrays of balls (lossref.exact), line for line
the same. Everything else that a loss needs is plain NumPy.
"""

import numpy as np


def is_exact(x) -> bool:
    """Whether x holds balls (lossref.exact) rather than floating-point numbers."""
    return getattr(x, "dtype", None) == object


def floats(x):
    """x as floating-point numbers: itself, or the rounded midpoints of balls.

    Only for choices that do not change the mathematics, such as which entry of a row to take out of a sum.
    """
    return x.astype(np.float64) if is_exact(x) else x


def _each(method, x):
    return np.frompyfunc(lambda ball: getattr(ball, method)(), 1, 1)(x)


def held_constant(x):
    """x itself, but a constant to differentiation: what papers call stop-gradient or detach."""
    return x.detached() if hasattr(x, "detached") else _each("detached", x) if is_exact(x) else x


def midpoint(x):
    """x itself, but for balls their midpoints as exact constants.

    Only where any nearby number serves as well, such as a dual variable that merely certifies a bound.
    """
    return _each("midpoint", x) if is_exact(x) else x


def widened(x, radius):
    """x itself, but for balls any number within the radius of their midpoints: for a solution known to be that near."""
    return np.frompyfunc(lambda ball, r: ball.widened(r), 2, 1)(x, radius) if is_exact(x) else x


def along_simplex(masses):
    """masses themselves, but differentiated only along directions that keep their sum (the centred gradient)."""
    if not is_exact(masses):
        return masses
    centre = masses.sum(axis=-1, keepdims=True) / masses.shape[-1]
    return masses - centre + held_constant(centre)


def where(condition, x, otherwise):
    """numpy.where, with numbers made balls where the other side has balls."""
    if is_exact(x) or is_exact(otherwise):
        return np.where(condition, like(x, otherwise), like(otherwise, x))
    if np.ndim(x) == 0 and np.ndim(otherwise) > 0:  # a Python number must not widen a float16 array
        x = np.asarray(x, otherwise.dtype)
    elif np.ndim(otherwise) == 0 and np.ndim(x) > 0:
        otherwise = np.asarray(otherwise, x.dtype)
    return np.where(condition, x, otherwise)


def like(numbers, x):
    """numbers as x's kind: in its dtype, or as balls."""
    if not is_exact(x):
        return numbers if is_exact(numbers) else np.asarray(numbers, getattr(x, "dtype", None))
    if x.size == 0:  # no ball to copy the kind of, and no number will come of it
        return numbers if is_exact(numbers) else np.asarray(numbers, np.float64)
    ball = type(x.flat[0])
    return np.frompyfunc(lambda number: number if isinstance(number, ball) else ball(number), 1, 1)(numbers)


def times(weight, x):
    """weight · x, where a weight of 0 counts as absence: 0 · ±inf = 0."""
    return where(np.equal(weight, 0), 0.0, weight * x)


def total(x, axis=-1, keepdims=False):
    """The sum along an axis, accurate for long rows.

    NumPy sums pairwise only along contiguous memory, and ml_dtypes' bfloat16 term by term in bfloat16; here the axis
    is made contiguous, and 16-bit floats are summed in float32 and rounded once, as numpy.mean does.
    """
    axis = axis % x.ndim
    moved = x if axis == x.ndim - 1 else np.moveaxis(x, axis, -1)
    if is_exact(x):
        if x.shape[axis] == 0:
            return np.zeros(np.sum(x, axis=axis, keepdims=keepdims).shape)
        result = moved.sum(axis=-1)
        result = np.asarray(result, dtype=object)
    else:
        wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
        result = np.ascontiguousarray(moved).sum(axis=-1, dtype=wide).astype(x.dtype)
    return np.expand_dims(result, axis) if keepdims else result


def at(x, labels):
    """x[i, labels[i]] for every row i."""
    return np.take_along_axis(x, labels[..., None], axis=-1)[..., 0]


def label_mask(labels, num_classes):
    """True at (i, labels[i]), False elsewhere: the one-hot matrix as booleans."""
    return np.arange(num_classes) == labels[..., None]
