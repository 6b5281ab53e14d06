"""Fidelity and variety apart: precision and recall, density and coverage.

Every vector has a ball that reaches to its k-th nearest neighbour in its own set. With r for the
reference and s for samples:

- precision (Kynkäänniemi et al. 2019, k = 3): share of s in some ball of r: are samples plausible?
- recall: share of r in some ball of s: is everything made?
- density (Naeem et al. 2020, k = 5): number of balls of r that a sample lies in, over k; it may
  exceed 1, and outliers of r count little
- coverage: share of r whose ball has some s in it

As in their papers' code a point on the sphere is in the ball for the first two, and not for the
last two. All four depend on the numbers of vectors, so compare at equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.evaluation.neighbours import squared_distances

K_PRECISION, K_COVERAGE = 3, 5
CHUNK = 1 << 23
"""Distances held at a time."""


class Coverage(NamedTuple):
    """Each is best at 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    k_precision: int = K_PRECISION,
    k_coverage: int = K_COVERAGE,
) -> Coverage:
    """All four, in three passes over pairs; both sets need more vectors than either k."""
    radius_p, radius_c = radii(reference, (k_precision, k_coverage))
    (radius_s,) = radii(samples, (k_precision,))
    plausible, balls = 0, 0
    reached = torch.zeros(len(reference), dtype=torch.bool, device=reference.device)
    covered = reached.clone()
    for rows, distances in _by_rows(samples, reference):
        plausible += int((distances <= radius_p).any(1).sum())
        inside = distances < radius_c
        balls += int(inside.sum())
        covered |= inside.any(0)
        reached |= (distances <= radius_s[rows, None]).any(0)
    recall, covers = float(reached.double().mean()), float(covered.double().mean())
    n = len(samples)
    return Coverage(plausible / n, recall, balls / (k_coverage * n), covers)


def radii(x: Float[Tensor, "n d"], ks: tuple[int, ...]) -> list[Float[Tensor, " n"]]:
    """Squared distances to the k-th nearest other vector, for every k."""
    parts = [d.topk(max(ks) + 1, largest=False, sorted=True).values for _, d in _by_rows(x, x)]
    nearest = torch.cat(parts)  # the first is the vector itself, or one equal to it
    return [nearest[:, k] for k in ks]


def _by_rows(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances of some rows of x to all of y at a time."""
    size, y = max(1, CHUNK // len(y)), y.double()
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        yield rows, squared_distances(x[rows], y)
