"""Any memory layout, any of the four dtypes, untouched inputs."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import lossref as lr
from lossref.kernels import cross_entropy, log_softmax, logsumexp, rows, softmax

LABELS = np.array([3, 0, 16, 5])
WEIGHTS = np.array([0.5, 1.0, -2.0, 0.0])


def every_result(x, cotangent):
    return [
        logsumexp.value(x),
        logsumexp.vjp(x, cotangent=WEIGHTS),
        *(softmax.value(x, algorithm=a) for a in ("three_pass", "online", "two_pass")),
        softmax.vjp(x, cotangent=cotangent),
        *log_softmax.value_and_vjp(x, cotangent=cotangent),
        *cross_entropy.value_and_vjp(x, LABELS, cotangent=WEIGHTS),
        *cross_entropy.value_and_vjp(x, LABELS, cotangent=WEIGHTS, label_smoothing=0.1, softcap=5.0),
    ]


def layouts(x):
    """The same numbers: transposed, strided, reversed, unaligned, read-only, big-endian-free."""
    yield np.asfortranarray(x)
    wide = np.full((8, 2 * x.shape[1]), np.nan, x.dtype)
    wide[::2, ::2] = x
    yield wide[::2, ::2]
    yield np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(x.dtype).reshape(x.shape)
    unaligned[...] = x
    assert not unaligned.flags.aligned
    yield unaligned
    for start in range(1, 17, 5):
        buffer = np.zeros(x.size + 16, x.dtype)
        shifted = buffer[start : start + x.size].reshape(x.shape)
        shifted[...] = x
        yield shifted
    frozen = x.copy()
    frozen.flags.writeable = False
    yield frozen


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_layouts(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 17)).astype(dtype)
    cotangent = rng.standard_normal((4, 17)).astype(dtype)
    expected = every_result(x, cotangent)
    layouts_of_both = zip(layouts(x), layouts(cotangent), strict=True)
    for one, other in layouts_of_both:
        before = np.array(one)
        for a, b in zip(every_result(one, other), expected, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(one, before)


def test_broadcast_inputs():
    x = np.broadcast_to(np.arange(5.0), (3, 5))
    np.testing.assert_array_equal(softmax.value(x), softmax.value(x.copy()))
    np.testing.assert_array_equal(
        log_softmax.vjp(x, cotangent=np.broadcast_to(1.0, x.shape)),
        log_softmax.vjp(x, cotangent=np.ones(x.shape)),
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_are_computed_wide_and_rounded_once(dtype):
    rng = np.random.default_rng(0)
    x = (3 * rng.standard_normal((4, 17))).astype(dtype)
    cotangent = rng.standard_normal((4, 17)).astype(dtype)
    wide = every_result(x.astype(np.float32), cotangent.astype(np.float32))
    for result, expected in zip(every_result(x, cotangent), wide, strict=True):
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, expected.astype(dtype))
    out = np.empty_like(x)
    assert softmax.value(x, out=out) is out
    np.testing.assert_array_equal(out, wide[2].astype(dtype))
    assert lr.softmax.path("numba")(x, out=out) is out


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_the_target_gradient_of_16_bits_is_not_a_rounded_probability_minus_one(dtype):
    x = np.array([[8.0, 0.0, 0.0]], dtype)
    gradient = cross_entropy.vjp(x, [0], cotangent=np.ones(1))
    expected = -2 * np.exp(-8) / (1 + 2 * np.exp(-8))
    assert float(gradient[0, 0]) == float(np.array(expected, dtype))


def test_calls_from_several_threads_at_once():
    x = np.random.default_rng(0).standard_normal((400, 1000)).astype(np.float32)
    expected = softmax.value(x)
    results = [None] * 4

    def work(k):
        for _ in range(20):
            results[k] = softmax.value(x)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_importing_the_package_imports_no_numba():
    code = "import sys, lossref.kernels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FORKING = """
import os, sys
import numpy as np
from lossref.kernels import softmax

x = np.random.default_rng(0).standard_normal((400, 1000)).astype(np.float32)
expected = softmax.value(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(softmax.value(x), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_threads_of_its_own():
    assert subprocess.run([sys.executable, "-c", FORKING], check=False, timeout=60).returncode == 0


@pytest.mark.skipif(not rows._current_core, reason="here the scheduler alone chooses cores")
def test_other_threads_are_kept_off_the_callers_core(monkeypatch):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("there is only one core")

    def cores_of_threads():
        # Two pieces of work that wait for each other cannot be done by one thread.
        together = threading.Barrier(2, timeout=10)
        return rows.in_parallel(lambda start, stop: (together.wait(), os.sched_getaffinity(0))[1], [(0, 1), (1, 2)])

    cores_of_threads()
    for core in cores:
        monkeypatch.setattr(rows, "_current_core", lambda core=core: core)
        assert cores_of_threads() == [cores, cores - {core}]


def test_the_number_of_threads_is_numbas():
    code = (
        "import numba; from lossref.kernels.rows import thread_count, pieces\n"
        "assert thread_count() == 2 and len(pieces(1000, 1000)) == 2\n"
        "numba.set_num_threads(1); assert thread_count() == 1 and pieces(1000, 1000) == [(0, 1000)]"
    )
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


JUMPING = """
import numpy as np
from lossref.kernels import softmax

for dtype in (np.float32, np.float64):
    for jump in (100, 250, 300, 1000, 5000, 60000):
        x = np.zeros(300, dtype)
        x[200] = jump
        np.testing.assert_allclose(softmax.value(x, algorithm="two_pass")[200], 1, rtol=1e-6)
"""


@pytest.mark.parametrize("less", [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_ENABLE_AVX": "0"}])
def test_compiled_for_less_than_this_machine(tmp_path, less):
    """What the kernels assume of the processor is what Numba was told. Without AVX-512 a row may jump too."""
    environment = {**os.environ, **less, "NUMBA_CACHE_DIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", JUMPING], check=False, env=environment).returncode == 0


@pytest.mark.parametrize("moved", [1, 64, 300, -1, -300])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp", "cross_entropy", "top_k_softmax"])
def test_an_output_that_overlaps_its_argument(name, moved):
    """A row written over another one must not be read afterwards."""
    buffer = np.random.default_rng(0).standard_normal(1000 + 40 * 300).astype(np.float32)
    x, out = (buffer[start : start + 40 * 300].reshape(40, 300) for start in (500, 500 + moved))
    given = {"cross_entropy": {"labels": np.arange(40)}, "top_k_softmax": {"k": 3}}.get(name, {})
    loss = getattr(lr, name).path("numba")
    before, expected = buffer.copy(), loss.grad(x, **given)
    np.testing.assert_array_equal(loss.grad(x, **given, out=out), expected)
    buffer[:] = before
    if loss.returns == "..." or name == "top_k_softmax":
        expected = loss(x, **given)
        np.testing.assert_array_equal(loss(x, **given, out=out), expected)


def test_attention_written_over_its_arguments():
    arrays = np.random.default_rng(0).standard_normal((3, 600, 8)).astype(np.float32)
    attention = lr.softmax_attention.path("numba")
    value, gradients = attention.value_and_grad(*arrays, cotangent=arrays[2])
    for k in range(3):
        given = arrays.copy()
        np.testing.assert_array_equal(attention(*given, out=given[k]), value)
    given, cotangent = arrays.copy(), arrays[2].copy()
    outs = given[2], given[0], given[1]
    found = attention.grad(*given, cotangent=cotangent, out=outs)
    for gradient, expected, out in zip(found, gradients, outs, strict=True):
        np.testing.assert_array_equal(gradient, expected)
        assert gradient is out


def test_outputs_that_overlap_each_other_are_refused():
    x, same = np.ones((4, 4)), np.empty((4, 4))
    with pytest.raises(ValueError, match=r"^out: two of its arrays share memory"):
        lr.softmax_attention.path("numba").grad(x, x, x, out=(same, np.empty((4, 4)), same))
    with pytest.raises(ValueError, match=r"^out: two of its arrays share memory"):
        lr.linear_cross_entropy.path("numba").grad(x, x, [0, 1, 2, 3], out=(same, same))
    with pytest.raises(ValueError, match=r"^out: expected a tuple of 2"):
        lr.top_k_softmax.path("numba").grad(x, k=2, bias=x[0], out=same)


@pytest.mark.parametrize("size", [3e19, 1.7e38])
@pytest.mark.parametrize("name", ["logsumexp", "log_softmax", "softmax", "cross_entropy"])
def test_cotangents_near_the_end_of_the_range(name, size):
    """What overflows on the way to a gradient that does not."""
    x = np.array([[0, -0.736, -80], [0, -6.281, -9], [0, -6.29, -9]], np.float32)
    given = {"cross_entropy": {"labels": np.array([2, 2, 2]), "reduction": "none"}}.get(name, {})
    cotangent = np.ones(3) if name in ("logsumexp", "cross_entropy") else np.tile([1.0, -1.0, 0.0], (3, 1))
    cotangent = cotangent.astype(np.float32)
    loss = getattr(lr, name)
    expected = loss.grad(x.astype(float), **given, cotangent=cotangent.astype(float) * size)
    gradient = loss.path("numba").grad(x, **given, cotangent=cotangent * np.float32(size))
    np.testing.assert_allclose(gradient, expected, rtol=2e-6)
