"""Training times, weights and losses against the papers."""

from __future__ import annotations

import pytest
import torch

from unnoise import build
from unnoise.config import DiffusionConfig
from unnoise.diffusion.denoiser import DiffusionModel
from unnoise.diffusion.losses import (
    MIN_SNR_GAMMA,
    TIME_DISTRIBUTIONS,
    WEIGHTINGS,
    Batch,
    Loss,
    draw_times,
)
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, determinant
from unnoise.diffusion.schedules import SCHEDULES


@pytest.mark.parametrize("name", TIME_DISTRIBUTIONS)
@pytest.mark.parametrize("stratified", [False, True])
def test_time_distributions(name, stratified):
    schedule = SCHEDULES[
        {"uniform_discrete": "cosine", "uniform": "flow", "logit_normal": "flow"}.get(name, "edm")
    ](1000)
    t = draw_times(
        TIME_DISTRIBUTIONS[name], schedule, 100_000, torch.Generator().manual_seed(1), stratified
    )
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


def test_snr_weights_are_the_papers():
    schedule = SCHEDULES["cosine"](1000)
    for t in (1.0, 300.0, 700.0, 1000.0):
        level = schedule.level(t)
        snr, clipped = level.snr, min(level.snr, MIN_SNR_GAMMA)
        for name, want in {"x0": clipped, "eps": clipped / snr, "v": clipped / (snr + 1)}.items():
            det = determinant(PARAMETERIZATIONS[name](level, 0.5), level)
            assert float(WEIGHTINGS["min_snr"](level, det)) == pytest.approx(want, rel=1e-6)
            whole = want * snr / clipped
            assert float(WEIGHTINGS["snr"](level, det)) == pytest.approx(whole, rel=1e-6)


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
    Loss()(hybrid, Batch(x0, eps, t, None, 4)).mean().backward()
    simple = Constant(False)
    plain = DiffusionModel(simple, SCHEDULES["linear"](10), "eps")
    Loss()(plain, Batch(x0, eps, t, None, 4)).mean().backward()
    torch.testing.assert_close(net.value.grad, simple.value.grad)  # the bound's mean is detached
    assert net.share is not None and net.share.grad is not None and net.share.grad != 0


@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_flow_at_edms_density_is_the_time_of_a_drawn_noise(shift):
    """ln(sigma / alpha) ~ N(p_mean, p_std^2) at any shift; logit_normal is N(0, 1) without one."""
    u = torch.tensor([0.1, 0.5, 0.8413447460685429], dtype=torch.float64)
    draw = build.times(DiffusionConfig(times="log_normal_sigma", p_mean=-0.5, p_std=1.4))
    flow = SCHEDULES["flow"](0, shift=shift)
    level = flow.level(draw(u, flow))
    noises = torch.log(level.sigma / level.alpha).flatten()
    torch.testing.assert_close(noises, -0.5 + 1.4 * torch.special.ndtri(u))
    standard = build.times(DiffusionConfig(times="log_normal_sigma", p_mean=0.0, p_std=1.0))
    plain = SCHEDULES["flow"](0)
    torch.testing.assert_close(
        standard(u, plain), TIME_DISTRIBUTIONS["logit_normal"](u, plain), rtol=1e-14, atol=0
    )


def test_edms_training_times_follow_the_settings():
    u = torch.tensor([0.5, 0.8413447460685429], dtype=torch.float64)  # the median, and + 1 std
    draw = build.times(DiffusionConfig(times="log_normal_sigma", p_mean=-0.5, p_std=1.4))
    torch.testing.assert_close(
        draw(u, SCHEDULES["edm"](0)).log(), torch.tensor([-0.5, 0.9]).double()
    )
