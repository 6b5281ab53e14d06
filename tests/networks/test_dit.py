"""The DiT: parameter count, patches, positions, identity at first, settings that cannot be built.

Its outputs are compared with diffusers' in tests/parity/test_diffusers_dit.py.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from tests.networks.helpers import SMALL_DIT, build_network, random_weights

from unnoise.errors import ConfigError
from unnoise.networks import dit
from unnoise.networks.config import DiTConfig, Shape
from unnoise.networks.dit import FREQUENCIES, DiT, positions


@pytest.mark.parametrize("config", [DiTConfig(), DiTConfig(4, 64, 3, 4, 1.5)])
def test_parameter_count(config):
    w, patch, hidden = config.width, config.patch_size**2, int(config.mlp_ratio * config.width)
    attention, mlp = 3 * w * (w + 1) + w * (w + 1), 2 * w * hidden + hidden + w
    ends = (3 * patch + 1) * w + (w + 1) * 6 * patch
    conditions = (FREQUENCIES + 1) * w + (w + 1) * w + 11 * w
    modulation = (w + 1) * (6 * config.depth + 2) * w
    expected = config.depth * (attention + mlp) + ends + conditions + modulation
    with torch.device("meta"):
        net = DiT(config, Shape(3, 32, 32, 10), 6)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize(
    ("width", "depth", "heads", "millions"),
    [(384, 12, 6, 33), (768, 12, 12, 130), (1024, 24, 16, 458), (1152, 28, 16, 675)],
)
def test_the_papers_sizes(width, depth, heads, millions):
    """DiT-S/2 to XL/2, on latents of ImageNet with learned variance (table 4)."""
    with torch.device("meta"):
        net = DiT(DiTConfig(2, width, depth, heads), Shape(4, 32, 32, 1000), 8)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (4, 12), (20, 8)])
def test_any_size_that_the_patches_divide(patch, size):
    net = random_weights(DiT(dataclasses.replace(SMALL_DIT, patch_size=patch), Shape(2, 8, 8), 4))
    out = net(torch.randn(3, 2, *size), torch.tensor([0.0, 10, 999]))
    assert out.shape == (3, 4, *size) and out.isfinite().all()


def swapped(images: torch.Tensor) -> torch.Tensor:
    """The images with two patches of 2x2 exchanged."""
    other = images.clone()
    other[:, :, 0:2, 4:6], other[:, :, 6:8, 0:2] = images[:, :, 6:8, 0:2], images[:, :, 0:2, 4:6]
    return other


def test_exchanging_patches_exchanges_outputs_only_without_positions(monkeypatch):
    net = random_weights(DiT(SMALL_DIT, Shape(1, 8, 8), 1))
    x, time = torch.randn(2, 1, 8, 8), torch.tensor([5.0, 50.0])
    assert not torch.allclose(net(swapped(x), time), swapped(net(x, time)), atol=1e-2)
    monkeypatch.setattr(dit, "positions", lambda *_: torch.zeros(()))
    torch.testing.assert_close(net(swapped(x), time), swapped(net(x, time)))


def test_positions_depend_on_distance_alone_and_tell_all_patches_apart():
    embedding = positions(5, 7, 32, torch.device("cpu")).double().unflatten(0, (5, 7))
    products = torch.einsum("ijc,klc->ijkl", embedding, embedding)
    for dy, dx in ((0, 0), (1, 2), (3, 4)):
        rows, columns = range(5 - dy), range(7 - dx)
        same = torch.stack([products[i, j, i + dy, j + dx] for i in rows for j in columns])
        torch.testing.assert_close(same, same[0].expand_as(same), rtol=1e-5, atol=1e-5)
        assert (dy, dx) == (0, 0) or same.max() < 16 - 0.1
    frequency = 10000 ** (-3 / 8)
    assert embedding[2, 5, 3].item() == pytest.approx(math.sin(5 * frequency), rel=1e-5)  # x, sine
    assert embedding[2, 5, 27].item() == pytest.approx(math.cos(2 * frequency), rel=1e-5)  # y


def test_each_block_starts_as_the_identity():
    net = DiT(SMALL_DIT, Shape(1, 8, 8, 3), 1)
    passed = []
    for block in net.blocks():
        block.register_forward_hook(lambda _, args, out: passed.append((args[0], out)))
    net(torch.randn(2, 1, 8, 8), torch.tensor([5.0, 50.0]), torch.tensor([0, 2]))
    assert len(passed) == 2 and all(torch.equal(before, after) for before, after in passed)
    assert passed[0][0].std() > 0.5


def test_gradients_reach_everything_after_the_first_steps():
    net = DiT(SMALL_DIT, Shape(1, 8, 8, 3), 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    x, time, label = torch.randn(4, 1, 8, 8), torch.rand(4) * 1000, torch.tensor([0, 1, 2, 3])
    reached = []
    for _ in range(3):
        optimizer.zero_grad()
        (net(x, time, label) - x).square().mean().backward()
        reached.append({n.split(".")[0] for n, p in net.named_parameters() if p.grad.any()})
        optimizer.step()
    assert reached[0] == {"head"}  # its weights are zero: nothing gets past them
    assert reached[1] == {"head", "modulation", "patches"}  # the gates are zero
    assert reached[2] == {n.split(".")[0] for n, _ in net.named_parameters()}


def test_muon_gets_the_matrices_inside_and_memory_the_widest_output():
    net = DiT(DiTConfig(2, 16, 2, 2, 5.0), Shape(3, 8, 12, 3), 3)
    names = {id(p): name for name, p in net.named_parameters()}
    inside = [names[id(p)] for p in net.hidden_matrices()]
    parts = ("qkv", "out", "mlp.0", "mlp.2")
    assert inside == ["time_mlp.0.weight", "time_mlp.2.weight"] + [
        f"transformer.{i}.{part}.weight" for i in range(2) for part in parts
    ]
    sizes = []
    for module in net.modules():
        module.register_forward_hook(lambda _, args, out: sizes.append(out.numel()))
    net(torch.randn(1, 3, 8, 12), torch.ones(1))
    assert net.widest_bytes(8, 12, False) == 4 * max(sizes) == 4 * 24 * 80
    assert net.widest_bytes(64, 64, True) == 4 * 2 * 1024**2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 3}, "patch_size: got 3, expected a divisor of .* height 8 and width 12"),
        ({"patch_size": 8}, "patch_size: got 8"),
        ({"patch_size": 0}, "patch_size: got 0"),
        ({"width": 18}, "width: got 18, expected a multiple of 4"),
        ({"heads": 3}, "heads: got 3, expected a divisor of width 16"),
        ({"depth": 0}, "depth: got 0, expected 1 to 1,000"),
        ({"mlp_ratio": 0.0}, "mlp_ratio: got 0, expected more than 0"),
    ],
)
def test_bad_settings_are_refused_in_one_line(change, message):
    with pytest.raises(ConfigError, match=r"network\." + message) as caught:
        build_network(SMALL_DIT, Shape(1, 8, 12), change)
    assert "\n" not in str(caught.value)


def test_an_image_that_the_patches_do_not_divide_is_refused():
    net = DiT(SMALL_DIT, Shape(1, 8, 8), 1)
    with pytest.raises(ValueError, match="x: got 8x7 pixels, expected multiples of patch_size 2"):
        net(torch.randn(1, 1, 8, 7), torch.ones(1))


def test_narrower_keeps_the_heads():
    assert DiTConfig().narrower(0.5) == {"width": 88} and DiTConfig().narrower(2.0) == {}


def test_modulation_is_norm_scale_and_shift():
    x, shift, scale = torch.randn(3, 2, 5, 8)
    norm = (x - x.mean(-1, keepdim=True)) / x.var(-1, correction=0, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(dit.modulated(x, shift, scale), norm * (1 + scale) + shift)
    assert torch.equal(dit.modulated(x, x - x, x - x), F.layer_norm(x, (8,), eps=1e-6))
