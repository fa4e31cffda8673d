"""To be imported, or loaded by pytest with `-p stand_in_gpu`, in a process that was started with `environment`: Numba's
kernels are then assembled for the stand-in GPU and run on it."""

import gc
import os
from pathlib import Path

from assembler import assemble, build_driver

HERE = Path(__file__).parent


def environment(folder: Path) -> dict[str, str]:
    """For a process that shall find the stand-in, and nothing else, where it looks for a GPU."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {**os.environ, "LD_LIBRARY_PATH": str(build_driver(folder)), "PYTHONPATH": os.pathsep.join(paths)}
    found["STAND_IN_GPU"] = str(folder)
    return found


def install(folder: Path):
    from cuda.core import ObjectCode
    from numba.cuda.codegen import CUDACodeLibrary

    def get_cubin(library, cc=None):
        path = assemble("\n".join(library.get_asm_strs(cc=cc)), folder)
        return ObjectCode.from_cubin(os.fsencode(path) + b"\0")

    CUDACodeLibrary.get_cubin = get_cubin
    gc.set_threshold(100_000)  # the compiler's objects live long; to look through them takes a fifth of the time


if "STAND_IN_GPU" in os.environ:
    install(Path(os.environ["STAND_IN_GPU"]))
