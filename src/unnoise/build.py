"""RunConfig -> objects: the only place where the registries meet the configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

from unnoise.config import DiffusionConfig, RunConfig, SampleConfig
from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.gaussian import VARIANCES
from unnoise.diffusion.grids import SPACINGS
from unnoise.diffusion.levels import Level
from unnoise.diffusion.losses import (
    LOSSES,
    TIME_DISTRIBUTIONS,
    WEIGHTINGS,
    LearnedWeighting,
    Loss,
)
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS
from unnoise.diffusion.samplers import SAMPLERS, options
from unnoise.diffusion.schedules import SCHEDULES, Schedule
from unnoise.errors import ConfigError, nearest
from unnoise.networks.unet import UNet

V = TypeVar("V")


def lookup(registry: Mapping[str, V], name: str, field: str) -> V:
    """The entry of a registry, or a ConfigError with the nearest name."""
    if name not in registry:
        raise ConfigError(f"{field}: no {name!r}; {nearest(name, registry)}")
    return registry[name]


@dataclass(frozen=True)
class Shape:
    """What a network must know of its data."""

    channels: int
    height: int
    width: int
    num_classes: int = 0


def network(config: RunConfig, shape: Shape) -> UNet:
    """A freshly initialised U-Net for a data shape (initialised from `config.seed`, the global generator untouched)."""
    learned = config.diffusion.variance == "learned"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return UNet(
                config.network,
                shape.channels,
                shape.channels * (2 if learned else 1),
                shape.height,
                shape.num_classes,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error


def diffusion_model(config: DiffusionConfig, net: nn.Module) -> DiffusionModel:
    """The network with its schedule and parameterization; ConfigError for combinations that do not exist."""
    schedule = lookup(SCHEDULES, config.schedule, "diffusion.schedule")(config.timesteps)
    lookup(PARAMETERIZATIONS, config.parameterization, "diffusion.parameterization")
    lookup(TIME_DISTRIBUTIONS, config.times, "diffusion.times")
    lookup(dict.fromkeys(VARIANCES), config.variance, "diffusion.variance")
    if (schedule.steps is None) == (config.times == "uniform_discrete"):
        fix = "uniform" if schedule.steps is None else "uniform_discrete"
        raise ConfigError(
            f"diffusion.times: got {config.times!r} with schedule {config.schedule!r}; expected {fix!r}"
        )
    if config.variance == "learned" and schedule.steps is None:
        raise ConfigError(
            f"diffusion.variance: 'learned' needs a discrete schedule, got {config.schedule!r}"
        )
    if config.variance == "learned" and config.timesteps < 2:
        raise ConfigError(
            f"diffusion.timesteps: got {config.timesteps} with variance 'learned'; expected 2 or more"
        )
    if config.parameterization == "eps" and schedule.level(schedule.t_max).alpha == 0:
        raise ConfigError(
            f"diffusion.parameterization: 'eps' cannot start from pure noise on schedule {config.schedule!r}; "
            "expected flow, v, x0 or edm"
        )
    return DiffusionModel(net, schedule, config.parameterization, config.variance)


def loss(config: DiffusionConfig) -> Loss:
    """The loss of a name, with its weighting; ConfigError for an unknown one."""
    lookup(WEIGHTINGS, config.weighting, "diffusion.weighting")
    made = lookup(LOSSES, config.loss, "diffusion.loss")(config.weighting)
    if not isinstance(made, Loss):
        raise ConfigError(
            f"diffusion.loss: {config.loss!r} makes a {type(made).__name__}; "
            "expected a subclass of unnoise.diffusion.losses.Loss"
        )
    return LearnedWeighting(made) if config.weighting == "learned" else made


def check_sampling(config: SampleConfig) -> None:
    """ConfigError for an unknown sampler or spacing, or a number out of range."""
    lookup(SAMPLERS, config.sampler, "sample.sampler")
    lookup(SPACINGS, config.spacing, "sample.spacing")
    if not 0 <= config.eta <= 1:
        raise ConfigError(
            f"sample.eta: got {config.eta:g}, expected 0 (deterministic) to 1 (ancestral)"
        )
    for name, option in (("eta", "eta"), ("churn", "churned")):
        takers = [sampler for sampler in SAMPLERS if option in options(sampler)]
        if getattr(config, name) and config.sampler not in takers:
            raise ConfigError(
                f"sample.{name}: sampler {config.sampler!r} has none; expected one of {', '.join(takers)}"
            )
    if config.churn < 0:
        raise ConfigError(f"sample.churn: got {config.churn:g}, expected 0 or more")
    if any(not 0 < b < a for a, b in pairwise(config.noises)):
        raise ConfigError(
            f"sample.noises: got {config.noises}, expected falling values of sigma / alpha above 0"
        )
    for name in ("guidance_interval", "churn_range"):
        low, high = getattr(config, name)
        if not 0 <= low <= high:
            raise ConfigError(
                f"sample.{name}: got {low:g} to {high:g}, expected sigma / alpha from 0, low before high"
            )
    if not 0 <= config.dynamic_threshold <= 1:
        raise ConfigError(
            f"sample.dynamic_threshold: got {config.dynamic_threshold:g}, expected a quantile in 0 to 1 (0 is off)"
        )
    if config.deep_cache < 1:
        raise ConfigError(f"sample.deep_cache: got {config.deep_cache}, expected 1 (off) or more")
    if config.deep_cache > 1 and config.cuda_graphs:
        raise ConfigError(
            "sample.deep_cache: cannot be recorded as CUDA graphs; expected one of the two"
        )
    if not math.isfinite(config.guidance_scale):
        raise ConfigError(
            f"sample.guidance_scale: got {config.guidance_scale}, expected a number; 1 is off"
        )


def grid(config: SampleConfig, schedule: Schedule) -> list[Level]:
    """The levels that sampling with these settings visits; ConfigError where there are too few for the steps."""
    try:
        if config.noises:
            return grids.from_noises(schedule, config.noises)
        return grids.make(schedule, config.steps, config.spacing)
    except ValueError as error:
        raise ConfigError(f"sample.{error}") from error
