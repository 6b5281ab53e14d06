"""What a user brings: a loss, images, a listener, and a training loop of one's own."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

import unnoise
from tests.training.runs import TINY, assert_same_run, before_step, checkpoints, curve, tiny, train
from unnoise import build, checkpoint, cli, events
from unnoise.data.batches import Batches
from unnoise.diffusion.losses import LOSSES, LearnedWeighting, Loss
from unnoise.errors import ConfigError, DataError
from unnoise.networks.config import NETWORK_CONFIGS, NetworkConfig
from unnoise.networks.network import Network
from unnoise.networks.registry import NETWORKS
from unnoise.training import ema
from unnoise.training.run import prepare
from unnoise.training.step import draw


class Huber(Loss):
    """Squared where small, straight where large."""

    def error(self, output, wanted):
        return nn.functional.huber_loss(output, wanted, reduction="none", delta=0.1)


class Scaled(Loss):
    """A loss with a parameter of its own, which minimising loss * e^-s + s makes its logarithm."""

    def __init__(self, weighting="none"):
        super().__init__(weighting)
        self.scale = nn.Parameter(torch.zeros(()))

    def minimised(self, loss, model, batch):
        return loss * (-self.scale).exp() + self.scale


def linear(weighting):
    return nn.Linear(1, 1)


@pytest.fixture(autouse=True)
def _registered():
    with mock.patch.dict(LOSSES):
        yield


def test_a_huber_loss_trains_from_python_and_the_record_keeps_its_name(tmp_path):
    model = unnoise.train("digits", tmp_path / "a", TINY, loss=Huber)
    assert model.config.diffusion.loss == "Huber" and model.sample(2).shape == (2, 1, 8, 8)
    unnoise.train("digits", tmp_path / "plain", TINY)
    huber, plain = (
        [line["loss"] for line in curve(tmp_path / name) if "loss" in line]
        for name in ("a", "plain")
    )
    assert 0 < huber[-1] < huber[0] < 0.5 * plain[0]  # 0.1 |d| at most, in place of d^2


def test_a_registered_loss_trains_by_name_and_resumes(tmp_path, data, monkeypatch):
    LOSSES["huber"] = Huber
    words = [f"--{name}={value}" for name, value in TINY.items()]
    command = ["train", "digits", "--diffusion.loss", "huber", *words, "--out"]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        before_step(patch, 13, lambda: 1 / 0)
        cli.main([*command, str(tmp_path / "a")])
    assert cli.main([*command, str(tmp_path / "a")]) == 0
    train(tiny(**{"diffusion.loss": "huber"}), data, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    del LOSSES["huber"]
    assert unnoise.load(tmp_path / "a").sample(1).shape == (1, 1, 8, 8)  # sampling needs no loss
    with pytest.raises(ConfigError, match=r"diffusion.loss: no 'huber'; .*mse"):
        train(tiny(**{"diffusion.loss": "huber", "train.kimg": 1.0}), data, tmp_path / "a")


@pytest.mark.parametrize("weighting", ["min_snr", "learned"])
def test_a_loss_owns_its_parameters_and_they_resume(tmp_path, data, monkeypatch, weighting):
    LOSSES["scaled"] = Scaled
    config = tiny(**{"diffusion.loss": "scaled", "diffusion.weighting": weighting})
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        before_step(patch, 13, lambda: 1 / 0)
        train(config, data, tmp_path / "a")
    train(config, data, tmp_path / "a")
    train(config, data, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    group, key = ("uncertainty", "inner.scale") if weighting == "learned" else ("loss", "scale")
    tensors, _ = checkpoint.load(checkpoints(tmp_path / "a")[-1])
    assert tensors[group][key] != 0 and f"exp_avg/{group}.{key}" in tensors["optimizer"]


def test_a_learned_weighting_around_another_loss():
    LOSSES["huber"] = Huber
    config = dataclasses.replace(tiny().diffusion, loss="huber", weighting="learned")
    made = build.loss(config)
    assert isinstance(made, LearnedWeighting) and isinstance(made.inner, Huber)


def test_what_is_no_loss_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="loss: got an object of Huber; expected the class"):
        unnoise.train("digits", tmp_path, TINY, loss=Huber())
    with pytest.raises(ConfigError, match=r"diffusion.loss: 'linear' makes a Linear; expected"):
        unnoise.train("digits", tmp_path, TINY, loss=linear)


def test_images_and_a_listener_from_python(tmp_path, data):
    told = []
    images = unnoise.dataset(np.asarray(data.images[:200]), name="mine")
    model = unnoise.train("digits", tmp_path, TINY, data=images, on_event=told.append)
    assert model.shape.num_classes == 0
    assert model.record["data"]["fingerprint"] == images.fingerprint
    with pytest.raises(DataError, match="mine"):  # and not the distance to digits
        unnoise.evaluate(model, tmp_path / "evaluation", num=4)
    shares = [event.done for event in told if isinstance(event, events.Progress)]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert any("saved " in event.text for event in told if isinstance(event, events.Message))


@dataclasses.dataclass(frozen=True)
class DotsConfig(NetworkConfig):
    channels: int = 6


class Dots(Network):
    """1x1 convolutions, which do not know the time."""

    def __init__(self, config, shape, out_channels):
        super().__init__()
        sizes = (shape.channels, config.channels, config.channels, out_channels)
        self.layers = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(sizes)))

    def forward(self, x, time, label=None):
        return self.layers(x)


def test_a_network_from_python_is_refused_where_nobody_knows_it(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORK_CONFIGS, "dots", DotsConfig)
    monkeypatch.setitem(NETWORKS, "dots", Dots)
    changes = {"train.kimg": 0.032, "train.batch_size": 16, "train.optimizer": "muon"}
    model = unnoise.train("digits", tmp_path, changes, network=DotsConfig(5))
    assert model.config.network == DotsConfig(5)
    del NETWORK_CONFIGS["dots"], NETWORKS["dots"]
    with pytest.raises(ConfigError, match=r"network.kind: no 'dots'.* entry in NETWORK_CONFIGS"):
        unnoise.load(tmp_path)
    with pytest.raises(ConfigError, match="DotsConfig is not registered; expected NETWORK_CONFIGS"):
        unnoise.train("digits", tmp_path / "b", changes, network=DotsConfig(5))


FILE = """
from torch.nn import functional
from unnoise.diffusion.losses import LOSSES, Loss


class Huber(Loss):
    def error(self, output, wanted):
        return functional.huber_loss(output, wanted, reduction="none", delta=0.1)


LOSSES["imported"] = Huber
"""


def test_a_loss_of_an_imported_file(tmp_path, capsys):
    (tmp_path / "my.py").write_text(FILE)
    words = [f"--{name}={value}" for name, value in {**TINY, "train.kimg": 0.032}.items()]
    command = ["train", "digits", "--diffusion.loss", "imported", *words]
    command += ["--out", str(tmp_path / "run")]
    assert cli.main(command) == 2
    assert "diffusion.loss: no 'imported'" in capsys.readouterr().err
    assert cli.main([*command, "--import", str(tmp_path / "my.py")]) == 0
    record = checkpoint.read_model(tmp_path / "run" / "model.safetensors")[1]
    assert record["config"]["diffusion"]["loss"] == "imported"


def test_a_loop_of_ones_own(data, tmp_path):
    """The pieces are enough: as in docs/extending.md."""
    config = tiny()
    run, state = prepare(config, data, tmp_path)
    network, average = state.network, copy.deepcopy(state.network)
    batches = Batches(data, config.seed, run.arithmetic.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for step in range(30):
        batch = draw(run, step, *batches.get(32 * step, 32))
        loss = state.loss(run.diffusion, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(average, network, ema.decay(32, 32 * step, 500, 0.0))
        losses.append(float(loss))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    model = run.model(average, state.counters)
    assert model.sample(2).shape == (2, 1, 8, 8)
    model.save(tmp_path / "model.safetensors")
    assert torch.equal(unnoise.load(tmp_path).sample(2), model.sample(2))


def test_one_step_has_no_learned_variance():
    config = dataclasses.replace(tiny().diffusion, timesteps=1, variance="learned")
    with pytest.raises(
        ConfigError, match=r"timesteps: got 1 with .* 'learned'; expected 2 or more"
    ):
        build.diffusion_model(config, nn.Identity())


def test_a_longer_end_says_that_the_rate_jumps(data, tmp_path, capsys):
    train(tiny(), data, tmp_path)
    train(tiny(), data, tmp_path)
    assert "the learning rate" not in capsys.readouterr().out
    train(tiny(**{"train.kimg": 0.64}), data, tmp_path)
    assert "the learning rate jumps from 0 to 0.002" in capsys.readouterr().out
    train(
        tiny(**{"train.kimg": 0.8, "train.lr_schedule": "constant"}),
        data,
        tmp_path,
        resume="anyway",
    )
    assert "the learning rate" not in capsys.readouterr().out
