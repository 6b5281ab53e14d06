"""Checkpoints of a training script: weights, optimizer, loss and epoch by torch.save."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unnoise
from unnoise import formats
from unnoise.errors import CheckpointError


class UNet(nn.Module):
    """A class as a notebook has it: no label, time as a number of the schedule."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Embedding(1000, channels)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.conv(x) + self.time(t.long())[:, :, None, None]


@pytest.fixture(scope="module")
def trained() -> tuple[UNet, dict[str, object]]:
    """A network after a step, and the checkpoint of a script for it."""
    net = UNet()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(2, 3, 8, 8), torch.tensor([3, 999])).square().mean().backward()
    optimizer.step()
    states = {"model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    return net, {**states, "loss": np.float32(0.25), "history": [np.float64(0.5)], "epoch": 500}


def equal(module: nn.Module, other: nn.Module) -> bool:
    pairs = zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("bare", [False, True])
def test_its_weights_are_read(trained, tmp_path, capsys, prefix, bare):
    net, saved = trained
    weights = {prefix + name: value for name, value in net.state_dict().items()}
    path = tmp_path / "diffusion_model.pth"
    torch.save(weights if bare else {**saved, "model_state_dict": weights}, path)
    assert equal(formats.load_weights(UNet(), path), net)
    said = f"{path}: model_state_dict, loss 0.25, epoch 500" if not bare else ""
    assert capsys.readouterr().out.strip() == said


def test_a_part_of_the_users_own_that_is_called_module_keeps_its_name(trained, tmp_path):
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = UNet()

    own = Holds()
    torch.save({f"_orig_mod.{k}": v for k, v in own.state_dict().items()}, tmp_path / "a.pth")
    assert equal(formats.load_weights(Holds(), tmp_path / "a.pth"), own)


def test_the_average_is_taken_where_there_is_one(trained, tmp_path):
    net, saved = trained
    average = {name: value / 2 for name, value in net.state_dict().items()}
    torch.save({**saved, "ema_model": average}, tmp_path / "a.pth")
    read = formats.load_weights(UNet(), tmp_path / "a.pth")
    assert torch.equal(read.conv.weight, net.conv.weight / 2)


def test_it_samples_as_ddim_by_hand(trained, tmp_path):
    net, saved = trained
    torch.save(saved, tmp_path / "a.pth")
    read = formats.load_weights(UNet(), tmp_path / "a.pth")
    model = unnoise.wrap(
        read, schedule="linear", parameterization="eps", shape=(3, 8, 8), device="cpu",
        changes={"sample.clip_x0": False},
    )  # fmt: skip
    made = model.sample(2, sampler="ddim", steps=2, spacing="trailing", clip_x0=False)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    x = model.noise(range(2)).normal().double()
    net = net.double()
    with torch.no_grad():
        for t, to in ((999, kept[499]), (499, torch.tensor(1.0))):
            eps = net(x, torch.full((2,), t))
            x = (
                to.sqrt() * (x - (1 - kept[t]).sqrt() * eps) / kept[t].sqrt()
                + (1 - to).sqrt() * eps
            )
    net.float()
    expected = ((x.clamp(-1, 1) + 1) * 127.5).round()
    assert (made - expected).abs().max() <= 1
    assert len(unnoise.generate_samples(model, num_samples=3, device="cpu")) == 3


class Gadget:
    def __reduce__(self):
        return os.mkdir, ("gadget-ran",)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda net, saved: net, "could run code"),
        (lambda net, saved: {**saved, "config": Gadget()}, "could run code"),
        (lambda net, saved: {**saved, "other": net.state_dict()}, "got model_state_dict and other"),
        (lambda net, saved: {"epoch": 3}, "got none, expected weights by name under one key"),
        (lambda net, saved: UNet(4).state_dict(), "conv.bias is (4,), expected (3,)"),
        (lambda net, saved: {"conv.weight": torch.zeros(1)}, "conv.bias is None, expected (3,)"),
    ],
)
def test_anything_else_is_refused_in_a_line_and_runs_nothing(
    trained, tmp_path, monkeypatch, what, said
):
    monkeypatch.chdir(tmp_path)
    torch.save(what(*trained), "a.pth")
    with pytest.raises(CheckpointError) as error:
        formats.load_weights(UNet(), "a.pth")
    assert said in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
