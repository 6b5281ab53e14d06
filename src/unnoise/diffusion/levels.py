"""One noise level, and what lies between two of them.

A `Level` says how much data and how much noise is in `x_t = alpha * x0 + sigma * eps`. Its
numbers are Python floats when a sampler walks a grid (exact, no device synchronisation) and tensors
of shape (b, 1, 1, 1) when a batch is trained on b levels at once; every formula serves both.

A `Transition` is a pair t > s. It is all that ancestral sampling, respacing and the variational
bound need, so there are no `_prev` arrays and no `t == 0` masks: DDPM's tables are the pairs
(t, t - 1), and a respaced process has other pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Scalar: TypeAlias = float | Tensor


def log(value: Scalar) -> Scalar:
    """Natural logarithm of a float or a tensor."""
    return torch.log(value) if isinstance(value, Tensor) else math.log(value)


class Level(NamedTuple):
    """A noise level: time t, signal factor alpha (= sqrt(alpha_bar)) and noise factor sigma."""

    t: Scalar
    alpha: Scalar
    sigma: Scalar

    @property
    def snr(self) -> Scalar:
        """Signal-to-noise ratio (alpha / sigma)^2; on data an error for floats."""
        return (self.alpha / self.sigma) ** 2

    @property
    def half_log_snr(self) -> Scalar:
        """DPM-Solver's lambda = log(alpha / sigma)."""
        return log(self.alpha) - log(self.sigma)

    def below(self, other: Level) -> bool:
        """Whether this level has less noise: sigma / alpha is smaller."""
        return bool(self.sigma * other.alpha < other.sigma * self.alpha)

    def to(self, like: Tensor) -> Level:
        """This level in the type and on the device of a tensor; floats stay floats."""
        return Level(*(v.to(like) if isinstance(v, Tensor) else v for v in self))


DATA = Level(0.0, 1.0, 0.0)
"""The level of clean data, where every grid ends."""

Grid: TypeAlias = Sequence[Level]
"""The levels of a walk, from noise to data."""


class Transition(NamedTuple):
    """The Gaussian steps between levels t > s: q(x_t | x_s) and, backwards, q(x_s | x_t, x0)."""

    t: Level
    s: Level

    @property
    def ratio(self) -> Scalar:
        """alpha_t / alpha_s: the mean of q(x_t | x_s) is ratio * x_s."""
        return self.t.alpha / self.s.alpha

    @property
    def beta(self) -> Scalar:
        """beta_{t|s}, the variance of q(x_t | x_s); DDPM's beta_t for s = t-1."""
        return self.t.sigma**2 - self.ratio**2 * self.s.sigma**2

    @property
    def beta_tilde(self) -> Scalar:
        """The variance of q(x_s | x_t, x0); 0 where s is data."""  # DDPM (7)
        return self.beta * self.s.sigma**2 / self.t.sigma**2

    def posterior_mean(self, x_t: Tensor, x0: Tensor) -> Tensor:
        """The mean of q(x_s | x_t, x0), shaped like x_t."""  # DDPM (7)
        variance = self.t.sigma**2
        of_data = self.s.alpha * self.beta / variance
        of_noisy = self.ratio * self.s.sigma**2 / variance
        return of_data * x0 + of_noisy * x_t


def branch(above: Level, grid: Grid) -> list[Level]:
    """A level, and the levels of a grid that have less noise than it."""
    return [above, *(level for level in grid if level.below(above))]
