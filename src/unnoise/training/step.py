"""One optimizer step, and the learning rate.

A loop of one's own starts from `run, state = prepare(config, data, folder)` and
`batches = Batches(data, config.seed, run.arithmetic.device)`, and then repeats

    batch = draw(run, state.counters.step, *batches.get(state.counters.nimg, 64))
    train_step(run, state, batch, lr=1e-3)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from unnoise import build
from unnoise.config import TrainConfig
from unnoise.data.batches import to_device
from unnoise.data.images import to_model
from unnoise.diffusion.losses import Batch, draw_times
from unnoise.diffusion.noise import derive_seed, stream
from unnoise.errors import ConfigError
from unnoise.memory import halving, out_of_memory
from unnoise.parallel import World, full_tensor, sync_gradients
from unnoise.training import ema
from unnoise.training.run import Run
from unnoise.training.state import StepOutcome, TrainState

WARMUP_KIMG, WARMUP_SHARE = 10.0, 0.05
"""Length of a warm-up that no setting gives: thousand images, or this share of a shorter run."""


def learning_rate(config: TrainConfig, nimg: int, progress: float) -> float:
    """Linear warm-up by images, then the schedule by progress, of whose end `lr_decay` counts."""
    kimg = WARMUP_KIMG if config.warmup_kimg is None else config.warmup_kimg
    warmup = (nimg + config.batch_size) / (1000 * kimg) if kimg > 0 else 1.0
    if config.warmup_kimg is None:
        warmup = max(warmup, progress / WARMUP_SHARE)
    warmup = min(1.0, warmup)
    fallen = max(0.0, 1 - (1 - progress) / config.lr_decay)
    cosine = 0.5 * (1 + math.cos(math.pi * fallen))
    shape = {"cosine": cosine, "linear": 1 - fallen, "constant": 1.0}
    return config.lr * warmup * shape[config.lr_schedule]


def draw(
    run: Run, step: int, images: Tensor, labels: Tensor | None, count: int | None = None
) -> Batch:
    """Draw noise, times and dropped labels of one step, each from its own (seed, step, stream).

    They are drawn for the whole batch of `count` images, of which `images` are this rank's.
    """
    config, where, rows = run.config, images.device, run.world.rows
    count = len(images) if count is None else count
    x0 = to_model(images)
    noise = stream(config.seed, step, "noise", where)
    eps = torch.randn((count, *x0.shape[1:]), generator=noise, device=where)[rows]
    times, drawn = stream(config.seed, step, "times"), build.times(config.diffusion)
    t = draw_times(drawn, run.diffusion.schedule, count, times, config.train.stratified)[rows]
    label, null = None, run.shape.num_classes
    if labels is not None and null:
        coins = torch.rand(count, generator=stream(config.seed, step, "label_dropout"))[rows]
        dropped = to_device(coins, where) < config.train.label_dropout
        label = torch.where(dropped, null, labels)
    return Batch(x0, eps, to_device(t, where), label, count)


def train_step(run: Run, state: TrainState, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
    """Take gradients of a batch, clip them, move weights and averages; give mean loss and norm.

    The loss is the one that the loss object's `forward` gives, the norm the gradient's before
    clipping. A step whose loss or gradient is not finite changes no weight (with fp16 an infinite
    gradient is the scaler's business). On a GPU the device itself decides that, and what it decided
    waits in `state.waiting` for `collect_outcomes`, so that the host need not wait for every step.
    """
    train, counters, scaler = run.config.train, state.counters, state.scaler
    loss = run.world.all_reduce_sum(_gradients(run, state, batch))
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)
    scaler.unscale_(state.optimizer)
    norm = _clip(state.network, train.clip or math.inf)
    finite = loss.isfinite() if scaler.is_enabled() else loss.isfinite() & norm.isfinite()
    counters.step += 1
    counters.nimg += batch.count
    host_decides = scaler.is_enabled() or loss.device.type == "cpu"
    _apply(state, finite, batch.count, train.ema_rampup, wait=host_decides)
    state.waiting.append(StepOutcome(counters.step, counters.nimg, finite, loss, norm))
    scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    return loss, norm


def _clip(network: nn.Module, most: float) -> Tensor:
    """Scale the gradients down to a norm of `most`; give the norm before."""
    parameters = list(network.parameters())
    part = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = full_tensor(part)
    # a CPU has the number, and spares itself a pass over the gradients
    if norm.device.type != "cpu" or float(norm) > most:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, part)
    return norm


def _apply(state: TrainState, finite: Tensor, count: int, rampup: float, wait: bool) -> None:
    """Move weights and averages if all is finite: the host waits to know, or the device decides."""
    optimizer, wanted = state.optimizer, None
    if wait:
        if not finite:
            return
        state.scaler.step(optimizer)
    else:
        # as a scaler would tell it
        optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()
        del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        wanted = finite
    for kimg, average in state.averages.items():
        beta = ema.decay(count, state.counters.nimg, 1000 * kimg, rampup)
        ema.update(average, state.network, beta, wanted)


def collect_outcomes(state: TrainState) -> Iterator[StepOutcome]:
    """Count the steps since the last call; give each that was not applied, as it is counted.

    The host waits for the device once for all of them.
    """
    counters, steps, state.waiting = state.counters, state.waiting, []
    numbers = [torch.stack([o.finite.float(), o.loss.float(), o.norm.float()]) for o in steps]
    values = torch.stack(numbers).tolist() if numbers else []
    for outcome, (finite, loss, state.grad_norm) in zip(steps, values, strict=True):
        if finite:
            counters.loss_sum += loss
            counters.loss_steps += 1
            counters.skipped_in_row = 0
        else:
            counters.skipped += 1
            counters.skipped_in_row += 1
            yield outcome


def _gradients(run: Run, state: TrainState, batch: Batch) -> Tensor:
    """Take gradients and give the mean loss; in smaller parts where memory runs out."""
    here = len(batch.x0)
    most = min(state.micro_batch or run.config.train.micro_batch or here, here)

    def attempt(size: int) -> Tensor:
        if size < most:
            state.optimizer.zero_grad(set_to_none=True)
            state.micro_batch = size
        return _accumulate(run, state, batch, size)

    if run.world.size == 1:
        return halving(most, attempt)[1]
    try:  # other ranks wait in the middle of their pass: none can start it again
        return attempt(most)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(
            f"rank {run.world.rank}: out of memory with {most} images at a time; expected less, "
            f"such as --train.micro-batch {max(1, most // 2)}; "
            "the same command resumes from the last checkpoint"
        ) from error


def _accumulate(run: Run, state: TrainState, batch: Batch, size: int) -> Tensor:
    """Add up gradients of parts of `size` images; give this rank's share of the mean loss."""
    world = run.world
    if run.config.network.stochastic:  # nn.Dropout draws from the global generator
        rank = (world.rank,) if world.rank else ()
        torch.manual_seed(derive_seed(run.config.seed, state.counters.step, "dropout", *rank))
    total = torch.zeros((), device=batch.x0.device)
    for start in range(0, len(batch.x0), size):
        part = batch.part(slice(start, start + size))
        with sync_gradients(run.diffusion.network, start + size >= len(batch.x0)):
            loss = run.losses(state.loss, part)
            total += loss.detach().sum() / batch.count
            loss = state.loss.minimised(loss, run.diffusion, part)
            # DDP and FSDP average over the ranks, but the sum over all images is wanted
            state.scaler.scale(loss.sum() / batch.count * world.size).backward()
    for parameter in state.loss.parameters() if world.size > 1 else ():  # DDP knows nothing of it
        if parameter.grad is not None:
            parameter.grad = world.all_reduce_sum(parameter.grad) / world.size
    return total


@torch.no_grad()
def held_out_losses(
    run: Run,
    state: TrainState,
    network: nn.Module,
    images: Tensor,
    labels: Tensor | None,
    size: int,
) -> Tensor:
    """(n,) losses of images, by rising noise level, `size` images at a time.

    Noise and times are the same every time.
    """
    batch = draw(replace(run, world=World()), -1, images, None)
    # times are stratified in order
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    labels = labels.to(images.device) if labels is not None and run.shape.num_classes else None
    batch = replace(batch, t=batch.t[order], label=labels)
    parts = (batch.part(slice(start, start + size)) for start in range(0, len(images), size))
    losses = [run.losses(state.loss, part, network) for part in parts]
    return torch.cat(losses)[torch.argsort(batch.t, stable=True)]
