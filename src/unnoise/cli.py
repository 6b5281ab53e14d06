"""The command line: `unnoise train|sample|data|info`. `--help` imports no torch.

Every command takes its first word as what it works on (a preset, a run, a path); the rest are flags made from the
config dataclasses by tyro. Errors are one line and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from unnoise.config import RunConfig
    from unnoise.data.dataset import ImageData

C = TypeVar("C")

SHORT_FLAGS = {
    "--data": "--data.source",
    "--data-path": "--data.path",
    "--image-size": "--data.image-size",
    "--size": "--data.image-size",
    "--channels": "--data.channels",
    "--flip": "--data.flip",
    "--epochs": "--train.epochs",
    "--kimg": "--train.kimg",
    "--time": "--train.time",
    "--batch-size": "--train.batch-size",
    "--lr": "--train.lr",
}
"""Short forms of the flags used most."""

USAGE = """\
usage: unnoise COMMAND ...

  unnoise train PRESET|FOLDER|ZIP [flags]   train a model; the same command goes on after an interruption
  unnoise sample RUN|FILE|NAME [flags]      make pictures with a trained model
  unnoise data PATH [flags]                 report on a data set, and a mosaic of it
  unnoise info RUN|FILE|PNG                 what is in a run, a model file or a picture

  unnoise COMMAND --help                    the flags of a command
  unnoise --version

start with:  unnoise sample digits          a model that comes with the package
             unnoise train digits           the same model from scratch, in under two minutes
             unnoise train photos/          your own pictures
"""


class UsageError(ValueError):
    """A wrong command line."""


@dataclass(frozen=True)
class SampleFlags:
    """Make pictures with a trained model: single PNGs and a grid."""

    num: int | None = None
    """How many images [64]."""
    seeds: str | None = None
    """One image per seed, such as 0-63 or 3,7,20-29 [0 to num - 1]."""
    label: str | None = None
    """Class number or name, or none for no class [by seed: seed modulo the number of classes]."""
    sampler: str | None = None
    """ddim or ddpm [the model's own]."""
    steps: int | None = None
    """Sampling steps [the model's own]."""
    spacing: str | None = None
    """leading, trailing, uniform, karras or log_snr [the model's own]."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 = off [the model's own]."""
    eta: float | None = None
    """DDIM's share of ancestral noise [the model's own]."""
    out: str = "samples"
    """Folder for the pictures."""
    batch_size: int = 64
    """Images per network call."""
    scale: int | None = None
    """Pixels of the grid per pixel of an image [so that images are about 64 high]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 done, 2 user error, 3 diverged, 130/143 stopped with everything saved."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        return _dispatch(arguments)
    except (ValueError, OSError, KeyboardInterrupt, RuntimeError) as error:
        if debug:
            raise
        return _complain(error)


def _dispatch(arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {"train": train, "sample": sample, "data": data, "info": info}
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V", "version"):
        from unnoise import __version__

        print(f"unnoise {__version__}")
        return 0
    if arguments[0] not in commands:
        raise UsageError(f"no command {arguments[0]!r}; {_nearest(arguments[0], commands)}")
    return commands[arguments[0]](arguments[1:])


def _complain(error: BaseException) -> int:
    """One line on stderr, and the exit code; errors that are ours and not the user's keep their traceback."""
    if isinstance(error, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
        return 130
    known = {"UsageError", "ConfigError", "CheckpointError", "DataError", "DivergedError"}
    if type(error).__name__ not in known and not isinstance(error, OSError):
        raise error
    print(f"unnoise: {error}", file=sys.stderr)
    return 3 if type(error).__name__ == "DivergedError" else 2


def _nearest(name: str, known: Any) -> str:
    from unnoise.config import nearest

    return nearest(name, known)


def _first(arguments: list[str], command: str, what: str) -> tuple[str | None, list[str]]:
    """What the command works on, and the flags; None where only help is asked for."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if "--help" in arguments or "-h" in arguments:
        return None, arguments
    raise UsageError(f"{command}: expected {what} as the first word, as in `unnoise {command} digits`")


def _switch(arguments: list[str], flag: str) -> tuple[bool, list[str]]:
    return flag in arguments, [a for a in arguments if a != flag]


def parse(default: C, arguments: list[str], prog: str, extra: Sequence[str] = ()) -> C:
    """A dataclass from flags over its defaults; UsageError in one line, with the nearest flag for an unknown one."""
    import tyro

    from unnoise.config import flat

    arguments = [_long(a) for a in arguments] if prog.startswith("unnoise train") else arguments
    switches: dict[str, list[str]] = {}
    known: list[str] = []
    for key, value in flat(default).items():
        flags = _flags(key.replace("_", "-"), value)
        known += flags
        switches |= dict.fromkeys(flags, flags) if len(flags) > 1 else {}
    if not {"--help", "-h"} & set(arguments):
        everything = [*known, *extra, *(SHORT_FLAGS if prog.startswith("unnoise train") else ())]
        for argument, after in itertools.pairwise([*arguments, ""]):
            flag = argument.split("=")[0].replace("_", "-")
            if flag.startswith("--") and flag not in known:
                raise UsageError(f"no flag {flag}; {_nearest(flag, everything)}")
            if flag in switches and after.lower() in ("true", "false"):
                raise UsageError(f"{flag}: got {after}, expected nothing after it; {' or '.join(switches[flag])}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(type(default), default=default, args=arguments, prog=prog)
    except SystemExit as end:
        if end.code:
            raise UsageError(_one_line(complaint.getvalue())) from None
        raise


def _flags(key: str, value: object) -> list[str]:
    """--train.tf32, and --train.no-tf32 for a switch."""
    group, dot, name = key.rpartition(".")
    return [f"--{key}", f"--{group}{dot}no-{name}"] if isinstance(value, bool) else [f"--{key}"]


def _long(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return SHORT_FLAGS.get(flag.replace("_", "-"), flag) + equals + value


def _one_line(box: str) -> str:
    """The message inside tyro's box, without its title and help text."""
    text = re.sub(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]", " ", box)
    text = re.split(r"For full helptext|Argument helptext", text)[0]
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(
        r"^(Parsing error|Value error|Invalid choice|Missing argument|Unrecognized options)\s*(Error parsing )?",
        "",
        text,
    )


def train(arguments: list[str]) -> int:
    """unnoise train PRESET|FOLDER|ZIP."""
    target, arguments = _first(arguments, "train", "a preset, a folder or a zip of pictures")
    out, arguments = _option(arguments, "--out")
    dry, arguments = _switch(arguments, "--dry-run")
    show, arguments = _switch(arguments, "--print-config")
    from unnoise.presets import named

    if target is None:
        print("unnoise train PRESET|FOLDER|ZIP [--out FOLDER] [--dry-run] [--print-config] [flags]\n")
        print("short forms: " + ", ".join(f"{a} = {b}" for a, b in SHORT_FLAGS.items()) + "\n")
    config = parse(named(target or "digits"), arguments, f"unnoise train {target or ''}".strip(), TRAIN_EXTRA)
    if show:
        import json

        from unnoise.config import to_dict

        print(json.dumps(to_dict(config), indent=2))
        return 0
    from unnoise import api
    from unnoise.data.dataset import report

    images = api.load_data(config, progress=True)
    print(report(images))
    if dry:
        return _dry_run(config, images)
    return _train(config, images, Path(out) if out else api.default_folder(config), target or "")


TRAIN_EXTRA = ("--out", "--dry-run", "--print-config")


def _option(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Take `flag VALUE` or `flag=VALUE` out of the arguments."""
    for i, argument in enumerate(arguments):
        if argument == flag:
            if i + 1 == len(arguments):
                raise UsageError(f"{flag}: expected a value after it")
            return arguments[i + 1], arguments[:i] + arguments[i + 2 :]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2], arguments[:i] + arguments[i + 1 :]
    return None, arguments


def _dry_run(config: RunConfig, images: ImageData) -> int:
    from unnoise.training.log import duration
    from unnoise.training.loop import dry_run

    probe = dry_run(config, images)
    print(
        f"dry run: {probe.parameters:,} parameters · {probe.gflop_per_image:.3f} GFLOP per image forward · "
        f"{probe.img_per_sec:.1f} images/s · {probe.memory_bytes / 2**30:.2f} GiB · "
        f"{duration(probe.remaining_sec)} to the end"
    )
    return 0


def _train(config: RunConfig, images: ImageData, folder: Path, target: str) -> int:
    from unnoise.training import loop

    outcome = loop.train(config, images, folder)
    if outcome.finished:
        print(f"done: {folder}\nnext: unnoise sample {folder}")
        return 0
    print(f"stopped: everything is saved in {folder}; the same command goes on from there")
    return 128 + (outcome.signal or 2)


def sample(arguments: list[str]) -> int:
    """unnoise sample RUN|FILE|NAME."""
    target, arguments = _first(arguments, "sample", "a run folder, a model file or a bundled model")
    flags = parse(SampleFlags(), arguments, f"unnoise sample {target or 'RUN|FILE|NAME'}")
    if target is None:
        return 0
    seeds = _seeds(flags)
    for name, value in (("--batch-size", flags.batch_size), ("--scale", flags.scale)):
        if value is not None and value < 1:
            raise UsageError(f"{name}: got {value}, expected 1 or more")
    from unnoise.model import load
    from unnoise.sampling import write_samples

    model = load(target, flags.device)
    names = ("sampler", "steps", "spacing", "guidance_scale", "eta")
    settings = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    written = write_samples(model, seeds, flags.label, Path(flags.out), settings, flags.batch_size, flags.scale)
    print(f"{len(seeds)} images in {flags.out}\ngrid: {written}")
    return 0


def _seeds(flags: SampleFlags) -> list[int]:
    """The seeds of --seeds 0-63 or 3,7,20-29, or of --num."""
    if flags.num is not None and flags.num < 1:
        raise UsageError(f"--num: got {flags.num}, expected 1 or more")
    if flags.seeds is None:
        return list(range(64 if flags.num is None else flags.num))
    seeds: list[int] = []
    for part in flags.seeds.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(
                f"--seeds: got {flags.seeds!r}, expected numbers and rising ranges such as 0-63 or 3,7,20-29"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if high - low > 10_000_000:
            raise UsageError(f"--seeds: got {high - low + 1} seeds, expected at most 10 million")
        seeds += range(low, high + 1)
    if flags.num is not None and flags.num != len(seeds):
        raise UsageError(f"--num {flags.num} and --seeds {flags.seeds} ({len(seeds)} seeds) differ; give one of them")
    return seeds


def data(arguments: list[str]) -> int:
    """unnoise data PATH."""
    from unnoise.data.config import DataConfig

    target, arguments = _first(arguments, "data", "a data set, a folder or a zip of pictures")
    out, arguments = _option(arguments, "--out")
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
    target, rest = _first(arguments, "info", "a run folder, a model file or a PNG made by unnoise")
    if target is None:
        print("usage: unnoise info RUN|FILE|PNG")
        return 0
    if rest:
        raise UsageError(f"no flag {rest[0]}; info takes none")
    from unnoise.sampling import describe

    print(describe(target))
    return 0


def entry() -> None:
    """The console script."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `unnoise ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
