"""The multistep solvers of lambda = log(alpha / sigma): DPM-Solver++ and UniPC.

Both solve

    x_s = sigma_s / sigma_t x_t + alpha_s * integral from t to s of e^(lambda - lambda_s) x0(lambda)

with x0 replaced by the polynomial through the predictions of the last steps (DPM-Solver++,
predictor) and of the new one (UniPC's corrector), and integrated exactly (docs/maths.md, 7).

Two points are the exception: the papers weigh their difference by 1/2, not by the exact integral.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser
from unnoise.diffusion.levels import Grid, Level, Transition
from unnoise.diffusion.samplers.step import Draw, Step

Points: TypeAlias = list[tuple[Level, Tensor]]
"""Levels and the x0 predicted there, the newest first."""


def _lambda(level: Level) -> float:
    return float(level.half_log_snr)


def _weights(t: Level, s: Level, levels: Sequence[Level], curvature: float = 1.0) -> list[float]:
    """What each x0 of these levels adds to x_s / alpha_s."""
    moments = [float(1 - s.sigma * t.alpha / (s.alpha * t.sigma))]  # 1 - e^-h
    if len(levels) == 1:
        return moments
    h = _lambda(s) - _lambda(t)
    if len(levels) == 2:
        moments.append(moments[0] / 2)  # DPM-Solver++ Alg. 2; UniPC, section 3.4
    while len(moments) < len(levels):  # h * integral of e^(-h (1-u)) u^k over u in [0, 1], by parts
        moments.append(1 - len(moments) / h * moments[-1])
    if len(levels) == 3:
        moments[2] *= curvature
    nodes = np.array([(_lambda(level) - _lambda(t)) / h for level in levels])
    return np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(moments)).tolist()


def _advance(x: Tensor, t: Level, s: Level, points: Points, curvature: float = 1.0) -> Tensor:
    """x_s from x_t and the polynomial through some points."""
    weights = _weights(t, s, [level for level, _ in points], curvature)
    x_s = (s.sigma / t.sigma) * x
    for weight, (_, x0) in zip(weights, points, strict=True):
        x_s = x_s + s.alpha * weight * x0
    return x_s


def _remember(points: Points, t: Level, x0: Tensor, order: int) -> Points:
    """The newest points; pure noise (alpha = 0, lambda = -inf) is no support for a polynomial."""
    return [(t, x0), *(point for point in points if point[0].alpha > 0)][:order]


def _dpmpp(
    denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw, order: int, curvature: float = 1.0
) -> Iterator[Step]:
    """Multistep DPM-Solver++ (Lu et al. 2022); lower orders at both ends.

    `curvature` multiplies the weight of the second divided difference: 1 is the exact integral, 0.5
    is what the authors' code does.
    """
    points: Points = []
    for i, (t, s) in enumerate(pairwise(grid), start=1):
        prediction = denoiser(x, t)
        points = _remember(points, t, prediction.x0, order)
        x = _advance(x, t, s, points[: len(grid) - i], curvature)
        yield Step(s, x, prediction)


def dpmpp_2m_sde(denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
    """SDE-DPM-Solver++(2M): an ancestral step with x0 extrapolated to the middle of the step."""
    before: tuple[Level, Tensor] | None = None
    for t, s in pairwise(grid):
        prediction, step = denoiser(x, t), Transition(t, s)
        x0 = prediction.x0
        if before is not None and before[0].alpha > 0 and s.sigma > 0:
            last = (_lambda(t) - _lambda(before[0])) / (_lambda(s) - _lambda(t))
            x0 = x0 + (x0 - before[1]) / (2 * last)
        before = (t, prediction.x0)
        x = step.posterior_mean(x, x0)
        if s.sigma > 0:
            x = x + step.beta_tilde**0.5 * draw()
        yield Step(s, x, prediction)


def _unipc(denoiser: Denoiser, x: Tensor, grid: Grid, draw: Draw, order: int) -> Iterator[Step]:
    """UniPC (Zhao et al. 2023): predict, evaluate, correct by that; lower orders at both ends."""
    points: Points = []
    before: tuple[Level, Tensor, Points] | None = None
    for i, (t, s) in enumerate(pairwise(grid), start=1):
        prediction = denoiser(x, t)
        if before is not None and before[0].alpha > 0:
            level, x_before, used = before
            x = _advance(x_before, level, t, [(t, prediction.x0), *used])
        points = _remember(points, t, prediction.x0, order)
        used = points[: len(grid) - i]
        before = (t, x, used)
        x = _advance(x, t, s, used)
        yield Step(s, x, prediction)


dpmpp_2m = partial(_dpmpp, order=2, curvature=1.0)
dpmpp_3m = partial(_dpmpp, order=3)
unipc_2 = partial(_unipc, order=2)
unipc_3 = partial(_unipc, order=3)
