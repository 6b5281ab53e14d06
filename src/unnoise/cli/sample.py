"""unnoise sample."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from unnoise import ranks
from unnoise.cli.flags import Flag, ModelCommand, first_word, parse, sampling
from unnoise.cli.values import Seeds
from unnoise.errors import UsageError
from unnoise.ranges import Images, Scale
from unnoise.records import MODEL_FILE

Animation = Annotated[tuple[Literal["gif", "webp"], ...] | None, Flag(metavar="[gif|webp]")]


@dataclass(frozen=True, kw_only=True)
class Sample(ModelCommand):
    """Make pictures with a trained model: single PNGs and a grid."""

    rare = ("batch_size", "scale")
    num: Annotated[Images | None, Flag(("-n",))] = None
    """Number of images [64, or 60 of ten classes: as many of each]."""
    seeds: Seeds | None = None
    """One image per seed, such as 0-63 or 3,7,20-29 [0 to num - 1]."""
    label: str = ""
    """Class number or name, or none for no class [one class after the other]."""
    guide: str | None = None
    """A worse model to push the samples away from (autoguidance), such as an early checkpoint
    (RUN/checkpoints/step-..)."""
    animate: Animation = None
    """Also write denoising.gif (or .webp): x_t next to the predicted x0."""
    trajectory: bool = False
    """Also write trajectory.png: x_t and the predicted x0, step by step."""
    out: str | None = None
    """Folder for the pictures [samples/NAME]."""
    batch_size: Images | None = None
    """Images per network call [as the network, the images and the device allow; half as many
    where memory runs out]."""
    scale: Scale | None = None
    """Pixels of the grid per pixel of an image [as many as make images 64 and it 256 large]."""


def sample(arguments: list[str]) -> int:
    """Run `unnoise sample RUN|FILE|NAME`; under torchrun every rank makes its part."""
    flags, given = parse(Sample, arguments, "sample", sampling(first_word(arguments)))
    out = folder(flags, "samples")
    from unnoise.model import load
    from unnoise.sampling import Request, claim_samples, write_grid, write_process, write_samples
    from unnoise.settings import even_count

    device, several = flags.device, ranks.read().size > 1
    if several:  # one process alone need not wait for these imports
        from unnoise.parallel import process_group, rank_device

        device = rank_device(device)
    guide = None if flags.guide is None else load(flags.guide, device)
    model = load(flags.model, device)
    classes = 0 if flags.label else model.shape.num_classes
    seeds = seeds_of(flags.seeds, flags.num, even_count(64, classes))
    request = mine = Request(model, seeds, flags.label or None, guide, given)
    group = process_group(model.arithmetic.device) if several else nullcontext()  # pyright: ignore
    animations = formats(flags.animate)
    process = [f"denoising.{ending}" for ending in animations]
    process += ["trajectory.png"] * flags.trajectory
    with group as here:
        claim_samples(request, out, process)
        if here is not None:
            here.barrier()  # until all have seen what was there
            mine = dataclasses.replace(request, seeds=seeds[here.rows])
        if mine.seeds:
            write_samples(mine, out, flags.batch_size)
        if here is not None:
            here.barrier()
        if here is None or here.main:
            grid = write_grid(request, out, flags.scale)
            print(f"{len(seeds)} images in {out}\ngrid: {grid}")
            for path in write_process(request, out, animations, flags.trajectory):
                print(f"{path.stem}: {path}")
    return 0


def folder(flags: ModelCommand, parent: str) -> Path:
    """The folder of --out, or one of the model's own: pictures of two models do not meet."""
    return Path(getattr(flags, "out", None) or Path(parent) / name_of(flags.model))


def name_of(model: str) -> str:
    """What a user calls a model: its bundled name, its run folder's or its file's."""
    path = Path(os.path.abspath(model))
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.name}-{path.name}"
    if not path.is_file():
        return path.name
    return path.parent.name if path.name == MODEL_FILE else path.stem


def formats(animate: tuple[str, ...] | None) -> tuple[str, ...]:
    """The files that --animate asks for; without a word it is a gif."""
    return () if animate is None else animate or ("gif",)


def seeds_of(seeds: Sequence[int] | None, num: int | None, default: int) -> list[int]:
    """The seeds of --seeds or of --num."""
    if seeds is not None and num not in (None, len(seeds)):
        raise UsageError(f"--num {num} and --seeds ({len(seeds)} seeds) differ; give one of them")
    return list(range(num or default) if seeds is None else seeds)
