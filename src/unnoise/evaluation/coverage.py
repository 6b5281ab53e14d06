"""Fidelity and variety apart: precision and recall, density and coverage.

Every vector has a ball that reaches to its k-th nearest neighbour in its own set. With r for reference and s for samples:

- precision (Kynkäänniemi et al. 2019, k = 3): the share of s in some ball of r: are the samples plausible?
- recall: the share of r in some ball of s: is everything made?
- density (Naeem et al. 2020, k = 5): in how many balls of r a sample lies, over k; may exceed 1, and outliers of r count little
- coverage: the share of r whose ball has some s in it

As in their papers' code a point on the sphere is in the ball for the first two, and not for the last two. Squared distances are
float64 and come in chunks; all four depend on the numbers of vectors, so compare at equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import DataError

K_PRECISION, K_COVERAGE = 3, 5
CHUNK = 1 << 23
"""Distances held at a time."""
SAME = 1e-13
"""Squared distances below this share of the squared lengths are rounding: the vectors are equal."""


@dataclass(frozen=True)
class Coverage:
    """Each is best at 1."""

    precision: float
    recall: float
    density: float
    coverage: float
    samples: int
    reference: int


def coverage(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    k_precision: int = K_PRECISION,
    k_coverage: int = K_COVERAGE,
) -> Coverage:
    """All four, in three passes over pairs."""
    fewest = max(k_precision, k_coverage) + 1
    if min(len(samples), len(reference)) < fewest:
        raise DataError(
            f"precision and coverage: got {len(samples)} samples and {len(reference)} reference vectors, "
            f"expected {fewest} or more of each"
        )
    radius_p, radius_c = radii(reference, (k_precision, k_coverage))
    (radius_s,) = radii(samples, (k_precision,))
    n, m = len(samples), len(reference)
    plausible, balls = 0, 0
    reached = torch.zeros(m, dtype=torch.bool, device=reference.device)
    covered = reached.clone()
    for rows, distances in squared_distances(samples, reference):
        plausible += int((distances <= radius_p).any(1).sum())
        inside = distances < radius_c
        balls += int(inside.sum())
        covered |= inside.any(0)
        reached |= (distances <= radius_s[rows, None]).any(0)
    return Coverage(
        precision=plausible / n,
        recall=float(reached.double().mean()),
        density=balls / (k_coverage * n),
        coverage=float(covered.double().mean()),
        samples=n,
        reference=m,
    )


def radii(x: Float[Tensor, "n d"], ks: tuple[int, ...]) -> list[Float[Tensor, " n"]]:
    """Squared distances to the k-th nearest other vector, for every k."""
    parts = [
        d.topk(max(ks) + 1, largest=False, sorted=True).values for _, d in squared_distances(x, x)
    ]
    nearest = torch.cat(parts)  # the first is the vector itself, or one equal to it
    return [nearest[:, k] for k in ks]


def squared_distances(
    x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]
) -> Iterator[tuple[slice, Float[Tensor, "b m"]]]:
    """|x_i - y_j|^2 = |x_i|^2 + |y_j|^2 - 2 x_i . y_j in float64, rows of x at a time."""
    y = y.double()
    squares_y = (y**2).sum(1)
    start = 0
    for part in x.split(max(1, CHUNK // len(y))):
        part = part.double()
        squares = (part**2).sum(1)[:, None] + squares_y
        distances = squares - 2 * part @ y.T
        yield (
            slice(start, start + len(part)),
            torch.where(distances <= SAME * squares, 0.0, distances),
        )
        start += len(part)
