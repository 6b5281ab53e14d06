"""unnoise tune-sampler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unnoise.cli.flags import ModelCommand, parse
from unnoise.errors import UsageError
from unnoise.ranges import Count, Guidance, Images, Steps
from unnoise.records import bundled, find


@dataclass(frozen=True, kw_only=True)
class Tune(ModelCommand):
    """Find the best solver and time steps for few evaluations, and keep them with the model."""

    budgets: tuple[Steps, ...] = (5, 8, 10, 15, 20)
    """Network evaluations (NFE) per image. The first is kept as fast, the middle one as balanced,
    the last as best."""
    images: Images = 32
    """Images of the search; the errors are reported on twice as many others."""
    evaluations: Count = 40_000
    """Evaluations, times images, that the refinement of one budget may spend."""
    guidance_scale: Guidance | None = None
    """Guidance scale to tune for [the model's own]."""
    out: str | None = None
    """File for the model with its tuned samplers [the model itself]."""


def tune_sampler(arguments: list[str]) -> int:
    """Run `unnoise tune-sampler RUN|FILE|NAME`."""
    flags, _ = parse(Tune, arguments, "tune-sampler")
    path, out = find(flags.model), flags.out
    if out is None and path in bundled().values():
        fix = f"give --out {flags.model}.safetensors"
        raise UsageError(f"tune-sampler: {flags.model} belongs to the package; {fix}")
    from unnoise import tuning
    from unnoise.model import load

    model, scale = load(flags.model, flags.device), flags.guidance_scale
    print("error: rms pixel difference (pixels in 0..1) to the exact solution from the same seeds, "
          "on seeds not searched")  # fmt: skip
    scale = model.config.sample.guidance_scale if scale is None else scale
    tuned, rows = tuning.tune(
        model, flags.budgets, flags.images, flags.evaluations, guidance_scale=scale
    )
    print(tuning.table(rows))
    path = path if out is None else Path(out)
    model.with_tuned(tuned).save(path)
    print(f"kept in {path} as {', '.join(tuned)}")
    print(f"next: unnoise sample {out or flags.model} --sampler balanced")
    return 0
