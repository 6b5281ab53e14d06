"""unnoise tune-sampler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unnoise.cli.flags import first_word, parse
from unnoise.cli.sample import at_least_one
from unnoise.errors import UsageError


@dataclass(frozen=True)
class TuneFlags:
    """Find the best solver and time steps for few evaluations, and keep them with the model."""

    budgets: tuple[int, ...] = (5, 8, 10, 15, 20)
    """Evaluations of the denoiser per image. The first is kept as fast, the middle one as balanced, the last as best."""
    images: int = 32
    """Images of the search; the errors are reported on twice as many others."""
    evaluations: int = 40_000
    """How many evaluations, times images, the refinement of one budget may spend."""
    guidance_scale: float | None = None
    """Guidance to tune for [the model's own]."""
    out: str | None = None
    """Write the model with its tuned samplers here [in place]."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def tune_sampler(arguments: list[str]) -> int:
    """unnoise tune-sampler RUN|FILE|NAME."""
    target, arguments = first_word(
        arguments, "tune-sampler", "a run folder, a model file or a bundled model"
    )
    flags = parse(TuneFlags(), arguments, f"unnoise tune-sampler {target or 'RUN|FILE|NAME'}")
    if target is None:
        return 0
    at_least_one(("--images", flags.images), ("--evaluations", flags.evaluations))
    from unnoise import tuning
    from unnoise.model import bundled, find, load

    path = find(target)
    if flags.out is None and path in bundled().values():
        raise UsageError(
            f"tune-sampler: {target} belongs to the package; give --out {target}.safetensors"
        )
    model = load(target, flags.device)
    scale = (
        model.config.sample.guidance_scale if flags.guidance_scale is None else flags.guidance_scale
    )
    print(
        "error: rms pixel difference (pixels in 0..1) to the exact solution from the same seeds, on seeds not searched"
    )
    tuned, rows = tuning.tune(
        model, flags.budgets, flags.images, flags.evaluations, guidance_scale=scale
    )
    print(tuning.table(rows))
    path = path if flags.out is None else Path(flags.out)
    model.with_tuned(tuned).save(path)
    print(
        f"kept in {path} as {', '.join(tuned)}\nnext: unnoise sample {flags.out or target} --sampler balanced"
    )
    return 0
