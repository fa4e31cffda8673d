"""Contenders take turns: what disturbs a machine for a second then disturbs all of them alike.

A round gives each contender one turn, in an order drawn anew each round, so that none always follows the same other.
A turn is: a pause, `WARM` seconds of calls that are not timed, one sample.

The pause lets other thread pools go to sleep. After a call, the threads of OpenBLAS (26 ms) and of OpenMP (some
milliseconds) go on spinning in wait for more work, and on a small machine they would take a core from the next
contender. The untimed calls wake the contender's own threads up, get its pages and caches into the state that
repeated calls find, and the processor out of its rest: after a pause, even a plain sum is slow at first. So
each library is measured with its own waiting policy, as its users have it, and pays for no other's. A call that is long
against all this (`LONG`) does without the untimed ones.

A sample is the mean of as many calls as take `SAMPLE` seconds, at least one. A sample during which other processes
used the processors is marked as disturbed (see `neighbours`). With patience, a turn begins when the machine is quiet,
and a disturbed sample is taken again.
"""

import math
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .neighbours import RETRIES, Patience, disturbed, page_faults, usage

PAUSE = 0.04
WARM = 0.02
SAMPLE = 0.003
LONG = 0.2
FEWEST, MOST = 3, 41  # samples


@dataclass
class Contender:
    """One way to compute something."""

    provider: str  # "lossref numba", "torch", "machine", …
    algorithm: str
    output: str  # "fresh", "out=", or "" where there is none worth mentioning
    call: Callable[[], Any]

    @property
    def name(self) -> tuple[str, str, str]:
        return self.provider, self.algorithm, self.output


@dataclass
class Samples:
    """The seconds a call of one contender, one number a round."""

    contender: Contender
    seconds: list[float] = field(default_factory=list)
    calls: int = 1
    spent: float = 0.0
    disturbed: int = 0
    page_faults: list[float] = field(default_factory=list)  # a call, of each sample
    long: bool = False

    def quantiles(self) -> tuple[float, float, float]:
        return quantiles(self.seconds)


def quantiles(numbers: list[float]) -> tuple[float, float, float]:
    """p20, p50, p80, interpolated linearly between neighbours."""
    if not numbers:
        return (math.nan,) * 3
    if len(numbers) == 1:
        return (numbers[0],) * 3
    tenths = statistics.quantiles(numbers, n=10, method="inclusive")
    return tenths[1], tenths[4], tenths[7]


def turns(contenders: list, rounds: int, seed: int = 0) -> Iterator[list]:
    """The order of each round: every contender once."""
    rng = random.Random(seed)
    for _ in range(rounds):
        yield rng.sample(contenders, len(contenders))


def seconds_of(call: Callable[[], Any], calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """The mean time of some calls one after the other."""
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def warm(call: Callable[[], Any], clock: Callable[[], float]) -> None:
    """Calls that are not timed, at least one."""
    start = clock()
    call()
    while clock() - start < WARM:
        call()


def measure(
    contenders: list[Contender],
    seconds: float,
    pause: float = PAUSE,
    rounds: int = MOST,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    patience: Patience | None = None,
    warm_rounds: int = 0,
) -> list[Samples]:
    """Samples of every contender. One that has used up its `seconds` and has `FEWEST` samples takes no more turns.

    warm_rounds: rounds that are not timed, in which an allocator that keeps its pages gets the pages to keep.
    """
    patience = patience or Patience()
    found = []
    for contender in contenders:
        samples = Samples(contender)
        contender.call()  # compiles, allocates, loads
        once = seconds_of(contender.call, 1, clock)
        samples.calls = max(1, min(10_000, math.ceil(SAMPLE / max(once, 1e-9))))
        samples.long = once > LONG
        found.append(samples)
    for order in turns(found, warm_rounds, seed=1):
        for samples in order:
            samples.contender.call()
    active = list(found)
    for order in turns(found, rounds):
        for samples in order:
            if samples not in active:
                continue
            start = clock()
            time_of_sample, was_disturbed, faults = turn(samples, pause, clock, sleep, patience)
            samples.seconds.append(time_of_sample)
            samples.page_faults.append(faults)
            samples.disturbed += was_disturbed
            samples.spent += clock() - start if patience.seconds <= 0 else pause + time_of_sample * samples.calls
            if samples.spent > seconds and len(samples.seconds) >= FEWEST:
                active = [other for other in active if other is not samples]
        if not active:
            break
    return found


def turn(samples: Samples, pause: float, clock, sleep, patience: Patience) -> tuple[float, bool, float]:
    """One sample; whether others disturbed it; its page faults."""
    cores = os.cpu_count() or 1
    call, taken = samples.contender.call, (math.nan, True, math.nan)
    for _ in range(RETRIES):
        patience.wait()
        sleep(pause)
        if not samples.long:
            warm(call, clock)
        before, faults = usage(), page_faults()
        number = seconds_of(call, samples.calls, clock)
        taken = number, disturbed(before, usage(), cores), (page_faults() - faults) / samples.calls
        if not taken[1] or patience.seconds <= 0:
            break
    return taken
