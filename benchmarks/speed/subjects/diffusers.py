"""Hugging Face diffusers: UNet2DModel, DDPMScheduler and EMAModel as in its examples/unconditional_image_generation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from benchmarks.speed.subjects.subject import (
    DROPOUT,
    IMAGE_SIZE,
    TIMESTEPS,
    Parts,
    Setting,
    default_precision,
    module,
    pixels,
    random_images,
    times,
    wake,
)

PACKAGE = "diffusers"


def build(setting: Setting) -> Parts:
    """UNet2DModel with the configuration of google/ddpm-cifar10-32."""
    package = module(PACKAGE, PACKAGE)
    base, plain, attending = setting.base_channels, "DownBlock2D", "AttnDownBlock2D"
    network = package.UNet2DModel(
        sample_size=IMAGE_SIZE, block_out_channels=(base, 2 * base, 2 * base, 2 * base), layers_per_block=2,
        down_block_types=(plain, attending, plain, plain),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        downsample_padding=0, flip_sin_to_cos=False, freq_shift=1, norm_eps=1e-6, attention_head_dim=None,
        dropout=DROPOUT,
    ).to(setting.torch_device)  # fmt: skip
    wake(network)
    noising = package.DDPMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")

    def loss(x0: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x0.shape, device=x0.device)
        t = torch.randint(0, TIMESTEPS, (len(x0),), device=x0.device).long()
        output = network(noising.add_noise(x0, noise, t), t).sample
        return functional.mse_loss(output.float(), noise.float())

    def shipped_step() -> Callable[[], object]:
        # train_unconditional.py: AdamW, cosine schedule, clipping at 1, EMAModel (its README turns it on), fp32. Without
        # accelerate, which on one device adds nothing to a step.
        x0 = random_images(setting)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        scheduler = module("diffusers.optimization", PACKAGE).get_scheduler(
            "cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000
        )
        average = module("diffusers.training_utils", PACKAGE).EMAModel(
            network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
            model_cls=package.UNet2DModel, model_config=network.config,
        )  # fmt: skip
        average.to(setting.torch_device)

        def step() -> None:
            value = loss(x0)
            value.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            average.step(network.parameters())
            value.detach().item()  # as its log does

        return step

    def sample(count: int, nfe: int) -> object:
        solver = package.DDIMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")
        pipeline = package.DDIMPipeline(network, solver)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(batch_size=count, num_inference_steps=nfe, output_type="np")

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting)),
        loss=loss,
        shipped_step=shipped_step,
        sample=sample,
        version=package.__version__,
        precision=default_precision(setting),
    )
