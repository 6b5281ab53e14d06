"""The U-Net of DDPM and its descendants: one network, told apart by `UNetConfig`.

    image -> stem -> level 0: blocks (+ attention) -> half size -> level 1: .. -> middle: block, attention, block
          <- head <- level 0: blocks (+ attention) <- double size <- level 1: .. <-

The encoder leaves skips that the decoder takes from the end of the list: one per block, downsampling and stem
("every_block", Ho et al. 2020) or one per level ("per_level"). The decoder upsamples to the size of the skip it meets, so
any height and width works. Time (and class) become one embedding, projected for all blocks by one matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import UNetConfig
from unnoise.networks.kernels import norm_silu
from unnoise.networks.layers import (
    Attention,
    Downsample,
    ResBlock,
    Upsample,
    norm,
    sinusoidal_embedding,
    zeroed,
)


class Stage(nn.Module):
    """A residual block and, at the levels that have it, attention."""

    def __init__(self, block: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: tuple[Tensor, ...]) -> Tensor:
        x = self.block(x, embedding[self.block.slot])
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """A noise-prediction network for images (b, image_channels, h, w), output (b, out_channels, h, w).

    `num_classes` > 0 adds a class embedding with one row more, the null label `num_classes`, for images without a label.
    `image_size` (height) only serves `config.attention_sizes`. Raises ValueError on a shape that cannot be built.
    """

    def __init__(
        self,
        config: UNetConfig,
        image_channels: int,
        out_channels: int,
        image_size: int,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check(config, image_size)
        self.config = config
        self.num_classes = num_classes
        self._widths = [config.base_channels * m for m in config.channel_multipliers]
        self._attention = attention_levels(config, image_size)
        self._every = config.skips == "every_block"
        time_hidden = config.time_hidden or 4 * config.base_channels
        time_channels = config.time_channels or 4 * config.base_channels
        self.time_mlp = nn.Sequential(
            nn.Linear(config.base_channels, time_hidden),
            nn.SiLU(),
            nn.Linear(time_hidden, time_channels),
        )
        self.class_embedding = nn.Embedding(num_classes + 1, time_channels) if num_classes else None
        self._build_encoder(image_channels)
        self._build_middle()
        self._build_decoder()
        self.out_norm = norm(self._widths[0], config)
        self.out_conv = zeroed(nn.Conv2d(self._widths[0], out_channels, 3, padding=1))
        blocks = [m for m in self.modules() if isinstance(m, ResBlock)]
        for slot, block in enumerate(blocks):
            block.slot = slot
        self._embedding_widths = [block.embedding_channels for block in blocks]
        self.time_projection = nn.Linear(time_channels, sum(self._embedding_widths))

    def _stage(self, level: int, block: ResBlock) -> Stage:
        return Stage(
            block, Attention(self._widths[level], self.config) if level in self._attention else None
        )

    def _build_encoder(self, image_channels: int) -> None:
        config, widths = self.config, self._widths
        has_stem = config.stem == "conv"
        self.stem = (
            nn.Conv2d(image_channels, config.base_channels, 3, padding=1) if has_stem else None
        )
        channels = config.base_channels if has_stem else image_channels
        self._skip_widths = [channels] if has_stem and config.skips == "every_block" else []
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(config.blocks_per_level):
                raw = not has_stem and level == 0 and not blocks
                blocks.append(self._stage(level, ResBlock(channels, width, config, raw_input=raw)))
                channels = width
                self._skip_widths += [channels] if config.skips == "every_block" else []
            self.encoder.append(blocks)
            self._skip_widths += [channels] if config.skips == "per_level" else []
            if level < len(widths) - 1:
                by_block = config.resample == "resblock"
                self.down.append(
                    ResBlock(width, width, config, "down")
                    if by_block
                    else Downsample(width, config)
                )
                self._skip_widths += [channels] if config.skips == "every_block" else []

    def _build_middle(self) -> None:
        width = self._widths[-1]
        self.middle1 = ResBlock(width, width, self.config)
        self.middle_attention = Attention(width, self.config)
        self.middle2 = ResBlock(width, width, self.config)

    def _build_decoder(self) -> None:
        config, widths = self.config, self._widths
        skips, channels = list(self._skip_widths), widths[-1]
        every = self._every
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for i in range(
                config.blocks_per_level + (every and (level > 0 or self.stem is not None))
            ):
                joined = channels + (skips.pop() if every or i == 0 else 0)
                blocks.append(self._stage(level, ResBlock(joined, widths[level], config)))
                channels = widths[level]
            self.decoder.append(blocks)
            if level > 0:
                by_block = config.resample == "resblock"
                self.up.append(
                    ResBlock(channels, channels, config, "up") if by_block else Upsample(channels)
                )

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes, as float32, of the largest tensor that one image of this size needs in a call.

        That is a feature map or, where the attention of pixels to each other is kept in memory (as
        on a CPU), a matrix of that.
        """
        sizes, config = [], self.config
        attention = self._attention | {len(self._widths) - 1}  # the middle has it always
        for level, channels in enumerate(self._widths):
            pixels = -(-height // 2**level) * -(-width // 2**level)
            sizes.append(channels * pixels)
            if attention_in_memory and level in attention:
                sizes.append(config.attention_heads * pixels**2)
        return 4 * max(sizes)

    def embed(
        self, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> tuple[Tensor, ...]:
        """Every residual block's (b, embedding_channels) slice, by its slot, of the projected time and class embedding."""
        sinusoid = sinusoidal_embedding(time, self.config.base_channels, self.config.frequencies)
        embedding = self.time_mlp(sinusoid.to(self.out_conv.weight.dtype))
        if self.class_embedding is not None:
            if label is None:
                label = torch.full(
                    time.shape, self.num_classes, device=time.device, dtype=torch.long
                )
            embedding = embedding + self.class_embedding(label)
        return self.time_projection(F.silu(embedding)).split(self._embedding_widths, dim=1)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
        deep: Callable[[Callable[[], Tensor]], Tensor] = lambda compute: compute(),
    ) -> Float[Tensor, "b o h w"]:
        """The network's output F for noisy images x at network times `time`; no label is the null label.

        `deep` is given the computation of all that lies below full size and may answer with an earlier result of it.
        """
        embedding = self.embed(time, label)
        x = x if self.stem is None else self.stem(x)
        skips = [x] if self._every and self.stem is not None else []
        shallow = self._encode(0, x, skips, embedding)
        x = deep(lambda: self._deep(shallow, skips, embedding))
        x = self._decode(len(self.decoder) - 1, x, skips, embedding)
        return self.out_conv(norm_silu(x, self.out_norm))

    def _deep(self, x: Tensor, skips: list[Tensor], embedding: tuple[Tensor, ...]) -> Tensor:
        """From the first level of the encoder to the last of the decoder: what is computed at less than full size."""
        for level, down in enumerate(self.down):
            x = down(x, embedding[down.slot]) if isinstance(down, ResBlock) else down(x)
            skips += [x] if self._every else []
            x = self._encode(level + 1, x, skips, embedding)
        x = self.middle1(x, embedding[self.middle1.slot])
        x = self.middle2(self.middle_attention(x), embedding[self.middle2.slot])
        for number, up in enumerate(self.up):
            x = self._decode(number, x, skips, embedding)
            size = (skips[-1].shape[-2], skips[-1].shape[-1])
            x = up(x, embedding[up.slot], size) if isinstance(up, ResBlock) else up(x, size)
        return x

    def _encode(
        self, level: int, x: Tensor, skips: list[Tensor], embedding: tuple[Tensor, ...]
    ) -> Tensor:
        """The blocks of a level, whose skips go to the end of the list."""
        for stage in cast(nn.ModuleList, self.encoder[level]):
            x = stage(x, embedding)
            skips += [x] if self._every else []
        skips += [] if self._every else [x]
        return x

    def _decode(
        self, number: int, x: Tensor, skips: list[Tensor], embedding: tuple[Tensor, ...]
    ) -> Tensor:
        """The blocks of the decoder's level of this number (0 is the deepest), whose skips come from the end of the list."""
        for i, stage in enumerate(cast(nn.ModuleList, self.decoder[number])):
            x = stage(torch.cat([x, skips.pop()], dim=1) if self._every or i == 0 else x, embedding)
        return x


def attention_levels(config: UNetConfig, image_size: int) -> set[int]:
    """The levels with attention, by number or by height of the feature map."""
    sizes = [image_size]
    for _ in config.channel_multipliers[1:]:
        sizes.append((sizes[-1] + 1) // 2)
    return set(config.attention_levels) | {
        i for i, size in enumerate(sizes) if size in config.attention_sizes
    }


def check(config: UNetConfig, image_size: int) -> None:
    """ValueError, in one line, for a network that cannot be built."""
    count = len(config.channel_multipliers)
    if (
        config.base_channels < 2
        or config.base_channels % 2
        or count == 0
        or min(config.channel_multipliers) < 1
    ):
        raise ValueError(
            f"network: got base_channels {config.base_channels}, channel_multipliers {config.channel_multipliers}; "
            "expected an even number of channels and at least one multiplier, all 1 or more"
        )
    if config.blocks_per_level < 1:
        raise ValueError(
            f"network.blocks_per_level: got {config.blocks_per_level}, expected 1 or more"
        )
    if not 0 <= config.dropout < 1:
        raise ValueError(
            f"network.dropout: got {config.dropout}, expected 0 up to, not including, 1"
        )
    for level in config.attention_levels:
        if not 0 <= level < count:
            raise ValueError(
                f"network.attention_levels: got level {level}, expected 0 to {count - 1} ({count} levels)"
            )
    sizes = [-(-image_size // 2**i) for i in range(count)]
    for size in config.attention_sizes:
        if size not in sizes:
            raise ValueError(
                f"network.attention_sizes: got {size}, expected one of the feature-map sizes {sizes}"
            )
    for multiplier in config.channel_multipliers:
        width = config.base_channels * multiplier
        for name, parts in (
            ("norm_groups", config.norm_groups),
            ("attention_heads", config.attention_heads),
        ):
            if parts < 1 or width % parts:
                raise ValueError(
                    f"network.{name}: {width} channels (base_channels x {multiplier}) are not divisible by {parts}; "
                    f"choose a divisor of {width} or other channels"
                )
