"""The whole evaluation of a model: samples, distances to the data, likelihood, copying, classes; as one JSON record.

Every number stands beside what it is a number of: extractor, protocol, number of samples, reference set, and the same
number for held-out real images where there are any. What makes it not comparable is said in `notes`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise import checkpoint
from unnoise.config import ConfigError
from unnoise.data.cache import root
from unnoise.data.config import DataConfig, DataError
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid, save_png
from unnoise.environment import describe
from unnoise.evaluation import collect
from unnoise.evaluation.classes import class_accuracy, class_distances, load_classifier, predictions
from unnoise.evaluation.collect import Ranks, Samples
from unnoise.evaluation.distances import Reference
from unnoise.evaluation.extractors import Extractor, extractor, suited
from unnoise.evaluation.likelihood import METHODS, bits_per_dim
from unnoise.evaluation.memorization import Features, copying, pairs_picture
from unnoise.evaluation.reference import Key, cached_statistics
from unnoise.evaluation.statistics import Statistics

RECORD = "evaluation.json"
FOLDER = "evaluation"
FORMAT = 1
SHOWN = 100
"""Samples in the grid."""
PAIRS = 12
MOST_SEARCHED = 10_000
"""Samples whose nearest training images are looked for."""
STANDARD_NUM = 50_000
"""Published FIDs are of so many samples."""
ALONE = Ranks()


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    extractors: tuple[str, ...] = ("auto",)
    """Feature extractors; auto is tiny for tiny grey images, else the edm protocol. Empty: no distances."""
    inception: Path | None = None
    """The FID network's file, where it is not installed."""
    reference: Path | None = None
    """Statistics of the reference set from a file (.npz with mu and sigma) in place of the training images'."""
    reference_num: int | None = None
    """Only the first so many training images as the reference; numbers are then not comparable."""
    likelihood: tuple[str, ...] = ("bound",)
    """bound, ode, both or none."""
    likelihood_num: int = 100
    """Held-out images whose likelihood is computed."""
    likelihood_terms: int | None = 20
    """Terms of the bound drawn per image, without bias; None: all of them."""
    copying: bool = True
    """Look for copies of training images among the samples."""
    classifier: str | None = None
    """Of class-conditional samples: a TorchScript file or module:function; digits have their own."""


@dataclass(frozen=True)
class Work:
    """What the parts of an evaluation have in common."""

    wanted: Samples
    data: ImageData
    cache: Path
    settings: Settings
    out: Path
    images: Tensor
    """The samples, uint8 (n, c, h, w)."""

    @property
    def reference_rows(self) -> range:
        return range(min(self.settings.reference_num or self.data.num_train, self.data.num_train))

    @property
    def held_out_rows(self) -> range:
        return range(self.data.num_train, len(self.data.images))

    def pixels(self, rows: range) -> Tensor:
        return torch.from_numpy(np.array(self.data.images[rows.start : rows.stop]))

    def labels(self, rows: range) -> Tensor | None:
        labels = self.data.labels
        return None if labels is None else torch.from_numpy(np.array(labels[rows.start : rows.stop]))


@dataclass(frozen=True)
class Seen:
    """An extractor and what it makes of all the images."""

    extract: Extractor
    samples: Tensor
    train: Tensor | None
    """None where statistics from a file are the reference."""
    held_out: Tensor | None
    train_flipped: Tensor | None
    """Only where it costs little."""


def evaluate(
    wanted: Samples, data: ImageData, config: DataConfig, settings: Settings, out: Path, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Measure a model against a data set; gives the record, which is also written to out/evaluation.json.

    All ranks call it alike and share the work of samples and features; rank 0 does the rest, the others give {}. What was
    made is kept in out/evaluation: the same call again, or one with more extractors, goes on from there.
    """
    began = time.monotonic()
    _check(wanted, data, settings)
    device = wanted.model.arithmetic.device
    statistics = None if settings.reference is None else Statistics.load(settings.reference)
    extracts = [
        extractor(suited(spec, *data.images.shape[1:]), device, settings.inception) for spec in settings.extractors
    ]
    work = Work(wanted, data, root(config), settings, out, collect.samples(wanted, out / FOLDER, ranks))
    seen = [_see(work, extract, statistics, ranks) for extract in extracts]
    if ranks.rank:
        return {}
    first = seen[0] if seen else None
    record = {
        "format": FORMAT,
        "model": {**wanted.recipe, "training": wanted.model.record.get("training", {})},
        "samples": {"num": wanted.num, "first_seed": wanted.seed},
        "data": {
            "name": data.name, "fingerprint": data.fingerprint, "num_train": data.num_train,
            "num_held_out": len(work.held_out_rows),
        },
        "distances": [_distances(work, one, statistics) for one in seen],
        "likelihood": {name: _likelihood(work, name) for name in settings.likelihood},
        "copying": _copying(work, first) if settings.copying else None,
        "classes": _classes(work, first),
        "notes": _notes(work, seen),
        "environment": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": time.monotonic() - began,
            **describe(wanted.model.arithmetic),
        },
    }  # fmt: skip
    recipe = {"unnoise": f"weights {wanted.model.weights_hash}, seeds {wanted.seed}.."}
    save_png(out / FOLDER / "samples.png", grid(work.images[:SHOWN]), recipe)
    checkpoint.write_json(out / RECORD, record)
    return record


def _check(wanted: Samples, data: ImageData, settings: Settings) -> None:
    """Everything that can be said before the first sample."""
    shape, images = wanted.model.shape, data.images.shape[1:]
    if images != (shape.channels, shape.height, shape.width):
        raise DataError(
            f"evaluate: the model makes {shape.channels} x {shape.height} x {shape.width}, the data is "
            f"{' x '.join(map(str, images))}; expected the data it was trained on, such as --data.image-size {shape.height}"
        )
    if wanted.num < 2:
        raise ConfigError(f"--num: got {wanted.num}, expected 2 or more")
    if settings.reference_num is not None and settings.reference_num < 2:
        raise ConfigError(f"--reference-num: got {settings.reference_num}, expected 2 or more")
    if settings.reference is not None and len(settings.extractors) != 1:
        raise ConfigError("--reference: is of one extractor; expected one --features, the one it was made with")
    for name in settings.likelihood:
        if name not in METHODS:
            raise ConfigError(f"--likelihood: got {name!r}, expected bound, ode, both with a comma, or none")
    wanted.model.settings(guide=wanted.guide, **wanted.settings)


def _see(work: Work, extract: Extractor, statistics: Statistics | None, ranks: Ranks) -> Seen:
    def of(rows: range, flipped: bool = False) -> Tensor:
        return collect.data_features(extract, work.data, work.cache, rows, flipped, ranks)

    samples = collect.sample_features(extract, work.wanted, work.images, work.out / FOLDER, ranks)
    held_out = of(work.held_out_rows) if len(work.held_out_rows) > 1 else None
    train = of(work.reference_rows) if statistics is None else None
    cheap = train is not None and not extract.standard
    return Seen(extract, samples, train, held_out, of(work.reference_rows, flipped=True) if cheap else None)


def _distances(work: Work, seen: Seen, statistics: Statistics | None) -> dict[str, Any]:
    """All that the features say, of the samples and, as a yardstick, of held-out images."""
    named = f"{len(work.reference_rows):,} training images of {work.data.name}"
    if statistics is None:
        key = Key(work.data.fingerprint, seen.extract.fingerprint, str(work.reference_rows))
        assert seen.train is not None
        train = seen.train
        statistics = cached_statistics(work.cache, key, lambda: Statistics.of(train))
    else:
        named = f"{work.settings.reference} ({statistics.count or 'unknown number of'} images)"
    reference = Reference(seen.train, statistics)
    return {
        "extractor": seen.extract.name,
        "standard": seen.extract.standard,
        **seen.extract.description,
        "fingerprint": seen.extract.fingerprint,
        "reference": named,
        "samples": reference.measure(seen.samples),
        "held_out": None if seen.held_out is None else reference.measure(seen.held_out, extrapolate=False),
        "per_class": _per_class(work, seen),
    }


def _per_class(work: Work, seen: Seen) -> list[dict[str, Any]]:
    """The distance of each class, where there are enough images."""
    labels, theirs = work.wanted.labels(), work.labels(work.reference_rows)
    if labels is None or theirs is None or seen.train is None:
        return []
    found = class_distances((seen.samples, labels), (seen.train, theirs), work.data.class_names)
    return [vars(one) for one in found if one.distance is not None]


def _likelihood(work: Work, method: str) -> dict[str, Any] | None:
    rows = work.held_out_rows[: work.settings.likelihood_num]
    if not rows:
        return None
    labels = work.labels(rows) if work.wanted.model.shape.num_classes else None
    more: dict[str, Any] = {"terms": work.settings.likelihood_terms} if method == "bound" else {}
    batch = work.wanted.batch_size
    return bits_per_dim(work.wanted.model, work.pixels(rows), labels, method, batch_size=batch, **more).describe()


def _copying(work: Work, seen: Seen | None) -> dict[str, Any]:
    """Nearest training images, with a picture of the closest pairs."""
    train, images, features = work.data.images[: work.data.num_train], work.images[:MOST_SEARCHED], None
    if seen is not None and seen.train is not None and len(seen.train) == len(train):
        features = Features(seen.samples[:MOST_SEARCHED], seen.train, seen.held_out, seen.train_flipped)
    held_out = work.pixels(work.held_out_rows) if work.held_out_rows else None
    found = copying(images, train, held_out, features)
    picture = work.out / FOLDER / "neighbours.png"
    save_png(picture, pairs_picture(images, train, found, PAIRS), {"unnoise": found.summary()})
    return {**found.to_dict(), "summary": found.summary().splitlines()}


def _classes(work: Work, seen: Seen | None) -> dict[str, Any] | None:
    """How often samples are read as what they were made for, and held-out images as what they are."""
    labels, spec, names = work.wanted.labels(), work.settings.classifier, work.data.class_names
    if labels is None:
        return None
    if spec is not None:
        classifier, name = load_classifier(spec, len(names), work.wanted.model.arithmetic.device), spec
    elif work.data.name == "digits":
        tiny = extractor("tiny", work.wanted.model.arithmetic.device)
        classifier, name = lambda images: tiny.classes(images).argmax(1), "tiny"
    else:
        return None
    result = {"classifier": name, **class_accuracy(predictions(classifier, work.images), labels, names).to_dict()}
    real = work.labels(work.held_out_rows)
    if real is not None and len(real):
        read = predictions(classifier, work.pixels(work.held_out_rows))
        result["held_out"] = class_accuracy(read, real, names).overall.to_dict()
    return result


def _notes(work: Work, seen: list[Seen]) -> list[str]:
    """What keeps these numbers from being compared with others'."""
    wanted, trained_on = work.wanted, work.wanted.model.record.get("data", {}).get("fingerprint")
    notes = []
    if trained_on not in (None, work.data.fingerprint):
        notes.append("the reference images are not those that the model was trained on")
    if len(work.reference_rows) < work.data.num_train:
        notes.append(
            f"not comparable: the reference is {len(work.reference_rows):,} of {work.data.num_train:,} training images"
        )
    for one in seen:
        if not one.extract.standard:
            notes.append(f"distances of {one.extract.name} features are no FID or KID: compare them among themselves")
        elif wanted.num < STANDARD_NUM:
            notes.append(
                f"not comparable: {one.extract.name} of {wanted.num:,} samples; published FIDs are of {STANDARD_NUM:,}, "
                "and FID falls as their number grows (its extrapolation stands beside it)"
            )
    if wanted.model.settings(guide=wanted.guide, **wanted.settings).guidance_scale != 1 and work.settings.likelihood:
        notes.append("the likelihood is that of the model without guidance")
    if not work.held_out_rows:
        notes.append("there are no held-out images: no yardstick, no likelihood")
    notes.append("Inception Score: needs a network with logits; the FID network has none")
    return notes
