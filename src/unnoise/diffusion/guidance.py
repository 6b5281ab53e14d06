"""Guidance: functions from denoisers to denoisers. No sampler knows about them.

All of it is one formula, a weighted sum of predictions whose weights add up to 1:

    classifier-free   scale * D(label) + (1 - scale) * D(null)   Ho & Salimans 2022 (6)
    autoguidance      scale * D        + (1 - scale) * D_worse   Karras et al. 2024 (3)
    morphing          (1 - w) * D(label a) + w * D(label b)

so scale 1 is no guidance (w = 0 in the first paper). x0 and eps are mixed alike: at a given x_t
each is linear in the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, DiffusionModel, Prediction, conditional
from unnoise.diffusion.levels import Level

EVERYWHERE = (0.0, 1e9)
"""An interval of sigma / alpha that holds every level, pure noise too."""


def mixture(
    model: DiffusionModel,
    labels: Sequence[Int[Tensor, " b"]],
    weights: Sequence[float | Float[Tensor, " b"]],
) -> Denoiser:
    """D = sum of weight_i * D(label_i), in one call with len(labels) times the batch.

    Weights are numbers or one per image and add up to 1. The learned variance is the first label's.
    """
    together = torch.cat(list(labels))

    def mixed(x_t: Tensor, level: Level) -> Prediction:
        n = len(labels)
        x0, eps, share, _ = model.denoise(torch.cat([x_t] * n), level, together)
        x0, eps = _sum(x0.chunk(n), weights), _sum(eps.chunk(n), weights)
        return Prediction(x0, eps, None if share is None else share[: len(x_t)], nfe=n)

    return mixed


def _sum(parts: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
    """The last part plus the others' weighted distances from it: exact where all are equal."""
    last = parts[-1]
    total = last
    for part, weight in zip(parts[:-1], weights[:-1], strict=True):
        factor = weight.to(part).reshape(-1, 1, 1, 1) if isinstance(weight, Tensor) else weight
        total = total + factor * (part - last)
    return total


def classifier_free(
    model: DiffusionModel,
    label: Int[Tensor, " b"] | None,
    null_label: int,
    scale: float,
    interval: tuple[float, float] = EVERYWHERE,
) -> Denoiser:
    """D_null + scale * (D_label - D_null) in the interval of sigma / alpha, D_label elsewhere."""
    plain = conditional(model, label)
    if scale == 1 or label is None or bool((label == null_label).all()):
        return plain
    guided = mixture(model, [label, torch.full_like(label, null_label)], [scale, 1 - scale])
    return within(interval, guided, plain)


def autoguidance(
    denoiser: Denoiser, worse: Denoiser, scale: float, interval: tuple[float, float] = EVERYWHERE
) -> Denoiser:
    """D_worse + scale * (D - D_worse) in the interval of sigma / alpha, D elsewhere."""

    def guided(x_t: Tensor, level: Level) -> Prediction:
        good, bad = denoiser(x_t, level), worse(x_t, level)
        weights = [scale, 1 - scale]
        x0, eps = _sum([good.x0, bad.x0], weights), _sum([good.eps, bad.eps], weights)
        return Prediction(x0, eps, good.var_frac, nfe=good.nfe + bad.nfe)

    return within(interval, guided, denoiser)


def within(interval: tuple[float, float], inside: Denoiser, outside: Denoiser) -> Denoiser:
    """One denoiser where low <= sigma / alpha <= high, another elsewhere."""
    # Kynkaanniemi et al. 2024
    if interval == EVERYWHERE:
        return inside
    low, high = interval

    def chosen(x_t: Tensor, level: Level) -> Prediction:
        noise = float(level.sigma / level.alpha) if level.alpha > 0 else EVERYWHERE[1]
        return (inside if low <= noise <= high else outside)(x_t, level)

    return chosen
