"""The layers of the U-Net, some of which the DiT shares."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unnoise.networks.config import SongUNetConfig, UNetConfig
from unnoise.networks.kernels import Dropout, norm_silu, upsample_conv_weight

M = TypeVar("M", bound=nn.Module)


def sinusoidal_embedding(
    time: Float[Tensor, " b"], channels: int, order: str
) -> Float[Tensor, "b c"]:
    """Sines and cosines of `time` at channels/2 frequencies from 1 to about 1/10000, float32.

    "ddpm" has the sines first and ends at 1/10000. "iddpm" has the cosines first and ends one
    frequency before 1/10000. "mae" has the sines first and iddpm's frequencies.
    """
    half = channels // 2
    last = half - 1 if order == "ddpm" else half
    steps = torch.arange(half, device=time.device)
    angles = time.float()[:, None] * torch.exp(-math.log(10000) / max(last, 1) * steps)
    parts = (angles.cos(), angles.sin()) if order == "iddpm" else (angles.sin(), angles.cos())
    return torch.cat(parts, dim=1)


def norm(channels: int, config: UNetConfig | SongUNetConfig) -> nn.GroupNorm:
    """Group normalisation as the config asks for it."""
    return nn.GroupNorm(config.groups(channels), channels, eps=config.norm_eps)


def zeroed(module: M) -> M:
    """The same layer with weights 0: a block starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def layout(x: Tensor) -> torch.memory_format:
    """The memory format of a tensor: channels_last or contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v over (b, heads, tokens, d), by the faster kernel here."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # 1.8x faster than PyTorch's own kernel (docs/results/kernels.md)
        weights = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
        return weights.to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v)


def attention(qkv: Float[Tensor, "b n d"], heads: int) -> Float[Tensor, "b n c"]:
    """Multi-head self-attention of tokens that hold q, k and v side by side, d = 3 c."""
    # -> 3 x (b, heads, n, c/heads)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return attend(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention over the pixels of (b, c, h, w), residual."""

    def __init__(self, channels: int, config: UNetConfig | SongUNetConfig) -> None:
        super().__init__()
        self.heads = config.heads(channels)
        self.norm = norm(channels, config)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = self.qkv(self.norm(x)).flatten(2).mT  # in channels_last both are views
        y = attention(tokens, self.heads).mT.unflatten(2, x.shape[2:])
        # y is a channels_last view, and what follows would take on that format.
        return self.out(y.contiguous(memory_format=layout(x))).add_(x)


class Downsample(nn.Module):
    """Halve height and width (rounding up) by a strided 3x3 convolution."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.same = config.downsample_padding == "same"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.same else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.same:  # TensorFlow pads an even size on the far side only
            x = F.pad(x, (x.shape[-1] % 2, 1, x.shape[-2] % 2, 1))
        return self.conv(x)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling to a given size, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.prepared: Tensor | None = None

    def prepare(self, dtype: torch.dtype) -> None:
        """Compute the joint weight of upsampling and convolution once, for sampling in `dtype`."""
        weight = self.conv.weight.detach()
        prepared = upsample_conv_weight(weight).to(dtype)
        self.prepared = prepared.contiguous(memory_format=layout(weight))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        if size != (2 * x.shape[-2], 2 * x.shape[-1]):  # the skip's size is odd
            return self.conv(F.interpolate(x, size=size, mode="nearest"))
        weight = upsample_conv_weight(self.conv.weight) if self.prepared is None else self.prepared
        return F.conv_transpose2d(x, weight, self.conv.bias, stride=2, padding=1)


class ResBlock(nn.Module):
    """norm - SiLU - conv, time and class, norm - SiLU - dropout - conv, plus the input.

    `resample` is "down" or "up" for a block that changes the size between its first SiLU and its
    first convolution (ADM), or None. `raw_input` leaves out the first norm and SiLU, for a block
    that meets the image itself. `embedding` is this block's slice (number `slot`) of the network's
    time projection: (b, c), or (b, 2c) for scale and shift.
    """

    slot: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: UNetConfig,
        resample: str | None = None,
        raw_input: bool = False,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = config.conditioning == "scale_shift"
        self.embedding_channels = out_channels * (2 if self.scale_shift else 1)
        self.norm1 = None if raw_input else norm(in_channels, config)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = norm(out_channels, config)
        self.dropout = Dropout(config.dropout)
        self.conv2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(
        self, x: Tensor, embedding: Float[Tensor, "b e"], size: tuple[int, int] | None = None
    ) -> Tensor:
        h = x if self.norm1 is None else norm_silu(x, self.norm1)
        if self.resample == "down":
            h, x = (F.avg_pool2d(v, 2, ceil_mode=True) for v in (h, x))
        if self.resample == "up":
            h, x = (F.interpolate(v, size=size, mode="nearest") for v in (h, x))
        h = self.conv1(h)
        embedding = embedding.to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            h = norm_silu(h, self.norm2, *embedding.chunk(2, dim=1))
        else:
            h = norm_silu(h.add_(embedding), self.norm2)
        return self.conv2(self.dropout(h)).add_(self.skip(x))
