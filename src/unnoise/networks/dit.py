"""The diffusion transformer of Peebles & Xie 2023, with adaLN-Zero: `DiTConfig`.

    image -> patches -> tokens + positions -> blocks -> norm, linear -> patches -> image

Time and class become one embedding c. One matrix, zero at first, makes of SiLU(c) all shifts,
scales and gates; so each block starts as the identity, and a new network's output is zero:

    x <- x + gate1 * attention(norm(x) * (1 + scale1) + shift1)
    x <- x + gate2 * mlp(norm(x) * (1 + scale2) + shift2)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.networks.config import DiTConfig, Shape
from unnoise.networks.layers import attention, sinusoidal_embedding, zeroed
from unnoise.networks.network import Network

FREQUENCIES = 256
"""Sinusoids of the time embedding, as in the paper's code."""


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift, where norm has no weights of its own."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """(height * width, channels) fixed embedding: half of the channels for x, half for y."""
    x, y = (torch.arange(float(n), device=device) for n in (width, height))
    x, y = (sinusoidal_embedding(v, channels // 2, "mae") for v in (x, y))
    return torch.cat([x.repeat(height, 1), y.repeat_interleave(width, dim=0)], dim=1)


class Block(nn.Module):
    """Attention and an MLP over tokens, both residual, shifted, scaled and gated."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        first, last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.mlp = nn.Sequential(first, nn.GELU(approximate="tanh"), last)

    def forward(
        self, x: Float[Tensor, "b n c"], modulation: Float[Tensor, "b m"]
    ) -> Float[Tensor, "b n c"]:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, None].chunk(6, dim=-1)
        y = attention(self.qkv(modulated(x, shift1, scale1)), self.heads)
        x = x + gate1 * self.out(y)
        return x + gate2 * self.mlp(modulated(x, shift2, scale2))


class DiT(Network):
    """A transformer for images (b, channels, h, w), output (b, out_channels, h, w).

    The config's `check` says what can be built.
    """

    def __init__(self, config: DiTConfig, shape: Shape, out_channels: int) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.add_embeddings(FREQUENCIES, width, width, shape)
        self.patches = nn.Conv2d(shape.channels, width, patch, stride=patch)
        size = (width, config.heads, int(config.mlp_ratio * width))
        self.transformer = nn.ModuleList(Block(*size) for _ in range(config.depth))
        self._slices = [*[6 * width] * config.depth, 2 * width]
        self.modulation = nn.Linear(width, sum(self._slices))
        self.head = nn.Linear(width, patch * patch * out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """The paper's weights: Glorot's, but normal for time and class, and zero at the ends."""
        for name, p in self.named_parameters():
            if p.ndim == 1:
                nn.init.zeros_(p)
            elif name.startswith(("time_mlp", "class_embedding")):
                nn.init.normal_(p, std=0.02)
            else:
                nn.init.xavier_uniform_(p.data.flatten(1))
        for layer in (self.modulation, self.head):
            zeroed(layer)

    def hidden_matrices(self) -> list[nn.Parameter]:
        """The weights inside: not the first and last layer, nor those of class and modulation."""
        return self.matrices_except(self.patches, self.head, self.class_embedding, self.modulation)

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return list(self.transformer)

    def widest_bytes(self, height: int, width: int, attention_in_memory: bool) -> int:
        """Bytes of the MLP's hidden layer, of q, k and v, or of attention weights, of one image."""
        config = self.config
        tokens = (height // config.patch_size) * (width // config.patch_size)
        channels = max(3 * config.width, int(config.mlp_ratio * config.width))
        return 4 * tokens * max(channels, config.heads * tokens if attention_in_memory else 0)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        time: Float[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The network's output F for noisy images x at network times `time`."""
        patch = self.config.patch_size
        (height, no_rows), (width, no_columns) = (divmod(n, patch) for n in x.shape[-2:])
        if no_rows or no_columns:
            size = f"{x.shape[-2]}x{x.shape[-1]}"
            raise ValueError(f"x: got {size} pixels, expected multiples of patch_size {patch}")
        embedding = self.time_and_class(sinusoidal_embedding(time, FREQUENCIES, "iddpm"), label)
        *modulations, last = self.modulation(embedding).split(self._slices, dim=-1)
        # The sum is float32 under autocast too, where positions are; the blocks then add to that.
        tokens = self.patches(x).flatten(2).mT
        tokens = tokens + positions(height, width, self.config.width, x.device)
        for block, modulation in zip(self.transformer, modulations, strict=True):
            tokens = block(tokens, modulation)
        tokens = self.head(modulated(tokens, *last[:, None].chunk(2, dim=-1)))
        pixels = tokens.unflatten(-1, (patch, patch, -1)).unflatten(1, (height, width))
        return pixels.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], -1, *x.shape[2:])
