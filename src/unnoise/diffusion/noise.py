"""Reproducible randomness.

Sampling has one generator per image, training one per (seed, step, stream). Noise is drawn on the
CPU, so an image's noise depends on its seed alone, not on its batch or the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """Standard normal noise for images of given seeds."""

    def __init__(
        self, seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device | str = "cpu"
    ) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape, self.device = shape, device

    def normal(self) -> Tensor:
        """The next (n, c, h, w) float32."""
        drawn = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(drawn).to(self.device)


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from numbers and names, by SHA-256: neighbouring counters are unrelated."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, step: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of one use of randomness (`name`) in one training step."""
    return torch.Generator(device).manual_seed(derive_seed(seed, step, name))
