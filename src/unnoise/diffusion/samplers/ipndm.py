"""iPNDM: Adams-Bashforth on the slopes of the last steps, with the coefficients of an even grid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser
from unnoise.diffusion.levels import Grid
from unnoise.diffusion.samplers.first_order import euler
from unnoise.diffusion.samplers.frames import EDM, FLOW, Frame
from unnoise.diffusion.samplers.step import Draw, Step

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _ipndm(denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw, frame: Frame) -> Iterator[Step]:
    """Zhang & Chen 2023 (DEIS), section 3.

    Its order is 4 on grids even in the frame's time, and at least 2 on other smooth ones.
    """
    slopes: list[Tensor] = []
    for t, s in pairwise(grid):
        prediction = denoiser(x, t)
        if frame.scale(t) == 0 or s.sigma == 0:
            x = euler(prediction, s)
        else:
            slopes = [frame.slope(prediction), *slopes][: len(ADAMS_BASHFORTH)]
            x = x / frame.scale(t)
            for coefficient, slope in zip(ADAMS_BASHFORTH[len(slopes) - 1], slopes, strict=True):
                x = x + (frame.time(s) - frame.time(t)) * coefficient * slope
            x = frame.scale(s) * x
        yield Step(s, x, prediction)


ipndm = partial(_ipndm, frame=FLOW)
ipndm_edm = partial(_ipndm, frame=EDM)
"""iPNDM in the frame of EDM, as published."""
