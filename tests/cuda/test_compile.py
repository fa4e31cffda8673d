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
matrix_products = importlib.import_module("lossref_cuda.matrix_products")

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
        if kernel.computation == computation and kernel.runs_on(capability):
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


PAGE = (Path(__file__).parents[2] / "docs" / "benchmarks" / "registers.md").read_text(encoding="utf-8")
HEADER, *TABLE = ([cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line[:1] == "|")
COMMITTED = {line[0]: dict(zip(HEADER, line, strict=True)) for line in TABLE[1:]}  # after the line of dashes
REMAKE = "python -m lossref_cuda.compile_report --table docs/benchmarks/registers.md"


def test_the_table_of_registers_has_every_kernel():
    assert list(COMMITTED) == list(KERNELS), REMAKE
    assert REMAKE in PAGE
    for label, row in COMMITTED.items():
        assert row["spilled"] == row["stack"] == "0", label


@pytest.mark.parametrize("label", KERNELS)
def test_assembles_for_sm_90(label):
    kernel = KERNELS[label]
    ptx = compile_to_ptx(kernel, (9, 0))
    needs = compile_report.assemble(ptx, (9, 0))
    assert needs.spill_stores == needs.spill_loads == 0
    assert needs.stack == 0
    assert ".local" not in ptx
    assert needs.registers <= 96  # 64 warps a multiprocessor need 32, 20 warps need 96
    if compile_report.versions() in PAGE:  # another release may need other numbers
        assert (str(needs.registers), str(needs.shared)) == (COMMITTED[label]["9.0"], COMMITTED[label]["shared"]), (
            REMAKE
        )
    # A subroutine shows in PTX as `call`; a division of 64-bit integers becomes one when assembled.
    assert not re.search(r"\bcall\b", ptx)
    for body in loops(ptx):
        assert not re.search(r"\b(div|rem)\.[su]64\b", body)
    # The step of a reduction is the size of the grid, and a row's place in its sequence is a quotient: once a thread.
    if kernel.rung not in ("reduction", "order of the rows", "gradient filter"):
        assert not re.search(r"\b(div|rem)\.[su]64\b", ptx)


WIDE = [
    ("logsumexp.one_warp_per_row_vectorised", True),
    ("log_softmax.one_warp_per_row_vectorised", True),
    ("logsumexp.vectorised", True),
    ("logsumexp.long_row_split_over_blocks.summarise_piece", False),
    ("logsumexp.long_row_split_over_blocks.gradient_of_piece", True),
    ("softmax.row_in_registers", True),
    ("softmax.vectorised", True),
    ("softmax.long_row_split_over_blocks.write_piece", True),
    ("log_softmax.vectorised", True),
    ("cross_entropy.one_warp_per_row_vectorised", True),
    ("cross_entropy.one_warp_per_row_vectorised.one_warp_per_row_vectorised_without_options", True),
    ("cross_entropy.vectorised", True),
    ("cross_entropy.vectorised.vectorised_without_options", True),
    ("cross_entropy.long_row_split_over_blocks.summarise_rivals", False),
    ("cross_entropy.long_row_split_over_blocks.finish_piece", True),
    ("cross_entropy.long_row_split_over_blocks.finish_piece_without_options", True),
]


@pytest.mark.parametrize(("label", "writes"), WIDE)
def test_wide_rungs_read_and_write_128_bits(label, writes):
    ptx = compile_to_ptx(KERNELS[label], (9, 0))
    assert "ld.global.v4.f32" in ptx
    assert ("st.global.v4.f32" in ptx) == writes


def test_a_row_in_registers_is_asked_for_at_once():
    """All its loads stand before the first exponential, and each number has one: that of its group of four, or that
    of the unaligned ends."""
    ptx = compile_to_ptx(KERNELS["softmax.row_in_registers"], (9, 0))
    groups = importlib.import_module("lossref_cuda.softmax").GROUPS
    before, after = ptx.split("ex2.approx", 1)
    assert before.count("ld.global.v4.f32") == groups
    assert "ld.global.v4" not in after
    assert 1 + after.count("ex2.approx") == 4 * groups + 2
    for capability in compile_report.CAPABILITIES:
        kernel = KERNELS["softmax.row_in_registers"]
        needs = compile_report.assemble(compile_to_ptx(kernel, capability), capability)
        assert needs.registers <= 64  # 1024 threads a block
        assert needs.stack == needs.spill_stores == needs.spill_loads == 0


TENSOR_CORES = [label for label in KERNELS if ".tensor_core_tiles." in label]
TILES = [label for label in KERNELS if ".shared_memory_tiles." in label or label in TENSOR_CORES]


@pytest.mark.parametrize("label", TENSOR_CORES)
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0), (12, 0)], ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_tensor_cores_are_used(label, capability):
    """One instruction for each stripe of columns, and every device since 8.0 takes it."""
    ptx = compile_to_ptx(KERNELS[label], capability)
    products = ptx.count("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
    # How far the loop over the depth of the tile is unrolled is the compiler's choice.
    assert products % matrix_products.STRIPES == 0 < products
    assert "cvt.rn.bf16x2.f32" in ptx
    needs = compile_report.assemble(ptx, capability)
    assert needs.stack == needs.spill_stores == needs.spill_loads == 0


@pytest.mark.parametrize("label", TILES)
def test_tiles_are_multiplied_from_shared_memory(label):
    """The sums stay in registers, and what is multiplied comes from shared memory: the innermost loop that multiplies
    does not touch global memory."""
    ptx = compile_to_ptx(KERNELS[label], (9, 0))
    assert ".local" not in ptx
    instruction = "mma.sync" if label in TENSOR_CORES else "fma.rn.f32"
    inner = min((body for body in loops(ptx) if instruction in body), key=len)
    assert "ld.shared" in inner
    if label not in TENSOR_CORES:  # whose inner loop is unrolled into the outer one
        sums = matrix_products.ROWS_EACH * matrix_products.COLUMNS_EACH
        assert inner.count(instruction) % sums == 0
        assert "ld.global" not in inner
        assert inner.count("ld.shared") <= inner.count(instruction) // 2


@pytest.mark.parametrize(
    ("rung", "registers"),
    [("vectorised", 32), ("one_warp_per_row_vectorised", 48), ("long_row_split_over_blocks.finish_piece", 56)],
)
def test_cross_entropy_without_options_is_half_as_long(rung, registers):
    general = KERNELS[f"cross_entropy.{rung}"]
    (ordinary,) = (kernel for kernel in KERNELS.values() if kernel.name == general.name + "_without_options")
    ordinary, general = (compile_to_ptx(kernel, (9, 0)) for kernel in (ordinary, general))
    assert len(ordinary.splitlines()) < 0.7 * len(general.splitlines())
    assert compile_report.assemble(ordinary, (9, 0)).registers <= registers


@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize(
    "rung",
    [
        "vectorised",
        "vectorised.vectorised_without_options",
        pytest.param("one_warp_per_row", marks=pytest.mark.slow),
        pytest.param("block_per_row_online", marks=pytest.mark.slow),
        pytest.param("row_on_chip", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_may_be_narrower_than_the_logits(rung, storage):
    """Linear cross-entropy by a library's 16-bit products: logits in float32, their gradient in the dtype of the
    factors."""
    wide = KERNELS[f"cross_entropy.{rung}"]
    narrow = {kernel.label: kernel for kernel in compile_report.kernels(storage)}[wide.label]
    names = wide.dispatcher.py_func.__code__.co_varnames
    arguments = [
        narrow.signature.args[index] if names[index] == "gradient" else wide.signature.args[index]
        for index in range(len(wide.signature.args))
    ]
    kernel = wide._replace(signature=wide.signature.return_type(*arguments))
    ptx = compile_report.compile_to_ptx(kernel, (9, 0))
    needs = compile_report.assemble(ptx, (9, 0))
    assert needs.stack == needs.spill_stores == needs.spill_loads == 0
    if rung.startswith("vectorised"):
        assert "ld.global.v4.f32" in ptx
        assert re.search(r"st\.global\.v[24]\.[bu](16|32)", ptx)  # four of them in 64 bits


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


def test_the_page_of_registers_is_what_the_command_writes(monkeypatch, tmp_path):
    monkeypatch.setattr(compile_report, "COMPUTATIONS", ("logsumexp",))
    assert compile_report.main(["--table", str(tmp_path / "page.md")]) == 0
    lines = (tmp_path / "page.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("| logsumexp.") for line in lines) == len(compile_report.kernels())
    if compile_report.versions() in PAGE:
        assert set(lines) <= set(PAGE.splitlines())


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
