"""Forward noising and the Gaussian distances of the variational bound."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.diffusion.levels import Level, Scalar, Transition, log

VARIANCES = ("small", "large", "learned")
"""The variance of p(x_s | x_t): beta_tilde, beta, or a network's mixture of their logarithms."""


def diffuse(
    x0: Float[Tensor, "b c h w"], eps: Float[Tensor, "b c h w"], level: Level
) -> Float[Tensor, "b c h w"]:
    """x_t = alpha * x0 + sigma * eps."""  # DDPM (4)
    return level.alpha * x0 + level.sigma * eps


def log_variance(kind: str, step: Transition, var_frac: Tensor | None, floor: Scalar) -> Scalar:
    """log of the variance of p(x_s | x_t).

    `var_frac` f in [0, 1] is the network's share of the large one,
    log Sigma = f log beta + (1 - f) log beta~ (Improved DDPM (15)). Where s is data beta~ is 0;
    `floor` serves there, which the papers set to beta~ of the first pair (2, 1).
    """
    small = step.beta_tilde
    small = torch.clamp(small, min=floor) if isinstance(small, Tensor) else max(small, floor)
    if kind == "small":
        return log(small)
    if kind == "large":
        return log(step.beta)
    if var_frac is None:
        needs = "needs a network that predicts it (diffusion.variance = learned)"
        raise ValueError(f"variance 'learned' {needs}")
    return var_frac * log(step.beta) + (1 - var_frac) * log(small)


def kl_divergence(mean1: Tensor, log_var1: Scalar, mean2: Tensor, log_var2: Scalar) -> Tensor:
    """KL(N(mean1, e^log_var1) || N(mean2, e^log_var2)) per dimension, in nats."""
    log_var1, log_var2 = (
        torch.as_tensor(v, dtype=mean1.dtype, device=mean1.device) for v in (log_var1, log_var2)
    )
    distance = (mean1 - mean2) ** 2 * (-log_var2).exp()
    return 0.5 * (log_var2 - log_var1 - 1 + (log_var1 - log_var2).exp() + distance)


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_var: Scalar) -> Tensor:
    """log P(x), in nats, of grey values in {-1, -1 + 2/255, .., 1}, by a Gaussian in 256 bins."""
    # DDPM (13)
    inv_std = torch.exp(-0.5 * torch.as_tensor(log_var, dtype=x.dtype, device=x.device))
    upper = _normal_cdf((x - mean + 1 / 255) * inv_std)
    lower = _normal_cdf((x - mean - 1 / 255) * inv_std)
    upper = torch.where(x > 0.999, 1.0, upper)
    lower = torch.where(x < -0.999, 0.0, lower)
    return torch.log(torch.clamp(upper - lower, min=1e-12))


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / 2**0.5))


def mean_flat(x: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The mean over all but the first dimension."""
    return x.flatten(1).mean(dim=1)


NATS_PER_BIT = math.log(2)
