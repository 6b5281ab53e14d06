"""All that changes during training, and how it is written down."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unnoise import build, checkpoint
from unnoise.config import RunConfig
from unnoise.diffusion.losses import Uncertainty
from unnoise.model import check_fit
from unnoise.training.distributed import like, shard, whole


class Outcome(NamedTuple):
    """What came of a step, on the device."""

    step: int
    nimg: int
    finite: Tensor
    """Whether it was applied."""
    loss: Tensor
    norm: Tensor
    """Of the gradient, before clipping."""
    t: Tensor
    """The times of the images."""


@dataclass
class TrainState:
    """Networks, optimizer and counters: with the config and the data, all of the future of a run."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    uncertainty: Uncertainty | None = None
    """Trained beside the network where the weighting is learned."""
    micro_batch: int | None = None
    """Images per pass after memory ran out; not kept, as another machine may have more."""
    unread: list[Outcome] = field(default_factory=list)
    """Steps that the counters below do not know of yet: see `step.read`."""
    norm: float = math.nan
    """Of the last gradient."""
    skipped_noise: list[Tensor] = field(default_factory=list)
    """sigma / alpha of the images of the steps skipped in a row."""
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
    best_held_out_loss: float = math.inf
    best_step: int = -1
    """The checkpoint of the lowest held-out loss."""
    skipped: int = 0
    """Steps not applied because their loss or gradient was not finite."""
    skipped_in_row: int = 0


def create(config: RunConfig, shape: build.Shape, arithmetic: build.Arithmetic, sharded: bool = False) -> TrainState:
    """The state before the first step; cut over the ranks if `sharded`."""
    network = arithmetic.place(build.network(config, shape))
    ema = copy.deepcopy(network).eval().requires_grad_(False)
    if sharded:
        shard(network)
        shard(ema)
    train = config.train
    uncertainty = Uncertainty().to(arithmetic.device) if config.diffusion.weighting == "learned" else None
    groups = [{"params": list(module.parameters())} for module in (network, uncertainty) if module is not None]
    optimizer = torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, weight_decay=train.weight_decay, fused=True)
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16)
    return TrainState(network, ema, optimizer, scaler, uncertainty)


def _parameters(network: nn.Module, uncertainty: nn.Module | None) -> dict[str, nn.Parameter]:
    """All that the optimizer moves, by name, in its order."""
    beside = {} if uncertainty is None else dict(uncertainty.named_parameters(prefix="uncertainty"))
    return {**dict(network.named_parameters()), **beside}


COUNTERS = ("step", "nimg", "train_sec", "loss_sum", "loss_steps", "loss", "held_out_loss", "previewed_nimg",
            "best_held_out_loss", "best_step", "skipped", "skipped_in_row")  # fmt: skip


def tensors(state: TrainState) -> dict[str, dict[str, Tensor]]:
    """All that a checkpoint holds, by group, put together from all ranks (which must all ask)."""
    groups = {
        "network": state.network.state_dict(),
        "ema": state.ema.state_dict(),
        "optimizer": _flatten(state.optimizer, _parameters(state.network, state.uncertainty)),
    }
    if state.uncertainty is not None:
        groups["uncertainty"] = state.uncertainty.state_dict()
    return {name: {key: whole(value) for key, value in group.items()} for name, group in groups.items()}


def record(state: TrainState, extra: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds beside tensors."""
    return {**{name: getattr(state, name) for name in COUNTERS}, "scaler": state.scaler.state_dict(), **extra}


def restore(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a checkpoint into a state made from the same config; gives its JSON record."""
    tensors, record = checkpoint.load(path)
    for name in ("network", "ema"):
        network = getattr(state, name)
        check_fit(network, tensors[name], path)
        _load(network, tensors[name])
    if state.uncertainty is not None:
        check_fit(state.uncertainty, tensors["uncertainty"], path)
        _load(state.uncertainty, tensors["uncertainty"])
    _unflatten(state.optimizer, _parameters(state.network, state.uncertainty), tensors["optimizer"])
    if record["scaler"]:
        state.scaler.load_state_dict(record["scaler"])
    for name in COUNTERS:
        setattr(state, name, record.get(name, getattr(state, name)))
    return record


@torch.no_grad()
def _load(network: nn.Module, group: dict[str, Tensor]) -> None:
    """Copy whole tensors into a network, cut as its own are."""
    for name, value in network.state_dict().items():
        value.copy_(like(group[name].to(value.dtype), value))


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
            value = torch.empty_like(parameter).copy_(like(value, parameter))
        optimizer.state[parameter][kind] = value
