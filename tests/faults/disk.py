"""Errors of the disk: ENOSPC, EIO, EDQUOT at a write, fsync or rename, and a really full disk."""

from __future__ import annotations

import builtins
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tests.faults import harness
from tests.faults.harness import Fault, Lab, Problems
from unnoise import checkpoint

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
REAL_EVERY = 10
"""One trial in so many is on a full tmpfs (if this user may mount one)."""


class Disk:
    """In a forked trainer: writes, fsyncs and renames number first to last - 1 fail."""

    def __init__(self, number: int, first: int, last: float) -> None:
        self.number, self.first, self.last, self.count = number, first, last, 0

    def install(self) -> None:
        os.fsync, os.replace = self._failing(os.fsync), self._failing(os.replace)
        Path.write_text = self._torn_text(Path.write_text)
        checkpoint.save_file = self._torn_tensors(checkpoint.save_file)
        Path.open = self._appending(Path.open)

    def fails(self) -> bool:
        self.count += 1
        return self.first <= self.count - 1 < self.last

    def error(self) -> OSError:
        return OSError(self.number, os.strerror(self.number))

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **names: Any) -> Any:
            if self.fails():
                raise self.error()
            return real(*arguments, **names)

        return call

    def _torn_text(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write_text(path: Path, text: str, *rest: Any) -> int:
            if self.fails():
                real(path, text[: len(text) // 2])
                raise self.error()
            return real(path, text, *rest)

        return write_text

    def _torn_tensors(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def save_file(tensors: Any, path: Path, metadata: Any = None) -> None:
            fails = self.fails()
            real(tensors, path, metadata)
            if fails:  # as safetensors says it
                os.truncate(path, path.stat().st_size // 2)
                raise SafetensorError(
                    "Error while serializing: I/O error: "
                    f"{os.strerror(self.number)} (os error {self.number})"
                )

        return save_file

    def _appending(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def open(path: Path, mode: str = "r", *rest: Any, **names: Any) -> Any:
            if mode == "a" and self.fails():
                with builtins.open(path, "a") as file:
                    file.write('{"step": 1')
                raise self.error()
            return real(path, mode, *rest, **names)

        return open


def _operations(lab: Lab) -> int:
    """How many writes, fsyncs and renames an undisturbed run makes."""

    def count(run: Path) -> Problems:
        disk = Disk(0, 0, 0)

        def work() -> int:
            code = harness.cli.main(harness.command(run))
            print(disk.count)
            return code

        child = harness.fork(work, run, disk.install)
        return [] if child.wait() == 0 and child.out.split()[-1].isdigit() else [child.err]

    return int(lab.once("operations", count).with_suffix(".out").read_text().split()[-1])


def trial(lab: Lab, number: int) -> Problems:
    """An error at one operation, or from it on; then room is made."""
    draw = lab.random("disk", number)
    if number % REAL_EVERY == REAL_EVERY - 1 and os.geteuid() == 0:
        return _full(lab, draw.uniform(0.5, 3.5))
    run, error = lab.fresh("disk") / "run", ERRORS[number % 3]
    first = draw.randrange(_operations(lab))
    last = draw.choice((first + 1, float("inf")))
    child = harness.start(run, fault=Disk(error, first, last).install)
    child.wait()
    problems = child.one_line(2, os.strerror(error)) + _older(run, child)
    later = "" if last == first + 1 else " and all later ones"
    where = f"{os.strerror(error)} at operation {first}{later}: "
    return [where + problem for problem in problems + harness.resumed(run, lab.whole())]


def _older(run: Path, child: harness.Child) -> Problems:
    """All that is there verifies, what was said to be saved is there, and no half of anything."""
    _, skipped = checkpoint.newest(run / "checkpoints")
    said = re.findall(r"saved .*/(step-\d+)", child.out)[-1:]
    there = [path.name for path in checkpoint.checkpoints(run / "checkpoints")]
    problems = skipped + [
        f"{name} was saved and is not there" for name in said if name not in there
    ]
    return problems


def _full(lab: Lab, room: float) -> Problems:
    """A tmpfs with room for `room` checkpoints; somebody else fills the rest. Then he leaves."""
    whole = lab.whole()
    place = lab.fresh("full") / "tmpfs"
    place.mkdir()
    size = sum(
        p.stat().st_size for p in checkpoint.checkpoints(whole / "checkpoints")[-1].iterdir()
    )
    options = f"size={64 * size},mode=755"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        lab.notes.add("disk: no tmpfs can be mounted here; all errors were made in the process")
        return []
    ballast = place / "ballast"

    def fill(state: Any) -> None:
        if state.counters.step == 1:
            free = shutil.disk_usage(place).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - int(room * size))

    try:
        run = place / "run"
        texts = lab.folder / "full" / "run"
        work = harness.command(run)
        child = harness.fork(
            lambda: harness.cli.main(work), texts, lambda: harness.before_step(fill)
        )
        child.wait()
        where = f"tmpfs with room for {room:.2f} checkpoints: "
        problems = child.one_line(2, "No space left on device") + _older(run, child)
        ballast.unlink(missing_ok=True)
        done = harness.fork(lambda: harness.cli.main(work), texts)
        if done.wait():
            problems.append(f"not resumed: {done.err[-300:]!r}")
        return [where + p for p in problems + harness.different(whole, run)]
    finally:
        subprocess.run(["umount", str(place)], check=True)


FAULT = Fault(
    "disk",
    40,
    7,
    "one line, exit code 2, older ones verify, resumed bitwise",
    trial,
)
