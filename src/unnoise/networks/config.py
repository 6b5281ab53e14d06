"""The settings of each kind of network; free of torch, so that the command line can read them.

A kind has its settings here, by its name in NETWORK_CONFIGS, and its class in registry.NETWORKS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unnoise.errors import ConfigError
from unnoise.ranges import NotNegative


@dataclass(frozen=True)
class Shape:
    """What a network must know of its data."""

    channels: int
    height: int
    width: int
    num_classes: int = 0


@dataclass(frozen=True)
class NetworkConfig:
    """The settings of one kind of network. A kind of your own derives from this class."""

    @property
    def kind(self) -> str:
        """The name of this kind in NETWORK_CONFIGS, and in a model file."""
        for name, config in NETWORK_CONFIGS.items():
            if type(self) is config:
                return name
        raise ConfigError(
            f"network: {type(self).__name__} is not registered; "
            f"expected NETWORK_CONFIGS['a-name'] = {type(self).__name__}"
        )

    @property
    def stochastic(self) -> bool:
        """Whether a call in training draws random numbers, as dropout does."""
        return True

    @property
    def sample_channels_last(self) -> bool:
        """Whether sampling on a CPU in 16 bits is faster in the channels_last memory format."""
        return False

    def narrower(self, share: float) -> dict[str, int]:
        """The change of settings to a narrower network with this share of the cost, if any.

        Rule of thumb: the cost grows with the square of the width.
        """
        return {}

    def check(self, shape: Shape) -> None:
        """Raise ConfigError for a network that cannot be built for images of this shape."""

    def require(self, rules: Sequence[tuple[bool, str, str]]) -> None:
        """Raise ConfigError for the first of (does it hold, field, what is expected) that fails."""
        for holds, name, expected in rules:
            if not holds:
                raise ConfigError(f"network.{name}: got {getattr(self, name)}, expected {expected}")


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """The U-Net of DDPM and its descendants."""

    base_channels: int = 128
    """Channels of the first level; those of the others are multiples of it."""
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, as multiples of base_channels; each level has half the height."""
    blocks_per_level: int = 2
    """Residual blocks of each encoder level."""
    attention_levels: tuple[int, ...] = ()
    """Levels with self-attention after every block: 0 is the full size, 1 the half, .."""
    attention_sizes: tuple[int, ...] = ()
    """The same by height of the feature map: 16 means the level where the image is 16 high."""
    attention_heads: int = 1
    """Heads of each attention layer."""
    dropout: float = 0.0
    """Dropout before the second convolution of each block."""
    conditioning: Literal["additive", "scale_shift"] = "additive"
    """Time and class are added before a block's second normalisation (DDPM), or scale and shift
    its result (Improved DDPM)."""
    resample: Literal["conv", "resblock"] = "conv"
    """Down- and upsampling by a convolution (DDPM) or inside a residual block (ADM)."""
    skips: Literal["every_block", "per_level"] = "every_block"
    """One skip per encoder block and downsampling (DDPM; the decoder has one block more per
    level), or one skip per level."""
    stem: Literal["conv", "block"] = "conv"
    """The image first meets a convolution (DDPM), or the first residual block itself."""
    norm_groups: int = 32
    """Groups of each group normalisation."""
    norm_eps: NotNegative = 1e-5
    """Epsilon of each group normalisation."""
    frequencies: Literal["ddpm", "iddpm"] = "ddpm"
    """Sinusoidal time embedding: sines first, down to 1/10000 (DDPM), or cosines first (IDDPM)."""
    time_hidden: int | None = None
    """Hidden width of the time network; None = 4 x base_channels."""
    time_channels: int | None = None
    """Output width of the time network; None = 4 x base_channels."""
    downsample_padding: Literal["same", "symmetric"] = "symmetric"
    """Padding of strided convolutions: TensorFlow's "same" (DDPM's weights) or 1 on each side."""

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def stochastic(self) -> bool:
        """Dropout draws."""
        return self.dropout > 0

    @property
    def sample_channels_last(self) -> bool:
        """Wide convolutions are faster in it, narrow ones are not (docs/results.md, kernels)."""
        return self.base_channels >= 64

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer base channels, in whole normalisation groups."""
        step = math.lcm(self.norm_groups, self.attention_heads)
        return _narrower("base_channels", self.base_channels, step, share)

    def heights(self, image_height: int) -> list[int]:
        """The height of each level's feature map."""
        return [-(-image_height // 2**level) for level in range(len(self.channel_multipliers))]

    def attention(self, image_height: int) -> set[int]:
        """The levels with attention, whether asked for by number or by height."""
        by_height = [
            i for i, h in enumerate(self.heights(image_height)) if h in self.attention_sizes
        ]
        return {*self.attention_levels, *by_height}

    def check(self, shape: Shape) -> None:
        """Raise ConfigError for a network that cannot be built for images of this shape."""
        count, heights, widths = len(self.widths), self.heights(shape.height), self.widths
        even = self.base_channels > 0 and self.base_channels % 2 == 0
        self.require([
            (even, "base_channels", "an even number of channels"),
            (min(self.channel_multipliers, default=0) >= 1, "channel_multipliers",
             "at least one multiplier, all 1 or more"),
            (self.blocks_per_level >= 1, "blocks_per_level", "1 or more"),
            (0 <= self.dropout < 1, "dropout", "0 up to, not including, 1"),
            (0 <= self.norm_eps < math.inf, "norm_eps", "0 or more"),
            ({*self.attention_levels} <= {*range(count)}, "attention_levels",
             f"levels from 0 to {count - 1}"),
            ({*self.attention_sizes} <= {*heights}, "attention_sizes",
             f"some of the feature maps' heights {heights}"),
            (_divides(self.norm_groups, widths), "norm_groups",
             f"a divisor of each level's channels {widths}"),
            (_divides(self.attention_heads, widths), "attention_heads",
             f"a divisor of each level's channels {widths}"),
        ])  # fmt: skip


@dataclass(frozen=True)
class DiTConfig(NetworkConfig):
    """A transformer over patches of the image (Peebles & Xie 2023), sized for small images."""

    patch_size: int = 2
    """Height and width of a patch, in pixels; it must divide those of the image."""
    width: int = 128
    """Channels of each patch's token."""
    depth: int = 6
    """Number of transformer blocks."""
    heads: int = 4
    """Heads of each attention layer."""
    mlp_ratio: float = 4.0
    """Hidden width of each block's MLP, as a multiple of width."""

    @property
    def stochastic(self) -> bool:
        """Nothing draws."""
        return False

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer channels, the same number for each head."""
        return _narrower("width", self.width, math.lcm(4, self.heads), share)

    def check(self, shape: Shape) -> None:
        """Raise ConfigError for a network that cannot be built for images of this shape."""
        size = [shape.height, shape.width]
        self.require([
            (_divides(self.patch_size, size), "patch_size",
             f"a divisor of the images' height {shape.height} and width {shape.width}"),
            (self.width > 0 and self.width % 4 == 0, "width", "a multiple of 4"),
            (self.depth >= 1, "depth", "1 or more"),
            (_divides(self.heads, [self.width]), "heads", f"a divisor of width {self.width}"),
            (1 <= self.mlp_ratio * self.width < math.inf, "mlp_ratio", "more than 0"),
        ])  # fmt: skip


def _narrower(name: str, width: int, step: int, share: float) -> dict[str, int]:
    fewer = step * max(1, int(width * share**0.5 / step))
    return {name: fewer} if fewer < width else {}


def _divides(parts: int, whole: list[int]) -> bool:
    return parts >= 1 and all(number % parts == 0 for number in whole)


NETWORK_CONFIGS: dict[str, type[NetworkConfig]] = {"unet": UNetConfig, "dit": DiTConfig}
"""Kind -> its settings. A kind of your own is one entry here and one in NETWORKS."""
