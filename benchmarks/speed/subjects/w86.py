"""pytorch-ddpm of w86763777: its UNet, GaussianDiffusionTrainer and Sampler, and the step of its main.py."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from benchmarks.speed.subjects.subject import (
    DROPOUT,
    TIMESTEPS,
    Parts,
    Setting,
    default_precision,
    function_of,
    module,
    pixels,
    random_images,
    snapshot,
    times,
    wake,
)

URL, COMMIT = "https://github.com/w86763777/pytorch-ddpm", "f804ccb"
BETAS = (1e-4, 0.02)  # config/CIFAR10.txt


def build(setting: Setting) -> Parts:
    """Its network as config/CIFAR10.txt has it."""
    folder = snapshot(setting, "pytorch-ddpm", URL, COMMIT)
    diffusion = module("diffusion", "pytorch-ddpm")
    network = module("model", "pytorch-ddpm").UNet(
        T=TIMESTEPS,
        ch=setting.base_channels,
        ch_mult=[1, 2, 2, 2],
        attn=[1],
        num_res_blocks=2,
        dropout=DROPOUT,
    )
    network = network.to(setting.torch_device)
    wake(network)
    trainer = diffusion.GaussianDiffusionTrainer(network, *BETAS, TIMESTEPS).to(
        setting.torch_device
    )

    def shipped_step() -> Callable[[], object]:
        # main.py, train(): Adam, warm-up by LambdaLR, clipping at 1, `ema` over the state dict; fp32.
        average, x0 = copy.deepcopy(network), random_images(setting)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 5000) / 5000)
        ema = function_of(folder / "main.py", "ema")

        def step() -> None:
            optimizer.zero_grad()
            loss = trainer(x0).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ema(network, average, 0.9999)
            loss.item()  # as its log does

        return step

    def sample(count: int, nfe: int) -> object:
        # Ancestral only, with as many steps as its process has: a process of `nfe` steps costs as much as DDIM's.
        sampler = diffusion.GaussianDiffusionSampler(
            network, *BETAS, nfe, 32, "epsilon", "fixedlarge"
        )
        with torch.no_grad():
            return sampler.to(setting.torch_device)(torch.randn_like(pixels(count, setting)))

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting)),
        loss=trainer,
        shipped_step=shipped_step,
        sample=sample,
        version=COMMIT,
        note="ancestral sampler",
        precision=default_precision(setting),
    )
