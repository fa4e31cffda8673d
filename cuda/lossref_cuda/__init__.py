"""lossref on a GPU: the primitives and cross-entropy as Numba CUDA kernels.

One module is one computation, named after it: ``lossref_cuda.logsumexp``, ``softmax``, ``log_softmax``,
``cross_entropy``, ``linear_cross_entropy``, ``top_k_softmax``, ``softmax_attention``. Each has ``value``, ``vjp`` and
``value_and_vjp``, takes NumPy arrays (copied in and out) or arrays that already live on the device (viewed, nothing is
copied, the host never waits), and is written to be read from top to bottom: Reference, Rungs, Launch.

Importing this package loads nothing. Numba is loaded with the first computation that is used.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from typing import NamedTuple

__all__ = ["Availability", "availability"]


class Availability(NamedTuple):
    """Can the kernels run here, why or why not, and what to do about it."""

    ok: bool
    reason: str
    remedy: str


INSTALL = 'install numba-cuda: pip install "lossref[cuda]"'
TWO_WAYS_OUT = (
    "either install an NVIDIA driver (580 or newer for CUDA 13) on a machine with a GPU, "
    "or set NUMBA_ENABLE_CUDASIM=1 in the environment before numba is imported, "
    "which runs the same kernels in Numba's simulator (tiny arrays only)"
)


def availability() -> Availability:
    """Whether the kernels can run in this process. Cheap, never raises, does not import numba."""
    if importlib.util.find_spec("numba_cuda") is None or importlib.util.find_spec("numba") is None:
        return Availability(False, "numba-cuda is not installed", INSTALL)

    wanted = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
    loaded = sys.modules.get("numba.cuda.core.config")
    # Numba decides once, when it is imported; afterwards only what it decided counts.
    simulated = wanted if loaded is None else bool(loaded.ENABLE_CUDASIM)
    if simulated:
        return Availability(True, "Numba's CUDA simulator (NUMBA_ENABLE_CUDASIM=1)", "")
    if wanted:
        reason = "NUMBA_ENABLE_CUDASIM was set after numba.cuda had been imported, too late to take effect"
        return Availability(False, reason, "restart Python and " + TWO_WAYS_OUT)

    devices, problem = _count_devices()
    if devices:
        return Availability(True, f"{devices} CUDA device{'s' if devices > 1 else ''}", "")
    return Availability(False, problem, TWO_WAYS_OUT)


def _count_devices() -> tuple[int, str]:
    """Ask the driver itself: loading it costs a millisecond where there is none, importing numba a second."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0, f"no NVIDIA driver ({library} cannot be loaded)"
    status = driver.cuInit(0)
    if status != 0:
        return 0, f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return 0, "the NVIDIA driver finds no GPU"
    return count.value, ""


def require() -> None:
    """Raise a RuntimeError that says both ways out, unless the kernels can run."""
    state = availability()
    if not state.ok:
        raise RuntimeError(f"the CUDA path cannot run: {state.reason}. Way out: {state.remedy}.")
