"""The other end of the subjects' processes, and ours next to each peer in turn."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.record import ROOT
from benchmarks.speed.flops import Operation
from benchmarks.speed.subject import OURS, Missing, Setting
from benchmarks.timing import Plan, Sample, Timings, measure

WARM = {"training": 2, "sampling": 1}
"""Calls before the clock starts; one of sampling is many of the network."""


class Failed(RuntimeError):
    """A subject that ended with an error, said in one line; its output names the place."""


class Worker:
    """A subject in a process of its own, alive until the end of the `with`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._room = tempfile.TemporaryDirectory()  # its log, and its temporary files
        self._log = Path(self._room.name) / "log"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        asked = json.dumps(dataclasses.asdict(setting))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child", asked], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("w"),
            env={**os.environ, "TMPDIR": self._room.name, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self.about: dict[str, Any] = {}
        """What it says of itself."""
        self.operations: list[Operation] = []
        """The operations of a forward pass of its batch."""

    def __enter__(self) -> Self:
        try:
            self.about = self._hear()["about"]
            self.operations = [Operation(*parts) for parts in self.about.pop("operations")]
            self.ask(do="warm", times=WARM[self.setting.work])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()
        self._room.cleanup()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        told = json.loads(line) if line else {"failed": "ended without a word"}
        if "missing" in told:
            raise Missing(told["missing"])
        if "failed" in told:
            lines = filter(None, map(str.strip, self._log.read_text(errors="replace").splitlines()))
            where = f"{self.setting.subject} ({self.setting.way})"
            raise Failed(f"{where}: {told['failed']}; {' | '.join([*lines][-3:])}")
        return told

    def ask(self, **asked: Any) -> dict[str, Any]:
        """Tell it to do something, and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said before it ended is heard below
        return self._hear()

    def take(self) -> Sample:
        """One timed call."""
        told = self.ask(do="take")
        self.about["calls"] = told["calls"]
        return Sample(told["sec"], told["foreign"])


@dataclass(frozen=True)
class Pair:
    """A peer and what was timed of it and of ours; the last pair is ours with all its samples."""

    peer: str
    worker: Worker
    timings: Timings


def pairs(
    setting: Setting, peers: Sequence[str], plan: Plan, say: Callable[[str], object] = print
) -> Iterator[Pair]:
    """Time ours next to every peer that is there; the workers live while a pair is looked at.

    Two processes are alive at a time, so that memory suffices for any number of peers.
    """
    with Worker(dataclasses.replace(setting, subject=OURS)) as ours:
        all_of_ours = Timings({OURS: []})
        for name in peers:
            try:
                with Worker(dataclasses.replace(setting, subject=name)) as peer:
                    timings = measure({OURS: ours.take, name: peer.take}, plan)
                    all_of_ours.sec[OURS] += timings.sec[OURS]
                    all_of_ours.redone += timings.redone
                    all_of_ours.disturbed += timings.disturbed
                    yield Pair(name, peer, timings)
            except (Missing, Failed) as reason:
                say(str(reason))
        if not all_of_ours.sec[OURS]:
            all_of_ours = measure({OURS: ours.take}, plan)
        yield Pair(OURS, ours, all_of_ours)
