"""Small networks of each kind, with random weights."""

from __future__ import annotations

from typing import TypeVar

import torch

from unnoise.networks.config import DiTConfig, UNetConfig

N = TypeVar("N", bound=torch.nn.Module)

SMALL_UNET = UNetConfig(
    base_channels=8,
    channel_multipliers=(1, 2, 3),
    blocks_per_level=1,
    attention_levels=(2,),
    norm_groups=4,
    attention_heads=2,
)
SMALL_DIT = DiTConfig(width=16, depth=2, heads=2)


def random_weights(net: N) -> N:
    """The network with random weights: zero-initialised layers hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.1
    return net.eval()
