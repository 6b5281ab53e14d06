"""What a call of `Model.sample` asks for, made whole: its settings, and a label for every image."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, cast

from unnoise.config import SampleConfig, override
from unnoise.errors import ConfigError, nearest

Label: TypeAlias = int | str
"""The number or the name of a class; "none" asks for no class."""
Labels: TypeAlias = Label | Sequence[Label | None] | None
"""One label for all images, one for each, or None: an image's seed modulo the number of classes."""

TUNED_NAMES = ("fast", "balanced", "best")


def resolve(
    own: SampleConfig, tuned: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]
) -> SampleConfig:
    """A model's own settings with the changes of a call; ConfigError for unknown names.

    A tuned name as `sampler` brings its whole settings. Other steps or spacings are an ordinary
    grid, and another sampler has none of the options of the first.
    """
    name, changes = str(asked.get("sampler")), dict(asked)
    if name in tuned:
        changes = {**tuned[name], **asked, "sampler": tuned[name]["sampler"]}
    elif name in TUNED_NAMES:
        fix = "run `unnoise tune-sampler` on it"
        raise ConfigError(f"sample.sampler: {name!r} is not tuned for this model; {fix}")
    if "noises" not in asked and asked.keys() & {"steps", "spacing"}:
        changes["noises"] = ()
    if "sampler_options" not in asked and changes.get("sampler", own.sampler) != own.sampler:
        changes["sampler_options"] = {}
    return override(own, changes, "sample.")


def class_numbers(
    seeds: Sequence[int], asked: Labels, count: int, names: Sequence[str]
) -> list[int] | None:
    """The class of every image, or None for a model without classes; `count` is no class."""
    if isinstance(asked, str) or not isinstance(asked, Collection):
        labels = [asked] * len(seeds)
    else:
        labels = list(asked)
    if not count:
        for label in labels:
            if label not in (None, "none"):
                fix = "this model was trained without labels; leave it out"
                raise ConfigError(f"label: got {label!r}, but {fix}")
        return None
    if len(labels) != len(seeds):
        got = f"got {len(labels)} for {len(seeds)} images"
        raise ConfigError(f"label: {got}, expected one, or one for each image")
    return [
        seed % count if label is None else _class_number(label, count, names)
        for seed, label in zip(seeds, labels, strict=True)
    ]


def _class_number(label: Label, count: int, names: Sequence[str]) -> int:
    if label == "none":
        return count
    if label in names:
        return names.index(cast("str", label))
    try:
        number = int(label)
    except ValueError:
        raise ConfigError(f"label: no class {label!r}; {nearest(str(label), names)}") from None
    if not 0 <= number < count:
        raise ConfigError(f"label: got {number}, expected 0 to {count - 1} or a class name or none")
    return number
