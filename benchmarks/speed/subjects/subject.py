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

IMAGE_SIZE, DROPOUT, TIMESTEPS = 32, 0.1, 1000


class Missing(Exception):
    """A peer that is not on this machine; the message says in one line what is missing and how to get it."""


@dataclass(frozen=True)
class Setting:
    """How a subject is asked to run."""

    subject: str
    way: str = "shipped"
    """shipped: what its own script does by default; best: the same loop for all (see best.py)."""
    work: str = "training"
    batch: int = 8
    device: str = "cpu"
    peers: str | None = None
    """The folder with the peers' repositories."""
    base_channels: int = 128
    """Of Ho et al.'s network; fewer only to try things out."""
    nfe: int = 20
    """Network evaluations per image when sampling."""

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)


@dataclass
class Parts:
    """What a subject is made of; everything is on the device."""

    network: nn.Module
    evaluate: Callable[[int], object]
    """The network on so many images, for counting."""
    loss: Callable[[Tensor], Tensor]
    """Its own loss code on images in -1..1; a mean, or one value per pixel or image."""
    shipped_step: Callable[[], Callable[[], object]]
    """Makes what its script makes (optimizer, average) and gives one step of the script."""
    sample: Callable[[int, int], object]
    """Its own sampler: so many images with so many network evaluations each."""
    version: str
    note: str = ""
    precision: str = "fp32"
    """Of the shipped step; and its memory format, and whether it is compiled."""
    format: str = "nchw"
    compiled: str = ""
    sampled: Callable[[], nn.Module] | None = None
    """The network that the sampler calls, where it is another."""
    own_best: bool = False
    """Whether what it ships is already the best that it can do (ours)."""


def module(name: str, peer: str) -> Any:
    """A peer's module, or Missing with the command that brings it or what it needs."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = (error.name or name).split(".")[0]
        package = peer if absent == name.split(".")[0] else absent
        raise Missing(
            f"{peer} is skipped: no module {absent!r}; get it with pip install {package}"
        ) from error


def snapshot(setting: Setting, folder: str, url: str, commit: str) -> Path:
    """A peer's repository, put first on the path; or Missing with the command that brings it."""
    root = setting.peers or os.environ.get("UNNOISE_PEERS", "")
    path = Path(root) / folder
    if not root or not path.is_dir():
        where = path if root else "--peers FOLDER"
        raise Missing(
            f"{folder} is skipped: {where} is not there; get it with git clone {url} {folder} && "
            f"git -C {folder} checkout {commit}"
        )
    sys.path.insert(0, str(path))
    return path


def stand_in(*names: str) -> None:
    """Modules that a peer imports and a step does not need (plots, MPI): stand-ins where they are not installed."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = MagicMock(name=name)


def function_of(script: Path, name: str, **scope: Any) -> Callable[..., Any]:
    """One function of a script that cannot be imported as a whole."""
    tree = ast.parse(script.read_text())
    found: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    if not found:
        raise Missing(
            f"{script.parent.name} is skipped: {script.name} has no function {name!r}; expected another commit"
        )
    exec(compile(ast.Module(found, []), str(script), "exec"), scope)  # noqa: S102  (it is the peer that runs)
    return scope[name]


def random_images(setting: Setting) -> Tensor:
    """The resident batch that every step takes: floats in -1..1."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(setting.batch, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator) * 2 - 1
    return images.to(setting.torch_device)


def times(count: int, setting: Setting) -> Tensor:
    """Time steps for counting a pass."""
    return torch.full((count,), TIMESTEPS // 2, device=setting.torch_device)


def pixels(count: int, setting: Setting) -> Tensor:
    """Images for counting a pass."""
    return torch.zeros(count, 3, IMAGE_SIZE, IMAGE_SIZE, device=setting.torch_device)


def default_precision(setting: Setting) -> str:
    """What torch makes of fp32: on CUDA its convolutions are TensorFloat-32 unless a script says otherwise."""
    return (
        "tf32"
        if setting.torch_device.type == "cuda" and torch.backends.cudnn.allow_tf32
        else "fp32"
    )


@torch.no_grad()
def wake(network: nn.Module) -> None:
    """No layer that starts at 0 stays there: it would hide from timing what a trained one costs."""
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
