"""Two ways to write the probability-flow ODE as dy/du = slope.

Here y = x / scale(level) and u = time(level). x_s = alpha_s x0 + sigma_s eps is the Euler step of
both (and of every other frame), so solvers start from it, and a frame only says how slopes at
several levels are combined.

    flow | y = x / (alpha + sigma) | u = sigma / (alpha + sigma) in [0, 1] | slope = eps - x0
    edm  | y = x / alpha           | u = sigma / alpha (EDM (1))           | slope = eps

The flow frame exists at alpha = 0 too, where the edm frame divides by 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level


@dataclass(frozen=True)
class Frame:
    """scale and time of a level, slope of a prediction."""

    scale: Callable[[Level], float]
    time: Callable[[Level], float]
    slope: Callable[[Prediction], Tensor]


FLOW = Frame(
    scale=lambda level: float(level.alpha + level.sigma),
    time=lambda level: float(level.sigma) / float(level.alpha + level.sigma),
    slope=lambda prediction: prediction.eps - prediction.x0,
)
EDM = Frame(
    scale=lambda level: float(level.alpha),
    time=lambda level: float(level.sigma / level.alpha),
    slope=lambda prediction: prediction.eps,
)
