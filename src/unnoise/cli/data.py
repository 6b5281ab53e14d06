"""unnoise data and unnoise info."""

from __future__ import annotations

from pathlib import Path

from unnoise.cli.flags import first_word, option, parse
from unnoise.errors import UsageError


def data(arguments: list[str]) -> int:
    """unnoise data PATH."""
    from unnoise.data.config import DataConfig

    target, arguments = first_word(arguments, "data", "a data set, a folder or a zip of pictures")
    out, arguments = option(arguments, "--out")
    prog = f"unnoise data {target or 'PATH'}"
    config = parse(
        DataConfig(source=target or "digits"), [_own(a) for a in arguments], prog, ("--out",)
    )
    if target is None:
        return 0
    from unnoise.data.dataset import load, report
    from unnoise.data.images import mosaic, save_png

    images = load(config)
    print(report(images))
    path = Path(out) if out else _place(Path(config.source))
    save_png(
        path,
        mosaic(images),
        {"unnoise": f"data {images.name}, fingerprint {images.fingerprint[:12]}"},
    )
    print(f"mosaic: {path}")
    return 0


def _own(argument: str) -> str:
    """A flag by its name in DataConfig: --data.image-size, as training and messages have it, and --size are --image-size."""
    flag, equals, value = argument.partition("=")
    if flag.startswith("--data."):
        flag = "--" + flag.removeprefix("--data.")
    return ("--image-size" if flag == "--size" else flag) + equals + value


def _place(data: Path) -> Path:
    """mosaic.png here; beside the pictures where here is among them, so that it is not taken for one of them."""
    folder = data.resolve()
    if not (data.is_dir() and Path.cwd().is_relative_to(folder)):
        return Path("mosaic.png")
    return folder.parent / f"{folder.name}-mosaic.png"


def info(arguments: list[str]) -> int:
    """unnoise info RUN|FILE|PNG."""
    target, rest = first_word(
        arguments, "info", "a run folder, a model file or a PNG made by unnoise"
    )
    if target is None:
        print("usage: unnoise info RUN|FILE|PNG")
        return 0
    if rest:
        raise UsageError(f"no flag {rest[0]}; info takes none")
    from unnoise.sampling import describe

    print(describe(target))
    return 0
