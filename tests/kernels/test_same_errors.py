"""A kernel refuses what the NumPy path refuses, with the same words, though it looks at its results only."""

import numpy as np
import pytest

import lossref as lr

nan, inf = np.nan, np.inf
BAD_ROWS = {
    "NaN": [0.0, nan, 1.0],
    "NaN behind a mask": [-inf, 2.0, nan],
    "+inf": [inf, 0.0, 1.0],
    "+inf behind a mask": [-inf, inf, 1.0],
    "masks alone": [-inf, -inf, -inf],
}
FUNCTIONS = ["logsumexp", "softmax", "log_softmax", "cross_entropy"]


def outcome(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (TypeError, ValueError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("what", ["__call__", "grad", "value_and_grad"])
@pytest.mark.parametrize("row", BAD_ROWS.values(), ids=BAD_ROWS.keys())
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bad_rows(name, row, what):
    x = np.array([[0.0, 1.0, 2.0], row])
    labels = ([0, 2],) if name == "cross_entropy" else ()
    loss = getattr(lr, name)
    expected = outcome(getattr(loss, what), x, *labels)
    assert expected is not None or (name == "logsumexp" and max(row) == -inf)
    assert outcome(getattr(loss.path("numba"), what), x, *labels) == expected
