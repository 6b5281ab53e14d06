"""First order: ancestral DDPM, and DDIM, which is Euler's method in every frame."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.gaussian import log_variance
from unnoise.diffusion.levels import Grid, Level, Transition
from unnoise.diffusion.samplers.step import Draw, Step


def euler(prediction: Prediction, s: Level) -> Tensor:
    """x_s = alpha_s * x0 + sigma_s * eps: every ODE solver's first-order step, exact on data."""
    return s.alpha * prediction.x0 + s.sigma * prediction.eps  # DDIM (12), eta = 0


def ddpm(
    denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw, variance: str = "small"
) -> Iterator[Step]:
    """Ancestral sampling from p(x_s | x_t).

    A grid with fewer levels than the schedule is the respaced process. Where the grid goes up again
    (editing.zigzag), it takes a step of the forward process q(x_s | x_t), without evaluation.
    """
    prediction = Prediction(x, x)
    for t, s in pairwise(grid):
        if s.t > t.t:
            up = Transition(s, t)
            x = up.ratio * x + up.beta**0.5 * draw()  # RePaint Alg. 1, line 10
            yield Step(s, x, prediction)
            continue
        step = Transition(t, s)
        prediction = denoiser(x, t)
        x = step.posterior_mean(x, prediction.x0)  # DDPM Alg. 2
        if s.sigma > 0:
            log_var = torch.as_tensor(log_variance(variance, step, prediction.var_frac, 0.0))
            x = x + torch.exp(0.5 * log_var).to(x.dtype) * draw()
        yield Step(s, x, prediction)


def ddim(denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw, eta: float = 0.0) -> Iterator[Step]:
    """First order: eta = 0 is deterministic, EDM's and flow's Euler step too; 1 is ancestral."""
    for t, s in pairwise(grid):
        prediction = denoiser(x, t)
        variance = eta**2 * Transition(t, s).beta_tilde  # DDIM (16)
        x = s.alpha * prediction.x0 + (s.sigma**2 - variance) ** 0.5 * prediction.eps  # DDIM (12)
        if variance > 0:
            x = x + variance**0.5 * draw()
        yield Step(s, x, prediction)
