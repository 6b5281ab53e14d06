"""kill -9 at any moment, of a forked trainer and sometimes of a real `unnoise train`."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults import harness
from tests.faults.harness import EVERY, STEPS, Fault, Lab, Problems
from unnoise import checkpoint
from unnoise.errors import CheckpointError

REAL_EVERY, REAL = 25, 3
"""One in so many trials is a process of its own from its first import on."""


def trial(lab: Lab, number: int) -> Problems:
    """Killed one to three times and run on to the end."""
    draw = lab.random("kills", number)
    whole, run = lab.whole(), lab.fresh("kills") / "run"
    if number % REAL_EVERY == REAL:
        return _kill_real(run, draw) or harness.resumed(run, whole)
    done, problems = 0, []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        child = harness.start(run)
        step = draw.randrange(-1, STEPS)
        if child.reached(max(step, 0)) and step >= 0:  # -1: while it starts
            harness.pause(
                draw.random() * draw.choice((0.02, 0.2))
            )  # within the step, or what follows it
        child.send(signal.SIGKILL)
        child.wait()
        problems += _lost(done, child)
        done = max(done, *child.steps, 0) if child.steps else done
        problems += sound(run)
        if child.code == 0:
            break
    child = harness.start(run)
    if child.wait():
        return [*problems, f"not resumed, exit code {child.code}: {child.err[-600:]!r}"]
    return problems + _lost(done, child) + harness.different(whole, run)


def _lost(done: int, child: harness.Child) -> Problems:
    """More work done again than between two checkpoints."""
    again = done - child.steps[0] if child.steps else 0
    return [f"{again} steps lost, expected at most {EVERY}"] if again > EVERY else []


def sound(run: Path) -> Problems:
    """What is there under a checkpoint's name verifies, and no picture or model is torn."""
    _, skipped = checkpoint.newest(run / "checkpoints")
    problems = [f"kill left {reason}" for reason in skipped]
    if (run / checkpoint.MODEL_FILE).exists():
        try:
            checkpoint.read_model(run / checkpoint.MODEL_FILE)
        except CheckpointError as error:
            problems.append(f"kill left {error}")
    return problems


def _kill_real(run: Path, draw: random.Random) -> Problems:
    """A process of its own, killed a moment after a line of its metrics."""
    lines = draw.randrange(0, STEPS // 3)
    with (run.parent / "real.txt").open("w") as text:
        process = subprocess.Popen(
            [sys.executable, "-m", "unnoise", *harness.command(run)],
            stdout=text,
            stderr=subprocess.STDOUT,
        )
        file, end = run / "metrics.jsonl", time.monotonic() + harness.LIMIT_SEC
        while process.poll() is None and time.monotonic() < end:
            if lines == 0 or (file.exists() and file.read_bytes().count(b"\n") >= lines):
                break
            time.sleep(0.002)
        harness.pause(draw.random() * 0.04)
        process.kill()
        process.wait()
    if time.monotonic() > end:
        return ["no metrics were written in time"]
    return sound(run)


FAULT = Fault(
    "kills",
    200,
    4,
    "weights, EMA, optimizer, counters, metrics, samples, model bitwise; lost work",
    trial,
)
