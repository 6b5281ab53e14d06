"""Three operations of the U-Net with fewer passes over memory than PyTorch's own layers need.

    norm_silu             SiLU(GroupNorm(x) * (1 + scale) + shift); keeps x alone for its backward
    Dropout               8 random bits per element and a bitwise and; PyTorch on a CPU draws 32
    upsample_conv_weight  doubling by nearest neighbours and a 3x3 convolution as one convolution

The mathematics is the same. What each gains is in docs/results/speed.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

SMALL = 2**18
"""Elements of an activation up to which computing it twice costs more than its memory is worth."""
ROW = 1024
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type as wide as a floating-point number of this many bytes."""


def norm_silu(
    x: Float[Tensor, "b c h w"],
    norm: nn.GroupNorm,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Float[Tensor, "b c h w"]:
    """SiLU(norm(x) * (1 + scale) + shift), with scale and shift (b, c, 1, 1) or left out.

    On a CPU, a normalised x of SMALL or more elements is computed again in the backward pass.
    """
    recomputes = torch.is_grad_enabled() and x.device.type == "cpu" and x.numel() >= SMALL
    if recomputes and not torch.compiler.is_compiling():
        recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        return recomputed(_norm_silu, x, norm, scale, shift)
    return _norm_silu(x, norm, scale, shift)


def _norm_silu(x: Tensor, norm: nn.GroupNorm, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if scale is not None and shift is not None:
        h = h * (1 + scale) + shift  # Improved DDPM's AdaGN
    return F.silu(h)


class Dropout(nn.Dropout):
    """PyTorch's dropout, on a CPU with the randomness of `dropout_mask`."""

    def forward(self, input: Tensor) -> Tensor:
        draws = self.training and self.p > 0 and input.device.type == "cpu"
        if not draws or torch.compiler.is_compiling():
            return super().forward(input)
        mask = dropout_mask(input, self.p)
        return _Masked.apply(input, mask, 1 / (1 - self.p))


def dropout_mask(x: Tensor, p: float) -> Tensor:
    """int8 of x's shape and strides: -1 (all bits set) with probability 1 - p, else 0.

    It is drawn from the global generator: a random byte per element, against a threshold of 256 p.
    Where 256 p is no whole number, each row of ROW elements takes the one below or above it, at
    random, so that every element's probability is p.
    """
    count = x.numel()
    rows = -(-count // ROW)
    words = torch.empty(rows * ROW // 8, dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.uint8).view(rows, ROW)
    threshold = (256 * p + torch.rand(rows, 1)).clamp_(max=255).to(torch.uint8)
    mask = bits.ge_(threshold).view(torch.int8).neg_().flatten()[:count]
    formats = (torch.contiguous_format, torch.channels_last)
    dense = any(x.is_contiguous(memory_format=layout) for layout in formats)
    return mask.as_strided(x.shape, x.stride() if dense else x.contiguous().stride())


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float):
        ctx.scale = scale
        ctx.save_for_backward(mask)
        return _masked(x, mask, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _masked(grads[0], ctx.saved_tensors[0], ctx.scale), None, None


def _masked(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """scale * x where the mask is -1, 0 where it is 0."""
    integer = INTEGERS[x.element_size()]
    return (x.view(integer) & mask.to(integer)).view(x.dtype).mul_(scale)


def upsample_conv_weight(weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "c o 4 4"]:
    """The weights of conv_transpose2d(stride=2, padding=1) that doubles and convolves.

    A 3x3 window of the doubled image holds 2x2 different pixels. Weights that meet the same pixel
    are added up first, which leaves 4/9 of the multiplications. Along one axis, (w0, w1, w2)
    become (w2, w1 + w2, w0 + w1, w0).
    """
    for axis in (-2, -1):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack([w2, w1 + w2, w0 + w1, w0], axis)
    return weight.transpose(0, 1)
