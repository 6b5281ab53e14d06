"""What can go wrong from outside: signals, a second trainer, numbers that are not finite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from unnoise.checkpoint import intact
from unnoise.errors import ConfigError, DivergedError
from unnoise.files import discard_leftovers
from unnoise.training.log import Log
from unnoise.training.run import Run
from unnoise.training.state import TrainState
from unnoise.training.step import collect_outcomes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
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
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not the main thread, as in some notebooks: signals stay with their owner
        yield caught
        return
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
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 20).decode() or "unknown"
            raise ConfigError(
                f"{folder}: another trainer (process {owner}) is at work here; "
                "wait for it, stop it, or use another --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        discard_leftovers(folder)
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def histogram(noise: Tensor, bins: int = 8) -> str:
    """Count values of sigma / alpha in intervals: "0.01 to 0.05: 3, 0.05 to 0.2: 11"."""
    logs = noise.double().flatten().clamp(1e-6, 1e6).log10()
    low, high = float(logs.min()), float(logs.max()) + 1e-9
    counts = torch.histc(logs, bins, low, high).int().tolist()
    edges = [10 ** (low + (high - low) * i / bins) for i in range(bins + 1)]
    parts = [
        f"{edges[i]:.2g} to {edges[i + 1]:.2g}: {count}" for i, count in enumerate(counts) if count
    ]
    return ", ".join(parts)


def count_steps(run: Run, state: TrainState, log: Log) -> None:
    """Count the steps that the device has done, and report each that was not applied.

    DivergedError after train.max_skipped of them in a row.
    """
    counters, most = state.counters, run.config.train.max_skipped
    for outcome in collect_outcomes(run, state):
        what = f"step {outcome.step}: loss {outcome.loss:g}, gradient {outcome.norm:g}"
        skipped = {"step": outcome.step, "nimg": outcome.nimg, "skipped_steps": counters.skipped}
        log.metrics(skipped)
        if counters.skipped_in_row >= most:
            noise = histogram(torch.cat(state.outcomes.skipped_noise))
            raise DivergedError(
                f"training diverged at {what}, {most} steps in a row not finite; "
                f"images by sigma / alpha: {noise}; {intact(run.folder / 'checkpoints')}; "
                "try a lower --train.lr or --train.precision fp32"
            )
        log.say(f"not applied, {counters.skipped_in_row} of {most} in a row: {what}")
