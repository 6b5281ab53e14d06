"""What can go wrong from outside: signals, a second trainer, numbers that are not finite."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unnoise.checkpoint import intact
from unnoise.errors import ConfigError, DivergedError
from unnoise.files import discard_leftovers
from unnoise.records import LOCK
from unnoise.training.log import Log
from unnoise.training.run import Run
from unnoise.training.state import Counters, TrainState
from unnoise.training.step import collect_outcomes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

ENDING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGQUIT", "SIGXCPU")
"""SLURM warns with SIGUSR1, a closed terminal sends SIGHUP; Windows has the first two alone."""


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect the signals of ENDING, to end after the step; a second one leaves at once."""
    caught: list[int] = []

    def handler(number: int, frame: object) -> None:
        if caught and number != getattr(signal, "SIGHUP", None):  # which a shell may send again
            raise KeyboardInterrupt
        caught.append(number)

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    if "SIGHUP" in dir(signal) and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)  # as nohup wants it
    # in another thread, as in some notebooks, signals stay with their owner
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in numbers if main}
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def exclusive(folder: Path, main: bool = True) -> Iterator[None]:
    """Own this run folder until the process ends (however it ends); ConfigError if another owns it.

    What killed writers left in the folder is deleted. Ranks other than the main one trust it.
    """
    if not main or fcntl is None:
        yield
        return
    with (folder / LOCK).open("ab+", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConfigError(
                f"{folder}: another trainer (process {lock.read().decode() or 'unknown'}) is at "
                "work here; wait for it, stop it, or use another --out"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()).encode())
        discard_leftovers(folder)
        try:
            yield
        finally:
            lock.truncate(0)


def check_applied(counters: Counters) -> None:
    """DivergedError where a run has come to its end without one step that was applied."""
    if counters.step and counters.skipped >= counters.step:
        raise DivergedError(
            f"training diverged: not one of {counters.step} steps had a finite loss and gradient; "
            "try a lower --train.lr or --train.precision fp32"
        )


def count_steps(run: Run, state: TrainState, log: Log) -> None:
    """Count the steps that the device has done, and report each that was not applied.

    DivergedError after train.max_skipped of them in a row.
    """
    counters, most = state.counters, run.config.train.max_skipped
    for outcome in collect_outcomes(state):
        what = f"step {outcome.step}: loss {outcome.loss:g}, gradient {outcome.norm:g}"
        log.metrics({"step": outcome.step, "nimg": outcome.nimg, "skipped_steps": counters.skipped})
        if counters.skipped_in_row >= most:
            raise DivergedError(
                f"training diverged at {what}, {most} steps in a row not finite; "
                f"{intact(run.folder / 'checkpoints')}; "
                "try a lower --train.lr or --train.precision fp32"
            )
        log.say(f"not applied, {counters.skipped_in_row} of {most} in a row: {what}")
