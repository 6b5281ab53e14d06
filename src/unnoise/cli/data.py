"""unnoise data and unnoise info."""

from __future__ import annotations

from pathlib import Path

from unnoise.cli.flags import UsageError, first_word, option, parse


def data(arguments: list[str]) -> int:
    """unnoise data PATH."""
    from unnoise.data.config import DataConfig

    target, arguments = first_word(arguments, "data", "a data set, a folder or a zip of pictures")
    out, arguments = option(arguments, "--out")
    arguments = ["--image-size" + a[len("--size") :] if a.split("=")[0] == "--size" else a for a in arguments]
    config = parse(DataConfig(source=target or "digits"), arguments, f"unnoise data {target or 'PATH'}", ("--out",))
    if target is None:
        return 0
    from unnoise.data.dataset import load, report
    from unnoise.data.images import mosaic, save_png

    images = load(config, progress=True)
    path = Path(out or "mosaic.png")
    save_png(path, mosaic(images), {"unnoise": f"data {images.name}, fingerprint {images.fingerprint[:12]}"})
    print(f"{report(images)}\nmosaic: {path}")
    return 0


def info(arguments: list[str]) -> int:
    """unnoise info RUN|FILE|PNG."""
    target, rest = first_word(arguments, "info", "a run folder, a model file or a PNG made by unnoise")
    if target is None:
        print("usage: unnoise info RUN|FILE|PNG")
        return 0
    if rest:
        raise UsageError(f"no flag {rest[0]}; info takes none")
    from unnoise.sampling import describe

    print(describe(target))
    return 0
