"""Timing: candidates take turns (A B A B): a machine that changes its speed does so for all.

A sample also says how much of the machine others used meanwhile; a disturbed one is taken again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

STAT = Path("/proc/stat")
FOREIGN_LIMIT = 0.10
"""A sample during which others used more of the processors is taken again."""


@dataclass(frozen=True)
class Sample:
    """Seconds of one call, and the share of all processors that other processes used meanwhile."""

    sec: float
    foreign: float = 0.0


Work = Callable[[], object]
Taker = Callable[[], Sample]


@dataclass(frozen=True)
class Plan:
    """How often and how patiently."""

    rounds: int = 5
    tries: int = 6
    """Tries of a sample while others use the processors; then the least disturbed one counts."""
    pause_sec: float = 1.0


@dataclass
class Timings:
    """Seconds of each candidate, round by round."""

    sec: dict[str, list[float]] = field(default_factory=dict)
    redone: int = 0
    """Samples thrown away because others used the processors."""
    disturbed: int = 0
    """Samples that count although others used the processors in every try."""

    def medians(self) -> dict[str, float]:
        """Median seconds of each candidate."""
        return {name: spread(values)["median"] for name, values in self.sec.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of some values."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high, "count": len(values)}


def ratio(timings: Timings, name: str, to: str) -> dict[str, float]:
    """How many times as long one candidate takes as another, round by round."""
    return spread([a / b for a, b in zip(timings.sec[name], timings.sec[to], strict=True)])


def synchroniser(device: torch.device) -> Work:
    """What waits until a device has done all that it was asked."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def busy_sec(stat: str) -> float:
    """Processor seconds of all processes together, by the first line of /proc/stat."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def others_sec() -> float:
    """Processor seconds of all but this process and the children it has waited for, if known."""
    return busy_sec(STAT.read_text()) - sum(os.times()[:4]) if STAT.is_file() else 0.0


def take(work: Work, synchronise: Work = lambda: None, calls: int = 1) -> Sample:
    """Time some calls, and give the seconds of one; `synchronise` waits for the device."""
    synchronise()
    before, began = others_sec(), time.perf_counter()
    for _ in range(calls):
        work()
    synchronise()
    sec = time.perf_counter() - began
    others = others_sec() - before
    return Sample(sec / calls, max(0.0, others / (sec * (os.cpu_count() or 1))))


def repeated(work: Work, synchronise: Work, at_least_sec: float) -> Taker:
    """A taker of so many calls at a time that a sample is long enough for the clocks."""
    work()
    once = take(work, synchronise).sec
    calls = max(1, round(at_least_sec / max(once, 1e-6)))
    return lambda: take(work, synchronise, calls)


def undisturbed(taker: Taker, timings: Timings, plan: Plan) -> Sample:
    """A sample taken while others were quiet, or the quietest of some tries."""
    best = taker()
    for _ in range(plan.tries - 1):
        if best.foreign <= FOREIGN_LIMIT:
            return best
        timings.redone += 1
        time.sleep(plan.pause_sec)
        again = taker()
        best = again if again.foreign < best.foreign else best
    timings.disturbed += best.foreign > FOREIGN_LIMIT
    return best


def measure(candidates: Mapping[str, Taker], plan: Plan) -> Timings:
    """Let the candidates take turns; they are warm already."""
    timings = Timings({name: [] for name in candidates})
    for _ in range(plan.rounds):
        for name, taker in candidates.items():
            timings.sec[name].append(undisturbed(taker, timings, plan).sec)
    return timings


def medians(
    works: Mapping[str, Work], rounds: int, device: torch.device, calls: int = 1
) -> dict[str, float]:
    """Median seconds of a call of each, after one call to warm up; no sample is taken again."""
    for work in works.values():
        work()
    wait = synchroniser(device)
    takers = {name: lambda work=work: take(work, wait, calls) for name, work in works.items()}
    return measure(takers, Plan(rounds, tries=1)).medians()
