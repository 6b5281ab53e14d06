"""The shape of the U-Net; free of torch, so that the command line can read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class UNetConfig:
    """One configurable network; the presets give each paper's."""

    base_channels: int = 128
    """Channels of the first level; the others are multiples of it."""
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """One level each, from full size down by halves."""
    blocks_per_level: int = 2
    """Residual blocks of each encoder level."""
    attention_levels: tuple[int, ...] = ()
    """Levels with self-attention after every block: 0 is the full size, 1 the half, .."""
    attention_sizes: tuple[int, ...] = ()
    """The same by feature-map height in pixels: 16 means the level where the image is 16 high."""
    attention_heads: int = 1
    """Heads of each attention layer."""
    dropout: float = 0.0
    """Dropout before the second convolution of each block."""
    conditioning: Literal["additive", "scale_shift"] = "additive"
    """How time and class enter a block: added before its second normalisation (DDPM), or scale and shift after it."""
    resample: Literal["conv", "resblock"] = "conv"
    """Down- and upsampling by a convolution (DDPM) or inside a residual block (ADM)."""
    skips: Literal["every_block", "per_level"] = "every_block"
    """One skip per encoder block and downsampling (DDPM; the decoder has a block more), or one per level."""
    stem: Literal["conv", "block"] = "conv"
    """The image first meets a convolution (DDPM), or the first residual block itself."""
    norm_groups: int = 32
    """Groups of each group normalisation."""
    norm_eps: float = 1e-5
    """Its epsilon."""
    frequencies: Literal["ddpm", "iddpm"] = "ddpm"
    """Order and spacing of the sinusoidal time embedding: sin first to 1/10000 (DDPM), or cos first."""
    time_hidden: int | None = None
    """Hidden width of the time network; None = 4 x base_channels."""
    time_channels: int | None = None
    """Its output width; None = 4 x base_channels."""
    downsample_padding: Literal["same", "symmetric"] = "symmetric"
    """Padding of strided convolutions: TensorFlow's "same" (DDPM's own weights) or 1 on each side."""
