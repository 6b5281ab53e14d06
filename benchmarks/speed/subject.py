"""What is compared: a network, its loss, its training step and its sampler, at one setting."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn

OURS = "unnoise"
IMAGE_SIZE, DROPOUT, TIMESTEPS = 32, 0.1, 1000


class Missing(Exception):
    """A peer that is not on this machine; the message says in one line how to get it."""


@dataclass(frozen=True)
class Setting:
    """How a subject is asked to run."""

    subject: str
    way: str = "shipped"
    """shipped: what its own script does by default; best: the same loop for all (see child.py)."""
    work: str = "training"
    batch: int = 8
    device: str = "cpu"
    peers: str | None = None
    """The folder with the peers' repositories."""
    base_channels: int = 128
    """Channels of Ho et al.'s network; fewer only to try things out."""
    nfe: int = 20
    """Network evaluations per image when sampling."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def pixels(self, count: int) -> Tensor:
        """Images for counting a pass."""
        return torch.zeros(count, 3, IMAGE_SIZE, IMAGE_SIZE, device=self.device)

    def times(self, count: int) -> Tensor:
        """Time steps for counting a pass."""
        return torch.full((count,), TIMESTEPS // 2, device=self.device)

    def random_images(self) -> Tensor:
        """The resident batch that every step takes: floats in -1..1."""
        random = torch.Generator().manual_seed(0)
        images = torch.rand(self.batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=random) * 2 - 1
        return images.to(self.device)

    @property
    def default_precision(self) -> str:
        """What torch makes of fp32: TensorFloat-32 in CUDA's convolutions by default."""
        cuda = self.torch_device.type == "cuda"
        return "tf32" if cuda and torch.backends.cudnn.allow_tf32 else "fp32"


@dataclass
class Parts:
    """What a subject is made of; everything is on the device."""

    network: nn.Module
    loss: Callable[[Tensor], Tensor]
    """Its own loss code on images in -1..1; a mean, or one value per pixel or image."""
    shipped_step: Callable[[], Callable[[], object]]
    """Makes what its script makes (optimizer, average) and gives one step of the script."""
    sample: Callable[[int, int], object]
    """Its own sampler: N images with N network evaluations each."""
    version: str
    note: str = ""
    evaluate: Callable[[int], object] | None = None
    """The network on N images, where pixels and whole time steps are not what it takes."""
    precision: str | None = None
    """Precision of the shipped step, where it is not torch's own."""
    format: str = "nchw"
    compiled: str = ""
    sampled: Callable[[], nn.Module] | None = None
    """The network that the sampler calls, where it is another."""
    own_best: bool = False
    """Whether what it ships is already the best that it can do (ours)."""


def module(setting: Setting, name: str) -> Any:
    """A peer's module, or Missing with the command that brings what is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = (error.name or name).split(".")[0]
        raise Missing(
            f"{setting.subject} is skipped: no module {absent!r}; get it with pip install {absent}"
        ) from error


def snapshot(setting: Setting, url: str, commit: str) -> Path:
    """A peer's repository, put first on the path; or Missing with the command that brings it."""
    root, folder = setting.peers or os.environ.get("UNNOISE_PEERS", ""), setting.subject
    path = Path(root) / folder
    if not root or not path.is_dir():
        raise Missing(
            f"{folder} is skipped: {path if root else '--peers FOLDER'} is not there; get it with "
            f"git clone {url} {folder} && git -C {folder} checkout {commit}"
        )
    sys.path.insert(0, str(path))
    return path


def stand_in(*names: str) -> None:
    """Stand-ins for modules that a peer imports, a step does not need, and are not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock(name=name)


def function_of(script: Path, name: str, **scope: Any) -> Callable[..., Any]:
    """One function of a script that cannot be imported as a whole."""
    tree = ast.parse(script.read_text())
    tree.body = [x for x in tree.body if isinstance(x, ast.FunctionDef) and x.name == name]
    if not tree.body:
        raise Missing(
            f"{script.parent.name} is skipped: {script.name} has no function {name!r}; "
            "expected another commit"
        )
    exec(compile(tree, str(script), "exec"), scope)  # noqa: S102  (it is the peer that runs)
    return scope[name]


@torch.no_grad()
def wake(network: nn.Module) -> None:
    """No layer that starts at 0 stays there: it would hide what a trained one costs."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
