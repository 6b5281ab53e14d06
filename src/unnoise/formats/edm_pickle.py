"""Pickles of NVlabs/edm, read without running anything of them.

Such a pickle holds the source of its classes, which the original executes. Here every name that it
asks for stands for a `Part`, which keeps what it is given and does nothing; other names are
refused. The network is built from the arguments of its constructor and from its tensors.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unnoise.checkpoint import Tensors
from unnoise.errors import CheckpointError
from unnoise.formats.imported import load_saved

OBJECT, MODULES = (
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch.nn.modules.container",
)
PARAMETER, TENSOR = "torch._utils._rebuild_parameter", "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
NAMES = {
    OBJECT, PARAMETER, TENSOR, STORAGE, f"{MODULES}.ModuleDict", f"{MODULES}.ModuleList",
    "collections.OrderedDict", "dnnlib.util.EasyDict", "numpy.dtype",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
}  # fmt: skip
"""All that a network's pickle asks for."""


class Part(dict[Any, Any]):
    """A call or an object of a pickle: a name of NAMES, arguments, items and state."""

    name = ""
    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Self:
        part = super().__new__(cls)
        part.args = args
        return part

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.state = state


LOADERS = dict(pickle._Unpickler.dispatch)
del LOADERS[pickle.BYTEARRAY8[0]]  # it would be filled before it is read


class _Inert(pickle._Unpickler):
    """Makes Parts alone. It is Python's: the one in C makes room for any number in the memo."""

    dispatch = LOADERS

    def find_class(self, module: str, name: str) -> type[Part]:
        dotted = f"{module}.{name}"
        if dotted not in NAMES:
            raise CheckpointError(f"asks for {dotted[:99]}, which no network needs; nothing ran")
        return type("Part", (Part,), {"name": dotted})  # of its own: a pickle may change it


def read_object(path: Path, key: str) -> Object:
    """Read the object under a key of a pickled dictionary.

    CheckpointError for a damaged file and for a pickle that asks for more than NAMES.
    """
    try:
        with path.open("rb") as file:
            return Object(_Inert(file).load()[key], path)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:
        why = f"is damaged, or holds no {key!r} of EDM ({type(error).__name__})"
        raise CheckpointError(f"{path}: {why}; expected network-snapshot-*.pkl") from error


class Object:
    """A module of EDM: its class's name, the arguments of its constructor, its tensors."""

    def __init__(self, part: Part, path: Path) -> None:
        meta = part.args[0]
        if part.name != OBJECT or not isinstance(meta["class_name"], str):
            raise TypeError(part.name)
        self.class_name: str = meta["class_name"]
        self.arguments = _plain(meta["state"])
        self.tensors: Tensors = {}
        self._left, self._storages = path.stat().st_size, dict[int, Tensor]()
        modules, seen = [("", part)], set[int]()
        while modules:
            prefix, module = modules.pop()
            state = module.args[0]["state"] if module.name == OBJECT else module.state
            if id(module) in seen:
                raise CheckpointError(f"holds the module {prefix[:99]} twice; it is damaged")
            seen.add(id(module))
            for name, value in [*state["_parameters"].items(), *state["_buffers"].items()]:
                if value is not None:
                    self.tensors[prefix + name] = self._tensor(value, prefix + name)
            children = state["_modules"].items()
            modules += [(f"{prefix}{name}.", m) for name, m in children if m is not None]

    def _tensor(self, part: Part, name: str) -> Tensor:
        """A tensor whose numbers all lie in the file."""
        part = part.args[0] if part.name == PARAMETER else part
        storage, offset, size, stride = part.args[:4]
        if (part.name, storage.name) != (TENSOR, STORAGE):
            raise TypeError(part.name)
        if id(storage) not in self._storages:
            content = storage.args[0]
            whole = load_saved(io.BytesIO(content), len(content))
            self._storages[id(storage)] = torch.empty(0, dtype=whole.dtype).set_(whole)
        numbers = self._storages[id(storage)]
        count, end = 1, offset + 1
        for n, step in zip(size, stride, strict=True):
            count, end = count * n, end + (n - 1) * step
        self._left -= count * numbers.itemsize
        inside = min(offset, *size, *stride) >= 0 and end <= len(numbers)
        if not inside or self._left < 0:
            raise CheckpointError(f"{name[:99]} has more numbers than the file; it is damaged")
        return numbers.as_strided(tuple(size), tuple(stride), offset)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a constructor: numbers, texts, and lists of numbers."""
    if state["_init_args"]:
        raise CheckpointError("was built with arguments without names; expected names")
    arguments = dict(state["_init_kwargs"])
    for name, value in arguments.items():
        values = value if isinstance(value, list | tuple) and len(value) < 100 else [value]
        scalars = all(isinstance(v, str | int | float | bool | None) for v in values)
        if not scalars or not isinstance(name, str):
            raise CheckpointError(f"{str(name)[:99]}: expected numbers or text")
    return arguments
