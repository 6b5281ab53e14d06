"""denoising-diffusion-pytorch's Trainer: `save(milestone)`, `load(milestone)`, the newest model-N.pt, `train()`."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate.utils import set_seed
from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

from benchmarks.reliability.contents import Groups, Turns
from benchmarks.reliability.subject import (
    BATCH,
    DROPOUT,
    LR,
    SIZE,
    STEPS,
    Place,
    exit_after,
    moments,
    number,
    one_step,
)

CHANNELS = 28


class Lucidrains:
    name, packages = (
        "denoising-diffusion-pytorch Trainer",
        ("denoising-diffusion-pytorch", "ema-pytorch", "torchvision"),
    )

    def __init__(self, place: Place) -> None:
        self.place = place

    def save(self, folder: Path, turns: Turns) -> None:
        trainer = self._trainer(folder)
        one_step(trainer.model, trainer.opt)
        while True:
            trainer.step = turns.next(_groups(trainer))
            trainer.save(trainer.step)
            turns.saved()

    def resume(self, folder: Path) -> tuple[int, Groups]:
        trainer = self._trainer(folder)
        trainer.load(number(self.newest(folder)))
        return trainer.step, _groups(trainer)

    def newest(self, folder: Path) -> Path:
        return max(folder.glob("model-*.pt"), key=number)

    def weights(self, path: Path) -> Path:
        return path

    def train(self, folder: Path, stop: int | None) -> None:
        set_seed(0)
        exit_after(Trainer, "save", stop)
        trainer = self._trainer(folder)
        if any(folder.glob("model-*.pt")):
            trainer.load(number(self.newest(folder)))
        trainer.train()

    def _trainer(self, folder: Path) -> Trainer:
        network = Unet(dim=CHANNELS, dim_mults=(1, 2, 4), dropout=DROPOUT)
        diffusion = GaussianDiffusion(network, image_size=SIZE, sampling_timesteps=2)
        return Trainer(
            diffusion, str(self.place.images), train_batch_size=BATCH, train_lr=LR, train_num_steps=STEPS,
            save_and_sample_every=1, num_samples=4, results_folder=str(folder), calculate_fid=False,
        )  # fmt: skip

    def final(self, folder: Path) -> Groups:
        data = torch.load(folder / f"model-{STEPS}.pt", weights_only=True)
        ema = [value for name, value in data["ema"].items() if name.startswith("ema_model.")]
        return {
            "weights": list(data["model"].values()),
            "ema": ema,
            "moments": moments(data["opt"]["state"]),
        }


def _groups(trainer: Trainer) -> Groups:
    return {
        "weights": list(trainer.model.parameters()), "ema": list(trainer.ema.ema_model.parameters()),
        "moments": moments(trainer.opt.state),
    }  # fmt: skip
