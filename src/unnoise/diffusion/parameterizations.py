"""What the network's output means: F = a * x0 + b * eps, two numbers per level.

With `det = alpha * b - sigma * a`, both readings follow from x_t and F:
`x0 = (b * x_t - sigma * F) / det` and `eps = (alpha * F - a * x_t) / det` (docs/maths.md, 3).
The plain mean squared error between F and its target is the standard loss of each paper.

    name | a                | b               | det               | input scale
    eps  | 0                | 1               | alpha             | 1      Ho et al. 2020
    x0   | 1                | 0               | -sigma            | 1
    v    | -sigma           | alpha           | alpha^2 + sigma^2 | 1      Salimans & Ho 2022
    flow | -1               | 1               | alpha + sigma     | 1      Lipman et al. 2023
    edm  | sigma / (sd * r) | -sd * alpha / r | -r / sd           | 1 / r  Karras et al. 2022

with sd the data's standard deviation and r = sqrt(sigma^2 + alpha^2 sd^2): EDM's table 1 where
alpha = 1. For v, det is 1 where the schedule preserves the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from unnoise.diffusion.levels import Level, Scalar

SIGMA_DATA = 0.5
"""EDM's standard deviation of CIFAR-10, scaled to [-1, 1]."""


class Coefficients(NamedTuple):
    """F = a * x0 + b * eps at one level, and the factor on the network's input."""

    a: Scalar
    b: Scalar
    input_scale: Scalar = 1.0


def _edm(level: Level, sigma_data: float) -> Coefficients:
    r = (level.sigma**2 + level.alpha**2 * sigma_data**2) ** 0.5
    return Coefficients(level.sigma / (sigma_data * r), -sigma_data * level.alpha / r, 1 / r)


PARAMETERIZATIONS: dict[str, Callable[[Level, float], Coefficients]] = {
    "eps": lambda level, sigma_data: Coefficients(0.0, 1.0),
    "x0": lambda level, sigma_data: Coefficients(1.0, 0.0),
    "v": lambda level, sigma_data: Coefficients(-level.sigma, level.alpha),
    "flow": lambda level, sigma_data: Coefficients(-1.0, 1.0),
    "edm": _edm,
}
"""Name -> function of a level and the data's standard deviation."""


def determinant(c: Coefficients, level: Level) -> Scalar:
    """alpha * b - sigma * a: 0 where F says nothing about one of x0 and eps (eps at alpha = 0)."""
    return level.alpha * c.b - level.sigma * c.a


def target(
    c: Coefficients, x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """What the network should output: a * x0 + b * eps."""
    return c.a * x0 + c.b * eps


def recover(
    c: Coefficients, level: Level, x_t: Float[Tensor, "b c h w"], output: Float[Tensor, "b c h w"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """x0 and eps from x_t and the network's output F."""
    det = determinant(c, level)
    return (c.b * x_t - level.sigma * output) / det, (level.alpha * output - c.a * x_t) / det
