"""The whole evaluation of a model: samples, distances to the data, likelihood, copying, classes; as one JSON record.

Every number stands beside what it is a number of: extractor, protocol, number of samples, reference set, and the same
number for held-out real images where there are any. What makes it not comparable is said in `notes`.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unnoise.config import to_dict
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid, save_png
from unnoise.environment import describe
from unnoise.errors import CheckpointError, ConfigError, DataError
from unnoise.evaluation import collect, parts
from unnoise.evaluation.classes import Logits, load_logits
from unnoise.evaluation.collect import Samples
from unnoise.evaluation.extractors import Extractor, extractor, suited
from unnoise.evaluation.likelihood import METHODS
from unnoise.evaluation.parts import FOLDER, Settings, Work
from unnoise.evaluation.statistics import Statistics
from unnoise.files import read_json, write_json
from unnoise.parallel import World

RECORD = "evaluation.json"
FORMAT = 1
SHOWN = 100
"""Samples in the grid."""
ALONE = World()


def evaluate(
    wanted: Samples,
    data: ImageData,
    config: DataConfig,
    settings: Settings,
    out: Path,
    world: World = ALONE,
) -> dict[str, Any]:
    """Measure a model against a data set; gives the record, which is also written to out/evaluation.json.

    All world call it alike and share the work of samples and features; rank 0 does the rest, the others give {}. What was
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
    images = collect.samples(wanted, out / FOLDER, world)
    work = Work(wanted, data, config, settings, out, world, statistics, classifier, images)
    seen = [parts.see(work, extract, first=i == 0) for i, extract in enumerate(extracts)]
    if world.rank:
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
        "distances": [parts.distances(work, one) for one in seen],
        "likelihood": {name: parts.likelihood(work, name) for name in settings.likelihood},
        "copying": parts.copies(work, first) if settings.copying else None,
        "classes": parts.accuracy(work),
        "notes": parts.notes(work, seen),
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
    write_json(out / FOLDER / f"{wanted.key}-{wanted.num}.json", record)
    write_json(out / RECORD, record)
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
        raise DataError(
            f"evaluate: got {data.num_train} training images as reference, expected 2 or more"
        )
    if settings.reference_num is not None and settings.reference_num < 2:
        raise ConfigError(f"--reference-num: got {settings.reference_num}, expected 2 or more")
    files = (settings.reference, settings.save_reference)
    if any(file is not None for file in files) and len(settings.extractors) != 1:
        raise ConfigError(
            "--reference: is of one extractor; expected one --features, the one it was made with"
        )
    if settings.reference is not None and (settings.reference_num or settings.save_reference):
        raise ConfigError(
            "--reference: stands in place of the training images; leave out --reference-num and --save-reference"
        )
    if settings.likelihood_terms == 1 or settings.likelihood_terms < 0:
        raise ConfigError(
            f"--likelihood-terms: got {settings.likelihood_terms}, expected 2 or more, or 0 for all"
        )
    for name in settings.likelihood:
        if name not in METHODS:
            raise ConfigError(
                f"--likelihood: got {name!r}, expected bound, ode, both with a comma, or none"
            )
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


def _classifier(
    wanted: Samples, data: ImageData, config: DataConfig, settings: Settings
) -> Logits | None:
    """Logits of uint8 images: what was asked for, or the package's own for its digits."""
    device = wanted.model.arithmetic.device
    if settings.classifier is not None:
        if not wanted.model.shape.num_classes:
            raise ConfigError("--classifier: this model has no classes; leave it out")
        return load_logits(settings.classifier, wanted.model.shape.num_classes, device)
    if config.source == "digits" and wanted.model.class_names == data.class_names:
        return extractor("tiny", device).classes
    return None


def _merged(record: dict[str, Any], out: Path) -> dict[str, Any]:
    """With what was measured of the same samples before and is not now."""
    try:
        before = read_json(out / FOLDER / f"{record['key']}-{record['samples']['num']}.json")
        if (before["format"], before["data"]) != (record["format"], record["data"]):
            return record
        now = {(one["extractor"], one["reference"]) for one in record["distances"]}
        kept = [
            one for one in before["distances"] if (one["extractor"], one["reference"]) not in now
        ]
        merged = {
            "distances": [*kept, *record["distances"]],
            "likelihood": {**before["likelihood"], **record["likelihood"]},
            "copying": record["copying"] or before["copying"],
            "classes": record["classes"] or before["classes"],
            "notes": list(dict.fromkeys([*before["notes"], *record["notes"]])),
        }
    except (CheckpointError, KeyError, TypeError):
        return record
    return {**record, **merged}


def _plain(value: Any) -> Any:
    """Ready for strict JSON: what is not finite is null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
