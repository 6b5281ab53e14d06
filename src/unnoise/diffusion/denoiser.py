"""A denoiser: a network made into `(x_t, level) -> Prediction(x0, eps)`.

Samplers, guidance and editing know denoisers only; never networks, schedules, parameterizations or
labels. A prediction carries both x0 and eps, so that no solver divides by alpha or sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unnoise.diffusion.levels import Level, Scalar
from unnoise.diffusion.parameterizations import PARAMETERIZATIONS, SIGMA_DATA, Coefficients, recover
from unnoise.diffusion.schedules import Schedule


class Prediction(NamedTuple):
    """What a denoiser says of x_t: the data and the noise in it, each (b, c, h, w)."""

    x0: Tensor
    eps: Tensor
    var_frac: Tensor | None = None
    """The learned share in [0, 1] of the large variance, where the network predicts it."""
    nfe: int = 1
    """How many network evaluations per image this took."""


Denoiser: TypeAlias = Callable[[Tensor, Level], Prediction]


@dataclass(frozen=True)
class DiffusionModel:
    """A network with the schedule and the parameterization it is trained for."""

    network: nn.Module
    """Called as network(x (b, c, h, w), time (b,), label (b,) or None) -> (b, c or 2c, h, w)."""
    schedule: Schedule
    parameterization: str
    variance: str = "small"
    sigma_data: float = SIGMA_DATA
    """Standard deviation of the data, for parameterization edm."""
    time_scale: float = 1.0
    """Factor on the schedule's network time."""

    def coefficients(self, level: Level) -> Coefficients:
        """What the network's output means at a level."""
        return PARAMETERIZATIONS[self.parameterization](level, self.sigma_data)

    def output(
        self, x_t: Tensor, level: Level, label: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The network's F and, with learned variance, its share in [0, 1] of the large one."""
        x = (self.coefficients(level).input_scale * x_t).to(x_t.dtype)
        time = self.time_scale * self.schedule.network_time(level)
        out = self.network(x, _times(time, x_t), label)
        if self.variance != "learned":
            return out, None
        output, share = out.chunk(2, dim=1)
        return output, (share + 1) / 2  # Improved DDPM's v in [-1, 1]

    def denoise(
        self, x_t: Float[Tensor, "b c h w"], level: Level, label: Int[Tensor, " b"] | None = None
    ) -> Prediction:
        """The prediction at one level, in the type of x_t."""
        output, share = self.output(x_t, level, label)
        x0, eps = recover(self.coefficients(level), level, x_t, output.to(x_t.dtype))
        return Prediction(x0, eps, None if share is None else share.to(x_t.dtype))


def _times(time: Scalar, x: Tensor) -> Tensor:
    """(b,) network times, from one float for all or from a (b, 1, 1, 1) tensor."""
    if isinstance(time, Tensor):
        return time.reshape(-1).to(x.device, torch.float32)
    return torch.full((x.shape[0],), time, device=x.device, dtype=torch.float32)


def conditional(model: DiffusionModel, label: Int[Tensor, " b"] | None) -> Denoiser:
    """The denoiser of a model for given labels."""
    return lambda x_t, level: model.denoise(x_t, level, label)


def clip_x0(denoiser: Denoiser, bound: float = 1.0) -> Denoiser:
    """Static thresholding: x0 clamped to [-bound, bound], where images lie, and eps to match."""
    return _with_x0(denoiser, lambda x0: x0.clamp(-bound, bound))


def dynamic_threshold(denoiser: Denoiser, quantile: float) -> Denoiser:
    """Clamp x0 to its own quantile of |x0| where that is beyond 1, and divide by it."""

    def threshold(x0: Tensor) -> Tensor:  # Saharia et al. 2022, section 2.3
        bound = torch.quantile(x0.float().abs().flatten(1), quantile, dim=1).clamp(min=1).to(x0)
        bound = bound.reshape(-1, 1, 1, 1)
        return x0.clamp(-bound, bound) / bound

    return _with_x0(denoiser, threshold)


def thresholded(denoiser: Denoiser, clip: bool, quantile: float) -> Denoiser:
    """A denoiser with dynamic thresholding at a quantile above 0, else with static or none."""
    if quantile > 0:
        return dynamic_threshold(denoiser, quantile)
    return clip_x0(denoiser) if clip else denoiser


def _with_x0(denoiser: Denoiser, change: Callable[[Tensor], Tensor]) -> Denoiser:
    """A denoiser with x0 changed, and eps such that x_t = alpha * x0 + sigma * eps still holds."""

    def changed(x_t: Tensor, level: Level) -> Prediction:
        prediction = denoiser(x_t, level)
        x0 = change(prediction.x0)
        return prediction._replace(x0=x0, eps=(x_t - level.alpha * x0) / level.sigma)

    return changed
