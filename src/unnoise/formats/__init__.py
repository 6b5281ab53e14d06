"""Models of other packages, in and out. A format is one module and one entry of FORMATS.

    from unnoise import formats
    model = formats.read("ddpm-cifar10-32")     # a unnoise.Model
    formats.write(model, "diffusers", "folder")

A module maps settings and renames tensors. What unnoise cannot express exactly it refuses by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from unnoise import build, checkpoint, events
from unnoise.config import RunConfig, TrainConfig, override, to_dict
from unnoise.data.config import DataConfig
from unnoise.errors import CheckpointError, ConfigError, UsageError, nearest
from unnoise.formats import diffusers, edm, lucidrains, openai, pytorch_ddpm
from unnoise.formats.imported import Imported
from unnoise.formats.scripts import load_weights as load_weights
from unnoise.model import Model, network_for
from unnoise.records import MODEL_FILE


class Format(NamedTuple):
    """What unnoise knows of another package's files."""

    about: str
    """What to expect, in a message."""
    recognises: Callable[[Path], bool]
    """Whether a path is of this format, by what is there."""
    read: Callable[[Path, str | None], Imported]
    """Read a path that is there, with the other package's own flags where the user gave some."""
    write: Callable[[Model, Path], None] | None = None
    """Write a new folder or file; ConfigError for a model that the format cannot express. None
    where unnoise does not write such files."""
    takes_flags: bool = False
    """Whether files lack settings, which the user gives as the other package's own flags."""


FORMATS: dict[str, Format] = {
    "diffusers": Format(
        "a folder with model_index.json, or with the config.json of a UNet2DModel",
        diffusers.recognises,
        diffusers.read,
        diffusers.write,
    ),
    "edm": Format("a network-snapshot-*.pkl of NVlabs/edm", edm.recognises, edm.read),
    "lucidrains": Format(
        "a checkpoint of denoising-diffusion-pytorch's Trainer",
        lucidrains.recognises,
        lucidrains.read,
        lucidrains.write,
    ),
    "openai": Format(
        "weights of improved-diffusion or guided-diffusion, such as ema_0.9999_030000.pt",
        openai.recognises,
        openai.read,
        openai.write,
        takes_flags=True,
    ),
    "pytorch_ddpm": Format(
        "ckpt.pt of w86763777's pytorch-ddpm",
        pytorch_ddpm.recognises,
        pytorch_ddpm.read,
        pytorch_ddpm.write,
        takes_flags=True,
    ),
}
"""Name -> format; the first that recognises a path reads it."""


def read(
    path: str | Path,
    format: str | None = None,
    changes: Mapping[str, Any] | None = None,
    flags: str | None = None,
) -> Model:
    """Read a model of another package, on the CPU.

    `format` is a name of FORMATS, by default the one that recognises the path. `changes` sets
    dotted keys of a Process: {"diffusion.parameterization": "v", "image_size": 32}. `flags` is the
    command line that the model was trained by, for a format whose files lack settings.
    CheckpointError for a damaged file and for a model that unnoise cannot express.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if format is None:
        format = next((name for name, each in FORMATS.items() if each.recognises(path)), None)
    if format is None and _is_own(path / MODEL_FILE if path.is_dir() else path):
        raise CheckpointError(f"{path}: is unnoise's own already; expected another package's model")
    if format is None:
        expected = ", or ".join(f"{each.about} ({name})" for name, each in FORMATS.items())
        own = "; for a class of your own: unnoise.wrap and formats.load_weights (docs/formats.md)"
        known = f"{path}: is of no format that unnoise knows; expected {expected}"
        raise CheckpointError(known + (own if path.is_file() else ""))
    entry = build.lookup(FORMATS, format, "format")
    if flags is not None and not entry.takes_flags:
        raise UsageError(f"--flags: files of {format} say everything; expected none")
    found = entry.read(path, flags)
    process, shape = override(found.process, changes or {}), found.shape
    height, width = process.image_size, process.image_width or process.image_size
    shape = replace(shape, height=height or shape.height, width=width or shape.width)
    if not shape.height:
        raise CheckpointError(f"{path}: does not say the size of its images; give --image-size 32")
    config = RunConfig(
        f"imported from {format}", DataConfig(source=""), found.network, process.diffusion,
        TrainConfig(kimg=1), process.sample, device="cpu",
    )  # fmt: skip
    build.check(config)
    try:
        network = network_for(config, shape, found.tensors, path)
        tensors = found.renamed(network, found.tensors)
    except (ConfigError, CheckpointError) as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    checkpoint.fit(network, tensors, path)
    for note in found.notes:
        events.say(note)
    record = {"config": to_dict(config), "shape": asdict(shape)}
    return Model(network, config, {**record, "class_names": list(found.class_names)})


def _is_own(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    with suppress(CheckpointError):
        checkpoint.read_model(path)
        return True
    return False


def write(model: Model, format: str, path: str | Path) -> None:
    """Write a model as a new folder or file of another package's format.

    ConfigError for a model that the format cannot express, UsageError where something is there.
    """
    writers = {name: each.write for name, each in FORMATS.items() if each.write}
    if format not in writers:
        raise UsageError(f"--to: no {format!r}; {nearest(format, writers)}")
    path = Path(path)
    if path.exists():
        raise UsageError(f"--out: {path} is there already; expected a new name")
    writers[format](model, path)
