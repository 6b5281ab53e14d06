"""Exact nearest neighbours in bounded memory.

|a - b|^2 = |a|^2 - 2 a.b + |b|^2 is one matrix product, but it loses the digits of small distances: float32 says 10 where
a copy has 0. So it only makes a shortlist, and float64 differences decide. The shortlist is long enough by proof: a sum of
d products in float32 is off by at most d u sum |a_i b_i|, u = 2^-24, whatever the order of the sum (Higham 2002, 3.1), so
the three terms together are off by at most d u (|a| + |b|)^2, and whatever may be among the k nearest is looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unnoise.errors import DataError
from unnoise.precision import full_precision

HELD = 1 << 24
"""Distances held at once: 64 MiB."""
ROWS = 4096
"""Training vectors held at once as floats."""
UNIT = 2.0**-24
"""Half the distance from 1 to the next float32."""
ROUNDINGS = 16
"""More than those beside the sums: of the centred vectors, the two additions and the bound itself."""
LARGEST = 1e30
"""A squared norm from here on is no number to reckon with in float32."""


def nearest(
    queries: Tensor, train: Tensor | np.ndarray, k: int, held: int = HELD
) -> tuple[Float[Tensor, "n k"], Int64[Tensor, "n k"]]:
    """Euclidean distances (float64) to the k nearest rows of `train`, ascending, and their indices, the lower first on a tie.

    The products run on the device of `queries`, the results are on the CPU. `train` may be a memory map. Of integers the
    distances are exact before the root, so a copy is at exactly 0.
    """
    _check(queries, train, k)
    mean = _mean(train)
    norms = torch.cat([_centred(part, mean).square().sum(1) for part in _parts(train)])
    _check_finite(norms, "the training set")
    found: list[tuple[Tensor, Tensor]] = []
    for part in queries.split(max(1, held // len(train))):
        candidates = _shortlists(part, train, mean, norms, k)
        found += [
            _exact(query, train, rows, k)
            for query, rows in zip(part.cpu(), candidates, strict=True)
        ]
    if not found:
        return torch.empty(0, k, dtype=torch.float64), torch.empty(0, k, dtype=torch.int64)
    return torch.stack([distances for distances, _ in found]), torch.stack(
        [indices for _, indices in found]
    )


def _check(queries: Tensor, train: Tensor | np.ndarray, k: int) -> None:
    if queries.ndim != 2 or train.ndim != 2 or queries.shape[1] != train.shape[1]:
        got = f"{tuple(queries.shape)} against {tuple(train.shape)}"
        raise DataError(
            f"nearest neighbours: got vectors {got}, expected (n, d) and (m, d) of the same d"
        )
    if not 1 <= k <= len(train):
        raise DataError(
            f"nearest neighbours: got k = {k} for {len(train)} training vectors, expected 1 to {len(train)}"
        )


def _check_finite(norms: Tensor, what: str) -> None:
    bad = (~(norms < LARGEST)).nonzero()
    if len(bad):
        raise DataError(
            f"nearest neighbours: {len(bad)} of {len(norms)} vectors of {what} hold NaN, infinity or numbers beyond 1e15, "
            f"the first is row {int(bad[0])}; expected finite features"
        )


def _rows(train: Tensor | np.ndarray, rows: Tensor | slice) -> Tensor:
    if isinstance(train, Tensor):
        return train[rows if isinstance(rows, slice) else rows.to(train.device)]
    return torch.from_numpy(np.array(train[rows if isinstance(rows, slice) else rows.numpy()]))


def _parts(train: Tensor | np.ndarray) -> Iterator[Tensor]:
    """Training vectors on the CPU, some at a time."""
    return (_rows(train, slice(start, start + ROWS)).cpu() for start in range(0, len(train), ROWS))


def _mean(train: Tensor | np.ndarray) -> Float[Tensor, " d"]:
    """What both sides are moved by, so that norms are small; whole numbers for bytes, which stay exact."""
    mean = torch.stack([part.double().sum(0) for part in _parts(train)]).sum(0) / len(train)
    whole = train.dtype in (torch.uint8, np.uint8)
    return mean.round().float() if whole else mean.float()


def _centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """float32, subtracted in float64 where they are that."""
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    return (vectors - mean.to(vectors)).float()


def _shortlists(
    queries: Tensor, train: Tensor | np.ndarray, mean: Tensor, norms: Tensor, k: int
) -> list[Tensor]:
    """For every query the rows that may be among its k nearest, ascending."""
    a = _centred(queries, mean)
    sizes = a.square().sum(1)
    _check_finite(sizes, "the queries")
    squares = torch.empty(len(a), len(train), device=a.device)
    with full_precision():
        for start in range(0, len(train), ROWS):
            b = _centred(_rows(train, slice(start, start + ROWS)).to(a.device), mean)
            size = norms[start : start + ROWS].to(a.device)
            squares[:, start : start + ROWS] = torch.addmm(size, a, b.T, alpha=-2) + sizes[:, None]
    error = (
        (mean.numel() + ROUNDINGS) * UNIT * (sizes.sqrt() + norms.max().sqrt().to(a.device)) ** 2
    )
    kth = squares.topk(k, 1, largest=False).values[:, -1]
    limit = kth + 2 * error
    return [(row <= most).nonzero()[:, 0].cpu() for row, most in zip(squares, limit, strict=True)]


def _exact(
    query: Tensor, train: Tensor | np.ndarray, rows: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k nearest among some rows, by differences in float64."""
    parts = [
        (_rows(train, part).cpu().double() - query.double()).square().sum(1)
        for part in rows.split(ROWS)
    ]
    squares, order = torch.cat(parts).sort(stable=True)
    return squares[:k].sqrt(), rows[order[:k]]
