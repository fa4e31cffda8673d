"""What the host does on a machine with a GPU and not in the simulator: copies, views, strides, streams, the geometry of
launches. It runs here on the stand-in GPU, in a process of its own, since the driver is loaded once. What the kernels
compute is for tests/cuda/on_device to say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "host_side.py"


@pytest.fixture(scope="module")
def found(stand_in):
    run = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, env=stand_in, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


def test_every_call_goes_through(found):
    cases = found["cases"]
    assert len(cases) > 80
    refused = cases.pop("refused: no keys")["error"]
    assert refused == "ValueError: keys: expected at least one key, got shape (0, 3)"
    assert {name: case["error"] for name, case in cases.items() if case["error"]} == {}
    assert cases["device: softmax (3, 40)"]["launches"] == 3  # the value, the cotangent, the gradient


def test_of_device_arrays_the_host_waits_for_nothing(found):
    waited = {name: case["waits"] for name, case in found["cases"].items() if not name.startswith("host")}
    assert not any(waited.values()), waited
    assert found["cases"]["host: a new axis"]["waits"] > 0  # it would be seen


def test_results_name_the_stream_on_which_they_are_made(found):
    ours = 0x5EED0
    assert found["streams of results"] == [ours] * 6


def test_a_stream_waits_for_arrays_made_on_another(found):
    """Labels made on ours, on theirs, on none that is known; and both arrays on ours, computed on theirs."""
    assert found["waits between streams"] == [0, 1, 0, 2]


def test_an_interface_without_streams_gives_way_to_dlpack(found):
    assert found["asked of DLPack beside version 2"] == [1]


def test_cupy_is_shown_arrays_without_a_stream(found):
    """Of an array that names one CuPy waits for it, on the host, before it looks at the memory."""
    assert found["stream shown to CuPy"] is None
