"""What training minimises: which times are drawn, how they are weighed, L_simple and L_hybrid.

The mean squared error is taken between the network's output F and its target, so with weighting
"none" it is each paper's own loss: L_simple for eps (DDPM (14)), EDM's lambda(sigma)-weighted loss
for edm, the velocity loss for flow.

Times are drawn as quantiles: u in (0, 1) -> t. A stratified batch (one u in each 1/b) has the same
distribution and less variance between batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from unnoise.diffusion import gaussian
from unnoise.diffusion.denoiser import DiffusionModel, Prediction
from unnoise.diffusion.gaussian import NATS_PER_BIT, diffuse, mean_flat
from unnoise.diffusion.levels import Level, Scalar, Transition
from unnoise.diffusion.parameterizations import determinant, recover, target
from unnoise.diffusion.schedules import Schedule

MIN_SNR_GAMMA = 5.0
HYBRID_WEIGHT = 0.001  # Improved DDPM (16)


def _uniform_discrete(u: Tensor, schedule: Schedule) -> Tensor:
    return torch.floor(u * schedule.t_max) + 1


def _uniform(u: Tensor, schedule: Schedule) -> Tensor:
    return schedule.t_min + u * (schedule.t_max - schedule.t_min)


def _normal_quantile(u: Tensor) -> Tensor:
    return 2**0.5 * torch.erfinv(2 * u - 1)


def _log_normal_sigma(
    u: Tensor, schedule: Schedule, p_mean: float = -1.2, p_std: float = 1.2
) -> Tensor:
    noises = torch.exp(p_mean + p_std * _normal_quantile(u))  # EDM table 1
    times = [schedule.time(float(noise)) for noise in noises.cpu().numpy()]
    return torch.tensor(times, dtype=u.dtype, device=u.device)


def _logit_normal(u: Tensor, schedule: Schedule) -> Tensor:
    return torch.sigmoid(_normal_quantile(u))  # Esser et al. 2024, section 3.1


TimeDistribution: TypeAlias = Callable[[Tensor, Schedule], Tensor]
TIME_DISTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "uniform_discrete": _uniform_discrete,
    "uniform": _uniform,
    "log_normal_sigma": _log_normal_sigma,
    "logit_normal": _logit_normal,
}
"""Name -> function (u, schedule) of quantiles u in (0, 1), float64 (b,), to times t.

Further keyword parameters are the fields of DiffusionConfig with the same names.
"""


def draw_times(
    times: TimeDistribution, schedule: Schedule, count: int, generator: Generator, stratified: bool
) -> Tensor:
    """`count` training times, float64 (count,), on the generator's device."""
    u = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
    if stratified:
        u = (torch.arange(count, device=u.device) + u) / count
    return times(u.clamp(1e-9, 1 - 1e-9), schedule)


def _min_snr(level: Level, det: Scalar) -> Scalar:
    """min(SNR, gamma) on the x0 error, which is sigma / det * (F - F_hat)."""  # Hang et al. 2023
    snr = torch.as_tensor(level.snr)
    return snr.clamp(max=MIN_SNR_GAMMA) * (level.sigma / det) ** 2


WEIGHTINGS: dict[str, Callable[[Level, Scalar], Scalar]] = {
    "none": lambda level, det: 1.0,
    "snr": lambda level, det: (level.alpha / det) ** 2,  # Salimans & Ho 2022: the error of eps
    "min_snr": _min_snr,
    "learned": lambda level, det: 1.0,  # `LearnedWeighting` weighs the loss of each image
}
"""Name -> weight of the squared error of F, from the level and the parameterization's determinant
there."""


@dataclass(frozen=True)
class Batch:
    """Images with all randomness of a training step drawn, so that they can be cut into parts."""

    x0: Float[Tensor, "b c h w"]
    eps: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    label: Int[Tensor, " b"] | None
    count: int
    """Images of the whole batch, over all ranks and parts."""

    def part(self, rows: slice) -> Batch:
        """Give some of the images."""
        label = None if self.label is None else self.label[rows]
        return Batch(self.x0[rows], self.eps[rows], self.t[rows], label, self.count)


class Loss(nn.Module):
    """The weighted squared error of F (L_simple), and the variational term of a learned variance.

    A loss owns its parameters: training moves them with the network's, and a checkpoint keeps its
    state_dict. For another error, override `error`; for another loss, `forward`.
    """

    name = "loss"
    """Its file in a checkpoint, and the prefix of its parameters in the optimizer's file."""

    def __init__(self, weighting: str = "none") -> None:
        super().__init__()
        self.weighting = weighting

    def error(self, output: Tensor, wanted: Tensor) -> Tensor:
        """Compare the network's output F with its target, value by value."""
        return (output - wanted) ** 2

    def forward(self, model: DiffusionModel, batch: Batch) -> Float[Tensor, " b"]:
        """Give the loss of each image, as metrics and held-out losses show it."""
        x0, exact = batch.x0, model.schedule.level(batch.t)
        level = exact.to(x0)
        x_t = diffuse(x0, batch.eps, level)
        output, var_frac = model.output(x_t, level, batch.label)
        output = output.to(x0.dtype)
        coefficients = model.coefficients(level)
        weight = WEIGHTINGS[self.weighting](level, determinant(coefficients, level))
        loss = mean_flat(weight * self.error(output, target(coefficients, x0, batch.eps)))
        if var_frac is None:
            return loss
        # L_hybrid: the bound trains the variance alone, so the mean is detached. Improved DDPM, 3.1
        frozen = Prediction(*recover(coefficients, level, x_t, output.detach()), var_frac)
        step = Transition(exact, model.schedule.level(batch.t - 1))
        bound = vlb_term(frozen, x0, x_t, step, "learned", variance_floor(model.schedule))
        return loss + HYBRID_WEIGHT * model.schedule.t_max * bound.to(loss.dtype)

    def minimised(
        self, loss: Float[Tensor, " b"], model: DiffusionModel, batch: Batch
    ) -> Float[Tensor, " b"]:
        """Give what the gradient is taken of, where that is not what `forward` gave."""
        return loss


class LearnedWeighting(Loss):
    """Another loss, weighted by u(level), the logarithm of the loss to expect at a noise level.

    Minimising loss / e^u + u weighs every level by the inverse of its loss.  # EDM2 (21)
    u is linear in cosines of log(sigma / alpha), and 0 at first: then this is the plain loss.
    """

    name = "uncertainty"

    def __init__(self, inner: Loss, features: int = 128) -> None:
        super().__init__()
        self.inner = inner
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", torch.randn(features, generator=generator))
        self.register_buffer("phase", 2 * torch.pi * torch.rand(features, generator=generator))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, model: DiffusionModel, batch: Batch) -> Float[Tensor, " b"]:
        return self.inner(model, batch)

    def expected(self, level: Level) -> Float[Tensor, " b"]:
        """Give u(level)."""
        noise = torch.as_tensor(level.sigma / level.alpha).reshape(-1, 1)
        noise = noise.clamp(1e-4, 1e4).log().to(self.linear.weight)
        features = torch.cos(noise * self.get_buffer("frequency") + self.get_buffer("phase"))
        return self.linear(2**0.5 * features)[:, 0]

    def minimised(
        self, loss: Float[Tensor, " b"], model: DiffusionModel, batch: Batch
    ) -> Float[Tensor, " b"]:
        u = self.expected(model.schedule.level(batch.t))
        return self.inner.minimised(loss, model, batch) / u.exp() + u


LOSSES: dict[str, Callable[[str], Loss]] = {"mse": Loss}
"""Name -> what makes a loss from the name of a weighting."""


def variance_floor(schedule: Schedule) -> float:
    """beta~ of the pair (2, 1), which the papers also use for the pair (1, 0), where it is 0."""
    return float(Transition(schedule.level(2.0), schedule.level(1.0)).beta_tilde)


def vlb_term(
    prediction: Prediction,
    x0: Float[Tensor, "b c h w"],
    x_t: Float[Tensor, "b c h w"],
    step: Transition,
    variance: str,
    floor: float,
) -> Float[Tensor, " b"]:
    """One term of the variational bound in bits/dim, float64: L_{t-1}, or the decoder's L_0 where s
    is data."""  # DDPM (5)
    x0, x_t, x0_hat = x0.double(), x_t.double(), prediction.x0.double()
    share = None if prediction.var_frac is None else prediction.var_frac.double()
    mean = step.posterior_mean(x_t, x0_hat)
    log_var = gaussian.log_variance(variance, step, share, floor)
    true_log_var = gaussian.log_variance("small", step, None, floor)
    kl = gaussian.kl_divergence(step.posterior_mean(x_t, x0), true_log_var, mean, log_var)
    decoder = -gaussian.discretized_log_likelihood(x0, mean, log_var)
    at_data = torch.as_tensor(step.s.sigma == 0, device=x0.device)
    return mean_flat(torch.where(at_data, decoder, kl)) / NATS_PER_BIT
