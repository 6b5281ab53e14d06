"""What a call of `Model.sample` asks for, made whole: its settings, and a label for every image."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from numpy import ndarray
from torch import Tensor

from unnoise.config import SampleConfig, override
from unnoise.errors import ConfigError, nearest
from unnoise.ranges import Images, Seed
from unnoise.reading import typed

Label: TypeAlias = int | str
"""The number or the name of a class; "none" asks for no class, where no class has that name."""
Labels: TypeAlias = Label | Sequence[Label | None] | None
"""One label for all images, one for each, or None: an image's seed modulo the number of classes."""

NO_CLASS = ("none", "no class")
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


def image_seeds(seeds: Iterable[int]) -> list[int]:
    """One seed for each image, as whole numbers from 0; ConfigError for anything else."""
    if isinstance(seeds, str) or not isinstance(seeds, Iterable):
        raise ConfigError(f"seeds: got {seeds!r}, expected whole numbers, one for each image")
    found = list(seeds)
    typed(Images, len(found), "number of seeds")
    return list(typed(tuple[Seed, ...], found, "seeds"))


def class_numbers(
    seeds: Sequence[int], asked: Labels, count: int, names: Sequence[str]
) -> list[int] | None:
    """The class of every image, or None for a model without classes; `count` is no class."""
    asked = asked.tolist() if isinstance(asked, Tensor | ndarray) else asked
    if isinstance(asked, str | Mapping) or not isinstance(asked, Collection):
        labels = [asked] * len(seeds)
    else:
        labels = list(asked)
    if not count:
        for label in labels:
            if label not in (None, *NO_CLASS):
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


def even_count(most: int, classes: int) -> int:
    """The largest number of images up to `most` with as many of each class."""
    return most // max(classes, 1) * max(classes, 1) or most


def _class_number(label: Label, count: int, names: Sequence[str]) -> int:
    """A text is a name before it is a number; a number that is another class's name is neither."""
    if isinstance(label, str):
        name = unicodedata.normalize("NFC", label)
        if name in names:
            return names.index(name)
        if name in NO_CLASS:
            return count
        if not (name.isascii() and name.isdecimal() and len(name) < 10):
            raise ConfigError(f"label: no class {label!r}; {nearest(name, names)}")
    number = typed(int, int(label) if isinstance(label, str) else label, "label")
    if not 0 <= number < count:
        raise ConfigError(f"label: got {number}, expected 0 to {count - 1} or a class name or none")
    if str(number) in names and names[number] != str(number):
        both = f"{number} is the number of class {names[number]!r} and the name of another"
        raise ConfigError(f"label: {both}; expected the name as text, {str(number)!r}")
    return number
