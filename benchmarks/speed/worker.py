"""The other end of a subject's process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from benchmarks.speed.flops import Operation
from benchmarks.speed.meter import Sample
from benchmarks.speed.record import ROOT
from benchmarks.speed.subjects.subject import Missing, Setting


class Failed(RuntimeError):
    """A subject that ended with an error, which is said in one line; its output names the place."""


class Worker:
    """A subject in a process of its own, alive until the end of the `with`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._room = (
            tempfile.TemporaryDirectory()
        )  # its log, and all that it writes into temporary folders
        self._log = Path(self._room.name) / "log"
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child", json.dumps(dataclasses.asdict(setting))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("w"), text=True,
            env={**os.environ, "TMPDIR": self._room.name, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        self._about: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self._about = self._hear()["about"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.kill()
        self._process.wait()
        self._room.cleanup()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        told = (
            json.loads(line) if line else {"failed": f"ended without a word; {self._last_words()}"}
        )
        if "missing" in told:
            raise Missing(told["missing"])
        if "failed" in told:
            raise Failed(
                f"{self.setting.subject} ({self.setting.way}): {told['failed']}; {self._last_words()}"
            )
        return told

    def _last_words(self) -> str:
        lines = [
            line for line in self._log.read_text(errors="replace").splitlines() if line.strip()
        ]
        return " | ".join(line.strip() for line in lines[-3:])

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
        self._about["calls"] = told["calls"]
        return Sample(told["sec"], told["foreign"])

    @property
    def about(self) -> dict[str, Any]:
        """What it says of itself, without its operations."""
        return {name: value for name, value in self._about.items() if name != "operations"}

    @property
    def operations(self) -> list[Operation]:
        """The operations of a forward pass of its batch."""
        return [Operation(*parts) for parts in self._about["operations"]]
