"""A classifier of 8x8 digits whose features measure tiny grey images without any download.

Two convolutions and two linear layers, 64 features; trained by `benchmarks/tiny_extractor.py` on
the training part of the embedded digits. Its numbers are comparable among themselves only.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("tiny.safetensors")
SIZE, CLASSES, DIMENSION = 8, 10, 64


class TinyNetwork(nn.Module):
    """(b, 1, 8, 8) in [0, 1] -> 10 logits, by way of 64 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * 4 * 4, DIMENSION)
        self.out = nn.Linear(DIMENSION, CLASSES)

    def features(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 64"]:
        """The layer before the logits."""
        x = F.silu(self.conv1(x))
        x = F.max_pool2d(F.silu(self.conv2(x)), 2)
        return F.silu(self.hidden(x.flatten(1)))

    def forward(self, x: Float[Tensor, "b 1 8 8"]) -> Float[Tensor, "b 10"]:
        return self.out(self.features(x))


def prepare(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 8 8"]:
    """0..255 -> grey [0, 1], each pixel the mean of its area."""
    return F.interpolate(images.mean(1, keepdim=True), (SIZE, SIZE), mode="area") / 255


def trained(device: torch.device) -> TinyNetwork:
    """The network with the weights that the package carries."""
    network = TinyNetwork()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval().requires_grad_(False).to(device)
