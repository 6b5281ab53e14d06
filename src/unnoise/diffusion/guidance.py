"""Guidance: functions from denoisers to denoisers. No sampler knows about them."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from unnoise.diffusion.denoiser import Denoiser, DiffusionModel, Prediction, conditional
from unnoise.diffusion.levels import Level


def classifier_free(model: DiffusionModel, label: Int[Tensor, " b"] | None, null_label: int, scale: float) -> Denoiser:
    """D = D_null + scale * (D_label - D_null), both in one call of twice the batch; scale 1 (or no label) is no guidance."""
    # Ho & Salimans 2022 (6), whose w is scale - 1
    if scale == 1 or label is None:
        return conditional(model, label)
    both = torch.cat([label, torch.full_like(label, null_label)])

    def guided(x_t: Tensor, level: Level) -> Prediction:
        prediction = model.denoise(torch.cat([x_t, x_t]), level, both)
        (x0, x0_null), (eps, eps_null) = prediction.x0.chunk(2), prediction.eps.chunk(2)
        share = None if prediction.var_frac is None else prediction.var_frac.chunk(2)[0]
        return Prediction(x0_null + scale * (x0 - x0_null), eps_null + scale * (eps - eps_null), share, nfe=2)

    return guided
