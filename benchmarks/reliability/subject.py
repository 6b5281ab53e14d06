"""What a trainer must show to be asked, and where it works."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.reliability.contents import Groups, Turns

IMAGES, BATCH, STEPS = 100, 20, 20
"""Five steps are an epoch, four epochs the run."""
SIZE = 16
LR, DROPOUT = 1e-3, 0.1


@dataclass(frozen=True)
class Place:
    """Where the pictures are, and diffusers' script."""

    images: Path
    script: Path


class Subject(Protocol):
    """A trainer. Every call happens in a new process."""

    name: str
    packages: tuple[str, ...]

    def save(self, folder: Path, turns: Turns) -> None:
        """Save again and again what `turns` fills in, as its user would, keeping what it keeps."""
        ...

    def resume(self, folder: Path) -> tuple[int, Groups]:
        """What its "latest" goes on from: its step counter, and all that it loaded."""
        ...

    def newest(self, folder: Path) -> Path:
        """The file or folder that its "latest" takes."""
        ...

    def weights(self, checkpoint: Path) -> Path:
        """The file of a checkpoint that holds the network's weights."""
        ...

    def train(self, folder: Path, stop: int | None) -> None:
        """Train (on) to STEPS with a checkpoint after every step; leave at once after that of step `stop`."""
        ...

    def final(self, folder: Path) -> Groups:
        """What the checkpoint of step STEPS holds."""
        ...


def write_images(folder: Path) -> None:
    """The first digits of scikit-learn as RGB pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, digit in enumerate(load_digits().images[:IMAGES]):
        picture = Image.fromarray((digit * 15.9).astype("uint8")).convert("RGB")
        picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")


def moments(state: dict[Any, dict[str, Tensor]]) -> list[Tensor]:
    """Adam's, in the order of its parameters."""
    return [value[name] for value in state.values() for name in ("exp_avg", "exp_avg_sq")]


def one_step(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes Adam make its moments."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def exit_after(owner: Any, name: str, call: int | None) -> None:
    """This process ends, as if killed, when that function returns from that call; never if None."""
    real, count = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal count
        result = real(*arguments, **named)
        count += 1
        if count == call:
            os._exit(0)
        return result

    setattr(owner, name, counted)


def number(path: Path) -> int:
    """The last number in a name: step-00000012, model-12.pt, checkpoint_12."""
    return int("".join(c if c.isdigit() else " " for c in path.stem).split()[-1])


def noisy(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A training example of DDPM for the subjects that leave the loop to their user: noised images, noise, times."""
    noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
    kept = torch.cos(times / 1000 * torch.pi / 2).view(-1, 1, 1, 1)
    return kept * images + (1 - kept**2).sqrt() * noise, noise, times


def pictures(folder: Path) -> Tensor:
    """All pictures of a folder, in -1..1."""
    from torchvision.transforms.functional import pil_to_tensor

    return (
        torch.stack([pil_to_tensor(Image.open(path)) for path in sorted(folder.glob("*.png"))])
        / 127.5
        - 1
    )


def unet(channels: int, network: Callable[..., torch.nn.Module]) -> torch.nn.Module:
    """diffusers' UNet2DModel, two levels, one block each."""
    return network(**unet_config(channels))


def unet_config(channels: int) -> dict[str, Any]:
    return {
        "sample_size": SIZE, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 8,
        "block_out_channels": (channels, 2 * channels), "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "dropout": DROPOUT,
    }  # fmt: skip
