"""The stand-in GPU itself: it computes what the PTX ISA says, it faults where a kernel is wrong and only there, and its
order is nobody's to rely on. tests/cuda/test_stand_in.py runs this file; nothing of it is for a GPU."""

import ctypes
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numba
import numpy as np
import pytest
from assembler import DRIVER, assemble
from cuda.core._utils.cuda_utils import CUDAError
from lossref_cuda.instructions import load, load4, pack_bfloat16, shuffle_xor, store
from lossref_cuda.launching import configured
from numba import cuda
from numba.cuda import libdevice

driver = ctypes.CDLL(DRIVER)
FOLDER = Path(os.environ["STAND_IN_GPU"])
rng = np.random.default_rng(0)


# ---- arithmetic, as Numba compiles it ----------------------------------------------------------------------------


@cuda.jit
def compute_functions(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        a, b = x[i], y[i]
        out[0, i] = math.exp(a)
        out[1, i] = math.log(abs(a))
        out[2, i] = math.log1p(abs(a))
        out[3, i] = math.expm1(a)
        out[4, i] = math.tanh(a)
        out[5, i] = math.sinh(a)
        out[6, i] = math.cosh(a)
        out[7, i] = math.sqrt(abs(a))
        out[8, i] = a / b
        out[9, i] = math.floor(a)
        out[10, i] = math.fmod(a, b)
        out[11, i] = cuda.fma(a, b, b)
        out[12, i] = math.ceil(a)
        out[13, i] = min(a, b)
        out[14, i] = a // b


# So many ulp for float32 and float64: half of one more than in CUDA's documentation, which counts from the rounded
# truth. Of what takes its powers of two from ex2.approx one more: the stand-in's is off by all that the PTX ISA allows.
FUNCTIONS = {
    "exp": (np.exp, 3.5, 1.5),
    "log": (lambda a: np.log(abs(a)), 1.5, 1.5),
    "log1p": (lambda a: np.log1p(abs(a)), 1.5, 1.5),
    "expm1": (np.expm1, 1.5, 1.5),
    "tanh": (np.tanh, 2.5, 1.5),
    "sinh": (np.sinh, 4.5, 2.5),
    "cosh": (np.cosh, 3.5, 1.5),
    "sqrt": (lambda a: np.sqrt(abs(a)), 0.5, 0.5),
    "a / b": (lambda a, b: a / b, 0.5, 0.5),
    "floor": (np.floor, 0, 0),
    "fmod": (np.fmod, 0, 0),
    "fma": (lambda a, b: a * b + b, 0.501, 0.501),  # the truth itself is rounded, to 64 bits
    "ceil": (np.ceil, 0, 0),
    "min": (np.minimum, 0, 0),
    "a // b": (np.floor_divide, 0, 0),
}


def ulps(found, truth):
    """How far off, in units of the last place of the dtype of what was found."""
    dtype = found.dtype
    place = np.spacing(np.abs(truth).astype(dtype)).astype(np.longdouble)
    return float((np.abs(found.astype(np.longdouble) - truth) / place).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_are_as_accurate_as_on_a_gpu(dtype):
    a = np.concatenate([rng.normal(size=600) * 20, np.ldexp(rng.normal(size=200), -12), rng.normal(size=200)])
    a, b = a.astype(dtype), (rng.normal(size=1000) * 3).astype(dtype)
    out = cuda.device_array((len(FUNCTIONS), 1000), dtype)
    configured(compute_functions, 8, 128, 0)(cuda.to_device(a), cuda.to_device(b), out)
    wide = a.astype(np.longdouble), b.astype(np.longdouble)
    for found, (name, (function, *limits)) in zip(out.copy_to_host(), FUNCTIONS.items(), strict=True):
        of_one = name not in ("a / b", "fmod", "fma", "min", "a // b")
        off = ulps(found, function(wide[0]) if of_one else function(*wide))
        assert off <= limits[dtype == np.float64], name


@cuda.jit
def round_and_raise(x, y, whole, powers):
    i = cuda.grid(1)
    if i < x.size:
        whole[i] = libdevice.rintf(x[i])
        powers[i] = abs(x[i]) ** y[i]


def test_rint_and_powers():
    x = np.concatenate([np.arange(-8, 8) / 2, rng.normal(size=200) * 5]).astype(np.float32)
    y = (rng.normal(size=x.size) * 4).astype(np.float32)
    x[x == 0] = 0.25
    whole, powers = (cuda.device_array(x.size, np.float32) for _ in range(2))
    configured(round_and_raise, 2, 128, 0)(cuda.to_device(x), cuda.to_device(y), whole, powers)
    np.testing.assert_array_equal(whole.copy_to_host(), np.rint(x))
    truth = np.abs(x).astype(np.longdouble) ** y.astype(np.longdouble)
    assert ulps(powers.copy_to_host(), truth) <= 4


@cuda.jit
def compute_integers(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        a, b = x[i], y[i]
        out[0, i] = a // b
        out[1, i] = a % b
        out[2, i] = a * b
        out[3, i] = a - b
        out[4, i] = (a & b) ^ ~(a | b)
        out[5, i] = a >> 3
        out[6, i] = a << 2
        out[7, i] = min(a, b) + max(a, b)
        out[8, i] = abs(a)


INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: np.dtype(d).name)
def test_integers(dtype):
    ends = np.iinfo(dtype)
    a = rng.integers(ends.min, ends.max, 300, dtype, endpoint=True)
    b = rng.integers(max(ends.min, -9), 9, 300, dtype)
    b[b == 0] = 5
    a[:2], b[:2] = ends.min, ends.max
    a[(a == ends.min) & (b == ends.max) | (b == 2 * (b > 0) - 1)] //= 2
    out = cuda.device_array((9, 300), dtype)
    configured(compute_integers, 3, 128, 0)(cuda.to_device(a), cuda.to_device(b), out)
    want = [a // b, a % b, a * b, a - b, (a & b) ^ ~(a | b), a >> 3, a << 2, np.minimum(a, b) + np.maximum(a, b)]
    for found, right in zip(out.copy_to_host(), [*want, np.abs(a)], strict=True):
        np.testing.assert_array_equal(found, right)


@cuda.jit
def convert(x, whole, halves, words):
    i = cuda.grid(1)
    if i < x.size:
        whole[i] = np.int64(x[i])
        store(halves, 0, i, load(halves, 1, i))  # float16 through float32
        words[i] = pack_bfloat16(np.float32(x[i]), load(halves, 1, i))


def test_conversions():
    x = np.array([0.0, 1.9, -1.9, 2.5, 1e6, -3e9, 1e30, -1e30, np.inf, -np.inf, 0.1, 3.3e38])
    halves = np.array([[0] * 12, [1, -2, 6e-8, 65504, np.inf, -np.inf, 0.1, 1e-5, 3, 4, 5, 6]], np.float16)
    whole, words, there = cuda.device_array(12, np.int64), cuda.device_array(12, np.uint32), cuda.to_device(halves)
    configured(convert, 1, 32, 0)(cuda.to_device(x), whole, there, words)
    ends = np.iinfo(np.int64)
    np.testing.assert_array_equal(
        whole.copy_to_host(), [0, 1, -1, 2, 10**6, -3 * 10**9, ends.max, ends.min, ends.max, ends.min, 0, ends.max]
    )
    np.testing.assert_array_equal(there.copy_to_host()[0], halves[1])
    low, high = words.copy_to_host().view(np.uint16).reshape(12, 2).T.copy().view(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(
        low.astype(np.float32), x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    )
    np.testing.assert_array_equal(high.astype(np.float32), halves[1].astype(ml_dtypes.bfloat16).astype(np.float32))


@cuda.jit
def compare_all(x, y, out):
    i, j = cuda.threadIdx.x, cuda.threadIdx.y
    a, b = x[i], y[j]
    k = i * y.size + j
    out[0, k] = 1 if a < b else 0
    out[1, k] = 1 if a <= b else 0
    out[2, k] = 1 if a == b else 0
    out[3, k] = 1 if a != b else 0
    out[4, k] = 1 if not a < b else 0
    out[5, k] = 1 if not a >= b else 0
    out[6, k] = 1 if math.isnan(a) and not math.isinf(b) else 0


def test_comparisons_with_nan():
    x = np.array([-np.inf, -1, -0.0, 0.0, 1, np.inf, np.nan], np.float32)
    out = cuda.device_array((7, 49), np.uint8)
    configured(compare_all, 1, (7, 7), 0)(cuda.to_device(x), cuda.to_device(x), out)
    a, b = np.repeat(x, 7), np.tile(x, 7)
    want = [a < b, a <= b, a == b, a != b, ~(a < b), ~(a >= b), np.isnan(a) & ~np.isinf(b)]
    np.testing.assert_array_equal(out.copy_to_host(), want)


# ---- single instructions -----------------------------------------------------------------------------------------

HEAD = ".version 8.7\n.target sm_90\n.address_size 64\n"


def kernel_of(body, parameters):
    """A piece of PTX whose parameters are addresses, in %rd1 and so on; the number of the thread is %r1."""
    declared = ",\n".join(f".param .u64 one_param_{k}" for k in range(parameters))
    loads = "".join(f"ld.param.u64 %rd{k + 1}, [one_param_{k}];\n" for k in range(parameters))
    registers = ".reg .pred %p<9>;\n.reg .b16 %rs<9>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n"
    return f"{HEAD}.visible .entry one(\n{declared}\n)\n{{\n{registers}{loads}mov.u32 %r1, %tid.x;\n{body}\nret;\n}}\n"


def run_ptx(body, *arrays, grid=1, block=None):
    """Assembles and launches it, one thread for each element of the last array, and gives back that array."""
    library, kernel = ctypes.c_void_p(), ctypes.c_void_p()
    path = str(assemble(kernel_of(body, len(arrays)), FOLDER)).encode()
    assert driver.cuLibraryLoadData(ctypes.byref(library), path, None, None, 0, None, None, 0) == 0
    assert driver.cuLibraryGetKernel(ctypes.byref(kernel), library, b"one") == 0
    there = [cuda.to_device(array) for array in arrays]
    addresses = [ctypes.c_uint64(array.device_ctypes_pointer.value) for array in there]
    arguments = (ctypes.c_void_p * len(arrays))(*(ctypes.addressof(address) for address in addresses))
    sizes = grid, 1, 1, block or arrays[-1].size // grid, 1, 1
    assert driver.cuLaunchKernel(kernel, *sizes, 0, None, arguments, None) == 0
    return there[-1].copy_to_host()


def compute(instruction, result, *operands):
    """What an instruction, %d of %a, %b, %c, makes of arrays of operands."""
    arrays = [*operands, np.zeros(operands[0].size, result)]
    names = [*["%a", "%b", "%c"][: len(operands)], "%d"]
    body = []
    for k, (name, array) in enumerate(zip(names, arrays, strict=True)):
        kind = f"{'f' if array.dtype in (np.float32, np.float64) else 'b'}{8 * array.itemsize}"
        body.append(f".reg .{kind} {name};\nmul.wide.u32 %rd7, %r1, {array.itemsize};\nadd.s64 %rd8, %rd{k + 1}, %rd7;")
        body.append(f"ld.global.{kind} {name}, [%rd8];")
    return run_ptx("\n".join([*body, f"{instruction};", f"st.global.{kind} [%rd8], %d;"]), *arrays)


def numbers(dtype, *values):
    return np.array(values, dtype)


NAN, INF = np.nan, np.inf
I4, U4, I8, U8, I2, U2, F4, F8 = np.int32, np.uint32, np.int64, np.uint64, np.int16, np.uint16, np.float32, np.float64
LEAST, HUGE, LESS = -(2**31), 2.0**127, 1 - 2**-24
SINGLE = [
    ("shl.b32 %d, %a, %b", numbers(U4, 1, 1, 1, 3), [numbers(U4, 0, 31, 32, 2**31)], numbers(U4, 1, 2**31, 0, 0)),
    ("shl.b64 %d, %a, %b", numbers(U8, 1, 1, 1), [numbers(U4, 40, 63, 64)], numbers(U8, 2**40, 2**63, 0)),
    ("shl.b16 %d, %a, %b", numbers(U2, 1, 3, 1), [numbers(U4, 15, 15, 16)], numbers(U2, 2**15, 2**15, 0)),
    ("shr.u32 %d, %a, %b", numbers(U4, 2**31, 2**31), [numbers(U4, 31, 32)], numbers(U4, 1, 0)),
    ("shr.s32 %d, %a, %b", numbers(I4, -8, -8, 8, 8), [numbers(U4, 1, 99, 1, 99)], numbers(I4, -4, -1, 4, 0)),
    ("shr.s64 %d, %a, %b", numbers(I8, -8, -8, 8), [numbers(U4, 1, 64, 64)], numbers(I8, -4, -1, 0)),
    ("shr.s16 %d, %a, %b", numbers(I2, -8, -8), [numbers(U4, 1, 16)], numbers(I2, -4, -1)),
    ("div.s32 %d, %a, %b", numbers(I4, -7, 7, LEAST), [numbers(I4, 2, -2, -1)], numbers(I4, -3, -3, LEAST)),
    ("rem.s32 %d, %a, %b", numbers(I4, -7, 7, LEAST), [numbers(I4, 2, -2, -1)], numbers(I4, -1, 1, 0)),
    ("div.u64 %d, %a, %b", numbers(U8, 2**64 - 1), [numbers(U8, 10)], numbers(U8, (2**64 - 1) // 10)),
    ("mul.lo.s64 %d, %a, %b", numbers(I8, 2**40 + 1, -3), [numbers(I8, 2**30, 5)], numbers(I8, 2**30, -15)),
    ("mul.hi.u64 %d, %a, %b", numbers(U8, 2**63), [numbers(U8, 6)], numbers(U8, 3)),
    ("mul.hi.s64 %d, %a, %b", numbers(I8, -(2**62), 9), [numbers(I8, 8, 9)], numbers(I8, -2, 0)),
    ("mul.hi.s32 %d, %a, %b", numbers(I4, -1, 2**30), [numbers(I4, 1, 8)], numbers(I4, -1, 2)),
    ("mul.wide.s32 %d, %a, %b", numbers(I4, -(2**30)), [numbers(I4, 2**10)], numbers(I8, -(2**40))),
    ("mul.wide.u32 %d, %a, %b", numbers(U4, 2**32 - 1), [numbers(U4, 2**32 - 1)], numbers(U8, (2**32 - 1) ** 2)),
    ("mul.wide.u16 %d, %a, %b", numbers(U2, 2**16 - 1), [numbers(U2, 2**16 - 1)], numbers(U4, (2**16 - 1) ** 2)),
    ("min.s32 %d, %a, %b", numbers(I4, -1, 3), [numbers(I4, 1, 2)], numbers(I4, -1, 2)),
    ("min.u32 %d, %a, %b", numbers(U4, 2**32 - 1), [numbers(U4, 1)], numbers(U4, 1)),
    ("max.s64 %d, %a, %b", numbers(I8, -1), [numbers(I8, 1)], numbers(I8, 1)),
    ("min.f32 %d, %a, %b", numbers(F4, NAN, 1, 0, -0.0), [numbers(F4, 1, NAN, -0.0, 0)], numbers(F4, 1, 1, -0.0, -0.0)),
    ("max.f64 %d, %a, %b", numbers(F8, NAN, 1, 0, -0.0), [numbers(F8, 1, NAN, -0.0, 0)], numbers(F8, 1, 1, 0, 0)),
    ("abs.s32 %d, %a", numbers(I4, -5, 5, LEAST), [], numbers(I4, 5, 5, LEAST)),
    ("neg.f32 %d, %a", numbers(F4, 0, -1), [], numbers(F4, -0.0, 1)),
    ("clz.b32 %d, %a", numbers(U4, 0, 1, 2**31), [], numbers(U4, 32, 31, 0)),
    ("clz.b64 %d, %a", numbers(U8, 0, 1, 2**63), [], numbers(U4, 64, 63, 0)),
    ("popc.b64 %d, %a", numbers(U8, 0, 2**64 - 1), [], numbers(U4, 0, 64)),
    ("brev.b32 %d, %a", numbers(U4, 1, 6), [], numbers(U4, 2**31, 3 * 2**29)),
    ("bfi.b32 %d, %a, %b, 8, 4", numbers(U4, 0xFF), [numbers(U4, 0x10000000)], numbers(U4, 0x10000F00)),
    ("prmt.b32 %d, %a, %b, 0x5410", numbers(U4, 0x33221100), [numbers(U4, 0x77665544)], numbers(U4, 0x55441100)),
    ("prmt.b32 %d, %a, %b, 0xB7", numbers(U4, 0x8000FF01), [numbers(U4, 0x99000000)], numbers(U4, 0x0101FF99)),
    ("cvt.rzi.s32.f32 %d, %a", numbers(F4, 1.9, -1.9, 3e9, -3e9, NAN), [], numbers(I4, 1, -1, 2**31 - 1, LEAST, 0)),
    ("cvt.rzi.u32.f32 %d, %a", numbers(F4, 1.9, -1.9, 5e9, 3e9, NAN), [], numbers(U4, 1, 0, 2**32 - 1, 3 * 10**9, 0)),
    ("cvt.rzi.s32.f64 %d, %a", numbers(F8, 1.9, INF, NAN), [], numbers(I4, 1, 2**31 - 1, LEAST)),
    ("cvt.rzi.u64.f64 %d, %a", numbers(F8, 1e19, 2e19, NAN), [], numbers(U8, 10**19, 2**64 - 1, 2**63)),
    ("cvt.rni.s32.f32 %d, %a", numbers(F4, 0.5, 1.5, -2.5), [], numbers(I4, 0, 2, -2)),
    ("cvt.rmi.s64.f32 %d, %a", numbers(F4, -0.5, 1.5, -INF), [], numbers(I8, -1, 1, -(2**63))),
    ("cvt.rmi.f32.f32 %d, %a", numbers(F4, -0.5, 1.5, INF), [], numbers(F4, -1, 1, INF)),
    ("cvt.rpi.f64.f64 %d, %a", numbers(F8, -0.5, 1.5), [], numbers(F8, -0.0, 2)),
    ("cvt.rn.f32.s64 %d, %a", numbers(I8, 2**62 + 1, 2**24 + 1), [], numbers(F4, 2**62, 2**24)),
    ("cvt.rn.f64.u64 %d, %a", numbers(U8, 2**64 - 1), [], numbers(F8, 2**64)),
    ("cvt.rn.f32.f64 %d, %a", numbers(F8, 1 + 2**-24, 1e60, 1e-45), [], numbers(F4, 1, INF, 1e-45)),
    ("cvt.s64.s32 %d, %a", numbers(I4, -5), [], numbers(I8, -5)),
    ("cvt.u64.u32 %d, %a", numbers(U4, 2**32 - 5), [], numbers(U8, 2**32 - 5)),
    ("cvt.sat.f32.f32 %d, %a", numbers(F4, -1, 0.5, 2, NAN), [], numbers(F4, 0, 0.5, 1, 0)),
    ("rcp.rn.f32 %d, %a", numbers(F4, 0, -0.0, 4), [], numbers(F4, INF, -INF, 0.25)),
    ("copysign.f32 %d, %a, %b", numbers(F4, -1, 1), [numbers(F4, 5, -5)], numbers(F4, -5, 5)),
    ("fma.rn.f32 %d, %a, %b, 0fBF800000", numbers(F4, 1 + 2**-12), [numbers(F4, 1 - 2**-12)], numbers(F4, -(2.0**-24))),
    ("fma.rm.f32 %d, %a, %b, 0f3F800000", numbers(F4, 2**-30, -(2**-30)), [numbers(F4, 1, 1)], numbers(F4, 1, LESS)),
    ("fma.rz.f32 %d, %a, %b, 0f3F800000", numbers(F4, 1), [numbers(F4, LESS)], numbers(F4, 2 - 2**-23)),
    ("add.rz.f32 %d, %a, %b", numbers(F4, 1, -1), [numbers(F4, LESS, -LESS)], numbers(F4, 2 - 2**-23, 2**-23 - 2)),
    ("div.approx.ftz.f32 %d, %a, %b", numbers(F4, 1, INF, 6), [numbers(F4, HUGE, HUGE, 3)], numbers(F4, 0, NAN, 2)),
    ("ex2.approx.f32 %d, %a", numbers(F4, 3, -140, -INF, 200), [], numbers(F4, 8, 2.0**-140, 0, INF)),
    ("ex2.approx.ftz.f32 %d, %a", numbers(F4, 3, -140, -INF, 200), [], numbers(F4, 8, 0, 0, INF)),
]  # fmt: skip


@pytest.mark.parametrize(("instruction", "a", "others", "want"), SINGLE, ids=[case[0] for case in SINGLE])
def test_one_instruction(instruction, a, others, want):
    found = compute(instruction, want.dtype, a, *others)
    np.testing.assert_array_equal(found, want)
    if want.dtype.kind == "f":
        numbers = ~np.isnan(want)
        np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(want)[numbers])


def test_approximate_instructions_are_off_by_as_much_as_they_may_be():
    """Kernels must not come out right because the stand-in is better than a GPU."""
    x = rng.uniform(0.5, 4, 1000).astype(np.float32)
    wide = x.astype(np.longdouble)
    for instruction, truth, most in (("ex2.approx.f32", 2**wide, 2.5), ("rcp.approx.ftz.f32", 1 / wide, 1.5)):
        off = ulps(compute(f"{instruction} %d, %a", np.float32, x), truth)
        assert most - 1 < off <= most


@pytest.mark.parametrize(
    "instruction",
    [
        "frob.b32 %r1, %r2",
        "add.sat.s32 %r1, %r1, %r1",
        "fma.rn.bf16 %rs1, %rs1, %rs1, %rs1",
        "setp.foo.s32 %p1, %r1, %r2",
    ],
)
def test_what_is_not_known_is_no_guess(instruction, tmp_path):
    ptx = kernel_of(instruction + ";", 1)
    line = ptx[: ptx.index(instruction)].count("\n") + 1
    with pytest.raises(NotImplementedError) as problem:
        assemble(ptx, tmp_path)
    assert str(problem.value) == f"line {line}: {instruction}"


@cuda.jit
def call_a_subroutine(x):
    x[0] = x[0] ** x[1]


def test_subroutines_are_not_known():
    with pytest.raises(NotImplementedError, match=r"line \d+: \.func"):
        configured(call_a_subroutine, 1, 1, 0)(cuda.to_device(np.ones(2)))


# ---- faults ------------------------------------------------------------------------------------------------------


@pytest.fixture
def faults(capfd):
    """Launches a kernel that has to end in a fault, compares what the stand-in says about it, and returns the line of
    the PTX that it names."""

    def launch(kernel, grid, block, *arguments, why, shared=0):
        capfd.readouterr()
        with pytest.raises(CUDAError):
            kernel[grid, block, 0, shared](*arguments)
        said = capfd.readouterr().err
        where = r"stand-in GPU: (.*\.ptx):(\d+): thread \(\d+, 0, 0\) of block \(\d+, 0, 0\)"
        path, line = re.fullmatch(f"{where} {why}\n", said).groups()
        return Path(path).read_text().splitlines()[int(line) - 1]

    return launch


def zeros(*shape, dtype=np.int32):
    return cuda.to_device(np.zeros(shape, dtype))


pytestmark = pytest.mark.filterwarnings("ignore:Grid size")
WRITES = "writes what another thread writes"
READS_AND_WRITES = "(?:reads what another thread writes|writes what another thread reads)"


@cuda.jit
def move_one(x, y, source, target):
    y[target] = x[source]


def test_accesses_outside_of_an_array(faults):
    x, y = zeros(10), zeros(10)
    move_one[1, 1](x, y, 9, 9)
    assert "ld.global" in faults(move_one, 1, 1, x, y, 10, 0, why="is outside of all arrays")
    assert "st.global" in faults(move_one, 1, 1, x, y, 0, 10, why="is outside of all arrays")
    move_one[1, 1](x, y, 0, 0)  # a fault is of one launch


@cuda.jit
def move_on_chip(y, source, target):
    chip = cuda.shared.array(8, numba.int32)
    chip[target] = 5
    y[0] = chip[source]


def test_accesses_outside_of_shared_memory(faults):
    y = zeros(1)
    move_on_chip[1, 1](y, 7, 7)
    assert y.copy_to_host()[0] == 5
    assert "ld.shared" in faults(move_on_chip, 1, 1, y, 8, 0, why="is outside of shared memory")
    assert "st.shared" in faults(move_on_chip, 1, 1, y, 0, 8, why="is outside of shared memory")


@cuda.jit
def use_dynamic(y, index):
    chip = cuda.shared.array(0, numba.int32)
    chip[index] = 7
    y[0] = chip[index]


def test_dynamic_shared_memory(faults):
    y = zeros(1)
    use_dynamic[1, 1, 0, 400](y, 99)
    assert y.copy_to_host()[0] == 7
    faults(use_dynamic, 1, 1, y, 100, shared=400, why="is outside of shared memory")
    with pytest.raises(CUDAError):
        use_dynamic[1, 1, 0, 49153](y, 0)


@cuda.jit
def read_four(x, y, column):
    y[0] = load4(x, 0, column)[0]


def test_wide_accesses_at_addresses_that_are_no_multiple(faults):
    x, y = zeros(1, 12, dtype=np.float32), zeros(1, dtype=np.float32)
    read_four[1, 1](x, y, 4)
    line = faults(read_four, 1, 1, x, y, 5, why="uses an address that is no multiple of the size of the access")
    assert "ld.global.v4" in line
    read_four[1, 1](x, y, 8)
    faults(read_four, 1, 1, zeros(1, 10, dtype=np.float32), y, 8, why="is outside of all arrays")


def test_memory_that_has_been_freed(faults):
    memory, y = ctypes.c_uint64(), zeros(10)
    assert driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(40)) == 0
    interface = {"shape": (10,), "typestr": "<i4", "data": (memory.value, False), "version": 3}
    x = cuda.as_cuda_array(SimpleNamespace(__cuda_array_interface__=interface))
    move_one[1, 1](x, y, 0, 0)
    assert driver.cuMemFree_v2(memory) == 0
    faults(move_one, 1, 1, x, y, 0, 0, why="is outside of all arrays")
    assert driver.cuMemFree_v2(memory) != 0


NOTHING, SHUFFLE, OF_WARP, OF_BLOCK = range(4)


@cuda.jit
def meet_on_chip(y, first, second, between, first_writes, second_writes):
    """Two threads at one shared cell, and something between them."""
    chip = cuda.shared.array(1, numba.int32)
    t = cuda.threadIdx.x
    if t == 0:
        chip[0] = 4
    cuda.syncthreads()
    if t == first:
        if first_writes:
            chip[0] = 5
        else:
            y[t] = chip[0]
    if between == SHUFFLE:
        y[64 + t] = shuffle_xor(t, 1)
    elif between == OF_WARP:
        cuda.syncwarp()
    elif between == OF_BLOCK:
        cuda.syncthreads()
    if t == second:
        if second_writes:
            chip[0] = 6
        else:
            y[t] = chip[0]


@pytest.mark.parametrize("how", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (31, 30), (0, 33), (40, 2), (3, 3)])
@pytest.mark.parametrize("between", [NOTHING, SHUFFLE, OF_WARP, OF_BLOCK], ids=["nothing", "shuffle", "warp", "block"])
def test_two_threads_at_one_shared_cell(faults, first, second, between, how):
    """Which of the two comes first is the stand-in's choice, so more than one launch."""
    y = zeros(128)
    arguments = y, first, second, between, *how
    ordered = between == OF_BLOCK or (between == OF_WARP and first // 32 == second // 32)
    for _ in range(3):
        if ordered or first == second or not any(how):
            meet_on_chip[1, 64](*arguments)
        else:
            assert ".shared" in faults(meet_on_chip, 1, 64, *arguments, why=WRITES if all(how) else READS_AND_WRITES)
    if ordered and how == (True, False):
        assert y.copy_to_host()[second] == 5


@cuda.jit
def read_together(y, between_warps):
    """All read one cell; then one writes it."""
    chip = cuda.shared.array(1, numba.int32)
    t = cuda.threadIdx.x
    if t == 0:
        chip[0] = 4
    cuda.syncthreads()
    y[t] = chip[0]
    if between_warps:
        cuda.syncthreads()
    else:
        cuda.syncwarp()
    if t == 5:
        chip[0] = y[t] + 1


def test_a_cell_that_all_have_read(faults):
    y = zeros(64)
    read_together[1, 64](y, True)
    read_together[1, 32](y, False)
    np.testing.assert_array_equal(y.copy_to_host(), 4)
    for _ in range(3):
        faults(read_together, 1, 64, y, False, why=READS_AND_WRITES)


@cuda.jit
def write_one_byte_each(y, shift):
    t = cuda.grid(1)
    y[t >> shift] = t


def test_neighbouring_bytes_are_no_race(faults):
    y = zeros(128, dtype=np.uint8)
    write_one_byte_each[2, 64](y, 0)
    np.testing.assert_array_equal(y.copy_to_host(), np.arange(128))
    faults(write_one_byte_each, 2, 64, y, 1, why=WRITES)


@cuda.jit
def meet_in_global_memory(y, z, target, source):
    """Each block writes a cell and reads one."""
    b = cuda.blockIdx.x
    y[target * b] = b
    z[b] = y[source * b]


def test_two_blocks_at_one_cell(faults):
    y, z = zeros(4), zeros(4)
    meet_in_global_memory[4, 1](y, z, 1, 1)
    np.testing.assert_array_equal(z.copy_to_host(), np.arange(4))
    for _ in range(3):
        faults(meet_in_global_memory, 4, 1, y, z, 0, 0, why=WRITES)
        faults(meet_in_global_memory, 4, 1, y, z, 1, 0, why=READS_AND_WRITES)
    move_one[1, 1](y, z, 3, 0)  # of an earlier launch anyone may read
    assert z.copy_to_host()[0] == 3


@cuda.jit
def read_in_all_write_in_one(y, z, writer):
    b = cuda.blockIdx.x
    z[b] = y[0]
    cuda.syncthreads()
    if b == writer:
        y[0] = 7


def test_a_barrier_is_of_its_block_only(faults):
    y, z = zeros(1), zeros(3)
    for writer in range(3):
        read_in_all_write_in_one[3, 1](y, z, -1)
        faults(read_in_all_write_in_one, 3, 1, y, z, writer, why=READS_AND_WRITES)


@cuda.jit
def wait_apart(y, apart):
    t = cuda.threadIdx.x
    if t < apart:
        y[t] = 1
        cuda.syncthreads()
    y[t] += 1
    cuda.syncthreads()


def test_a_barrier_in_a_part_of_a_warp(faults):
    y = zeros(64)
    wait_apart[1, 64](y, 64)
    wait_apart[1, 64](y, 0)
    faults(wait_apart, 1, 64, y, 16, why="is at another barrier than its warp")


@cuda.jit
def shuffle_apart(y, some, members):
    t = cuda.threadIdx.x
    if t < some:
        y[t] = cuda.shfl_xor_sync(members, t, 1)
    cuda.syncthreads()
    y[t] += 1


def test_a_shuffle_without_all_its_lanes(faults):
    y = zeros(32)
    shuffle_apart[1, 32](y, 32, 0xFFFFFFFF)
    np.testing.assert_array_equal(y.copy_to_host(), (np.arange(32) ^ 1) + 1)
    shuffle_apart[1, 32](y, 16, 0x0000FFFF)
    faults(shuffle_apart, 1, 32, y, 16, 0xFFFFFFFF, why="waits for lanes that do not come")
    faults(shuffle_apart, 1, 32, y, 32, 0x0000FFFF, why="is not among the lanes that it names")


@cuda.jit
def shuffle_with_the_gone(y, some, bits):
    t = cuda.threadIdx.x
    if t >= some:
        return
    y[t] = cuda.shfl_xor_sync(0xFFFFFFFF, t, bits)


def test_a_shuffle_from_a_lane_that_has_returned(faults):
    y = zeros(32)
    shuffle_with_the_gone[1, 32](y, 16, 8)
    faults(shuffle_with_the_gone, 1, 32, y, 16, 16, why="takes from a lane that gives nothing")


@cuda.jit
def read_what_nobody_wrote(y):
    y[0] = cuda.shared.array(4, numba.float32)[y.size]


def test_memory_begins_as_nan():
    for dtype in (np.float16, np.float32, np.float64):
        assert np.isnan(cuda.device_array(50, dtype).copy_to_host()).all()
    y = zeros(1, dtype=np.float32)
    read_what_nobody_wrote[1, 1](y)
    assert np.isnan(y.copy_to_host()[0])


# ---- launches ----------------------------------------------------------------------------------------------------

TICK = """mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mad.lo.s32 %r4, %r2, %r3, %r1;
mul.wide.u32 %rd2, %r4, 8;
add.s64 %rd3, %rd1, %rd2;
mov.u64 %rd4, %clock64;
st.global.u64 [%rd3], %rd4;"""


def test_the_order_changes_from_launch_to_launch():
    """Each thread writes down when it ran. Forwards, backwards, and from the middle on: blocks, warps and lanes."""
    seen = set()
    for _ in range(12):
        began = run_ptx(TICK, np.zeros(4 * 96, np.int64), grid=4).reshape(4, 3, 32)
        assert np.unique(began).size == began.size
        orders = (began.argsort(axis)[tuple(0 if k != axis else slice(None) for k in range(3))] for axis in range(3))
        seen.add(tuple(tuple(order.tolist()) for order in orders))
    whole = range(4), range(3), range(32)
    turned = tuple(tuple((k + n // 2) % n for k in range(n)) for n in (4, 3, 32))
    assert seen == {tuple(map(tuple, whole)), tuple(tuple(reversed(r)) for r in whole), turned}


@cuda.jit
def number_threads(y):
    i, j = cuda.grid(2)
    y[i, j] = cuda.threadIdx.x + 10 * cuda.threadIdx.y + 100 * cuda.blockIdx.x + 1000 * cuda.blockIdx.y


def test_two_dimensions():
    y = zeros(6, 20)
    number_threads[(2, 4), (3, 5)](y)
    i, j = np.indices((6, 20))
    np.testing.assert_array_equal(y.copy_to_host(), i % 3 + 10 * (j % 5) + 100 * (i // 3) + 1000 * (j // 5))


@cuda.jit
def reverse_block(x, y, some):
    chip = cuda.shared.array(1024, numba.float32)
    t = cuda.threadIdx.x
    if t >= some:
        return
    chip[t] = x[t]
    cuda.syncthreads()
    y[t] = chip[some - 1 - t]


@pytest.mark.parametrize("some", [1024, 1000, 33])
def test_a_full_block_of_which_some_return_early(some):
    x = rng.normal(size=1024).astype(np.float32)
    y = zeros(1024, dtype=np.float32)
    reverse_block[1, 1024](cuda.to_device(x), y, some)
    np.testing.assert_array_equal(y.copy_to_host()[:some], x[:some][::-1])
    assert not y.copy_to_host()[some:].any()


def test_too_large_a_block_is_refused():
    with pytest.raises(CUDAError):
        reverse_block[1, 1025](zeros(1), zeros(1), 1)


def test_copies_on_the_device_and_the_time_between_events():
    before, after = cuda.event(), cuda.event()
    before.record()
    x, y = cuda.to_device(np.arange(50)), zeros(50, dtype=np.int64)
    y.copy_to_device(x)
    after.record()
    after.synchronize()
    np.testing.assert_array_equal(y.copy_to_host(), np.arange(50))
    assert 0 < cuda.event_elapsed_time(before, after) < 60_000


@cuda.jit
def count_votes(x, y):
    y[cuda.threadIdx.x] = cuda.syncthreads_or(x[cuda.threadIdx.x])


def test_a_vote_of_the_block():
    x, y = np.zeros(70, np.int32), zeros(70)
    count_votes[1, 70](cuda.to_device(x), y)
    assert not y.copy_to_host().any()
    x[5] = 1
    count_votes[1, 70](cuda.to_device(x), y)
    assert y.copy_to_host().all()
