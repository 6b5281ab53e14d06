"""Samples and features, made once: in pieces on disk, over all ranks, resumable; and statistics.

RUN/evaluation/<key>/samples-*.safetensors are the samples of one model with one setting (the key);
their features lie next to them, those of the data in the cache of data sets, under the fingerprints
of data and extractor. A file is there whole or not at all and carries the SHA-256 of its numbers:
one that is damaged is made again, not used.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unnoise.config import to_dict
from unnoise.data.dataset import ImageData
from unnoise.errors import DataError
from unnoise.evaluation.extractors import Extractor
from unnoise.evaluation.statistics import Statistics
from unnoise.events import Counter, say
from unnoise.files import replacing
from unnoise.model import Model
from unnoise.parallel import World
from unnoise.precision import Arithmetic
from unnoise.units import duration

PIECE = 128
"""Images per file: what a kill may cost."""
NUMS = (1000, 500, 250, 100)
CPU_WORK = 1e14
"""Parameters x pixels x evaluations that a CPU does in some minutes."""
PROBED, SILENT_SEC = 4, 20
"""Images by which the time of a long work is measured, and what is too short to be announced."""


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
    name = ""

    @property
    def arithmetic(self) -> Arithmetic:
        return self.model.arithmetic

    @property
    def size(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.model.shape.channels, self.model.shape.height, self.model.shape.width

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.model.class_names if self.model.shape.num_classes else ()

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
        text = json.dumps([self.recipe, self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

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

    @staticmethod
    def usual_num(model: Model, settings: Mapping[str, Any], guide: Model | None = None) -> int:
        """1,000; on a CPU fewer of a large network or many steps, down to 100, to take minutes.

        It does not depend on how busy the machine is, so that the same call resumes.
        """
        chosen, shape = model.settings(guide=guide, **settings), model.shape
        parameters = sum(parameter.numel() for parameter in model.network.parameters())
        evaluations = len(model.grid(chosen)) * (2 if chosen.guidance_scale != 1 else 1)
        fitting = CPU_WORK / max(1, parameters * shape.height * shape.width * evaluations)
        on_cpu = model.arithmetic.device.type == "cpu"
        return next((num for num in NUMS if num <= fitting or not on_cpu), NUMS[-1])


@dataclass(frozen=True)
class Pictures:
    """The first training images of a data set in place of a model's samples."""

    store: DataStore
    num: int
    arithmetic: Arithmetic
    about: tuple[str, ...] = ()
    """Notes on how they and the data were read."""
    class_names = ()
    seed = 0

    @property
    def name(self) -> str:
        return self.store.data.name

    @property
    def size(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return self.store.data.images.shape[1:]

    @property
    def key(self) -> str:
        """A short name of the data."""
        return self.store.data.fingerprint[:12]

    def make(self, rows: range) -> Tensor:
        """uint8 (n, c, h, w)."""
        return self.store.pixels(rows)

    def labels(self) -> None:
        """They were made for none."""


@dataclass(frozen=True)
class Features:
    """Feature vectors of all images, in their order, on rank 0."""

    samples: Float[Tensor, "n d"]
    train: Float[Tensor, "m d"] | None
    """None where statistics from a file are the reference."""
    held_out: Float[Tensor, "h d"] | None = None

    def to(self, device: torch.device) -> Features:
        """The same on another device."""
        train, held_out = self.train, self.held_out
        return Features(
            self.samples.to(device),
            None if train is None else train.to(device),
            None if held_out is None else held_out.to(device),
        )


@dataclass(frozen=True)
class Pieces:
    """A long array on disk: `count` rows in files of `PIECE` rows."""

    folder: Path
    name: str
    count: int

    def parts(self) -> list[range]:
        """The rows of each file."""
        return [range(self.count)[start : start + PIECE] for start in range(0, self.count, PIECE)]

    def path(self, rows: range) -> Path:
        return self.folder / f"{self.name}-{rows.start:06d}-{rows.stop:06d}.safetensors"

    def read(self, part: range) -> Tensor | None:
        """None where the file is not there, or damaged."""
        rows = (read_tensors(self.path(part)) or {}).get("rows")
        return rows if rows is not None and len(rows) == len(part) else None

    def make(
        self, make: Callable[[range], Tensor], world: World, what: str, everywhere: bool = False
    ) -> Tensor:
        """Every rank makes its part of what is missing; rank 0, or every rank, gets all rows."""
        mine = self.parts()[world.rank :: world.size]
        counter = Counter(what, sum(len(part) for part in mine), "image")
        left = [row for part in mine if not self.path(part).exists() for row in part]
        if world.main and not torch.accelerator.is_available() and len(left) >= NUMS[-1]:
            began = time.monotonic()
            make(range(left[0], left[0] + PROBED))
            if (sec := (time.monotonic() - began) / PROBED * len(left)) > SILENT_SEC:
                say(f"{what}: {len(left):,} take about {duration(sec)}")
        for part in mine:
            if self.read(part) is None:
                about = {"rows": f"{part.start}:{part.stop}"}
                write_tensors(self.path(part), {"rows": make(part)}, about)
            counter.step(len(part))
        world.barrier()
        return self.whole() if everywhere or world.main else torch.empty(0)

    def whole(self) -> Tensor:
        """All rows; DataError while some are missing."""
        found: list[Tensor] = []
        for part in self.parts():
            if (rows := self.read(part)) is None:
                fix = "run the same command again (ranks need one shared folder)"
                raise DataError(f"{self.path(part)}: is missing or damaged; {fix}")
            found.append(rows)
        return torch.cat(found)


def made_samples(wanted: Samples | Pictures, out: Path, world: World) -> Tensor:
    """All samples, on every rank."""
    pieces = Pieces(out / wanted.key, "samples", wanted.num)
    return pieces.make(wanted.make, world, "samples", everywhere=True)


def sample_features(
    extract: Extractor, wanted: Samples | Pictures, images: Tensor, out: Path, world: World
) -> Tensor:
    """Features of the samples, float32 (num, d), on rank 0."""
    pieces = Pieces(out / wanted.key, f"features-{extract.fingerprint[:12]}", len(images))

    def made(rows: range) -> Tensor:
        return extract.features(images[rows.start : rows.stop])

    return pieces.make(made, world, f"{extract.name}: samples")


@dataclass(frozen=True)
class DataStore:
    """A data set and the cache folder that keeps its features."""

    data: ImageData
    cache: Path
    world: World

    def pixels(self, rows: range) -> Tensor:
        return torch.from_numpy(np.array(self.data.images[rows.start : rows.stop]))

    def labels(self, rows: range) -> Tensor:
        assert self.data.labels is not None
        return torch.from_numpy(np.array(self.data.labels[rows.start : rows.stop]))

    def features(self, extract: Extractor, rows: range) -> Tensor:
        """Features of rows of the data, float32 (n, d), on rank 0."""
        where = f"features-{self.data.fingerprint[:16]}-{extract.fingerprint[:16]}"
        kind = "held-out" if rows.start >= self.data.num_train else "training"
        return Pieces(self.cache / where, f"rows-{rows.start}", len(rows)).make(
            lambda part: extract.features(self.pixels(rows[part.start : part.stop])),
            self.world,
            f"{extract.name}: {kind} images",
        )

    def statistics(self, extract: Extractor, rows: range, features: Tensor) -> Statistics:
        """Statistics of the features of these rows, from the cache or put there now."""
        fingerprints = {"data": self.data.fingerprint, "extractor": extract.fingerprint}
        about = {**fingerprints, "rows": str(rows)}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
        path = self.cache / "features" / f"statistics-{digest}.safetensors"
        found = read_tensors(path)
        if found is None:
            made = Statistics.of(features)
            found = {"mean": made.mean, "cov": made.cov, "count": torch.tensor(len(features))}
            write_tensors(path, found, about)
        return Statistics(int(found["count"]), found["mean"], found["cov"], about)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a file whole or not at all; DataError where it cannot be written."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(plain, temporary, {**about, "sha256": _sha256(plain)})
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        fix = "make room, or choose another place (--out; for the cache UNNOISE_CACHE)"
        raise DataError(f"cache {path.parent}: cannot be written ({reason}); {fix}") from error


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """None where the file is not there, or damaged."""
    try:
        with safe_open(path, "pt") as file:
            names, about = list(file.keys()), file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, ValueError):
        return None
    return tensors if about.get("sha256") == _sha256(tensors) else None


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
