"""The U-Nets of Song et al. 2021, DDPM++ and NCSN++, as EDM has them: `SongUNetConfig`.

    image -> stem -> blocks (+ attention) -> down -> blocks -> .. -> middle
          <- head <- blocks <- up <- blocks <- ..

A block may halve or double the size, and every sum of a residual is divided by sqrt(2), so that
the variance stays what it was. In the residual encoder the image goes down beside the features: at
each level it meets them, and what comes of that goes on as both.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import Shape, SongUNetConfig
from unnoise.networks.kernels import Dropout, norm_silu
from unnoise.networks.layers import Attention, norm, sinusoidal_embedding, zeroed
from unnoise.networks.network import Network

HALF = 0.5**0.5
FIR = (1, 3, 3, 1)
"""Weights of the filter fir, along one axis."""
FREQUENCY_SCALE = 16.0
"""Standard deviation of the random frequencies."""


class Resample(nn.Module):
    """Halve ("down") or double ("up") height and width, by the filter of the config."""

    def __init__(self, way: str, config: SongUNetConfig) -> None:
        super().__init__()
        self.up, self.fir = way == "up", config.resample == "fir"
        weights = torch.tensor(FIR) / sum(FIR)
        self.register_buffer("kernel", weights.outer(weights), persistent=False)

    def forward(self, x: Tensor, padding: int = 1) -> Tensor:
        if not self.fir:
            return F.interpolate(x, scale_factor=2.0) if self.up else F.avg_pool2d(x, 2)
        groups = x.shape[1]
        weight = self.get_buffer("kernel").to(x.dtype).expand(groups, 1, -1, -1)
        if self.up:
            return F.conv_transpose2d(x, 4 * weight, stride=2, padding=padding, groups=groups)
        return F.conv2d(x, weight, stride=2, padding=padding, groups=groups)


class SongBlock(nn.Module):
    """norm - SiLU - (resample) - conv, time, norm - SiLU - dropout - conv, plus the input; then
    attention at the levels that have it. Both sums are divided by sqrt(2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: SongUNetConfig,
        way: str | None = None,
        attends: bool = False,
    ) -> None:
        super().__init__()
        self.resample = nn.Identity() if way is None else Resample(way, config)
        self.norm1 = norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(config.embedding_multiplier * config.base_channels, out_channels)
        self.norm2 = norm(out_channels, config)
        self.dropout = Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels and way is None
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = Attention(out_channels, config) if attends else None

    def forward(self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]) -> Tensor:
        h = self.conv1(self.resample(norm_silu(x, self.norm1)))
        h = h + self.time(embedding).to(h.dtype)[:, :, None, None]
        h = self.conv2(self.dropout(norm_silu(h, self.norm2)))
        x = (h + self.skip(self.resample(x))) * HALF
        return x if self.attention is None else self.attention(x) * HALF


class SongUNet(Network):
    """A network for images (b, channels, h, w), output (b, out_channels, h, w).

    The config's `check` says what can be built.
    """

    def __init__(self, config: SongUNetConfig, shape: Shape, out_channels: int) -> None:
        super().__init__()
        self.config = config
        self._sinusoids = config.time_multiplier * config.base_channels
        hidden = config.embedding_multiplier * config.base_channels
        self.add_embeddings(self._sinusoids, hidden, hidden, shape, self._sinusoids)
        if config.time_embedding == "fourier":
            self.register_buffer("frequencies", torch.randn(self._sinusoids // 2) * FREQUENCY_SCALE)
        skips = self._build_encoder(shape.channels)
        self._build_decoder(skips)
        self.out_norm = norm(config.widths[0], config)
        self.out_conv = nn.Conv2d(config.widths[0], out_channels, 3, padding=1)
        self._initialise()

    def _build_encoder(self, channels: int) -> list[int]:
        """Build stem and encoder; gives the channels of the skips."""
        config, width = self.config, self.config.base_channels
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.encoder, self.down, self.residual = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.halve = Resample("down", config)
        skips = [width]
        for level, wider in enumerate(config.widths):
            if level > 0:
                self.down.append(SongBlock(width, width, config, "down"))
                skips.append(width)
                if config.encoder == "residual":
                    padding = 2 if config.resample == "fir" else 1  # the filter then pads nothing
                    self.residual.append(nn.Conv2d(channels, width, 3, padding=padding))
                    channels = width
            stages, attends = nn.ModuleList(), level in config.attention_levels
            for _ in range(config.blocks_per_level):
                stages.append(SongBlock(width, wider, config, attends=attends))
                width = wider
                skips.append(width)
            self.encoder.append(stages)
        return skips

    def _build_decoder(self, skips: list[int]) -> None:
        """Build middle and decoder, from the deepest level to full size."""
        config, width = self.config, self.config.widths[-1]
        self.middle1 = SongBlock(width, width, config, attends=True)
        self.middle2 = SongBlock(width, width, config)
        self.decoder, self.up = nn.ModuleList(), nn.ModuleList()
        for level, wider in reversed(list(enumerate(config.widths))):
            if level < len(config.widths) - 1:
                self.up.append(SongBlock(width, width, config, "up"))
            stages = nn.ModuleList()
            for left in reversed(range(config.blocks_per_level + 1)):
                attends = left == 0 and level in config.attention_levels
                stages.append(SongBlock(width + skips.pop(), wider, config, attends=attends))
                width = wider
            self.decoder.append(stages)

    def _initialise(self) -> None:
        """EDM's weights: Glorot's, smaller for q, k and v, and zero where a residual is added."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                gain = 0.2**0.5 if name.endswith("qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain)
                nn.init.zeros_(cast(Tensor, module.bias))
                if name.endswith(("conv2", "attention.out", "out_conv")):
                    zeroed(module)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights inside: not the first and last layer, nor those of time and class."""
        projections = [block.time for block in self.blocks()]
        ends = (self.stem, self.residual[:1], self.out_conv, self.class_embedding)
        return self.matrices_except(*ends, *cast("list[nn.Module]", projections))

    def blocks(self) -> list[nn.Module]:
        """Residual blocks with their attention."""
        return [module for module in self.modules() if isinstance(module, SongBlock)]

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes of the largest feature map, or matrix of attention weights, of one image."""
        sizes: list[int] = []
        for level in range(len(self.decoder)):
            pixels = height * width // 4**level
            stages = cast(nn.ModuleList, self.decoder[-1 - level])
            sizes.append(pixels * max(cast(SongBlock, s).conv1.in_channels for s in stages))
            if attention_in_memory and any(m.attention for m in [self.middle1, *stages]):
                sizes.append(pixels**2)
        return 4 * max(sizes)

    def embed(self, time: Float[Tensor, " b"], label: Int[Tensor, " b"] | None) -> Tensor:
        """(b, e) of time and class, which is added to the sinusoids before the time network."""
        if self.config.time_embedding == "fourier":
            angles = time.float().outer(2 * math.pi * self.get_buffer("frequencies"))
            sinusoids = torch.cat([angles.sin(), angles.cos()], dim=1)
        else:
            sinusoids = sinusoidal_embedding(time, self._sinusoids, "ddpm")
        if self.class_embedding is not None:
            sinusoids = sinusoids + self.class_embedding(self.known(label, sinusoids))
        return F.silu(self.time_mlp(sinusoids.to(next(self.time_mlp.parameters()).dtype)))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The network's output F for noisy images x at network times `time`."""
        embedding, image = self.embed(time, label), x
        x = self.stem(x)
        skips = [x]
        for level, stages in enumerate(self.encoder):
            if level > 0:
                x = self.down[level - 1](x, embedding)
                if self.residual:
                    x = image = (x + self.halve(self.residual[level - 1](image), 0)) * HALF
                skips.append(x)
            for stage in cast(nn.ModuleList, stages):
                x = stage(x, embedding)
                skips.append(x)
        x = self.middle2(self.middle1(x, embedding), embedding)
        for number, stages in enumerate(self.decoder):
            x = x if number == 0 else self.up[number - 1](x, embedding)
            for stage in cast(nn.ModuleList, stages):
                x = stage(torch.cat([x, skips.pop()], dim=1), embedding)
        return self.out_conv(norm_silu(x, self.out_norm))
