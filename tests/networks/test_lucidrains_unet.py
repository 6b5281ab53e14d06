"""The U-Net of lucidrains: what others ask of it, sizes, settings that cannot be built.

Its outputs are compared with the original's in tests/parity/test_lucidrains.py.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.networks.helpers import SMALL_LUCIDRAINS, build_network, random_weights

from unnoise.errors import ConfigError
from unnoise.networks.config import LucidrainsConfig, Shape
from unnoise.networks.lucidrains import Attention, Lucidrains


def test_the_usual_one_has_the_parameters_of_the_original():
    """Unet(dim=64, dim_mults=(1, 2, 4, 8)), the example of its README."""
    with torch.device("meta"):
        net = Lucidrains(LucidrainsConfig(), Shape(3, 128, 128), 3)
    assert sum(p.numel() for p in net.parameters()) == 35_711_491


@pytest.mark.parametrize("full", [False, True])
def test_attention_is_the_weighted_mean_of_values_and_memory(full):
    """By loops over heads and pixels, in double precision."""
    attention = random_weights(Attention(3, SMALL_LUCIDRAINS, full)).double()
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    normed = x[0] / x[0].norm(dim=0) * attention.norm.g[0] * 3**0.5
    q, k, v = (attention.to_qkv.weight[:, :, 0, 0] @ normed.flatten(1)).reshape(3, 2, 4, 4)
    memory = attention.mem_kv if full else attention.mem_kv.mT
    heads = []
    for head in range(2):
        keys, values = (torch.cat([memory[i, head], part[head].T]) for i, part in enumerate((k, v)))
        if full:
            weights = (q[head].T @ keys.T / 2).softmax(dim=1)
        else:
            weights = q[head].T.softmax(dim=1) / 2 @ keys.softmax(dim=0).T
        heads.append((weights @ values).T)
    want = attention.to_out(torch.cat(heads).reshape(1, 8, 2, 2)) + x
    torch.testing.assert_close(attention(x), want)


def test_muon_gets_the_layers_inside_and_memory_the_widest_output():
    net = Lucidrains(
        dataclasses.replace(SMALL_LUCIDRAINS, attention_heads=9), Shape(3, 8, 12, 3), 3
    )
    names = {id(p): name for name, p in net.named_parameters()}
    inside = {names[id(p)] for p in net.hidden_matrices()}
    others = {name for name, p in net.named_parameters() if p.ndim > 1} - inside
    ends = {"init_conv.weight", "final_conv.weight", "class_embedding.weight"}
    assert {name for name in others if not name.endswith((".g", "mem_kv"))} == ends
    sizes = []
    for module in net.modules():
        module.register_forward_hook(lambda _, args, out: sizes.append(out.numel()))
    net(torch.randn(1, 3, 8, 12), torch.ones(1))
    assert net.widest_bytes(8, 12, False) == 4 * max(sizes) == 4 * 8 * 12 * 3 * 9 * 4
    assert net.widest_bytes(64, 64, True) == 4 * 9 * 1024 * 1028


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_channels": 7}, "base_channels: got 7, expected an even number"),
        ({"channel_multipliers": ()}, r"channel_multipliers: got \(\), expected 1 to 16"),
        ({"channel_multipliers": (1, 1, 1, 1)}, "channel_multipliers: .* images of 8x12 are no"),
        ({"full_attention": (2,)}, r"full_attention: got \(2,\), expected levels from 0 to 1"),
        ({"dropout": 1.0}, "dropout: got 1, expected 0 or more, less than 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=r"network\." + message) as caught:
        build_network(SMALL_LUCIDRAINS, Shape(1, 8, 12), change)
    assert "\n" not in str(caught.value)
