"""The U-Net: parameter counts of the papers, shapes, conditioning, bad configurations."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from unnoise.networks.config import UNetConfig
from unnoise.networks.layers import attend, sinusoidal_embedding
from unnoise.networks.unet import UNet
from unnoise.presets import PRESETS

SMALL = UNetConfig(
    base_channels=8,
    channel_multipliers=(1, 2, 3),
    blocks_per_level=1,
    attention_levels=(2,),
    norm_groups=4,
    attention_heads=2,
)


def parameters(net: torch.nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def random_weights(net: UNet) -> UNet:
    """Zero-initialised layers hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.1
    return net.eval()


@pytest.mark.parametrize(
    ("preset", "outputs", "count"),
    [
        ("cifar10", 3, 35_746_307),  # Ho et al. 2020; diffusers' UNet2DModel
        ("iddpm", 6, 52_546_438),  # Nichol & Dhariwal 2021; openai/improved-diffusion's UNetModel
        ("ddpm", 3, 132_122_755),  # 504 MiB in fp32: the original's checkpoint of about 500 MB
    ],
)
def test_parameter_counts(preset, outputs, count):
    with torch.device("meta"):
        assert parameters(UNet(PRESETS[preset]().network, 3, outputs, 32)) == count


@pytest.mark.parametrize("resample", ["conv", "resblock"])
@pytest.mark.parametrize("skips", ["every_block", "per_level"])
@pytest.mark.parametrize("stem", ["conv", "block"])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (9, 14), (5, 3)])
def test_any_size_any_wiring(resample, skips, stem, size):
    config = dataclasses.replace(SMALL, resample=resample, skips=skips, stem=stem)
    net = random_weights(UNet(config, 2, 4, 28, num_classes=5))
    x = torch.randn(3, 2, *size)
    out = net(x, torch.tensor([0.0, 10, 999]), torch.tensor([0, 4, 5]))
    assert out.shape == (3, 4, *size) and out.isfinite().all()


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("conditioning", ["additive", "scale_shift"])
def test_images_of_a_batch_do_not_mix_and_every_input_matters(padding, conditioning):
    net = random_weights(
        UNet(
            dataclasses.replace(SMALL, conditioning=conditioning, downsample_padding=padding),
            1,
            1,
            8,
            3,
        )
    )
    x, time, label = torch.randn(2, 1, 8, 8), torch.tensor([5.0, 50.0]), torch.tensor([0, 2])
    out = net(x, time, label)
    torch.testing.assert_close(net(x[1:], time[1:], label[1:]), out[1:], rtol=1e-4, atol=1e-5)
    for other in (
        net(x, time + 1, label),
        net(x, time, label - label + 1),
        net(x + 0.1, time, label),
    ):
        assert not torch.allclose(other, out, rtol=1e-3, atol=1e-4)


def test_no_label_is_the_null_label():
    net = random_weights(UNet(SMALL, 1, 1, 8, num_classes=3))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([5.0, 50.0])
    torch.testing.assert_close(net(x, time), net(x, time, torch.tensor([3, 3])))


def test_a_new_network_outputs_zero():
    net = UNet(SMALL, 1, 1, 8)
    assert net(torch.randn(1, 1, 8, 8), torch.tensor([3.0])).abs().max() == 0


def test_every_parameter_is_used():
    net = random_weights(UNet(SMALL, 1, 1, 8, 3))
    net(
        torch.randn(2, 1, 8, 8), torch.tensor([1.0, 2.0]), torch.tensor([0, 1])
    ).square().sum().backward()
    assert [
        name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0
    ] == []


def test_attention_kernels_agree():
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    plain = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(plain.float(), attend(q, k, v), rtol=0.05, atol=0.05)


def test_sinusoidal_embedding_orders():
    time = torch.tensor([0.0, 3.0])
    ddpm, iddpm = (sinusoidal_embedding(time, 8, order) for order in ("ddpm", "iddpm"))
    assert ddpm[0].tolist() == [0] * 4 + [1] * 4 and iddpm[0].tolist() == [1] * 4 + [0] * 4
    assert ddpm[1, 3].item() == pytest.approx(3e-4) and iddpm[1, 7].item() == pytest.approx(
        3e-3, rel=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_levels": (3,)}, "attention_levels: got level 3, expected 0 to 2"),
        ({"attention_sizes": (5,)}, "attention_sizes: got 5"),
        ({"norm_groups": 32}, "not divisible by 32"),
        ({"attention_heads": 3}, "not divisible by 3"),
        ({"blocks_per_level": 0}, "blocks_per_level: got 0"),
        ({"base_channels": 7}, "even number"),
        ({"dropout": 1.0}, "dropout: got 1.0"),
        ({"channel_multipliers": ()}, "at least one multiplier"),
    ],
)
def test_bad_shapes_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        UNet(dataclasses.replace(SMALL, **change), 1, 1, 8)
    assert "\n" not in str(caught.value)
