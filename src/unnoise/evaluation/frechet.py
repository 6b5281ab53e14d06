"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian.

It is called FID only on Inception's pool3 features under a named protocol; on any other features it is a Fréchet distance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def moments(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance (divided by n - 1), float64; ValueError for fewer than 2 vectors."""
    if len(features) < 2:
        raise ValueError(f"features: got {len(features)} vectors, expected 2 or more")
    features = features.double()
    return features.mean(0), torch.cov(features.T).reshape(features.shape[1], features.shape[1])


def frechet_distance(
    mean1: Float[Tensor, " d"], cov1: Float[Tensor, "d d"], mean2: Float[Tensor, " d"], cov2: Float[Tensor, "d d"]
) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)).  # Heusel et al. 2017 (6)

    The trace of the root is the sum of the roots of the eigenvalues of cov1^(1/2) cov2 cov1^(1/2), which is symmetric and
    has the same ones: no complex numbers, no failure at low rank.
    """
    root = _root(cov1)
    eigenvalues = torch.linalg.eigvalsh(root @ cov2 @ root)
    trace = cov1.trace() + cov2.trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return max(float((mean1 - mean2) @ (mean1 - mean2) + trace), 0.0)


def _root(cov: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
