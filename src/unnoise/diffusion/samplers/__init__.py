"""Samplers and their driver.

A sampler is one generator function `(denoiser, x, grid, draw, **its own options) -> yields Step`. The driver `walk`
starts it on pure noise and counts network evaluations; progress, previews and cancelling live in the loop over it.
To add a sampler: write the function, add its line to SAMPLERS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.levels import Level
from unnoise.diffusion.samplers.first_order import ddim, ddpm
from unnoise.diffusion.samplers.step import Step

SAMPLERS: dict[str, Callable[..., Iterator[Step]]] = {
    "ddpm": ddpm,
    "ddim": ddim,
}
"""Name -> sampler."""


def walk(
    sampler: str,
    denoiser: Denoiser,
    grid: Sequence[Level],
    draw: Callable[[], Tensor],
    options: Mapping[str, float | str] | None = None,
) -> Iterator[Step]:
    """Sample from pure noise x = sigma_max * eps along a grid; each Step says the network evaluations so far.

    `draw` gives the next standard normal noise of the batch: Noise(...).normal.
    """
    nfe = 0

    def counted(x_t: Tensor, level: Level) -> Prediction:
        nonlocal nfe
        prediction = denoiser(x_t, level)
        nfe += prediction.nfe
        return prediction

    x = grid[0].sigma * draw()
    for step in SAMPLERS[sampler](counted, x, grid, draw, **(options or {})):
        yield step._replace(nfe=nfe)
