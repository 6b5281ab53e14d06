"""All that changes during training, and how it is written down."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unnoise import build, checkpoint
from unnoise.config import RunConfig
from unnoise.diffusion.losses import Uncertainty
from unnoise.model import fit


@dataclass
class TrainState:
    """Networks, optimizer and counters: with the config and the data, all of the future of a run."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    uncertainty: Uncertainty | None = None
    """Trained beside the network where the weighting is learned."""
    step: int = 0
    nimg: int = 0
    train_sec: float = 0.0
    loss_sum: float = 0.0
    """Of the steps since the last line of metrics.jsonl."""
    loss_steps: int = 0
    loss: float = math.nan
    """The last logged mean."""
    held_out_loss: float = math.nan
    previewed_nimg: int = -1
    """Images seen at the last preview."""


def create(config: RunConfig, shape: build.Shape, arithmetic: build.Arithmetic) -> TrainState:
    """The state before the first step."""
    network = arithmetic.place(build.network(config, shape))
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    train = config.train
    uncertainty = Uncertainty().to(arithmetic.device) if config.diffusion.weighting == "learned" else None
    optimizer = torch.optim.AdamW(
        _parameters(network, uncertainty).values(),
        lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True,
    )  # fmt: skip
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16)
    return TrainState(network, ema, optimizer, scaler, uncertainty)


def _parameters(network: nn.Module, uncertainty: nn.Module | None) -> dict[str, nn.Parameter]:
    """All that the optimizer moves, by name."""
    beside = {} if uncertainty is None else dict(uncertainty.named_parameters(prefix="uncertainty"))
    return {**dict(network.named_parameters()), **beside}


COUNTERS = ("step", "nimg", "train_sec", "loss_sum", "loss_steps", "loss", "held_out_loss", "previewed_nimg")


def save(folder: Path, state: TrainState, extra: dict[str, Any]) -> Path:
    """Write a checkpoint."""
    groups = {
        "network": state.network.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": _flatten(state.optimizer, _parameters(state.network, state.uncertainty)),
    }
    if state.uncertainty is not None:
        groups["uncertainty"] = state.uncertainty.state_dict()
    record = {name: getattr(state, name) for name in COUNTERS}
    return checkpoint.save(folder, state.step, groups, {**record, "scaler": state.scaler.state_dict(), **extra})


def restore(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a checkpoint into a state made from the same config; gives its JSON record."""
    tensors, record = checkpoint.load(path)
    fit(state.network, tensors["network"], path)
    fit(state.ema, tensors["ema"], path)
    if state.uncertainty is not None:
        fit(state.uncertainty, tensors["uncertainty"], path)
    _unflatten(state.optimizer, _parameters(state.network, state.uncertainty), tensors["optimizer"])
    if record["scaler"]:
        state.scaler.load_state_dict(record["scaler"])
    for name in COUNTERS:
        setattr(state, name, record.get(name, getattr(state, name)))
    return record


def _flatten(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: exp_avg/<parameter>, .."""
    return {
        f"{kind}/{name}": value
        for name, parameter in parameters.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _unflatten(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], tensors: dict[str, Tensor]
) -> None:
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Moments share the parameter's memory format, so that the next step computes the same bits.
        value = value.to(parameter.device)
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][kind] = value
