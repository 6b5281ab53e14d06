"""What holds for a network of any kind, and a kind of one's own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.networks.helpers import (
    SMALL_DIT,
    SMALL_LUCIDRAINS,
    SMALL_NCSN,
    SMALL_SONG,
    SMALL_UNET,
    random_weights,
)
from torch import Tensor

from unnoise import api, cli
from unnoise.config import override
from unnoise.errors import ConfigError
from unnoise.model import load
from unnoise.networks.config import NETWORK_CONFIGS, NetworkConfig, Shape
from unnoise.networks.network import Network, cast_weights
from unnoise.networks.registry import NETWORKS
from unnoise.parallel import full_tensor, shard
from unnoise.presets import OBJECTIVES, named, with_objective

KINDS = [
    SMALL_UNET,
    dataclasses.replace(SMALL_UNET, conditioning="scale_shift", downsample_padding="same"),
    dataclasses.replace(SMALL_UNET, skips="per_level", stem="block"),
    SMALL_DIT,
    dataclasses.replace(SMALL_DIT, patch_size=4, mlp_ratio=1.5),
    SMALL_LUCIDRAINS,
    dataclasses.replace(SMALL_LUCIDRAINS, stem_channels=6, full_attention=(0,)),
    SMALL_SONG,
    SMALL_NCSN,
]
every_kind = pytest.mark.parametrize("config", KINDS)
SHAPE = Shape(1, 8, 8, 3)


def network(config: NetworkConfig, shape: Shape = SHAPE, outputs: int = 1) -> Network:
    return NETWORKS[config.kind](config, shape, outputs)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([5.0, 50.0]), torch.tensor([0, 2])


@every_kind
def test_images_of_a_batch_do_not_mix_and_every_input_matters(config):
    net = random_weights(network(config))
    x, time, label = inputs()
    out = net(x, time, label)
    torch.testing.assert_close(net(x[1:], time[1:], label[1:]), out[1:], rtol=1e-4, atol=1e-5)
    changed = ((x, time + 1, label), (x, time, label - label + 1), (x + 0.1, time, label))
    for other in changed:
        assert not torch.allclose(net(*other), out, rtol=1e-4, atol=1e-5)


@every_kind
def test_no_label_is_the_null_label(config):
    net, (x, time, _) = random_weights(network(config)), inputs()
    torch.testing.assert_close(net(x, time), net(x, time, torch.tensor([3, 3])))
    assert network(config, Shape(1, 8, 8))(x, time).shape == x.shape  # no classes at all


@every_kind
def test_a_new_network_outputs_zero(config):
    assert network(config)(*inputs()).abs().max() == 0


@every_kind
def test_every_parameter_is_used(config):
    net = random_weights(network(config))
    net(*inputs()).square().sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == []


@every_kind
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_cast_weights_change_no_bit_under_autocast(config, layout):
    net = random_weights(network(config)).requires_grad_(False).to(memory_format=layout)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = cast_weights(net, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(*inputs()), net(*inputs()))
    cast = {key for key, value in fast.state_dict().items() if value.dtype == torch.bfloat16}
    embedding = {key for key in before if key.startswith("time_mlp")}
    assert len(embedding) == 4 and embedding <= cast and "class_embedding.weight" not in cast
    for key, value in net.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[key])


COMPILED = """
import torch
from tests.networks.test_network import KINDS, inputs, network, random_weights
for config in KINDS:
    net = random_weights(network(config)).train()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs()), net(*inputs()))
"""


@pytest.mark.long
def test_each_compiles_to_one_graph():
    """In a process of its own, without the tests' checks of shapes."""
    command, root = [sys.executable, "-c", COMPILED], Path(__file__).parents[2]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert run.returncode == 0, run.stderr[-2000:]


@every_kind
def test_fsdp_cuts_it_by_blocks(config):
    net, (x, time, label) = random_weights(network(config)), inputs()
    expected = net(x, time, label).detach()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shard(net)
        assert all(type(block).__name__.startswith("FSDP") for block in [net, *net.blocks()])
        assert len(net.blocks()) == len({id(block) for block in net.blocks()}) > 1
        out = net(x, time, label)
        out.square().sum().backward()
        torch.testing.assert_close(out.detach(), expected)
        assert all(full_tensor(p.grad).any() for p in net.parameters() if p.grad is not None)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_dit_trains_stops_resumes_and_samples(objective, tmp_path):
    config = override(with_objective(named("digits"), objective), {
        "network.kind": "dit", "network.width": 16, "network.depth": 1, "network.heads": 2,
        "train.batch_size": 16, "train.sample_every_kimg": 1e9, "train.optimizer": "muon",
        "sample.steps": 2, "sample.guidance_scale": 2.0,
    })  # fmt: skip
    for kimg in (0.08, 0.16):
        api.train(override(config, {"train.kimg": kimg}), tmp_path)
    model = load(tmp_path, "cpu")
    assert model.record["training"]["step"] == 10
    assert model.record["config"]["network"] == {
        "kind": "dit", "patch_size": 2, "width": 16, "depth": 1, "heads": 2, "mlp_ratio": 4.0,
    }  # fmt: skip
    assert model.sample(3).shape == (3, 1, 8, 8) and model.images_at_once() >= 1


PIXELS = '''
from dataclasses import dataclass

import torch
from torch import nn

from unnoise.networks.config import NETWORK_CONFIGS, NetworkConfig
from unnoise.networks.network import Network
from unnoise.networks.registry import NETWORKS


@dataclass(frozen=True)
class PixelConfig(NetworkConfig):
    """A network that sees one pixel at a time."""

    channels: int = 8
    """Channels of each layer."""


class Pixels(Network):
    def __init__(self, config, shape, out_channels):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape.channels + 1, config.channels, 1), nn.SiLU(),
            nn.Conv2d(config.channels, config.channels, 1), nn.SiLU(),
            nn.Conv2d(config.channels, out_channels, 1),
        )

    def forward(self, x, time, label=None):
        channel = (time / 1000)[:, None, None, None].expand(-1, 1, *x.shape[2:])
        return self.layers(torch.cat([x, channel], dim=1))


NETWORK_CONFIGS["pixels"] = PixelConfig
NETWORKS["pixels"] = Pixels
'''


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my.py").write_text(PIXELS)
    yield tmp_path
    forget()


def forget() -> None:
    """What a new process does not know."""
    NETWORK_CONFIGS.pop("pixels", None)
    NETWORKS.pop("pixels", None)
    sys.modules.pop(str(Path("my.py").resolve()), None)


def test_a_kind_of_ones_own_is_two_entries_of_a_file(own_file, capsys):
    words = ["--import", "my.py", "--network.kind", "pixels", "--network.channels", "6"]
    short = ["--train.kimg", "0.08", "--train.batch-size", "16", "--train.sample-every-kimg", "1e9"]
    assert cli.main(["train", "digits", *words, *short, "--out", "run"]) == 0
    model = load("run", "cpu")
    assert [p.shape for p in model.network.hidden_matrices()] == [(6, 6, 1, 1)]
    assert model.config.train.optimizer == "muon" and model.network.blocks() == []
    assert model.network.widest_bytes(8, 9, True) == 4 * 6 * 72
    forget()
    sample = ["sample", "run", "--num", "2", "--steps", "2"]
    capsys.readouterr()
    assert cli.main(sample) == 2
    assert "no 'pixels'" in (err := capsys.readouterr().err) and "--import my.py" in err
    assert cli.main([*sample, "--import", "my.py"]) == 0
    del NETWORK_CONFIGS["pixels"]
    with pytest.raises(ConfigError, match="PixelConfig is not registered"):
        _ = model.config.network.kind
