"""Ready configurations: each is a function in PRESETS that says how it differs from the defaults.

The keys are those of the command line: "train.lr" is `--train.lr`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from unnoise import extensions
from unnoise.config import DiffusionConfig, RunConfig, differences, flat, flattened, override
from unnoise.data.config import FOLDER_SIZE, DataConfig
from unnoise.errors import ConfigError, nearest
from unnoise.records import is_run, read_run, run_config

ENDS = ("train.epochs", "train.kimg", "train.time")


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """`override` for a user's changes: an end among them takes the place of the preset's own."""
    new = override(config, changes)
    given = {key for key, value in flattened(config, changes) if value is not None}
    if given.isdisjoint(ENDS) or config.preset not in PRESETS:
        return new
    own, preset = flat(config), flat(origin(config))
    left = (end for end in ENDS if end not in given and own[end] == preset[end])
    return override(new, dict.fromkeys(left))


def _changed(config: RunConfig, preset: str, changes: Mapping[str, Any]) -> RunConfig:
    return override(config, {"preset": preset, **changes})


def digits() -> RunConfig:
    """Class-conditional 8x8 digits: recognisable in a minute on two CPU cores."""
    # flow has 7 % less Fréchet distance, but the share of unguided digits that a support vector
    # machine reads right falls from 97 to 94 %
    return _changed(with_objective(_small(8, 8), "v"), "digits", {
        "data.source": "digits",
        "network.channel_multipliers": (1, 2), "network.attention_levels": (1,),
        "network.skips": "every_block",
        "train.kimg": 30, "train.batch_size": 64, "train.lr": 4e-3, "train.ema_halflife_kimg": 5,
        "train.sample_every_kimg": 15, "train.checkpoint_every_kimg": 15,
        "sample.steps": 10,
    })  # fmt: skip


def mnist() -> RunConfig:
    """Class-conditional MNIST, 28x28, for a CPU."""
    return _changed(_small(28, 28), "mnist", {"data.source": "mnist", "train.time": "10m"})


def cifar10() -> RunConfig:
    """Ho et al. 2020 on CIFAR-10: 35.7M parameters, linear schedule, 800,000 steps of 128."""
    # The half-life is a decay of 0.9999 per step of 128.
    return _changed(RunConfig(), "cifar10", {
        "data.source": "cifar10",
        "network.attention_sizes": (16,), "network.dropout": 0.1, "network.norm_eps": 1e-6,
        "network.downsample_padding": "same",
        "diffusion.schedule": "linear", "diffusion.variance": "large",
        "train.kimg": 102_400, "train.batch_size": 128, "train.lr_schedule": "constant",
        "train.warmup_kimg": 640, "train.ema_halflife_kimg": 887, "train.ema_rampup": 0.0,
        "train.labels": False,
    })  # fmt: skip


def _small(height: int, width: int) -> RunConfig:
    """What was good after minutes of a CPU (docs/results/time-to-quality.md, own-pictures.md).

    Muon, flow matching at EDM's density of noise levels, a narrow network with a skip per level,
    and 16 images a step: on two cores it is the number of steps that is too small.
    """
    patches = height * width > 96**2 and height % 2 == width % 2 == 0
    return override(with_objective(RunConfig(), "flow"), {
        "network.base_channels": 32, "network.channel_multipliers": (1, 2, 2, 2),
        "network.patch_size": 2 if patches else 1,
        "network.blocks_per_level": 1, "network.skips": "per_level",
        # 16 channels in a group: channels_last has slow norms with 4, 8 or 12
        "network.norm_groups": 2, "train.channels_last": "on",
        "network.attention_levels": (3,), "network.attention_heads": 2,
        "diffusion.times": "log_normal_sigma",
        "train.batch_size": 16, "train.optimizer": "muon", "train.lr": 2e-3,
        "train.ema_halflife_kimg": 10,
        "train.log_every_kimg": 1, "train.sample_every_kimg": 30, "train.checkpoint_every_kimg": 30,
        "sample.sampler": "unipc_2", "sample.spacing": "log_snr", "sample.steps": 15,
        "sample.guidance_scale": 1.5,
    })  # fmt: skip


def cifar10_small() -> RunConfig:
    """A class-conditional CIFAR-10 network for a CPU: 1.5M parameters."""
    # shape: an hour without AMX (docs/results/time-to-quality.md); guidance: docs/records.md
    return _changed(_small(32, 32), "cifar10-small", {
        "data.source": "cifar10", "train.time": "20m", "sample.guidance_scale": 2.5,
        "network.norm_groups": 8, "network.attention_levels": (2,),
        "network.skips": "every_block", "train.channels_last": "auto",
    })  # fmt: skip


def cifar10_speedrun() -> RunConfig:
    """Class-conditional CIFAR-10 in 5 minutes of one large GPU, by EDM's process and Muon."""
    # FID 10.0 in 280 s of an H100 (docs/results/gpu.md)
    return _changed(with_objective(RunConfig(), "edm"), "cifar10-speedrun", {
        "data.source": "cifar10",
        "network.channel_multipliers": (1, 2, 2), "network.conditioning": "scale_shift",
        "network.attention_sizes": (16,), "network.attention_heads": 4,
        "train.time": "5m", "train.batch_size": 1024, "train.optimizer": "muon",
        "train.lr": 1.5e-3, "train.muon_lr": 3e-3,
        "train.betas": (0.9, 0.99), "train.lr_schedule": "linear", "train.lr_decay": 0.5,
        "train.warmup_kimg": 100, "train.ema_halflife_kimg": 120,
        "train.log_every_kimg": 20, "train.sample_every_kimg": 500,
        "train.checkpoint_every_kimg": 500,
        "sample.sampler": "unipc_2", "sample.steps": 18,
        "sample.guidance_scale": 1.5, "sample.guidance_interval": (0.2, 3.0),
    })  # fmt: skip


def ddpm() -> RunConfig:
    """The small DDPM project that unnoise started from: 132M parameters, 500 epochs."""
    return _changed(RunConfig(), "ddpm", {
        "data.source": "cifar10",
        "network.channel_multipliers": (1, 2, 4, 8), "network.blocks_per_level": 1,
        "network.attention_levels": (2, 3), "network.skips": "per_level", "network.stem": "block",
        "network.time_hidden": 512, "network.time_channels": 128,
        "train.epochs": 500, "train.lr": 2e-5, "train.labels": False,
        "train.sample_every_kimg": 1250, "train.checkpoint_every_kimg": 1250,
    })  # fmt: skip


def iddpm() -> RunConfig:
    """Nichol & Dhariwal 2021 on CIFAR-10: 52.5M parameters, learned variance, hybrid loss."""
    return _changed(RunConfig(), "iddpm", {
        "data.source": "cifar10",
        "network.blocks_per_level": 3, "network.attention_sizes": (16, 8),
        "network.attention_heads": 4, "network.conditioning": "scale_shift",
        "network.dropout": 0.3, "network.frequencies": "iddpm",
        "diffusion.timesteps": 4000, "diffusion.variance": "learned",
        "diffusion.time_scale": 0.25,  # network time goes from 0 to 1000
        "train.kimg": 64_000, "train.batch_size": 128, "train.lr": 1e-4,
        "train.lr_schedule": "constant", "train.warmup_kimg": 0, "train.ema_halflife_kimg": 887,
        "train.ema_rampup": 0.0, "train.labels": False,
    })  # fmt: skip


def v() -> RunConfig:
    """Velocity prediction (Salimans & Ho 2022), cosine schedule, the network of `cifar10`."""
    return _changed(with_objective(cifar10(), "v"), "v", {})


def edm() -> RunConfig:
    """EDM (Karras et al. 2022) with EDM2's learned weighting, the network of `cifar10`."""
    return _changed(with_objective(cifar10(), "edm"), "edm", {
        "network.dropout": 0.13,
        "train.kimg": 200_000, "train.batch_size": 512, "train.lr": 1e-3,
        "train.warmup_kimg": 10_000, "train.ema_halflife_kimg": 500, "train.ema_rampup": 0.05,
    })  # fmt: skip


def flow() -> RunConfig:
    """Flow matching (Lipman et al. 2023), logit-normal times, the network of `cifar10`."""
    return _changed(with_objective(cifar10(), "flow"), "flow", {"train.kimg": 51_200})


def pictures(height: int = FOLDER_SIZE, width: int = FOLDER_SIZE, gpu: bool = False) -> RunConfig:
    """A folder or zip of your own pictures: network and batch by their size and the machine."""
    changes = {"data.source": "pictures", "data.image_size": FOLDER_SIZE, "train.time": "1h"}
    config = _changed(_small(height, width), "pictures", changes)
    if not gpu:
        return config
    # wider and deeper, about as `cifar10-speedrun` is at 32x32; its quality is not measured
    return override(config, {
        "network.base_channels": 128 if height * width <= 48**2 else 64,
        "network.norm_groups": 32,
        "network.blocks_per_level": 2, "network.attention_heads": 4,
        "train.batch_size": 256, "train.lr": 1e-3, "train.muon_lr": 2e-3,
        "train.ema_halflife_kimg": 60,
        "train.log_every_kimg": 20, "train.sample_every_kimg": 500,
        "train.checkpoint_every_kimg": 500,
    })  # fmt: skip


PRESETS: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "mnist": mnist,
    "cifar10": cifar10,
    "cifar10-small": cifar10_small,
    "cifar10-speedrun": cifar10_speedrun,
    "ddpm": ddpm,
    "iddpm": iddpm,
    "v": v,
    "edm": edm,
    "flow": flow,
    "pictures": pictures,
}
"""Name -> configuration. A folder or file in place of a name trains `pictures` on it."""

_UNIPC = {"sampler": "unipc_2", "spacing": "log_snr"}
_EDM = DiffusionConfig(
    schedule="edm", parameterization="edm", times="log_normal_sigma", weighting="learned"
)
_FLOW = DiffusionConfig(schedule="flow", parameterization="flow", times="logit_normal")
OBJECTIVES: dict[str, tuple[DiffusionConfig, dict[str, Any]]] = {
    "ddpm": (DiffusionConfig(), _UNIPC),
    "iddpm": (DiffusionConfig(variance="learned"), _UNIPC),
    "v": (DiffusionConfig(parameterization="v"), _UNIPC),
    "edm": (_EDM, {"sampler": "heun", "spacing": "karras"}),
    "flow": (_FLOW, {"sampler": "heun", "spacing": "uniform"}),
}
"""Name -> process and prediction, and the sampler that suits them: `--objective NAME`."""


def with_objective(config: RunConfig, name: str) -> RunConfig:
    """A configuration with another objective: same data, network and length of training."""
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: no {name!r}; {nearest(name, OBJECTIVES)}")
    diffusion, sampling = OBJECTIVES[name]
    what = ("schedule", "parameterization", "variance")
    if all(getattr(diffusion, key) == getattr(config.diffusion, key) for key in what):
        return config
    return replace(config, diffusion=diffusion, sample=replace(config.sample, **sampling))


def origin(config: RunConfig) -> RunConfig:
    """The preset that a configuration started from; of `pictures`, that of its size and machine."""
    if config.preset != "pictures":
        return PRESETS[config.preset]()
    return min(
        (pictures(*_size(config.data), gpu) for gpu in (False, True)),
        key=lambda preset: len(differences(preset, config)),
    )


def _size(data: DataConfig) -> tuple[int, int]:
    height = data.image_size or FOLDER_SIZE
    return height, data.image_width or height


def named(
    target: str,
    objective: str | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    gpu: bool = False,
) -> RunConfig:
    """The preset of a name, `pictures` for a path or hf:owner/name, or the one of a run folder.

    With another objective if given. `pictures` suits the size that `changes` say, and a GPU.
    """
    if target in PRESETS:
        config = PRESETS[target]()
    elif target and is_run(target):
        with extensions.needed(read_run(Path(target))["config"].get("imports", ())):
            config = run_config(Path(target))
    elif target and (target.startswith("hf:") or os.path.isdir(target) or os.path.isfile(target)):
        path = str(Path(target))  # digits/ is a folder, and digits a data set
        path = os.path.join(".", path) if path in PRESETS else path
        config = override(pictures(), {"data.source": path})
    else:
        fix = nearest(target, PRESETS, "a path")
        if os.path.basename(target) != target:  # no preset was meant
            fix = "expected a path that is there, hf:owner/name or a preset"
        raise ConfigError(f"train: no preset, folder or file {target!r}; {fix}")
    if config.preset == "pictures" and not is_run(target):
        of_data = {key: value for key, value in changes.items() if key.startswith("data")}
        data = override(config, of_data).data
        config = replace(pictures(*_size(data), gpu), data=data)
    return config if objective is None else with_objective(config, objective)
