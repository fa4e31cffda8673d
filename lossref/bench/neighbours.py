"""What else runs on the machine: a sample counts as disturbed if other processes used the processors meanwhile.

The criterion does not look at the sample's own time, so to throw disturbed samples away favours nobody. Known on Linux
only, from /proc; elsewhere nothing counts as disturbed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TICK = 0.01  # the kernel counts processor time in such steps
SHARE = 0.04  # of the processors, used by others: more than this is a disturbance
RETRIES = 5


@dataclass
class Usage:
    """Seconds so far: of the clock, of all processors in use, of those used by this process."""

    clock: float
    machine: float
    own: float


def usage() -> Usage | None:
    try:
        text = Path("/proc/stat").read_text()
    except OSError:
        return None
    user, nice, system, _idle, _io, interrupts, soft, stolen = map(int, text.split(maxsplit=9)[1:9])
    machine = (user + nice + system + interrupts + soft + stolen) * TICK
    times = os.times()
    return Usage(time.perf_counter(), machine, times.user + times.system)


def disturbed(before: Usage | None, after: Usage | None, cores: int) -> bool:
    """Whether others used more than `SHARE` of the processors in between (with two ticks of doubt)."""
    if before is None or after is None:
        return False
    others = (after.machine - before.machine) - (after.own - before.own)
    return others > SHARE * cores * (after.clock - before.clock) + 2 * TICK


def page_faults() -> int:
    """How many pages this process has been given so far."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def running() -> int:
    """How many threads run or want to, this one included."""
    try:
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
    except OSError:
        return 1


@dataclass
class Patience:
    """How long may be waited in all for the machine to be quiet."""

    seconds: float = 0.0
    sleep: Callable[[float], None] = time.sleep
    running: Callable[[], int] = running

    def wait(self) -> None:
        """Until nobody else wants to run, ten times in a row, or patience is at its end."""
        quiet = 0
        while self.seconds > 0 and quiet < 10:
            quiet = quiet + 1 if self.running() <= 1 else 0
            self.sleep(0.01)
            self.seconds -= 0.01
