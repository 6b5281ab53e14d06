"""The Fréchet distance between two sets of feature vectors, each taken as a Gaussian, and how sure it is.

It is called FID only on Inception's pool3 features under a named protocol; on any other features it is a Fréchet distance.

**It is biased.** Fewer samples give a larger distance, to first order by k / N: a perfect model does not get 0 (`perfect` says what it
gets), and distances of different N must not be compared. `infinity` extrapolates to 1 / N = 0 (Chong and Forsyth 2020).

**Its interval** is for other samples of the same number from the same model, the reference fixed. A bootstrap is no good here: a
resample repeats vectors, so it is like a smaller sample and its distances lie far above the one in question. The influence of
every vector on the distance is known in closed form (`FrechetTo.estimate`), and the spread of N independent influences is the standard
error: one eigendecomposition, nothing random. In simulations (N from 0.75 to 30 times the dimension) it is 1.1 to 1.4 times the
true one: on the safe side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import DataError
from unnoise.evaluation.statistics import CHUNK, Statistics

Z95 = 1.959963984540054
"""Of a normal distribution: 95 % lie within so many standard deviations."""


def moments(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and covariance (divided by n - 1), float64; ValueError for fewer than 2 vectors."""
    found = Statistics.of(features)
    return found.mean, found.cov


def frechet_distance(
    mean1: Float[Tensor, " d"],
    cov1: Float[Tensor, "d d"],
    mean2: Float[Tensor, " d"],
    cov2: Float[Tensor, "d d"],
) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)).  # Heusel et al. 2017 (6)

    The trace of the root is the sum of the roots of the eigenvalues of cov1^(1/2) cov2 cov1^(1/2), which is symmetric and
    has the same ones: no complex numbers, no failure at low rank.
    """
    return _distance(mean1, cov1, _root(cov1), mean2, cov2)


def _distance(mean1: Tensor, cov1: Tensor, root1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    eigenvalues = torch.linalg.eigvalsh(root1 @ cov2 @ root1)
    trace = cov1.trace() + cov2.trace() - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return max(float((mean1 - mean2) @ (mean1 - mean2) + trace), 0.0)


def _root(cov: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@dataclass(frozen=True)
class Estimate:
    """A distance and its standard error over samples of this number."""

    value: float
    standard_error: float
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 %: where the distances of other samples of this number have their mean."""
        return max(
            self.value - Z95 * self.standard_error, 0.0
        ), self.value + Z95 * self.standard_error


@dataclass(frozen=True)
class Infinity:
    """A distance without the bias of few samples."""

    value: float
    slope: float
    """The bias is slope / N."""
    standard_error: float
    """Of the samples, as the distance's, and of the line's end: added in squares."""
    counts: tuple[int, ...]
    distances: tuple[float, ...]


class FrechetTo:
    """Distances to one reference, whose root is taken once."""

    def __init__(self, reference: Statistics) -> None:
        self.reference = reference
        self.root = _root(reference.cov)

    def distance(self, features: Float[Tensor, "n d"]) -> float:
        """Of features to the reference."""
        found = self._statistics(features)
        return _distance(self.reference.mean, self.reference.cov, self.root, found.mean, found.cov)

    def estimate(self, features: Float[Tensor, "n d"]) -> Estimate:
        """The distance with its standard error, by the influence of every vector:

        2 (mean - mean_r) (x - mean) + (x - mean)^T (1 - T) (x - mean),   T = root (root cov root)^(-1/2) root

        which is the derivative of the distance by the weight of x, less a constant (T is the optimal transport map).
        """
        found = self._statistics(features)
        values, vectors = torch.linalg.eigh(self.root @ found.cov @ self.root)
        trace = (
            self.reference.cov.trace() + found.cov.trace() - 2 * values.clamp(min=0).sqrt().sum()
        )
        shift = found.mean - self.reference.mean
        alive = values > values.max() * 1e-10  # with N below the dimension most are 0
        map_root = (self.root @ vectors[:, alive]) * values[alive] ** -0.25
        parts = []
        for part in features.split(CHUNK):
            x = part.to(found.mean.device, torch.float64) - found.mean
            parts.append(2 * x @ shift + (x**2).sum(1) - ((x @ map_root) ** 2).sum(1))
        influence = torch.cat(parts)
        count = len(influence)
        return Estimate(
            max(float(shift @ shift + trace), 0.0), float(influence.std()) / count**0.5, count
        )

    def infinity(self, features: Float[Tensor, "n d"], points: int = 15, seed: int = 0) -> Infinity:
        """The end at 1 / N = 0 of a straight line through the distances of random subsets.  # Chong and Forsyth 2020, 3.1

        Sizes as in the paper, N / 10 to N, but not below 2.5 times the dimension where N allows (the line bends there), nor
        above N / 2 at the small end.
        """
        count, dimension = features.shape
        if count < 20:
            raise DataError(f"extrapolation: got {count} samples, expected 20 or more")
        smallest = max(count // 10, min(count // 2, 5 * dimension // 2), 2)
        random = torch.Generator().manual_seed(seed)
        counts = [round(float(size)) for size in torch.linspace(smallest, count, points)]
        distances = []
        for size in counts:
            rows = torch.randperm(count, generator=random)[:size].to(features.device)
            distances.append(self.distance(features[rows]))
        x, y = 1 / torch.tensor(counts).double(), torch.tensor(distances).double()
        x0, y0 = x.mean(), y.mean()
        slope = ((x - x0) * (y - y0)).sum() / ((x - x0) ** 2).sum()
        residual = (y - y0 - slope * (x - x0)).std() * ((points - 1) / (points - 2)) ** 0.5
        line = residual * (1 / points + x0**2 / ((x - x0) ** 2).sum()) ** 0.5
        error = float(line**2 + self.estimate(features).standard_error ** 2) ** 0.5
        return Infinity(
            float(y0 - slope * x0), float(slope), error, tuple(counts), tuple(distances)
        )

    def _statistics(self, features: Tensor) -> Statistics:
        theirs = len(self.reference.mean)
        if features.shape[-1] != theirs:
            raise DataError(
                f"reference: its statistics are of {theirs} features, the samples have {features.shape[-1]}; "
                "expected both of one extractor"
            )
        return Statistics.of(features)


def perfect(cov: Float[Tensor, "d d"], count: int) -> float:
    """What `count` samples of a perfect model get on average against the exact reference: the bias at this number.

    The expansion of the distance to second order about cov, with eigenvalues l_i, for a Gaussian:

        tr(cov) / N + 1 / (2 N) (sum_ij l_i l_j / (l_i + l_j) + sum_i l_i / 2)

    Real features have heavier tails than a Gaussian's and get more: 7 to 18 % on Inception's of CIFAR-10 with N from 2.5 to 16
    times the dimension; below that the expansion is only a rough lower bound. Add the same with the reference's own number
    where it is not large.
    """
    values = torch.linalg.eigvalsh(cov.double()).clamp(min=1e-300)
    pairs = values[:, None] * values / (values[:, None] + values)
    return float(values.sum() / count + (pairs.sum() + values.sum() / 2) / (2 * count))
