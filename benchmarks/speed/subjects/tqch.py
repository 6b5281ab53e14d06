"""ddpm-torch of tqch: its UNet, GaussianDiffusion, DDIM, and its Trainer's step."""

from __future__ import annotations

from collections.abc import Callable

import torch

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
    snapshot,
    stand_in,
    times,
    wake,
)

URL, COMMIT = "https://github.com/tqch/ddpm-torch", "b60eb8d"


def build(setting: Setting) -> Parts:
    """Its network as configs/cifar10.json has it."""
    snapshot(setting, "ddpm-torch", URL, COMMIT)
    stand_in("matplotlib", "matplotlib.pyplot")
    package, ddim = module("ddpm_torch", "ddpm-torch"), module("ddim", "ddpm-torch")
    device = setting.torch_device
    betas = package.get_beta_schedule("linear", beta_start=1e-4, beta_end=0.02, timesteps=TIMESTEPS)
    diffusion = package.GaussianDiffusion(
        betas, model_mean_type="eps", model_var_type="fixed-large", loss_type="mse"
    )
    network = package.UNet(
        3, setting.base_channels, 3, (1, 2, 2, 2), 2, (False, True, False, False), drop_rate=DROPOUT
    ).to(device)
    wake(network)

    def shipped_step() -> Callable[[], object]:
        # train.py and configs/cifar10.json: Adam, warm-up, clipping at 1, its EMA; Trainer.step in fp32.
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.9, 0.999))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / 5000, 1.0)
        )
        trainer = package.Trainer(
            network, optimizer, diffusion, epochs=1, trainloader=[], scheduler=schedule, use_ema=True, grad_norm=1.0,
            shape=(3, IMAGE_SIZE, IMAGE_SIZE), device=device,
        )  # fmt: skip
        torch.backends.cudnn.benchmark = True
        x0 = random_images(setting)
        return lambda: trainer.step(x0)

    def loss(x0: torch.Tensor) -> torch.Tensor:
        t = torch.randint(TIMESTEPS, (len(x0),), device=device)
        return diffusion.train_losses(network, x_0=x0, t=t, noise=torch.randn_like(x0))

    def sample(count: int, nfe: int) -> object:
        chosen = ddim.get_selection_schedule("linear", size=nfe, timesteps=TIMESTEPS)
        solver = ddim.DDIM.from_ddpm(diffusion, eta=0.0, subsequence=chosen)
        return solver.p_sample(network, shape=(count, 3, IMAGE_SIZE, IMAGE_SIZE), device=device)

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting)),
        loss=loss,
        shipped_step=shipped_step,
        sample=sample,
        version=COMMIT,
        precision=default_precision(setting),
    )
