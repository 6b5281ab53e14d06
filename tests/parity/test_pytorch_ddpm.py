"""Checkpoints of w86763777's pytorch-ddpm, run by its own code and read here.

Needs its repository in $UNNOISE_PEERS, as a folder pytorch-ddpm.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.formats.conftest import exact
from tests.formats.test_pytorch_ddpm import LAYOUT, shapes
from torch import nn

from unnoise import formats
from unnoise.diffusion.noise import Noise

PEER = Path(os.environ.get("UNNOISE_PEERS", ".")) / "pytorch-ddpm"
if not PEER.is_dir():
    fix = "get it with git clone https://github.com/w86763777/pytorch-ddpm"
    pytest.skip(f"$UNNOISE_PEERS/pytorch-ddpm is not there; {fix}", allow_module_level=True)

LAYOUTS: dict[str, dict[str, Any]] = {
    "cifar10": {"T": 1000, "ch": 32, "ch_mult": [1, 2, 2, 2], "attn": [1], "num_res_blocks": 2},
    "other": {"T": 60, "ch": 32, "ch_mult": [2, 1], "attn": [0, 1], "num_res_blocks": 1},
    "no attention": {"T": 60, "ch": 64, "ch_mult": [1, 1], "attn": [-1], "num_res_blocks": 1},
}


def peer(module: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"w86_{module}", PEER / f"{module}.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def checkpoint(folder: Path, layout: dict[str, Any], flags: str) -> nn.Module:
    """ckpt.pt as their training saves it, and the model of the averaged weights."""
    torch.manual_seed(0)
    net = peer("model").UNet(**layout, dropout=0.1)
    for p in (p for p in net.parameters() if p.requires_grad):  # not the table of times
        p.data = p.data + 0.03 * torch.randn_like(p)
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 16, 16), torch.tensor([1, 2])).mean().backward()
    optimizer.step()
    source, target = net.state_dict(), average.state_dict()
    for _ in range(50):
        for key, value in target.items():  # their ema() also averages the table of times
            value.data.copy_(value.data * 0.9999 + source[key].data * (1 - 0.9999))
    saved = {
        "net_model": net.state_dict(), "ema_model": average.state_dict(), "step": 200,
        "sched": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(),
        "optim": optimizer.state_dict(), "x_T": torch.randn(4, 3, 16, 16),
    }  # fmt: skip
    torch.save(saved, folder / "ckpt.pt")
    (folder / "flagfile.txt").write_text(flags + "--noalsologtostderr\n--verbosity=0\n")
    return average.eval()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_outputs_there_and_back(tmp_path, name):
    layout = LAYOUTS[name]
    lines = [f"--{key}={v}" for key, value in layout.items()
             for v in (value if isinstance(value, list) else [value])]  # fmt: skip
    model = checkpoint(tmp_path, layout, "\n".join([*lines, "--img_size=16\n"]))
    ours = exact(formats.read(tmp_path / "ckpt.pt"))
    assert (ours.shape.height, ours.config.diffusion.variance) == (16, "large")
    formats.write(ours, "pytorch_ddpm", tmp_path / "back")
    other = peer("model").UNet(**layout, dropout=0.1)
    other.load_state_dict(torch.load(tmp_path / "back" / "ckpt.pt")["ema_model"])
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, layout["T"] - 1])
    with torch.no_grad():
        want = model(x, t)
        assert want.std() > 0.1
        for got in (ours.network(x, t.float()), other.eval()(x, t)):
            assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_the_names_and_shapes_that_the_fixture_of_our_own_tests_has():
    theirs = peer("model").UNet(**LAYOUT, dropout=0.1).state_dict()
    assert shapes(**LAYOUT) == {name: tuple(value.shape) for name, value in theirs.items()}


@pytest.mark.parametrize("variance", ["fixedlarge", "fixedsmall"])
def test_the_same_steps_from_the_same_noise(tmp_path, monkeypatch, variance):
    flags = f"--var_type={variance}\n--beta_1=0.001\n--beta_T=0.3\n"
    model = checkpoint(tmp_path, LAYOUTS["other"], flags)
    ours = exact(formats.read(tmp_path / "ckpt.pt"))
    sampler = peer("diffusion").GaussianDiffusionSampler(
        model, 0.001, 0.3, 60, 16, "epsilon", variance
    )
    noise = Noise([4, 5], (3, 16, 16))
    first = ours.grid(ours.settings())[0].sigma * noise.normal()
    monkeypatch.setattr(torch, "randn_like", lambda x: noise.normal())
    with torch.no_grad():
        want = sampler(first)
    *_, last = ours.steps([4, 5])
    got = last.x.clamp(-1, 1)
    assert want.std() > 0.1
    assert (got - want).abs().max() < 1e-4
