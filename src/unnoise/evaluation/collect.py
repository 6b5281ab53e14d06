"""Samples and feature vectors, made once: in pieces on disk, over all world, resumable, with the time left.

RUN/evaluation/<key>/samples-*.safetensors are the samples of one model with one setting (the key); features of theirs lie beside
them, those of the data in the cache of data sets, under the fingerprints of data and extractor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.config import to_dict
from unnoise.data.dataset import ImageData
from unnoise.evaluation.chunks import Chunks
from unnoise.evaluation.extractors import Extractor
from unnoise.events import Counter
from unnoise.model import Model
from unnoise.parallel import World

CHUNK = 128
"""Images per file; what a kill may cost."""


@dataclass(frozen=True)
class Samples:
    """The pictures of seeds seed .. seed + num - 1 by one model with its settings."""

    model: Model
    settings: dict[str, Any]
    """Changes of the model's own SampleConfig."""
    num: int
    seed: int
    batch_size: int | None = None
    """Images at once; None lets the model choose."""
    guide: Model | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the samples depend on."""
        from unnoise import __version__

        model = self.model
        return {
            "weights": model.weights_hash,
            "precision": str(model.arithmetic.dtype).removeprefix("torch."),
            "diffusion": to_dict(model.config.diffusion),
            "shape": to_dict(model.shape),
            "unnoise": __version__,
            **to_dict(model.settings(guide=self.guide, **self.settings)),
            **({} if self.guide is None else {"guide": self.guide.weights_hash}),
        }

    @property
    def key(self) -> str:
        """A short name of the recipe and the first seed."""
        return hashlib.sha256(
            json.dumps([self.recipe, self.seed], sort_keys=True).encode()
        ).hexdigest()[:12]

    def chunks(self, out: Path) -> Chunks:
        return Chunks(out / self.key, "samples", self.num, CHUNK)

    def make(self, rows: range) -> Tensor:
        """uint8 (n, c, h, w)."""
        seeds = [self.seed + row for row in rows]
        return self.model.sample(
            seeds=seeds, batch_size=self.batch_size, guide=self.guide, **self.settings
        )

    def labels(self) -> Tensor | None:
        """(num,) labels that the samples were made for."""
        labels = self.model.labels([self.seed + i for i in range(self.num)], None)
        return None if labels is None else labels.cpu()


def samples(wanted: Samples, out: Path, world: World) -> Tensor:
    """All samples, each rank having made its part."""
    return _made(wanted.chunks(out), wanted.make, world, "samples", all_world=True)


def sample_features(
    extract: Extractor, wanted: Samples, images: Tensor, out: Path, world: World
) -> Tensor:
    """Features of the samples, float32 (num, d)."""
    chunks = Chunks(
        wanted.chunks(out).folder, f"features-{extract.fingerprint[:12]}", len(images), CHUNK
    )
    return _made(
        chunks,
        lambda rows: extract.features(images[rows.start : rows.stop]),
        world,
        f"{extract.name}: samples",
    )


def data_features(
    extract: Extractor, data: ImageData, cache: Path, rows: range, flipped: bool, world: World
) -> Tensor:
    """Features of rows of a data set, mirrored or not; kept in the cache of data sets."""
    name = f"rows-{rows.start}{'-flipped' if flipped else ''}"
    where = cache / f"features-{data.fingerprint[:16]}-{extract.fingerprint[:16]}"

    def made(part: range) -> Tensor:
        images = torch.from_numpy(
            np.array(data.images[rows.start + part.start : rows.start + part.stop])
        )
        return extract.features(images.flip(-1) if flipped else images)

    what = f"{extract.name}: {'held-out' if rows.start >= data.num_train else 'training'} images"
    return _made(
        Chunks(where, name, len(rows), CHUNK), made, world, what + (", mirrored" if flipped else "")
    )


def _made(
    chunks: Chunks,
    make: Callable[[range], Tensor],
    world: World,
    what: str,
    all_world: bool = False,
) -> Tensor:
    """All rows, on rank 0 or on `all_world`; nothing elsewhere."""
    mine = chunks.parts()[world.rank :: world.size]
    total = sum(len(part) for part in mine)
    bar = Counter(what, total, "image")
    for part in chunks.make(make, mine):
        bar.step(len(part))
    world.barrier()
    return chunks.whole() if all_world or world.rank == 0 else torch.empty(0)
