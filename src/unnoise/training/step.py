"""One optimizer step, and the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unnoise.build import Arithmetic
from unnoise.config import RunConfig, TrainConfig
from unnoise.data.images import to_model
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.losses import draw_times, training_loss
from unnoise.diffusion.noise import derive_seed, stream
from unnoise.training import ema
from unnoise.training.pairing import optimal_transport
from unnoise.training.state import TrainState


@dataclass(frozen=True)
class Objective:
    """What is minimised and how it is computed."""

    model: DiffusionModel
    config: RunConfig
    arithmetic: Arithmetic
    num_classes: int

    def loss(self, x0: Tensor, eps: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """(b,) losses, fp32."""
        with self.arithmetic.autocast():
            return training_loss(self.model, x0, eps, t, label, self.config.diffusion.weighting)


@dataclass(frozen=True)
class Batch:
    """A batch with all its randomness drawn, so that it can be cut into micro-batches."""

    x0: Tensor
    eps: Tensor
    t: Tensor
    label: Tensor | None


def learning_rate(config: TrainConfig, nimg: int, progress: float) -> float:
    """Linear warm-up by images seen, then the schedule by progress in [0, 1]."""
    warmup = min(1.0, (nimg + config.batch_size) / (1000 * config.warmup_kimg)) if config.warmup_kimg > 0 else 1.0
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress, "constant": 1.0}
    return config.lr * warmup * shape[config.lr_schedule]


def draw(objective: Objective, step: int, images: Tensor, labels: Tensor | None) -> Batch:
    """Noise, times and dropped labels of one step, each from its own (seed, step, stream)."""
    config, where = objective.config, images.device
    x0 = to_model(images)
    eps = torch.randn(x0.shape, generator=stream(config.seed, step, "noise", where), device=where)
    times = stream(config.seed, step, "times")
    t = draw_times(config.diffusion.times, objective.model.schedule, len(x0), times, config.train.stratified)
    label = None
    if labels is not None and objective.num_classes:
        coins = torch.rand(len(x0), generator=stream(config.seed, step, "label_dropout")).to(where)
        label = torch.where(coins < config.train.label_dropout, objective.num_classes, labels)
    return Batch(x0, eps, t.to(where), label)


def train_step(objective: Objective, state: TrainState, batch: Batch, lr: float) -> tuple[Tensor, Tensor]:
    """Gradients of the batch, clipping, optimizer, average; gives the mean loss and the gradient's norm before it.

    The loss it gives is the one before a learned weighting, which would hide how well the network does.
    """
    train, count = objective.config.train, len(batch.x0)
    if objective.config.network.dropout > 0:  # nn.Dropout draws from the global generator
        torch.manual_seed(derive_seed(objective.config.seed, state.step, "dropout"))
    if train.pairing == "optimal_transport":
        batch = replace(batch, eps=optimal_transport(batch.x0, batch.eps, batch.label))
    size = train.micro_batch or count
    total = torch.zeros((), device=batch.x0.device)
    for start in range(0, count, size):
        part = slice(start, start + size)
        label = None if batch.label is None else batch.label[part]
        loss = objective.loss(batch.x0[part], batch.eps[part], batch.t[part], label)
        total += loss.detach().sum() / count
        if state.uncertainty is not None:
            loss = state.uncertainty.weigh(loss, objective.model.schedule.level(batch.t[part]))
        state.scaler.scale(loss.sum() / count).backward()
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.network.parameters(), train.clip or math.inf)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.nimg += count
    beta = ema.decay(count, state.nimg, 1000 * train.ema_halflife_kimg, train.ema_rampup)
    ema.update(state.ema, state.network, beta)
    return total, norm


@torch.no_grad()
def held_out_loss(objective: Objective, images: Tensor, labels: Tensor | None) -> float:
    """Mean loss of images with noise and times that are the same every time it is asked."""
    batch = draw(objective, -1, images, None)
    total, size = 0.0, 128
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # times are stratified in order
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        label = None if labels is None or not objective.num_classes else labels[part].to(images.device)
        total += float(objective.loss(batch.x0[part], batch.eps[part], batch.t[order][part], label).sum())
    return total / len(images)
