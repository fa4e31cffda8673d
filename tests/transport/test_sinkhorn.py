"""What float32 cannot solve by itself: almost decoupled masses, whose Newton step is almost singular."""

import numpy as np
import pytest

import lossref as lr


@pytest.mark.parametrize("seed", [121, 213, 258, 296])
def test_float32_is_solved_as_well_as_float64(seed):
    cost = np.abs(np.ldexp(np.random.default_rng(seed).integers(-2048, 2048, (4, 4)), -9))
    narrow = lr.sinkhorn(cost.astype(np.float32))  # a warning, that the marginals are off, would be an error here
    assert narrow.dtype == np.float32
    assert narrow == pytest.approx(lr.sinkhorn(cost), rel=3e-7)
