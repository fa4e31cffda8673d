"""Arrays of other libraries, as far as it can be seen without a GPU: what is asked of the producer, how its memory is
described, on which stream the kernels run, and that the libraries' products mean what `library_products` says."""

import importlib
import sys
import types
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("numba.cuda", reason="numba-cuda is not installed")
if importlib.import_module("numba.cuda.core.config").ENABLE_CUDASIM:
    pytest.skip("the simulator has arrays of its own", allow_module_level=True)

device_arrays = importlib.import_module("lossref_cuda.device_arrays")
library_products = importlib.import_module("lossref_cuda.library_products")


class ByDLPack:
    """An array that offers nothing but DLPack, and remembers which stream it was asked for."""

    def __init__(self, array):
        self.array, self.stream = array, None

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream=None, **others):
        self.stream = stream
        return self.array.__dlpack__()


@pytest.mark.parametrize(("ours", "asked"), [(0, 1), (1, 1), (0x5EED0, 0x5EED0)])
def test_a_dlpack_producer_is_told_our_stream(ours, asked):
    """So that the producer orders its work before ours. The default stream has the number 1 there."""
    producer = ByDLPack(np.arange(6.0).reshape(2, 3))
    interface, owner = device_arrays.interface_of(producer, ours)
    assert producer.stream == asked
    assert interface["shape"] == (2, 3)
    assert interface["typestr"] == "<f8"
    assert interface["data"][0] == producer.array.ctypes.data  # nothing is copied
    assert owner is not producer  # the exported memory, which its deleter belongs to


def test_bfloat16_and_strides_through_dlpack():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).to(torch.bfloat16).reshape(3, 4)[:, ::2]
    interface, _ = device_arrays.interface_of(ByDLPack(tensor), 0)
    assert np.dtype(interface["typestr"]).kind == "V"  # as bfloat16 is known to NumPy
    assert device_arrays.storage_dtype(np.dtype(interface["typestr"])) == np.uint16
    assert interface["shape"] == (3, 2)
    assert interface["strides"] == (8, 4)
    assert interface["data"][0] == tensor.data_ptr()
    assert np.dtype(ml_dtypes.bfloat16).str == interface["typestr"]


def test_the_array_interface_is_taken_as_it_is():
    described = {"shape": (2,), "strides": None, "typestr": "<f4", "data": (64, False), "version": 3, "stream": 7}
    array = types.SimpleNamespace(__cuda_array_interface__=described)
    assert device_arrays.interface_of(array, 0) == (described, array)
    assert device_arrays.lives_on_device(array)
    assert device_arrays.stream_pointer_of([np.zeros(1), array]) == 7
    without = types.SimpleNamespace(__cuda_array_interface__={**described, "stream": None})
    assert device_arrays.stream_pointer_of([without]) == 0


def test_torchs_current_stream_is_the_callers(monkeypatch):
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(2)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: types.SimpleNamespace(cuda_stream=0xABC0))
    assert device_arrays.stream_pointer_of([tensor]) == 0xABC0
    assert not device_arrays.lives_on_device(tensor)


def test_whose_array_it_is(monkeypatch):
    torch = pytest.importorskip("torch")
    assert isinstance(library_products.library_of(torch.zeros(1)), library_products.Torch)
    assert library_products.library_of(np.zeros(1)) is None
    monkeypatch.delitem(sys.modules, "torch")
    assert library_products.library_of(object()) is None


def test_torchs_products():
    """On the CPU the products of equal dtypes; into a wider result on tensors without data, which PyTorch checks as it
    would check real ones."""
    torch = pytest.importorskip("torch")
    library = library_products.Torch(torch)
    a, b = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(3, 4)
    out = torch.full((2, 4), 7.0)
    library.multiply(a, b, out)
    torch.testing.assert_close(out, a @ b)
    library.multiply_and_add(a, b, out)
    torch.testing.assert_close(out, 2 * (a @ b))
    narrow, wide = (x.to("meta", torch.bfloat16) for x in (a, b)), torch.empty(2, 4, device="meta")
    left, right = narrow
    library.multiply(left, right, wide)
    library.multiply_and_add(left, right, wide)
    assert wide.dtype == torch.float32
    with pytest.raises(RuntimeError):
        library.multiply(left, right, torch.empty(2, 4, dtype=torch.float64, device="meta"))
    assert library.takes(np.dtype(ml_dtypes.bfloat16))


def test_torch_works_on_our_stream(monkeypatch):
    torch = pytest.importorskip("torch")
    entered = []
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=5))
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda pointer: pointer)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: "default")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: entered.append(stream) or nullcontext())
    library = library_products.Torch(torch)
    for ours in (5, 9, 0):
        with library.on(ours):
            pass
    # Where it is at work already, nothing is to be changed; and an ExternalStream(0) would be any of its pool.
    assert entered == [9, "default"]


def test_cupys_products_take_what_its_gemm_takes():
    library = library_products.CuPy(types.SimpleNamespace())
    assert library.takes(np.dtype(np.float32))
    assert not library.takes(np.dtype(np.float16))
    assert not library.takes(np.dtype(ml_dtypes.bfloat16))
