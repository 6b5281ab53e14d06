"""Mean and covariance of feature vectors: float64, streamed, mergeable, and their files.

Adding a batch to what was seen before (Chan, Golub and LeVeque 1979), with S the sum of the outer products about the mean:

    S = S1 + S2 + n1 n2 / (n1 + n2) delta delta^T,   delta = mean2 - mean1

subtracts means before it squares, so nothing cancels. Files are the usual `.npz` with mu and sigma (pytorch-fid, EDM, clean-fid), plus
the count and what it is about where it is ours; or compact, with half of the symmetric matrix in float32.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unnoise.errors import DataError
from unnoise.files import replacing

CHUNK = 4096
"""Vectors that are float64 at a time."""


@dataclass(frozen=True)
class Statistics:
    """Of a set of feature vectors."""

    count: int | None
    """None where a file does not say."""
    mean: Float[Tensor, " d"]
    cov: Float[Tensor, "d d"]
    """Divided by count - 1."""
    about: dict[str, str] = field(default_factory=dict)
    """Extractor, its fingerprint, the data: where the numbers come from."""

    @staticmethod
    def of(
        features: Float[Tensor, "n d"] | Iterable[Tensor], about: dict[str, str] | None = None
    ) -> Statistics:
        """Of features, or of batches of them; DataError for fewer than 2 vectors."""
        moments: Moments | None = None
        for batch in [features] if isinstance(features, Tensor) else features:
            moments = moments or Moments(batch.shape[-1], batch.device)
            moments.update(batch)
        return (moments or Moments(0)).statistics(about)

    @staticmethod
    def load(path: Path, dimension: int | None = None) -> Statistics:
        """From either of our files, or anybody's mu and sigma; DataError unless they are what they should be."""
        found = _read(path)
        mean = found.get("mu")
        if mean is None or mean.ndim != 1 or not ("sigma" in found or "half" in found):
            raise DataError(
                f"statistics {path}: got {_shapes(found)}, expected mu (d,) and sigma (d, d)"
            )
        cov, d = (
            found["sigma"] if "sigma" in found else _unfolded(found["half"], len(mean)),
            dimension or len(mean),
        )
        if cov.shape != (d, d) or len(mean) != d:
            expected = f"expected mu ({d},) and sigma ({d}, {d}); made with another extractor?"
            raise DataError(f"statistics {path}: got {_shapes(found)}, {expected}")
        try:
            mean, cov = (torch.from_numpy(np.array(value, np.float64)) for value in (mean, cov))
            count = int(found["count"]) if "count" in found else None
            if count is not None and count < 2:
                raise ValueError(f"it says it is of {count} vectors")
            about = (
                {str(k): str(v) for k, v in json.loads(str(found["about"])).items()}
                if "about" in found
                else {}
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"statistics {path}: {error}; the file is damaged: make it again"
            ) from error
        if wrong := _wrong(mean, cov):
            raise DataError(f"statistics {path}: {wrong}; the file is damaged: make it again")
        return Statistics(count, mean, cov, about)

    def save(self, path: Path) -> None:
        """The usual .npz: mu and sigma in float64, and our count and about; whole or not at all."""
        self._save(path, {"sigma": self.cov.cpu().numpy()})

    def save_compact(self, path: Path) -> None:
        """A quarter of the size: the covariance's upper half in float32 (8 MB for 2,048 features)."""
        half = self.cov.cpu().numpy()[np.triu_indices(len(self.mean))].astype(np.float32)
        self._save(path, {"half": half})

    def _save(self, path: Path, arrays: dict[str, Any]) -> None:
        arrays |= {"mu": self.mean.cpu().numpy(), "about": np.array(json.dumps(self.about))}
        arrays |= {} if self.count is None else {"count": np.array(self.count)}
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise DataError(
                f"statistics {path}: cannot be written ({error.strerror}); choose another place"
            ) from error


class Moments:
    """Mean and covariance of vectors that come in batches."""

    def __init__(self, dimension: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)
        """Sum of the outer products about the mean."""

    def update(self, features: Float[Tensor, "n d"]) -> None:
        """Add a batch; DataError unless it has the dimension and is finite."""
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise DataError(
                f"features: got {tuple(features.shape)}, expected (n, {len(self.mean)})"
            )
        for part in features.split(CHUNK):
            part = part.to(self.mean.device, torch.float64)
            if not part.isfinite().all():
                raise DataError(
                    "features: some are not finite, expected numbers; look at the images they were made of"
                )
            if len(part):
                mean = part.mean(0)
                self._add(len(part), mean, (part - mean).T @ (part - mean))

    def merge(self, other: Moments) -> None:
        """Add what another has seen, such as another rank's."""
        if other.count:
            self._add(
                other.count, other.mean.to(self.mean.device), other.scatter.to(self.mean.device)
            )

    def statistics(self, about: dict[str, str] | None = None) -> Statistics:
        """DataError for fewer than 2 vectors."""
        if self.count < 2:
            raise DataError(f"features: got {self.count} vectors, expected 2 or more")
        return Statistics(
            self.count, self.mean.clone(), self.scatter / (self.count - 1), about or {}
        )

    def _add(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total, delta = self.count + count, mean - self.mean
        self.scatter += scatter + torch.outer(delta, delta) * (self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                name: file[name]
                for name in file.files
                if name in ("mu", "sigma", "half", "count", "about")
            }
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = (
            error.strerror
            if isinstance(error, OSError) and error.strerror
            else str(error).splitlines()[0][:80]
        )
        raise DataError(
            f"statistics {path}: cannot be read ({reason}); expected an .npz of mu and sigma"
        ) from error


def _unfolded(half: np.ndarray, d: int) -> np.ndarray:
    """The symmetric matrix of its upper half; (0, 0) where the sizes do not match."""
    if half.shape != (d * (d + 1) // 2,):
        return np.zeros((0, 0))
    cov = np.zeros((d, d))
    rows, columns = np.triu_indices(d)
    cov[rows, columns] = cov[columns, rows] = half
    return cov


def _wrong(mean: Tensor, cov: Tensor) -> str:
    if not (mean.isfinite().all() and cov.isfinite().all()):
        return "numbers that are not finite, expected finite ones"
    if (cov - cov.T).abs().max() > 1e-4 * cov.abs().max():
        return "sigma is not symmetric, expected a covariance"
    if (cov.diagonal() < -1e-6 * cov.abs().max()).any():
        return "sigma has negative variances, expected a covariance"
    return ""


def _shapes(found: dict[str, Any]) -> str:
    return (
        ", ".join(f"{name} {value.shape}" for name, value in found.items() if name != "about")
        or "neither of them"
    )
