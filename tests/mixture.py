"""A Gaussian mixture, whose ideal denoiser is known in closed form: the oracle of the sampler
tests."""

from __future__ import annotations

import torch
from torch import Tensor

from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level


class Mixture:
    """Equal-weight isotropic Gaussians in `dim` pixels, float64 images (n, 1, 1, dim)."""

    def __init__(self, means: list[list[float]], std: float) -> None:
        self.means = torch.tensor(means, dtype=torch.float64)
        self.std = std

    def denoise(self, x_t: Tensor, level: Level) -> Prediction:
        """E[x0 | x_t] and the noise it implies."""
        x, alpha, sigma = x_t.flatten(1), level.alpha, level.sigma
        variance = (alpha * self.std) ** 2 + sigma**2
        distances = ((x[:, None] - alpha * self.means) ** 2).sum(-1)
        weights = torch.softmax(-distances / (2 * variance), dim=1)
        gain = alpha * self.std**2 / variance
        posterior = self.means + gain * (x[:, None] - alpha * self.means)
        x0 = (weights[..., None] * posterior).sum(1).reshape(x_t.shape)
        # eps by its own conditional mean, which stays exact where sigma is 0 or alpha is 0.
        noise = sigma / variance * (x[:, None] - alpha * self.means)
        return Prediction(x0, (weights[..., None] * noise).sum(1).reshape(x_t.shape))

    def mean(self) -> Tensor:
        return self.means.mean(0)

    def covariance(self) -> Tensor:
        centred = self.means - self.mean()
        return (
            centred.T @ centred / len(self.means)
            + self.std**2 * torch.eye(self.means.shape[1]).double()
        )
