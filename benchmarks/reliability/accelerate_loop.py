"""accelerate's `save_state`, `load_state` and `skip_first_batches` in a loop written as its guide to checkpointing says.

Checkpoints are named automatically and two are kept (`ProjectConfiguration(total_limit=2)`). The average (diffusers'
EMAModel) and the step counter are registered for checkpointing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.reliability.contents import Groups, Turns
from benchmarks.reliability.subject import (
    BATCH,
    IMAGES,
    LR,
    STEPS,
    Place,
    exit_after,
    moments,
    noisy,
    number,
    one_step,
    pictures,
    unet,
)  # fmt: skip

CHANNELS = 56


class Counter:
    """A step counter that accelerate can keep."""

    step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


class Loop:
    """Everything of a training loop."""

    def __init__(self, folder: Path, images: Path, loading: DataLoaderConfiguration) -> None:
        set_seed(0)
        project = ProjectConfiguration(
            project_dir=str(folder), automatic_checkpoint_naming=True, total_limit=2
        )
        self.stateful = loading.use_stateful_dataloader
        self.accelerator = Accelerator(project_config=project, dataloader_config=loading)
        network = unet(CHANNELS, UNet2DModel)
        optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
        loader = DataLoader(TensorDataset(pictures(images)), BATCH, shuffle=True)
        self.network, self.optimizer, self.loader = self.accelerator.prepare(
            network, optimizer, loader
        )
        self.ema, self.counter = EMAModel(self.network.parameters(), decay=0.99), Counter()
        self.accelerator.register_for_checkpointing(self.ema, self.counter)

    def groups(self) -> Groups:
        weights = list(self.network.parameters())
        return {
            "weights": weights,
            "ema": self.ema.shadow_params,
            "moments": moments(self.optimizer.state),
        }

    def run(self) -> None:
        while self.counter.step < STEPS:
            epoch, done = divmod(self.counter.step, IMAGES // BATCH)
            self.loader.set_epoch(epoch)
            done = 0 if self.stateful else done
            for (images,) in (
                self.accelerator.skip_first_batches(self.loader, done) if done else self.loader
            ):
                self._step(images)
                self.accelerator.save_state()

    def _step(self, images: torch.Tensor) -> None:
        noised, noise, times = noisy(images)
        self.accelerator.backward(
            torch.nn.functional.mse_loss(self.network(noised, times).sample, noise)
        )
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        self.counter.step += 1


class AccelerateLoop:
    name, packages = "accelerate save_state", ("accelerate",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def loading(self) -> DataLoaderConfiguration:
        return DataLoaderConfiguration()

    def save(self, folder: Path, turns: Turns) -> None:
        loop = self._loop(folder)
        one_step(loop.network, loop.optimizer)
        while True:
            loop.counter.step = turns.next(loop.groups())
            loop.accelerator.save_state()
            turns.saved()

    def resume(self, folder: Path) -> tuple[int, Groups]:
        loop = self._loop(folder)
        loop.accelerator.load_state()
        return loop.counter.step, loop.groups()

    def newest(self, folder: Path) -> Path:
        return max((folder / "checkpoints").glob("checkpoint_*"), key=number)

    def weights(self, path: Path) -> Path:
        return path / "model.safetensors"

    def train(self, folder: Path, stop: int | None) -> None:
        exit_after(Accelerator, "save_state", stop)
        loop = self._loop(folder)
        loop.network.train()
        if (folder / "checkpoints").exists():
            loop.accelerator.load_state()
            # Not kept by accelerate; without it the next save says "already exists. Please manually override".
            loop.accelerator.project_configuration.iteration = loop.counter.step
        loop.run()

    def _loop(self, folder: Path) -> Loop:
        return Loop(folder, self.place.images, self.loading())

    def final(self, folder: Path) -> Groups:
        path = folder / "checkpoints" / f"checkpoint_{STEPS - 1}"
        ema = torch.load(path / "custom_checkpoint_0.pkl", weights_only=False)
        optimizer = torch.load(path / "optimizer.bin", weights_only=False)
        weights = list(load_file(path / "model.safetensors").values())
        return {
            "weights": weights,
            "ema": ema["shadow_params"],
            "moments": moments(optimizer["state"]),
        }


class AccelerateSeedable(AccelerateLoop):
    name = "accelerate save_state, use_seedable_sampler"

    def loading(self) -> DataLoaderConfiguration:
        return DataLoaderConfiguration(use_seedable_sampler=True)


class AccelerateStateful(AccelerateLoop):
    """Its loader keeps its own place, and no batches are skipped; ask it where torchdata is installed, and only it there."""

    name, packages = "accelerate save_state, use_stateful_dataloader", ("accelerate", "torchdata")

    def loading(self) -> DataLoaderConfiguration:
        return DataLoaderConfiguration(use_stateful_dataloader=True)
