"""Mean and covariance of feature vectors in float64, and their files.

Adding a part to what was seen before (Chan, Golub and LeVeque 1979), with S the sum of the outer
products about the mean,

    S = S1 + S2 + n1 n2 / (n1 + n2) delta delta^T,   delta = mean2 - mean1

subtracts means before it squares, so nothing cancels. Files are the usual `.npz` with mu and sigma
(pytorch-fid, EDM, clean-fid); or ours, with half of the symmetric matrix in float32, the count and
where the numbers come from.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import DataError
from unnoise.files import parse_json, replacing

CHUNK = 4096
"""Vectors that are float64 at a time."""
NAMES = ("mu", "sigma", "half", "count", "about")
WRONG = (ValueError, TypeError, AttributeError)
UNREADABLE = (*WRONG, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What numpy raises for a file that is not there, not its own or damaged."""


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of a set of feature vectors."""

    count: int | None
    """None where a file does not say."""
    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]
    """Divided by count - 1."""
    about: dict[str, str] = field(default_factory=dict)
    """Extractor, its fingerprint, the data: where the numbers come from."""

    @staticmethod
    def of(features: Float[Tensor, "n d"]) -> Statistics:
        """The statistics of 2 or more vectors."""
        dimension, device = features.shape[1], features.device
        count, mean = 0, torch.zeros(dimension, dtype=torch.float64, device=device)
        scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)
        for part in features.split(CHUNK):
            part = part.double()
            part_mean, total = part.mean(0), count + len(part)
            centred, delta = part - part_mean, part_mean - mean
            product = torch.outer(delta, delta) * (count * len(part) / total)
            scatter += centred.T @ centred + product
            mean += delta * (len(part) / total)
            count = total
        assert count > 1 and bool(mean.isfinite().all())
        return Statistics(count, mean, scatter / (count - 1))

    def to(self, device: torch.device) -> Statistics:
        """The same on another device."""
        return replace(self, mean=self.mean.to(device), cov=self.cov.to(device))

    @staticmethod
    def load(path: Path, dimension: int) -> Statistics:
        """Read anybody's mu and sigma, or ours; DataError unless they are of this dimension."""
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files if name in NAMES}
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or "damaged, or no .npz"
            expected = "expected an .npz of mu and sigma"
            raise DataError(f"statistics {path}: cannot be read ({reason}); {expected}") from error
        shapes = {name: value.shape for name, value in found.items()}
        square = {"sigma": (dimension, dimension), "half": (dimension * (dimension + 1) // 2,)}
        kind = next((name for name in square if shapes.get(name) == square[name]), None)
        if kind is None or shapes.get("mu") != (dimension,):
            got = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if name != "about")
            expected = f"mu ({dimension},) and sigma ({dimension}, {dimension})"
            got = f"got {got or 'neither of them'}, expected {expected}"
            raise DataError(f"statistics {path}: {got}; made with another extractor?")
        try:
            mean, cov = (torch.from_numpy(found[name].astype(np.float64)) for name in ("mu", kind))
            count = int(found["count"]) if "count" in found else None
            about = parse_json(str(found.get("about", "{}")), "about", dict[str, Any])
            about = {key: str(value) for key, value in about.items()}
            cov = _unfolded(cov, dimension) if kind == "half" else cov
            _check(count, mean, cov)
        except WRONG as error:
            fix = "the file is damaged: make it again"
            raise DataError(f"statistics {path}: {error}; {fix}") from error
        return Statistics(count, mean, cov, about)

    def save(self, path: Path) -> None:
        """Write the covariance's upper half in float32 (8 MB for 2,048 features)."""
        half = self.cov.cpu().numpy()[np.triu_indices(len(self.mean))].astype(np.float32)
        about = json.dumps(self.about)
        arrays: dict[str, Any] = {"half": half, "mu": self.mean.cpu().numpy(), "about": about}
        arrays["unnoise"] = 1  # by this name `files.claim` knows the file again
        arrays |= {} if self.count is None else {"count": self.count}
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            reason = f"cannot be written ({error.strerror})"
            raise DataError(f"statistics {path}: {reason}; choose another place") from error


def _unfolded(half: Tensor, dimension: int) -> Tensor:
    """The symmetric matrix of its upper half."""
    cov = torch.zeros(dimension, dimension, dtype=torch.float64)
    rows, columns = np.triu_indices(dimension)
    cov[rows, columns] = cov[columns, rows] = half
    return cov


def _check(count: int | None, mean: Tensor, cov: Tensor) -> None:
    """ValueError for what no vectors have."""
    largest = cov.abs().max()
    wrong = {
        f"it says it is of {count} vectors": count is not None and count < 2,
        "numbers that are not finite": not (mean.isfinite().all() and cov.isfinite().all()),
        "sigma is not symmetric": (cov - cov.T).abs().max() > 1e-4 * largest,
        "sigma has negative variances": (cov.diagonal() < -1e-6 * largest).any(),
    }
    if reasons := [reason for reason, found in wrong.items() if found]:
        raise ValueError(f"{reasons[0]}, expected a mean and a covariance")
