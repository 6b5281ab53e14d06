"""Samplers against an analytic Gaussian mixture: they walk the registries."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch
from tests.mixture import Mixture

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, Prediction, clip_x0, conditional
from unnoise.diffusion.levels import Level
from unnoise.diffusion.noise import Noise
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, determinant
from unnoise.diffusion.samplers import (
    SAMPLERS,
    evaluations,
    options,
    steps_within,
    stochastic,
    walk,
)
from unnoise.diffusion.samplers.step import Step
from unnoise.diffusion.schedules import SCHEDULES

MIXTURE = Mixture([[-0.6, 0.3], [0.5, 0.1], [0.2, -0.7]], std=0.2)
ORDERS = {"ddim": 1, "euler": 1}
"""Global order with first-order steps at both ends; 2 for the others: one first-order step has a
local error of order 2."""
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)


class Ensemble:
    """Noise for n two-pixel images at once, float64, from one seed (per-image seeds are slow for
    thousands)."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.generator = count, torch.Generator().manual_seed(seed)

    def normal(self) -> torch.Tensor:
        return torch.randn(self.count, 1, 1, 2, generator=self.generator, dtype=torch.float64)


def last(sampler, denoiser, grid, noise, options=None):
    *_, step = walk(sampler, denoiser, grid, noise.normal, options)
    return step


FEW = ("cosine", "edm", "flow")  # make test-all has the others; the orders below are of all


@every_sampler
@pytest.mark.parametrize(
    "schedule",
    [pytest.param(name, marks=[pytest.mark.long] * (name not in FEW)) for name in SCHEDULES],
)
def test_samples_have_the_moments_of_the_data(sampler, schedule):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, 250 if sampler in {"ddpm", *ORDERS} else 60, "log_snr")
    x = last(sampler, MIXTURE.denoise, grid, Ensemble(10_000)).x.flatten(1)
    torch.testing.assert_close(x.mean(0), MIXTURE.mean(), rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(x.T), MIXTURE.covariance(), rtol=0.05, atol=0.01)
    nearest = torch.cdist(x, MIXTURE.means).argmin(1).bincount(minlength=3) / len(x)
    torch.testing.assert_close(
        nearest.double(), torch.full((3,), 1 / 3).double(), rtol=0, atol=0.03
    )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_eta_keeps_the_distribution(eta):
    grid = grids.make(SCHEDULES["cosine"](1000), 250, "log_snr")
    x = last("ddim", MIXTURE.denoise, grid, Ensemble(20_000), {"eta": eta}).x.flatten(1)
    torch.testing.assert_close(torch.cov(x.T), MIXTURE.covariance(), rtol=0.05, atol=0.01)


@cache
def ode_end(sampler: str, schedule: str, steps: int) -> torch.Tensor:
    """Where a deterministic sampler brings fixed noise, from sigma / alpha = 20 to 0.05 in even
    log-SNR steps."""
    process, high, low = SCHEDULES[schedule](1000), 20.0, 0.05
    noises = high * (low / high) ** (torch.arange(steps + 1, dtype=torch.float64) / steps)
    grid = [process.level(process.time(float(noise))) for noise in noises]
    x = grid[0].sigma * Ensemble(50).normal()
    *_, step = SAMPLERS[sampler](MIXTURE.denoise, x, grid, Ensemble(50).normal)
    return step.x


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not stochastic(name)])
@every_schedule
def test_order_of_convergence(sampler, schedule):
    reference = ode_end("dpmpp_3m", schedule, 2048)
    errors = [
        (ode_end(sampler, schedule, n) - reference).abs().mean().item() for n in (32, 64, 128)
    ]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    order = ORDERS.get(sampler, 2)
    assert all(order - 0.2 < slope < order + 0.4 for slope in slopes), slopes


@pytest.mark.parametrize(
    ("sampler", "order"), [("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc_2", 3), ("unipc_3", 4)]
)
def test_order_between_the_ends(sampler, order):
    """With fine first and last steps (of length h^2) the order of the formulas themselves shows."""

    def end(name: str, steps: int) -> torch.Tensor:
        h = 1 / steps
        fine = torch.arange(1, 5, dtype=torch.float64) * h**2
        u = (
            torch.cat([torch.arange(steps + 1, dtype=torch.float64) * h, fine, 1 - fine])
            .sort()
            .values
        )
        noises = (20.0 * (0.05 / 20.0) ** u).tolist()
        grid = [Level(0.0, (1 + r * r) ** -0.5, r * (1 + r * r) ** -0.5) for r in noises]
        x = grid[0].sigma * Ensemble(100).normal()
        *_, step = SAMPLERS[name](MIXTURE.denoise, x, grid, Ensemble(100).normal)
        return step.x

    reference = end("unipc_3", 1024)
    errors = [(end(sampler, n) - reference).abs().mean().item() for n in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(order - 0.5 < slope < order + 0.4 for slope in slopes), slopes


@every_sampler
def test_perfect_denoiser_is_exact_at_every_step_count(sampler):
    x0 = torch.tensor([0.3, -0.8], dtype=torch.float64).expand(5, 1, 1, 2)

    def perfect(x_t, level: Level) -> Prediction:
        return Prediction(x0, (x_t - level.alpha * x0) / level.sigma)

    for steps in (1, 2, 7):
        grid = grids.make(SCHEDULES["cosine"](1000), steps, "trailing")
        end = last(sampler, perfect, grid, Ensemble(5))
        torch.testing.assert_close(end.x, x0)
        assert end.level.sigma == 0 and end.nfe == evaluations(sampler, steps)


@every_sampler
def test_an_image_depends_on_its_seed_only(sampler):
    grid = grids.make(SCHEDULES["cosine"](100), 10, "trailing")
    double = lambda x, level: MIXTURE.denoise(x.double(), level)
    together = last(sampler, double, grid, Noise([7, 8, 9], (1, 1, 2))).x
    for i, seed in enumerate((7, 8, 9)):
        alone = last(sampler, double, grid, Noise([seed], (1, 1, 2))).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


def test_a_new_sampler_is_one_function_and_one_line(monkeypatch):
    """Its options, its cost and whether it is stochastic are found by asking and running it."""

    def twice(denoiser, x, grid, draw, noise: float = 0.0, share: float = 0.5):
        for t, s in pairwise(grid):
            first, second = denoiser(x, t), denoiser(x, t)
            eps = share * first.eps + (1 - share) * second.eps
            x = s.alpha * first.x0 + s.sigma * eps
            x = x + noise * s.sigma * draw() if noise > 0 else x
            yield Step(s, x, first)

    monkeypatch.setitem(SAMPLERS, "twice", twice)
    test_perfect_denoiser_is_exact_at_every_step_count("twice")
    test_an_image_depends_on_its_seed_only("twice")
    assert options("twice") == ["noise", "share"]
    assert evaluations("twice", 5) == 10 and steps_within("twice", 9) == 4
    assert not stochastic("twice") and stochastic("twice", options={"noise": 0.1})


def test_what_samplers_take_cost_and_draw():
    assert options("heun") == options("heun_edm") == ["churned"]  # the frame is fixed
    assert options("dpmpp_3m") == ["curvature"] and options("dpmpp_2m") == []
    assert {name for name in SAMPLERS if stochastic(name)} == {"ddpm", "dpmpp_2m_sde"}
    assert stochastic("ddim", options={"eta": 0.1})
    process = SCHEDULES["cosine"](1000)
    grid = grids.make(process, 5, "trailing")
    raised = grids.churned(process, grid, 5.0, (0.0, 1e9))
    assert stochastic("heun", grid, {"churned": raised}) and not stochastic("heun", grid)
    for name in SAMPLERS:
        assert evaluations(name, 6) == (11 if name.startswith("heun") else 6)
        assert steps_within(name, 5) == (3 if name.startswith("heun") else 5)


def test_ddim_with_eta_1_is_the_ancestral_sampler():
    grid = grids.make(SCHEDULES["linear"](1000), 50, "trailing")
    a = last("ddpm", MIXTURE.denoise, grid, Ensemble(10), {"variance": "small"}).x
    b = last("ddim", MIXTURE.denoise, grid, Ensemble(10), {"eta": 1.0}).x
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_one_ode_in_three_frames():
    """DDIM on a schedule = Euler of EDM's ODE in sigma / alpha = flow's Euler, on the same ratios
    of noise."""
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


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@every_schedule
def test_every_objective_on_every_schedule_gives_finite_samples(name, schedule):
    process = SCHEDULES[schedule](100)
    start = process.level(process.t_max)
    if abs(determinant(PARAMETERIZATIONS[name](start, 0.5), start)) < 1e-8:
        pytest.skip("this output says nothing about x0 at pure noise")

    class Half(torch.nn.Module):
        def forward(self, x, time, label=None):
            return 0.5 * x

    model = DiffusionModel(Half(), process, name)
    for sampler in SAMPLERS:
        denoiser = clip_x0(conditional(model, None))
        for step in walk(
            sampler, denoiser, grids.make(process, 10, "trailing"), Noise([0, 1], (1, 2, 2)).normal
        ):
            assert step.x.isfinite().all()
