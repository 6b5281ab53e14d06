"""What is read of an evaluation.json, by type. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import read_json
from unnoise.ranges import Total
from unnoise.reading import typed

Number: TypeAlias = float | None
"""None is written for what is not finite, and for what could not be had."""


class Numbers(TypedDict):
    """An extractor's numbers of some images; the keys of its metrics are Numbers too."""

    num: Total
    interval: NotRequired[tuple[Number, Number] | None]
    interval_words: NotRequired[str]


class OfClass(TypedDict):
    """The distance of one class."""

    class_name: str
    distance: Number


class Distances(TypedDict):
    """What one extractor measured."""

    extractor: str
    standard: bool
    network: str
    resize: str
    range: str
    fingerprint: str
    reference: str
    metrics: NotRequired[dict[str, str]]
    samples: Numbers
    held_out: Numbers | None
    per_class: tuple[OfClass, ...]


class Likelihood(TypedDict):
    """Bits/dim by one method."""

    bits_per_dim: Number
    standard_error: Number


class Share(TypedDict):
    """A share of some images."""

    share: Number
    interval_95: tuple[float, float]


class Classes(TypedDict):
    """How often samples are read as their label."""

    classifier: str
    overall: Share
    held_out: NotRequired[Share | None]


class Copying(TypedDict):
    """Copies of training images."""

    num_copies: Total
    num_samples: Total
    summary: tuple[str, ...]


class Sampled(TypedDict):
    """How the samples were made."""

    weights: str
    sampler: str
    steps: Total
    noises: tuple[float, ...]
    guidance_scale: float
    training: NotRequired[dict[str, Any]]


class OfSamples(TypedDict):
    """Which samples: seeds of a model, or pictures by their name."""

    num: Total
    first_seed: Total
    name: NotRequired[str]


class OfData(TypedDict):
    """Which images."""

    name: str
    fingerprint: str
    size: NotRequired[tuple[int, ...]]


class Evaluation(TypedDict):
    """evaluation.json."""

    format: NotRequired[int]
    model: Sampled | None
    samples: OfSamples
    data: OfData
    distances: tuple[Distances, ...]
    likelihood: dict[str, Likelihood | None]
    copying: Copying | None
    classes: Classes | None
    notes: tuple[str, ...]


def read(path: Path) -> dict[str, Any]:
    """The record in a file; CheckpointError where that is none."""
    record = read_json(path)
    try:
        typed(Evaluation, record, "")
        for i, one in enumerate(record["distances"]):
            for numbers in (one["samples"], one["held_out"] or {}):
                for name in one.get("metrics", ()):
                    for key in (name, f"{name}_error"):
                        typed(Number, numbers.get(key), f"distances.{i}.{key}")
    except ConfigError as error:
        expected = "expected a record of `unnoise evaluate`"
        raise CheckpointError(f"{path}: cannot be read ({error}); {expected}") from error
    return record
