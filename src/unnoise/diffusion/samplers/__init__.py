"""Samplers and their driver.

A sampler is one generator function `(denoiser, x, grid, draw, **its own options) -> yields Step`.
The driver `walk` starts it on pure noise and counts network evaluations; progress, previews and
cancelling live in the loop over it. To add a sampler, write the function and add its line to
SAMPLERS: its options, its cost and whether it is stochastic are found by asking and running it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.levels import DATA, Grid, Level
from unnoise.diffusion.options import own_options
from unnoise.diffusion.samplers import exponential, first_order, heun, ipndm
from unnoise.diffusion.samplers.step import Draw, Step

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": first_order.ddpm,
    "ddim": first_order.ddim,
    "euler": first_order.ddim,
    "heun": heun.heun,
    "heun_edm": heun.heun_edm,
    "dpmpp_2m": exponential.dpmpp_2m,
    "dpmpp_3m": exponential.dpmpp_3m,
    "dpmpp_2m_sde": exponential.dpmpp_2m_sde,
    "unipc_2": exponential.unipc_2,
    "unipc_3": exponential.unipc_3,
    "ipndm": ipndm.ipndm,
    "ipndm_edm": ipndm.ipndm_edm,
}
"""Name -> sampler."""


def options(sampler: str) -> list[str]:
    """The names of a sampler's options, beyond (denoiser, x, grid, draw)."""
    return own_options(SAMPLERS[sampler], 4)


def walk(
    sampler: str,
    denoiser: Denoiser,
    grid: Grid,
    draw: Draw,
    options: Mapping[str, Any] | None = None,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Sample along a grid from pure noise x = sigma_max * eps, or from `start`.

    Each Step says the evaluations so far. `draw` is Noise(...).normal.
    """
    nfe = 0

    def counted(x_t: Tensor, level: Level) -> Prediction:
        nonlocal nfe
        prediction = denoiser(x_t, level)
        nfe += prediction.nfe
        return prediction

    x = grid[0].sigma * draw() if start is None else start
    for step in SAMPLERS[sampler](counted, x, grid, draw, **(options or {})):
        yield step._replace(nfe=nfe)


def _rehearse(sampler: str, grid: Grid, options: Mapping[str, Any] | None) -> tuple[int, int]:
    """Evaluations and draws of a walk whose denoiser predicts 0, for an image of one pixel."""
    nothing, draws = torch.zeros(1, 1, 1, 1), 0
    prediction = Prediction(nothing, nothing, var_frac=nothing)

    def draw() -> Tensor:
        nonlocal draws
        draws += 1
        return nothing

    *_, step = walk(sampler, lambda x_t, level: prediction, grid, draw, options, start=nothing)
    return step.nfe, draws


def _levels(steps: int) -> Grid:
    return [*(Level(float(t), 1.0, float(t)) for t in range(steps, 0, -1)), DATA]


def evaluations(sampler: str, steps: int) -> int:
    """Network evaluations per image of that many steps, unguided."""
    return _rehearse(sampler, _levels(steps), None)[0]


def steps_within(sampler: str, nfe: int) -> int:
    """The most steps that take at most `nfe` evaluations per image, unguided."""
    return max((n for n in range(1, nfe + 1) if evaluations(sampler, n) <= nfe), default=0)


def stochastic(sampler: str, grid: Grid = (), options: Mapping[str, Any] | None = None) -> bool:
    """Whether it draws noise on the way: where it ends is no function of where it starts."""
    return _rehearse(sampler, grid or _levels(3), options)[1] > 0
