"""What a sampler is given and what it yields."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from torch import Tensor

from unnoise.diffusion.denoiser import Prediction
from unnoise.diffusion.levels import Level

Draw: TypeAlias = Callable[[], Tensor]
"""Gives the next standard normal noise of the batch."""


class Step(NamedTuple):
    """The state after one step: x at a level, and the prediction that led there."""

    level: Level
    x: Tensor
    prediction: Prediction
    nfe: int = 0
    """Network evaluations per image so far."""
