"""The U-Net: parameter counts of the papers, wirings, settings that cannot be built."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.networks.helpers import SMALL_UNET, build_network, random_weights

from unnoise.errors import ConfigError
from unnoise.networks.config import Shape
from unnoise.networks.layers import Attention, attend, sinusoidal_embedding
from unnoise.networks.unet import UNet
from unnoise.presets import PRESETS


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
        net = UNet(PRESETS[preset]().network, Shape(3, 32, 32), outputs)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("resample", ["conv", "resblock"])
@pytest.mark.parametrize("skips", ["every_block", "per_level"])
@pytest.mark.parametrize("stem", ["conv", "block"])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (9, 14), (5, 3)])
def test_any_size_any_wiring(resample, skips, stem, size):
    config = dataclasses.replace(SMALL_UNET, resample=resample, skips=skips, stem=stem)
    net = random_weights(UNet(config, Shape(2, 28, 28, 5), 4))
    x = torch.randn(3, 2, *size)
    out = net(x, torch.tensor([0.0, 10, 999]), torch.tensor([0, 4, 5]))
    assert out.shape == (3, 4, *size) and out.isfinite().all()


@pytest.mark.parametrize("size", [(8, 8), (6, 14)])
def test_patches_are_channels_of_a_smaller_image(size):
    """The same weights on the image cut by hand: channel 4 c + 2 i + j is pixel (2 y + i, 2 x + j)
    of channel c, on the way in and out."""
    config = dataclasses.replace(SMALL_UNET, patch_size=2)
    net = random_weights(UNet(config, Shape(2, 8, 8, 5), 4))
    plain = UNet(dataclasses.replace(config, patch_size=1), Shape(8, 4, 4, 5), 16).eval()
    plain.load_state_dict(net.state_dict())
    x, time, label = torch.randn(3, 2, *size), torch.tensor([0.0, 10, 999]), torch.tensor([0, 4, 5])
    cut = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2).flatten(1, 2)
    want = plain(cut, time, label).unflatten(1, (4, 4))
    out = net(x, time, label)
    for number, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        torch.testing.assert_close(out[..., i::2, j::2], want[:, :, number])


def test_attention_sizes_are_of_the_feature_map_and_memory_too():
    config = dataclasses.replace(SMALL_UNET, attention_levels=(), attention_sizes=(4,))
    assert config.attention(8) == {1}
    patched = dataclasses.replace(config, patch_size=2)
    assert patched.attention(8) == {0} and patched.heights(12) == [6, 3, 2]
    net = UNet(patched, Shape(1, 8, 8), 1)
    assert net.widest_bytes(8, 8, False) == 4 * 8 * 4 * 4


def test_head_channels_give_each_layer_heads_by_its_width():
    """The same weights with as many heads give the same image, whichever way they are asked for."""
    by_channels = dataclasses.replace(
        SMALL_UNET, attention_levels=(1, 2), attention_head_channels=8, attention_heads=7
    )
    net = random_weights(UNet(by_channels, Shape(1, 8, 8), 1))
    assert [m.heads for m in net.modules() if isinstance(m, Attention)] == [2, 3, 3, 3, 3, 2, 2]
    assert net.widest_bytes(32, 32, True) == 4 * 2 * 16**4 and by_channels.narrower(0.5) == {}
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 500.0])
    by_heads = dataclasses.replace(SMALL_UNET, attention_heads=3)
    same = random_weights(UNet(by_heads, Shape(1, 8, 8), 1))
    other = UNet(dataclasses.replace(by_heads, attention_head_channels=8), Shape(1, 8, 8), 1)
    other.load_state_dict(same.state_dict())
    assert torch.equal(other.eval()(x, time), same(x, time))


def test_a_network_without_a_null_label_has_a_row_less_and_wants_a_label():
    net = random_weights(UNet(SMALL_UNET, Shape(1, 8, 8, 3, null_label=False), 1))
    assert net.class_embedding is not None and net.class_embedding.num_embeddings == 3
    x, time = torch.randn(1, 1, 8, 8), torch.tensor([1.0])
    assert net(x, time, torch.tensor([2])).isfinite().all()
    with pytest.raises(ValueError, match="label: got None"):
        net(x, time)


def test_muon_gets_the_matrices_inside_and_fsdp_the_blocks():
    net = UNet(SMALL_UNET, Shape(1, 8, 8, 3), 1)
    ends = ("stem", "out_conv", "class_embedding", "time_projection")
    names = {id(p): name for name, p in net.named_parameters()}
    assert [names[id(p)] for p in net.hidden_matrices()] == [
        name for name, p in net.named_parameters() if p.ndim > 1 and not name.startswith(ends)
    ]
    kinds = [type(block).__name__ for block in net.blocks()]
    assert kinds.count("ResBlock") == 11 and kinds.count("Attention") == 4


def test_attention_kernels_agree():
    q, k, v = torch.randn(3, 2, 4, 16, 8)
    plain = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(plain.float(), attend(q, k, v), rtol=0.05, atol=0.05)


def test_sinusoidal_embedding_orders():
    time = torch.tensor([0.0, 3.0])
    ddpm, iddpm, mae = (sinusoidal_embedding(time, 8, order) for order in ("ddpm", "iddpm", "mae"))
    assert ddpm[0].tolist() == [0] * 4 + [1] * 4 and iddpm[0].tolist() == [1] * 4 + [0] * 4
    assert ddpm[1, 3].item() == pytest.approx(3e-4)
    assert iddpm[1, 7].item() == pytest.approx(3e-3, rel=1e-4)
    assert torch.equal(mae, iddpm.roll(4, dims=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_levels": (3,)}, r"attention_levels: got \(3,\), expected levels from 0 to 2"),
        ({"attention_sizes": (5,)}, r"attention_sizes: got \(5,\), expected .* \[8, 4, 2\]"),
        ({"patch_size": 3}, "patch_size: got 3, expected a divisor of .* height 8 and width 8"),
        ({"patch_size": 2, "attention_sizes": (8,)}, r"attention_sizes: .* \[4, 2, 1\]"),
        ({"norm_groups": 32}, r"norm_groups: got 32, expected a divisor .* \[8, 16, 24\]"),
        ({"attention_heads": 3}, "attention_heads: got 3, expected a divisor"),
        ({"attention_heads": 0}, "attention_heads: got 0, expected 1 to 1,000"),
        ({"attention_head_channels": 5}, r"attention_head_channels: got 5, .* channels \[24\]"),
        ({"blocks_per_level": 0}, "blocks_per_level: got 0"),
        ({"base_channels": 7}, "base_channels: got 7, expected an even number"),
        ({"dropout": 1.0}, "dropout: got 1, expected 0 or more, less than 1"),
        ({"norm_eps": -1.0}, "norm_eps: got -1, expected 0 or more"),
        ({"channel_multipliers": ()}, "channel_multipliers: got .* expected 1 to 16 multipliers"),
        ({"channel_multipliers": (1, 0)}, "channel_multipliers: got 0, expected 1 to 1,000"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=r"network\." + message) as caught:
        build_network(SMALL_UNET, Shape(1, 8, 8), change)
    assert "\n" not in str(caught.value)


def test_narrower_keeps_the_size_of_groups_and_is_never_wider():
    config = PRESETS["cifar10"]().network  # 128 channels in 32 groups
    found = [config.narrower(share) for share in (1.0, 0.57, 0.25, 1e-6, 9.0)]
    assert [list(each.values()) for each in found] == [[], [96, 24], [64, 16], [4, 1], []]
    assert list(found[1]) == ["base_channels", "norm_groups"]
