"""A CIFAR-10 ResNet-56 (He et al. 2016, option A shortcuts) from a file of weights.

It gives 64 features and 10 logits per image.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which the weights were trained with."""


class ResNet56:
    """Features of uint8 images (n, 3, 32, 32)."""

    def __init__(self, path: Path | str, device: torch.device | str = "cpu") -> None:
        self.w = {name: torch.from_numpy(value).to(device) for name, value in np.load(path).items()}

    def _layer(self, x: Tensor, prefix: str, number: str, stride: int = 1) -> Tensor:
        """Convolution and batch norm."""
        x = F.conv2d(x, self.w[f"{prefix}conv{number}.weight"], stride=stride, padding=1)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.w[f"{prefix}bn{number}.{name}"] for name in names))

    def _block(self, x: Tensor, prefix: str, stride: int) -> Tensor:
        y = self._layer(F.relu(self._layer(x, prefix, "1", stride)), prefix, "2")
        if stride > 1:  # option A: every other pixel, and zeros for the new channels
            more = (y.shape[1] - x.shape[1]) // 2
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, more, more))
        return F.relu(x + y)

    @torch.inference_mode()
    def features(self, images: Tensor, batch: int = 256) -> Tensor:
        """The 64 pooled features, float32 (n, 64)."""
        return torch.cat([self.pooled(part.float() / 255) for part in images.split(batch)])

    def pooled(self, images: Tensor) -> Tensor:
        """Features of floats in 0..1."""
        mean, std = (torch.tensor(v, device=images.device).reshape(3, 1, 1) for v in (MEAN, STD))
        x = F.relu(self._layer((images - mean) / std, "", "1"))
        for layer in (1, 2, 3):
            for block in range(9):
                x = self._block(x, f"layer{layer}.{block}.", 2 if layer > 1 and block == 0 else 1)
        return x.mean((2, 3))

    def logits(self, features: Tensor) -> Tensor:
        """(n, 10) of feature vectors."""
        return F.linear(features, self.w["linear.weight"], self.w["linear.bias"])

    def classes(self, features: Tensor) -> Tensor:
        """The most likely class of each feature vector."""
        return self.logits(features).argmax(1)


@functools.cache
def _network(path: str, device: torch.device) -> ResNet56:
    return ResNet56(path, device)


def features(images: Tensor) -> Tensor:
    """(n, 64) of 0..1, by $RESNET56's weights: `--features benchmarks.resnet56:features`."""
    return _network(os.environ["RESNET56"], images.device).pooled(images)


def logits(images: Tensor) -> Tensor:
    """(n, 10) likewise: `--classifier benchmarks.resnet56:logits`."""
    return _network(os.environ["RESNET56"], images.device).logits(features(images))
