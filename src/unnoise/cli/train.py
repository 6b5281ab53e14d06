"""unnoise train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unnoise.cli.flags import SHORT_FLAGS, first_word, option, parse, switch
from unnoise.errors import UsageError
from unnoise.precision import find_device

if TYPE_CHECKING:
    from unnoise.config import RunConfig
    from unnoise.data.dataset import ImageData


def train(arguments: list[str]) -> int:
    """unnoise train PRESET|FOLDER|ZIP."""
    target, arguments = first_word(arguments, "train", "a preset, a folder or a zip of pictures")
    out, arguments = option(arguments, "--out")
    dry, arguments = switch(arguments, "--dry-run")
    show, arguments = switch(arguments, "--print-config")
    objective, arguments = option(arguments, "--objective")
    resume, arguments = option(arguments, "--resume")
    from unnoise.presets import OBJECTIVES, named

    if target is None:
        print(
            "unnoise train PRESET|FOLDER|ZIP [--objective NAME] [--out FOLDER] [--resume auto|anyway|never] [--dry-run] [--print-config] [flags]\n"
        )
        print(f"objectives: {', '.join(OBJECTIVES)}")
        print("short forms: " + ", ".join(f"{a} = {b}" for a, b in SHORT_FLAGS.items()) + "\n")
    config = parse(
        named(target or "digits", objective),
        arguments,
        f"unnoise train {target or ''}".strip(),
        TRAIN_EXTRA,
    )
    if show:
        import json

        from unnoise.config import to_dict

        print(json.dumps(to_dict(config), indent=2))
        return 0
    from unnoise import api

    folder = Path(out) if out else api.default_folder(config, objective)
    return _dry_run(config) if dry else _train(config, folder, resume or "auto")


TRAIN_EXTRA = ("--out", "--objective", "--resume", "--dry-run", "--print-config")


def _images(config: RunConfig, aloud: bool = True) -> ImageData:
    from unnoise import api
    from unnoise.data.dataset import report

    images = api.load_data(config)
    if aloud:
        print(report(images))
    return images


def _dry_run(config: RunConfig) -> int:
    from unnoise.training.probe import dry_run
    from unnoise.units import duration

    images = _images(config)
    probe = dry_run(config, images)
    print(
        f"dry run: {probe.parameters:,} parameters · {probe.gflop_per_image:.3f} GFLOP per image forward · "
        f"{probe.img_per_sec:.1f} images/s · {probe.memory_bytes / 2**30:.2f} GiB · "
        f"{duration(probe.remaining_sec)} to the end"
    )
    return 0


def _train(config: RunConfig, folder: Path, resume: str) -> int:
    import dataclasses

    from unnoise import parallel
    from unnoise.training import loop

    if resume not in loop.RESUME:
        raise UsageError(f"--resume: got {resume!r}, expected {', '.join(loop.RESUME)}")
    config = dataclasses.replace(config, device=parallel.rank_device(config.device))
    with parallel.process_group(find_device(config.device)) as here:
        images = here.main_process_first(lambda: _images(config, here.main))
        outcome = loop.train(config, images, folder, resume)
    if here.main and outcome.finished:
        print(f"done: {folder}\nnext: unnoise sample {folder}")
    elif here.main:
        print(f"stopped: everything is saved in {folder}; the same command goes on from there")
    return 0 if outcome.finished else 128 + (outcome.signal or 2)
