"""The checkpoints of a run: when they are due, which stay, and how a run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from unnoise import checkpoint
from unnoise.checkpoint import Tensors
from unnoise.config import RunConfig, differences, to_dict
from unnoise.errors import CheckpointError, ConfigError, DivergedError
from unnoise.records import read_run, run_config
from unnoise.training import state as states
from unnoise.training.log import Log
from unnoise.training.run import Run
from unnoise.training.state import TrainState
from unnoise.training.step import learning_rate

SAVE_SEC = 300
"""The longest training without a checkpoint."""

IMAGES = "the training images"
FUNCTION = ("parameterization", "schedule", "schedule_options", "timesteps", "time_scale")
"""The settings of the diffusion under which a network was trained to be what it is."""
MAY_CHANGE = (
    "train.epochs", "train.kimg", "train.time", "train.log_every", "train.sample_every",
    "train.evaluate", "train.checkpoint_every", "train.keep_", "train.max_skipped",
    "train.parallel", "train.trackers", "sample.", "device",
)  # fmt: skip
"""Fields that a resumed run may change: a step learns the same, at the rate that the end sets."""
PLACES = ("data.source", "data.cache", "data.path", "imports")
"""Fields that are not compared: images have a fingerprint, wherever they lie."""


def resume_run(run: Run, state: TrainState, log: Log, anyway: bool) -> None:
    """Load the newest sound checkpoint of the run folder, if there is one.

    ConfigError where the run had another configuration or other images, unless `anyway`.
    """
    before, fingerprint = run_config(run.folder), read_run(run.folder)["data"]
    images = [] if fingerprint == run.data.fingerprint else [IMAGES]
    changed = images + [d for d in differences(before, run.config) if not d.startswith(PLACES)]
    refused = [line for line in changed if not line.startswith(MAY_CHANGE)]
    if refused and not anyway:
        own = f"unnoise train {run.folder} goes on with its own; or "
        raise ConfigError(
            f"{run.folder}: was trained with another configuration ({'; '.join(refused[:3])}); "
            f"{own if refused[0] != IMAGES else ''}another --out (--from {run.folder} takes its "
            "weights), or --resume anyway to go on with the same network"
        )
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
    if path is None:
        log.say(f"{run.folder}: was stopped before its first checkpoint and begins again")
        start(run, state, log)
    else:
        states.restore(path, state)
        nimg = state.counters.nimg
        log.say(f"resuming from {path} ({nimg / 1000:.1f} kimg)")
        done = [replace(run, config=c).progress(state.counters) for c in (before, run.config)]
        if done[1] >= 1:
            log.say("the run is at its end; a larger --time, --kimg or --epochs trains on")
        then, now = (learning_rate(run.config.train, nimg, progress) for progress in done)
        if done[1] < 1 and not math.isclose(then, now, rel_tol=0.01):
            jump = f"the learning rate jumps from {then:.3g} to {now:.3g}"
            log.say(f"the end of the run has moved: {jump} and follows its schedule to the new end")
    if changed:
        log.say(f"changed since the last start: {'; '.join(changed)}")
    log.cut(state.counters.step)


def start(run: Run, state: TrainState, log: Log) -> None:
    """Start a run from the weights of `train.start`, where it says so."""
    if name := run.config.train.start:
        differ = _set_otherwise(checkpoint.read_named(name)[2]["config"], run.config)
        anew = states.start(name, state, differ)
        told = [f"weights {state.counters.started_from}", anew, differ]
        log.say(f"starts from {name} ({'; '.join(filter(None, told))})")


def _set_otherwise(there: dict[str, Any], config: RunConfig) -> str:
    """The settings under which a model's weights are another function than in a run."""
    here, found = json.loads(json.dumps(to_dict(config))), list[str]()
    for part, names in (("network", here["network"]), ("diffusion", FUNCTION)):
        theirs = there.get(part, {})
        both = [name for name in names if name in theirs and name != "dropout"]
        found += [f"{part}.{n} {theirs[n]}" for n in both if theirs[n] != here[part][n]]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"set otherwise there: {', '.join(found[:3])}{more}" if found else ""


class Checkpoints:
    """Writes the checkpoints and model files of a run."""

    def __init__(self, run: Run, state: TrainState, log: Log) -> None:
        self.run, self.state, self.log = run, state, log
        self.folder = run.folder / "checkpoints"
        self.saved_nimg = state.counters.nimg if state.counters.step else -1
        """Images seen at the last checkpoint that is there whole."""
        self.at_sec = state.counters.train_sec
        """Seconds of training at the last call of `save`."""

    def save(self, best: bool) -> None:
        """Write a checkpoint and the model files; CheckpointError where they cannot be."""
        run, counters, groups = self.run, self.state.counters, states.tensors(self.state)
        self.at_sec = counters.train_sec
        counters.best_step = counters.step if best else counters.best_step
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
        path = checkpoint.save(self.folder, counters.step, groups, values)
        self._write_models(groups, record)
        self.saved_nimg = counters.nimg
        self.log.say(f"saved {path}")
        checkpoint.prune(self.folder, self._kept())

    def _kept(self) -> set[str]:
        """Name the checkpoints that stay: the newest, the best, and those at round numbers."""
        train, counters = self.run.config.train, self.state.counters
        last = checkpoint.name(counters.step)
        # later ones are damaged, or this run would have resumed from them
        there = [p.name for p in checkpoint.checkpoints(self.folder) if p.name <= last]
        kept = set(there[-train.keep_checkpoints :])
        if train.keep_best:
            kept.add(checkpoint.name(counters.best_step))
        if train.keep_every_kimg is not None:
            ends = {name: int(name.removeprefix("step-")) * train.batch_size for name in there}
            every, size = train.keep_every_kimg, train.batch_size
            kept |= {name for name, nimg in ends.items() if due(nimg - size, nimg, every)}
        return kept

    def _write_models(
        self, groups: dict[str, Tensors], record: Any, unless_there: bool = False
    ) -> None:
        """Write the model file of each average."""
        for name, kimg in zip(self.state.named_averages(), self.state.averages, strict=True):
            file = checkpoint.MODEL_FILE if name == "ema" else f"model-{name}.safetensors"
            training = record["training"] | {"ema_halflife_kimg": kimg}
            model = (self.run.folder / file, groups[name], record | {"training": training})
            if not (unless_there and checkpoint.holds_model(*model)):
                checkpoint.save_model(*model)

    def finish(self, best: bool, again: bool) -> None:
        """Write a checkpoint of the end, unless it is there and need not be written `again`."""
        run, counters = self.run, self.state.counters
        if again or run.world.broadcast(self.saved_nimg) != counters.nimg:
            self.save(best)
            return
        groups = states.tensors(self.state)
        if run.world.main:
            self._write_models(groups, run.record(counters), unless_there=True)

    @contextmanager
    def finished(self) -> Iterator[None]:
        """Where a block cannot write a picture or a line of metrics, save what was learned."""
        try:
            yield
        except OSError:
            if self.run.world.size == 1:
                with suppress(Exception):
                    self.finish(best=False, again=False)
            raise


def due(before: int, after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after] images."""
    every = 1000 * every_kimg
    return math.floor(after / every) > math.floor(before / every)
