"""Bits per dimension: by the variational bound of ancestral sampling, and by the probability-flow ODE.

    bits_per_dim(model, images, labels).describe()
    bits_per_dim(model, images, labels, method="ode", num=64, solver="rk4", steps=32)

The two are numbers of two different models with one network: the bound is of the stochastic sampler on the same grid, the
ODE's of the deterministic one. Both are upper bounds on average (by the bound itself; by the dequantisation), and both
are conditional on the labels, without guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unnoise import build
from unnoise.config import from_dict
from unnoise.errors import ConfigError, DataError
from unnoise.evaluation.likelihood.bound import BoundSettings, VariationalBound, variational_bound
from unnoise.evaluation.likelihood.common import Likelihood
from unnoise.evaluation.likelihood.ode import OdeLikelihood, OdeSettings, ode_likelihood
from unnoise.model import Model

__all__ = [
    "METHODS",
    "BoundSettings",
    "Likelihood",
    "OdeLikelihood",
    "OdeSettings",
    "VariationalBound",
    "bits_per_dim",
    "ode_likelihood",
    "variational_bound",
]

METHODS = {"bound": (variational_bound, BoundSettings), "ode": (ode_likelihood, OdeSettings)}
"""Name -> function, and its settings."""


def bits_per_dim(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None = None,
    method: str = "bound",
    num: int | None = None,
    *,
    seed: int = 0,
    batch_size: int = 64,
    **settings: Any,
) -> Likelihood:
    """Bits/dim of the first `num` images (None = all) by a method; `settings` are fields of its settings."""
    function, kind = build.lookup(METHODS, method, "likelihood.method")
    if num is not None:
        if num < 1:
            raise ConfigError(f"{method}.num: got {num}, expected 1 or more")
        if num > len(images):
            raise DataError(f"{method}.num: asked for {num} images, but there are {len(images)}")
        images, labels = images[:num], None if labels is None else labels[:num]
    return function(
        model, images, labels, from_dict(kind, settings, f"{method}."), seed, batch_size
    )
