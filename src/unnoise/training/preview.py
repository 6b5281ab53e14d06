"""How the run does: held-out losses of the averaged and the raw weights, and a grid of samples with fixed seeds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from unnoise.data.images import grid, save_png
from unnoise.memory import halving
from unnoise.networks.network import Network
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
    state.held_out_loss, state.best_held_out_loss, best = run.world.broadcast(
        (state.held_out_loss, state.best_held_out_loss, best)
    )
    return bool(best)


def _measure(run: Run, average: Network, raw: Network) -> bool:
    state = run.state
    values: dict[str, Any] = {
        "step": state.step,
        "nimg": state.nimg,
        **_held_out(run, average, raw),
    }
    best = values.get("held_out_loss", float("inf")) < state.best_held_out_loss
    if "held_out_loss" in values:
        state.held_out_loss = values["held_out_loss"]
        state.best_held_out_loss = min(state.held_out_loss, state.best_held_out_loss)
    model = run.model(average)
    if run.quality is not None:
        values |= run.quality.measure(model)
    began = time.monotonic()
    images = model.sample(PREVIEW_IMAGES, batch_size=PREVIEW_IMAGES)
    values["sample_sec"] = time.monotonic() - began
    path = run.folder / "samples" / f"{state.nimg:010d}.png"
    with run.log.forgiving("samples not written"):
        save_png(
            path, grid(images), {"unnoise": f"nimg {state.nimg}, seeds 0-{PREVIEW_IMAGES - 1}"}
        )
    run.log.metrics(values, path if path.exists() else None)
    held = f"held-out loss {state.held_out_loss:.4f} · " if "held_out_loss" in values else ""
    held += "".join(
        f"{k} {v:.4g} · " for k, v in values.items() if k.startswith(("fid_", "frechet_"))
    )
    where = f"samples in {path}" if path.exists() else "no samples"
    run.log.say(f"{state.nimg / 1000:.1f} kimg: {held}{where}")
    return best


def _held_out(run: Run, average: nn.Module, raw: nn.Module) -> dict[str, float]:
    """The mean over the held-out images, and of the averaged weights also by quarters of the noise levels, low to high."""
    data = run.data
    rows = slice(data.num_train, min(len(data.images), data.num_train + HELD_OUT_IMAGES))
    if rows.stop <= rows.start:
        return {}
    images = torch.from_numpy(data.images[rows].copy()).to(run.arithmetic.device)
    labels = None if data.labels is None else torch.from_numpy(data.labels[rows].copy())

    def losses(network: nn.Module) -> torch.Tensor:
        objective = replace(
            run.objective, model=replace(run.objective.model, network=network.eval())
        )
        return halving(128, lambda size: held_out_losses(objective, images, labels, size))[
            1
        ].double()

    averaged, plain = losses(average), losses(raw)
    raw.train()
    quarters = {
        f"held_out_q{i + 1}": float(part.mean())
        for i, part in enumerate(averaged.tensor_split(4))
        if len(part)
    }
    return {
        "held_out_loss": float(averaged.mean()),
        "held_out_loss_raw": float(plain.mean()),
        **quarters,
    }
