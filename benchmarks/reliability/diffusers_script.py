"""diffusers' train_unconditional.py as it is, run with its own flags; its variables are read where it saves and loads.

It has no flag for a seed, so accelerate's `set_seed` is called before it, as its other examples do.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import datasets
import diffusers  # noqa: F401  (before the forks)
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import DDPMPipeline, UNet2DModel  # noqa: F401
from diffusers.training_utils import EMAModel  # noqa: F401
from safetensors.torch import load_file

from benchmarks.reliability.contents import Groups, Turns
from benchmarks.reliability.subject import (
    BATCH,
    IMAGES,
    LR,
    SIZE,
    STEPS,
    Place,
    exit_after,
    moments,
    number,
    unet_config,
)  # fmt: skip

CHANNELS = 56


class _Loaded(BaseException):
    """Carries what the script holds after `load_state`."""


class DiffusersScript:
    name, packages = (
        "diffusers train_unconditional.py",
        ("diffusers", "accelerate", "datasets", "torchvision"),
    )

    def __init__(self, place: Place) -> None:
        self.place = place
        datasets.disable_progress_bars()

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
            raise _Loaded(number(Path(path)), _groups(sys._getframe(1).f_locals))

        Accelerator.load_state = load
        try:
            self._run(folder, "--resume_from_checkpoint", "latest")
        except _Loaded as loaded:
            return loaded.args
        raise RuntimeError("started from the beginning")

    def newest(self, folder: Path) -> Path:
        return max(folder.glob("checkpoint-*"), key=number)

    def weights(self, path: Path) -> Path:
        return path / "unet" / "diffusion_pytorch_model.safetensors"

    def train(self, folder: Path, stop: int | None) -> None:
        exit_after(Accelerator, "save_state", stop)
        self._run(
            folder,
            *(("--resume_from_checkpoint", "latest") if any(folder.glob("checkpoint-*")) else ()),
        )

    def _run(self, folder: Path, *flags: str) -> None:
        config = folder.parent / "unet" / "config.json"
        config.parent.mkdir(exist_ok=True)
        config.write_text(json.dumps({"_class_name": "UNet2DModel", **unet_config(CHANNELS)}))
        sys.argv = [
            str(self.place.script), f"--train_data_dir={self.place.images}", f"--output_dir={folder}",
            f"--cache_dir={folder.parent / 'cache'}", f"--model_config_name_or_path={config.parent}", f"--resolution={SIZE}",
            "--random_flip", f"--train_batch_size={BATCH}", f"--num_epochs={STEPS * BATCH // IMAGES}",
            f"--learning_rate={LR}", "--lr_warmup_steps=0", "--use_ema", "--checkpointing_steps=1",
            "--eval_batch_size=1", "--ddpm_num_inference_steps=2", *flags,
        ]  # fmt: skip
        set_seed(0)
        runpy.run_path(str(self.place.script), run_name="__main__")

    def final(self, folder: Path) -> Groups:
        path = folder / f"checkpoint-{STEPS}"
        weights, ema = (
            load_file(path / part / "diffusion_pytorch_model.safetensors")
            for part in ("unet", "unet_ema")
        )
        optimizer = torch.load(path / "optimizer.bin")
        return {
            "weights": list(weights.values()),
            "ema": list(ema.values()),
            "moments": moments(optimizer["state"]),
        }


def _groups(variables: dict[str, Any]) -> Groups:
    """From the script's own variables."""
    network, optimizer, average = (variables[name] for name in ("model", "optimizer", "ema_model"))
    return {
        "weights": list(network.parameters()),
        "ema": average.shadow_params,
        "moments": moments(optimizer.state),
    }
