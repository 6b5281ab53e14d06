"""Small networks of each kind, with random weights."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import torch

from unnoise import build
from unnoise.config import override
from unnoise.networks.config import (
    DiTConfig,
    LucidrainsConfig,
    NetworkConfig,
    Shape,
    SongUNetConfig,
    UNetConfig,
)
from unnoise.networks.network import Network
from unnoise.presets import named

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
SMALL_LUCIDRAINS = LucidrainsConfig(8, (1, 2), attention_heads=2, attention_head_channels=4)
SMALL_SONG = SongUNetConfig(8, (1, 2), 1, dropout=0.0)
SMALL_NCSN = dataclasses.replace(
    SMALL_SONG, time_embedding="fourier", encoder="residual", resample="fir", time_multiplier=2
)


def build_network(network: NetworkConfig, shape: Shape, changes: dict[str, Any]) -> Network:
    """A network of changed settings, by the door that checks them."""
    config = dataclasses.replace(named("digits"), network=network)
    changes = {f"network.{name}": value for name, value in changes.items()}
    return build.network(override(config, changes), shape)


def random_weights(net: N) -> N:
    """The network with random weights: zero-initialised layers hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.1
    return net.eval()
