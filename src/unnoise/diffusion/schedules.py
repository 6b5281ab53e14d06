"""Schedules: maps from time t to a noise Level, and back from noise to time.

Discrete schedules (linear, cosine, sigmoid) are a table of alpha_bar with T + 1 entries and
`alpha_bar[0] = 1`: t = 0 is data, t = T is noise. A fractional t is allowed (log-SNR is
interpolated), so that any grid can be walked. Hugging Face's `alphas_cumprod[i]` is our
`alpha_bar[i + 1]`. The continuous ones (edm, ve: t = sigma; flow, vp: t in [0, 1]) are formulas.

`shift` multiplies sigma / alpha at every time. It is the shifted log-SNR of Hoogeboom et al. 2023,
log-SNR - 2 log(shift), and the time shift of Stable Diffusion 3, shift t / (1 + (shift - 1) t).

`network_time` is what the network is told about t. It belongs to the schedule and not to the
parameterization, so that every parameterization runs on every schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from unnoise.diffusion.levels import DATA, Level, Scalar, log

SIGMA_RANGE = (0.002, 80.0)
"""EDM's range of sigma / alpha; also that of spacings by noise on flow, whose end is infinite."""


@runtime_checkable
class Schedule(Protocol):
    """What the rest of the package needs of a schedule."""

    t_max: float
    """The time of pure noise."""
    t_min: float
    """The smallest noisy time that a network is trained on."""
    steps: int | None
    """T of a discrete schedule; None for a continuous one."""

    def level(self, t: Scalar) -> Level:
        """The level at time t; a tensor of shape (b,) gives factors of shape (b, 1, 1, 1)."""
        ...

    def time(self, noise_to_signal: float) -> float:
        """The time at which sigma / alpha has this value."""
        ...

    def network_time(self, level: Level) -> Scalar:
        """The number the network is given for this level."""
        ...


def _per_image(t: Tensor) -> Tensor:
    return t.reshape(-1, 1, 1, 1)


def _check(shift: float) -> None:
    if not 0 < shift < math.inf:
        raise ValueError(f"got shift {shift:g}, expected a number above 0")


class Discrete:
    """T noise levels given by their alpha_bar, float64, shape (T + 1,), from 1 down."""

    t_min = 1.0
    steps: int | None

    def __init__(self, alpha_bar: np.ndarray, shift: float = 1.0) -> None:
        _check(shift)
        self.steps = len(alpha_bar) - 1
        self.t_max = float(self.steps)
        self.alpha_bar = alpha_bar = alpha_bar / (alpha_bar + shift**2 * (1 - alpha_bar))
        # log(sigma / alpha) of t = 1..T, for fractional times; entry 0 would be -inf.
        self.noisy_times = np.arange(1, self.steps + 1)
        self.log_noise = 0.5 * (np.log1p(-alpha_bar[1:]) - np.log(alpha_bar[1:]))
        self._tables: dict[torch.device, Tensor] = {}

    def level(self, t: Scalar) -> Level:
        if isinstance(t, Tensor):
            factors = self._table(t.device)[t.long()]
            return Level(_per_image(t), _per_image(factors[:, 0]), _per_image(factors[:, 1]))
        if t <= 0:
            return DATA
        if float(t).is_integer():
            alpha_bar = float(self.alpha_bar[int(t)])
            return Level(float(t), alpha_bar**0.5, (1 - alpha_bar) ** 0.5)
        if t < 1:
            raise ValueError(f"discrete time t = {t}: between 0 and 1 there is no noise level")
        noise = math.exp(np.interp(t, self.noisy_times, self.log_noise))
        alpha = (1 + noise**2) ** -0.5
        return Level(t, alpha, noise * alpha)

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            factors = np.stack([self.alpha_bar**0.5, (1 - self.alpha_bar) ** 0.5], axis=1)
            if device.type == "mps":  # Apple's GPUs have no float64
                factors = factors.astype(np.float32)
            self._tables[device] = torch.as_tensor(factors, device=device)
        return self._tables[device]

    def time(self, noise_to_signal: float) -> float:
        return float(np.interp(math.log(noise_to_signal), self.log_noise, self.noisy_times))

    def network_time(self, level: Level) -> Scalar:
        return level.t - 1  # the papers' networks count from 0


def _rising(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    if not 0 < sigma_min < sigma_max < math.inf:
        got = f"sigma_min {sigma_min:g} and sigma_max {sigma_max:g}"
        raise ValueError(f"got {got}, expected rising numbers above 0")
    return sigma_min, sigma_max


class EDM:
    """EDM's variance-exploding levels: alpha = 1, sigma = t."""

    steps: int | None = None

    def __init__(self, timesteps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        self.t_min, self.t_max = _rising(sigma_min, sigma_max)

    def level(self, t: Scalar) -> Level:
        if isinstance(t, Tensor):
            t = _per_image(t)
            return Level(t, torch.ones_like(t), t)
        return Level(t, 1.0, t)

    def time(self, noise_to_signal: float) -> float:
        return noise_to_signal

    def network_time(self, level: Level) -> Scalar:
        return log(level.t) / 4  # EDM table 1, c_noise


class VE(EDM):
    """The same levels with the network time of Song et al. 2021 (NCSN++)."""

    def network_time(self, level: Level) -> Scalar:
        return log(level.t / 2)  # EDM table 1, column VE


class VP:
    """Song et al.'s continuous DDPM, alpha_bar = exp(-(beta_d t^2 / 2 + beta_min t)), between two
    values of sigma / alpha."""

    steps: int | None = None

    def __init__(
        self,
        timesteps: int,
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ) -> None:
        if not (0 < beta_d < math.inf and 0 <= beta_min < math.inf):
            got = f"beta_d {beta_d:g} and beta_min {beta_min:g}"
            raise ValueError(f"got {got}, expected beta_d above 0, and beta_min 0 or more")
        self.beta_d, self.beta_min = beta_d, beta_min
        self.t_min, self.t_max = map(self.time, _rising(sigma_min, sigma_max))

    def level(self, t: Scalar) -> Level:
        t = _per_image(t) if isinstance(t, Tensor) else t
        log_alpha_bar = -(self.beta_d * t**2 / 2 + self.beta_min * t)
        if isinstance(log_alpha_bar, Tensor):
            return Level(t, (log_alpha_bar / 2).exp(), (-log_alpha_bar.expm1()).sqrt())
        return Level(t, math.exp(log_alpha_bar / 2), (-math.expm1(log_alpha_bar)) ** 0.5)

    def time(self, noise_to_signal: float) -> float:
        square = self.beta_min**2 + 2 * self.beta_d * math.log1p(noise_to_signal**2)
        return (square**0.5 - self.beta_min) / self.beta_d  # EDM table 1, column VP

    def network_time(self, level: Level) -> Scalar:
        return 999 * level.t  # EDM table 1, M = 1000


class Flow:
    """Flow matching's straight line: alpha = 1 - t, sigma = t, at the shifted time."""

    steps: int | None = None
    t_min, t_max = 0.001, 1.0

    def __init__(self, timesteps: int, shift: float = 1.0) -> None:
        _check(shift)
        self.shift = shift

    def level(self, t: Scalar) -> Level:
        t = _per_image(t) if isinstance(t, Tensor) else t
        sigma = self.shift * t / (1 + (self.shift - 1) * t)  # Esser et al. 2024 (23)
        return Level(t, 1 - sigma, sigma)

    def time(self, noise_to_signal: float) -> float:
        return noise_to_signal / (self.shift + noise_to_signal)

    def network_time(self, level: Level) -> Scalar:
        return 1000 * level.sigma  # the sinusoidal embedding resolves 0..1000


def _betas(alpha_bar: Callable[[np.ndarray], np.ndarray], steps: int) -> np.ndarray:
    """Betas of a smooth alpha_bar(t / T), capped at 0.999 so that alpha_bar(T) > 0."""
    values = alpha_bar(np.arange(steps + 1) / steps)
    return np.minimum(1 - values[1:] / values[:-1], 0.999)  # Improved DDPM, section 3.2


def _from_betas(betas: np.ndarray, shift: float) -> Discrete:
    return Discrete(np.concatenate([[1.0], np.cumprod(1 - betas)]), shift)


def linear(
    steps: int,
    shift: float = 1.0,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    power: float = 1.0,
) -> Discrete:
    """beta_t^(1 / power) is linear, from beta_start to beta_end; DDPM's by default, section 4.

    These are for T = 1000, and scaled so that other T end at the same noise. Power 2 is latent
    diffusion's "scaled linear".
    """
    if not (0 < beta_start <= beta_end < math.inf and 0 < power < math.inf):
        got = f"beta_start {beta_start:g}, beta_end {beta_end:g} and power {power:g}"
        raise ValueError(f"got {got}, expected rising numbers above 0, and a power above 0")
    ends: tuple[float, float] = (beta_start ** (1 / power), beta_end ** (1 / power))
    roots = np.linspace(*ends, steps)
    betas = roots**power * 1000 / steps
    return _from_betas(np.minimum(betas, 0.999), shift)


def cosine(steps: int, shift: float = 1.0) -> Discrete:
    """alpha_bar = cos^2((t/T + 0.008) / 1.008 * pi/2), normalised at 0."""  # Improved DDPM (17)
    betas = _betas(lambda u: np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2, steps)
    return _from_betas(betas, shift)


def sigmoid(steps: int, shift: float = 1.0) -> Discrete:
    """alpha_bar = sigmoid from -3 to 3, tau = 1, rescaled to [0, 1]."""

    def alpha_bar(u: np.ndarray) -> np.ndarray:  # Jabri et al. 2022, algorithm 1
        low, values, high = (1 / (1 + np.exp(-v)) for v in (-3.0, 6 * u - 3, 3.0))
        return (high - values) / (high - low)

    return _from_betas(_betas(alpha_bar, steps), shift)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "edm": EDM,
    "ve": VE,
    "vp": VP,
    "flow": Flow,
}
"""Name -> function of T (which continuous schedules ignore) and of keyword options of its own.

The options come from `diffusion.schedule_options`; a ValueError becomes the user's message.
"""
