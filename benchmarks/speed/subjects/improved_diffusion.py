"""improved-diffusion of OpenAI: its UNetModel, GaussianDiffusion and TrainLoop."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable

import torch
import torch.distributed as dist

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

URL, COMMIT = "https://github.com/openai/improved-diffusion", "1bc7bbb"
NAME = "improved_diffusion"


def build(setting: Setting) -> Parts:
    """Its network with the flags that make it Ho et al.'s: one head, attention at 16, no scale and shift."""
    snapshot(setting, "improved-diffusion", URL, COMMIT)
    stand_in("blobfile", "mpi4py")
    scripts = module(f"{NAME}.script_util", "improved-diffusion")
    flags = scripts.model_and_diffusion_defaults() | {
        "image_size": IMAGE_SIZE, "num_channels": setting.base_channels, "num_res_blocks": 2, "num_heads": 1,
        "attention_resolutions": "16", "dropout": DROPOUT, "use_scale_shift_norm": False,
    }  # fmt: skip
    network, diffusion = scripts.create_model_and_diffusion(**flags)
    network = network.to(setting.torch_device)
    wake(network)

    def loss(x0: torch.Tensor) -> torch.Tensor:
        t = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
        return diffusion.training_losses(network, x0, t)["loss"]

    def sample(count: int, nfe: int) -> object:
        solver = scripts.create_gaussian_diffusion(
            steps=TIMESTEPS, timestep_respacing=f"ddim{nfe}", rescale_timesteps=True
        )  # scripts/image_sample.py with --use_ddim True
        return solver.ddim_sample_loop(network, (count, 3, IMAGE_SIZE, IMAGE_SIZE))

    return Parts(
        network=network,
        evaluate=lambda count: network(pixels(count, setting), times(count, setting)),
        loss=loss,
        shipped_step=lambda: _loop(setting, network, diffusion),
        sample=sample,
        version=COMMIT,
        note="does not clip gradients",
        precision=default_precision(setting),
    )


def _loop(setting: Setting, network: torch.nn.Module, diffusion: object) -> Callable[[], object]:
    """scripts/image_train.py: TrainLoop.run_step, with its defaults: AdamW, one average of 0.9999, fp32."""
    backend = "nccl" if setting.torch_device.type == "cuda" else "gloo"
    store = dist.FileStore(tempfile.mkstemp()[1], 1)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    sys.modules["mpi4py"].MPI.COMM_WORLD.Get_rank.return_value = 0
    logger, train = (
        module(f"{NAME}.{name}", "improved-diffusion") for name in ("logger", "train_util")
    )
    os.environ["OPENAI_LOG_FORMAT"] = ""
    logger.configure(dir=tempfile.mkdtemp())
    loop = train.TrainLoop(
        model=network, diffusion=diffusion, data=None, batch_size=setting.batch, microbatch=-1, lr=1e-4,
        ema_rate="0.9999", log_interval=10, save_interval=10000, resume_checkpoint="",
    )  # fmt: skip
    x0 = random_images(setting)
    return lambda: loop.run_step(x0, {})
