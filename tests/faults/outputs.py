"""An output that breaks or fills while training speaks: nobody listens, and training goes on."""

from __future__ import annotations

import os
import signal

from tests.faults import harness
from tests.faults.harness import STEPS, Fault, Lab, Problems
from unnoise.cli import output

KINDS = ("pipe", "full", "closed")


def trial(lab: Lab, number: int) -> Problems:
    """Training whose outputs die at a random step ends as if nothing had happened."""
    draw = lab.random("outputs", number)
    whole, run = lab.whole(), lab.fresh("outputs") / "run"
    kind, step = KINDS[number % len(KINDS)], draw.randrange(0, STEPS)
    which = draw.choice(((1,), (2,), (1, 2)))

    def fault() -> None:
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
        output.protect()
        harness.before_step(lambda state: _break(kind, which) if state.counters.step == step else 0)

    return harness.finish(run, fault=fault) or harness.different(whole, run)


def _break(kind: str, which: tuple[int, ...]) -> None:
    """Put something dead in place of these descriptors."""
    reader, writer = os.pipe()
    os.close(reader)
    for number in which:
        if kind == "pipe":
            os.dup2(writer, number)
        elif kind == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)
        else:
            os.close(number)
    os.close(writer)


FAULT = Fault(
    "outputs", 30, 3, "stdout or stderr dead, full or closed: exit code 0, result bitwise", trial
)
