"""unnoise sample, and the flags that sampling and editing share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unnoise.cli.flags import first_word, parse, short_num
from unnoise.errors import UsageError

if TYPE_CHECKING:
    from unnoise.model import Model


@dataclass(frozen=True)
class SamplerFlags:
    """Which solver on which grid; what is not given is the model's own."""

    sampler: str | None = None
    """fast, balanced or best where tuned; or ddim, heun, dpmpp_2m, dpmpp_3m, unipc_2, unipc_3, ipndm, ddpm, .."""
    steps: int | None = None
    """Sampling steps."""
    spacing: str | None = None
    """leading, trailing, uniform, karras or log_snr."""
    noises: tuple[float, ...] | None = None
    """The grid itself: falling values of sigma / alpha."""
    guidance_scale: float | None = None
    """Classifier-free guidance; 1 = off."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only where sigma / alpha is between these two."""
    dynamic_threshold: float | None = None
    """Imagen's dynamic thresholding at this quantile, such as 0.995; 0 = off."""
    eta: float | None = None
    """DDIM's share of ancestral noise."""
    churn: float | None = None
    """EDM's S_churn, for heun."""
    cuda_graphs: bool = False
    """On CUDA: record the network's calls once and replay them."""

    def settings(self) -> dict[str, Any]:
        """What was given, as changes of a SampleConfig."""
        values = {name: getattr(self, name) for name in SamplerFlags.__dataclass_fields__}
        return {
            name: value
            for name, value in values.items()
            if value is not None and value is not False
        }


@dataclass(frozen=True)
class SampleFlags(SamplerFlags):
    """Make pictures with a trained model: single PNGs and a grid."""

    num: int | None = None
    """How many images, also -n [64]."""
    seeds: str | None = None
    """One image per seed, such as 0-63 or 3,7,20-29 [0 to num - 1]."""
    label: str | None = None
    """Class number or name, or none for no class [by seed: seed modulo the number of classes]."""
    guide: str | None = None
    """Autoguidance: a worse model, such as an early checkpoint (RUN/checkpoints/step-..) or a model file."""
    animate: str | None = None
    """Also write denoising.gif (or .webp: --animate webp): x_t beside the predicted x0."""
    trajectory: bool = False
    """Also write trajectory.png: x_t and the predicted x0, step by step."""
    out: str = "samples"
    """Folder for the pictures."""
    batch_size: int | None = None
    """Images per network call [by the network's width, the images' size and the device; halved if memory runs out]."""
    scale: int | None = None
    """Pixels of the grid per pixel of an image [so that images are about 64 high]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def sample(arguments: list[str]) -> int:
    """unnoise sample RUN|FILE|NAME."""
    target, arguments = first_word(
        arguments, "sample", "a run folder, a model file or a bundled model"
    )
    flags = parse(
        SampleFlags(),
        with_format(short_num(arguments)),
        f"unnoise sample {target or 'RUN|FILE|NAME'}",
    )
    if target is None:
        return 0
    seeds = seeds_of(flags.seeds, flags.num, 64)
    at_least_one(("--batch-size", flags.batch_size), ("--scale", flags.scale))
    animation(flags.animate)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _sample_together(target, seeds, flags)
        return 0
    model, guide = _loaded(target, flags, flags.device)
    _write(model, seeds, flags, guide)
    _write_sheets(model, seeds, flags, guide)
    return 0


def _sample_together(target: str, seeds: list[int], flags: SampleFlags) -> None:
    """Under torchrun: every rank makes its part."""
    from unnoise.parallel import process_group, rank_device

    model, guide = _loaded(target, flags, rank_device(flags.device))
    with process_group(model.arithmetic.device) as here:
        mine = seeds[here.rows]
        if mine:
            _write(model, mine, flags, guide)
        here.barrier()
        if here.main:
            _write_sheets(model, seeds, flags, guide)


def _loaded(target: str, flags: SampleFlags, device: str) -> tuple[Model, Model | None]:
    """The model, and the guide if there is one."""
    from unnoise.model import load

    return load(target, device), None if flags.guide is None else load(flags.guide, device)


def _write(model: Model, seeds: list[int], flags: SampleFlags, guide: Model | None) -> None:
    """The pictures one by one."""
    from unnoise.sampling import write_samples

    write_samples(
        model, seeds, flags.label, Path(flags.out), flags.settings(), flags.batch_size, guide
    )


def _write_sheets(model: Model, seeds: list[int], flags: SampleFlags, guide: Model | None) -> None:
    """The grid, and the pictures of the process if asked for."""
    from unnoise.sampling import write_grid, write_process

    settings, out = flags.settings(), Path(flags.out)
    written = write_grid(model, seeds, flags.label, out, settings, flags.scale, guide)
    print(f"{len(seeds)} images in {flags.out}\ngrid: {written}")
    if flags.animate is not None or flags.trajectory:
        process = write_process(
            model, seeds, flags.label, out, settings, flags.animate, flags.trajectory, guide
        )
        print("\n".join(f"{path.stem}: {path}" for path in process))


FORMATS = ("gif", "webp")


def with_format(arguments: list[str]) -> list[str]:
    """--animate alone is --animate gif."""
    following = [*arguments, "--"][1:]
    return [
        "--animate=gif" if argument == "--animate" and after.startswith("--") else argument
        for argument, after in zip(arguments, following, strict=True)
    ]


def animation(chosen: str | None) -> None:
    """UsageError unless it is a format that can be written."""
    if chosen is not None and chosen not in FORMATS:
        raise UsageError(f"--animate: got {chosen!r}, expected gif or webp (or nothing: gif)")


def at_least_one(*flags: tuple[str, int | None]) -> None:
    """UsageError for a number below 1."""
    for name, value in flags:
        if value is not None and value < 1:
            raise UsageError(f"{name}: got {value}, expected 1 or more")


def seeds_of(text: str | None, num: int | None, default: int) -> list[int]:
    """The seeds of --seeds 0-63 or 3,7,20-29, or of --num."""
    at_least_one(("--num", num))
    if text is None:
        return list(range(default if num is None else num))
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,18})(?:-(\d{1,18}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(
                f"--seeds: got {text!r}, expected numbers and rising ranges such as 0-63 or 3,7,20-29"
            )
        low, high = int(match[1]), int(match[2] or match[1])
        if high - low > 10_000_000:
            raise UsageError(f"--seeds: got {high - low + 1} seeds, expected at most 10 million")
        seeds += range(low, high + 1)
    if num is not None and num != len(seeds):
        raise UsageError(
            f"--num {num} and --seeds {text} ({len(seeds)} seeds) differ; give one of them"
        )
    return seeds
