"""Heun's method: second order from two evaluations per step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser
from unnoise.diffusion.grids import Churned
from unnoise.diffusion.levels import Grid, Transition
from unnoise.diffusion.samplers.first_order import euler
from unnoise.diffusion.samplers.frames import EDM, FLOW, Frame
from unnoise.diffusion.samplers.step import Draw, Step


def _heun(
    denoiser: Denoiser,
    x: Tensor,
    grid: Grid,
    draw: Draw,
    frame: Frame,
    churned: Churned | None = None,
) -> Iterator[Step]:
    """EDM's Algorithm 2; the last step, and one from alpha = 0 by EDM's frame, are first order."""
    levels, noise = churned or Churned(grid)
    for t, t_hat, s in zip(grid, levels, grid[1:], strict=False):
        if t_hat != t:
            up = Transition(t_hat, t)
            x = up.ratio * x + noise * up.beta**0.5 * draw()  # EDM Alg. 2, line 6
        prediction = denoiser(x, t_hat)
        x = euler(prediction, s)
        if s.sigma > 0 and frame.scale(t_hat) > 0:
            change = frame.slope(denoiser(x, s)) - frame.slope(prediction)
            half_step = (frame.time(s) - frame.time(t_hat)) / 2
            x = x + frame.scale(s) * half_step * change  # EDM Alg. 2, line 11
        yield Step(s, x, prediction)


heun = partial(_heun, frame=FLOW)
heun_edm = partial(_heun, frame=EDM)
"""Heun in the frame of EDM: its Algorithm 2 to the last digit."""
