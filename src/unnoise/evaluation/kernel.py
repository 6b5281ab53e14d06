"""The kernel distance: the squared maximum mean discrepancy of two sets of features, unbiased.

With k(x, y) = (x . y / d + 1)^3 on Inception's pool3 features under a named protocol it is KID
(Binkowski et al. 2018):

    mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_ij k(x_i, y_j)

It is of all vectors at once: the usual mean over random subsets of 1,000 has the same expectation,
more noise and no standard error.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 1 << 23
"""Kernel values held at a time."""


def kernel(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """(x . y / d + 1)^3, float64."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def kernel_distance(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[float, float]:
    """The distance of two sets of 3 or more, and its standard error, both taken as samples.

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
