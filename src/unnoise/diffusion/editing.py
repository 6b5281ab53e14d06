"""The mathematics of editing: inpainting, from data back to noise, and between two noises.

Inpainting is a denoiser -> denoiser function, so every sampler can do it. Known pixels walk their
own path alpha * known + sigma * z; the denoiser sees that path, and (known, z) replaces its
prediction there. Every solver's last step ends on x0, so known pixels come out as they went in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, Prediction
from unnoise.diffusion.gaussian import diffuse
from unnoise.diffusion.levels import Grid, Level
from unnoise.diffusion.samplers.frames import FLOW
from unnoise.diffusion.samplers.step import Draw, Step


def inpaint(
    denoiser: Denoiser,
    known: Float[Tensor, "b c h w"],
    unknown: Bool[Tensor, "1 1 h w"],
    draw: Draw,
) -> Denoiser:
    """A denoiser that keeps `known` wherever `unknown` is False.

    `draw` gives the z of the known pixels: always the same one for a solver of the ODE, and a new
    one each time for a stochastic sampler.
    """

    def masked(x_t: Tensor, level: Level) -> Prediction:
        noise = draw()
        x_t = torch.where(unknown, x_t, diffuse(known, noise, level).to(x_t))
        prediction = denoiser(x_t, level)
        x0 = torch.where(unknown, prediction.x0, known.to(x_t))
        return prediction._replace(x0=x0, eps=torch.where(unknown, prediction.eps, noise.to(x_t)))

    return masked


def zigzag(grid: Grid, repeats: int) -> list[Level]:
    """A grid whose every tenth part is walked `repeats` times, going up again in between."""
    # RePaint, appendix B
    noisy, path = list(grid[:-1]), [grid[0]]
    length = max(1, len(noisy) // 10)
    for start in range(0, len(noisy) - 1, length):
        down = noisy[start + 1 : start + 1 + length]
        up = noisy[start : start + len(down)][::-1]
        path += down + (up + down) * (repeats - 1)
    return [*path, grid[-1]]


def last_part(grid: Grid, strength: float) -> list[Level]:
    """The part of a grid that is walked from a share `strength` of its steps on (SDEdit)."""
    steps = max(1, round(strength * (len(grid) - 1)))
    return list(grid[-steps - 1 :])


def windows(
    canvas: Sequence[int], window: tuple[int, int], start: tuple[int, int]
) -> list[tuple[int, int]]:
    """Corners of windows that cover a canvas in half steps from `start`, the nearest first."""
    rows, columns = (
        {min(max(first + i * max(size // 2, 1), 0), whole - size) for i in range(-whole, whole + 1)}
        for whole, size, first in zip(canvas, window, start, strict=True)
    )
    corners = [(y, x) for y in rows for x in columns]
    return sorted(corners, key=lambda at: (abs(at[0] - start[0]) + abs(at[1] - start[1]), at))


def invert(
    denoiser: Denoiser, x0: Float[Tensor, "b c h w"], grid: Grid, iterations: int = 3
) -> Iterator[Step]:
    """DDIM backwards, from data to a grid's first level: the noise from which DDIM makes x0.

    Each step solves x_s = DDIM(x_t) for x_t by fixed-point iteration (Pan et al. 2023). One
    iteration is the classical inversion, which takes the slope at the wrong end.
    """
    x, nfe = x0, 0
    for s, t in pairwise(reversed(grid)):
        y, du = x / FLOW.scale(s), FLOW.time(t) - FLOW.time(s)
        guess = x / FLOW.scale(s) * FLOW.scale(t)
        for _ in range(iterations):
            prediction = denoiser(guess, t)
            nfe += prediction.nfe
            guess = FLOW.scale(t) * (y + du * FLOW.slope(prediction))
        x = guess
        yield Step(t, x, prediction, nfe)  # pyright: ignore[reportPossiblyUnboundVariable]


def slerp(a: Float[Tensor, "*s"], b: Float[Tensor, "*s"], share: float) -> Float[Tensor, "*s"]:
    """Spherical interpolation from a (share 0) to b (share 1), which keeps the length of noise."""
    # DDIM, appendix C.5
    flat = a.double().flatten(), b.double().flatten()
    angle = torch.arccos(torch.cosine_similarity(*flat, dim=0).clamp(-1, 1))
    if angle < 1e-6:
        return a + share * (b - a)
    mixed = torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b
    return (mixed / torch.sin(angle)).to(a.dtype)
