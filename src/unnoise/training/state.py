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
from unnoise.config import RunConfig, TrainConfig
from unnoise.diffusion.losses import Uncertainty
from unnoise.model import check_fit
from unnoise.networks.network import Network
from unnoise.parallel import full_tensor, shard, shard_like
from unnoise.precision import Arithmetic
from unnoise.training.muon import Muon


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

    network: Network
    averages: dict[float, Network]
    """Averaged networks by their half-life in thousand images, the configured one first."""
    optimizer: torch.optim.Optimizer
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

    @property
    def ema(self) -> Network:
        """The average that previews and the model file show."""
        return next(iter(self.averages.values()))


def create(
    config: RunConfig, shape: build.Shape, arithmetic: Arithmetic, sharded: bool = False
) -> TrainState:
    """The state before the first step; cut over the ranks if `sharded`."""
    network = arithmetic.place(build.network(config, shape))
    halflives = (config.train.ema_halflife_kimg, *config.train.ema_also_kimg)
    averages = {kimg: copy.deepcopy(network).eval().requires_grad_(False) for kimg in halflives}
    if sharded:
        for module in (network, *averages.values()):
            shard(module)
    uncertainty = (
        Uncertainty().to(arithmetic.device) if config.diffusion.weighting == "learned" else None
    )
    optimizer = _optimizer(config.train, network, uncertainty)
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16)
    return TrainState(network, averages, optimizer, scaler, uncertainty)


def _optimizer(
    train: TrainConfig, network: Network, uncertainty: nn.Module | None
) -> torch.optim.Optimizer:
    """What moves the network and what is trained beside it."""
    chosen: dict[str, Any] = {
        "lr": train.lr,
        "betas": train.betas,
        "weight_decay": train.weight_decay,
    }
    parameters = list(_parameters(network, uncertainty).values())
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **chosen, fused=True)
    mine = network.hidden_matrices()
    numbers = {id(p) for p in mine}
    optimizer = Muon(mine, [p for p in parameters if id(p) not in numbers], **chosen)
    optimizer.param_groups[0]["lr_factor"] = (
        1.0 if train.muon_lr is None else train.muon_lr / train.lr
    )
    return optimizer


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
        **{name: average.state_dict() for name, average in named_averages(state).items()},
        "optimizer": _flatten(state.optimizer, _parameters(state.network, state.uncertainty)),
    }
    if state.uncertainty is not None:
        groups["uncertainty"] = state.uncertainty.state_dict()
    return {
        name: {key: full_tensor(value) for key, value in group.items()}
        for name, group in groups.items()
    }


def named_averages(state: TrainState) -> dict[str, nn.Module]:
    """The averages by their names in a checkpoint: ema, and ema-<half-life> for further ones."""
    return {
        f"ema-{kimg:g}" if i else "ema": average
        for i, (kimg, average) in enumerate(state.averages.items())
    }


def record(state: TrainState, extra: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds beside tensors."""
    return {
        **{name: getattr(state, name) for name in COUNTERS},
        "scaler": state.scaler.state_dict(),
        **extra,
    }


def restore(path: Path, state: TrainState) -> dict[str, Any]:
    """Load a checkpoint into a state made from the same config; gives its JSON record."""
    tensors, record = checkpoint.load(path)
    for name, network in {"network": state.network, **named_averages(state)}.items():
        group = tensors.get(
            name, tensors["ema"]
        )  # an average that the run did not have before starts from its ema
        check_fit(network, group, path)
        _load(network, group)
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
        value.copy_(shard_like(group[name].to(value.dtype), value))


def _flatten(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: exp_avg/<parameter>, .."""
    return {
        f"{kind}/{name}": value
        for name, parameter in parameters.items()
        for kind, value in optimizer.state.get(parameter, {}).items()
    }


def _unflatten(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    tensors: dict[str, Tensor],
) -> None:
    optimizer.state.clear()
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        # Moments share the parameter's memory format, so that the next step computes the same bits.
        value = value.to(parameter.device)
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(shard_like(value, parameter))
        optimizer.state[parameter][kind] = value
    mine = (
        {id(p) for p in optimizer.param_groups[0]["params"]}
        if isinstance(optimizer, Muon)
        else set[int]()
    )
    for parameter, kinds in list(
        optimizer.state.items()
    ):  # of a run that goes on with another optimizer: start anew
        if kinds.keys() != (
            {"momentum"} if id(parameter) in mine else {"step", "exp_avg", "exp_avg_sq"}
        ):
            del optimizer.state[parameter]
