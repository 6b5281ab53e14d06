"""RunConfig -> objects: the only place where the registries meet the configuration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from unnoise.config import DiffusionConfig, RunConfig, SampleConfig
from unnoise.config import check as config_check
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
    TimeDistribution,
)
from unnoise.diffusion.options import own_options
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS
from unnoise.diffusion.samplers import SAMPLERS, options
from unnoise.diffusion.schedules import SCHEDULES, Schedule
from unnoise.errors import ConfigError, UnknownNameError, nearest
from unnoise.networks.config import Shape
from unnoise.networks.network import Network
from unnoise.networks.registry import NETWORKS

V = TypeVar("V")


def lookup(registry: Mapping[str, V], name: str, field: str) -> V:
    """The entry of a registry, or an UnknownNameError with the nearest name."""
    if name not in registry:
        raise UnknownNameError(f"{field}: no {name!r}; {nearest(name, registry)}")
    return registry[name]


def network(config: RunConfig, shape: Shape) -> Network:
    """A network initialised from `config.seed` alone; ConfigError where it cannot be built."""
    build = lookup(NETWORKS, config.network.kind, "network.kind")
    config.network.check(shape)
    learned = config.diffusion.variance == "learned"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return build(config.network, shape, shape.channels * (2 if learned else 1))


def check_options(given: Collection[str], known: Collection[str], field: str, owner: str) -> None:
    """ConfigError for an option that the owner does not have."""
    for name in given:
        if not known:
            raise ConfigError(f"{field}: got {name!r}, but {owner} has no options; leave it out")
        if name not in known:
            raise ConfigError(f"{field}: {owner} has no {name!r}; {nearest(name, known)}")


def schedule(config: DiffusionConfig) -> Schedule:
    """The schedule with its options."""
    make, field = lookup(SCHEDULES, config.schedule, "diffusion.schedule"), "schedule_options"
    options = config.schedule_options
    check_options(options, own_options(make, 1), f"diffusion.{field}", repr(config.schedule))
    try:
        return make(config.timesteps, **options)
    except ValueError as error:
        raise ConfigError(f"diffusion.{field}: {error}") from error


def times(config: DiffusionConfig) -> TimeDistribution:
    """The distribution of training times, with the settings that it takes."""
    distribution = lookup(TIME_DISTRIBUTIONS, config.times, "diffusion.times")
    names = set(own_options(distribution, 2)) & vars(config).keys()
    return partial(distribution, **{name: getattr(config, name) for name in names})


def diffusion_model(config: DiffusionConfig, net: nn.Module) -> DiffusionModel:
    """A network with its process; ConfigError for combinations that do not exist."""
    process = schedule(config)
    lookup(PARAMETERIZATIONS, config.parameterization, "diffusion.parameterization")
    lookup(TIME_DISTRIBUTIONS, config.times, "diffusion.times")
    lookup(dict.fromkeys(VARIANCES), config.variance, "diffusion.variance")
    used, learned = repr(config.schedule), config.variance == "learned"
    if (process.steps is None) == (config.times == "uniform_discrete"):
        fix = "uniform" if process.steps is None else "uniform_discrete"
        got = f"got {config.times!r} with schedule {used}"
        raise ConfigError(f"diffusion.times: {got}; expected {fix!r}")
    if learned and process.steps is None:
        raise ConfigError(f"diffusion.variance: 'learned' needs a discrete schedule, got {used}")
    if learned and config.timesteps < 2:
        got = f"got {config.timesteps} with variance 'learned'"
        raise ConfigError(f"diffusion.timesteps: {got}; expected 2 or more")
    if config.parameterization == "eps" and process.level(process.t_max).alpha == 0:
        why = f"'eps' cannot start from pure noise on schedule {used}"
        raise ConfigError(f"diffusion.parameterization: {why}; expected flow, v, x0 or edm")
    if config.sigma_data is None:
        expected = "the data's, which training measures"
        raise ConfigError(f"diffusion.sigma_data: got None, expected {expected}")
    names = ("parameterization", "variance", "sigma_data", "time_scale")
    return DiffusionModel(net, process, **{name: getattr(config, name) for name in names})


def loss(config: DiffusionConfig) -> Loss:
    """The loss of a name, with its weighting; ConfigError for an unknown one."""
    lookup(WEIGHTINGS, config.weighting, "diffusion.weighting")
    made = lookup(LOSSES, config.loss, "diffusion.loss")(config.weighting)
    if not isinstance(made, Loss):
        expected = "a subclass of unnoise.diffusion.losses.Loss"
        got = f"{config.loss!r} makes a {type(made).__name__}"
        raise ConfigError(f"diffusion.loss: {got}; expected {expected}")
    return LearnedWeighting(made) if config.weighting == "learned" else made


def check(config: RunConfig) -> None:
    """ConfigError for whatever can be told of a configuration before its data are read."""
    config_check(config)
    check_sampling(config.sample)
    diffusion = config.diffusion
    if diffusion.sigma_data is None:  # training measures it
        diffusion = replace(diffusion, sigma_data=1.0)
    grid(config.sample, diffusion_model(diffusion, nn.Identity()).schedule)
    loss(diffusion)
    lookup(NETWORKS, config.network.kind, "network.kind")


def check_sampling(config: SampleConfig) -> None:
    """ConfigError for an unknown sampler or spacing, or for settings that do not go together."""
    lookup(SAMPLERS, config.sampler, "sample.sampler")
    lookup(SPACINGS, config.spacing, "sample.spacing")
    own = [name for name in options(config.sampler) if name not in SETTLED]
    check_options(config.sampler_options, own, "sample.sampler_options", repr(config.sampler))
    for name, option in (("eta", "eta"), ("churn", "churned")):
        takers = [sampler for sampler in SAMPLERS if option in options(sampler)]
        if getattr(config, name) and config.sampler not in takers:
            lacks = f"sampler {config.sampler!r} has none"
            raise ConfigError(f"sample.{name}: {lacks}; expected one of {', '.join(takers)}")
    if any(b >= a for a, b in pairwise(config.noises)):
        expected = "falling values of sigma / alpha"
        raise ConfigError(f"sample.noises: got {config.noises}, expected {expected}")
    for name in ("guidance_interval", "churn_range"):
        low, high = getattr(config, name)
        if low > high:
            raise ConfigError(f"sample.{name}: got {low:g} to {high:g}, expected low before high")


SETTLED = {"variance", "churned", *(field.name for field in fields(SampleConfig))}
"""Names of sampler options whose values are settings."""


def sampler_options(
    config: SampleConfig, model: DiffusionModel, grid: Sequence[Level]
) -> dict[str, Any]:
    """Keyword arguments of the chosen sampler: the settings of these names, and its own options."""
    churn = (config.churn, config.churn_range, config.churn_noise)
    churned = grids.churned(model.schedule, grid, *churn)
    values = {**vars(config), "variance": model.variance, "churned": churned}
    values |= config.sampler_options
    return {name: values[name] for name in options(config.sampler) if name in values}


def grid(config: SampleConfig, schedule: Schedule) -> list[Level]:
    """The levels that sampling visits; ConfigError where there are too few for the steps."""
    try:
        if config.noises:
            return grids.from_noises(schedule, config.noises)
        return grids.make(schedule, config.steps, config.spacing)
    except ValueError as error:
        raise ConfigError(f"sample.{error}") from error
