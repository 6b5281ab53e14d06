"""Two public trainers of diffusion models. All is imported before the forks."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
from diffusers import DDPMPipeline, UNet2DModel  # noqa: F401
from diffusers.training_utils import EMAModel  # noqa: F401
from safetensors.torch import load_file

from benchmarks.reliability import subject
from benchmarks.reliability.subject import BATCH, LR, SIZE, STEPS, Groups, Loaded, Turns, number

UNET = {
    "sample_size": SIZE, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
    "norm_num_groups": 8, "block_out_channels": (56, 112), "dropout": subject.DROPOUT,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
"""diffusers' UNet2DModel, two levels, one block each."""


class DiffusersScript(subject.Subject):
    """diffusers' train_unconditional.py as it is, run with its own flags.

    Its variables are read where it saves and loads. It has no flag for a seed, so accelerate's
    `set_seed` is called before it, as its other examples do.
    """

    name, checkpoints = "diffusers train_unconditional.py", "checkpoint-*"
    packages = ("diffusers", "accelerate", "datasets", "torchvision")
    weights_file = "unet/diffusion_pytorch_model.safetensors"

    def save(self, folder: Path, turns: Turns) -> None:
        real = Accelerator.save_state

        def again_and_again(accelerator: Accelerator, path: str) -> None:
            groups = _groups(sys._getframe(1).f_locals)
            while True:
                step = turns.next(groups)
                real(accelerator, os.path.join(os.path.dirname(path), f"checkpoint-{step}"))
                turns.saved()

        Accelerator.save_state = again_and_again
        self._run(folder)

    def resume(self, folder: Path) -> tuple[int, Groups]:
        real = Accelerator.load_state

        def load(accelerator: Accelerator, path: str) -> None:
            real(accelerator, path)
            raise Loaded(number(Path(path)), _groups(sys._getframe(1).f_locals))

        Accelerator.load_state = load
        try:
            self._run(folder, "--resume_from_checkpoint", "latest")
        except Loaded as loaded:
            return loaded.args
        raise RuntimeError("started from the beginning")

    def train(self, folder: Path, stop: int | None) -> None:
        subject.exit_after(Accelerator, "save_state", stop)
        there = any(folder.glob(self.checkpoints))
        self._run(folder, *(("--resume_from_checkpoint", "latest") if there else ()))

    def _run(self, folder: Path, *flags: str) -> None:
        datasets.disable_progress_bars()
        config = folder.parent / "unet" / "config.json"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps({"_class_name": "UNet2DModel", **UNET}))
        sys.argv = [
            str(self.script), f"--train_data_dir={self.images}",
            f"--output_dir={folder}", f"--cache_dir={folder.parent / 'cache'}",
            f"--model_config_name_or_path={config.parent}", f"--resolution={SIZE}",
            "--random_flip", f"--train_batch_size={BATCH}",
            f"--num_epochs={STEPS * BATCH // subject.IMAGES}", f"--learning_rate={LR}",
            "--lr_warmup_steps=0", "--use_ema", "--checkpointing_steps=1", "--eval_batch_size=1",
            "--ddpm_num_inference_steps=2", *flags,
        ]  # fmt: skip
        set_seed(0)
        runpy.run_path(str(self.script), run_name="__main__")

    def final(self, folder: Path) -> Groups:
        weights = self.weights(folder / f"checkpoint-{STEPS}")
        average = weights.parent.with_name("unet_ema") / weights.name
        optimizer = torch.load(folder / f"checkpoint-{STEPS}" / "optimizer.bin")
        tensors, ema = (load_file(path).values() for path in (weights, average))
        return subject.groups(tensors, optimizer["state"], ema)


def _groups(variables: dict[str, Any]) -> Groups:
    """From the script's own variables."""
    network, optimizer, average = (variables[name] for name in ("model", "optimizer", "ema_model"))
    return subject.groups(network.parameters(), optimizer.state, average.shadow_params)


class Lucidrains(subject.Subject):
    """denoising-diffusion-pytorch's Trainer: `save(milestone)`, `load(milestone)`, newest file."""

    name, checkpoints = "denoising-diffusion-pytorch Trainer", "model-*.pt"
    packages = ("denoising-diffusion-pytorch", "ema-pytorch", "torchvision")

    def save(self, folder: Path, turns: Turns) -> None:
        trainer = self._trainer(folder)
        subject.one_step(trainer.model, trainer.opt)
        while True:
            trainer.step = turns.next(self._groups(trainer))
            trainer.save(trainer.step)
            turns.saved()

    def resume(self, folder: Path) -> tuple[int, Groups]:
        trainer = self._trainer(folder)
        trainer.load(number(self.newest(folder)))
        return trainer.step, self._groups(trainer)

    def train(self, folder: Path, stop: int | None) -> None:
        set_seed(0)
        subject.exit_after(Trainer, "save", stop)
        trainer = self._trainer(folder)
        if any(folder.glob(self.checkpoints)):
            trainer.load(number(self.newest(folder)))
        trainer.train()

    def _trainer(self, folder: Path) -> Trainer:
        network = Unet(dim=28, dim_mults=(1, 2, 4), dropout=subject.DROPOUT)
        diffusion = GaussianDiffusion(network, image_size=SIZE, sampling_timesteps=2)
        return Trainer(
            diffusion, str(self.images), train_batch_size=BATCH, train_lr=LR,
            train_num_steps=STEPS, save_and_sample_every=1, num_samples=4,
            results_folder=str(folder), calculate_fid=False,
        )  # fmt: skip

    def _groups(self, trainer: Trainer) -> Groups:
        average = trainer.ema.ema_model.parameters()
        return subject.groups(trainer.model.parameters(), trainer.opt.state, average)

    def final(self, folder: Path) -> Groups:
        data = torch.load(folder / f"model-{STEPS}.pt", weights_only=True)
        ema = (value for name, value in data["ema"].items() if name.startswith("ema_model."))
        return subject.groups(data["model"].values(), data["opt"]["state"], ema)
