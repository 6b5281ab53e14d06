"""The training loop: from a RunConfig to a run folder with a model in it.

Its clock is images seen (nimg). Batches, noise, times and dropout come from (seed, step, stream), so a run that was
interrupted and goes on is the same run, bit for bit (same machine, same number of threads).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from unnoise import build, checkpoint
from unnoise.config import ConfigError, RunConfig, check, differences, from_dict, seconds, to_dict
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid, mosaic, save_png
from unnoise.model import Model
from unnoise.training import environment
from unnoise.training import state as states
from unnoise.training.log import Log
from unnoise.training.state import TrainState
from unnoise.training.step import Objective, draw, held_out_loss, learning_rate, train_step

PREVIEW_IMAGES = 64
MOSAIC = "data.png"
HELD_OUT_IMAGES = 1000
MAY_CHANGE = ("data.source", "train.epochs", "train.kimg", "train.time", "train.log_every", "train.sample_every",
              "train.checkpoint_every", "train.keep_", "sample.", "device", "data.cache", "data.path")  # fmt: skip
"""Fields that a resumed run may change: they do not change what is learned up to the same point.

The images themselves are compared by their fingerprint, wherever they lie.
"""


@dataclass
class Run:
    """Everything the loop holds."""

    config: RunConfig
    folder: Path
    data: ImageData
    arithmetic: build.Arithmetic
    objective: Objective
    state: TrainState
    log: Log
    shape: build.Shape

    @property
    def total_nimg(self) -> float:
        """Where the run ends by images; infinite if only time ends it."""
        train = self.config.train
        by_epochs = math.inf if train.epochs is None else train.epochs * self.data.num_train
        return min(by_epochs, math.inf if train.kimg is None else 1000 * train.kimg)

    @property
    def total_sec(self) -> float:
        return math.inf if self.config.train.time is None else seconds(self.config.train.time)

    def progress(self) -> float:
        """The share of the run that is done, by whichever end is nearer."""
        return min(1.0, max(self.state.nimg / self.total_nimg, self.state.train_sec / self.total_sec))

    def record(self) -> dict[str, Any]:
        """What the model file says of itself."""
        from unnoise import __version__

        return {
            "config": to_dict(self.config),
            "shape": to_dict(self.shape),
            "class_names": list(self.data.class_names) if self.shape.num_classes else [],
            "data": {
                "name": self.data.name, "fingerprint": self.data.fingerprint, "num_train": self.data.num_train,
            },
            "training": {name: getattr(self.state, name) for name in ("step", "nimg", "train_sec", "loss")}
            | {"held_out_loss": _finite(self.state.held_out_loss), "unnoise": __version__, "torch": torch.__version__},
        }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    folder: Path
    finished: bool
    signal: int | None = None


def prepare(config: RunConfig, data: ImageData, folder: Path) -> Run:
    """Check everything that can be wrong and build what is needed, before the first step."""
    check(config)
    build.check_sampling(config.sample)
    arithmetic = build.arithmetic(config)
    if config.train.tf32 and arithmetic.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    classes = len(data.class_names) if config.train.labels and data.labels is not None else 0
    shape = build.Shape(*data.images.shape[1:], num_classes=classes)
    state = states.create(config, shape, arithmetic)
    network = cast(nn.Module, torch.compile(state.network)) if arithmetic.compile else state.network
    model = build.diffusion_model(config.diffusion, network)
    build.grid(config.sample, model.schedule)  # what cannot be sampled is said before the first step
    log = Log(folder / "metrics.jsonl")
    return Run(config, folder, data, arithmetic, Objective(model, config, arithmetic, classes), state, log, shape)


def resume(run: Run) -> None:
    """Go on from the newest sound checkpoint of the run folder, if there is one."""
    written = run.folder / "config.json"
    if not written.exists():
        return
    before, fingerprint = _started(written)
    changed = [line for line in differences(before, run.config) if not line.startswith(MAY_CHANGE)]
    if changed:
        raise ConfigError(
            f"{run.folder}: was trained with another configuration ({'; '.join(changed[:3])}); "
            "use the same one, or another --out"
        )
    if fingerprint != run.data.fingerprint:
        raise ConfigError(f"{run.folder}: the training images have changed since; use another --out")
    path, skipped = checkpoint.newest(run.folder / "checkpoints")
    for reason in skipped:
        run.log.say(f"skipped: {reason}")
    if path is None and skipped:
        raise checkpoint.CheckpointError(
            f"{run.folder}: no sound checkpoint is left; {skipped[0]}; delete {run.folder / 'checkpoints'} to start "
            "again, or use another --out"
        )
    if path is None:  # interrupted before the first checkpoint: from the start
        run.log.cut(0)
        return
    states.restore(path, run.state)
    run.log.cut(run.state.step)
    run.log.say(f"going on from {path} ({run.state.nimg / 1000:.1f} kimg)")


def _started(written: Path) -> tuple[RunConfig, str]:
    """The configuration and the data's fingerprint that a run folder was started with."""
    record = checkpoint.read_json(written)
    try:
        return from_dict(RunConfig, record["config"]), str(record["data"])
    except (KeyError, TypeError, ConfigError) as error:
        raise checkpoint.CheckpointError(
            f"{written}: is damaged or of another version ({error}); mend it or use another --out"
        ) from error


def train(config: RunConfig, data: ImageData, folder: Path) -> Outcome:
    """Train until the configured end or a signal; the run folder then holds a model either way."""
    run = prepare(config, data, folder)
    resume(run)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _begin(run)
        with _signals() as caught:
            finished = _loop(run, caught)
            return Outcome(folder, finished, caught[0] if caught else None)
    except OSError as error:
        raise checkpoint.CheckpointError(
            f"{folder}: cannot be written ({error.strerror}); {checkpoint.intact(folder / 'checkpoints')}, make room and "
            "run the same command again"
        ) from error
    finally:
        run.log.close()


def _begin(run: Run) -> None:
    """What the run folder says before the first step: configuration, environment, a mosaic of the data."""
    record = {"config": to_dict(run.config), "data": run.data.fingerprint}
    checkpoint.write_json(run.folder / "config.json", record)
    if run.progress() < 1:
        environment.write(run.folder, run.arithmetic, run.state.step)
    if not (run.folder / MOSAIC).exists():
        save_png(run.folder / MOSAIC, mosaic(run.data), {"unnoise": f"data {run.data.name}"})


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM: the step in hand ends, a checkpoint is written. A second one leaves at once."""
    caught: list[int] = []

    def handler(number: int, frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, as in some notebooks: signals stay with their owner
        yield caught
        return
    try:
        yield caught
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _loop(run: Run, caught: list[int]) -> bool:
    """Step until the end (True) or a signal (False)."""
    state, train = run.state, run.config.train
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    total = torch.tensor(state.loss_sum)
    window = (time.monotonic(), state.nimg)
    saved_at = state.nimg if state.step else -1
    run.state.network.train()
    while run.progress() < 1 and not caught:
        began, before = time.monotonic(), state.nimg
        batch = draw(run.objective, state.step, *batches.get(state.nimg, train.batch_size))
        lr = learning_rate(train, state.nimg, run.progress())
        loss, norm = train_step(run.objective, state, batch, lr)
        total = total.to(loss.device) + loss
        state.loss_steps += 1
        state.train_sec += time.monotonic() - began
        if _due(before, state.nimg, train.log_every_kimg):
            window = _log(run, total, norm, lr, window)
            total = torch.zeros(())
        if run.progress() >= 1:
            break  # what is due at the end is done below, once
        if _due(before, state.nimg, train.sample_every_kimg):
            preview(run)
        if _due(before, state.nimg, train.checkpoint_every_kimg):
            _save(run, total)
            saved_at = state.nimg
    finished = run.progress() >= 1
    if finished and state.previewed_nimg != state.nimg:
        preview(run)
        saved_at = -1  # the held-out loss belongs into the last checkpoint
    if saved_at != state.nimg:
        _save(run, total)
    elif not _model_is_current(run):  # lost, damaged, or of an older checkpoint
        _model(run).save(run.folder / checkpoint.MODEL_FILE)
    return finished


def _due(before: int, after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after] images."""
    every = 1000 * every_kimg
    return math.floor(after / every) > math.floor(before / every)


def _log(run: Run, total: torch.Tensor, norm: torch.Tensor, lr: float, window: tuple[float, int]) -> tuple[float, int]:
    """Write the mean loss since the last line; gives the new window of the speed measurement."""
    state, now = run.state, time.monotonic()
    state.loss, state.loss_sum = float(total) / state.loss_steps, 0.0
    state.loss_steps = 0
    if not math.isfinite(state.loss):
        raise DivergedError(
            f"training diverged: the loss is {state.loss} at step {state.step}; "
            f"{checkpoint.intact(run.folder / 'checkpoints')}, try a lower --train.lr or --train.precision fp32"
        )
    values = {
        "step": state.step,
        "nimg": state.nimg,
        "epoch": state.nimg / run.data.num_train,
        "loss": state.loss,
        "grad_norm": float(norm),
        "lr": lr,
        "img_per_sec": (state.nimg - window[1]) / max(now - window[0], 1e-9),
        "train_sec": state.train_sec,
    }
    run.log.metrics(values)
    done = run.progress()
    run.log.progress(done, values, state.train_sec * (1 - done) / max(done, 1e-9))
    return now, state.nimg


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


def preview(run: Run) -> None:
    """Held-out loss of the averaged weights, and a grid of samples with fixed seeds."""
    state, data = run.state, run.data
    state.previewed_nimg = state.nimg
    ema = replace(run.objective, model=replace(run.objective.model, network=state.ema))
    values: dict[str, Any] = {"step": state.step, "nimg": state.nimg}
    rows = slice(data.num_train, min(len(data.images), data.num_train + HELD_OUT_IMAGES))
    if rows.stop > rows.start:
        images = torch.from_numpy(data.images[rows].copy()).to(run.arithmetic.device)
        labels = None if data.labels is None else torch.from_numpy(data.labels[rows].copy())
        state.held_out_loss = values["held_out_loss"] = held_out_loss(ema, images, labels)
    began = time.monotonic()
    images = _model(run).sample(PREVIEW_IMAGES)
    values["sample_sec"] = time.monotonic() - began
    path = run.folder / "samples" / f"{state.nimg:010d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, grid(images), {"unnoise": f"nimg {state.nimg}, seeds 0-{PREVIEW_IMAGES - 1}"})
    run.log.metrics(values)
    held = f"held-out loss {state.held_out_loss:.4f} · " if "held_out_loss" in values else ""
    run.log.say(f"{state.nimg / 1000:.1f} kimg: {held}samples in {path}")


def _model(run: Run) -> Model:
    """The averaged weights as a model."""
    return Model(run.state.ema, run.config, run.record())


def _model_is_current(run: Run) -> bool:
    """Whether the model file is sound and says just what this run would write."""
    try:
        _, record = checkpoint.read_model(run.folder / checkpoint.MODEL_FILE)
    except checkpoint.CheckpointError:
        return False
    mine = json.loads(json.dumps(run.record()))  # tuples are lists there
    same = all(record.get(name) == mine[name] for name in ("config", "shape", "class_names"))
    return same and record["weights"] == checkpoint.fingerprint(run.state.ema.state_dict())


def _save(run: Run, total: torch.Tensor) -> None:
    """A checkpoint and the model file; older checkpoints beyond the configured number go."""
    run.state.loss_sum = float(total)
    folder = run.folder / "checkpoints"
    path = states.save(folder, run.state, {"epoch": run.state.nimg / run.data.num_train, **run.record()})
    _model(run).save(run.folder / checkpoint.MODEL_FILE)
    checkpoint.prune(folder, run.config.train.keep_checkpoints)
    run.log.say(f"saved {path}")
