"""unnoise export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unnoise.cli.flags import Command, Flag, parse
from unnoise.errors import UsageError
from unnoise.files import claim, discard_leftovers

KEPT = ("config", "shape", "class_names", "data", "training", "tuned")
"""The keys of a checkpoint's record that are kept; the others are the trainer's."""


@dataclass(frozen=True, kw_only=True)
class Export(Command):
    """Write a model alone as one file, with all that sampling needs.

    A run's own is RUN/model.safetensors; this makes one of an earlier checkpoint, or a smaller one.
    """

    model: Annotated[str, Flag(metavar="RUN|CHECKPOINT|FILE|NAME")]
    """A run folder, a checkpoint, a model file or a bundled model."""
    out: str | None = None
    """File to write, such as small.safetensors."""
    half: bool = False
    """Store the weights as fp16, in half the size; the arithmetic stays as it was."""


def export(arguments: list[str]) -> int:
    """Run `unnoise export RUN|CHECKPOINT|FILE|NAME`."""
    flags, _ = parse(Export, arguments, "export")
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
