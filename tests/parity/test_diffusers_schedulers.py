"""DDPM and DDIM step by step against diffusers' schedulers, float64, with the same network outputs
and noise.

diffusers counts times from 0: its timestep i is our t = i + 1. Its DDIM takes t - T // steps for
the next time, so the spacings agree where that is the grid's own next entry: leading and trailing
with steps that divide T.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from unnoise.diffusion import grids
from unnoise.diffusion.denoiser import DiffusionModel, clip_x0, conditional
from unnoise.diffusion.samplers import SAMPLERS
from unnoise.diffusion.schedules import SCHEDULES

NAMES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
OUTPUTS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
VARIANCES = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}


class Network(torch.nn.Module):
    """A smooth function of image and time, float64; twice the channels for a learned variance."""

    def __init__(self, learned: bool) -> None:
        super().__init__()
        self.learned = learned

    def forward(self, x, time, label=None):
        t = time.reshape(-1, 1, 1, 1).double()
        out = torch.sin(3 * x + t / 100) * 0.8
        return torch.cat([out, torch.cos(2 * x)], 1) if self.learned else out


def draws(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(2, 1, 4, 4, generator=generator, dtype=torch.float64)


def exact(scheduler, schedule):
    """diffusers keeps its table in float32; both sides get ours, so that only the algebra is
    compared."""
    assert torch.allclose(
        scheduler.alphas_cumprod.double(), torch.from_numpy(schedule.alpha_bar[1:]), atol=1e-5
    )
    scheduler.alphas_cumprod = torch.from_numpy(schedule.alpha_bar[1:])
    scheduler.one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def one_step(sampler, denoiser, x, pair, draw, options):
    """Our step from where diffusers is, so that rounding does not grow over a thousand steps."""
    return next(SAMPLERS[sampler](denoiser, x, pair, draw, **options)).x


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize(("eta", "clip"), [(0.0, False), (1.0, False), (0.3, True)])
def test_ddim(schedule, output, spacing, eta, clip):
    process, steps = SCHEDULES[schedule](1000), 20
    theirs = DDIMScheduler(
        1000,
        beta_schedule=NAMES[schedule],
        prediction_type=OUTPUTS[output],
        clip_sample=clip,
        timestep_spacing=spacing,
    )
    exact(theirs, process).set_timesteps(steps)
    net = Network(False)
    denoiser = conditional(DiffusionModel(net, process, output), None)
    denoiser = clip_x0(denoiser) if clip else denoiser
    grid = grids.make(process, steps, spacing)
    assert [int(level.t) - 1 for level in grid[:-1]] == theirs.timesteps.tolist()
    want = draws(0)()
    noise = draws(1)
    ours = draws(1)
    for i, t, s in zip(theirs.timesteps, grid, grid[1:], strict=False):
        x = one_step("ddim", denoiser, want, (t, s), ours, {"eta": eta})
        variance = noise() if eta > 0 and s.sigma > 0 else torch.zeros(()) if eta > 0 else None
        out = net(want, torch.full((2,), float(i)))
        want = theirs.step(
            out, int(i), want, eta=eta, use_clipped_model_output=clip, variance_noise=variance
        ).prev_sample
        torch.testing.assert_close(x, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [pytest.param(1000, marks=pytest.mark.long), 50])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("schedule", NAMES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm(schedule, output, variance, steps, monkeypatch):
    process = SCHEDULES[schedule](1000)
    theirs = DDPMScheduler(
        1000,
        beta_schedule=NAMES[schedule],
        prediction_type=OUTPUTS[output],
        clip_sample=False,
        variance_type=VARIANCES[variance],
        timestep_spacing="leading",
    )
    exact(theirs, process).set_timesteps(steps)
    net, noise = Network(variance == "learned"), draws(1)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, **k: noise()
    )
    model = DiffusionModel(net, process, output, variance)
    grid = grids.make(process, steps, "leading")
    want = draws(0)()
    ours = draws(1)
    for i, t, s in zip(theirs.timesteps, grid, grid[1:], strict=False):
        x = one_step("ddpm", conditional(model, None), want, (t, s), ours, {"variance": variance})
        want = theirs.step(net(want, torch.full((2,), float(i))), int(i), want).prev_sample
        torch.testing.assert_close(x, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("timesteps", [100, 1000])
def test_uniform_is_linspace_half_way_points_too(timesteps):
    process = SCHEDULES["cosine"](timesteps)
    theirs = DDIMScheduler(timesteps, timestep_spacing="linspace")
    for steps in (2, 3, 4, 5, 7, 10, 28, 38, 50, timesteps):
        theirs.set_timesteps(steps)
        grid = grids.make(process, steps, "uniform")
        assert [int(level.t) - 1 for level in grid[:-1]] == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [2, 10, 25])
@pytest.mark.parametrize(
    ("spacing", "option"), [("karras", "use_karras_sigmas"), ("log_snr", "use_lu_lambdas")]
)
def test_spacings_by_noise_on_the_linear_schedule(spacing, option, steps):
    theirs = DPMSolverMultistepScheduler(
        1000, beta_schedule="linear", final_sigmas_type="zero", **{option: True}
    )
    process = SCHEDULES["linear"](1000)
    exact(theirs, process).set_timesteps(steps)
    ours = [level.sigma / level.alpha for level in grids.make(process, steps, spacing)]
    torch.testing.assert_close(torch.tensor(ours), theirs.sigmas, rtol=1e-6, atol=1e-8)
