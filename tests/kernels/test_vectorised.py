"""The inner loops are vector code: a loop that fell back to scalars would be right, and 20 times slower."""

import re

import llvmlite.binding
import numpy as np
import pytest
from numba import njit

from lossref.kernels import cross_entropy, logsumexp, softmax
from lossref.kernels.compilation import OPTIONS
from lossref.kernels.lanes import HAS_AVX512

FEATURES = llvmlite.binding.get_host_cpu_features()


def machine_code(dispatcher, element):
    """Of the kernel compiled afresh for the types it was last called with: cached code cannot be
    inspected."""
    signature = next(s for s in dispatcher.signatures if s[0].dtype.name == element)
    fresh = njit(**OPTIONS)(dispatcher.py_func)
    fresh.compile(signature)
    return fresh.inspect_asm(signature)


@pytest.mark.skipif(not FEATURES.get("avx2", False), reason="asks for vector registers of x86")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loops_are_vector_code(dtype):
    x = np.zeros((2, 100), dtype)
    logsumexp.value(x)
    softmax.value(x, algorithm="two_pass")
    cross_entropy.value_and_vjp(x, [0, 1], cotangent=np.ones(2))
    kernels = [logsumexp.lse_forward, softmax.two_pass, cross_entropy.cross_entropy_forward_and_backward]
    suffix = "ps" if dtype == np.float32 else "pd"
    for kernel in kernels:
        code = machine_code(kernel, np.dtype(dtype).name)
        fused = re.findall(rf"vfn?m\w+{suffix}\s.*[yz]mm", code)
        assert len(fused) >= 20, kernel.__name__
        assert not re.search(r"call.*\bexpf\b", code)
        assert "NRT_" not in code  # no reference counts between the lanes
        if HAS_AVX512:
            assert dtype == np.float64 or "vpermps" in code
            assert "vscalef" + suffix in code
            assert kernel is logsumexp.lse_forward or re.search(r"vmovntp[sd]\s+%zmm", code)
