"""Who else runs, and what is done about it."""

import subprocess
import sys
import time

import pytest

from lossref.bench import interleaving, neighbours
from lossref.bench.interleaving import Contender, measure
from lossref.bench.neighbours import Patience, Usage, disturbed


def test_others_are_what_this_process_did_not_use():
    before = Usage(0.0, 100.0, 10.0)
    assert not disturbed(before, Usage(1.0, 102.0, 12.0), cores=2)
    assert not disturbed(before, Usage(1.0, 102.0, 11.95), cores=2)  # a tick or two are the clocks' own
    assert disturbed(before, Usage(1.0, 102.0, 11.0), cores=2)
    assert disturbed(before, Usage(1.0, 100.5, 10.0), cores=2)
    assert not disturbed(None, None, cores=2)


@pytest.mark.skipif(neighbours.usage() is None, reason="there is no /proc here")
def test_a_neighbour_is_noticed():
    before = neighbours.usage()
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.5)
        assert disturbed(before, neighbours.usage(), cores=1)
    finally:
        neighbour.kill()
        neighbour.wait()


def test_patience_waits_for_ten_quiet_looks_and_has_an_end():
    looks = iter([5, 1, 1, 3] + 10 * [1])
    slept = []
    patience = Patience(10.0, slept.append, lambda: next(looks))
    patience.wait()
    assert len(slept) == 14
    patience = Patience(0.5, slept.append, lambda: 9)
    patience.wait()
    assert patience.seconds <= 0


def test_a_disturbed_sample_is_taken_again(monkeypatch):
    verdicts = iter([True, True, False] + 100 * [False])
    monkeypatch.setattr(interleaving, "disturbed", lambda *_: next(verdicts))
    calls = []
    contender = Contender("a", "", "", lambda: (calls.append(1), time.sleep(1.1 * interleaving.WARM)))
    patience = Patience(1e9, lambda _: None, lambda: 1)
    (samples,) = measure([contender], 1e9, 0.0, 2, patience=patience)
    assert len(calls) == 2 + 3 * 2 + 2  # warm-up; three times the first turn; the second
    assert samples.disturbed == 0
    assert len(samples.seconds) == 2


def test_without_patience_it_is_only_counted(monkeypatch):
    monkeypatch.setattr(interleaving, "disturbed", lambda *_: True)
    (samples,) = measure([Contender("a", "", "", lambda: None)], 1e9, 0.0, 3)
    assert samples.disturbed == 3
