"""DPM-Solver++, UniPC and Heun along whole trajectories, float64, against diffusers' schedulers and EDM's Algorithm 2.

diffusers' tables are float32; theirs are replaced by float64 copies, and our grids are made of their sigmas, so that only
the algebra is compared. DPM-Solver++ 3M is not here: diffusers (like the authors' code) halves the second divided
difference, which costs an order (see docs/maths.md, 7); the test at the end shows exactly that difference.
"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler
from tests.parity.test_diffusers_schedulers import OUTPUTS, Network, draws

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, Prediction, conditional
from unnoise.diffusion.levels import DATA, Level
from unnoise.diffusion.samplers import walk
from unnoise.diffusion.samplers.exponential import _advance
from unnoise.diffusion.schedules import SCHEDULES

STEPS = 12


class InDouble:
    """torch, with float64 for float32: DPMSolverMultistepScheduler casts the samples it is given."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def levels(scheduler) -> list[Level]:
    """Our grid from their sigma / alpha, which are made float64 on the way."""
    scheduler.sigmas = scheduler.sigmas.double()
    ratios = scheduler.sigmas[:-1].tolist()
    times = scheduler.timesteps.tolist()
    noisy = [Level(t + 1.0, (1 + r * r) ** -0.5, r * (1 + r * r) ** -0.5) for t, r in zip(times, ratios, strict=True)]
    return [*noisy, DATA]


def trajectories(scheduler, sampler, output, noise=None):
    """The end of ours and of theirs, from the same noise and network."""
    scheduler.set_timesteps(STEPS)
    grid, net = levels(scheduler), Network(False)
    *_, ours = walk(sampler, conditional(DiffusionModel(net, SCHEDULES["linear"](1000), output), None), grid, draws(0))
    x = grid[0].sigma * draws(0)()
    generator = draws(0)
    generator()
    for t in scheduler.timesteps:
        extra = {"variance_noise": generator()} if noise else {}
        x = scheduler.step(net(x, torch.full((2,), float(t))), t, x, **extra).prev_sample
    return ours.x, x


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", ["dpmsolver++", "sde-dpmsolver++"])
def test_dpm_solver_pp_2m(output, kind, monkeypatch):
    monkeypatch.setattr("diffusers.schedulers.scheduling_dpmsolver_multistep.torch", InDouble())
    scheduler = DPMSolverMultistepScheduler(
        1000, algorithm_type=kind, prediction_type=OUTPUTS[output], final_sigmas_type="zero", use_karras_sigmas=True
    )
    sampler = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}[kind]
    ours, theirs = trajectories(scheduler, sampler, output, noise=kind.startswith("sde"))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("order", [2, 3])
def test_unipc(output, order):
    scheduler = UniPCMultistepScheduler(
        1000, solver_order=order, prediction_type=OUTPUTS[output], final_sigmas_type="zero", use_karras_sigmas=True
    )
    ours, theirs = trajectories(scheduler, f"unipc_{order}", output)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_heun_in_the_edm_frame_is_the_common_heun():
    """HeunDiscreteScheduler keeps x / alpha and scales the network's input itself."""
    scheduler = HeunDiscreteScheduler(1000, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    scheduler.sigmas = scheduler.sigmas.double()
    ratios = [*scheduler.sigmas[:-1:2].tolist()]
    times = [*scheduler.timesteps[::2].tolist()]
    grid = [Level(t + 1.0, (1 + r * r) ** -0.5, r * (1 + r * r) ** -0.5) for t, r in zip(times, ratios, strict=True)]
    net = Network(False)
    model = DiffusionModel(net, SCHEDULES["linear"](1000), "eps")
    *_, ours = walk("heun_edm", conditional(model, None), [*grid, DATA], draws(0))
    x = ratios[0] * draws(0)()
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), torch.full((2,), float(t))), t, x).prev_sample
    torch.testing.assert_close(ours.x, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("churn", [0.0, 30.0])
def test_heun_in_the_edm_frame_is_edms_algorithm_2(churn):
    low, high, s_noise = 0.05, 50.0, 1.007

    def denoised(x, sigma):
        return torch.tanh(x / (1 + sigma**2))

    def denoiser(x, level):
        x0 = denoised(x, level.sigma)
        return Prediction(x0, (x - x0) / level.sigma)

    schedule = SCHEDULES["edm"](0)
    grid = grids.make(schedule, 18, "karras")
    t = torch.linspace(0, 1, 18, dtype=torch.float64)
    t = [*((80 ** (1 / 7) + t * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).tolist(), 0.0]
    options = {"churned": grids.churned(schedule, grid, churn, low, high), "churn_noise": s_noise}
    *_, ours = walk("heun_edm", denoiser, grid, draws(0), options)
    draw = draws(0)
    x = t[0] * draw()
    for i in range(18):
        gamma = min(churn / 18, 2**0.5 - 1) if low <= t[i] <= high else 0.0
        t_hat = min(t[i] * (1 + gamma), 80.0)
        if gamma > 0 and t_hat > t[i]:
            x = x + (t_hat**2 - t[i] ** 2) ** 0.5 * s_noise * draw()
        slope = (x - denoised(x, t_hat)) / t_hat
        euler = x + (t[i + 1] - t_hat) * slope
        if t[i + 1] > 0:
            slope = (slope + (euler - denoised(euler, t[i + 1])) / t[i + 1]) / 2
        x = x + (t[i + 1] - t_hat) * slope
    torch.testing.assert_close(ours.x, x, rtol=1e-9, atol=1e-9)


def test_3m_halves_the_second_difference_in_diffusers(monkeypatch):
    """Theirs: x0(u) = m0 + D1 u + D2/2 u^2 in u = (lambda - lambda_t) / h. Through the three points it is D2 u^2."""
    monkeypatch.setattr("diffusers.schedulers.scheduling_dpmsolver_multistep.torch", InDouble())
    scheduler = DPMSolverMultistepScheduler(1000, solver_order=3, use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    grid = levels(scheduler)
    before2, before, t, s = grid[3:7]
    x, (m2, m1, m0) = draws(0)(), (draws(i)() for i in (1, 2, 3))
    scheduler._step_index = 5
    theirs = scheduler.multistep_dpm_solver_third_order_update([m2, m1, m0], sample=x)
    ours = _advance(x, t, s, [(t, m0), (before, m1), (before2, m2)])
    h = s.half_log_snr - t.half_log_snr
    r0, r1 = ((a.half_log_snr - b.half_log_snr) / h for a, b in ((t, before), (before, before2)))
    d2 = ((m0 - m1) / r0 - (m1 - m2) / r1) / (r0 + r1)
    moment = 1 - 2 / h * (1 - (1 - math.exp(-h)) / h)
    torch.testing.assert_close(ours - theirs, s.alpha * moment / 2 * d2, rtol=1e-6, atol=1e-9)
