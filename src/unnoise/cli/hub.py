"""unnoise push, unnoise pull."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unnoise.cli.flags import Command, Flag, parse
from unnoise.errors import UsageError
from unnoise.files import claim


@dataclass(frozen=True, kw_only=True)
class Push(Command):
    """Put a model on the Hugging Face Hub, with a card made from its run.

    It sends the model file, a card (data, training, quality, samples) and nothing else: no
    checkpoints, no training pictures, no names of folders. Log in once with `hf auth login`.
    """

    model: Annotated[str, Flag(metavar="RUN|FILE|NAME")]
    """A run folder, whose evaluation the card shows, a model file or a bundled model."""
    repo: Annotated[str, Flag(metavar="OWNER/NAME")]
    """The repository, which is made if it is not there."""
    private: bool = False
    """Make a new repository private."""
    license: str = ""
    """Licence that the card names, such as mit or cc-by-4.0 [none]."""
    half: bool = False
    """Store the weights as fp16."""
    out: str | None = None
    """Write what would be sent to this new folder, and send nothing."""


@dataclass(frozen=True, kw_only=True)
class Pull(Command):
    """Download a model that `unnoise push` has put on the Hugging Face Hub; it runs no code."""

    repo: Annotated[str, Flag(metavar="OWNER/NAME[@REVISION]")]
    """The repository, and a branch, tag or commit."""
    out: str | None = None
    """File to write [NAME.safetensors]."""


def push(arguments: list[str]) -> int:
    """Run `unnoise push RUN|FILE|NAME OWNER/NAME`."""
    flags, _ = parse(Push, arguments, "push")
    from unnoise import hub

    hub.check_name(flags.repo)
    if flags.out is None:
        print(hub.push(flags.model, flags.repo, flags.private, flags.license, flags.half))
        return 0
    if Path(flags.out).exists():
        raise UsageError(f"--out: {flags.out} is there already; expected a new folder")
    hub.prepare(flags.model, flags.repo, Path(flags.out), flags.license, flags.half)
    print(f"{flags.out}: README.md, {hub.MODEL_FILE}, {hub.GRID}; nothing was sent")
    return 0


def pull(arguments: list[str]) -> int:
    """Run `unnoise pull OWNER/NAME`."""
    flags, _ = parse(Pull, arguments, "pull")
    from unnoise import hub

    name = flags.repo.partition("@")[0]
    hub.check_name(name)
    out = flags.out or f"{name.partition('/')[2]}.safetensors"
    if not out.endswith(".safetensors"):
        raise UsageError(f"--out: got {out}, expected a file name that ends in .safetensors")
    path = claim(Path(out))
    hub.pull(flags.repo, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\nnext: unnoise sample {path}")
    return 0
