"""What can be held without a GPU: every kernel compiles for every architecture, needs no stack and spills
nothing, the wide rungs really read 128 bits at a time, and no loop calls a subroutine."""

import functools
import importlib
import re
from pathlib import Path

import lossref_cuda
import pytest

cuda = pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
config = importlib.import_module("numba.cuda.core.config")
compile_report = importlib.import_module("lossref_cuda.compile_report")

if config.ENABLE_CUDASIM:
    pytest.skip("the simulator has no compiler", allow_module_level=True)

KERNELS = {kernel.label: kernel for kernel in compile_report.kernels("float32")}
# One kernel is looked at from several sides, and compiling it is what takes the time.
compile_to_ptx = functools.lru_cache(maxsize=None)(compile_report.compile_to_ptx)
PORTABLE = [capability for capability in compile_report.CAPABILITIES if capability != (9, 0)]


@pytest.mark.parametrize("computation", compile_report.COMPUTATIONS)
@pytest.mark.parametrize("capability", PORTABLE, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_compiles_for(computation, capability):
    for kernel in KERNELS.values():
        if kernel.computation == computation:
            assert ".visible .entry" in compile_to_ptx(kernel, capability)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("computation", compile_report.COMPUTATIONS)
def test_other_dtypes(computation, dtype):
    for kernel in compile_report.kernels(dtype):
        if kernel.computation != computation:
            continue
        ptx = compile_to_ptx(kernel, (9, 0))
        needs = compile_report.assemble(ptx, (9, 0))
        assert needs.stack == needs.spill_stores == needs.spill_loads == 0, kernel.label
        if dtype != "float64":  # float32 arithmetic must not slip into float64 on the way; tables of partial sums do
            loop_body = [line for line in ptx.splitlines() if re.search(r"\b(ex2|fma)\.\S*f64", line)]
            assert not loop_body, (kernel.label, loop_body[:3])


def loops(ptx):
    """The text between each label and the last branch back to it."""
    lines = ptx.splitlines()
    at = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    for number, line in enumerate(lines):
        target = re.search(r"bra(?:\.uni)?\s+(\$L\w+);", line)
        if target and at[target.group(1)] < number:
            yield "\n".join(lines[at[target.group(1)] : number])


@pytest.mark.parametrize("label", KERNELS)
def test_assembles_for_sm_90(label):
    kernel = KERNELS[label]
    ptx = compile_to_ptx(kernel, (9, 0))
    needs = compile_report.assemble(ptx, (9, 0))
    assert needs.spill_stores == needs.spill_loads == 0
    assert needs.stack == 0
    assert ".local" not in ptx
    assert needs.registers <= 96  # 64 warps a multiprocessor need 32, 20 warps need 96
    # A subroutine shows in PTX as `call`; a division of 64-bit integers becomes one when assembled.
    assert not re.search(r"\bcall\b", ptx)
    for body in loops(ptx):
        assert not re.search(r"\b(div|rem)\.[su]64\b", body)
    if kernel.rung != "reduction":  # whose step is the size of the grid
        assert not re.search(r"\b(div|rem)\.[su]64\b", ptx)


WIDE = [
    ("logsumexp.vectorised", True),
    ("logsumexp.long_row_split_over_blocks.summarise_piece", False),
    ("logsumexp.long_row_split_over_blocks.gradient_of_piece", True),
    ("softmax.vectorised", True),
    ("softmax.long_row_split_over_blocks.write_piece", True),
    ("log_softmax.vectorised", True),
    ("cross_entropy.vectorised", True),
    ("cross_entropy.long_row_split_over_blocks.summarise_rivals", False),
    ("cross_entropy.long_row_split_over_blocks.finish_piece", True),
]


@pytest.mark.parametrize(("label", "writes"), WIDE)
def test_wide_rungs_read_and_write_128_bits(label, writes):
    ptx = compile_to_ptx(KERNELS[label], (9, 0))
    assert "ld.global.v4.f32" in ptx
    assert ("st.global.v4.f32" in ptx) == writes


def test_fast_exponential_keeps_small_numbers():
    """ex2.approx without .ftz: results below 2**-126 are not flushed."""
    ptx = compile_to_ptx(KERNELS["softmax.vectorised"], (9, 0))
    assert "ex2.approx.f32" in ptx


def test_report(capsys):
    assert compile_report.main(["--markdown", "--cc", "9.0", "--only", "log_softmax"]) == 0
    printed = capsys.readouterr().out
    assert "| log_softmax.vectorised | 9.0 |" in printed
    text = "ptxas info : Used 41 registers, used 1 barriers, 8 bytes stack frame, 512 bytes smem"
    assert compile_report.read_report(text) == (41, 8, 0, 0, 512)


def test_every_module_that_is_a_path_has_the_contract():
    for name in compile_report.COMPUTATIONS:
        module = importlib.import_module(f"lossref_cuda.{name}")
        assert callable(module.value)
        assert callable(module.vjp)
        assert callable(module.value_and_vjp)
        for heading in ("Reference", "Rungs", "Launch"):
            assert f"\n# {heading}" in Path(module.__file__).read_text(encoding="utf-8"), (name, heading)
        for rung in module.RUNGS:
            assert rung in module.KERNELS
            assert rung in module.__doc__, f"{name}: {rung} has no reason at the top of the file"
    assert lossref_cuda.__all__
