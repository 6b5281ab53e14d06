"""Ready configurations: one function each, listed in PRESETS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unnoise.config import DiffusionConfig, RunConfig, SampleConfig, TrainConfig
from unnoise.data.config import DataConfig
from unnoise.errors import ConfigError, nearest
from unnoise.networks.config import UNetConfig


def digits() -> RunConfig:
    """Class-conditional 8x8 digits: recognisable in under two minutes on two CPU cores."""
    return RunConfig(
        preset="digits",
        data=DataConfig(source="digits"),
        network=UNetConfig(
            base_channels=32,
            channel_multipliers=(1, 2),
            blocks_per_level=1,
            attention_levels=(1,),
            attention_heads=2,
            norm_groups=8,
        ),
        diffusion=DiffusionConfig(schedule="cosine", parameterization="v"),
        train=TrainConfig(
            batch_size=64,
            kimg=70,
            optimizer="muon",  # with bf16 a third less Fréchet distance in the same time: docs/results.md, time to quality
            lr=4e-3,
            warmup_kimg=2,
            ema_halflife_kimg=5,
            log_every_kimg=1,
            sample_every_kimg=35,
            checkpoint_every_kimg=35,
        ),
        sample=SampleConfig(steps=12, guidance_scale=1.5),
    )


def mnist() -> RunConfig:
    """Class-conditional MNIST, 28x28."""
    return RunConfig(
        preset="mnist",
        data=DataConfig(source="mnist"),
        network=UNetConfig(
            base_channels=32,
            channel_multipliers=(1, 2, 2),
            blocks_per_level=1,
            attention_levels=(2,),
            norm_groups=8,
        ),
        diffusion=DiffusionConfig(schedule="cosine", parameterization="v"),
        train=TrainConfig(batch_size=128, epochs=10, lr=1e-3, ema_halflife_kimg=20),
        sample=SampleConfig(steps=25),
    )


def cifar10() -> RunConfig:
    """Ho et al. 2020 on CIFAR-10: 35.7M parameters, linear schedule, 800,000 steps of 128."""
    return RunConfig(
        preset="cifar10",
        data=DataConfig(source="cifar10"),
        network=UNetConfig(
            attention_sizes=(16,), dropout=0.1, norm_eps=1e-6, downsample_padding="same"
        ),
        diffusion=DiffusionConfig(schedule="linear", variance="large"),
        train=TrainConfig(
            batch_size=128,
            kimg=102_400,
            lr=2e-4,
            lr_schedule="constant",
            warmup_kimg=640,
            ema_halflife_kimg=887,  # decay 0.9999 per step of 128
            ema_rampup=0.0,
            labels=False,
        ),
    )


def cifar10_small() -> RunConfig:
    """A class-conditional CIFAR-10 network for a CPU: 1.5M parameters."""
    return RunConfig(
        preset="cifar10-small",
        data=DataConfig(source="cifar10"),
        network=UNetConfig(
            base_channels=32,
            channel_multipliers=(1, 2, 2, 2),
            blocks_per_level=1,
            attention_sizes=(8,),
            attention_heads=2,
            norm_groups=8,
        ),
        diffusion=DiffusionConfig(schedule="flow", parameterization="flow", times="logit_normal"),
        train=TrainConfig(
            batch_size=16,  # of 64, 32, 16: on two cores the number of steps is what there is too little of
            time="20m",
            optimizer="muon",  # with flow matching half the Fréchet distance in the same time: docs/results.md, time to quality
            lr=2e-3,
            warmup_kimg=2,
            ema_halflife_kimg=10,
            log_every_kimg=1,
            sample_every_kimg=30,
            checkpoint_every_kimg=30,
        ),
        sample=SampleConfig(sampler="unipc_2", spacing="log_snr", steps=15, guidance_scale=1.5),
    )


def cifar10_speedrun() -> RunConfig:
    """Class-conditional CIFAR-10 in 20 minutes of one large GPU: EDM's process, Muon, a rate that falls to zero over the last 40 %."""
    config = with_objective(dataclasses.replace(cifar10(), preset="cifar10-speedrun"), "edm")
    return dataclasses.replace(
        config,
        network=UNetConfig(
            channel_multipliers=(1, 2, 2),
            attention_sizes=(16,),
            attention_heads=4,
            conditioning="scale_shift",
            dropout=0.05,
        ),
        train=TrainConfig(
            batch_size=512,
            time="20m",
            optimizer="muon",
            lr=1e-3,
            betas=(0.9, 0.99),
            lr_schedule="linear",
            lr_decay=0.4,
            warmup_kimg=200,
            ema_halflife_kimg=250,
            ema_also_kimg=(100, 500),
            log_every_kimg=50,
            sample_every_kimg=2000,
            checkpoint_every_kimg=1000,
        ),
        sample=dataclasses.replace(config.sample, steps=18),  # Heun's 35 evaluations of EDM
    )


def ddpm() -> RunConfig:
    """The network and recipe of the small DDPM project that unnoise started from: 132M parameters, 500 epochs."""
    return RunConfig(
        preset="ddpm",
        data=DataConfig(source="cifar10"),
        network=UNetConfig(
            channel_multipliers=(1, 2, 4, 8),
            blocks_per_level=1,
            attention_levels=(2, 3),
            skips="per_level",
            stem="block",
            time_hidden=512,
            time_channels=128,
        ),
        diffusion=DiffusionConfig(schedule="cosine"),
        train=TrainConfig(
            batch_size=256,
            epochs=500,
            lr=2e-5,
            sample_every_kimg=1250,
            checkpoint_every_kimg=1250,
            labels=False,
        ),
    )


def iddpm() -> RunConfig:
    """Nichol & Dhariwal 2021 on CIFAR-10: 52.5M parameters, cosine schedule, learned variance, hybrid loss."""
    return RunConfig(
        preset="iddpm",
        data=DataConfig(source="cifar10"),
        network=UNetConfig(
            blocks_per_level=3,
            attention_sizes=(16, 8),
            attention_heads=4,
            conditioning="scale_shift",
            dropout=0.3,
            frequencies="iddpm",
        ),
        diffusion=DiffusionConfig(schedule="cosine", timesteps=4000, variance="learned"),
        train=TrainConfig(
            batch_size=128,
            kimg=64_000,
            lr=1e-4,
            lr_schedule="constant",
            warmup_kimg=0,
            ema_halflife_kimg=887,
            ema_rampup=0.0,
            labels=False,
        ),
    )


def v() -> RunConfig:
    """Velocity prediction (Salimans & Ho 2022) on a cosine schedule, with the network of `cifar10`."""
    return with_objective(dataclasses.replace(cifar10(), preset="v"), "v")


def edm() -> RunConfig:
    """EDM (Karras et al. 2022) with EDM2's learned weighting and the network of `cifar10`; its batch, rate and length."""
    config = with_objective(dataclasses.replace(cifar10(), preset="edm"), "edm")
    train = dataclasses.replace(
        config.train,
        batch_size=512,
        kimg=200_000,
        lr=1e-3,
        warmup_kimg=10_000,
        ema_halflife_kimg=500,
        ema_rampup=0.05,
    )
    return dataclasses.replace(
        config, network=dataclasses.replace(config.network, dropout=0.13), train=train
    )


def flow() -> RunConfig:
    """Flow matching (Lipman et al. 2023) with logit-normal times and the network of `cifar10`."""
    config = with_objective(dataclasses.replace(cifar10(), preset="flow"), "flow")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, kimg=51_200))


def pictures() -> RunConfig:
    """A folder or zip of your own pictures, 32x32 unless --image-size says more."""
    return RunConfig(
        preset="pictures",
        data=DataConfig(source="pictures", image_size=32, channels=3),
        network=UNetConfig(
            base_channels=64,
            channel_multipliers=(1, 2, 2),
            blocks_per_level=1,
            attention_levels=(2,),
            attention_heads=2,
            norm_groups=16,
        ),
        diffusion=DiffusionConfig(schedule="cosine", parameterization="v"),
        train=TrainConfig(
            batch_size=64, time="1h", lr=5e-4, ema_halflife_kimg=20, sample_every_kimg=20
        ),
    )


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
"""Name -> configuration. `unnoise train NAME`; a folder or zip in place of a name trains `pictures` on it."""


OBJECTIVES: dict[str, tuple[DiffusionConfig, dict[str, Any]]] = {
    "ddpm": (DiffusionConfig(), {"sampler": "unipc_2", "spacing": "log_snr"}),
    "iddpm": (DiffusionConfig(variance="learned"), {"sampler": "unipc_2", "spacing": "log_snr"}),
    "v": (DiffusionConfig(parameterization="v"), {"sampler": "unipc_2", "spacing": "log_snr"}),
    "edm": (
        DiffusionConfig(
            schedule="edm", parameterization="edm", times="log_normal_sigma", weighting="learned"
        ),
        {"sampler": "heun", "spacing": "karras"},
    ),
    "flow": (
        DiffusionConfig(schedule="flow", parameterization="flow", times="logit_normal"),
        {"sampler": "heun", "spacing": "uniform"},
    ),
}
"""Name -> what is predicted on which schedule, and the sampler that suits it: `--objective NAME` on any preset."""


def with_objective(config: RunConfig, name: str) -> RunConfig:
    """A configuration with another objective: same data, network and length of training."""
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: no {name!r}; {nearest(name, OBJECTIVES)}")
    diffusion, sampling = OBJECTIVES[name]
    return dataclasses.replace(
        config, diffusion=diffusion, sample=dataclasses.replace(config.sample, **sampling)
    )


def named(target: str, objective: str | None = None) -> RunConfig:
    """The preset of a name, or `pictures` for the path of a folder or zip; with another objective if one is named."""
    config = _named(target)
    return config if objective is None else with_objective(config, objective)


def _named(target: str) -> RunConfig:
    if target in PRESETS:
        return PRESETS[target]()
    if not Path(target).exists():
        raise ConfigError(f"train: no preset, folder or zip {target!r}; {nearest(target, PRESETS)}")
    config = pictures()
    return dataclasses.replace(
        config, data=dataclasses.replace(config.data, source=str(Path(target)))
    )
