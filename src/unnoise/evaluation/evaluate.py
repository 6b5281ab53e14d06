"""The whole evaluation of a model: samples, distances to the data, likelihood, copying and classes.

Every number of the record stands next to what it is a number of: extractor, protocol, number of
samples, reference set, and the same number for held-out real images where there are any. What makes
it not comparable is said in `notes`.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unnoise.config import to_dict
from unnoise.data.cache import root
from unnoise.data.config import DataConfig
from unnoise.data.dataset import ImageData
from unnoise.data.images import grid, save_png
from unnoise.environment import describe
from unnoise.errors import CheckpointError, ConfigError, DataError
from unnoise.evaluation import sections
from unnoise.evaluation.extractors import Extractor, classifier, extractor, suited
from unnoise.evaluation.record import read
from unnoise.evaluation.settings import Settings
from unnoise.evaluation.store import DataStore, Features, Pictures, Samples, made_samples
from unnoise.files import claim, discard_leftovers, write_json
from unnoise.parallel import World
from unnoise.reading import from_dict

RECORD = "evaluation.json"
FOLDER = "evaluation"
FORMAT = 1
SHOWN = 100
"""Samples in the grid."""
ALONE = World()


def evaluate(
    wanted: Samples | Pictures,
    data: ImageData,
    config: DataConfig | None,
    settings: Settings,
    out: Path,
    world: World = ALONE,
) -> dict[str, Any]:
    """Measure a model, or pictures, against a data set; gives the record of out/evaluation.json.

    `config` says where the data comes from; None for images of the caller's own. All ranks call
    this alike and share the work of samples and features; rank 0 does the rest, the others get {}.
    What was made is kept in out/evaluation: the same call again, or one with more features,
    resumes, and what is measured of the same samples is added to the record.
    """
    began, folder, device = time.monotonic(), out / FOLDER, wanted.arithmetic.device
    _check(wanted, data, settings)
    store = DataStore(data, root(config or DataConfig()), world)
    probe, size = store.pixels(range(2)), data.images.shape[1:]
    names = [suited(spec, size, settings.inception) for spec in settings.features]
    extracts = [extractor(name, device, settings.inception).probed(probe) for name in names]
    known = settings.reference
    statistics = None if known is None else extracts[0].statistics(known, probe)
    judge = _classifier(wanted, data, config, settings)
    for written in (out, folder, folder / wanted.key):
        discard_leftovers(written, of_dead=True)
    images = made_samples(wanted, folder, world)
    context = sections.Context(wanted, store, settings, folder, statistics, judge, images)
    features = [sections.extract_all(context, extract) for extract in extracts]
    if not world.main:
        return {}
    record = _record(context, list(zip(extracts, features, strict=True)))
    record["data"]["config"] = config and to_dict(config)
    record["environment"]["seconds"] = time.monotonic() - began
    kept = folder / f"{wanted.key}-{wanted.num}.json"
    record = _merged(_plain(record), kept)
    recipe = {"unnoise": f"samples {wanted.key}"}
    save_png(folder / "samples.png", grid(images[:SHOWN]), recipe)
    if record["copying"] is None:
        (folder / "neighbours.png").unlink(missing_ok=True)
    for path in (kept, out / RECORD):
        write_json(path, record)
    return record


def _record(
    context: sections.Context, features: list[tuple[Extractor, Features]]
) -> dict[str, Any]:
    """Everything that is measured, and of what."""
    wanted, data, settings = context.wanted, context.store.data, context.settings
    first = features[0][1] if features else None
    bits = settings.likelihood and isinstance(wanted, Samples)
    return {
        "format": FORMAT,
        "key": wanted.key,
        "model": wanted.recipe | {"training": wanted.model.record.get("training", {})}
        if isinstance(wanted, Samples)
        else None,
        "samples": {"num": wanted.num, "first_seed": wanted.seed, "name": wanted.name},
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "size": list(data.images.shape[1:]),
            "num_train": data.num_train,
            "num_held_out": len(context.held_out_rows),
        },
        "distances": [sections.distances(context, *one) for one in features],
        "likelihood": {"bound": sections.likelihood(context)} if bits else {},
        "copying": sections.copies(context, first) if settings.copying else None,
        "classes": sections.accuracy(context),
        "notes": sections.notes(context, features),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in asdict(settings).items()},
        "environment": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **describe(wanted.arithmetic),
        },
    }


def _check(wanted: Samples | Pictures, data: ImageData, settings: Settings) -> None:
    """Everything that can be said before the first sample."""
    if data.images.shape[1:] != wanted.size:
        got, made = (" x ".join(map(str, size)) for size in (data.images.shape[1:], wanted.size))
        raise DataError(f"evaluate: the samples are {made}, the data is {got}; expected one size")
    if min(data.num_train, wanted.num) < 2:
        raise DataError(
            f"evaluate: got {wanted.num:,} images and {data.num_train:,} to compare them with; a "
            "Fréchet distance needs 2 of each, and more than 64 (tiny features) or 2,048 (FID) "
            "not to be mostly bias"
        )
    from_dict(Settings, vars(settings))  # its types and ranges
    if settings.save_reference is not None:
        claim(settings.save_reference, "--save-reference")
    refused = {
        "--likelihood-terms: got 1, expected 2 or more, or 0 for all":
            settings.likelihood_terms == 1,
        "--reference: is of one extractor; expected one --features, the one it was made with":
            (settings.reference or settings.save_reference) and len(settings.features) != 1,
        "--reference: stands in place of the training images; leave out --save-reference":
            settings.reference and settings.save_reference,
        "--classifier: this model has no classes; leave it out":
            settings.classifier is not None and not wanted.class_names,
    }  # fmt: skip
    for message, wrong in refused.items():
        if wrong:
            raise ConfigError(message)
    if isinstance(wanted, Samples):
        wanted.model.settings(guide=wanted.guide, **wanted.settings)


def _classifier(
    wanted: Samples | Pictures, data: ImageData, config: DataConfig | None, settings: Settings
) -> Extractor | None:
    """What was asked for, or the package's own for its digits."""
    names, device = wanted.class_names, wanted.arithmetic.device
    if settings.classifier is not None:
        return classifier(settings.classifier, len(names), device)
    of_digits = config is not None and config.source == "digits"
    return extractor("tiny", device) if of_digits and names == data.class_names else None


def _merged(record: dict[str, Any], kept: Path) -> dict[str, Any]:
    """The record with what was measured of the same samples before and is not now."""
    try:
        before = read(kept)
        if (before.get("format"), before["data"]) != (record["format"], record["data"]):
            return record
        now = {(one["extractor"], one["reference"]) for one in record["distances"]}
        earlier = [d for d in before["distances"] if (d["extractor"], d["reference"]) not in now]
        return {
            **record,
            "distances": earlier + record["distances"],
            "likelihood": before["likelihood"] | record["likelihood"],
            "copying": record["copying"] or before["copying"],
            "classes": record["classes"] or before["classes"],
            "notes": list(dict.fromkeys(before["notes"] + record["notes"])),
        }
    except CheckpointError:  # not there yet, or damaged
        return record


def _plain(value: Any) -> Any:
    """Ready for strict JSON: what is not finite is null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
