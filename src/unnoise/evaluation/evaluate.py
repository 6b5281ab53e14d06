"""The whole evaluation of a model: samples, distances to the data, likelihood, copying, classes; as one JSON record.

Every number stands beside what it is a number of: extractor, protocol, number of samples, reference set, and the same
number for held-out real images where there are any. What makes it not comparable is said in `notes`.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise import checkpoint
from unnoise.config import ConfigError, to_dict
from unnoise.data.cache import root
from unnoise.data.config import DataConfig, DataError
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid, save_png
from unnoise.environment import describe
from unnoise.evaluation import collect
from unnoise.evaluation.classes import Logits, class_accuracy, class_distances, load_logits
from unnoise.evaluation.collect import Ranks, Samples
from unnoise.evaluation.distances import Reference
from unnoise.evaluation.extractors import Extractor, extractor, suited
from unnoise.evaluation.inception_score import SPLITS, inception_score
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
    ranks: Ranks
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
        return bool(self.wanted.model.shape.num_classes) and self.wanted.model.class_names == self.data.class_names

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


def evaluate(
    wanted: Samples, data: ImageData, config: DataConfig, settings: Settings, out: Path, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """Measure a model against a data set; gives the record, which is also written to out/evaluation.json.

    All ranks call it alike and share the work of samples and features; rank 0 does the rest, the others give {}. What was
    made is kept in out/evaluation: the same call again, or one with more extractors, goes on from there, and what is measured
    of the same samples is added to the record.
    """
    began = time.monotonic()
    _check(wanted, data, settings)
    device = wanted.model.arithmetic.device
    probe = torch.from_numpy(np.array(data.images[:2]))
    named = (suited(spec, *data.images.shape[1:]) for spec in settings.extractors)
    extracts = [extractor(spec, device, settings.inception).probed(probe) for spec in named]
    statistics = _statistics(settings.reference, extracts, probe)
    classifier = _classifier(wanted, data, config, settings)
    images = collect.samples(wanted, out / FOLDER, ranks)
    work = Work(wanted, data, config, settings, out, ranks, statistics, classifier, images)
    seen = [_see(work, extract, first=i == 0) for i, extract in enumerate(extracts)]
    if ranks.rank:
        return {}
    first = seen[0] if seen else None
    record = {
        "format": FORMAT,
        "key": wanted.key,
        "model": {**wanted.recipe, "training": wanted.model.record.get("training", {})},
        "samples": {"num": wanted.num, "first_seed": wanted.seed},
        "data": {
            "name": data.name, "fingerprint": data.fingerprint, "num_train": data.num_train,
            "num_held_out": len(work.held_out_rows), "config": to_dict(config),
        },
        "distances": [_distances(work, one) for one in seen],
        "likelihood": {name: _likelihood(work, name) for name in settings.likelihood},
        "copying": _copying(work, first) if settings.copying else None,
        "classes": _classes(work),
        "notes": _notes(work, seen),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "environment": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": time.monotonic() - began,
            **describe(wanted.model.arithmetic),
        },
    }  # fmt: skip
    record = _merged(_plain(record), out)
    recipe = {"unnoise": f"weights {wanted.model.weights_hash}, seeds {wanted.seed}.."}
    save_png(out / FOLDER / "samples.png", grid(work.images[:SHOWN]), recipe)
    if record["copying"] is None:
        (out / FOLDER / "neighbours.png").unlink(missing_ok=True)
    checkpoint.write_json(out / FOLDER / f"{wanted.key}-{wanted.num}.json", record)
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
    if data.num_train < 2:
        raise DataError(f"evaluate: got {data.num_train} training images as reference, expected 2 or more")
    if settings.reference_num is not None and settings.reference_num < 2:
        raise ConfigError(f"--reference-num: got {settings.reference_num}, expected 2 or more")
    files = (settings.reference, settings.save_reference)
    if any(file is not None for file in files) and len(settings.extractors) != 1:
        raise ConfigError("--reference: is of one extractor; expected one --features, the one it was made with")
    if settings.reference is not None and (settings.reference_num or settings.save_reference):
        raise ConfigError(
            "--reference: stands in place of the training images; leave out --reference-num and --save-reference"
        )
    if settings.likelihood_terms == 1 or settings.likelihood_terms < 0:
        raise ConfigError(f"--likelihood-terms: got {settings.likelihood_terms}, expected 2 or more, or 0 for all")
    for name in settings.likelihood:
        if name not in METHODS:
            raise ConfigError(f"--likelihood: got {name!r}, expected bound, ode, both with a comma, or none")
    wanted.model.settings(guide=wanted.guide, **wanted.settings)


def _statistics(path: Path | None, extracts: list[Extractor], probe: Tensor) -> Statistics | None:
    """Of a file, if it is of this extractor as far as it says."""
    if path is None:
        return None
    (extract,) = extracts
    found = Statistics.load(path, extract.features(probe).shape[1])
    made_with = found.about.get("fingerprint", extract.fingerprint)
    if made_with != extract.fingerprint:
        raise ConfigError(
            f"--reference {path}: was made with {found.about.get('extractor', 'another extractor')}, not with this "
            f"{extract.name}; expected --features as it was made, or statistics of {extract.name}"
        )
    return found


def _classifier(wanted: Samples, data: ImageData, config: DataConfig, settings: Settings) -> Logits | None:
    """Logits of uint8 images: what was asked for, or the package's own for its digits."""
    device = wanted.model.arithmetic.device
    if settings.classifier is not None:
        if not wanted.model.shape.num_classes:
            raise ConfigError("--classifier: this model has no classes; leave it out")
        return load_logits(settings.classifier, wanted.model.shape.num_classes, device)
    if config.source == "digits" and wanted.model.class_names == data.class_names:
        return extractor("tiny", device).classes
    return None


def _see(work: Work, extract: Extractor, first: bool) -> Seen:
    def of(rows: range, flipped: bool = False) -> Tensor:
        return collect.data_features(extract, work.data, root(work.config), rows, flipped, work.ranks)

    samples = collect.sample_features(extract, work.wanted, work.images, work.out / FOLDER, work.ranks)
    held_out = of(work.held_out_rows) if len(work.held_out_rows) > 1 else None
    train = of(work.reference_rows) if work.statistics is None else None
    whole = train is not None and len(work.reference_rows) == work.data.num_train
    flipped = first and whole and work.settings.copying and not extract.standard
    return Seen(extract, samples, train, held_out, of(work.reference_rows, flipped=True) if flipped else None)


def _distances(work: Work, seen: Seen) -> dict[str, Any]:
    """All that the features say, of the samples and, as a yardstick, of held-out images."""
    extract, statistics, train = seen.extract, work.statistics, seen.train
    named = f"{len(work.reference_rows):,} training images of {work.data.name}"
    if train is not None:
        key = Key(work.data.fingerprint, extract.fingerprint, str(work.reference_rows))
        statistics = cached_statistics(root(work.config), key, lambda: Statistics.of(train))
    else:
        assert statistics is not None and work.settings.reference is not None
        count = "an unknown number of" if statistics.count is None else f"{statistics.count:,}"
        digest = checkpoint.sha256(work.settings.reference)[:12]
        named = f"{work.settings.reference} (SHA-256 {digest}, of {count} images)"
    if work.settings.save_reference is not None:
        about = {"extractor": extract.name, "fingerprint": extract.fingerprint, "data": work.data.fingerprint}
        Statistics(statistics.count, statistics.mean, statistics.cov, about).save_compact(work.settings.save_reference)
    reference = Reference(train, statistics)
    return {
        "extractor": extract.name,
        "standard": extract.standard,
        **extract.description,
        "fingerprint": extract.fingerprint,
        "reference": named,
        "samples": reference.measure(seen.samples),
        "held_out": None if seen.held_out is None else reference.measure(seen.held_out, extrapolate=False),
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


def _likelihood(work: Work, method: str) -> dict[str, Any] | None:
    rows, model = work.held_out_rows[: work.settings.likelihood_num], work.wanted.model
    if not rows:
        return None
    labels, classes = None, model.shape.num_classes
    if classes:  # where the labels mean something else: without any
        labels = work.labels(rows) if work.same_classes else torch.full((len(rows),), classes)
    terms = min(work.settings.likelihood_terms, model.diffusion.schedule.steps or math.inf)
    more: dict[str, Any] = {"terms": int(terms) if terms > 1 else None} if method == "bound" else {}
    return bits_per_dim(model, work.pixels(rows), labels, method, batch_size=work.wanted.batch_size, **more).describe()


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


def _classes(work: Work) -> dict[str, Any] | None:
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
        result["held_out"] = class_accuracy(read, work.labels(work.held_out_rows), names).overall.to_dict()
    return result


def _notes(work: Work, seen: list[Seen]) -> list[str]:
    """What keeps these numbers from being compared with others'."""
    wanted, trained_on = work.wanted, work.wanted.model.record.get("data", {}).get("fingerprint")
    notes = []
    if trained_on not in (None, work.data.fingerprint):
        notes.append("the reference images are not those that the model was trained on")
    if wanted.model.shape.num_classes and not work.same_classes:
        notes.append("the data's classes are not the model's: nothing by class, and the likelihood is without labels")
    if len(work.reference_rows) < work.data.num_train:
        notes.append(
            f"not comparable: the reference is {len(work.reference_rows):,} of {work.data.num_train:,} training images"
        )
    if work.statistics is not None and "fingerprint" not in work.statistics.about:
        notes.append("the reference file does not say which protocol it was made with")
    for one in seen:
        if not one.extract.standard:
            notes.append(f"distances of {one.extract.name} features are no FID or KID: compare them among themselves")
        elif wanted.num < STANDARD_NUM:
            notes.append(
                f"not comparable: {one.extract.name} of {wanted.num:,} samples; published FIDs are of {STANDARD_NUM:,}, "
                "and FID falls as their number grows"
            )
    if wanted.model.settings(guide=wanted.guide, **wanted.settings).guidance_scale != 1 and work.settings.likelihood:
        notes.append("the likelihood is that of the model without guidance")
    if not work.held_out_rows:
        notes.append("there are no held-out images: no yardstick, no likelihood")
    if any(one.extract.standard for one in seen):
        notes.append("no Inception Score: the FID network has no logits (a --classifier's score is its own)")
    return notes


def _merged(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """With what was measured of the same samples before and is not now."""
    try:
        before = checkpoint.read_json(out / FOLDER / f"{record['key']}-{record['samples']['num']}.json")
        if (before["format"], before["data"]) != (record["format"], record["data"]):
            return record
        now = {(one["extractor"], one["reference"]) for one in record["distances"]}
        kept = [one for one in before["distances"] if (one["extractor"], one["reference"]) not in now]
        merged = {
            "distances": [*kept, *record["distances"]],
            "likelihood": {**before["likelihood"], **record["likelihood"]},
            "copying": record["copying"] or before["copying"],
            "classes": record["classes"] or before["classes"],
            "notes": list(dict.fromkeys([*before["notes"], *record["notes"]])),
        }
    except (checkpoint.CheckpointError, KeyError, TypeError):
        return record
    return {**record, **merged}


def _plain(value: Any) -> Any:
    """Ready for strict JSON: what is not finite is null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
