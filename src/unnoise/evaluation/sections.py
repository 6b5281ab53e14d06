"""The sections of evaluation.json, each a function of the samples and the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise.evaluation import inception, metrics, tiny
from unnoise.evaluation.classes import class_accuracy, class_distances
from unnoise.evaluation.comparison import Comparison
from unnoise.evaluation.extractors import Extractor, for_tiny
from unnoise.evaluation.frechet import FrechetTo
from unnoise.evaluation.likelihood import bits_per_dim
from unnoise.evaluation.memorization import copying, save_pairs
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.statistics import Statistics
from unnoise.evaluation.store import DataStore, Features, Pictures, Samples, sample_features
from unnoise.files import sha256

MOST_SEARCHED = 10_000
"""Samples whose nearest training images are looked for."""
STANDARD_NUM = 50_000
"""Samples of published FIDs."""


@dataclass(frozen=True)
class Context:
    """What the sections have in common."""

    wanted: Samples | Pictures
    store: DataStore
    settings: Settings
    out: Path
    """Folder of pictures, samples and features."""
    statistics: Statistics | None
    """The reference, where it is not the training images."""
    classifier: Extractor | None
    images: Tensor
    """The samples, uint8 (n, c, h, w)."""

    @property
    def reference_rows(self) -> range:
        return range(self.store.data.num_train)

    @property
    def held_out_rows(self) -> range:
        return range(self.store.data.num_train, len(self.store.data.images))

    @property
    def same_classes(self) -> bool:
        """Whether the data's labels mean what the model's do."""
        names = self.wanted.class_names
        return bool(names) and names == self.store.data.class_names


def extract_all(context: Context, extract: Extractor) -> Features:
    """Features of samples and data."""
    store, held_out = context.store, context.held_out_rows
    samples = sample_features(extract, context.wanted, context.images, context.out, store.world)
    from_file = context.statistics is not None
    train = None if from_file else store.features(extract, context.reference_rows)
    real = store.features(extract, held_out) if len(held_out) > 1 else None
    return Features(samples, train, real)


def distances(context: Context, extract: Extractor, features: Features) -> dict[str, Any]:
    """All that the features say, of the samples and, as a yardstick, of held-out images."""
    data, settings, rows = context.store.data, context.settings, context.reference_rows
    statistics, named = context.statistics, f"{len(rows):,} training images of {data.name}"
    if features.train is not None:
        statistics = context.store.statistics(extract, rows, features.train)
    else:
        assert statistics is not None and settings.reference is not None
        count = "an unknown number of" if statistics.count is None else f"{statistics.count:,}"
        digest = sha256(settings.reference)[:12]
        named = f"{settings.reference} (SHA-256 {digest}, of {count} images)"
    if settings.save_reference is not None:
        about = {"extractor": extract.name, "fingerprint": extract.fingerprint}
        about["data"] = data.fingerprint
        replace(statistics, about=about).save(settings.save_reference)
    device = context.wanted.arithmetic.device
    if device.type == "cuda":  # float64 there takes seconds where a CPU takes minutes
        statistics, features = statistics.to(device), features.to(device)
    frechet, real = FrechetTo(statistics), features.held_out
    samples = Comparison(features.samples, features.train, frechet)
    yardstick = None if real is None else Comparison(real, features.train, frechet, real=True)
    return {
        "extractor": extract.name,
        "standard": extract.standard,
        **extract.description,
        "fingerprint": extract.fingerprint,
        "reference": named,
        "metrics": metrics.labels(extract.standard),
        "samples": metrics.measured(samples),
        "held_out": yardstick and metrics.measured(yardstick),
        "per_class": _per_class(context, features),
    }


def _per_class(context: Context, features: Features) -> list[dict[str, Any]]:
    """The distance of each class that has enough images."""
    labels, store = context.wanted.labels(), context.store
    if labels is None or features.train is None or not context.same_classes:
        return []
    real = (features.train, store.labels(context.reference_rows))
    return class_distances((features.samples, labels), real, store.data.class_names)


def likelihood(context: Context) -> dict[str, Any] | None:
    """Bits/dim of held-out images."""
    settings, wanted = context.settings, context.wanted
    rows = context.held_out_rows[: settings.likelihood_num]
    assert isinstance(wanted, Samples)
    if not rows:
        return None
    model, classes = wanted.model, wanted.model.shape.num_classes
    if classes and not context.same_classes and not model.shape.null_label:
        return None  # the data has no labels of the model's, which knows no images without one
    labels = torch.full((len(rows),), classes) if classes else None
    if context.same_classes:  # where the labels mean something else: without any
        labels = context.store.labels(rows)
    terms = int(min(settings.likelihood_terms, model.diffusion.schedule.steps or math.inf))
    size, pixels = wanted.batch_size or model.images_at_once(), context.store.pixels(rows)
    terms = terms if terms > 1 else None
    return bits_per_dim(model, pixels, labels, batch_size=size, terms=terms).describe()


def copies(context: Context, features: Features | None) -> dict[str, Any]:
    """Nearest training images, with a picture of the closest pairs."""
    data, images, rows = context.store.data, context.images[:MOST_SEARCHED], context.held_out_rows
    train = data.images[: data.num_train]
    if features is None or features.train is None or len(features.train) < len(train):
        features = None
    else:
        features = replace(features, samples=features.samples[:MOST_SEARCHED])
    found = copying(images, train, context.store.pixels(rows) if rows else None, features)
    save_pairs(context.out / "neighbours.png", images, train, found)
    return found.record


def accuracy(context: Context) -> dict[str, Any] | None:
    """How often samples are read as what they were made for, real images as what they are."""
    labels, classifier = context.wanted.labels(), context.classifier
    names, rows = context.wanted.class_names, context.held_out_rows
    if labels is None or classifier is None:
        return None
    logits = classifier.logits(context.images)
    read = class_accuracy(logits.argmax(1), labels, names)
    result: dict[str, Any] = {"classifier": classifier.name, **read}
    if rows and context.same_classes:
        real = classifier.logits(context.store.pixels(rows)).argmax(1)
        result["held_out"] = class_accuracy(real, context.store.labels(rows), names)["overall"]
    return result


def notes(context: Context, extracts: Sequence[tuple[Extractor, Features]]) -> list[str]:
    """What keeps these numbers from being compared with others'."""
    wanted, data, trained_on, guided = context.wanted, context.store.data, None, False
    if isinstance(wanted, Samples):
        trained_on = wanted.model.record.get("data", {}).get("fingerprint")
        guided = wanted.model.settings(guide=wanted.guide, **wanted.settings).guidance_scale != 1
    from_file, standard = context.statistics, [e.name for e, _ in extracts if e.standard]
    least = min(wanted.num, data.num_train if from_file is None else wanted.num)
    said = {
        "the reference images are not those that the model was trained on":
            trained_on not in (None, data.fingerprint),
        "the data's classes are not the model's: nothing by class, and the likelihood is without "
        "labels": wanted.class_names and not context.same_classes,
        "the reference file does not say which protocol it was made with":
            from_file is not None and "fingerprint" not in from_file.about,
        **{
            f"distances of {e.name} features are no FID or KID: compare them among themselves":
                not e.standard for e, _ in extracts
        },
        f"tiny features see {tiny.SIZE} x {tiny.SIZE} grey pixels; for FID: {inception.INSTALL} "
        "and then the same command, which resumes":
            inception.chosen(context.settings.inception) is None
            and any(e.name == "tiny" for e, _ in extracts) and not for_tiny(data.images.shape[1:]),
        **{
            f"biased: {e.name} has {f.samples.shape[1]:,} features, and {least} images are too few "
            "for a Fréchet distance of them: it falls as they grow more; the kernel's does not":
                least <= f.samples.shape[1] for e, f in extracts
        },
        **{
            f"not comparable: {name} of {wanted.num:,} samples; published FIDs are of "
            f"{STANDARD_NUM:,}, and FID falls as their number grows":
                wanted.num < STANDARD_NUM for name in standard
        },
        "the likelihood is that of the model without guidance":
            guided and context.settings.likelihood,
        "there are no held-out images: no yardstick, no likelihood": not context.held_out_rows,
    }  # fmt: skip
    read = wanted.about if isinstance(wanted, Pictures) else ()
    return [*read, *(text for text, true in said.items() if true)]
