"""Where models lie, and what unnoise's files say of themselves. Imports no torch.

The types of the records say what is read of them; a newer version's other keys do no harm.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from unnoise.config import RunConfig, SampleConfig
from unnoise.errors import CheckpointError, ConfigError, UnknownNameError, nearest
from unnoise.files import parse_json, read_json
from unnoise.networks.config import Shape
from unnoise.ranges import NotNegative, Range, Steps, Total
from unnoise.reading import from_dict, typed

MODEL_FILE = "model.safetensors"
MANIFEST = "manifest.json"
LOCK = ".lock"
"""What a trainer locks, with its process id; empty once it has ended in order."""
VERDICT = "verdict.txt"
"""What training says of a run as it ends."""
LARGEST_HEADER = 100_000_000
"""Bytes; the format allows no more."""


class OfConfig(TypedDict):
    """What is read of a configuration before it becomes a RunConfig."""

    imports: NotRequired[tuple[str, ...]]
    data: NotRequired[dict[str, Any]]


class OfData(TypedDict, total=False):
    """The data that a model was trained on."""

    name: str
    fingerprint: str
    num_train: Total


class Tuned(TypedDict):
    """Changes of a model's SampleConfig under a name."""

    sampler: str
    steps: Steps


class OfModel(TypedDict):
    """A model file, or a checkpoint as one."""

    config: OfConfig
    shape: Shape
    weights: NotRequired[str]
    class_names: NotRequired[tuple[str, ...]]
    data: NotRequired[OfData]
    training: NotRequired[dict[str, Any]]
    tuned: NotRequired[dict[str, Tuned]]


class OfRun(TypedDict):
    """config.json."""

    config: OfConfig
    data: str
    """The fingerprint."""


class OfFile(TypedDict):
    """A file in a manifest."""

    bytes: Total
    sha256: str


class OfCheckpoint(TypedDict):
    """manifest.json."""

    format: int
    files: dict[str, OfFile]


class Line(TypedDict):
    """A line of metrics.jsonl."""

    nimg: Annotated[float, Range(least=0, most=1e300)]
    step: NotRequired[NotNegative]


def bundled() -> dict[str, Path]:
    """The models that ship with the package, by name."""
    folder = Path(str(resources.files("unnoise"))) / "models"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """The model file of a bundled name, a run folder or a path; else CheckpointError."""
    if not isinstance(name, str | Path) or not str(name):  # pyright: ignore
        raise CheckpointError(f"model: got {name!r}, expected a run folder, file or bundled model")
    path, own = Path(name), bundled()
    for file in (path / MODEL_FILE, path, own.get(str(name), path)):
        if os.path.isfile(file):  # False, and no error, for a name that is too long
            return file
    if os.path.isdir(path):
        expected = "expected a run folder of `unnoise train`"
        if is_run(path):
            expected = "training writes it with its first checkpoint"
        raise CheckpointError(f"{path}: no {MODEL_FILE} in this folder; {expected}")
    said = "no such run folder, model file or bundled model"
    raise CheckpointError(f"{name}: {said}; {nearest(str(name), own)}")


def check(kind: Any, record: Any, where: str) -> Any:
    """The record, if it is of a type; else a CheckpointError that names the file."""
    try:
        typed(kind, record, "")
    except ConfigError as error:
        raise CheckpointError(f"{where}: is damaged or of another version ({error})") from error
    return record


def check_model(record: Any, where: str) -> Any:
    """The record of a model, if all of it but the configuration's fields can be used."""
    check(OfModel, record, where)
    for name, changes in record.get("tuned", {}).items():
        try:
            from_dict(SampleConfig, changes, "sample.")
        except ConfigError as error:
            raise CheckpointError(f"{where}: its tuned {name!r} is damaged ({error})") from error
    names, classes = record.get("class_names", ()), record["shape"].get("num_classes", 0)
    if names and len(names) != classes:
        said = f"names {len(names)} classes of {classes}"
        raise CheckpointError(f"{where}: is damaged (its record {said})")
    return record


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file, and where its tensors begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        text = file.read(size if size <= LARGEST_HEADER else 0)
    return parse_json(text, str(path)), 8 + size


def read_record(path: Path) -> dict[str, Any]:
    """Read the record in a model file's header, unverified; CheckpointError where there is none."""
    try:
        return parse_json(read_header(path)[0]["__metadata__"]["unnoise"], str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: has no unnoise record ({error})") from error


def read_manifest(checkpoint: Path) -> OfCheckpoint:
    """What a checkpoint holds."""
    path = checkpoint / MANIFEST
    return check(OfCheckpoint, read_json(path), str(path))


def read_run(folder: Path) -> OfRun:
    """What a run was started with."""
    path = folder / "config.json"
    return check(OfRun, read_json(path), str(path))


def is_run(folder: str | Path) -> bool:
    """Whether a folder is one that training has written."""
    folder = Path(folder)
    parts = (folder / name for name in ("checkpoints", "metrics.jsonl", "environment.json"))
    return os.path.isfile(folder / "config.json") and any(map(os.path.exists, parts))


def run_config(folder: Path) -> RunConfig:
    """The configuration that a run was started with."""
    record = read_run(folder)
    try:
        return from_dict(RunConfig, record["config"])
    except UnknownNameError:
        raise
    except ConfigError as error:
        what = f"{folder / 'config.json'}: is damaged or of another version ({error})"
        raise CheckpointError(f"{what}; mend it or use another --out") from error


def read_starts(path: Path) -> list[dict[str, Any]]:
    """Every start of a run, in environment.json."""
    return check(tuple[dict[str, Any], ...], read_json(path, list), str(path))


def read_line(text: str) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return check(Line, parse_json(text, "metrics.jsonl"), "metrics.jsonl")
