"""denoising-diffusion-pytorch of lucidrains: its Unet, GaussianDiffusion and Trainer.

dim 128 with (1, 2, 2, 2) is its nearest: 28.5M parameters, linear attention at three levels, no third decoder block. It
computes less per image, so images per second do not compare; FLOP per second do.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.subjects.subject import (
    DROPOUT,
    IMAGE_SIZE,
    Parts,
    Setting,
    default_precision,
    module,
    pixels,
    random_images,
    times,
    wake,
)

PACKAGE = "denoising-diffusion-pytorch"
NEVER = 1 << 40


def build(setting: Setting) -> Parts:
    """Its Unet; everything else is its default."""
    if setting.torch_device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    package = module("denoising_diffusion_pytorch", PACKAGE)
    network = package.Unet(dim=setting.base_channels, dim_mults=(1, 2, 2, 2), dropout=DROPOUT)
    diffusion = package.GaussianDiffusion(network, image_size=IMAGE_SIZE).to(setting.torch_device)
    wake(network)

    def sample(count: int, nfe: int) -> object:
        solver = package.GaussianDiffusion(network, image_size=IMAGE_SIZE, sampling_timesteps=nfe)
        return solver.to(setting.torch_device).sample(batch_size=count)

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting)),
        loss=lambda x0: diffusion((x0 + 1) / 2),
        shipped_step=lambda: _trainer(setting, package, diffusion),
        sample=sample,
        version=module("denoising_diffusion_pytorch.version", PACKAGE).__version__,
        note="another network; averages its weights every tenth step only, which a median does not see",
        precision=default_precision(setting),
    )


def _trainer(setting: Setting, package: object, diffusion: torch.nn.Module) -> Callable[[], object]:
    """Its Trainer.train, one step at a time: Adam, clipping at 1, EMA every tenth step, fp32."""
    folder = Path(tempfile.mkdtemp())
    for number in range(100):  # the fewest that it accepts; the resident batch takes their place
        Image.fromarray(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)).save(
            folder / f"{number}.png"
        )
    trainer = package.Trainer(  # pyright: ignore[reportAttributeAccessIssue]
        diffusion, str(folder), train_batch_size=max(16, setting.batch), save_and_sample_every=NEVER,
        results_folder=str(folder / "results"), calculate_fid=False,
    )  # fmt: skip
    trainer.dl = itertools.repeat((random_images(setting) + 1) / 2)

    def step() -> None:
        trainer.train_num_steps = trainer.step + 1
        trainer.train()

    return step
