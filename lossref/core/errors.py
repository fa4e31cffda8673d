"""Errors name the argument, what was expected, what came, and where."""

import numpy as np


def plain(value) -> str:
    """A number or object as a short text, without NumPy's type names."""
    if isinstance(value, np.generic):
        value = value.item()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def message(name: str, expected: str, got, index=None) -> str:
    where = "" if index is None or len(index) == 0 else f" at index {tuple(int(i) for i in index)}"
    got = got if isinstance(got, str) else plain(got)
    return f"{name}: expected {expected}, got {got}{where}"


def first_index(bad: np.ndarray) -> tuple:
    """The index of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
