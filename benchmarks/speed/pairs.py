"""Ours beside each peer in turn: two processes are alive at a time, so that memory suffices for any number of peers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.speed.interleave import Plan, Timings, measure
from benchmarks.speed.subjects import OURS
from benchmarks.speed.subjects.subject import Missing, Setting
from benchmarks.speed.worker import Failed, Worker

WARM = {"training": 2, "sampling": 1}
"""Calls before the clock starts; one of sampling is many of the network."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class Pair:
    """A peer and what was timed of it and of ours; `peer` is ours itself for the last one, which has all its samples."""

    peer: str
    worker: Worker
    timings: Timings


def each(setting: Setting, peers: Sequence[str], plan: Plan, say: Say = print) -> Iterator[Pair]:
    """Time ours beside every peer that is there; the last pair is ours alone. The workers live while a pair is looked at."""
    with Worker(dataclasses.replace(setting, subject=OURS)) as ours:
        ours.ask(do="warm", times=WARM[setting.work])
        all_of_ours = Timings({OURS: []})
        for name in peers:
            try:
                with Worker(dataclasses.replace(setting, subject=name)) as peer:
                    peer.ask(do="warm", times=WARM[setting.work])
                    timings = measure({OURS: ours.take, name: peer.take}, plan)
                    _gather(all_of_ours, timings)
                    yield Pair(name, peer, timings)
            except (Missing, Failed) as reason:
                say(str(reason))
        if not all_of_ours.sec[OURS]:
            all_of_ours = measure({OURS: ours.take}, plan)
        yield Pair(OURS, ours, all_of_ours)


def _gather(into: Timings, timings: Timings) -> None:
    into.sec[OURS] += timings.sec[OURS]
    into.redone += timings.redone
    into.disturbed += timings.disturbed
