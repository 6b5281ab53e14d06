"""Lightning's Trainer with `ModelCheckpoint(save_last=True)` and `ckpt_path="last"`.

This version of Lightning has no callback for an exponential moving average.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from diffusers import UNet2DModel
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.reliability.contents import Groups, Turns
from benchmarks.reliability.subject import BATCH, LR, STEPS, Place, moments, noisy, pictures, unet

CHANNELS = 64
ELSEWHERE = Path("/dev/shm/unnoise-reliability")
"""In memory, as the temporary folder is on many machines."""


class Network(lightning.LightningModule):
    """`idle`: the loss is 0 and costs nothing, for the rows that save contents of their own."""

    def __init__(self, idle: bool) -> None:
        super().__init__()
        self.network, self.idle = unet(CHANNELS, UNet2DModel), idle

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        if self.idle:
            return sum(parameter.flatten()[0] for parameter in self.parameters()) * 0
        noised, noise, times = noisy(batch[0])
        return torch.nn.functional.mse_loss(self.network(noised, times).sample, noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


class Filler(Callback):
    """Fills in the contents of the next save before Lightning's checkpoint callback, which is always last."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_batch_start(self, *_: Any) -> None:
        if self.turns.step:
            self.turns.saved()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert self.turns.next(_groups(trainer, module)) == trainer.global_step


class Loaded(BaseException):
    """Carries what the trainer holds before its first step."""


class Reader(Callback):
    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        raise Loaded(trainer.global_step, _groups(trainer, module))


class Stop(ModelCheckpoint):
    """Ends the process, as if killed, when the checkpoint of that step is written."""

    at: int | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: Any) -> None:
        super().on_train_batch_end(trainer, *arguments)
        if trainer.global_step == self.at:
            os._exit(0)


class LightningLoop:
    name, packages = "Lightning ModelCheckpoint", ("pytorch-lightning",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def save(self, folder: Path, turns: Turns) -> None:
        self._fit(folder, -1, True, Filler(turns))

    def resume(self, folder: Path) -> tuple[int, Groups]:
        try:
            self._fit(folder, -1, True, Reader())
        except Loaded as loaded:
            return loaded.args
        raise AssertionError

    def newest(self, folder: Path) -> Path:
        return max(folder.glob("last*.ckpt"), key=lambda path: path.stat().st_mtime)

    def weights(self, path: Path) -> Path:
        return path

    def train(self, folder: Path, stop: int | None) -> None:
        self._fit(folder, STEPS, False, None, stop)

    def _fit(
        self,
        folder: Path,
        steps: int,
        idle: bool,
        callback: Callback | None,
        stop: int | None = None,
    ) -> None:
        lightning.seed_everything(0, workers=True)
        loader = DataLoader(TensorDataset(pictures(self.place.images)), BATCH, shuffle=True)
        saver = Stop(dirpath=folder, save_last=True, every_n_train_steps=1)
        saver.at = stop
        trainer = lightning.Trainer(
            max_steps=steps, max_epochs=-1, accelerator="cpu", deterministic=True, logger=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[saver, *([callback] if callback else [])],
        )  # fmt: skip
        by_hand = [path for path in folder.glob("*.ckpt") if not any(folder.glob("last*.ckpt"))]
        trainer.fit(Network(idle), loader, ckpt_path=by_hand[0] if by_hand else "last")

    def final(self, folder: Path) -> Groups:
        data = torch.load(self.newest(folder), weights_only=False)
        assert data["global_step"] == STEPS
        return {
            "weights": list(data["state_dict"].values()),
            "moments": moments(data["optimizer_states"][0]["state"]),
        }


class LightningElsewhere(LightningLoop):
    """It writes into the system's temporary folder and moves the file: here from one file system to another."""

    name = "Lightning, temporary folder on another file system"

    def save(self, folder: Path, turns: Turns) -> None:
        shutil.rmtree(ELSEWHERE, ignore_errors=True)
        ELSEWHERE.mkdir()
        tempfile.tempdir = str(ELSEWHERE)
        super().save(folder, turns)


def _groups(trainer: lightning.Trainer, module: lightning.LightningModule) -> Groups:
    state = trainer.optimizers[0].state
    return {"weights": list(module.parameters()), "moments": moments(state) if state else []}
