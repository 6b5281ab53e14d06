"""The fast solvers step by step against diffusers' schedulers and EDM's Algorithm 2 as the paper
prints it, float64.

diffusers is given our grid as its table of sigma / alpha, and float64 where it would cast to
float32, so that only the solvers' algebra is compared. Its Heun works on x / alpha, the frame of
`heun_edm`. Its DPM-Solver++ 3M (and the authors' multistep code) gives the second divided
difference half of the exact weight, which is our option curvature = 0.5. Without it ours is the
integral of the polynomial, as the last test here shows, and of third order
(tests/diffusion/test_samplers.py).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, HeunDiscreteScheduler, UniPCMultistepScheduler
from scipy.integrate import quad

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, conditional
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.samplers.exponential import _weights
from unnoise.diffusion.samplers.ipndm import ADAMS_BASHFORTH
from unnoise.diffusion.schedules import SCHEDULES

# below 15 diffusers' multistep solvers lower their order at the end as the papers do, and as ours
# always do
STEPS = 12
every_schedule = pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
MULTISTEP = {
    "dpmpp_2m": (DPMSolverMultistepScheduler, {"solver_order": 2, "algorithm_type": "dpmsolver++"}),
    "dpmpp_3m": (DPMSolverMultistepScheduler, {"solver_order": 3, "algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (
        DPMSolverMultistepScheduler,
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    ),
    "unipc_2": (UniPCMultistepScheduler, {"solver_order": 2, "solver_type": "bh2"}),
    "unipc_3": (UniPCMultistepScheduler, {"solver_order": 3, "solver_type": "bh2"}),
}
OPTIONS = {"dpmpp_3m": {"curvature": 0.5}}


class Network(torch.nn.Module):
    """Some smooth function of image and time."""

    def forward(self, x, time, label=None):
        return torch.sin(3 * x + time.reshape(-1, 1, 1, 1).double() / 100) * 0.8


network = Network()


def noise(seed: int) -> torch.Tensor:
    return torch.randn(
        2, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def counted(start: int):
    """Draws of standard noise, the same sequence for both sides."""
    seeds = iter(range(start, start + 1000))
    return lambda: noise(next(seeds))


def ratios(grid) -> torch.Tensor:
    return torch.tensor([level.sigma / level.alpha for level in grid], dtype=torch.float64)


def denoiser(process, output="eps"):
    return conditional(DiffusionModel(network, process, output), None)


class Exact:
    """torch for a module that casts to float32: there it gets float64."""

    float32 = torch.float64

    def __getattr__(self, name: str):
        return getattr(torch, name)


@pytest.mark.parametrize("output", ["eps", "v"])
@pytest.mark.parametrize("spacing", ["trailing", "log_snr"])
@pytest.mark.parametrize("sampler", MULTISTEP)
@every_schedule
def test_multistep(schedule, sampler, spacing, output, monkeypatch):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, STEPS, spacing)
    kind, options = MULTISTEP[sampler]
    names = {"eps": "epsilon", "v": "v_prediction"}
    theirs = kind(
        1000,
        prediction_type=names[output],
        timestep_spacing="trailing",
        final_sigmas_type="zero",
        **options,
    )
    theirs.set_timesteps(STEPS)
    theirs.sigmas = ratios(grid)
    drawn = counted(100)
    monkeypatch.setattr("diffusers.schedulers.scheduling_dpmsolver_multistep.torch", Exact())
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor", lambda *a, **k: drawn()
    )
    x = want = noise(0)
    # Ours draws no noise in the last step, diffusers draws and multiplies it by 0.
    given = OPTIONS.get(sampler, {})
    ours = SAMPLERS[sampler](denoiser(process, output), x, grid, counted(100), **given)
    for step, i, level in zip(ours, theirs.timesteps, grid, strict=False):
        time = torch.full((2,), float(process.network_time(level)))
        want = theirs.step(network(want, time), i, want).prev_sample
        torch.testing.assert_close(step.x, want, rtol=1e-6, atol=1e-6)


@every_schedule
def test_heun_in_the_frame_of_edm(schedule):
    process = SCHEDULES[schedule](1000)
    grid = grids.make(process, STEPS, "log_snr")
    theirs = HeunDiscreteScheduler(1000, prediction_type="sample")
    theirs.set_timesteps(STEPS)
    sigmas = ratios(grid)
    theirs.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    denoise = denoiser(process)
    x = noise(0)
    want = x / grid[0].alpha
    ours = SAMPLERS["heun_edm"](denoise, x, grid, counted(0))
    calls = iter(
        [0, *(i for i in range(1, STEPS) for _ in (0, 1))]
    )  # the levels diffusers evaluates at
    for step, s in zip(ours, grid[1:], strict=True):
        for _ in range(2 if s.sigma > 0 else 1):
            level = grid[next(calls)]
            want = theirs.step(
                denoise(level.alpha * want, level).x0, theirs.timesteps[0], want
            ).prev_sample
        torch.testing.assert_close(step.x / s.alpha, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("churn", [0.0, 10.0, 40.0])
def test_heun_is_edm_algorithm_2(churn):
    process = SCHEDULES["edm"](0)
    grid = grids.make(process, 18, "karras")
    low, high, s_noise = 0.05, 50.0, 1.003
    denoise = denoiser(process, "edm")

    def D(x, sigma):
        return denoise(x, process.level(float(sigma))).x0

    raised = grids.churned(process, grid, churn, (low, high), s_noise)
    ours = SAMPLERS["heun_edm"](denoise, 80 * noise(0), grid, counted(50), churned=raised)
    # Karras et al. 2022, Algorithm 2, line by line.
    draw, N = counted(50), 18
    i = torch.arange(N, dtype=torch.float64)
    t = torch.cat(
        [(80 ** (1 / 7) + i / (N - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7, torch.zeros(1)]
    )
    x = t[0] * noise(0)
    for k, step in zip(range(N), ours, strict=True):
        gamma = min(churn / N, 2**0.5 - 1) if low <= t[k] <= high else 0.0
        t_hat = min(t[k] + gamma * t[k], torch.tensor(80.0).double())
        if gamma > 0:
            x = x + (t_hat**2 - t[k] ** 2).sqrt() * s_noise * draw()
        d = (x - D(x, t_hat)) / t_hat
        x_next = x + (t[k + 1] - t_hat) * d
        if t[k + 1] != 0:
            d_next = (x_next - D(x_next, t[k + 1])) / t[k + 1]
            x_next = x + (t[k + 1] - t_hat) * (0.5 * d + 0.5 * d_next)
        x = x_next
        torch.testing.assert_close(step.x, x, rtol=1e-9, atol=1e-9)


def test_ipndm_in_the_frame_of_edm_is_adams_bashforth_on_the_noise():
    process = SCHEDULES["edm"](0)
    grid = grids.make(process, 12, "karras")
    denoise = denoiser(process, "edm")
    ours = SAMPLERS["ipndm_edm"](denoise, 80 * noise(0), grid, counted(0))
    x, history = 80 * noise(0), []
    for step, (t, s) in zip(ours, pairwise(grid), strict=True):
        history = [denoise(x, t).eps, *history][:4] if s.sigma > 0 else [denoise(x, t).eps]
        weights = ADAMS_BASHFORTH[len(history) - 1]
        x = x + (s.sigma - t.sigma) * sum(w * d for w, d in zip(weights, history, strict=True))
        torch.testing.assert_close(step.x, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_bashforth_weights_integrate_polynomials(order):
    nodes = -torch.arange(order, dtype=torch.float64)
    weights = torch.tensor(ADAMS_BASHFORTH[order - 1], dtype=torch.float64)
    for power in range(order):
        torch.testing.assert_close(
            (weights * nodes**power).sum(), torch.tensor(1 / (power + 1)).double()
        )


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exponential_weights_integrate_the_polynomial(schedule, levels):
    grid = grids.make(SCHEDULES[schedule](1000), 30, "log_snr")[10:]
    past, s = grid[:levels][::-1], grid[levels]  # the newest first
    t = past[0]
    nodes = np.array([float(level.half_log_snr) for level in past])
    end = float(s.half_log_snr)
    for k, weight in enumerate(_weights(t, s, past)):
        basis = np.poly1d(np.poly(np.delete(nodes, k)) / np.prod(nodes[k] - np.delete(nodes, k)))
        integral, _ = quad(lambda u, basis=basis: np.exp(u - end) * basis(u), nodes[0], end)
        if levels == 2:  # the papers' exception: half of 1 - e^-h on the difference
            half = (1 - np.exp(nodes[0] - end)) / 2 * (end - nodes[0]) / (nodes[0] - nodes[1])
            integral = (1 - np.exp(nodes[0] - end)) * (k == 0) + (half if k == 0 else -half)
        assert weight == pytest.approx(integral, rel=1e-7, abs=1e-9)
