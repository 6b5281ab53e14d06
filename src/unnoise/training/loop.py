"""The training loop: from a RunConfig to a run folder with a model in it.

Its clock is images seen (nimg). Batches, noise, times and dropout come from (seed, step, stream), so a run that was
interrupted and goes on is the same run, bit for bit (same machine, same number of threads and ranks).
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unnoise import checkpoint, environment
from unnoise.config import RunConfig, differences, from_dict, to_dict
from unnoise.data.batches import Batches
from unnoise.data.dataset import ImageData
from unnoise.data.images import mosaic, save_png
from unnoise.errors import CheckpointError, ConfigError, DivergedError
from unnoise.files import read_json, write_json
from unnoise.parallel import process_group
from unnoise.precision import find_device
from unnoise.training import state as states
from unnoise.training.faults import exclusive, histogram, signals
from unnoise.training.preview import preview
from unnoise.training.quality import prepared
from unnoise.training.run import Run, prepare
from unnoise.training.saver import Groups
from unnoise.training.step import draw, learning_rate, read, rehearse, train_step

MOSAIC = "data.png"
READ_EVERY = {"cpu": 1}
"""How many steps may be done before the host asks what came of them, by kind of device; 20 on others."""
MAY_CHANGE = ("data.source", "train.epochs", "train.kimg", "train.time", "train.log_every", "train.sample_every", "train.evaluate",
              "train.checkpoint_every", "train.keep_", "train.max_skipped", "train.on_save", "train.async_save",
              "train.parallel", "train.trackers", "sample.", "device", "data.cache", "data.path",
              "imports")  # fmt: skip
"""Fields that a resumed run may change: they do not change what is learned up to the same point.

The images themselves are compared by their fingerprint, wherever they lie.
"""
RESUME = ("auto", "anyway", "never")
"""Go on where a run of the same configuration stopped, or of another one too, or refuse to touch an earlier run."""


@dataclass(frozen=True)
class Outcome:
    """How training ended."""

    folder: Path
    finished: bool
    signal: int | None = None


def train(config: RunConfig, data: ImageData, folder: Path, resume: str = "auto") -> Outcome:
    """Train until the configured end or a signal; the run folder then holds a model either way.

    `resume` is one of RESUME. Under torchrun all ranks call this alike; rank 0 writes.
    """
    with process_group(find_device(config.device)):
        return _train(prepare(config, data, folder), resume)


def _train(run: Run, resume: str) -> Outcome:
    folder = run.folder
    existed = run.world.broadcast((folder / "config.json").exists() if run.world.main else None)
    if existed and resume == "never":
        raise ConfigError(
            f"{folder}: holds a run already; expected --resume auto to go on with it, or another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder, run.world.main), signals() as caught:
            if existed:
                _resume(run, anyway=resume == "anyway")
            run.world.barrier()  # until all have read what rank 0 now writes
            if run.world.main:
                _begin(run)
            if run.progress() < 1:
                run.quality = prepared(run.config, run.data, run.extract, run.world)
            try:
                finished = _loop(run, caught)
                run.saver.wait()
            except Exception:  # but not a second signal
                with suppress(Exception):
                    run.saver.wait()
                raise
            return Outcome(folder, finished, caught[0] if caught else None)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: cannot be written ({error.strerror}); {checkpoint.intact(folder / 'checkpoints')}, make room and "
            "run the same command again"
        ) from error
    finally:
        run.log.close()


def _resume(run: Run, anyway: bool) -> None:
    """Go on from the newest sound checkpoint of the run folder, if there is one."""
    before, fingerprint = _started(run.folder / "config.json")
    changed = [line for line in differences(before, run.config) if not line.startswith(MAY_CHANGE)]
    if fingerprint != run.data.fingerprint:
        changed.append("the training images")
    if changed and not anyway:
        raise ConfigError(
            f"{run.folder}: was trained with another configuration ({'; '.join(changed[:3])}); "
            "use the same one, another --out, or --resume anyway"
        )
    if changed:
        run.log.say(f"changed since the last start: {'; '.join(changed)}")
    path, skipped = run.world.broadcast(
        checkpoint.newest(run.folder / "checkpoints") if run.world.main else None
    )
    for reason in skipped:
        run.log.say(f"skipped: {reason}")
    if path is None and skipped:
        raise CheckpointError(
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
    record = read_json(written)
    try:
        return from_dict(RunConfig, record["config"]), str(record["data"])
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(
            f"{written}: is damaged or of another version ({error}); mend it or use another --out"
        ) from error


def _begin(run: Run) -> None:
    """What the run folder says before the first step: configuration, environment, a mosaic of the data."""
    record = {"config": to_dict(run.config), "data": run.data.fingerprint}
    write_json(run.folder / "config.json", record)
    if run.progress() < 1:
        environment.write(run.folder, run.arithmetic, run.state.step)
        run.log.open(run.config, run.state.nimg)
    if not (run.folder / MOSAIC).exists():
        save_png(run.folder / MOSAIC, mosaic(run.data), {"unnoise": f"data {run.data.name}"})


def _loop(run: Run, caught: list[int]) -> bool:
    """Step until the end (True) or a signal (False)."""
    state, train, world = run.state, run.config.train, run.world
    batches = Batches(run.data, run.config.seed, run.arithmetic.device)
    window = (time.monotonic(), state.nimg)
    run.saved_nimg = state.nimg if state.step else -1
    state.network.train()
    first = True
    while run.progress() < 1 and not caught:
        began, before, size = time.monotonic(), state.nimg, state.micro_batch
        images = batches.get(state.nimg, train.batch_size, world.rows)
        batch = draw(run.objective, state.step, *images, train.batch_size)
        lr = learning_rate(train, state.nimg, run.progress())
        if first:
            rehearse(run.objective, state, batch)
            first = False
        train_step(run.objective, state, batch, lr)
        if state.micro_batch != size:
            run.log.say(
                f"out of memory: going on with micro-batches of {state.micro_batch}; the result is the same"
            )
        log_due = _due(before, state.nimg, train.log_every_kimg)
        if log_due or len(state.unread) >= READ_EVERY.get(run.arithmetic.device.type, 20):
            _read(run)
        state.train_sec += time.monotonic() - began
        _agree(run, caught)
        run.saver.check()
        if log_due and state.loss_steps:
            window = _log(run, lr, window)
        if run.progress() >= 1:
            break  # what is due at the end is done below, once
        best = preview(run) if _due(before, state.nimg, train.sample_every_kimg) else False
        if _due(before, state.nimg, train.checkpoint_every_kimg) or (best and train.keep_best):
            _save(run, best)
    _read(run)
    run.saver.wait()
    run.saved_nimg = run.world.broadcast(run.saved_nimg)
    finished = run.progress() >= 1
    best = False
    if finished and state.previewed_nimg != state.nimg:
        best = preview(run)
        run.saved_nimg = -1  # the held-out loss belongs into the last checkpoint
    if run.saved_nimg != state.nimg:
        _save(run, best, last=True)
    elif not _models_are_current(run):  # lost, damaged, or of an older checkpoint
        groups = states.tensors(state)
        if world.main:
            _write_models(run, groups, run.record())
    return finished


def _agree(run: Run, caught: list[int]) -> None:
    """All ranks stop at the same step, for a signal to any of them, and by rank 0's clock."""
    if run.world.size == 1:
        return
    mine = [float(bool(caught)), run.state.train_sec if run.world.main else 0.0]
    signalled, run.state.train_sec = run.world.all_reduce_sum(
        torch.tensor(mine, dtype=torch.float64, device=run.arithmetic.device)
    ).tolist()
    if signalled and not caught:
        caught.append(signal.SIGTERM)


def _due(before: int, after: int, every_kimg: float) -> bool:
    """Whether a multiple of `every_kimg` lies in (before, after] images."""
    every = 1000 * every_kimg
    return math.floor(after / every) > math.floor(before / every)


def _read(run: Run) -> None:
    """Count the steps that the device has done."""
    for outcome in read(run.objective, run.state):
        _skipped(run, outcome)


def _skipped(run: Run, outcome: states.Outcome) -> None:
    """Note a step that was not applied; DivergedError after too many in a row."""
    state, most = run.state, run.config.train.max_skipped
    what = f"step {outcome.step}: loss {float(outcome.loss):g}, gradient {float(outcome.norm):g}"
    run.log.metrics({"step": outcome.step, "nimg": outcome.nimg, "skipped_steps": state.skipped})
    if state.skipped_in_row < most:
        run.log.say(f"not applied, {state.skipped_in_row} of {most} in a row: {what}")
        return
    raise DivergedError(
        f"training diverged at {what}, {most} steps in a row not finite; images by sigma / alpha: "
        f"{histogram(torch.cat(state.skipped_noise))}; {checkpoint.intact(run.folder / 'checkpoints')}; "
        "try a lower --train.lr or --train.precision fp32"
    )


def _log(run: Run, lr: float, window: tuple[float, int]) -> tuple[float, int]:
    """Write the mean loss since the last line; gives the new window of the speed measurement."""
    state, now = run.state, time.monotonic()
    state.loss, state.loss_sum = state.loss_sum / state.loss_steps, 0.0
    state.loss_steps = 0
    values = {
        "step": state.step,
        "nimg": state.nimg,
        "epoch": state.nimg / run.data.num_train,
        "loss": state.loss,
        "grad_norm": state.norm,
        "lr": lr,
        "img_per_sec": (state.nimg - window[1]) / max(now - window[0], 1e-9),
        "train_sec": state.train_sec,
    }
    run.log.metrics(values)
    done = run.progress()
    run.log.progress(done, values, state.train_sec * (1 - done) / max(done, 1e-9))
    return now, state.nimg


def _save(run: Run, best: bool, last: bool = False) -> None:
    """A checkpoint and the model file, beside training where it is so configured."""
    _read(run)
    state = run.state
    before, state.best_step = state.best_step, state.step if best else state.best_step
    groups = states.tensors(state)
    if not run.world.main:
        run.saved_nimg = state.nimg
        return
    bad = [
        f"{name}: {key}"
        for name, group in groups.items()
        for key, v in group.items()
        if not v.isfinite().all()
    ]
    if bad:
        raise DivergedError(
            f"step {state.step}: {bad[0]} is not finite and was not saved; {checkpoint.intact(run.folder / 'checkpoints')}"
        )
    run.saver.start(
        _writer(run, before, must=last or run.config.train.on_save_error == "stop"), groups
    )


def _writer(run: Run, best_before: int, must: bool) -> Callable[[Groups], None]:
    """What writes the state of now, given its tensors, while the state goes on; raises only if it must be written."""
    state, folder, record = run.state, run.folder / "checkpoints", run.record()
    values = states.record(state, {"epoch": state.nimg / run.data.num_train, **record})
    step, nimg, best_step = state.step, state.nimg, state.best_step

    def write(groups: Groups) -> None:
        try:
            path = checkpoint.save(folder, step, groups, values)
            _write_models(run, groups, record)
        except CheckpointError as error:
            if must:
                raise
            if state.best_step == step:
                state.best_step = best_before
            run.log.say(f"NOT SAVED, training goes on: {error}")
            return
        run.saved_nimg = nimg
        run.log.say(f"saved {path}")
        with run.log.forgiving("old checkpoints not deleted"):
            checkpoint.prune(folder, _kept(run, step, best_step))

    return write


def _kept(run: Run, step: int, best_step: int) -> set[str]:
    """The names of the checkpoints that stay: the newest, the best, and those at round numbers of images."""
    train, every = run.config.train, run.config.train.keep_every_kimg
    last = checkpoint.name(step)  # later ones are damaged, or this run would have gone on from them
    there = [
        path for path in checkpoint.checkpoints(run.folder / "checkpoints") if path.name <= last
    ]
    kept = {path.name for path in there[-train.keep_checkpoints :]}
    if train.keep_best:
        kept.add(checkpoint.name(best_step))
    if every is not None:
        ends = [int(path.name.removeprefix("step-")) * train.batch_size for path in there]
        kept |= {
            path.name
            for path, nimg in zip(there, ends, strict=True)
            if _due(nimg - train.batch_size, nimg, every)
        }
    return kept


def _models(run: Run, record: dict[str, Any]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """Every average's name, model file and what that says of itself."""
    for name, kimg in zip(states.named_averages(run.state), run.state.averages, strict=True):
        file = checkpoint.MODEL_FILE if name == "ema" else f"model-{name}.safetensors"
        yield (
            name,
            run.folder / file,
            record | {"training": record["training"] | {"ema_halflife_kimg": kimg}},
        )


def _write_models(run: Run, groups: Groups, record: dict[str, Any]) -> None:
    for name, path, says in _models(run, record):
        checkpoint.save_model(path, groups[name], says)


def _models_are_current(run: Run) -> bool:
    """Whether the model files are sound and say just what this run would write."""

    def current(name: str, path: Path, says: dict[str, Any]) -> bool:
        try:
            _, record = checkpoint.read_model(path)
        except CheckpointError:
            return False
        mine = json.loads(json.dumps(says))  # tuples are lists there
        same = all(record.get(name) == mine[name] for name in ("config", "shape", "class_names"))
        return same and record["weights"] == checkpoint.fingerprint(groups[name])

    groups = states.tensors(run.state)
    sound = all(current(*model) for model in _models(run, run.record())) if run.world.main else None
    return bool(run.world.broadcast(sound))
