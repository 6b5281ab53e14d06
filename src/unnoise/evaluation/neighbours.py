"""Squared distances, and exact nearest neighbours in bounded memory.

|a - b|^2 = |a|^2 - 2 a.b + |b|^2 is one matrix product, but it loses the digits of small distances.
So it only makes a shortlist, and differences decide. The shortlist is long enough by proof: a sum
of d products is off by at most d u sum |a_i b_i|, u = 2^-53 (Higham 2002, 3.1), so a square is off
by at most d u (|a| + |b|)^2, and |b| <= |a| + |a - b|.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

HELD = 1 << 23
"""Distances that are held at a time: 64 MiB."""
ROWS = 4096
"""Training vectors that are float64 at a time."""
SAME = 1e-13
"""Squared distances below this share of the squared lengths are rounding: the vectors are equal."""


def squared_distances(x: Tensor, y: Tensor) -> Float[Tensor, "n m"]:
    """|x_i|^2 + |y_j|^2 - 2 x_i . y_j in float64, for vectors (n, d) and (m, d)."""
    x, y = x.double(), y.double()
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)
    distances = squares - 2 * x @ y.T
    return torch.where(distances <= SAME * squares, 0.0, distances)


def nearest(
    sides: Sequence[tuple[Tensor, Tensor | np.ndarray]], k: int
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Distances (float64) to the k nearest training vectors, ascending, and their row numbers.

    `sides` are (queries, training vectors, also a memory map) as they are and, perhaps, mirrored:
    the smaller distance counts, and the third result says whether it is the mirrored one. At a tie
    the lower row is first. Squares of distances between integers are exact: a copy is at exactly 0.
    """
    (queries, train), found = sides[0], list[tuple[Tensor, Tensor, Tensor]]()
    size = max(1, HELD // len(train))
    for start in range(0, len(queries), size):
        parts = [(all_[start : start + size].double(), vectors) for all_, vectors in sides]
        squares = torch.stack([_to_all(*part) for part in parts]).amin(0)
        kth = squares.topk(k, 1, largest=False).values[:, -1]
        norms = (parts[0][0] ** 2).sum(1)
        limit = kth + (queries.shape[1] + 16) * 2.0**-49 * (norms + kth)
        for i, close in enumerate((squares <= limit[:, None]).cpu()):
            rows = close.nonzero()[:, 0]
            exact = [
                (rows_of(vectors, rows).cpu().double() - part[i].cpu()).square().sum(1)
                for part, vectors in parts
            ]
            mirrored = exact[-1] < exact[0]
            smaller, order = torch.where(mirrored, exact[-1], exact[0]).sort(stable=True)
            found.append((smaller[:k].sqrt(), rows[order[:k]], mirrored[order[:k]]))
    distances, indices, mirrored = (torch.stack(column) for column in zip(*found, strict=True))
    return distances, indices, mirrored


def _to_all(queries: Tensor, train: Tensor | np.ndarray) -> Tensor:
    blocks = (slice(start, start + ROWS) for start in range(0, len(train), ROWS))
    device = queries.device
    return torch.cat([squared_distances(queries, rows_of(train, b).to(device)) for b in blocks], 1)


def rows_of(vectors: Tensor | np.ndarray, rows: Tensor | slice) -> Tensor:
    """Some rows of a tensor, an array or a memory map, as a tensor."""
    if isinstance(vectors, Tensor):
        return vectors[rows if isinstance(rows, slice) else rows.to(vectors.device)]
    return torch.from_numpy(np.array(vectors[rows if isinstance(rows, slice) else rows.numpy()]))
