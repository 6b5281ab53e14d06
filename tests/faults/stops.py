"""The signals that ask a run to end, at any moment, once or twice."""

from __future__ import annotations

import os
import signal

from tests.faults import harness
from tests.faults.harness import STEPS, Fault, Lab, Problems
from unnoise import checkpoint
from unnoise.training import run as run_module

LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (*LEAVING, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU)


def trial(lab: Lab, number: int) -> Problems:
    """Every fourth trial sends a second signal at once, some send one before the first step."""
    draw = lab.random("stops", number)
    whole, run = lab.whole(), lab.fresh("stops") / "run"
    sent, step = SIGNALS[number % len(SIGNALS)], draw.randrange(0, STEPS - 1)
    if number % 4 == 3:
        return _twice(run, sent, draw.choice(LEAVING), step) or harness.resumed(run, whole)
    early = number % 8 == 2
    if early:
        child, step = harness.start(run, fault=lambda: _before_the_first(sent)), -1
        child.wait()
    else:
        child = harness.start(run)
        child.reached(step)
        harness.pause(draw.random() * draw.choice((0.0, 0.02, 0.2)))
        child.send(sent)
        child.wait()
    ended = child.steps[-1] + 1 if child.steps else 0
    if child.code == 0 and ended == STEPS:  # it was on its last step already
        return harness.different(whole, run)
    problems = (
        []
        if child.code == 128 + sent
        else [f"exit code {child.code}, expected {128 + sent}: {child.err[-300:]!r}"]
    )
    found, skipped = checkpoint.newest(run / "checkpoints")
    if skipped or found is None or found.name != checkpoint.name(ended):
        problems.append(f"newest checkpoint {found}, expected {checkpoint.name(ended)} {skipped}")
    if child.err or "resumes it" not in child.out:
        problems.append(f"said {child.err!r} {child.out[-200:]!r}")
    return problems + harness.resumed(run, whole)


def _before_the_first(number: int) -> None:
    """Send a signal to this process as it writes config.json."""
    real = run_module.write_json

    def write(path, value) -> None:
        if path.name == "config.json":
            os.kill(os.getpid(), number)
        real(path, value)

    run_module.write_json = write


def _twice(run, first: int, second: int, step: int) -> Problems:
    """Two signals within a step: it leaves without ending the step, and saves nothing."""

    def send(state) -> None:
        if state.counters.step == step:
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), second)

    child = harness.start(run, fault=lambda: harness.before_step(send))
    child.wait()
    problems = (
        []
        if child.code in (130, 128 + first)
        else [f"exit code {child.code} after two signals: {child.err!r}"]
    )
    if child.steps[-1] != step:
        problems.append(f"went on to step {child.steps[-1]} after two signals at {step}")
    last = harness.steps_of(run)[-1:]
    if last and last[0] > step:
        problems.append(f"saved step {last[0]} after two signals at {step}")
    return problems


FAULT = Fault(
    "signals",
    40,
    6,
    "exit code 128+n, checkpoint of the step in hand, resumed run bitwise; twice: at once",
    trial,
)
