"""What a sampler yields."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level


class Step(NamedTuple):
    """The state after one step: x at a level, and the prediction that led there."""

    level: Level
    x: Tensor
    prediction: Prediction
    nfe: int = 0
    """Network evaluations per image so far."""
