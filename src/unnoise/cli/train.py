"""unnoise train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unnoise.cli.flags import SHORT_FLAGS, first_word, option, parse, switch
from unnoise.errors import UsageError

if TYPE_CHECKING:
    from unnoise.config import RunConfig


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
            "unnoise train PRESET|FOLDER|ZIP [--objective NAME] [--out FOLDER] "
            "[--resume auto|anyway|never] [--dry-run] [--print-config] [flags]\n"
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
    return _dry_run(config, folder) if dry else _train(config, folder, resume or "auto")


TRAIN_EXTRA = ("--out", "--objective", "--resume", "--dry-run", "--print-config")


def _dry_run(config: RunConfig, folder: Path) -> int:
    from unnoise import api
    from unnoise.data.dataset import report
    from unnoise.training.plan import Plan
    from unnoise.training.probe import measure
    from unnoise.units import duration

    images = api.load_data(config)
    print(report(images))
    plan = Plan(config, measure(config, images, folder))
    found = plan.measured
    print(
        f"dry run: {found.parameters:,} parameters · "
        f"{found.gflop_per_image:.3f} GFLOP per image forward · "
        f"{plan.img_per_sec:.1f} images/s · "
        f"{max(s.peak_bytes for s in found.speeds) / 2**30:.2f} GiB · "
        f"{duration(plan.wall_sec())} to the end"
    )
    return 0


def _train(config: RunConfig, folder: Path, resume: str) -> int:
    from unnoise import api, parallel
    from unnoise.training.loop import RESUME

    if resume not in RESUME:
        raise UsageError(f"--resume: got {resume!r}, expected {', '.join(RESUME)}")
    ending = api.train_here(config, folder, resume)
    if parallel.world().main and ending.finished:
        print(f"done: {folder}\nnext: unnoise sample {folder}")
    elif parallel.world().main:
        print(f"stopped: everything is saved in {folder}; the same command goes on from there")
    return 0 if ending.finished else 128 + (ending.signal or 2)
