"""The U-Net of denoising-diffusion-pytorch (lucidrains), version 2: `LucidrainsConfig`.

    image -> stem -> level 0: 2 blocks, attention -> half size -> level 1: .. -> middle
          <- head <- level 0: 2 blocks, attention <- double size <- level 1: .. <-

Blocks normalise after the convolution, by the root mean square over channels. Every level attends:
fully at the last one, linearly (Shen et al. 2021) at the others. Each attention layer has four
learned keys and values of its own. The modules have the original's names, so its weights fit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import LucidrainsConfig, Shape
from unnoise.networks.layers import attend, sinusoidal_embedding, zeroed
from unnoise.networks.network import Network

MEMORY = 4
"""Learned keys and values of each attention layer."""


class RMSNorm(nn.Module):
    """Divide each pixel by the root mean square of its channels, and scale them by g."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.normalize(x, dim=1) * self.g * x.shape[1] ** 0.5


class ConvNorm(nn.Module):
    """conv - norm - scale and shift - SiLU - dropout."""

    def __init__(self, channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm = RMSNorm(out_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, scale: Tensor | float = 0.0, shift: Tensor | float = 0.0
    ) -> Tensor:
        return self.dropout(F.silu(self.norm(self.proj(x)) * (scale + 1) + shift))


class ResBlock(nn.Module):
    """Two ConvNorms, the first scaled and shifted by time and class, plus the input."""

    def __init__(self, channels: int, out_channels: int, config: LucidrainsConfig) -> None:
        super().__init__()
        # the original has SiLU in the place of the first Identity; `time_and_class` ends with it
        projection = nn.Linear(4 * config.base_channels, 2 * out_channels)
        self.mlp = nn.Sequential(nn.Identity(), projection)
        self.block1 = ConvNorm(channels, out_channels, config.dropout)
        self.block2 = ConvNorm(out_channels, out_channels, 0.0)
        same = channels == out_channels
        self.res_conv = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Float[Tensor, "b e"]) -> Tensor:
        scale, shift = self.mlp(embedding)[:, :, None, None].chunk(2, dim=1)
        return self.block2(self.block1(x, scale, shift)) + self.res_conv(x)


class Attention(nn.Module):
    """Attention over the pixels of (b, c, h, w) and the memory, residual: full or linear."""

    def __init__(self, channels: int, config: LucidrainsConfig, full: bool) -> None:
        super().__init__()
        self.heads, self.full = config.attention_heads, full
        of_head = config.attention_head_channels
        self.norm = RMSNorm(channels)
        size = (MEMORY, of_head) if full else (of_head, MEMORY)
        self.mem_kv = nn.Parameter(torch.randn(2, self.heads, *size))
        self.to_qkv = nn.Conv2d(channels, 3 * self.heads * of_head, 1, bias=False)
        out = nn.Conv2d(self.heads * of_head, channels, 1)
        self.to_out = out if full else nn.Sequential(out, RMSNorm(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        qkv = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).mT
        q, *pair = qkv.unbind(1)  # 3 x (b, heads, tokens, channels)
        memory = (self.mem_kv if self.full else self.mem_kv.mT).to(q.dtype)
        own = (part.expand(x.shape[0], -1, -1, -1) for part in memory)
        k, v = (torch.cat(parts, dim=2) for parts in zip(own, pair, strict=True))
        if self.full:
            y = attend(q, k, v)
        else:
            y = q.softmax(dim=-1) * q.shape[-1] ** -0.5 @ (k.softmax(dim=-2).mT @ v)
        return self.to_out(y.mT.flatten(1, 2).unflatten(2, x.shape[2:])) + x


class Lucidrains(Network):
    """A network for images (b, channels, h, w), output (b, out_channels, h, w).

    The config's `check` says what can be built.
    """

    def __init__(self, config: LucidrainsConfig, shape: Shape, out_channels: int) -> None:
        super().__init__()
        self.config = config
        stem, *_ = widths = config.widths
        channels = 4 * config.base_channels
        self.add_embeddings(config.base_channels, channels, channels, shape)
        first, _, second = self.time_mlp
        self.time_mlp = nn.Sequential(nn.Identity(), first, nn.GELU(), second)
        self.init_conv = nn.Conv2d(shape.channels, stem, 7, padding=3)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        levels = list(enumerate(pairwise(widths)))
        for level, (width, deeper) in levels:
            last = level == levels[-1][0]
            self.downs.append(self._level(level, width, width, _down(width, deeper, last)))
        self.mid_block1 = ResBlock(widths[-1], widths[-1], config)
        self.mid_attn = Attention(widths[-1], config, full=True)
        self.mid_block2 = ResBlock(widths[-1], widths[-1], config)
        for level, (width, deeper) in reversed(levels):
            up = _up(deeper, width, level == 0)
            self.ups.append(self._level(level, deeper + width, deeper, up))
        self.final_res_block = ResBlock(2 * stem, stem, config)
        self.final_conv = zeroed(nn.Conv2d(stem, out_channels, 1))

    def _level(self, level: int, joined: int, width: int, resample: nn.Module) -> nn.ModuleList:
        """Two blocks, attention and resampling; each block's input has `joined` channels."""
        blocks = [ResBlock(joined, width, self.config) for _ in range(2)]
        attention = Attention(width, self.config, level in self.config.full_levels)
        return nn.ModuleList([*blocks, attention, resample])

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights of all layers but the first and last; norms and memories are none."""
        layers = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        return [p for p in self.matrices_except(self.init_conv, self.final_conv) if id(p) in layers]

    def blocks(self) -> list[nn.Module]:
        """Residual blocks and attention layers."""
        return [m for m in self.modules() if isinstance(m, ResBlock | Attention)]

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes of the largest feature map, or matrix of attention weights, of one image."""
        config, widths, sizes = self.config, self.config.widths, [0]
        heads, of_heads = config.attention_heads, config.attention_head_channels
        for level in range(len(widths) - 1):
            pixels = (height >> level) * (width >> level)
            channels = widths[level] + widths[level + 1]
            sizes.append(pixels * max(channels, 3 * heads * of_heads))
            if attention_in_memory and level in config.full_levels | {len(widths) - 2}:
                sizes.append(heads * pixels * (pixels + MEMORY))
        return 4 * max(sizes)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The network's output F for noisy images x at network times `time`."""
        sinusoids = sinusoidal_embedding(time, self.config.base_channels, "ddpm")
        embedding = self.time_and_class(sinusoids, label)
        x = stem = self.init_conv(x)
        skips: list[Tensor] = []
        for block1, block2, attention, down in cast(Any, self.downs):
            x = block1(x, embedding)
            skips.append(x)
            x = attention(block2(x, embedding))
            skips.append(x)
            x = down(x)
        x = self.mid_attn(self.mid_block1(x, embedding))
        x = self.mid_block2(x, embedding)
        for block1, block2, attention, up in cast(Any, self.ups):
            x = block1(torch.cat([x, skips.pop()], dim=1), embedding)
            x = attention(block2(torch.cat([x, skips.pop()], dim=1), embedding))
            x = up(x)
        return self.final_conv(self.final_res_block(torch.cat([x, stem], dim=1), embedding))


def _down(channels: int, out_channels: int, last: bool) -> nn.Module:
    """Half the height and width, but for the last level."""
    if last:
        return nn.Conv2d(channels, out_channels, 3, padding=1)
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, out_channels, 1))


def _up(channels: int, out_channels: int, last: bool) -> nn.Module:
    """Double the height and width, but for the first level, which comes last."""
    conv = nn.Conv2d(channels, out_channels, 3, padding=1)
    return conv if last else nn.Sequential(nn.Upsample(scale_factor=2), conv)
