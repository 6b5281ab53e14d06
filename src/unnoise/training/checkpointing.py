"""The checkpoints of a run: which stay, how a run resumes, and writing in the background.

In the background a thread writes a copy of the state in the host's memory, while steps go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from threading import Thread
from typing import Any

from unnoise import checkpoint
from unnoise.checkpoint import Tensors
from unnoise.config import differences
from unnoise.errors import CheckpointError, ConfigError, DivergedError
from unnoise.records import read_run, run_config
from unnoise.training import state as states
from unnoise.training.log import Log
from unnoise.training.run import Run
from unnoise.training.state import TrainState
from unnoise.training.step import learning_rate

Groups = dict[str, Tensors]

SAVE_SEC = 300
"""The longest training without a checkpoint."""

MAY_CHANGE = (
    "train.epochs", "train.kimg", "train.time", "train.log_every", "train.sample_every",
    "train.evaluate", "train.checkpoint_every", "train.keep_", "train.max_skipped", "train.on_save",
    "train.async_save", "train.parallel", "train.tensorboard", "sample.", "device",
    "data.source", "data.cache", "data.path", "imports",
)  # fmt: skip
"""Fields that a resumed run may change: they do not change what is learned up to the same point.

The images themselves are compared by their fingerprint, wherever they lie.
"""


def resume_run(run: Run, state: TrainState, log: Log, anyway: bool) -> None:
    """Load the newest sound checkpoint of the run folder, if there is one.

    ConfigError where the run had another configuration or other images, unless `anyway`.
    """
    before, fingerprint = run_config(run.folder), read_run(run.folder)["data"]
    changed = [line for line in differences(before, run.config) if not line.startswith(MAY_CHANGE)]
    if fingerprint != run.data.fingerprint:
        changed.append("the training images")
    if changed and not anyway:
        raise ConfigError(
            f"{run.folder}: was trained with another configuration ({'; '.join(changed[:3])}); "
            f"unnoise train {run.folder} goes on with its own; or another --out, or --resume anyway"
        )
    if changed:
        log.say(f"changed since the last start: {'; '.join(changed)}")
    folder = run.folder / "checkpoints"
    path, skipped = run.world.broadcast(
        checkpoint.newest(folder, states.read) if run.world.main else None
    )
    for reason in skipped:
        log.say(f"skipped: {reason}")
    if path is None and skipped:
        raise CheckpointError(
            f"{run.folder}: no sound checkpoint is left; {skipped[0]}; "
            f"delete {folder} to start again, or use another --out"
        )
    if path is None:  # it was interrupted before the first
        start(run, state, log)
    else:
        states.restore(path, state)
        nimg = state.counters.nimg
        log.say(f"resuming from {path} ({nimg / 1000:.1f} kimg)")
        done = [replace(run, config=c).progress(state.counters) for c in (before, run.config)]
        then, now = (learning_rate(run.config.train, nimg, progress) for progress in done)
        if done[1] < 1 and not math.isclose(then, now, rel_tol=0.01):
            jump = f"the learning rate jumps from {then:.3g} to {now:.3g}"
            log.say(f"the end of the run has moved: {jump} and follows its schedule to the new end")
    log.cut(state.counters.step)


def start(run: Run, state: TrainState, log: Log) -> None:
    """Start a run from the weights of `train.start`, where it says so."""
    if name := run.config.train.start:
        anew = states.start(name, state)
        told = [f"weights {state.counters.started_from}", *([anew] if anew else [])]
        log.say(f"starts from {name} ({'; '.join(told)})")


class Checkpoints:
    """Writes the checkpoints and model files of a run."""

    def __init__(self, run: Run, state: TrainState, log: Log) -> None:
        self.run, self.state, self.log = run, state, log
        self.folder = run.folder / "checkpoints"
        how, on_gpu = run.config.train.async_save, run.arithmetic.device.type != "cpu"
        self.saver = Saver(background=how == "on" or (how == "auto" and on_gpu))
        self.saved_nimg = state.counters.nimg if state.counters.step else -1
        """Images seen at the last checkpoint that is there whole."""
        self.at_sec = state.counters.train_sec
        """Seconds of training at the last call of `save`."""

    def save(self, best: bool, last: bool = False) -> None:
        """Write a checkpoint and the model files; raise where the last one cannot be written."""
        run, counters, groups = self.run, self.state.counters, states.tensors(self.state)
        best_before, self.at_sec = counters.best_step, counters.train_sec
        counters.best_step = counters.step if best else best_before
        if not run.world.main:
            return
        for name, group in groups.items():
            bad = [key for key, value in group.items() if not value.isfinite().all()]
            if bad:
                raise DivergedError(
                    f"step {counters.step}: {name}: {bad[0]} is not finite and was not saved; "
                    f"{checkpoint.intact(self.folder)}"
                )
        record = run.record(counters)
        scaler, epoch = self.state.scaler.state_dict(), counters.nimg / run.data.num_train
        values = {**asdict(counters), "scaler": scaler, "epoch": epoch, **record}
        step, nimg, best_step = counters.step, counters.nimg, counters.best_step

        def write(groups: Groups) -> None:
            """Write the state of then, while `counters` may be ahead."""
            try:
                path = checkpoint.save(self.folder, step, groups, values)
                self._write_models(groups, record)
            except CheckpointError as error:
                if last or run.config.train.on_save_error == "stop":
                    raise
                if counters.best_step == step:
                    counters.best_step = best_before
                self.log.say(f"NOT SAVED, training continues: {error}")
                return
            self.saved_nimg = nimg
            self.log.say(f"saved {path}")
            with self.log.forgiving("old checkpoints not deleted"):
                checkpoint.prune(self.folder, self._kept(step, best_step))

        self.saver.start(write, groups)

    def _kept(self, step: int, best_step: int) -> set[str]:
        """Name the checkpoints that stay: the newest, the best, and those at round numbers."""
        train, last = self.run.config.train, checkpoint.name(step)
        # later ones are damaged, or this run would have resumed from them
        there = [p.name for p in checkpoint.checkpoints(self.folder) if p.name <= last]
        kept = set(there[-train.keep_checkpoints :])
        if train.keep_best:
            kept.add(checkpoint.name(best_step))
        if train.keep_every_kimg is not None:
            ends = {name: int(name.removeprefix("step-")) * train.batch_size for name in there}
            every, size = train.keep_every_kimg, train.batch_size
            kept |= {name for name, nimg in ends.items() if due(nimg - size, nimg, every)}
        return kept

    def _write_models(self, groups: Groups, record: Any, unless_there: bool = False) -> None:
        """Write the model file of each average."""
        for name, kimg in zip(self.state.named_averages(), self.state.averages, strict=True):
            file = checkpoint.MODEL_FILE if name == "ema" else f"model-{name}.safetensors"
            training = record["training"] | {"ema_halflife_kimg": kimg}
            model = (self.run.folder / file, groups[name], record | {"training": training})
            if not (unless_there and checkpoint.holds_model(*model)):
                checkpoint.save_model(*model)

    def finish(self, best: bool, again: bool) -> None:
        """Write a checkpoint of the end, unless it is there and need not be written `again`."""
        self.saver.wait()
        run, counters = self.run, self.state.counters
        if again or run.world.broadcast(self.saved_nimg) != counters.nimg:
            self.save(best, last=True)
            return
        groups = states.tensors(self.state)
        if run.world.main:
            self._write_models(groups, run.record(counters), unless_there=True)

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Wait for a save in the background where a block ends, but not after a second signal.

        Where a picture or a line of metrics cannot be written, what was learned is saved first.
        """
        try:
            yield
        except Exception as error:
            with suppress(Exception):
                self.saver.wait()
            if isinstance(error, OSError) and self.run.world.size == 1:
                with suppress(Exception):
                    self.finish(best=False, again=False)
            raise
        self.saver.wait()


def due(before: int, after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after] images."""
    every = 1000 * every_kimg
    return math.floor(after / every) > math.floor(before / every)


class Saver:
    """Saves one thing at a time, at once or in the background.

    What a save in the background raises is raised by the next call here, on the thread that trains.
    """

    def __init__(self, background: bool) -> None:
        self.background = background
        self.pending: Future[None] | None = None

    def start(self, save: Callable[[Groups], None], groups: Groups) -> None:
        """Call save(groups), after the save before it."""
        self.wait()
        if not self.background:
            save(groups)
            return
        copied = {
            name: {key: value.to("cpu", copy=True) for key, value in group.items()}
            for name, group in groups.items()
        }
        pending = self.pending = Future[None]()

        def run() -> None:
            try:
                pending.set_result(save(copied))
            except Exception as error:  # noqa: BLE001 (raised again by `wait`)
                pending.set_exception(error)

        # A daemon: a second Ctrl-C does not wait for it, and half a checkpoint has another name.
        Thread(target=run, name="unnoise save", daemon=True).start()

    def check(self) -> None:
        """Raise what a finished save raised."""
        if self.pending is not None and self.pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being saved."""
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.result()
