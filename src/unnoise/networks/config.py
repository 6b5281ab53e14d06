"""The settings of each kind of network; free of torch, so that the command line can read them.

A kind has its settings here, by its name in NETWORK_CONFIGS, and its class in registry.NETWORKS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from unnoise.errors import ConfigError, UnknownNameError, nearest
from unnoise.ranges import Few, NotNegative, Positive, Range, Width


@dataclass(frozen=True)
class Shape:
    """What a network must know of its data."""

    channels: Width
    height: Annotated[int, Range(least=1, most=4096)]
    width: Annotated[int, Range(least=1, most=4096)]
    num_classes: Annotated[int, Range(least=0, most=100_000)] = 0
    null_label: bool = True
    """Whether label num_classes means "no label", as in all networks that unnoise trains."""

    @property
    def labels(self) -> int:
        """How many labels the network knows: 0 without classes."""
        return self.num_classes + self.null_label if self.num_classes else 0


@dataclass(frozen=True)
class NetworkConfig:
    """The settings of one kind of network. A kind of your own derives from this class."""

    @property
    def kind(self) -> str:
        """The name of this kind in NETWORK_CONFIGS, and in a model file."""
        for name, config in NETWORK_CONFIGS.items():
            if type(self) is config:
                return name
        own = type(self).__name__
        fix = f"expected NETWORK_CONFIGS['a-name'] = {own}"
        raise ConfigError(f"network: {own} is not registered; {fix}")

    @classmethod
    def of_kind(
        cls, values: Mapping[str, Any], where: str
    ) -> tuple[type[NetworkConfig], dict[str, Any]]:
        """The class of settings that `values` are of, by their "kind", and the other values."""
        if cls is not NetworkConfig:
            return cls, dict(values)
        name = str(values.get("kind", "unet"))
        if name not in NETWORK_CONFIGS:
            own = "a kind of your own is an entry in NETWORK_CONFIGS and in NETWORKS"
            raise UnknownNameError(
                f"{where}kind: no {name!r}; {nearest(name, NETWORK_CONFIGS)} ({own})"
            )
        return NETWORK_CONFIGS[name], {key: v for key, v in values.items() if key != "kind"}

    @property
    def stochastic(self) -> bool:
        """Whether a call in training draws random numbers, as dropout does."""
        return getattr(self, "dropout", 1.0) > 0

    @property
    def sample_channels_last(self) -> bool:
        """Whether sampling on a CPU in 16 bits is faster in the channels_last memory format."""
        return False

    def narrower(self, share: float) -> dict[str, int]:
        """The change of settings, if any, to a network of this share of the cost, width^2."""
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

    base_channels: Width = 128
    """Channels of the first level; those of the others are multiples of it."""
    channel_multipliers: tuple[Few, ...] = (1, 2, 2, 2)
    """Channels of each level, as multiples of base_channels; each level has half the height."""
    blocks_per_level: Few = 2
    """Residual blocks of each encoder level."""
    attention_levels: tuple[int, ...] = ()
    """Levels with self-attention after every block: 0 is the full size, 1 the half, .."""
    attention_sizes: tuple[int, ...] = ()
    """The same by height of the feature map in patches: 16 means the level where it is 16 high."""
    attention_heads: Few = 1
    """Heads of each attention layer."""
    attention_head_channels: Width | None = None
    """Channels of each attention head (ADM: 64), in place of attention_heads."""
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
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
    norm_groups: Width = 32
    """Groups of each group normalisation."""
    norm_eps: NotNegative = 1e-5
    """Epsilon of each group normalisation."""
    frequencies: Literal["ddpm", "iddpm"] = "ddpm"
    """Sinusoidal time embedding: sines first, down to 1/10000 (DDPM), or cosines first (IDDPM)."""
    time_hidden: Width | None = None
    """Hidden width of the time network; None = 4 x base_channels."""
    time_channels: Width | None = None
    """Output width of the time network; None = 4 x base_channels."""
    downsample_padding: Literal["same", "symmetric"] = "symmetric"
    """Padding of strided convolutions: TensorFlow's "same" (DDPM's weights) or 1 on each side."""
    patch_size: Few = 1
    """Patches of this height and width become the first level's channels; it divides the image."""

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def sample_channels_last(self) -> bool:
        """Wide convolutions are faster in it, narrow ones are not (docs/results/kernels.md)."""
        return self.base_channels >= 64

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer base channels, as many of them in a normalisation group as before."""
        of_group = self.base_channels // self.norm_groups
        step = math.lcm(of_group, self.attention_head_channels or self.attention_heads, 2)
        found = _narrower("base_channels", self.base_channels, step, share)
        return found and {**found, "norm_groups": found["base_channels"] // of_group}

    def heads(self, channels: int) -> int:
        """Heads of an attention layer of this width."""
        of_head = self.attention_head_channels
        return channels // of_head if of_head else self.attention_heads

    def groups(self, channels: int) -> int:
        """Groups of a normalisation layer."""
        return self.norm_groups

    def heights(self, image_height: int) -> list[int]:
        """The height of each level's feature map."""
        first = image_height // self.patch_size
        return [-(-first // 2**level) for level in range(len(self.channel_multipliers))]

    def attention(self, image_height: int) -> set[int]:
        """The levels with attention, whether asked for by number or by height."""
        heights = enumerate(self.heights(image_height))
        return {*self.attention_levels, *(i for i, h in heights if h in self.attention_sizes)}

    def check(self, shape: Shape) -> None:
        levels, heights, widths = range(len(self.widths)), self.heights(shape.height), self.widths
        divisor = f"a divisor of each level's channels {widths}"
        at = self.attention(shape.height)
        attended = [n for level, n in enumerate(widths) if level in at or n == widths[-1]]
        self.require([
            _divides(self.patch_size, shape),
            (self.base_channels % 2 == 0, "base_channels", "an even number of channels"),
            (0 < len(levels) <= 16, "channel_multipliers", "1 to 16 multipliers"),
            ({*self.attention_levels} <= {*levels}, "attention_levels",
             f"levels from 0 to {len(levels) - 1}"),
            ({*self.attention_sizes} <= {*heights}, "attention_sizes",
             f"some of the feature maps' heights {heights}"),
            (not any(n % self.norm_groups for n in widths), "norm_groups", divisor),
            (not any(n % self.attention_heads for n in widths), "attention_heads", divisor),
            (not any(n % (self.attention_head_channels or 1) for n in attended),
             "attention_head_channels", f"a divisor of the attention layers' channels {attended}"),
        ])  # fmt: skip


@dataclass(frozen=True)
class DiTConfig(NetworkConfig):
    """A transformer over patches of the image (Peebles & Xie 2023), sized for small images."""

    patch_size: Few = 2
    """Height and width of a patch, in pixels; it must divide those of the image."""
    width: Width = 128
    """Channels of each patch's token."""
    depth: Few = 6
    """Number of transformer blocks."""
    heads: Few = 4
    """Heads of each attention layer."""
    mlp_ratio: Positive = 4.0
    """Hidden width of each block's MLP, as a multiple of width."""

    @property
    def stochastic(self) -> bool:
        return False

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer channels, the same number for each head."""
        return _narrower("width", self.width, math.lcm(4, self.heads), share)

    def check(self, shape: Shape) -> None:
        self.require([
            _divides(self.patch_size, shape),
            (self.width % 4 == 0, "width", "a multiple of 4"),
            (self.width % self.heads == 0, "heads", f"a divisor of width {self.width}"),
        ])  # fmt: skip


@dataclass(frozen=True)
class LucidrainsConfig(NetworkConfig):
    """The U-Net of denoising-diffusion-pytorch: linear attention at every level but the last."""

    base_channels: Width = 64
    """Channels of the first level; those of the others are multiples of it."""
    channel_multipliers: tuple[Few, ...] = (1, 2, 4, 8)
    """Channels of each level, as multiples of base_channels; each level has half the height."""
    stem_channels: Width | None = None
    """Channels of the first convolution; None = base_channels."""
    full_attention: tuple[int, ...] | None = None
    """Levels with full attention, the others have linear attention; None = the last level."""
    attention_heads: Few = 4
    """Heads of each attention layer."""
    attention_head_channels: Width = 32
    """Channels of each attention head."""
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
    """Dropout before the second convolution of each block."""

    @property
    def widths(self) -> list[int]:
        """Channels of the stem and, after it, of each level."""
        first = self.stem_channels or self.base_channels
        return [first, *(self.base_channels * n for n in self.channel_multipliers)]

    @property
    def full_levels(self) -> set[int]:
        """The levels with full attention."""
        last = len(self.channel_multipliers) - 1
        return {last} if self.full_attention is None else {*self.full_attention}

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer base channels; a stem of its own and attention keep theirs."""
        return _narrower("base_channels", self.base_channels, 2, share)

    def check(self, shape: Shape) -> None:
        levels = len(self.channel_multipliers)
        size, most = f"{shape.height}x{shape.width}", 2 ** max(0, levels - 1)
        self.require([
            (self.base_channels % 2 == 0, "base_channels", "an even number of channels"),
            (0 < levels <= 16, "channel_multipliers", "1 to 16 multipliers"),
            (shape.height % most == shape.width % most == 0, "channel_multipliers",
             f"fewer levels, as images of {size} are no multiples of {most}"),
            (self.full_levels <= {*range(levels)}, "full_attention",
             f"levels from 0 to {levels - 1}"),
        ])  # fmt: skip


@dataclass(frozen=True)
class SongUNetConfig(NetworkConfig):
    """The U-Nets of Song et al. 2021 as EDM has them, DDPM++ and NCSN++, sized for small images.

    EDM's networks for CIFAR-10 have 128 base_channels, (2, 2, 2) and 4 blocks_per_level.
    """

    base_channels: Width = 64
    """Channels of the first convolution; those of the levels are multiples of it."""
    channel_multipliers: tuple[Few, ...] = (1, 2, 2)
    """Channels of each level, as multiples of base_channels; each level has half the height."""
    blocks_per_level: Few = 2
    """Residual blocks of each encoder level; the decoder has one more."""
    attention_levels: tuple[int, ...] = (1,)
    """Levels with self-attention after every encoder block and the last decoder block: 0 is the
    full size, 1 the half, .."""
    dropout: Annotated[float, Range(least=0, below=1)] = 0.1
    """Dropout before the second convolution of each block."""
    time_embedding: Literal["positional", "fourier"] = "positional"
    """Sinusoids of time: positional, or fourier with random frequencies (NCSN++)."""
    encoder: Literal["standard", "residual"] = "standard"
    """Encoder: standard, or residual, which adds the smaller image at each level (NCSN++)."""
    resample: Literal["box", "fir"] = "box"
    """Filter of down- and upsampling: box (1, 1), or fir (1, 3, 3, 1) (NCSN++)."""
    time_multiplier: Few = 1
    """Sinusoids of time, as a multiple of base_channels: 1, or 2 (NCSN++)."""
    embedding_multiplier: Few = 4
    """Width of the time network, as a multiple of base_channels."""

    norm_eps = 1e-6

    @property
    def widths(self) -> list[int]:
        """Channels of each level."""
        return [self.base_channels * multiplier for multiplier in self.channel_multipliers]

    @property
    def sample_channels_last(self) -> bool:
        return self.base_channels >= 64  # as UNetConfig

    def narrower(self, share: float) -> dict[str, int]:
        """Fewer base channels."""
        return _narrower("base_channels", self.base_channels, 4, share)

    def groups(self, channels: int) -> int:
        """32 groups, or of 4 channels where there are fewer than 128; fewer where none fits."""
        return math.gcd(channels, min(32, channels // 4))

    def heads(self, channels: int) -> int:
        """One head in each attention layer."""
        return 1

    def check(self, shape: Shape) -> None:
        count = len(self.channel_multipliers)
        self.require([
            (self.base_channels % 4 == 0, "base_channels", "a multiple of 4"),
            (0 < count <= 16, "channel_multipliers", "1 to 16 multipliers"),
            ({*self.attention_levels} <= {*range(count)}, "attention_levels",
             f"levels from 0 to {count - 1}"),
            (shape.height % 2 ** (count - 1) == shape.width % 2 ** (count - 1) == 0,
             "channel_multipliers",
             f"fewer: images of {shape.height}x{shape.width} cannot be halved {count - 1} times"),
        ])  # fmt: skip


def _divides(patch: int, shape: Shape) -> tuple[bool, str, str]:
    expected = f"a divisor of the images' height {shape.height} and width {shape.width}"
    return shape.height % patch == shape.width % patch == 0, "patch_size", expected


def _narrower(name: str, width: int, step: int, share: float) -> dict[str, int]:
    fewer = step * max(1, int(width * share**0.5 / step))
    return {name: fewer} if fewer < width else {}


NETWORK_CONFIGS: dict[str, type[NetworkConfig]] = {
    "unet": UNetConfig,
    "dit": DiTConfig,
    "lucidrains": LucidrainsConfig,
    "song_unet": SongUNetConfig,
}
"""Kind -> its settings. A kind of your own is one entry here and one in NETWORKS."""
