"""How a run does: held-out losses of averaged and raw weights, and samples with fixed seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch

from unnoise.data.images import class_grid, save_png
from unnoise.errors import DivergedError
from unnoise.memory import halving
from unnoise.model import Model
from unnoise.networks.network import Network
from unnoise.settings import even_count
from unnoise.training.log import Log
from unnoise.training.run import Run
from unnoise.training.state import TrainState
from unnoise.training.step import held_out_losses

PREVIEW_IMAGES = 64
HELD_OUT_IMAGES = 1000

Measure: TypeAlias = Callable[[Model], dict[str, float]]
"""More numbers about the averaged weights; a name that ends in _sec is for metrics.jsonl alone."""


def preview(run: Run, state: TrainState, log: Log, measure: Measure | None) -> bool:
    """Write held-out losses and samples; give whether the held-out loss is the lowest so far."""
    counters = state.counters
    counters.previewed_nimg = counters.nimg
    average, raw = run.plain(state.ema), run.plain(state.network)  # which all ranks put together
    before = counters.best_held_out_loss
    if run.world.main:
        values: dict[str, Any] = {"step": counters.step, "nimg": counters.nimg}
        values |= _held_out(run, state, average, raw)
        counters.held_out_loss = values.get("held_out_loss", counters.held_out_loss)
        counters.best_held_out_loss = min(before, values.get("held_out_loss", math.inf))
        model = run.model(average, counters)
        with _surviving(log, "not measured"):
            values |= measure(model) if measure else {}
        _show(run, log, model, values)
    counters.held_out_loss, counters.best_held_out_loss = run.world.broadcast(
        (counters.held_out_loss, counters.best_held_out_loss)
    )
    return counters.best_held_out_loss < before


@contextmanager
def _surviving(log: Log, what: str) -> Iterator[None]:
    """Say of pictures that are not finite that they are not, and go on: training may mend it."""
    try:
        yield
    except DivergedError as error:
        log.say(f"{what}, training continues: {error}")


def _held_out(run: Run, state: TrainState, average: Network, raw: Network) -> dict[str, float]:
    """Mean over the held-out images; of the average also by quarters of the levels, low to high."""
    data, rows = run.data, slice(run.data.num_train, run.data.num_train + HELD_OUT_IMAGES)
    images = torch.from_numpy(data.images[rows].copy()).to(run.arithmetic.device)
    labels = None if data.labels is None else torch.from_numpy(data.labels[rows].copy())
    if not len(images):
        return {}

    def losses(network: Network) -> torch.Tensor:
        attempt = partial(held_out_losses, run, state, network.eval(), images, labels)
        return halving(128, attempt)[1].double()

    averaged, plain = losses(average), losses(raw)
    raw.train()
    quarters = [part for part in averaged.tensor_split(4) if len(part)]
    return {
        "held_out_loss": float(averaged.mean()),
        "held_out_loss_raw": float(plain.mean()),
        **{f"held_out_q{i}": float(part.mean()) for i, part in enumerate(quarters, 1)},
    }


def _show(run: Run, log: Log, model: Model, values: dict[str, Any]) -> None:
    """Write samples/<nimg>.png and a line of metrics, and say both."""
    began, nimg = time.monotonic(), values["nimg"]
    count = even_count(PREVIEW_IMAGES, model.shape.num_classes)
    log.samples, path = None, run.folder / "samples" / f"{nimg:010d}.png"
    with _surviving(log, "no samples"):
        log.samples = images = model.sample(count, batch_size=count)
        values["sample_sec"] = time.monotonic() - began
        sheet = class_grid(images, model.labels(range(count), None), model.names)
        save_png(path, sheet, {"unnoise": f"nimg {nimg}, seeds 0-{count - 1}"})
    log.metrics(values, path if path.exists() else None)
    loss = values.get("held_out_loss")
    told = [] if loss is None else [f"held-out loss {loss:.4f}"]
    distances = [key for key in values if key.startswith(("fid_", "frechet_"))]
    told += [f"{key} {values[key]:.4g}" for key in distances]
    told.append(f"samples in {path}" if path.exists() else "no samples")
    log.say(f"{nimg / 1000:.1f} kimg: {' · '.join(told)}")
