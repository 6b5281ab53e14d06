"""Learned weighting, and every objective from training to samples."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import unnoise
from tests.training.runs import assert_same_run, before_step
from unnoise import checkpoint
from unnoise.config import override
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.losses import Batch, LearnedWeighting, Loss
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.schedules import SCHEDULES
from unnoise.errors import ConfigError
from unnoise.presets import OBJECTIVES, named, with_objective
from unnoise.training import loop

TINY = {
    "network.base_channels": 8,
    "train.batch_size": 16,
    "train.kimg": 0.32,
    "train.log_every_kimg": 0.16,
    "train.sample_every_kimg": 1,
    "train.checkpoint_every_kimg": 0.16,
    "sample.steps": 3,
}


def weighting(schedule):
    """A learned weighting, and weighted(loss, t) of images at some times."""
    learned = LearnedWeighting(Loss())
    model = DiffusionModel(torch.nn.Identity(), SCHEDULES[schedule](1000), "v")

    def weighted(loss, t):
        pixels = torch.zeros(len(t), 1, 2, 2)
        return learned.minimised(loss, model, Batch(pixels, pixels, t, None, len(t)))

    return learned, model.schedule, weighted


def test_the_learned_weighting_is_the_plain_loss_at_first():
    loss, t = torch.tensor([0.3, 0.2, 0.1]), torch.tensor([0.1, 1.0, 60.0]).double()
    torch.testing.assert_close(weighting("edm")[2](loss, t), loss)


@pytest.mark.parametrize("schedule", ["edm", "flow", "cosine"])
def test_the_learned_weighting_finds_the_logarithm_of_the_loss(schedule):
    """The minimum of loss / e^u + u over u is log(loss), at every noise level."""
    learned, process, weighted = weighting(schedule)
    random = torch.Generator().manual_seed(0)
    adam = torch.optim.Adam(learned.parameters(), 0.02)
    to_zero = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: 1 - step / 1500
    )  # at a constant rate it never rests
    noise = torch.exp(-0.5 + 1.5 * torch.randn(256, generator=random, dtype=torch.float64))
    t = torch.tensor([process.time(float(n)) for n in noise]).double()
    t = t.round() if process.steps else t
    level = process.level(t)
    loss = 0.05 + 0.5 * torch.sigmoid(torch.log(level.sigma / level.alpha).reshape(-1)).float()
    for _ in range(1500):
        adam.zero_grad()
        weighted(loss, t).mean().backward()
        adam.step()
        to_zero.step()
    error = (learned.expected(level) - loss.log()).abs()
    assert float(error.mean()) < 0.05, error


def test_pure_noise_has_a_finite_weight():
    loss = weighting("flow")[2](torch.ones(2), torch.tensor([0.5, 1.0]).double())
    assert loss.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_and_samples_with_every_solver(name, data, tmp_path):
    config = with_objective(override(named("digits"), TINY), name)
    assert loop.train(config, data, tmp_path / "whole").finished
    whole = checkpoint.checkpoints(tmp_path / "whole" / "checkpoints")
    assert [p.name for p in whole] == ["step-00000010", "step-00000020"]
    losses = [
        json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(
        math.isfinite(line["loss"]) and line["loss"] > 0 for line in losses if "loss" in line
    )
    if name == "edm":
        assert "uncertainty.safetensors" in {p.name for p in whole[-1].iterdir()}
        assert (
            float(load_file(whole[-1] / "uncertainty.safetensors")["linear.weight"].abs().sum()) > 0
        )
    model = unnoise.load(tmp_path / "whole", "cpu")
    for sampler in SAMPLERS:
        images = model.sample(3, sampler=sampler, steps=4)
        assert images.shape == (3, 1, 8, 8) and images.float().std() > 0


def test_a_learned_weighting_resumes_bit_for_bit(data, tmp_path, monkeypatch):
    config = with_objective(override(named("digits"), TINY), "edm")
    loop.train(config, data, tmp_path / "a")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        before_step(patch, 13, lambda: 1 / 0)
        loop.train(config, data, tmp_path / "b")
    loop.train(config, data, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_an_objective_changes_only_the_objective():
    base, changed = named("digits"), named("digits", "flow")
    assert (changed.data, changed.network, changed.train) == (base.data, base.network, base.train)
    assert (
        changed.diffusion.schedule == "flow"
        and changed.sample.guidance_scale == base.sample.guidance_scale
    )
    with pytest.raises(ConfigError, match="objective: no 'edn'; did you mean 'edm'"):
        named("digits", "edn")


@pytest.mark.parametrize("name", ["v", "edm", "flow", "iddpm"])
def test_the_presets_of_objectives_can_be_built(name):
    from unnoise import build

    config = named(name)
    build.check_sampling(config.sample)
    build.diffusion_model(config.diffusion, torch.nn.Identity())
    assert config.preset == name
