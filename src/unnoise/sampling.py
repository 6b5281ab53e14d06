"""Pictures on disk that say how they were made, pictures of how they come about, and what there is to say of a file."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unnoise import checkpoint, events
from unnoise.config import to_dict
from unnoise.data.images import (
    from_model,
    grid,
    read_png,
    read_png_text,
    save_animation,
    save_png,
    side_by_side,
)
from unnoise.diffusion.samplers.step import Step
from unnoise.errors import CheckpointError, ConfigError
from unnoise.memory import in_batches
from unnoise.model import Model, find, last

if TYPE_CHECKING:
    from PIL.Image import Image

GRID_IMAGES = 400
"""The grid shows at most so many."""
SHOWN_IMAGES = 64
"""An animation shows at most so many images, a trajectory an eighth of them."""
FRAMES = 60
COLUMNS = 10


def write_samples(
    model: Model,
    seeds: Sequence[int],
    label: str | None,
    out: Path,
    settings: dict[str, Any],
    batch_size: int | None = None,
    guide: Model | None = None,
) -> None:
    """Write seed-<n>.png for every seed, each with its recipe in its text; batch_size None is the model's own."""
    labels = model.labels(seeds, label)
    recipe = recipe_of(model, settings, guide)
    size = model.images_at_once(guide, **settings) if batch_size is None else batch_size
    steps = len(model.grid(model.settings(guide=guide, **settings))) - 1
    _folder(out)

    def made(rows: slice) -> tuple[slice, Tensor]:
        walk = model.steps(seeds[rows], label, guide, **settings)
        return rows, from_model(last(_watched(rows, walk, len(seeds), steps)).x.cpu())

    for rows, images in in_batches(len(seeds), size, made):
        for i, image in zip(range(rows.start, rows.stop), images, strict=True):
            text = {**recipe, "seed": seeds[i]}
            text |= {} if labels is None else {"label": int(labels[i])}
            _save(picture(out, seeds[i]), image, {"unnoise": json.dumps(text)}, i)


def _watched(rows: slice, walk: Iterator[Step], count: int, steps: int) -> Iterator[Step]:
    """The steps of a batch of `count` images, each reported as progress.

    Progress falls where a batch that ran out of memory begins again in halves.
    """

    def report(step: int) -> None:
        done = rows.start * steps + (rows.stop - rows.start) * step
        detail = f"{rows.start} of {count} images, step {step} of {steps}"
        events.send(events.Progress("samples", done, count * steps, detail=detail))

    report(0)
    for number, step in enumerate(walk, 1):
        report(number)
        yield step


def _folder(out: Path) -> None:
    """Make the folder for the pictures, before time is spent on them; ConfigError where there can be none."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(out, os.W_OK | os.X_OK) else "no permission to write there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(
            f"out: {out} is no folder for pictures ({reason}); expected a folder or a new name: --out"
        )


def _save(path: Path, image: Tensor, text: dict[str, str], before: int) -> None:
    """save_png; what its error says is how far it came, and what to do."""
    try:
        save_png(path, image, text)
    except OSError as error:
        raise OSError(
            f"{path}: not written ({error.strerror or error}), the {before} pictures before it are whole; "
            "make room and run the same command again"
        ) from error


def picture(out: Path, seed: int) -> Path:
    """Where the picture of a seed is written."""
    return out / f"seed-{seed:06d}.png"


def write_grid(
    model: Model,
    seeds: Sequence[int],
    label: str | None,
    out: Path,
    settings: dict[str, Any],
    scale: int | None = None,
    guide: Model | None = None,
) -> Path:
    """Write grid.png of the pictures of these seeds, with its recipe in its text; gives its path."""
    seen = [int(seed) for seed in seeds[:GRID_IMAGES]]
    together = torch.stack([read_png(picture(out, seed)) for seed in seen])
    path = out / "grid.png"
    recipe = {**recipe_of(model, settings, guide), "seeds": seen, "label": label}
    save_png(path, grid(together, scale=scale), {"unnoise": json.dumps(recipe)})
    return path


def recipe_of(model: Model, settings: dict[str, Any], guide: Model | None = None) -> dict[str, Any]:
    """What a picture says of itself, beside its seed."""
    recipe = {"model": model.weights_hash, **to_dict(model.settings(guide=guide, **settings))}
    return recipe if guide is None else {**recipe, "guide": guide.weights_hash}


def write_process(
    model: Model,
    seeds: Sequence[int],
    label: str | None,
    out: Path,
    settings: dict[str, Any],
    animate: str | None,
    trajectory: bool,
    guide: Model | None = None,
) -> list[Path]:
    """Write denoising.gif or .webp (x_t beside the predicted x0) and trajectory.png (both, step by step)."""
    seeds = list(seeds)[:SHOWN_IMAGES]
    count = len(model.grid(model.settings(guide=guide, **settings))) - 1
    frames = _spread(count, FRAMES) if animate is not None else []
    columns = _spread(count, COLUMNS) if trajectory else []
    steps = _steps(model, seeds, label, settings, guide, {*frames, *columns})
    written = []
    if animate is not None:
        pictures = [side_by_side([grid(x), grid(x0)]) for x, x0 in (steps[i] for i in frames)]
        written.append(out / f"denoising.{animate}")
        save_animation(written[-1], pictures, frame_ms=max(40, 3000 // len(pictures)), last_ms=2000)
    if trajectory:
        written.append(out / "trajectory.png")
        text = {
            **recipe_of(model, settings, guide),
            "seeds": seeds[: SHOWN_IMAGES // 8],
            "label": label,
        }
        save_png(
            written[-1], _contact_sheet([steps[i] for i in columns]), {"unnoise": json.dumps(text)}
        )
    return written


def _steps(
    model: Model,
    seeds: list[int],
    label: str | None,
    settings: dict[str, Any],
    guide: Model | None,
    wanted: Collection[int],
) -> dict[int, tuple[Tensor, Tensor]]:
    """The wanted steps of all seeds, by number from 0: what is to be seen of each, made a batch at a time."""
    count = len(model.grid(model.settings(guide=guide, **settings))) - 1

    def made(rows: slice) -> dict[int, tuple[Tensor, Tensor]]:
        walk = model.steps(seeds[rows], label, guide, **settings)
        walk = _watched(rows, walk, len(seeds), count)
        return {i: _shown(step) for i, step in enumerate(walk) if i in wanted}

    parts = list(in_batches(len(seeds), model.images_at_once(guide, **settings), made))
    return {
        i: (torch.cat([part[i][0] for part in parts]), torch.cat([part[i][1] for part in parts]))
        for i in wanted
    }


def _shown(step: Step) -> tuple[Tensor, Tensor]:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there: uint8."""
    level = step.level
    size = float(level.alpha**2 + level.sigma**2) ** 0.5
    return from_model(step.x.cpu() / size), from_model(step.prediction.x0.cpu())


def _contact_sheet(columns: Sequence[tuple[Tensor, Tensor]]) -> Image:
    """Two rows per image, x_t over the predicted x0; steps from left to right."""
    count = min(SHOWN_IMAGES // 8, len(columns[0][0]))
    rows = [
        torch.stack([step[kind][i] for step in columns]) for i in range(count) for kind in (0, 1)
    ]
    return grid(torch.cat(rows), columns=len(columns))


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly, with the last."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def describe(target: str) -> str:
    """A readable account of a picture's recipe, or of a run's or file's model."""
    if target.lower().endswith(".png"):
        text = read_png_text(Path(target)).get("unnoise")
        if text is None:
            raise CheckpointError(
                f"{target}: has no unnoise text; expected a picture that unnoise made"
            )
        return text
    path = find(target)
    tensors, record = checkpoint.read_model(path)
    shape, training, data = record["shape"], record.get("training", {}), record.get("data", {})
    tuned = [
        f"{name} ({s['sampler']}, {s['steps']} steps)"
        for name, s in record.get("tuned", {}).items()
    ]
    lines = [
        f"model      {path}",
        f"weights    {record['weights'][:12]} · {sum(v.numel() for v in tensors.values()):,} parameters",
        f"images     {shape['channels']} x {shape['height']} x {shape['width']} · {shape['num_classes']} classes",
        f"data       {data.get('name')} · {data.get('num_train')} images · fingerprint {str(data.get('fingerprint'))[:12]}",
        "training   "
        + " · ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in training.items()
        ),
        "samplers   "
        + (" · ".join(tuned) if tuned else "none tuned; unnoise tune-sampler finds some"),
        "config",
        json.dumps(record["config"], indent=2),
    ]
    return "\n".join(lines)
