"""Identities of the core: they walk the registries, so a new row is tested without a new test."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.gaussian import (
    diffuse,
    discretized_log_likelihood,
    kl_divergence,
    log_variance,
)
from unnoise.diffusion.levels import DATA, Level, Transition
from unnoise.diffusion.losses import (
    MIN_SNR_GAMMA,
    TIME_DISTRIBUTIONS,
    WEIGHTINGS,
    Batch,
    Loss,
    draw_times,
)
from unnoise.diffusion.noise import Noise, derive_seed, stream
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, determinant, recover, target
from unnoise.diffusion.schedules import SCHEDULES, Discrete

DISCRETE = [name for name, make in SCHEDULES.items() if make(10).steps is not None]
schedules = pytest.mark.parametrize(
    "schedule", [make(1000) for make in SCHEDULES.values()], ids=list(SCHEDULES)
)


def levels(schedule) -> list[Level]:
    return [schedule.level(t) for t in np.linspace(schedule.t_min, schedule.t_max, 7)]


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@schedules
def test_target_and_recovery_are_inverse(name, schedule):
    x0, eps = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64)
    for level in levels(schedule):
        c = PARAMETERIZATIONS[name](level)
        if abs(determinant(c, level)) < 1e-4:
            continue  # F says nothing about x0 there (eps at pure noise)
        got = recover(c, level, diffuse(x0, eps, level), target(c, x0, eps))
        torch.testing.assert_close(got, (x0, eps), rtol=1e-6, atol=1e-6)


@schedules
def test_network_output_scales_are_those_of_the_table(schedule):
    for level in levels(schedule):
        norm = (level.alpha**2 + level.sigma**2) if schedule.steps else None
        v = determinant(PARAMETERIZATIONS["v"](level), level)
        assert v == pytest.approx(level.alpha**2 + level.sigma**2)
        assert norm is None or v == pytest.approx(1)
        assert determinant(PARAMETERIZATIONS["flow"](level), level) == pytest.approx(
            level.alpha + level.sigma
        )


def test_edm_row_is_edms_table_1():
    for sigma in (0.002, 0.5, 80.0):
        level, sd = Level(sigma, 1.0, sigma), 0.5
        c = PARAMETERIZATIONS["edm"](level)
        c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / (sigma**2 + sd**2) ** 0.5
        x0, eps = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
        y, output = x0 + sigma * eps, torch.randn(1, 1, 2, 2, dtype=torch.float64)
        torch.testing.assert_close(
            recover(c, level, y, output)[0], c_skip * y + c_out * output
        )  # EDM (7)
        assert c.input_scale == pytest.approx(1 / (sigma**2 + sd**2) ** 0.5)
        # lambda(sigma) * |D - x0|^2 is the plain error of F
        error = (output - target(c, x0, eps)) ** 2
        weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
        torch.testing.assert_close(weight * (c_skip * y + c_out * output - x0) ** 2, error)


@pytest.mark.parametrize("name", DISCRETE)
def test_pair_posterior_is_ddpms_tables(name):
    schedule = SCHEDULES[name](1000)
    bar = schedule.alpha_bar
    beta = 1 - bar[1:] / bar[:-1]
    for t in (1, 2, 500, 1000):
        step = Transition(schedule.level(float(t)), schedule.level(t - 1.0))
        assert step.beta == pytest.approx(beta[t - 1], rel=1e-9)
        tilde = (1 - bar[t - 1]) / (1 - bar[t]) * beta[t - 1]  # DDPM (7)
        assert step.beta_tilde == pytest.approx(tilde, rel=1e-9, abs=1e-15)
        x0, x_t = torch.randn(2, 1, 1, 2, 2, dtype=torch.float64)
        first = bar[t - 1] ** 0.5 * beta[t - 1] / (1 - bar[t])
        second = (1 - beta[t - 1]) ** 0.5 * (1 - bar[t - 1]) / (1 - bar[t])
        torch.testing.assert_close(
            step.posterior_mean(x_t, x0), first * x0 + second * x_t, rtol=1e-8, atol=1e-10
        )


@schedules
def test_forward_transitions_compose(schedule):
    a, b, c = (schedule.level(t) for t in np.linspace(schedule.t_max, schedule.t_min, 3))
    ab, bc, ac = Transition(a, b), Transition(b, c), Transition(a, c)
    assert ac.ratio == pytest.approx(ab.ratio * bc.ratio)
    assert ac.beta == pytest.approx(ab.beta + ab.ratio**2 * bc.beta)


def test_linear_and_cosine_tables():
    linear, cosine = SCHEDULES["linear"](1000), SCHEDULES["cosine"](1000)
    np.testing.assert_allclose(
        linear.alpha_bar[1:], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-12
    )
    assert cosine.alpha_bar[0] == 1
    f = lambda u: math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    assert cosine.alpha_bar[500] == pytest.approx(f(0.5) / f(0), rel=1e-9)  # Improved DDPM (17)
    assert 0 < cosine.alpha_bar[1000] < 1e-6
    for name in DISCRETE:
        table = SCHEDULES[name](1000).alpha_bar
        assert np.all(np.diff(table) < 0) and table[-1] > 0


@schedules
def test_levels_of_tensors_equal_levels_of_floats(schedule):
    times = torch.linspace(schedule.t_min, schedule.t_max, 5, dtype=torch.float64)
    times = times.round() if schedule.steps else times
    batch = schedule.level(times)
    assert batch.alpha.shape == (5, 1, 1, 1)
    for i, t in enumerate(times.tolist()):
        one = schedule.level(t)
        assert (batch.alpha[i].item(), batch.sigma[i].item()) == pytest.approx(
            (one.alpha, one.sigma)
        )
        if one.alpha > 0:
            assert one.half_log_snr == pytest.approx(0.5 * math.log(one.snr))


@schedules
def test_time_inverts_noise_to_signal(schedule):
    for noise in (0.05, 0.3, 1.0, 7.0):
        level = schedule.level(schedule.time(noise))
        assert level.sigma / level.alpha == pytest.approx(noise, rel=1e-6)


def test_fractional_times_lie_between():
    schedule = SCHEDULES["cosine"](100)
    below, between, above = (schedule.level(t) for t in (40.0, 40.5, 41.0))
    assert between.half_log_snr == pytest.approx((below.half_log_snr + above.half_log_snr) / 2)
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1)
    with pytest.raises(ValueError, match="no noise level"):
        schedule.level(0.5)


@pytest.mark.parametrize("spacing", grids.SPACINGS)
@schedules
def test_grids_fall_from_noise_to_data(spacing, schedule):
    for steps in (1, 2, 10, 50):
        grid = grids.make(schedule, steps, spacing)
        assert len(grid) == steps + 1
        assert grid[-1] == DATA
        assert all(a.t > b.t for a, b in pairwise(grid))
        assert spacing == "leading" or grid[0].t == schedule.t_max


def test_full_grid_is_every_level_and_more_is_refused():
    schedule = SCHEDULES["linear"](20)
    for spacing in ("leading", "trailing", "uniform"):
        assert [level.t for level in grids.make(schedule, 20, spacing)] == list(range(20, -1, -1))
        with pytest.raises(ValueError, match="expected fewer"):
            grids.make(schedule, 21, spacing)


def test_karras_grid_is_edms():
    grid = grids.make(SCHEDULES["edm"](0), 18, "karras")
    i = np.arange(18)
    want = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7  # EDM (5)
    np.testing.assert_allclose([level.sigma for level in grid[:-1]], want, rtol=1e-9)


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
@pytest.mark.parametrize("stratified", [False, True])
def test_time_distributions(name, stratified):
    schedule = SCHEDULES[
        {"uniform_discrete": "cosine", "uniform": "flow", "logit_normal": "flow"}.get(name, "edm")
    ](1000)
    t = draw_times(name, schedule, 100_000, torch.Generator().manual_seed(1), stratified)
    if name == "uniform_discrete":
        assert t.min() >= 1 and t.max() <= 1000 and torch.equal(t, t.round())
        assert t.mean().item() == pytest.approx(500.5, abs=4)
        counts = torch.bincount(t.long())[1:]
        assert counts.min() > 60 and counts.max() < 140
    elif name == "uniform":
        assert (t.mean().item(), t.std().item()) == pytest.approx((0.5005, 1 / 12**0.5), abs=5e-3)
    else:
        z = torch.log(t) if name == "log_normal_sigma" else torch.logit(t)
        want = (-1.2, 1.2) if name == "log_normal_sigma" else (0.0, 1.0)
        assert (z.mean().item(), z.std().item()) == pytest.approx(want, abs=2e-2)


def test_min_snr_weight_is_the_papers():
    schedule = SCHEDULES["cosine"](1000)
    for t in (1.0, 300.0, 700.0, 1000.0):
        level = schedule.level(t)
        snr, clipped = level.snr, min(level.snr, MIN_SNR_GAMMA)
        for name, want in {"x0": clipped, "eps": clipped / snr, "v": clipped / (snr + 1)}.items():
            det = determinant(PARAMETERIZATIONS[name](level), level)
            assert float(WEIGHTINGS["min_snr"](level, det)) == pytest.approx(want, rel=1e-6)


def test_kl_and_decoder():
    mean1, mean2 = torch.tensor([0.3]), torch.tensor([-0.2])
    p, q = torch.distributions.Normal(mean1, 0.7), torch.distributions.Normal(mean2, 1.3)
    got = kl_divergence(mean1, 2 * math.log(0.7), mean2, 2 * math.log(1.3))
    torch.testing.assert_close(got, torch.distributions.kl_divergence(p, q))
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    total = (
        discretized_log_likelihood(values, torch.full_like(values, 0.123), math.log(0.3))
        .exp()
        .sum()
    )
    assert total.item() == pytest.approx(1, abs=1e-6)  # the 256 bins cover the line


def test_learned_variance_lies_between_the_two():
    schedule = SCHEDULES["cosine"](100)
    step = Transition(schedule.level(50.0), schedule.level(49.0))
    share = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    got = log_variance("learned", step, share, 0.0)
    small, large = log_variance("small", step, None, 0.0), log_variance("large", step, None, 0.0)
    torch.testing.assert_close(
        got, torch.tensor([small, (small + large) / 2, large], dtype=torch.float64)
    )
    with pytest.raises(ValueError, match="learned"):
        log_variance("learned", step, None, 0.0)


class Constant(torch.nn.Module):
    """A network with two numbers for an output: F, and with learned variance v."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(0.1))
        self.share = torch.nn.Parameter(torch.tensor(0.2)) if learned else None

    def forward(self, x, time, label=None):
        parts = [self.value] if self.share is None else [self.value, self.share]
        return torch.cat([p.expand(x.shape) for p in parts], dim=1)


def test_simple_loss_is_the_mean_squared_error():
    net, x0, eps = Constant(False), torch.rand(4, 1, 3, 3), torch.randn(4, 1, 3, 3)
    model = DiffusionModel(net, SCHEDULES["linear"](10), "eps")
    loss = Loss()(model, Batch(x0, eps, torch.tensor([1.0, 4, 7, 10]), None, 4))
    torch.testing.assert_close(loss, ((0.1 - eps) ** 2).mean((1, 2, 3)))  # DDPM (14)


def test_hybrid_loss_trains_the_variance_only_through_the_bound():
    net, x0, eps = Constant(True), torch.rand(4, 1, 3, 3).round() * 2 - 1, torch.randn(4, 1, 3, 3)
    t = torch.tensor([1.0, 4, 7, 10])
    hybrid = DiffusionModel(net, SCHEDULES["linear"](10), "eps", "learned")
    batch, loss = Batch(x0, eps, t, None, 4), Loss()
    loss(hybrid, batch).mean().backward()
    simple = Constant(False)
    loss(DiffusionModel(simple, SCHEDULES["linear"](10), "eps"), batch).mean().backward()
    torch.testing.assert_close(net.value.grad, simple.value.grad)  # the bound's mean is detached
    assert net.share is not None and net.share.grad is not None and net.share.grad != 0


def test_noise_depends_on_the_seed_only():
    together, alone = Noise([3, 4, 5], (1, 2, 2)), Noise([4], (1, 2, 2))
    for _ in range(2):
        torch.testing.assert_close(together.normal()[1], alone.normal()[0], rtol=0, atol=0)
    draws = {
        float(torch.rand((), generator=stream(s, i, n)))
        for s in (0, 1)
        for i in (0, 1)
        for n in ("a", "b")
    }
    assert len(draws) == 8
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_discrete_needs_no_special_length():
    assert isinstance(SCHEDULES["cosine"](4000), Discrete)
    assert SCHEDULES["linear"](4000).alpha_bar[-1] == pytest.approx(
        SCHEDULES["linear"](1000).alpha_bar[-1], rel=0.1
    )
