"""A B A B: candidates take turns, so that a machine that changes its speed changes it for all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.speed.meter import Sample, Taker

FOREIGN_LIMIT = 0.10
"""A sample during which others used more of the processors is taken again."""


@dataclass(frozen=True)
class Plan:
    """How often and how patiently."""

    rounds: int = 5
    tries: int = 6
    """Of a sample, while others use the processors; then the least disturbed one counts."""
    pause_sec: float = 1.0


@dataclass
class Timings:
    """Seconds of each candidate, round by round."""

    sec: dict[str, list[float]] = field(default_factory=dict)
    redone: int = 0
    """Samples thrown away because others used the processors."""
    disturbed: int = 0
    """Samples that count although others used them in every try."""


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float
    count: int


def quantile(values: Sequence[float], share: float) -> float:
    """The value at a share of the sorted values, linear between two of them."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of some values."""
    return Spread(
        quantile(values, 0.5), quantile(values, 0.25), quantile(values, 0.75), len(values)
    )


def ratio(timings: Timings, name: str, to: str) -> Spread:
    """How many times as long one candidate takes as another, round by round."""
    return spread([a / b for a, b in zip(timings.sec[name], timings.sec[to], strict=True)])


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
