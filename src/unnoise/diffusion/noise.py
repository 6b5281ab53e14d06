"""Reproducible randomness: one generator per image when sampling, one per (seed, step, stream) when training.

Drawn on the CPU, an image's noise depends on its seed alone: not on the batch it is in, nor on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Standard normal noise for images of given seeds; each call of `normal` draws the next (n, c, h, w) float32."""

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape = shape
        self.device = device

    def normal(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(
            self.device
        )


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any numbers and names: SHA-256, so that neighbouring counters are unrelated."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, step: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one use of randomness (`name`) in one training step: a resumed run draws the same."""
    return torch.Generator(device).manual_seed(derive_seed(seed, step, name))
