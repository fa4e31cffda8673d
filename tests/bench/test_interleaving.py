"""Turns, samples and quantiles, with a clock of our own: nothing here depends on how fast the machine is."""

import math

import numpy as np
import pytest

from lossref.bench import interleaving
from lossref.bench.interleaving import Contender, measure, quantiles, turns


class Clock:
    """Time passes only when somebody works or sleeps."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.log.append("pause")

    def contender(self, name, seconds):
        def call():
            self.now += seconds
            self.log.append(name)

        return Contender(name, "", "fresh", call)


@pytest.mark.parametrize("count", [2, 3, 5, 11, 41])
def test_quantiles_are_numpys(count):
    numbers = np.random.default_rng(count).random(count)
    np.testing.assert_allclose(quantiles(list(numbers)), np.quantile(numbers, [0.2, 0.5, 0.8]), rtol=1e-12)


def test_quantiles_of_one_and_of_none():
    assert quantiles([3.0]) == (3.0, 3.0, 3.0)
    assert all(math.isnan(number) for number in quantiles([]))


def test_each_round_gives_everybody_one_turn_in_a_new_order():
    rounds = list(turns(["a", "b", "c", "d"], 20))
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 5
    assert rounds == list(turns(["a", "b", "c", "d"], 20))  # the same again the next time


def test_no_contender_has_a_second_turn_before_all_had_one():
    clock = Clock()
    measure([clock.contender(name, 0.01) for name in "abc"], 1e9, 0.04, 7, clock, clock.sleep)
    after_warm_up = clock.log[clock.log.index("pause") :]
    sequence = [after_warm_up[i + 1] for i, what in enumerate(after_warm_up) if what == "pause"]
    assert len(sequence) == 21
    assert all(sorted(sequence[i : i + 3]) == ["a", "b", "c"] for i in range(0, 21, 3))


def test_a_turn_is_a_pause_an_untimed_call_and_a_sample():
    clock = Clock()
    (samples,) = measure([clock.contender("a", 0.1)], 1e9, 0.04, 5, clock, clock.sleep)
    assert clock.log == ["a", "a"] + 5 * ["pause", "a", "a"]
    assert samples.seconds == pytest.approx([0.1] * 5)


def test_short_calls_warm_the_processor_up():
    clock = Clock()
    measure([clock.contender("a", interleaving.WARM / 4.5)], 1e9, 0.04, 3, clock, clock.sleep)
    assert clock.log == ["a", "a"] + 3 * ["pause", *"aaaaa", "a"]


def test_a_long_call_does_without_the_untimed_one():
    clock = Clock()
    measure([clock.contender("a", 1.0)], 1e9, 0.04, 3, clock, clock.sleep)
    assert clock.log == ["a", "a"] + 3 * ["pause", "a"]


def test_short_calls_are_timed_many_at_a_time():
    clock = Clock()
    (samples,) = measure([clock.contender("a", 1e-5)], 1e9, 0.04, 3, clock, clock.sleep)
    assert samples.calls == pytest.approx(interleaving.SAMPLE / 1e-5, abs=1)
    assert samples.seconds == pytest.approx([1e-5] * 3)


def test_a_slow_contender_stops_after_its_time_and_the_others_go_on():
    clock = Clock()
    slow, fast = measure(
        [clock.contender("slow", 5.0), clock.contender("fast", 0.01)], 2.0, 0.0, 30, clock, clock.sleep
    )
    assert len(slow.seconds) == interleaving.FEWEST
    assert len(fast.seconds) == 30


def test_warm_rounds_are_not_timed():
    clock = Clock()
    (samples,) = measure([clock.contender("a", 1.0)], 1e9, 0.0, 3, clock, clock.sleep, warm_rounds=2)
    assert clock.log == 4 * ["a"] + 3 * ["pause", "a"]
    assert len(samples.seconds) == len(samples.page_faults) == 3
