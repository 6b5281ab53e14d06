"""The parts of an evaluation, each a function of its samples and data to a piece of the record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData
from unnoise.data.images import save_png
from unnoise.evaluation import collect
from unnoise.evaluation.classes import Logits, class_accuracy, class_distances
from unnoise.evaluation.collect import Samples
from unnoise.evaluation.distances import Reference
from unnoise.evaluation.extractors import Extractor
from unnoise.evaluation.inception_score import SPLITS, inception_score
from unnoise.evaluation.likelihood import bits_per_dim
from unnoise.evaluation.memorization import Features, copying, pairs_picture
from unnoise.evaluation.reference import Key, cached_statistics
from unnoise.evaluation.statistics import Statistics
from unnoise.files import sha256
from unnoise.parallel import World

FOLDER = "evaluation"
PAIRS = 12
MOST_SEARCHED = 10_000
"""Samples whose nearest training images are looked for."""
STANDARD_NUM = 50_000
"""Published FIDs are of so many samples."""


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
    save_reference: Path | None = None
    """Write the statistics of the training images here, as --reference takes them."""
    likelihood: tuple[str, ...] = ("bound",)
    """bound, ode, both or none."""
    likelihood_num: int = 100
    """Held-out images whose likelihood is computed."""
    likelihood_terms: int = 20
    """Terms of the bound drawn per image, without bias; 0: all of them."""
    copying: bool = True
    """Look for copies of training images among the samples."""
    classifier: str | None = None
    """Of class-conditional samples: a TorchScript file or module:function; digits have their own."""


@dataclass(frozen=True)
class Work:
    """What the parts of an evaluation have in common."""

    wanted: Samples
    data: ImageData
    config: DataConfig
    settings: Settings
    out: Path
    world: World
    statistics: Statistics | None
    classifier: Logits | None
    images: Tensor
    """The samples, uint8 (n, c, h, w)."""

    @property
    def reference_rows(self) -> range:
        return range(min(self.settings.reference_num or self.data.num_train, self.data.num_train))

    @property
    def held_out_rows(self) -> range:
        return range(self.data.num_train, len(self.data.images))

    @property
    def same_classes(self) -> bool:
        """Whether the data's labels mean what the model's do."""
        return (
            bool(self.wanted.model.shape.num_classes)
            and self.wanted.model.class_names == self.data.class_names
        )

    def pixels(self, rows: range) -> Tensor:
        return torch.from_numpy(np.array(self.data.images[rows.start : rows.stop]))

    def labels(self, rows: range) -> Tensor:
        assert self.data.labels is not None
        return torch.from_numpy(np.array(self.data.labels[rows.start : rows.stop]))


@dataclass(frozen=True)
class Seen:
    """An extractor and what it makes of all the images."""

    extract: Extractor
    samples: Tensor
    train: Tensor | None
    """None where statistics from a file are the reference."""
    held_out: Tensor | None
    train_flipped: Tensor | None
    """Only where it costs little and is looked at."""


def see(work: Work, extract: Extractor, first: bool) -> Seen:
    def of(rows: range, flipped: bool = False) -> Tensor:
        return collect.data_features(
            extract, work.data, root(work.config), rows, flipped, work.world
        )

    samples = collect.sample_features(
        extract, work.wanted, work.images, work.out / FOLDER, work.world
    )
    held_out = of(work.held_out_rows) if len(work.held_out_rows) > 1 else None
    train = of(work.reference_rows) if work.statistics is None else None
    whole = train is not None and len(work.reference_rows) == work.data.num_train
    flipped = first and whole and work.settings.copying and not extract.standard
    return Seen(
        extract,
        samples,
        train,
        held_out,
        of(work.reference_rows, flipped=True) if flipped else None,
    )


def distances(work: Work, seen: Seen) -> dict[str, Any]:
    """All that the features say, of the samples and, as a yardstick, of held-out images."""
    extract, statistics, train = seen.extract, work.statistics, seen.train
    named = f"{len(work.reference_rows):,} training images of {work.data.name}"
    if train is not None:
        key = Key(work.data.fingerprint, extract.fingerprint, str(work.reference_rows))
        statistics = cached_statistics(root(work.config), key, lambda: Statistics.of(train))
    else:
        assert statistics is not None and work.settings.reference is not None
        count = "an unknown number of" if statistics.count is None else f"{statistics.count:,}"
        digest = sha256(work.settings.reference)[:12]
        named = f"{work.settings.reference} (SHA-256 {digest}, of {count} images)"
    if work.settings.save_reference is not None:
        about = {
            "extractor": extract.name,
            "fingerprint": extract.fingerprint,
            "data": work.data.fingerprint,
        }
        Statistics(statistics.count, statistics.mean, statistics.cov, about).save_compact(
            work.settings.save_reference
        )
    reference = Reference(train, statistics)
    return {
        "extractor": extract.name,
        "standard": extract.standard,
        **extract.description,
        "fingerprint": extract.fingerprint,
        "reference": named,
        "samples": reference.measure(seen.samples),
        "held_out": None
        if seen.held_out is None
        else reference.measure(seen.held_out, extrapolate=False),
        "per_class": _per_class(work, seen),
    }


def _per_class(work: Work, seen: Seen) -> list[dict[str, Any]]:
    """The distance of each class, where there are enough images."""
    labels = work.wanted.labels()
    if labels is None or seen.train is None or not work.same_classes:
        return []
    theirs = work.labels(work.reference_rows)
    found = class_distances((seen.samples, labels), (seen.train, theirs), work.data.class_names)
    return [vars(one) for one in found if one.distance is not None]


def likelihood(work: Work, method: str) -> dict[str, Any] | None:
    rows, model = work.held_out_rows[: work.settings.likelihood_num], work.wanted.model
    if not rows:
        return None
    labels, classes = None, model.shape.num_classes
    if classes:  # where the labels mean something else: without any
        labels = work.labels(rows) if work.same_classes else torch.full((len(rows),), classes)
    terms = min(work.settings.likelihood_terms, model.diffusion.schedule.steps or math.inf)
    more: dict[str, Any] = {"terms": int(terms) if terms > 1 else None} if method == "bound" else {}
    size = work.wanted.batch_size or model.images_at_once()
    return bits_per_dim(
        model, work.pixels(rows), labels, method, batch_size=size, **more
    ).describe()


def copies(work: Work, seen: Seen | None) -> dict[str, Any]:
    """Nearest training images, with a picture of the closest pairs."""
    train, images, features = (
        work.data.images[: work.data.num_train],
        work.images[:MOST_SEARCHED],
        None,
    )
    if seen is not None and seen.train is not None and len(seen.train) == len(train):
        features = Features(
            seen.samples[:MOST_SEARCHED], seen.train, seen.held_out, seen.train_flipped
        )
    held_out = work.pixels(work.held_out_rows) if work.held_out_rows else None
    found = copying(images, train, held_out, features)
    picture = work.out / FOLDER / "neighbours.png"
    save_png(picture, pairs_picture(images, train, found, PAIRS), {"unnoise": found.summary()})
    return {**found.to_dict(), "summary": found.summary().splitlines()}


def accuracy(work: Work) -> dict[str, Any] | None:
    """How often samples are read as what they were made for, and held-out images as what they are."""
    labels, logits, names = work.wanted.labels(), work.classifier, work.wanted.model.class_names
    if labels is None or logits is None:
        return None
    of_samples = logits(work.images)
    result: dict[str, Any] = {"classifier": work.settings.classifier or "tiny"}
    result |= class_accuracy(of_samples.argmax(1), labels, names).to_dict()
    if len(of_samples) >= SPLITS:
        mean, spread = inception_score(of_samples)
        result["classifier_score"] = {"mean": mean, "spread": spread, "splits": SPLITS}
    if work.held_out_rows and work.same_classes:
        read = logits(work.pixels(work.held_out_rows)).argmax(1)
        result["held_out"] = class_accuracy(
            read, work.labels(work.held_out_rows), names
        ).overall.to_dict()
    return result


def notes(work: Work, seen: list[Seen]) -> list[str]:
    """What keeps these numbers from being compared with others'."""
    wanted, trained_on = work.wanted, work.wanted.model.record.get("data", {}).get("fingerprint")
    notes = []
    if trained_on not in (None, work.data.fingerprint):
        notes.append("the reference images are not those that the model was trained on")
    if wanted.model.shape.num_classes and not work.same_classes:
        notes.append(
            "the data's classes are not the model's: nothing by class, and the likelihood is without labels"
        )
    if len(work.reference_rows) < work.data.num_train:
        notes.append(
            f"not comparable: the reference is {len(work.reference_rows):,} of {work.data.num_train:,} training images"
        )
    if work.statistics is not None and "fingerprint" not in work.statistics.about:
        notes.append("the reference file does not say which protocol it was made with")
    for one in seen:
        if not one.extract.standard:
            notes.append(
                f"distances of {one.extract.name} features are no FID or KID: compare them among themselves"
            )
        elif wanted.num < STANDARD_NUM:
            notes.append(
                f"not comparable: {one.extract.name} of {wanted.num:,} samples; published FIDs are of {STANDARD_NUM:,}, "
                "and FID falls as their number grows"
            )
    if (
        wanted.model.settings(guide=wanted.guide, **wanted.settings).guidance_scale != 1
        and work.settings.likelihood
    ):
        notes.append("the likelihood is that of the model without guidance")
    if not work.held_out_rows:
        notes.append("there are no held-out images: no yardstick, no likelihood")
    if any(one.extract.standard for one in seen):
        notes.append(
            "no Inception Score: the FID network has no logits (a --classifier's score is its own)"
        )
    return notes
