"""Bits per dimension by the bound of ancestral sampling, and by the probability-flow ODE.

    bits_per_dim(model, images, labels).describe()
    bits_per_dim(model, images, labels, method="ode", steps=32)

The two are numbers of two different models with one network: the bound is of the stochastic sampler
on the same grid, the ODE's of the deterministic one. Both are upper bounds on average (by the bound
itself; by the dequantisation), and both are conditional on the labels, without guidance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from unnoise import build
from unnoise.evaluation.likelihood.bound import BoundSettings, variational_bound
from unnoise.evaluation.likelihood.common import Likelihood, checked
from unnoise.evaluation.likelihood.ode import OdeSettings, ode_likelihood
from unnoise.model import Model
from unnoise.reading import from_dict

METHODS = {"bound": (variational_bound, BoundSettings), "ode": (ode_likelihood, OdeSettings)}
"""Name -> function, and its settings."""


def bits_per_dim(
    model: Model,
    images: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | Sequence[int] | None = None,
    method: str = "bound",
    *,
    seed: int = 0,
    batch_size: int = 64,
    **settings: Any,
) -> Likelihood:
    """Bits/dim of uint8 (n, c, h, w) images by a method.

    Image i's randomness is that of seed + i. `settings` are fields of the method's settings.
    """
    function, kind = build.lookup(METHODS, method, "likelihood.method")
    work = checked(model, images, labels, seed, batch_size)
    return function(work, from_dict(kind, settings, f"{method}."))
