"""unnoise data and unnoise info."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from unnoise.cli.flags import HELP, Command, Flag, Settings, check_model_file, parse
from unnoise.config import override
from unnoise.data.config import DataConfig
from unnoise.errors import UsageError
from unnoise.files import claim

OFTEN = ("path", "classes", "image_size", "image_width", "channels", "background", "flip")


@dataclass(frozen=True, kw_only=True)
class Data(Command):
    """Report on a data set, and write a mosaic of it."""

    target: Annotated[str, Flag(metavar="PATH")]
    """digits, mnist, cifar10, a folder, zip, .npz, .npy or parquet file, or hf:owner/name."""
    out: str | None = None
    """File of the mosaic [mosaic.png]."""


@dataclass(frozen=True, kw_only=True)
class Info(Command):
    """Say what is in a run, a model file or a picture."""

    target: Annotated[str, Flag(metavar="RUN|FILE|PNG")]
    """A run folder, a model file or a PNG made by unnoise."""


def settings(config: DataConfig, often: Collection[str], arguments: Collection[str]) -> Settings:
    """The flags of a DataConfig: --channels, and as `unnoise train` and messages have them,
    --data.channels."""
    long = {f.name: (f"--data.{f.name.replace('_', '-')}",) for f in fields(DataConfig)}
    also = {} if set(HELP) & set(arguments) else long
    also = {**also, "image_size": ("--size", *also.get("image_size", ()))}
    return Settings(config, True, often, also)


def data(arguments: list[str]) -> int:
    """Run `unnoise data PATH`."""
    flags, given = parse(Data, arguments, "data", settings(DataConfig(), OFTEN, arguments))
    from unnoise.data.dataset import load, report
    from unnoise.data.images import mosaic, save_png

    config = override(DataConfig(source=flags.target), given, "data.")
    path, folder = Path(flags.out or "mosaic.png"), Path(config.source).resolve()
    if not flags.out and folder.is_dir() and Path.cwd().is_relative_to(folder):
        path = folder.parent / f"{folder.name}-mosaic.png"  # not among the pictures
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out: got {str(path)!r}, expected a file name that ends in .png")
    claim(path)
    images = load(config)
    print(report(images))
    text = f"data {images.name}, fingerprint {images.fingerprint[:12]}"
    save_png(path, mosaic(images), {"unnoise": text})
    print(f"mosaic: {path}")
    return 0


def info(arguments: list[str]) -> int:
    """Run `unnoise info RUN|FILE|PNG`."""
    flags, _ = parse(Info, arguments, "info")
    from unnoise.sampling import describe

    if not flags.target.lower().endswith((".png", ".npz")):
        check_model_file(flags.target)
    print(describe(flags.target))
    return 0
