"""All that changes during training, and how it is written down."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from unnoise import build, checkpoint, records
from unnoise.checkpoint import Tensors
from unnoise.config import RunConfig, TrainConfig
from unnoise.diffusion.losses import Loss
from unnoise.errors import CheckpointError, ConfigError
from unnoise.networks.network import Network
from unnoise.parallel import full_tensor, shard, shard_like
from unnoise.precision import Arithmetic
from unnoise.ranges import NotNegative, Positive, Range, Total
from unnoise.reading import from_dict
from unnoise.training.muon import Muon

NEEDED_GROUPS, NEEDED_NUMBERS = ("network", "ema", "optimizer"), ("step", "nimg", "scaler")


@dataclass
class Counters:
    """Numbers that a checkpoint keeps in its state.json."""

    step: Total = 0
    nimg: Total = 0
    train_sec: NotNegative = 0.0
    loss_sum: float = 0.0
    """Sum over the steps since the last line of metrics.jsonl."""
    loss_steps: Total = 0
    loss: float = math.nan
    """The last logged mean."""
    held_out_loss: float = math.nan
    previewed_nimg: Annotated[int, Range(least=-1)] = -1
    """Images seen at the last preview."""
    best_held_out_loss: float = math.inf
    best_step: Annotated[int, Range(least=-1)] = -1
    """The checkpoint of the lowest held-out loss."""
    skipped: Total = 0
    """Steps not applied because their loss or gradient was not finite."""
    skipped_in_row: Total = 0
    started_from: str = ""
    """The first digits of the SHA-256 of the weights that the run started from, if it did."""


class OfScaler(TypedDict):
    """The state of a torch.amp.GradScaler."""

    scale: Positive
    growth_factor: Positive
    backoff_factor: Positive
    growth_interval: Total
    _growth_tracker: Total


class Saved(NamedTuple):
    """What a checkpoint holds for a run that resumes."""

    groups: dict[str, Tensors]
    counters: Counters
    scaler: dict[str, Any]


class StepOutcome(NamedTuple):
    """What came of a step, on the device."""

    step: int
    nimg: int
    finite: Tensor
    """Whether the step was applied."""
    loss: Tensor
    norm: Tensor
    """Norm of the gradient, before clipping."""


@dataclass
class TrainState:
    """Networks, optimizer and counters: with config and data, all of the future of a run."""

    network: Network
    averages: dict[float, Network]
    """Averaged networks by their half-life in thousand images, the configured one first."""
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    counters: Counters = field(default_factory=Counters)
    waiting: list[StepOutcome] = field(default_factory=list)
    """Steps that are not counted yet: see `step.collect_outcomes`."""
    grad_norm: float = math.nan
    """Norm of the last gradient that was counted."""
    micro_batch: int | None = None
    """Images per pass after memory ran out; not kept, as another machine may have more."""

    @property
    def ema(self) -> Network:
        """The average that previews and the model file show."""
        return next(iter(self.averages.values()))

    def named_averages(self) -> dict[str, Network]:
        """Averages by the name of their file: ema, and ema-<half-life> of the others."""
        return {
            f"ema-{kimg:g}" if i else "ema": average
            for i, (kimg, average) in enumerate(self.averages.items())
        }

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that the optimizer moves, by name, in its order."""
        own = self.loss.named_parameters(prefix=self.loss.name)
        return {**dict(self.network.named_parameters()), **dict(own)}


def create(
    config: RunConfig, shape: build.Shape, arithmetic: Arithmetic, sharded: bool
) -> TrainState:
    """Make the state before the first step; cut over the ranks if `sharded`."""
    network = arithmetic.place(build.network(config, shape))
    halflives = (config.train.ema_halflife_kimg, *config.train.ema_also_kimg)
    averages = {kimg: copy.deepcopy(network).eval().requires_grad_(False) for kimg in halflives}
    if sharded:  # which cuts contiguous tensors only
        for module in (network, *averages.values()):
            module.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
            shard(module)
    loss = build.loss(config.diffusion).to(arithmetic.device)
    optimizer = _optimizer(config.train, network, loss, arithmetic.dtype)
    scaler = torch.amp.GradScaler(arithmetic.device.type, enabled=arithmetic.dtype == torch.float16)
    return TrainState(network, averages, loss, optimizer, scaler)


def _optimizer(
    train: TrainConfig, network: Network, loss: Loss, dtype: torch.dtype
) -> torch.optim.Optimizer:
    """Make what moves the network and the parameters of the loss."""
    chosen: Any = {"lr": train.lr, "betas": train.betas, "weight_decay": train.weight_decay}
    parameters = [*network.parameters(), *loss.parameters()]
    if train.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **chosen, fused=True)
    matrices = dict.fromkeys(network.hidden_matrices())
    others = [p for p in parameters if p not in matrices]
    optimizer = Muon(matrices, others, **chosen, fast=dtype != torch.float32)
    factor = 1.0 if train.muon_lr is None else train.muon_lr / train.lr
    optimizer.param_groups[0]["lr_factor"] = factor
    return optimizer


def tensors(state: TrainState) -> dict[str, Tensors]:
    """All that a checkpoint holds, by group, put together from all ranks (which must all ask)."""
    groups = {
        "network": state.network.state_dict(),
        **{name: average.state_dict() for name, average in state.named_averages().items()},
        "optimizer": {  # exp_avg/<parameter>, ..
            f"{kind}/{name}": value
            for name, parameter in state.parameters().items()
            for kind, value in state.optimizer.state.get(parameter, {}).items()
        },
        state.loss.name: state.loss.state_dict(),
    }
    return {
        name: {key: full_tensor(value) for key, value in group.items()}
        for name, group in groups.items()
        if group or name == "optimizer"
    }


def read(path: Path) -> Saved:
    """Read a checkpoint of a run; CheckpointError where a run cannot go on from it."""
    groups, record = checkpoint.load(path)
    needed = {*NEEDED_GROUPS} - groups.keys() | {*NEEDED_NUMBERS} - record.keys()
    if needed:
        raise CheckpointError(f"checkpoint {path}: has no {', '.join(sorted(needed))}")
    known = {each.name for each in fields(Counters)} & record.keys()
    try:
        counters = from_dict(Counters, {key: record[key] for key in known})
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {path}: state.json: is damaged ({error})") from error
    if record["scaler"] != {}:
        records.check(OfScaler, record["scaler"], f"checkpoint {path}: state.json: scaler")
    return Saved(groups, counters, record["scaler"])


def restore(path: Path, state: TrainState) -> None:
    """Load a checkpoint into a state made from the same config."""
    groups, state.counters, scaler = read(path)
    _fit(state.network, groups["network"], path)
    for name, average in state.named_averages().items():
        # an average that the run did not have before starts from its ema
        _fit(average, groups.get(name, groups["ema"]), path)
    if state.loss.name in groups:  # else the run had another loss before: this one starts anew
        _fit(state.loss, groups[state.loss.name], path)
    _restore_optimizer(state.optimizer, state.parameters(), groups["optimizer"])
    if scaler:
        state.scaler.load_state_dict(scaler)


def start(name: str, state: TrainState, differ: str = "") -> str:
    """Take network and averages from a model, before the first step of a run; gives what was new.

    Tensors of other shapes start anew: those of other channels, classes or levels.
    CheckpointError where less than half of the weights fit, with what is said to `differ`.
    """
    path, weights, record = checkpoint.read_named(name)
    checkpoint.refuse_not_finite(weights, str(path))
    digest = str(record.get("weights") or checkpoint.fingerprint(weights))[:12]
    own = {key: full_tensor(value) for key, value in state.network.state_dict().items()}
    fitting = {key for key, value in own.items() if _shape(weights.get(key)) == value.shape}
    taken, all_ = (sum(own[key].numel() for key in keys) for keys in (fitting, own))
    anew = [f"{key} is {tuple(own[key].shape)}" for key in own if key not in fitting]
    if taken < all_ / 2:
        expected = f"expected the same kind of network and width{differ and f' ({differ})'}"
        raise CheckpointError(f"{path}: only {taken / all_:.0%} of the weights fit; {expected}")
    weights = {key: weights[key] if key in fitting else value for key, value in own.items()}
    for module in (state.network, *state.averages.values()):
        _fit(module, weights, path)
    state.counters.started_from = digest
    more = f" and {len(anew) - 3} more" if len(anew) > 3 else ""
    return f"new: {', '.join(anew[:3])}{more}" if anew else ""


def _shape(value: Tensor | None) -> torch.Size | None:
    return None if value is None else value.shape


def _fit(module: nn.Module, group: Tensors, path: Path) -> None:
    """Load whole tensors into a module, cut over the ranks as its own are."""
    checkpoint.compare(module, group, path)
    own = module.state_dict()
    module.load_state_dict({key: shard_like(value, own[key]) for key, value in group.items()})


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], group: Tensors
) -> None:
    """Load the moments of the parameters; those of another optimizer or loss start anew."""
    optimizer.state.clear()
    for key, value in group.items():
        kind, _, name = key.partition("/")
        if name not in parameters:
            continue
        parameter = parameters[name]
        # Moments share the parameter's memory format, so that the next step computes the same bits.
        value = value.to(parameter.device)
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(shard_like(value, parameter))
        elif kind != "step" or value.ndim:
            continue
        optimizer.state[parameter][kind] = value
    by_muon = set(optimizer.param_groups[0]["params"] if isinstance(optimizer, Muon) else ())
    for parameter, kinds in list(optimizer.state.items()):
        moments = {"momentum"} if parameter in by_muon else {"step", "exp_avg", "exp_avg_sq"}
        if kinds.keys() != moments:
            del optimizer.state[parameter]
