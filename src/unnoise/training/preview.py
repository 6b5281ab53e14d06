"""How the run does: held-out losses of the averaged and the raw weights, and a grid of samples with fixed seeds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unnoise.data.cache import root
from unnoise.data.images import grid, save_png
from unnoise.evaluation.collect import Ranks, data_features
from unnoise.evaluation.extractors import extractor, suited
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.reference import Key, cached_statistics
from unnoise.evaluation.statistics import Statistics
from unnoise.model import SAMPLE_BATCH, Model
from unnoise.training.faults import halving
from unnoise.training.run import Run
from unnoise.training.step import held_out_losses

PREVIEW_IMAGES = 64
HELD_OUT_IMAGES = 1000


def preview(run: Run) -> bool:
    """Measure, write samples/<nimg>.png and a line of metrics; says whether the held-out loss is the lowest so far."""
    state = run.state
    state.previewed_nimg = state.nimg
    average, raw = (run.plain(network) for network in (state.ema, state.network))
    best = _measure(run, average, raw) if run.world.main else None
    state.held_out_loss, state.best_held_out_loss, best = run.world.from_main(
        (state.held_out_loss, state.best_held_out_loss, best)
    )
    return bool(best)


def _measure(run: Run, average: nn.Module, raw: nn.Module) -> bool:
    state = run.state
    values: dict[str, Any] = {"step": state.step, "nimg": state.nimg, **_held_out(run, average, raw)}
    best = values.get("held_out_loss", float("inf")) < state.best_held_out_loss
    if "held_out_loss" in values:
        state.held_out_loss = values["held_out_loss"]
        state.best_held_out_loss = min(state.held_out_loss, state.best_held_out_loss)
    model = run.model(average)
    values |= quality(run, model)
    began = time.monotonic()
    images = halving(PREVIEW_IMAGES, lambda size: model.sample(PREVIEW_IMAGES, batch_size=size))
    values["sample_sec"] = time.monotonic() - began
    path = run.folder / "samples" / f"{state.nimg:010d}.png"
    with run.log.forgiving("samples not written"):
        save_png(path, grid(images), {"unnoise": f"nimg {state.nimg}, seeds 0-{PREVIEW_IMAGES - 1}"})
    run.log.metrics(values, path if path.exists() else None)
    held = f"held-out loss {state.held_out_loss:.4f} · " if "held_out_loss" in values else ""
    where = f"samples in {path}" if path.exists() else "no samples"
    run.log.say(f"{state.nimg / 1000:.1f} kimg: {held}{where}")
    return best


def quality(run: Run, model: Model) -> dict[str, float]:
    """The distance of samples to all training images, where train.evaluate asks for it: fid_edm, frechet_tiny, .."""
    train, data, began = run.config.train, run.data, time.monotonic()
    if train.evaluate is None:
        return {}
    extract = extractor(suited(train.evaluate, *data.images.shape[1:]), run.arithmetic.device)
    cache = root(run.config.data)
    key = Key(data.fingerprint, extract.fingerprint, str(range(data.num_train)))
    reference = cached_statistics(
        cache, key, lambda: Statistics.of(data_features(extract, data, cache, range(data.num_train), False, Ranks()))
    )
    images = halving(SAMPLE_BATCH, lambda size: model.sample(train.evaluate_num, batch_size=size))
    distance = FrechetTo(reference).distance(extract.features(images))
    name = f"{'fid' if extract.standard else 'frechet'}_{extract.name}"
    return {name: distance, "evaluate_sec": time.monotonic() - began}


def _held_out(run: Run, average: nn.Module, raw: nn.Module) -> dict[str, float]:
    """The mean over the held-out images, and of the averaged weights also by quarters of the noise levels, low to high."""
    data = run.data
    rows = slice(data.num_train, min(len(data.images), data.num_train + HELD_OUT_IMAGES))
    if rows.stop <= rows.start:
        return {}
    images = torch.from_numpy(data.images[rows].copy()).to(run.arithmetic.device)
    labels = None if data.labels is None else torch.from_numpy(data.labels[rows].copy())

    def losses(network: nn.Module) -> torch.Tensor:
        objective = replace(run.objective, model=replace(run.objective.model, network=network.eval()))
        return halving(128, lambda size: held_out_losses(objective, images, labels, size)).double()

    averaged, plain = losses(average), losses(raw)
    raw.train()
    quarters = {
        f"held_out_q{i + 1}": float(part.mean()) for i, part in enumerate(averaged.tensor_split(4)) if len(part)
    }
    return {"held_out_loss": float(averaged.mean()), "held_out_loss_raw": float(plain.mean()), **quarters}
