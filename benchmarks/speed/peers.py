"""The six peers: each project's own network, loss, training step and sampler, by its own code.

A builder imports its peer when called, in the subject's own process. What all have in common (that
no layer stays at 0, the pass that is counted, the precision) is added by `child.built`.
"""

from __future__ import annotations

import copy
import itertools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.speed.subject import (
    DROPOUT,
    IMAGE_SIZE,
    TIMESTEPS,
    Parts,
    Setting,
    function_of,
    module,
    snapshot,
    stand_in,
)

Step = Callable[[], object]
IMPROVED, IMPROVED_COMMIT = "https://github.com/openai/improved-diffusion", "1bc7bbb"
W86, W86_COMMIT = "https://github.com/w86763777/pytorch-ddpm", "f804ccb"
TQCH, TQCH_COMMIT = "https://github.com/tqch/ddpm-torch", "b60eb8d"
EDM, EDM_COMMIT = "https://github.com/NVlabs/edm", "008a4e5"


def updated(
    network: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, schedule: Any
) -> None:
    """What most training scripts do: gradients, clipping at 1, optimizer, learning rate."""
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def diffusers(setting: Setting) -> Parts:
    """Hugging Face diffusers, as in its examples/unconditional_image_generation.

    UNet2DModel with the configuration of google/ddpm-cifar10-32, DDPMScheduler and EMAModel.
    """
    package = module(setting, "diffusers")
    base, plain, attending = setting.base_channels, "DownBlock2D", "AttnDownBlock2D"
    network = package.UNet2DModel(
        sample_size=IMAGE_SIZE, layers_per_block=2, dropout=DROPOUT, norm_eps=1e-6,
        block_out_channels=(base, 2 * base, 2 * base, 2 * base), attention_head_dim=None,
        down_block_types=(plain, attending, plain, plain), downsample_padding=0,
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        flip_sin_to_cos=False, freq_shift=1,
    ).to(setting.torch_device)  # fmt: skip
    noising = package.DDPMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")

    def loss(x0: Tensor) -> Tensor:
        noise = torch.randn(x0.shape, device=x0.device)
        t = torch.randint(0, TIMESTEPS, (len(x0),), device=x0.device).long()
        output = network(noising.add_noise(x0, noise, t), t).sample
        return functional.mse_loss(output.float(), noise.float())

    def shipped_step() -> Step:
        # train_unconditional.py: AdamW, cosine schedule, clipping at 1, EMAModel (its README turns
        # it on), fp32. Without accelerate, which on one device adds nothing to a step.
        x0 = setting.random_images()
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
        )
        schedule = module(setting, "diffusers.optimization").get_scheduler(
            "cosine", optimizer, num_warmup_steps=500, num_training_steps=100_000
        )
        average = module(setting, "diffusers.training_utils").EMAModel(
            network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75,
            model_cls=package.UNet2DModel, model_config=network.config,
        )  # fmt: skip
        average.to(setting.torch_device)

        def step() -> None:
            value = loss(x0)
            updated(network, value, optimizer, schedule)
            optimizer.zero_grad()
            average.step(network.parameters())
            value.detach().item()  # as its log does

        return step

    def sample(count: int, nfe: int) -> object:
        solver = package.DDIMScheduler(num_train_timesteps=TIMESTEPS, beta_schedule="linear")
        pipeline = package.DDIMPipeline(network, solver)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(batch_size=count, num_inference_steps=nfe, output_type="np")

    return Parts(network, loss, shipped_step, sample, package.__version__)


def improved_diffusion(setting: Setting) -> Parts:
    """improved-diffusion of OpenAI: its UNetModel, GaussianDiffusion and TrainLoop.

    The flags make its network Ho et al.'s: one head, attention at 16, no scale and shift.
    """
    snapshot(setting, IMPROVED, IMPROVED_COMMIT)
    stand_in("blobfile", "mpi4py")
    scripts = module(setting, "improved_diffusion.script_util")
    flags = scripts.model_and_diffusion_defaults() | {
        "image_size": IMAGE_SIZE, "num_channels": setting.base_channels, "num_res_blocks": 2,
        "num_heads": 1, "attention_resolutions": "16", "dropout": DROPOUT,
        "use_scale_shift_norm": False,
    }  # fmt: skip
    network, diffusion = scripts.create_model_and_diffusion(**flags)
    network = network.to(setting.torch_device)

    def loss(x0: Tensor) -> Tensor:
        t = torch.randint(TIMESTEPS, (len(x0),), device=x0.device)
        return diffusion.training_losses(network, x0, t)["loss"]

    def shipped_step() -> Step:
        # scripts/image_train.py: TrainLoop.run_step by its defaults: AdamW, one average, fp32.
        backend = "nccl" if setting.torch_device.type == "cuda" else "gloo"
        store = dist.FileStore(tempfile.mkstemp()[1], 1)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
        sys.modules["mpi4py"].MPI.COMM_WORLD.Get_rank.return_value = 0
        os.environ["OPENAI_LOG_FORMAT"] = ""
        module(setting, "improved_diffusion.logger").configure(dir=tempfile.mkdtemp())
        loop = module(setting, "improved_diffusion.train_util").TrainLoop(
            model=network, diffusion=diffusion, data=None, batch_size=setting.batch,
            microbatch=-1, lr=1e-4, ema_rate="0.9999", log_interval=10, save_interval=10000,
            resume_checkpoint="",
        )  # fmt: skip
        x0 = setting.random_images()
        return lambda: loop.run_step(x0, {})

    def sample(count: int, nfe: int) -> object:
        solver = scripts.create_gaussian_diffusion(
            steps=TIMESTEPS, timestep_respacing=f"ddim{nfe}", rescale_timesteps=True
        )  # scripts/image_sample.py with --use_ddim True
        return solver.ddim_sample_loop(network, (count, 3, IMAGE_SIZE, IMAGE_SIZE))

    note = "does not clip gradients"
    return Parts(network, loss, shipped_step, sample, IMPROVED_COMMIT, note)


def w86(setting: Setting) -> Parts:
    """pytorch-ddpm of w86763777: its UNet, GaussianDiffusionTrainer and Sampler, main.py's step.

    Network and betas are those of its config/CIFAR10.txt.
    """
    folder, betas = snapshot(setting, W86, W86_COMMIT), (1e-4, 0.02)
    diffusion = module(setting, "diffusion")
    network = module(setting, "model").UNet(
        T=TIMESTEPS, ch=setting.base_channels, ch_mult=[1, 2, 2, 2], attn=[1], num_res_blocks=2,
        dropout=DROPOUT,
    ).to(setting.torch_device)  # fmt: skip
    trainer = diffusion.GaussianDiffusionTrainer(network, *betas, TIMESTEPS)
    trainer = trainer.to(setting.torch_device)

    def shipped_step() -> Step:
        # main.py, train(): Adam, warm-up by LambdaLR, clipping, `ema` over the state dict; fp32.
        average, x0 = copy.deepcopy(network), setting.random_images()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step, 5000) / 5000)
        ema = function_of(folder / "main.py", "ema")

        def step() -> None:
            optimizer.zero_grad()
            loss = trainer(x0).mean()
            updated(network, loss, optimizer, schedule)
            ema(network, average, 0.9999)
            loss.item()  # as its log does

        return step

    def sample(count: int, nfe: int) -> object:
        # Ancestral only, with as many steps as its process has: `nfe` of them cost what DDIM's do.
        sampler = diffusion.GaussianDiffusionSampler(
            network, *betas, nfe, IMAGE_SIZE, "epsilon", "fixedlarge"
        )
        with torch.no_grad():
            return sampler.to(setting.torch_device)(torch.randn_like(setting.pixels(count)))

    return Parts(network, trainer, shipped_step, sample, W86_COMMIT, "ancestral sampler")


def tqch(setting: Setting) -> Parts:
    """ddpm-torch of tqch: UNet (as in configs/cifar10.json), GaussianDiffusion, DDIM, Trainer."""
    snapshot(setting, TQCH, TQCH_COMMIT)
    stand_in("matplotlib", "matplotlib.pyplot")
    package, ddim = module(setting, "ddpm_torch"), module(setting, "ddim")
    device = setting.torch_device
    betas = package.get_beta_schedule("linear", beta_start=1e-4, beta_end=0.02, timesteps=TIMESTEPS)
    diffusion = package.GaussianDiffusion(
        betas, model_mean_type="eps", model_var_type="fixed-large", loss_type="mse"
    )
    network = package.UNet(
        3, setting.base_channels, 3, (1, 2, 2, 2), 2, (False, True, False, False), drop_rate=DROPOUT
    ).to(device)

    def shipped_step() -> Step:
        # train.py and configs/cifar10.json: Adam, warm-up, clipping at 1, its EMA; Trainer.step.
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.9, 0.999))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min((i + 1) / 5000, 1.0))
        trainer = package.Trainer(
            network, optimizer, diffusion, epochs=1, trainloader=[], scheduler=schedule,
            use_ema=True, grad_norm=1.0, shape=(3, IMAGE_SIZE, IMAGE_SIZE), device=device,
        )  # fmt: skip
        torch.backends.cudnn.benchmark = True
        x0 = setting.random_images()
        return lambda: trainer.step(x0)

    def loss(x0: Tensor) -> Tensor:
        t = torch.randint(TIMESTEPS, (len(x0),), device=device)
        return diffusion.train_losses(network, x_0=x0, t=t, noise=torch.randn_like(x0))

    def sample(count: int, nfe: int) -> object:
        chosen = ddim.get_selection_schedule("linear", size=nfe, timesteps=TIMESTEPS)
        solver = ddim.DDIM.from_ddpm(diffusion, eta=0.0, subsequence=chosen)
        return solver.p_sample(network, shape=(count, 3, IMAGE_SIZE, IMAGE_SIZE), device=device)

    return Parts(network, loss, shipped_step, sample, TQCH_COMMIT)


def edm(setting: Setting) -> Parts:
    """edm of NVlabs: EDMPrecond around SongUNet, EDMLoss, its training loop, generate.py's sampler.

    Its DDPM++ (train.py, --arch=ddpmpp) with Ho et al.'s channels and blocks is the nearest to
    their network: residual resampling makes it 39.4M.
    """
    folder = snapshot(setting, EDM, EDM_COMMIT)
    network = module(setting, "training.networks").EDMPrecond(
        IMAGE_SIZE, 3, model_type="SongUNet", embedding_type="positional", num_blocks=2,
        encoder_type="standard", decoder_type="standard", channel_mult_noise=1,
        resample_filter=[1, 1], model_channels=setting.base_channels, channel_mult=[1, 2, 2, 2],
        attn_resolutions=[16], dropout=DROPOUT,
    ).to(setting.torch_device)  # fmt: skip
    # It refuses autocast's bf16.
    network.model.register_forward_hook(lambda _module, _inputs, output: output.float())
    loss = module(setting, "training.loss").EDMLoss()
    solver = function_of(folder / "generate.py", "ablation_sampler", torch=torch, np=np)

    def shipped_step() -> Step:
        # training/training_loop.py: Adam, no clipping but nan_to_num, its average with a ramp; fp32
        # without TF32. Its augmentation, which train.py turns on, is left out in its favour.
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = True, False
        torch.backends.cuda.matmul.allow_tf32 = False
        average = copy.deepcopy(network).eval().requires_grad_(False)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
        images = ((setting.random_images() + 1) * 127.5).to(torch.uint8)
        nimg = 0

        def step() -> None:
            nonlocal nimg
            optimizer.zero_grad(set_to_none=True)
            losses = loss(network, images.to(torch.float32) / 127.5 - 1)
            losses.sum().mul(1 / setting.batch).backward()
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(nimg / 10_000_000, 1)
            for parameter in network.parameters():
                if (grad := parameter.grad) is not None:
                    torch.nan_to_num(grad, nan=0, posinf=1e5, neginf=-1e5, out=grad)
            optimizer.step()
            beta = 0.5 ** (setting.batch / max(min(500_000, 0.05 * nimg), 1e-8))
            for old, new in zip(average.parameters(), network.parameters(), strict=True):
                old.copy_(new.detach().lerp(old, beta))
            nimg += setting.batch

        return step

    def sample(count: int, nfe: int) -> object:
        # generate.py's Euler, as Heun would take an odd number of evaluations.
        noise = torch.randn_like(setting.pixels(count))
        with torch.no_grad():
            return solver(network, noise, num_steps=nfe, solver="euler")

    return Parts(
        network, lambda x0: loss(network, x0), shipped_step, sample, EDM_COMMIT,
        "another network: DDPM++", precision="fp32",
        evaluate=lambda n: network(setting.pixels(n), torch.ones(n, device=setting.device)),
    )  # fmt: skip


def lucidrains(setting: Setting) -> Parts:
    """denoising-diffusion-pytorch of lucidrains: its Unet, GaussianDiffusion and Trainer.

    dim 128 with (1, 2, 2, 2) is its nearest: 28.5M parameters, linear attention at three levels, no
    third decoder block. It computes less per image: compare FLOP per second, not images.
    """
    if setting.torch_device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "1"
    package = module(setting, "denoising_diffusion_pytorch")
    network = package.Unet(dim=setting.base_channels, dim_mults=(1, 2, 2, 2), dropout=DROPOUT)
    diffusion = package.GaussianDiffusion(network, image_size=IMAGE_SIZE).to(setting.torch_device)

    def shipped_step() -> Step:
        # Its Trainer.train, one step at a time: Adam, clipping at 1, EMA every tenth step, fp32.
        folder = Path(tempfile.mkdtemp())
        black = Image.fromarray(np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
        for number in range(100):  # the fewest that it accepts; the resident batch is used instead
            black.save(folder / f"{number}.png")
        trainer = package.Trainer(
            diffusion, str(folder), train_batch_size=max(16, setting.batch), calculate_fid=False,
            save_and_sample_every=1 << 40, results_folder=str(folder / "results"),
        )  # fmt: skip
        trainer.dl = itertools.repeat((setting.random_images() + 1) / 2)

        def step() -> None:
            trainer.train_num_steps = trainer.step + 1
            trainer.train()

        return step

    def sample(count: int, nfe: int) -> object:
        solver = package.GaussianDiffusion(network, image_size=IMAGE_SIZE, sampling_timesteps=nfe)
        return solver.to(setting.torch_device).sample(batch_size=count)

    return Parts(
        network, lambda x0: diffusion((x0 + 1) / 2), shipped_step, sample,
        module(setting, "denoising_diffusion_pytorch.version").__version__,
        "another network; averages its weights every tenth step only, which a median does not see",
    )  # fmt: skip
