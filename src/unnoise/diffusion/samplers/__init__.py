"""Samplers and their driver.

A sampler is one generator function `(denoiser, x, grid, draw, **its own options) -> yields Step`. The driver `walk`
starts it on pure noise and counts network evaluations; progress, previews and cancelling live in the loop over it.
To add a sampler: write the function, add its line to SAMPLERS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers.exponential import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    unipc_2,
    unipc_3,
)
from unnoise.diffusion.samplers.first_order import ddim, ddpm
from unnoise.diffusion.samplers.heun import heun, heun_edm
from unnoise.diffusion.samplers.ipndm import ipndm, ipndm_edm
from unnoise.diffusion.samplers.step import Step

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": ddim,
    "heun": heun,
    "heun_edm": heun_edm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc_2": unipc_2,
    "unipc_3": unipc_3,
    "ipndm": ipndm,
    "ipndm_edm": ipndm_edm,
}
"""Name -> sampler."""

TWO_PER_STEP = {"heun", "heun_edm"}
"""Samplers with two evaluations in every step but the last."""

STOCHASTIC = {"ddpm", "dpmpp_2m_sde"}
"""Samplers that always draw noise on the way: where they end is no function of where they start."""


def evaluations(sampler: str, steps: int) -> int:
    """Network evaluations per image of so many steps, unguided."""
    return 2 * steps - 1 if sampler in TWO_PER_STEP else steps


def steps_within(sampler: str, nfe: int) -> int:
    """The most steps that take at most `nfe` evaluations per image, unguided."""
    return (nfe + 1) // 2 if sampler in TWO_PER_STEP else nfe


def options(sampler: str) -> set[str]:
    """The names of a sampler's own options."""
    return set(inspect.signature(SAMPLERS[sampler]).parameters) - {"denoiser", "x", "grid", "draw"}


def walk(
    sampler: str,
    denoiser: Denoiser,
    grid: Sequence[Level],
    draw: Callable[[], Tensor],
    options: Mapping[str, Any] | None = None,
    start: Tensor | None = None,
) -> Iterator[Step]:
    """Sample along a grid from pure noise x = sigma_max * eps, or from `start`; each Step says the evaluations so far.

    `draw` gives the next standard normal noise of the batch: Noise(...).normal.
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
