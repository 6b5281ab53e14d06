"""edm of NVlabs: EDMPrecond around SongUNet, EDMLoss, the step of its training loop, the sampler of generate.py.

Its SongUNet at two blocks per level is the nearest to Ho et al.'s network: residual resampling makes it 39.4M.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy
import torch

from benchmarks.speed.subjects.subject import (
    DROPOUT,
    IMAGE_SIZE,
    Parts,
    Setting,
    function_of,
    module,
    pixels,
    random_images,
    snapshot,
    wake,
)

URL, COMMIT = "https://github.com/NVlabs/edm", "008a4e5"


def build(setting: Setting) -> Parts:
    """Its DDPM++ network (train.py, --arch=ddpmpp) with Ho et al.'s channels and blocks."""
    folder = snapshot(setting, "edm", URL, COMMIT)
    network = module("training.networks", "edm").EDMPrecond(
        IMAGE_SIZE, 3, model_type="SongUNet", embedding_type="positional", encoder_type="standard",
        decoder_type="standard", channel_mult_noise=1, resample_filter=[1, 1], model_channels=setting.base_channels,
        channel_mult=[1, 2, 2, 2], num_blocks=2, attn_resolutions=[16], dropout=DROPOUT,
    ).to(setting.torch_device)  # fmt: skip
    network.model.register_forward_hook(
        lambda _module, _inputs, output: output.float()
    )  # it refuses autocast's bf16
    wake(network)
    loss = module("training.loss", "edm").EDMLoss()
    solver = function_of(folder / "generate.py", "ablation_sampler", torch=torch, np=numpy)

    def shipped_step() -> Callable[[], object]:
        # training/training_loop.py: Adam, no clipping but nan_to_num, its average with a ramp; fp32 without TF32. Its
        # augmentation, which train.py turns on, is left out in its favour.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
        torch.backends.cuda.matmul.allow_tf32 = False
        return _stepper(setting, network, loss)

    def sample(count: int, nfe: int) -> object:
        with (
            torch.no_grad()
        ):  # generate.py's Euler, as Heun would take an odd number of evaluations
            return solver(
                network, torch.randn_like(pixels(count, setting)), num_steps=nfe, solver="euler"
            )

    return Parts(
        network=network,
        evaluate=lambda count: network(
            pixels(count, setting), torch.ones(count, device=setting.torch_device)
        ),
        loss=lambda x0: loss(network, x0),
        shipped_step=shipped_step,
        sample=sample,
        version=COMMIT,
        note="another network: DDPM++",
        precision="fp32",
    )


def _stepper(
    setting: Setting, network: torch.nn.Module, loss: Callable[..., torch.Tensor]
) -> Callable[[], object]:
    average = copy.deepcopy(network).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    images = ((random_images(setting) + 1) * 127.5).to(torch.uint8)
    nimg = 0

    def step() -> None:
        nonlocal nimg
        optimizer.zero_grad(set_to_none=True)
        losses = loss(network, images.to(torch.float32) / 127.5 - 1)
        losses.sum().mul(1 / setting.batch).backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(nimg / 10_000_000, 1)
        for parameter in network.parameters():
            if parameter.grad is not None:
                torch.nan_to_num(parameter.grad, nan=0, posinf=1e5, neginf=-1e5, out=parameter.grad)
        optimizer.step()
        beta = 0.5 ** (setting.batch / max(min(500_000, 0.05 * nimg), 1e-8))
        for old, new in zip(average.parameters(), network.parameters(), strict=True):
            old.copy_(new.detach().lerp(old, beta))
        nimg += setting.batch

    return step
