"""Numbers kept on disk: pieces of long arrays (`chunks.py`), and the statistics of reference sets beside the data's cache.

Statistics are found by what they depend on: the data's fingerprint, the extractor's, and the rows. A file is written under a temporary
name and renamed, and carries the SHA-256 of its numbers: one that is damaged is made again, not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unnoise.errors import DataError
from unnoise.evaluation.statistics import Statistics
from unnoise.files import replacing


@dataclass(frozen=True)
class Key:
    """What features depend on."""

    data: str
    """Fingerprint of the data set."""
    extractor: str
    """Fingerprint of the extractor."""
    rows: str
    """Which images, and what was done to them, such as "0:50000" or "0:1000 flipped"."""

    def path(self, cache: Path, kind: str) -> Path:
        text = json.dumps(asdict(self), sort_keys=True)
        return (
            cache
            / "features"
            / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.safetensors"
        )


def cached_statistics(cache: Path, key: Key, make: Callable[[], Statistics]) -> Statistics:
    """From the cache, or made and kept."""
    path = key.path(cache, "statistics")
    found = read(path)
    if found is None:
        stats = make()
        count = torch.tensor(stats.count or 0)
        write(path, {"mean": stats.mean, "cov": stats.cov, "count": count}, asdict(key))
        return Statistics(stats.count, stats.mean, stats.cov, asdict(key))
    return Statistics(int(found["count"]) or None, found["mean"], found["cov"], asdict(key))


def write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Whole or not at all; DataError where it cannot be written."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, {**about, "sha256": _sha256(plain)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"cache {path.parent}: cannot be written ({reason}); "
            "make room, or choose another place (--out; for the cache UNNOISE_CACHE)"
        ) from error


def read(path: Path) -> dict[str, Tensor] | None:
    """None where it is not there, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors, about = (
                {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
                file.metadata() or {},
            )
    except (OSError, SafetensorError, ValueError):
        return None
    return tensors if about.get("sha256") == _sha256(tensors) else None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
