"""The likelihood of the probability-flow ODE, by the change of variables.   (docs/maths.md, 11)

In the flow frame y = x / (alpha + sigma), u = sigma / (alpha + sigma) the ODE is
dy/du = eps - x0 = slope, also where alpha is 0, and  d log p(y) / du = -tr(d slope / dy).
From data to noise:

    log p(x0) = log N(x_T; 0, prior) + integral over u of tr(d slope / dy)
                + d log(scale_T / scale_1 * alpha_1)

- The ODE starts at the schedule's smallest noise t_1, at x = alpha_1 x0: the density is that of
  x_1 / alpha_1.
- Uniform dequantisation: x0 = (grey + v - 1/2) / 127.5 - 1 with v in [0, 1) from the image's seed.
  By Jensen's inequality the mean over v of -log2 p(x0) / d + log2(127.5) is an upper bound on -log2
  P(image) / d.
- Trace: v^T J v with the image's own Rademacher probes v, the same all along the way: unbiased for
  the solved integral; or exact, by one backward pass for each of the d dimensions.
- Solver: the classical Runge-Kutta method in even steps of tau = log(u / (1 + c - u)), c = 0, or
  1/80 where u reaches 1: tau is log(sigma / alpha) but for the end at pure noise. Even steps, and
  not adaptive ones, so that an image's number does not depend on its batch. The error is estimated
  from the difference to half as many steps (Richardson).
- The network is not guided and x0 not clipped: the ODE must be smooth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise import build, events
from unnoise.diffusion.denoiser import Denoiser
from unnoise.diffusion.gaussian import NATS_PER_BIT
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers.frames import FLOW
from unnoise.diffusion.schedules import SIGMA_RANGE, Schedule
from unnoise.errors import ConfigError
from unnoise.evaluation.likelihood import common
from unnoise.evaluation.likelihood.common import Likelihood, Portion, Work
from unnoise.precision import full_precision

GREY_LEVELS_PER_UNIT = 127.5
CHECKED_IMAGES = 8
"""Images on which the error of the steps is estimated."""


RUNGE_KUTTA = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))
"""Each stage lies a share of the step along the slope before it, and has a weight."""
ORDER = 4
TRACES = ("rademacher", "exact")


@dataclass(frozen=True)
class OdeSettings:
    """How the ODE and its trace are computed."""

    steps: int = 32
    """Steps of the solver; each takes four evaluations, with gradients."""
    trace: str = "rademacher"
    """Probes of the trace estimator: rademacher; or exact, for few pixels."""
    probes: int = 1
    """Probes per image, averaged."""


class Clock:
    """The solver's time tau of a schedule's noise: u = (1 + c) / (1 + e^-tau)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.first, self.last = schedule.level(schedule.t_min), schedule.level(schedule.t_max)
        self.reach = 1.0 + (1 / SIGMA_RANGE[1] if self.last.alpha == 0 else 0.0)
        self.start, self.end = (self._tau(FLOW.time(level)) for level in (self.first, self.last))

    def _tau(self, u: float) -> float:
        return math.log(u / (self.reach - u))

    def at(self, tau: float) -> tuple[Level, float]:
        """The level, and du / dtau there."""
        u = self.reach / (1 + math.exp(-tau))
        speed = u * (self.reach - u) / self.reach
        if tau <= self.start:
            return self.first, speed
        if tau >= self.end - 1e-12:
            return self.last, speed
        return self.schedule.level(self.schedule.time(u / (1 - u))), speed


def to_noise(
    denoiser: Denoiser,
    x0: Float[Tensor, "b c h w"],
    schedule: Schedule,
    settings: OdeSettings,
    probes: Sequence[Tensor],
    progress: Callable[[int], object] = lambda steps: None,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, " b"]]:
    """Solve the ODE from data to noise: where it ends, and log p(x0) - log p(noise) in nats.

    The trace is the sum of v^T J v over the probes v, each shaped like x0.
    """
    clock = Clock(schedule)
    h = (clock.end - clock.start) / settings.steps
    first, last = FLOW.scale(clock.first), FLOW.scale(clock.last)
    y = x0 * (float(clock.first.alpha) / first)
    volume = torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
    for i in range(settings.steps):
        slope, slopes, traces = torch.zeros_like(y), torch.zeros_like(y), torch.zeros_like(volume)
        for part, weight in RUNGE_KUTTA:
            level, speed = clock.at(clock.start + (i + part) * h)
            slope, trace = _slope_and_trace(denoiser, y + h * part * slope, level, speed, probes)
            slopes, traces = slopes + weight * slope, traces + weight * trace
        y, volume = y + h * slopes, volume + h * traces
        progress(1)
    scales = math.log(last / first * float(clock.first.alpha))
    return last * y, volume + x0[0].numel() * scales


def _slope_and_trace(
    denoiser: Denoiser, y: Tensor, level: Level, speed: float, probes: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """dy/dtau (b, c, h, w) and the trace of its derivative by y, (b,)."""
    y = y.detach().requires_grad_()
    with torch.enable_grad():
        slope = speed * FLOW.slope(denoiser(FLOW.scale(level) * y, level))
    trace = torch.zeros(len(y), dtype=y.dtype, device=y.device)
    for probe in probes:
        probe = probe.expand_as(slope)
        (row,) = torch.autograd.grad(slope, y, probe, retain_graph=True)
        trace = trace + (row * probe).flatten(1).sum(1)
    return slope.detach(), trace


def make_probes(settings: OdeSettings, portion: Portion) -> list[Tensor]:
    """Vectors v whose v^T J v add up to the trace: each image's own, or the basis."""
    x0 = portion.x0
    if settings.trace == "exact":
        basis = torch.eye(x0[0].numel(), dtype=x0.dtype, device=x0.device)
        return list(basis.reshape(-1, 1, *x0.shape[1:]))
    noise = portion.noise("probes")
    signs = [torch.where(noise.normal() < 0, -1.0, 1.0).to(x0) for _ in range(settings.probes)]
    return [sign / settings.probes**0.5 for sign in signs]


def dequantise(portion: Portion) -> Float[Tensor, "b c h w"]:
    """Each grey level spread evenly over its bin, which is 1 / 127.5 wide around it."""
    v = portion.uniform("dequantise", *portion.x0.shape[1:])
    return portion.x0 + (v.to(portion.x0) - 0.5) / GREY_LEVELS_PER_UNIT


def log_normal(x: Float[Tensor, "b c h w"], variance: float) -> Float[Tensor, " b"]:
    """log N(x; 0, variance) in nats."""
    return -0.5 * ((x**2 / variance) + math.log(2 * math.pi * variance)).flatten(1).sum(1)


def ode_likelihood(work: Work, settings: OdeSettings) -> Likelihood:
    """Bits/dim of each image by the ODE."""
    build.lookup(dict.fromkeys(TRACES), settings.trace, "ode.trace")
    if settings.steps < 2 or settings.probes < 1:
        got = f"{settings.steps} steps and {settings.probes} probes"
        expected = "expected 2 steps or more (half of them say the error) and 1 probe or more"
        raise ConfigError(f"ode: got {got}, {expected}")
    schedule = work.model.diffusion.schedule
    prior_variance = common.prior_variance(schedule, schedule.level(schedule.t_max))
    half, few = replace(settings, steps=settings.steps // 2), work.first(CHECKED_IMAGES)
    counter = events.Counter("ode", settings.steps * work.count + half.steps, "step")

    def solve(work: Work, settings: OdeSettings) -> tuple[Tensor, Tensor]:
        """The two parts of the bits of all images, (n,) on the CPU."""
        parts = []
        for portion in work.portions():
            unit, probes = portion.x0[0].numel() * NATS_PER_BIT, make_probes(settings, portion)
            noise, volume = to_noise(
                portion.denoiser, dequantise(portion), schedule, settings, probes, counter.step
            )
            parts.append((-log_normal(noise, prior_variance).cpu() / unit, -volume.cpu() / unit))
        prior, volume = (torch.cat(part) for part in zip(*parts, strict=True))
        return prior, volume

    with torch.inference_mode(False), full_precision():
        prior, volume = solve(work, settings)
        rough = sum(solve(few, half))
    difference = (prior + volume)[:CHECKED_IMAGES] - rough
    size = work.images[0].numel()
    recipe = {
        "method": "probability-flow ODE",
        **work.recipe(),
        **asdict(settings),
        "solver": "rk4",
        "probes": size if settings.trace == "exact" else settings.probes,
        "evaluations": settings.steps * len(RUNGE_KUTTA),
        "t_min": schedule.t_min,
        "prior_variance": prior_variance,
        "dequantisation": "uniform, one draw per image",
    }
    parts = {
        "prior": float(prior.mean()),
        "volume": float(volume.mean()),
        "dequantisation": math.log2(GREY_LEVELS_PER_UNIT),
        "solver_error": float(difference.abs().mean()) / (2**ORDER - 1),
    }
    return Likelihood(prior + volume + math.log2(GREY_LEVELS_PER_UNIT), parts, recipe)
