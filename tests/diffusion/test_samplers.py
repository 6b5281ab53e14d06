"""Samplers against an analytic Gaussian mixture: they walk the registries."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.mixture import Mixture

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, Prediction, clip_x0, conditional
from unnoise.diffusion.guidance import classifier_free
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, determinant
from unnoise.diffusion.samplers import SAMPLERS, walk
from unnoise.diffusion.schedules import SCHEDULES

MIXTURE = Mixture([[-0.6, 0.3], [0.5, 0.1], [0.2, -0.7]], std=0.2)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


class Ensemble:
    """Noise for n two-pixel images at once, float64, from one seed (per-image seeds are slow for thousands)."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def normal(self) -> torch.Tensor:
        return torch.randn(self.count, 1, 1, 2, generator=self.generator, dtype=torch.float64)


def last(sampler, denoiser, grid, noise, options=None):
    *_, step = walk(sampler, denoiser, grid, noise.normal, options)
    return step


@every_sampler
@every_schedule
def test_samples_have_the_moments_of_the_data(sampler, schedule):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, 250, "log_snr")
    x = last(sampler, MIXTURE.denoise, grid, Ensemble(20_000)).x.flatten(1)
    torch.testing.assert_close(x.mean(0), MIXTURE.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(x.T), MIXTURE.covariance(), rtol=0.05, atol=0.01)
    nearest = torch.cdist(x, MIXTURE.means).argmin(1).bincount(minlength=3) / len(x)
    torch.testing.assert_close(nearest.double(), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eta_keeps_the_distribution(eta):
    grid = grids.make(SCHEDULES["cosine"](1000), 250, "log_snr")
    x = last("ddim", MIXTURE.denoise, grid, Ensemble(20_000), {"eta": eta}).x.flatten(1)
    torch.testing.assert_close(torch.cov(x.T), MIXTURE.covariance(), rtol=0.05, atol=0.01)


@every_schedule
def test_ddim_converges_with_order_one(schedule):
    process = SCHEDULES[schedule](1000)
    # A spacing that is smooth in the step number; tabled schedules are piecewise, so not beyond their resolution.
    ends = {
        n: last("ddim", MIXTURE.denoise, grids.make(process, n, "log_snr"), Ensemble(200)).x
        for n in (32, 64, 128, 2048)
    }
    errors = [(ends[n] - ends[2048]).abs().mean().item() for n in (32, 64, 128)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(0.8 < slope < 1.3 for slope in slopes), slopes


@every_sampler
def test_perfect_denoiser_is_exact_at_every_step_count(sampler):
    x0 = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(5, 1, 1, 2)

    def perfect(x_t, level: Level) -> Prediction:
        return Prediction(x0, (x_t - level.alpha * x0) / level.sigma)

    for steps in (1, 2, 7):
        grid = grids.make(SCHEDULES["cosine"](1000), steps, "trailing")
        end = last(sampler, perfect, grid, Ensemble(5))
        torch.testing.assert_close(end.x, x0)
        assert end.level.sigma == 0 and end.nfe == steps


@every_sampler
def test_an_image_depends_on_its_seed_only(sampler):
    grid = grids.make(SCHEDULES["cosine"](100), 10, "trailing")
    double = lambda x, level: MIXTURE.denoise(x.double(), level)
    together = last(sampler, double, grid, Noise([7, 8, 9], (1, 1, 2))).x
    for i, seed in enumerate((7, 8, 9)):
        alone = last(sampler, double, grid, Noise([seed], (1, 1, 2))).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    grid = grids.make(SCHEDULES["linear"](1000), 50, "trailing")
    a = last("ddpm", MIXTURE.denoise, grid, Ensemble(10), {"variance": "small"}).x
    b = last("ddim", MIXTURE.denoise, grid, Ensemble(10), {"eta": 1.0}).x
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_one_ode_in_three_frames():
    """DDIM on a schedule = Euler of EDM's ODE in sigma / alpha = flow's Euler, on the same ratios of noise."""
    ratios = [40.0, 5.0, 1.0, 0.2, 0.05]
    ends = []
    for name in ("cosine", "edm", "flow"):
        process = SCHEDULES[name](1000)
        levels = [process.level(process.time(r)) for r in ratios]
        x = Ensemble(10).normal()
        start = (x * levels[0].sigma, levels)
        *_, step = SAMPLERS["ddim"](MIXTURE.denoise, start[0], levels, Ensemble(10).normal)
        ends.append(step.x / levels[-1].alpha)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ends[1], ends[2], rtol=1e-9, atol=1e-9)


class ByLabel(torch.nn.Module):
    """Outputs its label as F everywhere, and counts the images it saw."""

    seen = 0

    def forward(self, x, time, label=None):
        self.seen += len(x)
        return torch.zeros_like(x) + label.reshape(-1, 1, 1, 1).to(x)


def test_guidance_extrapolates_in_one_call_and_counts_double():
    net = ByLabel()
    model = DiffusionModel(net, SCHEDULES["cosine"](100), "x0")
    x, level, label = torch.randn(2, 1, 2, 2), model.schedule.level(40.0), torch.tensor([3, 5])
    plain = conditional(model, label)(x, level)
    guided = classifier_free(model, label, 10, 2.5)(x, level)
    assert guided.nfe == 2 and plain.nfe == 1 and net.seen == 6
    torch.testing.assert_close(guided.x0[:, 0, 0, 0], 10 + 2.5 * (label - 10.0))
    torch.testing.assert_close(level.alpha * guided.x0 + level.sigma * guided.eps, x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(classifier_free(model, label, 10, 1.0)(x, level).x0, plain.x0)


def test_clipping_keeps_x_t():
    level = SCHEDULES["cosine"](100).level(30.0)
    x = torch.randn(4, 1, 2, 2)
    clipped = clip_x0(lambda x_t, level: Prediction(5 * x_t, x_t))(x, level)
    assert clipped.x0.abs().max() <= 1
    torch.testing.assert_close(level.alpha * clipped.x0 + level.sigma * clipped.eps, x)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@every_schedule
def test_every_objective_on_every_schedule_gives_finite_samples(name, schedule):
    process = SCHEDULES[schedule](100)
    start = process.level(process.t_max)
    if abs(determinant(PARAMETERIZATIONS[name](start), start)) < 1e-8:
        pytest.skip("this output says nothing about x0 at pure noise")

    class Half(torch.nn.Module):
        def forward(self, x, time, label=None):
            return 0.5 * x

    model = DiffusionModel(Half(), process, name)
    for sampler in SAMPLERS:
        denoiser = clip_x0(conditional(model, None))
        for step in walk(sampler, denoiser, grids.make(process, 10, "trailing"), Noise([0, 1], (1, 2, 2)).normal):
            assert step.x.isfinite().all()
