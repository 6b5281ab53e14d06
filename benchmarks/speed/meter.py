"""One timed call, and how much of the machine others used meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Sample:
    """Seconds of one call; `foreign` is the share of all processors that other processes used meanwhile."""

    sec: float
    foreign: float = 0.0


Taker = Callable[[], Sample]


def busy_sec(stat: str) -> float:
    """Processor seconds that all processes together have used, by the first line of /proc/stat."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_sec() -> float:
    """Processor seconds of this process, all its threads and the children it has waited for."""
    return sum(os.times()[:4])


def take(work: Callable[[], object], synchronise: Callable[[], object] = lambda: None) -> Sample:
    """Time a call; `synchronise` waits for the device before and after."""
    synchronise()
    watched = STAT.is_file()
    busy, own = busy_sec(STAT.read_text()) if watched else 0.0, own_sec()
    began = time.perf_counter()
    work()
    synchronise()
    sec = time.perf_counter() - began
    if not watched:
        return Sample(sec)
    others = busy_sec(STAT.read_text()) - busy - (own_sec() - own)
    return Sample(sec, max(0.0, others / (sec * (os.cpu_count() or 1))))


def repeated(
    work: Callable[[], object], synchronise: Callable[[], object], at_least_sec: float
) -> Taker:
    """Take a call so often at a time that a sample is long enough for the clocks; the sample is of one call."""
    work()
    once = take(work, synchronise).sec
    count = max(1, round(at_least_sec / max(once, 1e-6)))

    def several() -> None:
        for _ in range(count):
            work()

    def taker() -> Sample:
        sample = take(several, synchronise)
        return Sample(sample.sec / count, sample.foreign)

    return taker
