"""unnoise sample."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unnoise.cli.flags import Flag, ModelCommand, first_word, parse, sampling
from unnoise.cli.values import Seeds
from unnoise.errors import UsageError
from unnoise.ranges import Count

if TYPE_CHECKING:
    from unnoise.sampling import Request

Animation = Annotated[tuple[Literal["gif", "webp"], ...] | None, Flag(metavar="[gif|webp]")]


@dataclass(frozen=True, kw_only=True)
class Sample(ModelCommand):
    """Make pictures with a trained model: single PNGs and a grid."""

    rare = ("batch_size", "scale")
    num: Annotated[Count | None, Flag(("-n",))] = None
    """Number of images [64]."""
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
    out: str = "samples"
    """Folder for the pictures."""
    batch_size: Count | None = None
    """Images per network call [as the network, the images and the device allow; half as many
    where memory runs out]."""
    scale: Count | None = None
    """Pixels of the grid per pixel of an image [so that images are about 64 high]."""


def sample(arguments: list[str]) -> int:
    """Run `unnoise sample RUN|FILE|NAME`; under torchrun every rank makes its part."""
    flags, given = parse(Sample, arguments, "sample", sampling(first_word(arguments)))
    seeds = seeds_of(flags.seeds, flags.num, 64)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    from unnoise.model import load
    from unnoise.sampling import Request, write_samples

    device = flags.device if alone else _rank_device(flags.device)
    guide = None if flags.guide is None else load(flags.guide, device)
    request = Request(load(flags.model, device), seeds, flags.label or None, guide, given)
    if alone:
        write_samples(request, Path(flags.out), flags.batch_size)
        _write_sheets(request, flags)
    else:
        _sample_together(request, flags)
    return 0


def _rank_device(device: str) -> str:
    from unnoise.parallel import rank_device

    return rank_device(device)


def _sample_together(request: Request, flags: Sample) -> None:
    """Every rank makes its part, and the first then the sheets."""
    from unnoise.parallel import process_group
    from unnoise.sampling import write_samples

    with process_group(request.model.arithmetic.device) as here:
        mine = dataclasses.replace(request, seeds=request.seeds[here.rows])
        if mine.seeds:
            write_samples(mine, Path(flags.out), flags.batch_size)
        here.barrier()
        if here.main:
            _write_sheets(request, flags)


def _write_sheets(request: Request, flags: Sample) -> None:
    """The grid, and the pictures of the process if they were asked for."""
    from unnoise.sampling import write_grid, write_process

    out = Path(flags.out)
    grid = write_grid(request, out, flags.scale)
    print(f"{len(request.seeds)} images in {out}\ngrid: {grid}")
    for path in write_process(request, out, formats(flags.animate), flags.trajectory):
        print(f"{path.stem}: {path}")


def formats(animate: tuple[str, ...] | None) -> tuple[str, ...]:
    """The files that --animate asks for; without a word it is a gif."""
    return () if animate is None else animate or ("gif",)


def seeds_of(seeds: Sequence[int] | None, num: int | None, default: int) -> list[int]:
    """The seeds of --seeds or of --num."""
    if seeds is not None and num not in (None, len(seeds)):
        raise UsageError(f"--num {num} and --seeds ({len(seeds)} seeds) differ; give one of them")
    return list(range(num or default) if seeds is None else seeds)
