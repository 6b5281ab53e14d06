"""Where models lie, and what a model file says of itself. Imports no torch."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from unnoise.errors import CheckpointError, nearest

MODEL_FILE = "model.safetensors"
LARGEST_HEADER = 100_000_000
"""Bytes; the format allows no more."""


def bundled() -> dict[str, Path]:
    """The models that ship with the package, by name."""
    folder = Path(str(resources.files("unnoise"))) / "models"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """The model file of a bundled name, a run folder or a path; else CheckpointError."""
    path, own = Path(name), bundled()
    for file in (path / MODEL_FILE, path, own.get(str(name), path)):
        if file.is_file():
            return file
    if path.is_dir():
        expected = "expected a run folder of `unnoise train`"
        raise CheckpointError(f"{path}: no {MODEL_FILE} in this folder; {expected}")
    said = "no such run folder, model file or bundled model"
    raise CheckpointError(f"{name}: {said}; {nearest(str(name), own)}")


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the header of a safetensors file, and where its tensors begin."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size if size <= LARGEST_HEADER else 0)), 8 + size


def read_record(path: Path) -> dict[str, Any]:
    """Read the record in a model file's header, unverified; CheckpointError where there is none."""
    try:
        record = json.loads(read_header(path)[0]["__metadata__"]["unnoise"])
        if not isinstance(record, dict):
            raise TypeError(f"it is a {type(record).__name__}")
        return record
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: has no unnoise record ({error})") from error
