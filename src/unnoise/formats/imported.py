"""What a module of this package makes of another package's files, and what they all need."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar
from zipfile import ZipFile, is_zipfile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unnoise.checkpoint import Tensors
from unnoise.config import DiffusionConfig, SampleConfig
from unnoise.data.config import Pixels
from unnoise.errors import CheckpointError, ConfigError
from unnoise.files import read_json
from unnoise.networks.config import NetworkConfig, Shape
from unnoise.networks.network import Network
from unnoise.reading import from_dict

T = TypeVar("T")

HEAD_BYTES = 1 << 23
"""A file of weights begins with its names; numbers come after all of them."""


class _Kind:
    """numpy's dtype in a pickle of a number, such as a loss."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Take nothing of it: the byte order of all our machines is the same."""


def _number(kind: _Kind, data: bytes) -> float:
    return struct.unpack({"f8": "<d", "f4": "<f"}[kind.code], data)[0]


NUMBERS: list[Any] = [
    (_Kind, "numpy.dtype"), (_number, "numpy._core.multiarray.scalar"),
    (_number, "numpy.core.multiarray.scalar"),
]  # fmt: skip
"""What stands for numpy's numbers, of which a training script's loss may be one."""


@dataclass(frozen=True)
class Process:
    """The settings that a file of another package may lack: what it was trained for."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    image_size: Pixels | None = None
    """Height (and width) of the images in pixels, where the files do not say it."""
    image_width: Pixels | None = None
    """Width of the images in pixels; None = square."""


@dataclass(frozen=True)
class Imported:
    """A model as another package's files say it."""

    network: NetworkConfig
    shape: Shape
    """Its height is 0 where the files do not say it."""
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


def mentions(path: Path, name: str) -> bool:
    """Whether a file of weights has a tensor or an entry of this name; nothing is loaded."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return name.encode() in file.read(HEAD_BYTES)


def read_tensors(path: Path) -> Tensors:
    """Read a file of weights: safetensors, or a pickle of nothing but tensors.

    CheckpointError for a damaged file, or for a pickle of anything else, of which nothing runs.
    """
    tensors = read_pickle(path) if path.suffix != ".safetensors" else _read_safetensors(path)
    if not is_tensors(tensors):
        raise CheckpointError(f"{path}: expected tensors by name, in full, and nothing else")
    return tensors


def load_saved(file: Path | BinaryIO, size: int) -> Any:
    """What torch.save wrote to a file of so many bytes: tensors, numbers, text and containers.

    Nothing else is made and nothing runs. ValueError for an archive whose parts are larger than the
    file, any error of PyTorch's for what is damaged.
    """
    if is_zipfile(file):
        with ZipFile(file) as archive:
            if sum(each.file_size for each in archive.infolist()) > size:
                raise ValueError("its parts are larger than the file")
    if not isinstance(file, Path):
        file.seek(0)
    quiet = warnings.catch_warnings(action="ignore")  # of how old or new the pickle is
    with quiet, torch.serialization.safe_globals(NUMBERS):
        return torch.load(file, map_location="cpu", weights_only=True)


def _read_safetensors(path: Path) -> Tensors:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        why = f"cannot be read ({error}); it is truncated or damaged"
        raise CheckpointError(f"{path}: {why}") from error


def read_pickle(path: Path) -> Any:
    """Read what torch.save wrote of tensors, numbers, text, and lists and dicts of them.

    Nothing else is made and nothing runs: CheckpointError, as for a damaged file.
    """
    try:
        return load_saved(path, path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    except Exception as error:
        why = "is damaged, or a pickle of more than tensors and numbers, which could run code"
        raise CheckpointError(f"{path}: {why}; expected weights alone") from error


def is_tensors(value: object) -> TypeGuard[Tensors]:
    """Whether something is tensors by name, which are no larger than what they hold: no copies."""
    if not isinstance(value, dict) or not value:
        return False
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.is_complex():
            return False
        if tensor.layout != torch.strided or tensor.device.type != "cpu":
            return False
    storages = (tensor.untyped_storage() for tensor in value.values())
    held = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(tensor.nbytes for tensor in value.values()) <= 2 * sum(held.values())  # some share


def take(tensors: Tensors, name: str, shape: tuple[int, ...]) -> Tensor:
    """Remove a tensor of a shape from others; CheckpointError where there is no such."""
    value = tensors.pop(name, None)
    if value is None or tuple(value.shape) != shape:
        got = "is missing" if value is None else f"is {tuple(value.shape)}"
        raise CheckpointError(f"{name} {got}, expected {shape}; the file is of another network")
    return value
