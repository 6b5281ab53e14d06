"""The levels that one sampling run visits: from t_max down to data, as Python floats.

A spacing lists the `steps` noisy times; `make` turns them into Levels and ends on data, so a grid
has steps + 1 entries. On a discrete schedule leading, trailing and uniform give whole times
(diffusers' leading, trailing and linspace, counted from 1 instead of 0); karras and log_snr give
fractional ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unnoise.diffusion.levels import DATA, Grid, Level
from unnoise.diffusion.schedules import SIGMA_RANGE, Schedule

KARRAS_RHO = 7.0
PURE_NOISE = math.exp(-5.1)
"""A schedule whose alpha ends below this ends on pure noise (DPM-Solver's clip of lambda)."""


def _leading(schedule: Schedule, steps: int) -> np.ndarray:
    if schedule.steps is not None:
        return 1.0 + np.arange(steps)[::-1] * (schedule.steps // steps)
    return schedule.t_min + (schedule.t_max - schedule.t_min) * np.arange(steps)[::-1] / steps


def _trailing(schedule: Schedule, steps: int) -> np.ndarray:
    times = schedule.t_max - np.arange(steps) * schedule.t_max / steps  # Lin et al. 2023, table 2
    return times if schedule.steps is None else np.round(times)


def _uniform(schedule: Schedule, steps: int) -> np.ndarray:
    if schedule.steps is None or steps == 1:
        return np.linspace(schedule.t_max, schedule.t_min, steps)
    times = np.linspace(0, schedule.steps - 1, steps)
    return 1 + np.round(times)[::-1]  # half-way points as theirs


def _noise_ends(schedule: Schedule) -> tuple[float, float]:
    """sigma / alpha at the first and last noisy level of a spacing by noise.

    They are the schedule's own, as in DPM-Solver and diffusers. Where the schedule ends on pure
    noise (flow, cosine, sigmoid) they lie in EDM's range: steps beyond 80 would be wasted.
    """
    first, last = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    low = float(last.sigma / last.alpha)
    if first.alpha < PURE_NOISE:
        return SIGMA_RANGE[1], max(low, SIGMA_RANGE[0])
    return float(first.sigma / first.alpha), low


def _by_noise(schedule: Schedule, noises: np.ndarray) -> np.ndarray:
    times = np.array([schedule.time(float(n)) for n in noises])
    times[0] = schedule.t_max  # every grid starts on pure noise
    return times


def _karras(schedule: Schedule, steps: int) -> np.ndarray:
    high, low = (float(end ** (1 / KARRAS_RHO)) for end in _noise_ends(schedule))
    roots = np.linspace(high, low, steps)
    return _by_noise(schedule, roots**KARRAS_RHO)  # EDM (5)


def _log_snr(schedule: Schedule, steps: int) -> np.ndarray:
    high, low = _noise_ends(schedule)
    return _by_noise(schedule, np.geomspace(high, low, steps))  # DPM-Solver, section 3.4


SPACINGS: dict[str, Callable[[Schedule, int], np.ndarray]] = {
    "leading": _leading,
    "trailing": _trailing,
    "uniform": _uniform,
    "karras": _karras,
    "log_snr": _log_snr,
}
"""Name -> function of a schedule and a number of steps to as many falling, noisy times."""


def make(schedule: Schedule, steps: int, spacing: str) -> list[Level]:
    """The steps + 1 levels from noise to data; ValueError where two would be the same."""
    if steps < 1:
        raise ValueError(f"steps: got {steps}, expected 1 or more")
    return _levels(schedule, SPACINGS[spacing](schedule, steps), spacing)


def from_noises(schedule: Schedule, noises: Sequence[float]) -> list[Level]:
    """The grid with sigma / alpha at these falling values; the first one stands for t_max."""
    return _levels(schedule, _by_noise(schedule, np.asarray(noises, dtype=float)), "noises")


def _levels(schedule: Schedule, times: np.ndarray, name: str) -> list[Level]:
    if np.any(np.diff(times) >= 0) or len(times) > (schedule.steps or len(times)):
        got = f"got {len(times)} with spacing {name!r} on {schedule.steps} levels"
        raise ValueError(f"steps: {got}; expected fewer")
    return [*(schedule.level(float(t)) for t in times), DATA]


class Churned(NamedTuple):
    """How EDM's churn raises the noise before each step."""

    levels: Grid
    """The level that each one of a grid is raised to; it stays itself where there is no churn."""
    noise: float = 1.0
    """EDM's S_noise."""


def churned(
    schedule: Schedule, grid: Grid, churn: float, between: tuple[float, float], noise: float = 1.0
) -> Churned:
    """Raise the levels of a grid by EDM's churn where sigma / alpha is between two values."""
    gamma = min(churn / (len(grid) - 1), 2**0.5 - 1)  # EDM Alg. 2, line 5
    raised, (low, high) = list(grid), between
    for i, level in enumerate(grid[:-1]):
        if gamma > 0 and level.alpha > 0 and low <= level.sigma / level.alpha <= high:
            t = min(schedule.time(float((1 + gamma) * level.sigma / level.alpha)), schedule.t_max)
            raised[i] = schedule.level(t) if t > float(level.t) else level
    return Churned(raised, noise)
