"""What a module of this package makes of another package's files, and what they all need."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import read_json
from unnoise.networks.config import NetworkConfig, Shape
from unnoise.networks.network import Network
from unnoise.reading import from_dict

T = TypeVar("T")


@dataclass(frozen=True)
class Process:
    """The settings that a file of another package may lack: what it was trained for."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)


@dataclass(frozen=True)
class Imported:
    """A model as another package's files say it."""

    network: NetworkConfig
    shape: Shape
    process: Process
    tensors: Tensors
    """The file's weights, under the file's names."""
    renamed: Callable[[Network, Tensors], Tensors]
    """The weights under the names of a network of these settings; CheckpointError for others."""
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What the user should know of what was assumed."""


def read_config(kind: type[T], path: Path, classes: Collection[str]) -> tuple[T, dict[str, Any]]:
    """Read a file of JSON as a dataclass, whose types say what is expressible; and private keys.

    CheckpointError, which names the key, for anything else, or another "_class_name".
    """
    values = read_json(path)
    private = {key: values.pop(key) for key in list(values) if key.startswith("_")}
    name = str(private.get("_class_name"))
    if name not in classes:
        expected = " or ".join(classes)
        raise CheckpointError(f"{path}: _class_name: got {name}, expected {expected}")
    try:
        return from_dict(kind, values, f"{path}: "), private
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def read_tensors(path: Path) -> Tensors:
    """Read a file of weights: safetensors, or a pickle of nothing but tensors.

    CheckpointError for a damaged file, or for a pickle of anything else, of which nothing runs.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        why = f"cannot be read ({error}); it is truncated or damaged"
        raise CheckpointError(f"{path}: {why}") from error
    except Exception as error:
        why = "is damaged, or a pickle of more than tensors, which could run code"
        raise CheckpointError(f"{path}: {why}; expected .safetensors") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in tensors.items()
    ):
        raise CheckpointError(f"{path}: expected tensors by name, and nothing else")
    return tensors


def take(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Tensor:
    """Remove a tensor of a shape from others; CheckpointError where there is no such."""
    value = tensors.pop(name, None)
    if value is None or tuple(value.shape) != shape:
        got = "is missing" if value is None else f"is {tuple(value.shape)}"
        raise CheckpointError(f"{name} {got}, expected {shape}; the file is of another network")
    return value
