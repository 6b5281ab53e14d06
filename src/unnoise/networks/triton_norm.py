"""GroupNorm, scale and shift, SiLU as one Triton operation on channels_last tensors, both passes.

With mean and rstd = (var + eps)^-1/2 of the channel's group in an image, and sums over the pixels
of a channel in an image:

    z = a (x - mean) + b,  y = silu(z),  a = rstd weight (1 + scale),  b = bias (1 + scale) + shift
    g = dy silu'(z),  S1 = sum g,  S2 = rstd sum g (x - mean),  dx = a g - k1 - rstd k2 (x - mean)
    k1, k2 = sums of a S1, a S2 over the channels of the group, divided by its number of elements
    dshift = S1,  dscale = weight S2 + bias S1
    dbias, dweight = sums over the images of (1 + scale) (S1, S2)

Channels_last is the matrix (n h w, c). A program reads tiles of it that are 64 channels wide, for
coalesced loads. Partial sums are added in a fixed order: no atomics, bitwise repeatable. The
backward pass keeps x and four numbers per image and channel. Both passes are opaque operators:
torch.compile and CUDA graphs launch them as eager mode does, and triton is imported at the first
launch. (`triton_op` wants it sooner and lets Inductor change strides; `custom_op` costs 60 us more
per call.)
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096
"""Elements of x that a program holds at once: at 8 warps, two 16-byte loads of bf16 a thread."""
PROGRAMS = 2048
"""Images are cut into chunks of rows up to this many programs: a dozen for each of 100-150 SMs."""


@no_type_check  # here and below: the tests' jaxtyping hook must not wrap what triton reads
def _moments(x, parts, hw, c, rows, chunks, cols, R: tl.constexpr, C: tl.constexpr):
    """Mean and sum of squared deviations per channel of a chunk of rows, by tiles (Chan et al.)."""
    image, chunk = (tl.program_id(0) // cols).to(tl.int64), tl.program_id(1)
    row, channel = tl.arange(0, R), tl.program_id(0) % cols * C + tl.arange(0, C)
    # The running mean starts at a sample: every sum is of small differences, whatever the mean is.
    sample = x + (image * hw + chunk * rows) * c + channel
    mean = tl.load(sample, mask=channel < c, other=0.0).to(tl.float32)
    count, m2 = 0.0, tl.zeros([C], tl.float32)
    for start in range(chunk * rows, tl.minimum(chunk * rows + rows, hw), R):
        keep = (start + row < hw)[:, None] & (channel < c)[None, :]
        # int64 up to the tile, int32 within
        at = (image * hw + start) * c + (row[:, None] * c + channel[None, :])
        value = tl.load(x + at, mask=keep, other=0.0).to(tl.float32)
        d = tl.where(keep, value - mean[None, :], 0.0)
        n = tl.minimum(hw - start, R).to(tl.float32)
        delta = tl.sum(d, 0) / n
        d = tl.where(keep, d - delta[None, :], 0.0)
        m2 += tl.sum(d * d, 0) + delta * delta * (count * n / (count + n))
        mean += delta * (n / (count + n))
        count += n
    at = parts + (image * chunks + chunk) * 2 * c + channel
    tl.store(at, mean, mask=channel < c)
    tl.store(at + c, m2, mask=channel < c)


@no_type_check
def _coefficients(
    parts, weight, bias, scale, shift, coef, scale_stride, shift_stride, eps, hw, c, groups, rows,
    chunks, SCALE: tl.constexpr, SHIFT: tl.constexpr, K: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """The chunks' moments to those of one group of an image; its rows of coef: a, b, mean, rstd."""
    image, width = (tl.program_id(0) // groups).to(tl.int64), c // groups
    own = tl.arange(0, W) < width
    channel = tl.program_id(0) % groups * width + tl.arange(0, W)
    mean = tl.load(parts + image * chunks * 2 * c + tl.program_id(0) % groups * width)
    size, m2 = 0.0, 0.0
    for start in range(0, chunks, K):  # as above, with means for samples
        k = start + tl.arange(0, K)
        keep = (k < chunks)[:, None] & own[None, :]
        at = parts + (image * chunks + k[:, None]) * 2 * c + channel[None, :]
        n = tl.where(keep, tl.minimum(hw - k * rows, rows)[:, None], 0).to(tl.float32)
        total = tl.sum(tl.sum(n, 0), 0)
        d = tl.load(at, mask=keep, other=0.0) - mean
        delta = tl.sum(tl.sum(d * n, 0), 0) / total
        d = (d - delta) * (d - delta) * n + tl.load(at + c, mask=keep, other=0.0)
        m2 += tl.sum(tl.sum(d, 0), 0) + delta * delta * (size * total / (size + total))
        mean += delta * (total / (size + total))
        size += total
    rstd = tl.rsqrt(m2 / size + eps)
    a = tl.load(weight + channel, mask=own).to(tl.float32) * rstd
    b = tl.load(bias + channel, mask=own).to(tl.float32)
    if SCALE:
        factor = 1.0 + tl.load(scale + image * scale_stride + channel, mask=own).to(tl.float32)
        a *= factor
        b *= factor
    if SHIFT:
        b += tl.load(shift + image * shift_stride + channel, mask=own).to(tl.float32)
    coef += image * 4 * c + channel
    tl.store(coef, a, mask=own)
    tl.store(coef + c, b, mask=own)
    tl.store(coef + 2 * c, tl.zeros([W], tl.float32) + mean, mask=own)
    tl.store(coef + 3 * c, tl.zeros([W], tl.float32) + rstd, mask=own)


@no_type_check
def _pixels(
    x, dy, out, coef, sums, hw, c, rows, chunks, cols,
    OUT: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Write y (OUT = "y"), dx ("dx") or, of a chunk of rows, the sums of g and g (x - mean)."""
    image, chunk = (tl.program_id(0) // cols).to(tl.int64), tl.program_id(1)
    row, channel = tl.arange(0, R), tl.program_id(0) % cols * C + tl.arange(0, C)
    of, known = image * 4 * c + channel[None, :], (channel < c)[None, :]
    a, b = tl.load(coef + of, mask=known, other=0.0), tl.load(coef + of + c, mask=known, other=0.0)
    mean = tl.load(coef + of + 2 * c, mask=known, other=0.0)
    if OUT == "dx":
        k1 = tl.load(sums + of + 2 * c, mask=known, other=0.0)
        k2 = tl.load(sums + of + 3 * c, mask=known, other=0.0)
    s1, s2 = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32)
    for start in range(chunk * rows, tl.minimum(chunk * rows + rows, hw), R):
        keep = (start + row < hw)[:, None] & known
        at = (image * hw + start) * c + (row[:, None] * c + channel[None, :])
        # a x and b would cancel where the mean is large
        d = tl.load(x + at, mask=keep, other=0.0).to(tl.float32) - mean
        z = d * a + b
        if OUT == "y":
            tl.store(out + at, (z * tl.sigmoid(z)).to(out.dtype.element_ty), mask=keep)
        else:
            g = tl.load(dy + at, mask=keep, other=0.0).to(tl.float32)
            g *= tl.sigmoid(z) * (1.0 + z * (1.0 - tl.sigmoid(z)))
            if OUT == "dx":
                tl.store(out + at, (g * a - k1 - d * k2).to(out.dtype.element_ty), mask=keep)
            else:  # beyond the masks g is 0
                s1 += tl.sum(g, 0)
                s2 += tl.sum(g * d, 0)
    if OUT == "sums":
        at = out + (image * chunks + chunk) * 2 * c + channel
        tl.store(at, s1, mask=channel < c)
        tl.store(at + c, s2, mask=channel < c)


@no_type_check
def _means(parts, coef, sums, hw, c, groups, rows, chunks, K: tl.constexpr, W: tl.constexpr):
    """The chunks' sums to the rows of sums of one group of an image: S1, S2, k1, rstd k2."""
    image, width = (tl.program_id(0) // groups).to(tl.int64), c // groups
    own = tl.arange(0, W) < width
    channel = tl.program_id(0) % groups * width + tl.arange(0, W)
    s1, s2 = tl.zeros([W], tl.float32), tl.zeros([W], tl.float32)
    for start in range(0, chunks, K):
        k = start + tl.arange(0, K)
        at = parts + (image * chunks + k[:, None]) * 2 * c + channel[None, :]
        keep = (k < chunks)[:, None] & own[None, :]
        s1 += tl.sum(tl.load(at, mask=keep, other=0.0), 0)
        s2 += tl.sum(tl.load(at + c, mask=keep, other=0.0), 0)
    of = image * 4 * c + channel
    rstd = tl.load(coef + of + 3 * c, mask=own, other=0.0)
    a = tl.load(coef + of, mask=own, other=0.0) / (hw * 1.0 * width)
    s2 *= rstd
    tl.store(sums + of, s1, mask=own)
    tl.store(sums + of + c, s2, mask=own)
    tl.store(sums + of + 2 * c, tl.zeros([W], tl.float32) + tl.sum(a * s1, 0), mask=own)
    tl.store(sums + of + 3 * c, rstd * tl.sum(a * s2, 0), mask=own)


@functools.cache
def _jit(kernel: Any) -> Any:
    """The kernel for triton to compile; triton is imported here and no earlier."""
    global tl  # where triton looks it up
    import triton  # pyright: ignore[reportMissingImports]
    import triton.language as tl  # pyright: ignore[reportMissingImports]

    jit: Any = triton.jit  # image sizes are not specialized: each would compile anew
    return jit(kernel, do_not_specialize=("hw", "rows", "chunks"))


def _power(n: int) -> int:
    return 1 << (n - 1).bit_length()


@functools.lru_cache(1024)
def _launch(shape: torch.Size, groups: int) -> tuple[Any, ...]:
    """Shape of the partial sums; grid and arguments of the kernels over tiles, and over groups."""
    n, c, h, w = shape
    wide = min(64, _power(c))
    high = min(_power(h * w), TILE // wide)
    cols, tiles = -(-c // wide), -(-h * w // high)
    rows = high * -(-tiles // min(tiles, -(-PROGRAMS // (n * cols))))
    chunks, width = -(-h * w // rows), _power(c // groups)
    deep = min(_power(chunks), max(1, TILE // width))
    size = {"hw": h * w, "c": c, "rows": rows, "chunks": chunks}

    def warps(elements: int) -> int:
        return max(1, min(8, elements // 512))

    tile = {**size, "cols": cols, "R": high, "C": wide, "num_warps": warps(high * wide)}
    group = {**size, "groups": groups, "K": deep, "W": width, "num_warps": warps(deep * width)}
    return (n, chunks, 2, c), (n * cols, chunks), tile, (n * groups,), group


def _outputs(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """y or dx, and the four numbers per image and channel: not yet written."""
    four = x.new_empty(x.shape[0], 4, x.shape[1], dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), four


def _forward(x, groups, weight, bias, eps, scale, shift):
    x = x.contiguous(memory_format=torch.channels_last)  # compilers may hand over other strides
    y, coef = _outputs(x)
    shape, tiles, tile, all_groups, group = _launch(x.shape, groups)
    parts, weight, bias = coef.new_empty(shape), weight.contiguous(), bias.contiguous()
    # Halves of an embedding have strides (2c, 1) and need no copy. An absent one needs any pointer.
    s, t = (
        weight[None] if v is None else v if v.stride(1) == 1 else v.contiguous()
        for v in (scale, shift)
    )
    flags = {"SCALE": scale is not None, "SHIFT": shift is not None}
    strides = (s.stride(0), t.stride(0))
    with torch.cuda.device_of(x):
        _jit(_moments)[tiles](x, parts, **tile)
        _jit(_coefficients)[all_groups](
            parts, weight, bias, s, t, coef, *strides, eps, **flags, **group
        )
        _jit(_pixels)[tiles](x, x, y, coef, coef, OUT="y", **tile)
    return y, coef


def _backward(x, dy, groups, coef):
    x, dy = (v.contiguous(memory_format=torch.channels_last) for v in (x, dy))
    dx, sums = _outputs(x)
    shape, tiles, tile, all_groups, group = _launch(x.shape, groups)
    parts = coef.new_empty(shape)
    with torch.cuda.device_of(x):
        _jit(_pixels)[tiles](x, dy, parts, coef, sums, OUT="sums", **tile)
        _jit(_means)[all_groups](parts, coef, sums, **group)
        _jit(_pixels)[tiles](x, dy, dx, coef, sums, OUT="dx", **tile)
    return dx, sums


def _operator(name: str, arguments: str, run: Any) -> None:
    """Make a function an operator that compilers do not look into."""
    tag = torch.Tag.pt2_compliant_tag
    torch.library.define(name, f"(Tensor x, {arguments}) -> (Tensor, Tensor)", tags=tag)
    torch.library.impl(name, "default", run)
    torch.library.register_fake(name, _outputs)


_SCALES = "Tensor weight, Tensor bias, float eps, Tensor? scale, Tensor? shift"
_operator("unnoise::group_norm_silu", f"int groups, {_SCALES}", _forward)
_operator("unnoise::group_norm_silu_backward", "Tensor dy, int groups, Tensor coef", _backward)


@no_type_check
class _GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, groups, weight, bias, eps, scale, shift):
        y, coef = torch.ops.unnoise.group_norm_silu(x, groups, weight, bias, eps, scale, shift)
        ctx.save_for_backward(x, weight, bias, scale, coef)
        ctx.groups, ctx.shift_dtype = groups, None if shift is None else shift.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, scale, coef = ctx.saved_tensors
        dx, sums = torch.ops.unnoise.group_norm_silu_backward(x, dy, ctx.groups, coef)
        s1, s2 = sums[:, 0], sums[:, 1]
        both = sums[:, :2] if scale is None else sums[:, :2] * (1 + scale.float())[:, None]
        dbias, dweight = both.sum(0)
        dscale = None if scale is None else (weight * s2 + bias * s1).to(scale.dtype)
        dshift = None if ctx.shift_dtype is None else s1.to(ctx.shift_dtype)
        return dx, None, dweight.to(weight.dtype), dbias.to(bias.dtype), None, dscale, dshift


@functools.cache
def available() -> bool:
    """Whether there is triton with a CUDA device, or its interpreter (TRITON_INTERPRET=1)."""
    found = importlib.util.find_spec("triton") is not None
    return found and (torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1")


def group_norm_silu(
    x: Float[Tensor, "n c h w"],
    groups: int,
    weight: Float[Tensor, " c"],
    bias: Float[Tensor, " c"],
    eps: float,
    scale: Float[Tensor, "n c"] | None = None,
    shift: Float[Tensor, "n c"] | None = None,
) -> Float[Tensor, "n c h w"]:
    """silu(group_norm(x) * (1 + scale) + shift), in x's dtype and channels_last.

    x is float32, bfloat16 or float16 on a CUDA device (copied if not channels_last); the
    arithmetic is float32. All five tensors receive gradients, but not second ones.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    return _GroupNormSiLU.apply(x, groups, weight, bias, eps, scale, shift)
