"""A second trainer on the same run folder."""

from __future__ import annotations

import os
import signal

from tests.faults import harness
from tests.faults.harness import STEPS, Fault, Lab, Problems


def trial(lab: Lab, number: int) -> Problems:
    """One waits in a step, another tries; then the first goes on, or is killed."""
    draw = lab.random("lock", number)
    whole, run = lab.whole(), lab.fresh("lock") / "run"
    step, (waits, tells) = draw.randrange(0, STEPS - 1), os.pipe()
    first = harness.start(
        run,
        fault=lambda: harness.before_step(
            lambda state: _wait_at(state.counters.step == step, waits, tells)
        ),
    )
    os.close(waits)
    first.reached(step)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    flags = draw.choice(((), ("--resume", "anyway"), ("--train.kimg", "1")))
    second = harness.fork(
        lambda: harness.cli.main(harness.command(run, flags)), run.parent / "second"
    )
    second.wait()
    problems = second.one_line(2, "another trainer", f"process {first.pid}")
    if before != {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}:
        problems.append("the second trainer changed files of the first")
    if number % 2:
        first.send(signal.SIGKILL)
        first.wait()
        os.close(tells)
        return problems + harness.resumed(run, whole)
    os.close(tells)
    if first.wait():
        problems.append(f"the first ended with {first.code}: {first.err[-300:]!r}")
    return problems + harness.different(whole, run)


def _wait_at(here: bool, waits: int, tells: int) -> None:
    if here:
        os.close(tells)
        os.read(waits, 1)


FAULT = Fault(
    "lock",
    10,
    2,
    "second trainer refused in one line, exit code 2; first one's result bitwise; free after kill",
    trial,
)
