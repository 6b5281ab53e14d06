"""Killed on entry to each system call of a save: checkpoint.save, save_model and prune.

strace attaches to a forked process and kills it as it enters the n-th system call that changes the
file system (the call itself is not made), so that the points between any two such calls are all
tried, those inside safetensors too. Where strace cannot be used, an audit hook of Python kills
before the n-th open, rename, mkdir, remove, rmdir or chmod; writes, fsyncs and what safetensors
does inside are then not told apart.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.faults import harness
from tests.faults.harness import Child, Fault, Lab, Problems
from unnoise import checkpoint

CALLS = (
    "openat", "open", "creat", "write", "writev", "pwrite64", "fsync", "fdatasync", "rename",
    "renameat", "renameat2", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod",
    "fchmodat", "ftruncate", "fallocate", "link", "linkat", "symlink", "symlinkat",
)  # fmt: skip
AUDITED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
OLD, NEW = (1, 2), 3
AGAIN_EVERY = 6
SHAPE = {"channels": 1, "height": 8, "width": 8}


def groups(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that say of which step they are."""
    return {
        part: {"a": torch.full((3000,), float(step))} for part in ("network", "ema", "optimizer")
    }


def write(run: Path, step: int) -> None:
    """What the loop does to save."""
    checkpoint.save(run / "checkpoints", step, groups(step), {"n": step})
    checkpoint.save_model(
        run / checkpoint.MODEL_FILE, groups(step)["ema"], {"config": {}, "shape": SHAPE, "n": step}
    )
    newest = checkpoint.checkpoints(run / "checkpoints")[-2:]
    checkpoint.prune(run / "checkpoints", {path.name for path in newest})


def _saver(run: Path, step: int, arm: int | None = None) -> tuple[Child, int]:
    """A process that saves when told to, and what tells it; it dies at the audited call `arm`."""
    waits, tells = os.pipe()

    def work() -> int:
        os.close(tells)
        os.read(waits, 1)
        if arm is not None:
            _die_at(arm)
        write(run, step)
        return 0

    child = harness.fork(work, run)
    os.close(waits)
    return child, tells


def _die_at(number: int) -> None:
    seen = 0

    def hook(event: str, _: Any) -> None:
        nonlocal seen
        if event in AUDITED:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _traced(run: Path, step: int, *options: str) -> tuple[int, list[str]]:
    """Save under strace; the exit code and the lines of its log, those of the save alone."""
    child, tells = _saver(run, step)
    log = run.parent / "strace.txt"
    log.unlink(missing_ok=True)
    tracer = subprocess.Popen(
        [
            "strace",
            "-f",
            "-y",
            "-o",
            str(log),
            "-e",
            f"trace=?{',?'.join(CALLS)}",
            *options,
            "-p",
            str(child.pid),
        ],
        stderr=subprocess.DEVNULL,
    )
    status, end = Path(f"/proc/{child.pid}/status"), time.monotonic() + 10
    while (
        "TracerPid:\t0" in status.read_text() and tracer.poll() is None and time.monotonic() < end
    ):
        time.sleep(0.001)
    os.close(tells)
    code = child.wait()
    try:
        tracer.wait(10)
    except subprocess.TimeoutExpired:
        tracer.kill()
        tracer.wait()
    return code, log.read_text().splitlines() if log.exists() else []


@functools.cache
def _points(folder: Path, old: tuple[int, ...]) -> list[tuple[str, int]]:
    """Each system call of a save as (name, number of that name); empty without strace."""
    if not shutil.which("strace"):
        return []
    run = _base(folder / "points" / "run", old)
    code, lines = _traced(run, NEW)
    if code or not any("fsync" in line for line in lines):
        return []
    names = [line.split("(")[0].split()[-1] for line in lines if "(" in line]
    _ORDER.extend(_unsynced(lines, run))
    return [(name, names[: i + 1].count(name)) for i, name in enumerate(names)]


_ORDER: Problems = []
"""Files that the first, undisturbed save renamed into their place before they were fsynced."""


def _unsynced(lines: list[str], run: Path) -> Problems:
    """Written files, and folders, without an fsync: a loss of power could empty them."""
    paths = {line.split("<")[1].split(">")[0] for line in lines if " fsync(" in line}
    synced = {re.sub(r"\.[^/]+\.\d+\.tmp/", "", path) for path in paths}  # by their final names
    final = run / "checkpoints" / checkpoint.name(NEW)
    names = [f"{part}.safetensors" for part in groups(NEW)] + ["state.json", checkpoint.MANIFEST]
    files = [*(final / name for name in names), final, final.parent, run]
    return [
        f"{path.relative_to(run.parent)} is not fsynced"
        for path in (*files, run / checkpoint.MODEL_FILE)
        if str(path) not in synced
    ]


def _base(run: Path, old: tuple[int, ...]) -> Path:
    """A run folder with checkpoints of these steps, and a model."""
    shutil.rmtree(run.parent, ignore_errors=True)
    run.parent.mkdir(parents=True)
    for step in old:
        write(run, step)
    return run


def trial(lab: Lab, number: int) -> Problems:
    """Killed at one point; what is there then, and after the next save."""
    # Some save again the step of the only checkpoint, as a run does that was shortened.
    old = (NEW,) if number % AGAIN_EVERY == AGAIN_EVERY - 1 else OLD
    points = _points(lab.folder, old)
    run = _base(lab.folder / "saves" / "run", old)
    where = (number * 37 + lab.seed) % max(
        len(points), 1
    )  # 37 and their number have no common divisor: spread out
    if points:
        name, count = points[where]
        code, _ = _traced(run, NEW, "-e", f"inject={name}:signal=KILL:when={count}")
        at = f"{count}. {name}"
    else:
        lab.notes.add("saves: strace cannot be used here; killed at Python's audited calls instead")
        child, tells = _saver(run, NEW, arm=number % 30 + 1)
        os.close(tells)
        code, at = child.wait(), f"{number % 30 + 1}. audited call"
    problems = [] if code == -signal.SIGKILL or not points else [f"not killed, exit code {code}"]
    problems += _state(run) + (_ORDER if number == 0 else [])
    write(run, NEW + 1)  # the next save sweeps up
    if harness.steps_of(run) not in ([NEW, NEW + 1], [OLD[1], NEW + 1]):
        problems.append(f"after the next save the checkpoints are {harness.steps_of(run)}")
    if not problems and (run / "checkpoints" / checkpoint.name(NEW)).exists():
        problems += _holds(run / "checkpoints" / checkpoint.name(NEW))
    problems += [f"left over: {p.relative_to(run)}" for p in run.rglob(".*")]
    again = " of saving the same step again" if old == (NEW,) else ""
    return [f"killed at {at}{again}: {problem}" for problem in problems]


def _state(run: Path) -> Problems:
    """Right after the kill: the newest checkpoint is whole, and the model is not ahead of it."""
    found, skipped = checkpoint.newest(run / "checkpoints")
    if found is None or found.name not in (checkpoint.name(OLD[1]), checkpoint.name(NEW)):
        return [f"newest sound checkpoint: {found}", *skipped]
    model = checkpoint.read_model(run / checkpoint.MODEL_FILE)[1]["n"]
    ahead = (
        [f"the model is of step {model}, the checkpoint {found.name}"]
        if checkpoint.name(model) > found.name
        else []
    )
    return [*skipped, *_holds(found), *ahead]


def _holds(path: Path) -> Problems:
    """Whether a checkpoint holds what its name says."""
    tensors, state = checkpoint.load(path)
    right = groups(state["n"])
    same = all(torch.equal(tensors[part]["a"], right[part]["a"]) for part in right)
    return (
        []
        if same and path.name == checkpoint.name(state["n"])
        else [f"{path.name} holds something else"]
    )


FAULT = Fault(
    "saves",
    60,
    12,
    "the older or the new checkpoint whole, none torn, next save sweeps up; fsync order",
    trial,
)
