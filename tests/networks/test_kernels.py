"""The cheaper forms have the values and gradients of the plain ones, and keep less."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unnoise.networks.config import Shape, UNetConfig
from unnoise.networks.kernels import Dropout, norm_silu, upsample_conv_weight
from unnoise.networks.layers import Upsample
from unnoise.networks.unet import UNet

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    monkeypatch.setattr("unnoise.networks.kernels.SMALL", 0)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64
    ).to(dtype)


def group_norm(channels: int, dtype: torch.dtype) -> nn.GroupNorm:
    norm = nn.GroupNorm(4, channels).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(1 + randn(channels) / 4)
        norm.bias.copy_(randn(channels) / 4)
    return norm


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("layout", FORMATS)
def test_norm_silu_has_the_values_and_gradients_of_its_parts(affine, layout):
    norm = group_norm(8, torch.float64)
    x = randn(2, 8, 5, 3).to(memory_format=layout).requires_grad_()
    extra = (
        [randn(2, 8, 1, 1).requires_grad_(), (randn(2, 8, 1, 1) * 2).requires_grad_()]
        if affine
        else []
    )
    h = norm(x) * (1 + extra[0]) + extra[1] if affine else norm(x)
    wanted, got = F.silu(h), norm_silu(x, norm, *extra)
    assert torch.equal(got, wanted)
    places = [x, norm.weight, norm.bias, *extra]
    grads = [
        torch.autograd.grad((y * randn(2, 8, 5, 3)).sum(), places, retain_graph=True)
        for y in (wanted, got)
    ]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_norm_silu_in_bf16_is_bitwise_that_of_its_parts():
    norm, x = group_norm(8, torch.float32), randn(2, 8, 8, 8, dtype=torch.bfloat16).requires_grad_()
    wanted, got = F.silu(F.group_norm(x, 4, norm.weight, norm.bias)), norm_silu(x, norm)
    assert torch.equal(got, wanted)
    ours, theirs = (
        torch.autograd.grad(y.float().square().sum(), [x, norm.weight]) for y in (got, wanted)
    )
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def kept_bytes(work) -> int:
    """Bytes that a computation keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = work()
    del kept
    return sum(sizes.values())


def test_only_x_and_a_byte_per_element_are_kept():
    norm, x = (
        group_norm(8, torch.float32),
        randn(4, 8, 32, 32, dtype=torch.bfloat16).requires_grad_(),
    )
    size = x.numel() * 2
    assert kept_bytes(lambda: norm_silu(x, norm)) < size * 1.01
    assert kept_bytes(lambda: F.silu(norm(x))) > size * 1.99
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unnoise.networks.kernels.SMALL", x.numel() + 1)
        assert kept_bytes(lambda: norm_silu(x, norm)) > size * 1.99
    drop = Dropout(0.1)
    assert kept_bytes(lambda: drop(x)) == x.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(dtype, layout, p):
    torch.manual_seed(0)
    drop, x = (
        Dropout(p),
        (1 + randn(8, 16, 32, 33).abs()).to(dtype, memory_format=layout).requires_grad_(),
    )
    y = drop(x)
    assert y.stride() == x.stride()
    zero = y == 0
    count = x.numel()
    assert abs(zero.sum().item() - p * count) < 5 * (p * (1 - p) * count) ** 0.5
    torch.testing.assert_close(
        y[~zero],
        x.detach()[~zero] / (1 - p),
        rtol=1e-2 if dtype == torch.bfloat16 else 1e-6,
        atol=0,
    )
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad != 0, ~zero)
    flat = zero.flatten().double()
    for lag in (1, 2, 3, 4, 5, 32, 33):  # four come from one random number
        assert abs(torch.corrcoef(torch.stack([flat[lag:], flat[:-lag]]))[0, 1]) < 5 / count**0.5
    again = drop(x)
    assert not torch.equal(again, y)
    torch.manual_seed(0)
    assert torch.equal(drop(x), y)
    assert drop.eval()(x) is x


def test_dropout_of_a_view_that_is_not_dense():
    x = randn(2, 8, 6, 6)[:, :, ::2, 1:]
    y = Dropout(0.5)(x)
    assert y.shape == x.shape and 0 < (y == 0).float().mean() < 1
    assert torch.equal(y[y != 0], x[y != 0] * 2)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_doubled_weights_are_upsampling_and_convolution(size):
    conv, x = nn.Conv2d(3, 5, 3, padding=1).double(), randn(2, 3, *size).requires_grad_()
    wanted = conv(F.interpolate(x, scale_factor=2, mode="nearest"))
    got = F.conv_transpose2d(x, upsample_conv_weight(conv.weight), conv.bias, stride=2, padding=1)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    places = [x, conv.weight, conv.bias]
    ours, theirs = (torch.autograd.grad((y * randn(*y.shape)).sum(), places) for y in (got, wanted))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (7, 7)])
def test_upsample_to_any_size(size):
    up, x = Upsample(3).double(), randn(1, 3, 4, 4)
    torch.testing.assert_close(
        up(x, size), up.conv(F.interpolate(x, size=size)), rtol=1e-12, atol=1e-12
    )
    up.prepare(torch.float64)
    torch.testing.assert_close(
        up(x, size), up.conv(F.interpolate(x, size=size)), rtol=1e-12, atol=1e-12
    )


def test_the_network_trains_through_all_of_it():
    """The whole network has the gradients that it has with PyTorch's own layers."""
    config = UNetConfig(
        8, (1, 2), 1, attention_levels=(1,), norm_groups=4, conditioning="scale_shift"
    )
    net = UNet(config, Shape(1, 8, 8), 1).double()
    for p in net.parameters():
        p.data = randn(*p.shape) * 0.1
    x, time = randn(2, 1, 8, 8), torch.tensor([3.0, 700.0])

    def gradients() -> list[Tensor]:
        return list(torch.autograd.grad(net(x, time).square().sum(), list(net.parameters())))

    ours = gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unnoise.networks.layers.norm_silu", stock)
        patch.setattr("unnoise.networks.unet.norm_silu", stock)
        patch.setattr(
            Upsample, "forward", lambda self, x, size: self.conv(F.interpolate(x, size=size))
        )
        theirs = gradients()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def stock(
    x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    h = norm(x)
    return F.silu(h if scale is None or shift is None else h * (1 + scale) + shift)
