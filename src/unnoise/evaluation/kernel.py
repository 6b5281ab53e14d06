"""The kernel distance: the squared maximum mean discrepancy of two sets of features, unbiased.

With k(x, y) = (x . y / d + 1)^3 on Inception's pool3 features under a named protocol it is KID
(Binkowski et al. 2018):

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

`kernel_distance` is the usual mean over random subsets of 1,000. `exact` is the same on all vectors
at once, with a standard error, which the overlapping subsets cannot give.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

SUBSETS, SIZE = 100, 1000
CHUNK = 1 << 23
"""Kernel values held at a time."""


class KernelDistance(NamedTuple):
    """The mean over subsets, and how sure it is."""

    value: float
    standard_error: float
    """Standard error of the value, both sets taken as samples (`exact`)."""
    exact: float
    """The estimate from all vectors at once."""


def kernel_distance(
    samples: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    subsets: int = SUBSETS,
    size: int = SIZE,
    seed: int = 0,
) -> KernelDistance:
    """Over subsets of `size` of both sets, or of as many as the smaller one has (3 at least)."""
    size = min(size, len(samples), len(reference))
    value, error = exact(samples, reference)
    if size == len(samples) == len(reference):
        return KernelDistance(value, error, value)
    random = torch.Generator().manual_seed(seed)

    def drawn(v: Tensor) -> Tensor:
        return v[torch.randperm(len(v), generator=random)[:size].to(v.device)]

    found = [mmd2(drawn(samples), drawn(reference)) for _ in range(subsets)]
    return KernelDistance(float(torch.tensor(found).double().mean()), error, value)


def kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """(x . y / d + 1)^3, float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def mmd2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """The unbiased squared discrepancy of small sets."""
    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def exact(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[float, float]:
    """mmd2 of sets of any size, in chunks, and its standard error.

    Without x_i the first mean's sum loses twice its row, the last one's its row: the spread of that
    over all i is the error that comes of x, and so for y.
    """
    n, m = len(x), len(y)
    rows_x, rows_y = _row_sums(x), _row_sums(y)
    cross_x, cross_y = _cross_sums(x, y)
    within = rows_x.sum() / (n * (n - 1)) + rows_y.sum() / (m * (m - 1))
    loss_x = 2 * (rows_x / (n - 2) - cross_x / m)
    loss_y = 2 * (rows_y / (m - 2) - cross_y / n)
    error = (loss_x.var() / n + loss_y.var() / m) ** 0.5
    return float(within - 2 * cross_x.sum() / (n * m)), float(error)


def _row_sums(x: Tensor) -> Tensor:
    """sum_{j != i} k(x_i, x_j)."""
    own = ((x.double() ** 2).sum(1) / x.shape[1] + 1) ** 3
    return _cross_sums(x, x)[0] - own


def _cross_sums(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of k(x_i, y_j) over j, and over i."""
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for part in x.split(max(1, CHUNK // len(y))):
        values = kernel(part, y)
        rows.append(values.sum(1))
        columns += values.sum(0)
    return torch.cat(rows), columns
