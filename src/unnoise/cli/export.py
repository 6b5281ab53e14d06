"""unnoise export, unnoise import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unnoise.cli.flags import Command, Flag, Settings, parse
from unnoise.errors import UsageError
from unnoise.files import claim, discard_leftovers

KEPT = ("config", "shape", "class_names", "data", "training", "tuned")
"""The keys of a checkpoint's record that are kept; the others are the trainer's."""


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a model alone as one file, with all that sampling needs, or for another package.

    A run's own is RUN/model.safetensors; this makes one of an earlier checkpoint, or a smaller one.
    """

    model: Annotated[str, Flag(metavar="RUN|CHECKPOINT|FILE|NAME")]
    """A run folder, a checkpoint, a model file or a bundled model."""
    out: str | None = None
    """File to write, such as small.safetensors; a folder for --to diffusers."""
    to: str | None = None
    """Write for another package: diffusers."""
    half: bool = False
    """Store the weights as fp16, in half the size; the arithmetic stays as it was."""


def export(arguments: list[str]) -> int:
    """Run `unnoise export RUN|CHECKPOINT|FILE|NAME`."""
    flags, _ = parse(Export, arguments, "export")
    if flags.to is not None:
        return _export_to(flags.to, flags)
    if flags.out is None or not flags.out.endswith(".safetensors"):
        raise UsageError(f"--out: got {flags.out}, expected a file name that ends in .safetensors")
    from unnoise.model import load

    path = claim(Path(flags.out))
    discard_leftovers(path.parent, of_dead=True)
    model = load(flags.model, "cpu")
    model.record = {name: model.record[name] for name in KEPT if name in model.record}
    model.save(path, half=flags.half)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\nnext: unnoise sample {path}")
    return 0


def _export_to(name: str, flags: Export) -> int:
    if flags.out is None or flags.half:
        got = "--half" if flags.half else "no --out"
        raise UsageError(f"--to {name}: got {got}, expected a new folder: --out FOLDER")
    from unnoise import formats
    from unnoise.model import load

    model = load(flags.model, "cpu")
    formats.write(model, name, flags.out)
    print(f"{flags.out}: for {name}")
    if model.shape.num_classes:
        print("note: diffusers' pipelines pass no labels; docs/formats.md has a loop that does")
    return 0


@dataclass(frozen=True, kw_only=True)
class Import(Command):
    """Read a model of another package and write it as one of unnoise's."""

    source: Annotated[str, Flag(metavar="FOLDER|FILE")]
    """A folder or file of another package, such as a pipeline of diffusers."""
    out: str | None = None
    """File to write, such as model.safetensors."""
    format: str | None = None
    """Format of the files: diffusers; by default the one that recognises what is there."""


def import_(arguments: list[str]) -> int:
    """Run `unnoise import FOLDER|FILE`."""
    from unnoise import formats
    from unnoise.formats.imported import Process

    often = ("diffusion.schedule", "diffusion.parameterization")
    flags, changes = parse(Import, arguments, "import", Settings(Process(), False, often))
    if flags.out is None or not flags.out.endswith(".safetensors"):
        raise UsageError(f"--out: got {flags.out}, expected a file name that ends in .safetensors")
    path = claim(Path(flags.out))
    discard_leftovers(path.parent, of_dead=True)
    formats.read(flags.source, flags.format, changes).save(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\nnext: unnoise sample {path}")
    return 0
