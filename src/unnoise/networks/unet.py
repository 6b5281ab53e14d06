"""The U-Net of DDPM and its descendants: one network, told apart by `UNetConfig`.

    image -> stem -> level 0: blocks (+ attention) -> half size -> level 1: .. -> middle
          <- head <- level 0: blocks (+ attention) <- double size <- level 1: .. <-

The encoder leaves skips that the decoder takes from the end of the list: one per block,
downsampling and stem ("every_block", Ho et al. 2020) or one per level ("per_level"). The decoder
upsamples to the size of the skip it meets, so any height and width of whole patches works: patches
of p x p pixels are p^2 times the channels of level 0 (space to depth), and back after the head.
Time (and class) become one embedding, projected for all blocks by one matrix.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import Shape, UNetConfig
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
from unnoise.networks.network import Network


class Stage(nn.Module):
    """A residual block and, at the levels that have it, attention."""

    def __init__(self, block: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, x: Tensor, embedding: tuple[Tensor, ...]) -> Tensor:
        x = self.block(x, embedding[self.block.slot])
        return x if self.attention is None else self.attention(x)


class UNet(Network):
    """A network for images (b, channels, h, w), output (b, out_channels, h, w).

    `shape.height` serves `config.attention_sizes` alone.
    """

    def __init__(self, config: UNetConfig, shape: Shape, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self._widths = config.widths
        self._attention = config.attention(shape.height)
        self._every = config.skips == "every_block"
        time_hidden = config.time_hidden or 4 * config.base_channels
        time_channels = config.time_channels or 4 * config.base_channels
        self.add_embeddings(config.base_channels, time_hidden, time_channels, shape)
        skips = self._build_encoder(shape.channels * config.patch_size**2)
        self.middle1 = ResBlock(self._widths[-1], self._widths[-1], config)
        self.middle_attention = Attention(self._widths[-1], config)
        self.middle2 = ResBlock(self._widths[-1], self._widths[-1], config)
        self._build_decoder(skips)
        self.out_norm = norm(self._widths[0], config)
        outputs = out_channels * config.patch_size**2
        self.out_conv = zeroed(nn.Conv2d(self._widths[0], outputs, 3, padding=1))
        blocks = [m for m in self.modules() if isinstance(m, ResBlock)]
        for slot, block in enumerate(blocks):
            block.slot = slot
        self._embedding_widths = [block.embedding_channels for block in blocks]
        self.time_projection = nn.Linear(time_channels, sum(self._embedding_widths))

    def _build_encoder(self, channels: int) -> list[int]:
        """Build stem, encoder and downsampling; gives the channels of the skips."""
        config = self.config
        self.stem = None
        skips: list[int] = []
        raw = config.stem == "block"
        if not raw:
            self.stem = nn.Conv2d(channels, config.base_channels, 3, padding=1)
            channels = config.base_channels
            skips += [channels] if self._every else []
        self.encoder, self.down = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(self._widths):
            stages = nn.ModuleList()
            for _ in range(config.blocks_per_level):
                stages.append(self._stage(level, ResBlock(channels, width, config, None, raw)))
                channels, raw = width, False
                skips += [width] if self._every else []
            self.encoder.append(stages)
            skips += [] if self._every else [width]
            if level < len(self._widths) - 1:
                by_block = config.resample == "resblock"
                down = ResBlock(width, width, config, "down") if by_block else None
                self.down.append(down or Downsample(width, config))
                skips += [width] if self._every else []
        return skips

    def _build_decoder(self, skips: list[int]) -> None:
        """Build decoder and upsampling, from the deepest level to full size."""
        config, channels = self.config, self._widths[-1]
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(self._widths))):
            one_more = self._every and (level > 0 or self.stem is not None)
            stages = nn.ModuleList()
            for i in range(config.blocks_per_level + one_more):
                joined = channels + (skips.pop() if self._every or i == 0 else 0)
                stages.append(self._stage(level, ResBlock(joined, width, config)))
                channels = width
            self.decoder.append(stages)
            if level > 0:
                by_block = config.resample == "resblock"
                up = ResBlock(width, width, config, "up") if by_block else None
                self.up.append(up or Upsample(width))

    def _stage(self, level: int, block: ResBlock) -> Stage:
        attends = level in self._attention
        return Stage(block, Attention(self._widths[level], self.config) if attends else None)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights inside: not the first and last layer, nor those of time and class."""
        ends = (self.stem, self.out_conv, self.class_embedding, self.time_projection)
        return self.matrices_except(*ends)

    def blocks(self) -> list[nn.Module]:
        """Residual blocks and attention layers."""
        return [m for m in self.modules() if isinstance(m, ResBlock | Attention)]

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes of the largest feature map, or matrix of attention weights, of one image."""
        sizes: list[int] = []
        attention = self._attention | {len(self._widths) - 1}  # the middle always has it
        heights, widths = self.config.heights(height), self.config.heights(width)
        for level, channels in enumerate(self._widths):
            pixels = heights[level] * widths[level]
            sizes.append(channels * pixels)
            if attention_in_memory and level in attention:
                sizes.append(self.config.heads(channels) * pixels**2)
        return 4 * max(sizes)

    def embed(
        self, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None
    ) -> tuple[Tensor, ...]:
        """Every residual block's slice of the projected time and class embedding, by its slot."""
        sinusoids = sinusoidal_embedding(time, self.config.base_channels, self.config.frequencies)
        embedding = self.time_projection(self.time_and_class(sinusoids, label))
        return embedding.split(self._embedding_widths, dim=1)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The network's output F for noisy images x at network times `time`."""
        patch, embedding = self.config.patch_size, self.embed(time, label)
        x = F.pixel_unshuffle(x, patch) if patch > 1 else x
        skips: list[Tensor] = []
        if self.stem is not None:
            x = self.stem(x)
            skips += [x] if self._every else []
        for level, stages in enumerate(self.encoder):
            for stage in cast(nn.ModuleList, stages):
                x = stage(x, embedding)
                skips += [x] if self._every else []
            skips += [] if self._every else [x]
            if level < len(self.down):
                down = self.down[level]
                x = down(x, embedding[down.slot]) if isinstance(down, ResBlock) else down(x)
                skips += [x] if self._every else []
        x = self.middle1(x, embedding[self.middle1.slot])
        x = self.middle2(self.middle_attention(x), embedding[self.middle2.slot])
        for number, stages in enumerate(self.decoder):
            for i, stage in enumerate(cast(nn.ModuleList, stages)):
                joins = self._every or i == 0
                x = stage(torch.cat([x, skips.pop()], dim=1) if joins else x, embedding)
            if number < len(self.up):
                up, size = self.up[number], tuple(skips[-1].shape[-2:])
                x = up(x, embedding[up.slot], size) if isinstance(up, ResBlock) else up(x, size)
        x = self.out_conv(norm_silu(x, self.out_norm))
        return F.pixel_shuffle(x, patch) if patch > 1 else x
