"""All that feature vectors say of samples, against one reference, as a plain record."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.evaluation.coverage import K_COVERAGE, K_PRECISION, coverage
from unnoise.evaluation.frechet import FrechetTo, perfect
from unnoise.evaluation.kernel import kernel_distance
from unnoise.evaluation.statistics import Statistics

MOST = 10_000
"""Vectors of each side in what looks at pairs (kernel distance, precision, recall, density, coverage); drawn with seed 0."""
INFINITY_FROM = 100
"""Fewer samples are not extrapolated."""
FEWEST = 1 + max(K_PRECISION, K_COVERAGE)


class Reference:
    """Real images' features, prepared once; or their statistics alone, from which only the Fréchet distance follows."""

    def __init__(self, features: Float[Tensor, "m d"] | None, statistics: Statistics) -> None:
        self.features = None if features is None else _drawn(features)
        self.frechet = FrechetTo(statistics)

    def measure(self, samples: Float[Tensor, "n d"], extrapolate: bool = True) -> dict[str, Any]:
        """Every number with its uncertainty, and how many vectors each is of; None for what cannot be had."""
        estimate, count = self.frechet.estimate(samples), self.frechet.reference.count
        infinity = (
            self.frechet.infinity(samples)
            if extrapolate and len(samples) >= INFINITY_FROM
            else None
        )
        cov = self.frechet.reference.cov
        record: dict[str, Any] = {
            "num": len(samples),
            "reference_num": count,
            "frechet": estimate.value,
            "frechet_standard_error": estimate.standard_error,
            "interval": list(estimate.interval),
            "interval_words": "95 % for other samples of this number, the reference fixed (influence function)",
            "frechet_infinity": None if infinity is None else infinity.value,
            "frechet_infinity_standard_error": None
            if infinity is None
            else infinity.standard_error,
            "frechet_of_perfect": perfect(cov, len(samples))
            + (perfect(cov, count) if count else 0.0),
        }
        return record | self._pairs(_drawn(samples))

    def _pairs(self, samples: Float[Tensor, "n d"]) -> dict[str, Any]:
        """What looks at pairs of vectors."""
        names = (
            "kernel",
            "kernel_error",
            "kernel_exact",
            "precision",
            "recall",
            "density",
            "coverage",
            "pairs_of",
        )
        reference = self.features
        if reference is None or min(len(samples), len(reference)) < FEWEST:
            return dict.fromkeys(names)
        kernel, near = kernel_distance(samples, reference), coverage(samples, reference)
        values = (kernel.value, kernel.standard_error, kernel.exact)
        counts = [len(samples), len(reference)]
        return dict(
            zip(
                names,
                (*values, near.precision, near.recall, near.density, near.coverage, counts),
                strict=True,
            )
        )


def _drawn(features: Float[Tensor, "n d"]) -> Float[Tensor, "m d"]:
    """At most MOST of them, at random: a data set may be in the order of its classes."""
    if len(features) <= MOST:
        return features
    return features[
        torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST]
    ]
