"""The training loop: from a RunConfig to a run folder with a model in it.

Its clock is images seen (nimg). Batches, noise, times and dropout come from (seed, step, stream),
so a run that is interrupted and resumed is the same run, bit for bit (same machine, same number of
threads and ranks).
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from unnoise import checkpoint, environment
from unnoise.config import RunConfig
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.errors import CheckpointError, ConfigError
from unnoise.parallel import process_group
from unnoise.precision import find_device
from unnoise.records import VERDICT
from unnoise.training.checkpointing import SAVE_SEC, Checkpoints, due, resume_run, start
from unnoise.training.faults import check_applied, count_steps, exclusive, signals
from unnoise.training.log import Log
from unnoise.training.preview import Measure, preview
from unnoise.training.run import Run, compiled_run, ends, prepare, preview_times
from unnoise.training.state import TrainState
from unnoise.training.step import draw, learning_rate, train_step

LOG_SEC = 30
"""The longest training without a line of metrics."""
READ_EVERY = {"cpu": 1}
"""Steps until the host asks what came of them, by kind of device; 20 on others."""


@dataclass(frozen=True)
class Ending:
    """How training ended."""

    finished: bool
    signal: int | None = None
    samples: Tensor | None = None
    """Those of the last preview, uint8 (n, c, h, w), if this call made one."""


def train(
    config: RunConfig,
    data: ImageData,
    folder: Path,
    resume: str = "auto",
    measure: Measure | None = None,
) -> Ending:
    """Train until the configured end or a signal; the run folder then holds a model either way.

    `resume` is auto (an earlier run of the same configuration), anyway (of another one too) or
    never (refuse its folder); `measure` gives more numbers for each preview. Under torchrun all
    ranks call this alike; rank 0 writes.
    """
    with process_group(find_device(config.device)) as world:
        run, state = prepare(config, data, folder, compile=False)
        existed = world.broadcast(_existed(folder) if world.main else None)
        if existed and resume == "never":
            expected = "expected --resume auto, which resumes it, or another --out"
            raise ConfigError(f"{folder}: holds a run already; {expected}")
        log, began = Log(run), False
        if not existed:
            start(run, state, log)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder, world.main), signals() as caught:
                if existed:
                    resume_run(run, state, log, anyway=resume == "anyway")
                if run.progress(state.counters) < 1:
                    run = compiled_run(run, state)
                world.barrier()  # until all have read what rank 0 now writes
                if world.main:
                    run.describe()
                    began = True
                    if run.progress(state.counters) < 1:
                        environment.write(folder, run.arithmetic, state.counters.step)
                        (folder / VERDICT).unlink(missing_ok=True)
                        log.open(state.counters.nimg)
                checkpoints = Checkpoints(run, state, log)
                with checkpoints.finished():
                    finished = _loop(run, state, log, checkpoints, measure, caught)
                return Ending(finished, caught[0] if caught else None, log.samples)
        except OSError as error:
            there = checkpoint.intact(folder / "checkpoints")
            fix = "make room and run the same command again"
            if began and not (folder / "config.json").exists():
                fix = "the folder was moved or deleted: put it back, or merge its checkpoints"
            raise CheckpointError(
                f"{folder}: cannot be written ({error.strerror}); {there}; {fix}"
            ) from error
        finally:
            log.close()


def _existed(folder: Path) -> bool:
    """Whether a folder holds a run; CheckpointError for checkpoints whose config.json is gone."""
    if (folder / "config.json").exists():
        return True
    if there := checkpoint.checkpoints(folder / "checkpoints"):
        raise CheckpointError(
            f"{folder}: has {len(there)} checkpoints and no config.json; put it back (it is in "
            f"{there[-1].name}/state.json), move the checkpoints away, or use another --out"
        )
    return False


def _loop(
    run: Run,
    state: TrainState,
    log: Log,
    checkpoints: Checkpoints,
    measure: Measure | None,
    caught: list[int],
) -> bool:
    """Step until the end (True) or a signal (False)."""
    train, counters, device = run.config.train, state.counters, run.arithmetic.device
    read_every = READ_EVERY.get(device.type, 20)
    batches = Batches(run.data, run.config.seed, device)
    marks = preview_times(ends(train, run.data.num_train)[1])
    seen = log.at_sec = counters.train_sec
    state.network.train()
    while run.progress(counters) < 1 and not caught:
        began, before, sec = time.monotonic(), counters.nimg, counters.train_sec
        images = batches.get(counters.nimg, train.batch_size, run.world.rows)
        batch = draw(run, counters.step, *images, train.batch_size)
        lr = learning_rate(train, counters.nimg, run.progress(counters))
        train_step(run, state, batch, lr)

        intervals = train.log_every_kimg, train.sample_every_kimg, train.checkpoint_every_kimg
        log_due, preview_due, save_due = (due(before, counters.nimg, kimg) for kimg in intervals)
        # by the time before this step, which is the same on all ranks
        log_due |= sec - log.at_sec >= LOG_SEC
        early = any(seen < mark <= sec for mark in marks) and not preview_due
        save_due |= sec - checkpoints.at_sec >= SAVE_SEC
        seen = sec
        if log_due or preview_due or early or save_due or len(state.waiting) >= read_every:
            count_steps(run, state, log)
        counters.train_sec += time.monotonic() - began
        _agree(run, state, caught)
        if log_due and counters.loss_steps:
            log.steps(state, lr)
        log.beat(state)
        if run.progress(counters) >= 1:
            break  # what is due at the end is done below, once

        shown = preview_due or early  # by the clock without `measure`, which may take long
        best = shown and preview(run, state, log, measure if preview_due else None)
        if save_due or (best and train.keep_best):
            checkpoints.save(best)

    count_steps(run, state, log)
    finished = run.progress(counters) >= 1
    if finished:
        check_applied(counters)
    preview_due = finished and counters.previewed_nimg != counters.nimg
    best = preview_due and preview(run, state, log, measure)
    # the held-out loss of the end belongs into the last checkpoint
    checkpoints.finish(best, again=preview_due)
    if finished:
        log.progress(1.0)
    return finished


def _agree(run: Run, state: TrainState, caught: list[int]) -> None:
    """Stop all ranks at the same step, for a signal to any of them, and by rank 0's clock."""
    if run.world.size == 1:
        return
    mine = [float(bool(caught)), state.counters.train_sec if run.world.main else 0.0]
    together = torch.tensor(mine, dtype=torch.float64, device=run.arithmetic.device)
    signalled, state.counters.train_sec = run.world.all_reduce_sum(together).tolist()
    if signalled and not caught:
        caught.append(signal.SIGTERM)
