"""What a trainer must show to be asked, what the subjects share, and how two states differ."""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

IMAGES, BATCH, STEPS = 100, 20, 20
"""Five steps are an epoch, four epochs the run."""
SIZE, LR, DROPOUT = 16, 1e-3, 0.1
Groups = dict[str, list[Tensor]]
"""Tensors by what they are: weights, ema, moments."""
SEEDS = {"weights": 1, "ema": 2, "moments": 3}


@functools.cache
def _noise(group: str, index: int, shape: tuple[int, ...]) -> Tensor:
    random = torch.Generator().manual_seed(10_000 * SEEDS[group] + index)
    return torch.rand(shape, generator=random)


def content(group: str, index: int, shape: tuple[int, ...], step: int) -> Tensor:
    """What that tensor holds at that step: its own noise in 0..1, plus the step."""
    return _noise(group, index, shape) + step


def steps(groups: Groups) -> list[int]:
    """The steps whose contents these are: one if all is well; -1 for what is no step's."""
    return sorted({_step(group, i, x) for group in groups for i, x in enumerate(groups[group])})


def _step(group: str, index: int, tensor: Tensor) -> int:
    value = float((tensor.detach() - _noise(group, index, tuple(tensor.shape))).median())
    step = round(value) if abs(value) < 1e9 else -1
    return step if torch.equal(tensor, content(group, index, tuple(tensor.shape), step)) else -1


@dataclass
class Turns:
    """The saves of one process: fills in the next, tells of each, ends the process after `last`."""

    tell: Callable[[Any], None]
    last: int | None = None
    step: int = 0
    sizes: list[list[int]] = field(default_factory=list)

    @torch.no_grad()
    def next(self, groups: Groups) -> int:
        """Fill in the next save's contents; gives its number."""
        self.step += 1
        self.sizes = [list(tensor.shape) for tensor in groups["weights"]]
        for group, tensors in groups.items():
            for index, tensor in enumerate(tensors):
                tensor.copy_(content(group, index, tuple(tensor.shape), self.step))
        return self.step

    def saved(self) -> None:
        """The save of this step has returned."""
        self.tell({"step": self.step} | ({"weights": self.sizes} if self.last else {}))
        if self.step == self.last:
            os._exit(0)


def compare(a: Groups, b: Groups) -> dict[str, Any]:
    """By group "same" (every bit), or the largest difference over a tensor's largest number."""
    return {name: _difference(a[name], b[name]) for name in a}


def _difference(a: list[Tensor], b: list[Tensor]) -> Any:
    assert len(a) == len(b) > 0
    pairs = list(zip(a, b, strict=True))
    if all(torch.equal(x, y) for x, y in pairs):
        return "same"
    largest = max(float((x - y).abs().max() / y.abs().max().clamp_min(1e-30)) for x, y in pairs)
    return float(f"{largest:.2g}")


class Loaded(BaseException):
    """Carries what a trainer holds after it has loaded a checkpoint: its step, and the tensors."""


class Subject(ABC):
    """A trainer, the pictures and diffusers' script. Every call happens in a new process."""

    name: str
    packages: tuple[str, ...]
    checkpoints: str
    """Pattern of its checkpoints in its folder; the number in the name says which is the newest."""
    weights_file = ""
    """Where in a checkpoint the network's weights are; empty if it is one file."""

    def __init__(self, images: Path, script: Path) -> None:
        self.images, self.script = images, script

    @abstractmethod
    def save(self, folder: Path, turns: Turns) -> None:
        """Save again and again what `turns` fills in, as its user would, keeping what it keeps."""

    @abstractmethod
    def resume(self, folder: Path) -> tuple[int, Groups]:
        """What its "latest" resumes from: its step counter, and all that it loaded."""

    def newest(self, folder: Path) -> Path:
        """The file or folder that its "latest" takes."""
        return max(folder.glob(self.checkpoints), key=number)

    def weights(self, checkpoint: Path) -> Path:
        """The file of a checkpoint that holds the network's weights."""
        return checkpoint / self.weights_file

    @abstractmethod
    def train(self, folder: Path, stop: int | None) -> None:
        """Train (on) to STEPS, with a checkpoint after every step; leave at once after `stop`'s."""

    @abstractmethod
    def final(self, folder: Path) -> Groups:
        """What the checkpoint of step STEPS holds."""


def write_images(folder: Path) -> None:
    """The first digits of scikit-learn as RGB pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, digit in enumerate(load_digits().images[:IMAGES]):
        picture = Image.fromarray((digit * 15.9).astype("uint8")).convert("RGB")
        picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:03d}.png")


def groups(weights: Iterable[Tensor], adam: dict[Any, Any], ema: Iterable[Tensor]) -> Groups:
    """Weights, average and Adam's moments in the order of its parameters."""
    moments = [value[name] for value in adam.values() for name in ("exp_avg", "exp_avg_sq")]
    return {"weights": list(weights), "ema": list(ema), "moments": moments}


def one_step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Makes Adam make its moments."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def exit_after(owner: Any, name: str, call: int | None) -> None:
    """This process ends, as if killed, when that function returns from that call; None is never."""
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
