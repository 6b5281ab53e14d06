"""Feature vectors of samples next to those of a reference: what METRICS are given."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.evaluation.coverage import K_COVERAGE, K_PRECISION, Coverage, coverage
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.kernel import KernelDistance, kernel_distance
from unnoise.evaluation.statistics import Statistics

MOST = 10_000
"""Vectors of each side in what looks at pairs of them; drawn with seed 0."""
FEWEST = 1 + max(K_PRECISION, K_COVERAGE)


class Reference:
    """Features of real images, prepared once; or their statistics alone."""

    def __init__(self, features: Float[Tensor, "m d"] | None, statistics: Statistics) -> None:
        self.features = None if features is None else _drawn(features)
        self.frechet = FrechetTo(statistics)


class Comparison:
    """Samples, or real images that are measured as such, next to one reference."""

    def __init__(
        self, samples: Float[Tensor, "n d"], reference: Reference, real: bool = False
    ) -> None:
        self.all_samples, self.frechet, self.real = samples, reference.frechet, real
        self.samples = _drawn(samples)
        """At most MOST of the samples' vectors, float32 (n, d)."""
        self.reference = reference.features
        """At most MOST of the reference's vectors; None where only their statistics are known."""

    @property
    def counts(self) -> tuple[int, int] | None:
        """Numbers of `samples` and `reference`; None where there are too few to compare."""
        if self.reference is None or min(len(self.samples), len(self.reference)) < FEWEST:
            return None
        return len(self.samples), len(self.reference)

    def kernel(self) -> KernelDistance:
        assert self.reference is not None
        return kernel_distance(self.samples, self.reference)

    @functools.cached_property
    def coverage(self) -> Coverage:
        assert self.reference is not None
        return coverage(self.samples, self.reference)


def _drawn(features: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """At most MOST of them, at random: a data set may be in the order of its classes."""
    if len(features) <= MOST:
        return features
    rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    return features[rows[:MOST]]
