"""One optimizer step, and the learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from unnoise import build
from unnoise.config import RunConfig, TrainConfig
from unnoise.data.batches import to_device
from unnoise.data.images import to_model
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.losses import draw_times, training_loss
from unnoise.diffusion.noise import derive_seed, stream
from unnoise.errors import ConfigError
from unnoise.memory import halving, out_of_memory
from unnoise.parallel import World, full_tensor, sync_gradients
from unnoise.precision import Arithmetic
from unnoise.training import ema
from unnoise.training.pairing import optimal_transport
from unnoise.training.state import Outcome, TrainState


@dataclass(frozen=True)
class Objective:
    """What is minimised and how it is computed."""

    model: DiffusionModel
    config: RunConfig
    arithmetic: Arithmetic
    num_classes: int
    world: World = field(default_factory=World)

    def loss(self, x0: Tensor, eps: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """(b,) losses, fp32."""
        with self.arithmetic.autocast():
            return training_loss(self.model, x0, eps, t, label, self.config.diffusion.weighting)


@dataclass(frozen=True)
class Batch:
    """This rank's part of a batch with all its randomness drawn, so that it can be cut into micro-batches."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    label: Tensor | None
    count: int
    """Images of the whole batch, over all ranks."""


def learning_rate(config: TrainConfig, nimg: int, progress: float) -> float:
    """Linear warm-up by images seen, then the schedule by progress in [0, 1], of which the last `lr_decay` counts."""
    warmup = (
        min(1.0, (nimg + config.batch_size) / (1000 * config.warmup_kimg))
        if config.warmup_kimg > 0
        else 1.0
    )
    fallen = max(0.0, 1 - (1 - progress) / config.lr_decay)
    shape = {
        "cosine": 0.5 * (1 + math.cos(math.pi * fallen)),
        "linear": 1 - fallen,
        "constant": 1.0,
    }
    return config.lr * warmup * shape[config.lr_schedule]


def draw(
    objective: Objective, step: int, images: Tensor, labels: Tensor | None, count: int | None = None
) -> Batch:
    """Noise, times and dropped labels of one step, each from its own (seed, step, stream).

    They are drawn for the whole batch of `count` images, of which `images` are this rank's.
    """
    config, where, rows = objective.config, images.device, objective.world.rows
    count = len(images) if count is None else count
    x0 = to_model(images)
    eps = torch.randn(
        (count, *x0.shape[1:]), generator=stream(config.seed, step, "noise", where), device=where
    )[rows]
    times = stream(config.seed, step, "times")
    t = draw_times(
        build.times(config.diffusion),
        objective.model.schedule,
        count,
        times,
        config.train.stratified,
    )[rows]
    label = None
    if labels is not None and objective.num_classes:
        coins = torch.rand(count, generator=stream(config.seed, step, "label_dropout"))[rows]
        coins = to_device(coins, where)
        label = torch.where(coins < config.train.label_dropout, objective.num_classes, labels)
    return Batch(x0, eps, to_device(t, where), label, count)


def train_step(
    objective: Objective, state: TrainState, batch: Batch, lr: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch, clipping, optimizer, average; gives the mean loss and the gradient's norm before it.

    The loss it gives is the one before a learned weighting, which would hide how well the network does. A step whose loss or
    gradient is not finite changes no weight (with fp16 an infinite gradient is the scaler's business). On a GPU the device itself
    decides that; what it decided waits in `state.unread` for `read`, so that the host need not wait for every step.
    """
    train = objective.config.train
    if train.pairing == "optimal_transport":
        batch = replace(batch, eps=optimal_transport(batch.x0, batch.eps, batch.label))
    loss = objective.world.all_reduce_sum(_gradients(objective, state, batch))
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    state.scaler.unscale_(state.optimizer)
    norm = _clip(state.network, train.clip or math.inf)
    finite = loss.isfinite() if state.scaler.is_enabled() else loss.isfinite() & norm.isfinite()
    state.step += 1
    state.nimg += batch.count
    _apply(
        state,
        finite,
        batch.count,
        train.ema_rampup,
        wait=state.scaler.is_enabled() or loss.device.type == "cpu",
    )
    state.unread.append(Outcome(state.step, state.nimg, finite, loss, norm, batch.t))
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, norm


def _clip(network: nn.Module, most: float) -> Tensor:
    """Scale the gradients down to a norm of `most`; gives the norm before."""
    parameters = list(network.parameters())
    part = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = full_tensor(part)
    if (
        norm.device.type != "cpu" or float(norm) > most
    ):  # a CPU has the number, and spares itself a pass over the gradients
        torch.nn.utils.clip_grads_with_norm_(parameters, most, part)
    return norm


def _apply(state: TrainState, finite: Tensor, count: int, rampup: float, wait: bool) -> None:
    """Move the weights and their averages if all is finite: the host waits to know, or the device looks by itself."""
    optimizer = state.optimizer
    averages = {
        average: ema.decay(count, state.nimg, 1000 * kimg, rampup)
        for kimg, average in state.averages.items()
    }
    if not wait:
        optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]  # as a scaler would tell it
        optimizer.step()
        del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        for average, beta in averages.items():
            ema.update_where(finite, average, state.network, beta)
    elif bool(finite):
        state.scaler.step(optimizer)
        for average, beta in averages.items():
            ema.update(average, state.network, beta)


def read(objective: Objective, state: TrainState) -> Iterator[Outcome]:
    """Count the steps since the last call, one synchronisation for all; gives each that was not applied, as it is counted."""
    numbers = [
        torch.stack([o.finite.float(), o.loss.float(), o.norm.float()]) for o in state.unread
    ]
    values = torch.stack(numbers).tolist() if numbers else []
    outcomes, state.unread = state.unread, []
    for outcome, (finite, loss, norm) in zip(outcomes, values, strict=True):
        state.norm = norm
        if finite:
            state.loss_sum += loss
            state.loss_steps += 1
            state.skipped_in_row, state.skipped_noise = 0, []
            continue
        level = objective.model.schedule.level(outcome.t)
        state.skipped, state.skipped_in_row = state.skipped + 1, state.skipped_in_row + 1
        state.skipped_noise.append(torch.as_tensor(level.sigma / level.alpha).flatten().cpu())
        yield outcome


def _gradients(objective: Objective, state: TrainState, batch: Batch) -> Tensor:
    """Gradients and mean loss; where memory runs out, the same again in micro-batches of half the size."""
    most = _micro_batch(objective, state, batch)

    def attempt(size: int) -> Tensor:
        if size < most:
            state.optimizer.zero_grad(set_to_none=True)
            state.micro_batch = size
        return _accumulate(objective, state, batch, size)

    if objective.world.size == 1:
        return halving(most, attempt)[1]
    try:  # other ranks wait in the middle of their pass: none can go back
        return attempt(most)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(
            f"rank {objective.world.rank}: out of memory with {most} images at a time; expected less, such as "
            f"--train.micro-batch {max(1, most // 2)}; the same command goes on from the last checkpoint"
        ) from error


def _micro_batch(objective: Objective, state: TrainState, batch: Batch) -> int:
    """Images per pass."""
    return min(
        state.micro_batch or objective.config.train.micro_batch or len(batch.x0), len(batch.x0)
    )


def rehearse(objective: Objective, state: TrainState, batch: Batch) -> None:
    """Before the first step of more than one rank: find the micro-batch that fits on all of them, each by itself."""
    if (
        objective.world.size == 1 or objective.config.train.parallel == "fsdp"
    ):  # whose ranks cannot do a pass alone
        return
    most, alone = (
        _micro_batch(objective, state, batch),
        replace(objective.model, network=state.network),
    )

    def attempt(size: int) -> int:
        state.optimizer.zero_grad(set_to_none=True)
        label = None if batch.label is None else batch.label[:size]
        replace(objective, model=alone).loss(
            batch.x0[:size], batch.eps[:size], batch.t[:size], label
        ).sum().backward()
        return size

    fitting = objective.world.all_reduce_min(halving(most, attempt)[0], batch.x0.device)
    state.optimizer.zero_grad(set_to_none=True)
    if fitting < most:
        state.micro_batch = fitting


def _accumulate(objective: Objective, state: TrainState, batch: Batch, size: int) -> Tensor:
    """Add up the gradients of micro-batches of `size` images; gives this rank's share of the mean loss."""
    here, network = objective.world, objective.model.network
    if objective.config.network.stochastic:  # nn.Dropout draws from the global generator
        parts = (objective.config.seed, state.step, "dropout") + ((here.rank,) if here.rank else ())
        torch.manual_seed(derive_seed(*parts))
    total = torch.zeros((), device=batch.x0.device)
    for start in range(0, len(batch.x0), size):
        part = slice(start, start + size)
        label = None if batch.label is None else batch.label[part]
        with sync_gradients(network, start + size >= len(batch.x0)):
            loss = objective.loss(batch.x0[part], batch.eps[part], batch.t[part], label)
            total += loss.detach().sum() / batch.count
            if state.uncertainty is not None:
                loss = state.uncertainty.weigh(loss, objective.model.schedule.level(batch.t[part]))
            # DDP and FSDP average over the ranks; the sum of all images over their number is wanted.
            state.scaler.scale(loss.sum() / batch.count * here.size).backward()
    if state.uncertainty is not None and here.size > 1:
        for parameter in state.uncertainty.parameters():
            if parameter.grad is not None:
                parameter.grad = here.all_reduce_sum(parameter.grad) / here.size
    return total


@torch.no_grad()
def held_out_losses(
    objective: Objective, images: Tensor, labels: Tensor | None, size: int = 128
) -> Tensor:
    """(n,) losses of images, by rising noise level, with noise and times that are the same every time it is asked.

    They are computed `size` at a time.
    """
    batch = draw(replace(objective, world=World()), -1, images, None)
    order = torch.randperm(
        len(images), generator=torch.Generator().manual_seed(0)
    )  # times are stratified in order
    losses = []
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        label = (
            None if labels is None or not objective.num_classes else labels[part].to(images.device)
        )
        losses.append(objective.loss(batch.x0[part], batch.eps[part], batch.t[order][part], label))
    return torch.cat(losses)[torch.argsort(batch.t[order], stable=True)]
