"""Pickles in the layout of NVlabs/edm's network snapshots, and hostile ones, made without it."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

FIXTURE = json.loads((Path(__file__).parent.parent / "fixtures/edm-song-unet.json").read_text())
SOURCE = "import os; os.mkdir('canary')"
"""In place of networks.py: EDM's own reader would execute it."""


@dataclass
class Name:
    """A name that a pickle asks for: "os.system"."""

    dotted: str


@dataclass
class Call:
    """A call of a name, or with `new` an object of it, which is then given a state."""

    dotted: str
    args: tuple[Any, ...] = ()
    state: Any = None
    new: bool = False


class Writer(pickle._Pickler):
    """A pickler that knows names and calls without importing or calling them."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)

    def save_name(self, name: Name) -> None:
        module, _, attribute = name.dotted.rpartition(".")
        self.save(module)
        self.save(attribute)
        self.write(pickle.STACK_GLOBAL)

    def save_call(self, call: Call) -> None:
        self.save(Name(call.dotted))
        self.save(call.args)
        self.write(pickle.NEWOBJ if call.new else pickle.REDUCE)
        self.memoize(call)
        if call.state is not None:
            self.save(call.state)
            self.write(pickle.BUILD)

    dispatch[Name], dispatch[Call] = save_name, save_call


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Writer(file, 4).dump(value)
    return file.getvalue()


def storage(value: Tensor) -> Call:
    file = io.BytesIO()
    torch.save(torch.storage.TypedStorage(wrap_storage=value.untyped_storage(), dtype=value.dtype,
               _internal=True), file, _use_new_zipfile_serialization=False)  # fmt: skip
    return Call("torch.storage._load_from_bytes", (file.getvalue(),))


def tensor(value: Tensor, *changes: Any) -> Call:
    """A tensor as torch pickles it; `changes` are another storage, offset, size and stride."""
    usual = (storage(value), 0, tuple(value.shape), value.stride())
    args = (*changes, *usual[len(changes) :])
    hooks = Call("collections.OrderedDict")
    return Call("torch._utils._rebuild_tensor_v2", (*args, False, hooks))


def parameter(value: Any) -> Call:
    value = tensor(value) if isinstance(value, Tensor) else value
    args = (value, False, Call("collections.OrderedDict"))
    return Call("torch._utils._rebuild_parameter", args)


def persistent(class_name: str, state: dict[str, Any]) -> Call:
    meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name}
    args = ({**meta, "state": state},)
    return Call("torch_utils.persistence._reconstruct_persistent_obj", args)


def waves(number: int, *shape: int) -> Tensor:
    """Numbers in [-1, 1] that no random generator made."""
    count = torch.Size(shape).numel()
    return torch.sin(1.7 * torch.arange(count, dtype=torch.float64) + number).float().view(shape)


def weights() -> dict[str, Tensor]:
    """Weights of the fixture's shapes; the filters as its arguments say."""
    tensors = {name: 0.3 * waves(i, *s) for i, (name, s) in enumerate(FIXTURE["shapes"].items())}
    kernel = torch.tensor(FIXTURE["arguments"]["resample_filter"], dtype=torch.float32)
    kernel = kernel.outer(kernel)[None, None] / kernel.sum() ** 2
    return {n: kernel if n.endswith("resample_filter") else v for n, v in tensors.items()}


def module(tensors: dict[str, Any], class_name: str, **state: Any) -> Call:
    """A module and those in it; a tensor may also be a Call in its place."""
    own: dict[str, Any] = {"_parameters": {}, "_buffers": {}, "_modules": {}}
    children: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            children.setdefault(first, {})[rest] = value
        elif first in ("freqs", "resample_filter"):
            own["_buffers"][first] = tensor(value) if isinstance(value, Tensor) else value
        else:
            own["_parameters"][first] = parameter(value)
    for name, inner in children.items():
        own["_modules"][name] = module(inner, "ModuleDict" if name in ("enc", "dec") else "Any")
    if class_name == "ModuleDict":
        return Call("torch.nn.modules.container.ModuleDict", (), own, new=True)
    scalar = Call("numpy.core.multiarray.scalar", (Call("numpy.dtype", ("f8", False, True)), b"8"))
    own |= {"training": False, "skip_scale": scalar, "_init_args": (), "_init_kwargs": {}}
    return persistent(class_name, own | state)


def snapshot(
    tensors: dict[str, Any] | None = None, class_name: str = "EDMPrecond", **arguments: Any
) -> bytes:
    """A network snapshot of the fixture, with some other arguments."""
    arguments = {**FIXTURE["arguments"], **arguments}
    of = module(weights() if tensors is None else tensors, class_name, _init_kwargs=arguments)
    settings = Call("dnnlib.util.EasyDict", new=True)
    return pickled({"ema": of, "augment_pipe": None, "dataset_kwargs": settings})
