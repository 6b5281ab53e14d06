"""Three operations of the U-Net in a cheaper form than PyTorch's own layers give: same mathematics, fewer passes over memory.

    norm_silu           SiLU(GroupNorm(x) * (1 + scale) + shift), which keeps x alone for its backward pass
    dropout             8 random bits per element and a bitwise and, where PyTorch on a CPU draws 32 and multiplies
    doubled             nearest-neighbour doubling and a 3x3 convolution as one transposed convolution

What each gains is in docs/results.md (Speed).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from unnoise.networks.triton_norm import group_norm_silu

SMALL = 2**18
"""Elements of an activation for which doing things twice costs more than the memory is worth."""
ROW = 1024
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type as wide as a floating-point number of so many bytes."""


class GroupNorm(nn.GroupNorm):
    """Group normalisation that `norm_silu` may compute by the Triton kernel."""

    triton = False


def norm_silu(
    x: Float[Tensor, "b c h w"],
    norm: nn.GroupNorm,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Float[Tensor, "b c h w"]:
    """SiLU(norm(x) * (1 + scale) + shift), with scale and shift (b, c, 1, 1) or left out.

    On a CPU the normalised x, unless SMALL, is not kept for the backward pass but computed again there. On a GPU a
    `GroupNorm` with `triton` set is one kernel with its SiLU (triton_norm.py).
    """
    if x.device.type == "cuda" and getattr(norm, "triton", False):
        scale, shift = (None if v is None else v[:, :, 0, 0] for v in (scale, shift))
        return group_norm_silu(x, norm.num_groups, norm.weight, norm.bias, norm.eps, scale, shift)
    if (
        not torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.numel() < SMALL
        or torch.compiler.is_compiling()
    ):
        return F.silu(_normed(x, norm.weight, norm.bias, norm.num_groups, norm.eps, scale, shift))
    return _NormSiLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, scale, shift)  # pyright: ignore[reportReturnType]


def _normed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale: Tensor | None,
    shift: Tensor | None,
) -> Tensor:
    h = F.group_norm(x, groups, weight, bias, eps)
    return h if scale is None or shift is None else h * (1 + scale) + shift  # Improved DDPM's AdaGN


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        groups: int,
        eps: float,
        *affine: Tensor | None,
    ):
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(x, weight, bias, *affine)
        return F.silu(_normed(x, weight, bias, groups, eps, *affine), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        saved: list[Any] = [
            None if v is None else v.detach().requires_grad_() for v in ctx.saved_tensors
        ]
        x, weight, bias, *affine = saved
        with torch.enable_grad():
            h = _normed(x, weight, bias, ctx.groups, ctx.eps, *affine)
        grad_h = torch.ops.aten.silu_backward(grads[0], h.detach())
        found = iter(torch.autograd.grad(h, [v for v in saved if v is not None], grad_h))
        dx, dweight, dbias, *daffine = (None if v is None else next(found) for v in saved)
        return dx, dweight, dbias, None, None, *daffine


class Dropout(nn.Dropout):
    """Zero each element with probability p and divide the others by 1 - p, while training.

    On a CPU the randomness is `keep`'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        if (
            not self.training
            or self.p == 0
            or input.device.type != "cpu"
            or torch.compiler.is_compiling()
        ):
            return super().forward(input)
        return _Masked.apply(input, keep(input, self.p), 1 / (1 - self.p))  # pyright: ignore[reportReturnType]


def keep(x: Tensor, p: float) -> Tensor:
    """int8 of x's shape and strides: -1 (all bits set) with probability 1 - p, else 0; from the global generator.

    One random byte per element is below a threshold of 256 p. Where that is no whole number, each row of ROW elements takes the one
    below or above it, at random, so that every element's probability is p.
    """
    count = x.numel()
    rows = -(-count // ROW)
    bits = (
        torch.empty(rows * ROW // 8, dtype=torch.int64)
        .random_(-(2**63), None)
        .view(torch.uint8)
        .view(rows, ROW)
    )
    threshold = (256 * p + torch.rand(rows, 1)).clamp_(max=255).to(torch.uint8)
    mask = bits.ge_(threshold).view(torch.int8).neg_().flatten()[:count]
    dense = (
        x
        if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        else x.contiguous()
    )
    return mask.as_strided(x.shape, dense.stride())


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float):
        ctx.scale = scale
        ctx.save_for_backward(mask)
        return masked(x, mask, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return masked(grads[0], ctx.saved_tensors[0], ctx.scale), None, None


def masked(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """scale * x where the mask is -1, 0 where it is 0."""
    integer = INTEGERS[x.element_size()]
    return (x.view(integer) & mask.to(integer)).view(x.dtype).mul_(scale)


def doubled(weight: Float[Tensor, "o c 3 3"]) -> Float[Tensor, "c o 4 4"]:
    """The weights of conv_transpose2d(stride=2, padding=1) that is a doubling by nearest neighbours and this 3x3 convolution.

    Of the doubled image every 3x3 window holds 2x2 different pixels, so weights that meet the same one are added up first, and 4/9
    of the multiplications remain. Along one axis (w0, w1, w2) become (w2, w1 + w2, w0 + w1, w0).
    """
    for axis in (-2, -1):
        w0, w1, w2 = weight.unbind(axis)
        weight = torch.stack([w2, w1 + w2, w0 + w1, w0], axis)
    return weight.transpose(0, 1)
