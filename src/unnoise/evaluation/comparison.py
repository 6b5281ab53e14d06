"""Feature vectors of samples next to those of a reference: what METRICS are given."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.evaluation.coverage import K_COVERAGE, K_PRECISION, Coverage, coverage
from unnoise.evaluation.frechet import FrechetTo

MOST = 10_000
"""Vectors of each side in what looks at pairs of them; drawn with seed 0."""
FEWEST = 1 + max(K_PRECISION, K_COVERAGE)


class Comparison:
    """Samples, or real images that are measured as such, next to a reference.

    The reference is its features, or None, and the distances to its mean and covariance.
    """

    def __init__(
        self,
        samples: Float[Tensor, "n d"],
        reference: Float[Tensor, "m d"] | None,
        frechet: FrechetTo,
        real: bool = False,
    ) -> None:
        self.all_samples, self.frechet, self.real = samples, frechet, real
        self.samples = _drawn(samples)
        """At most MOST of the samples' vectors, float32 (n, d)."""
        self.reference = None if reference is None else _drawn(reference)
        """At most MOST of the reference's vectors; None where only their statistics are known."""

    @property
    def counts(self) -> list[int] | None:
        """Numbers of `samples` and `reference`; None where there are too few to compare."""
        if self.reference is None or min(len(self.samples), len(self.reference)) < FEWEST:
            return None
        return [len(self.samples), len(self.reference)]

    @functools.cached_property
    def coverage(self) -> Coverage:
        assert self.reference is not None
        return coverage(self.samples, self.reference)


def _drawn(features: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """At most MOST of them, at random: a data set may be in the order of its classes."""
    if len(features) <= MOST:
        return features
    return features[
        torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST]
    ]
