"""Pictures on disk that say how they were made, pictures of how they come about, and what there is to say of a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from unnoise import checkpoint
from unnoise.config import to_dict
from unnoise.data.images import from_model, grid, read_png, read_png_text, save_animation, save_png, side_by_side
from unnoise.diffusion.samplers.step import Step
from unnoise.model import Model, find

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
    batch_size: int,
    guide: Model | None = None,
) -> None:
    """Write seed-<n>.png for every seed, each with its recipe in its text."""
    labels = model.labels(seeds, label)
    recipe = recipe_of(model, settings, guide)
    for start in tqdm(range(0, len(seeds), batch_size), unit="batch", disable=None, leave=False):
        part = seeds[start : start + batch_size]
        images = model.sample(seeds=part, label=label, batch_size=batch_size, guide=guide, **settings)
        for i, seed in enumerate(part):
            text = {**recipe, "seed": seed}
            if labels is not None:
                text["label"] = int(labels[start + i])
            save_png(picture(out, seed), images[i], {"unnoise": json.dumps(text)})


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
    steps = [_shown(step) for step in model.steps(seeds, label, guide, **settings)]
    written = []
    if animate is not None:
        chosen = [steps[i] for i in _spread(len(steps), FRAMES)]
        frames = [side_by_side([grid(x), grid(x0)]) for x, x0 in chosen]
        written.append(out / f"denoising.{animate}")
        save_animation(written[-1], frames, frame_ms=max(40, 3000 // len(frames)), last_ms=2000)
    if trajectory:
        written.append(out / "trajectory.png")
        text = {**recipe_of(model, settings, guide), "seeds": seeds[: SHOWN_IMAGES // 8], "label": label}
        save_png(written[-1], _contact_sheet(steps), {"unnoise": json.dumps(text)})
    return written


def _shown(step: Step) -> tuple[Tensor, Tensor]:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there: uint8."""
    level = step.level
    size = float(level.alpha**2 + level.sigma**2) ** 0.5
    return from_model(step.x.cpu() / size), from_model(step.prediction.x0.cpu())


def _contact_sheet(steps: Sequence[tuple[Tensor, Tensor]]) -> Image:
    """Two rows per image, x_t over the predicted x0; steps from left to right."""
    columns = [steps[i] for i in _spread(len(steps), COLUMNS)]
    count = min(SHOWN_IMAGES // 8, len(columns[0][0]))
    rows = [torch.stack([step[kind][i] for step in columns]) for i in range(count) for kind in (0, 1)]
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
            raise checkpoint.CheckpointError(f"{target}: has no unnoise text; expected a picture that unnoise made")
        return text
    path = find(target)
    tensors, record = checkpoint.read_model(path)
    shape, training, data = record["shape"], record.get("training", {}), record.get("data", {})
    tuned = [f"{name} ({s['sampler']}, {s['steps']} steps)" for name, s in record.get("tuned", {}).items()]
    lines = [
        f"model      {path}",
        f"weights    {record['weights'][:12]} · {sum(v.numel() for v in tensors.values()):,} parameters",
        f"images     {shape['channels']} x {shape['height']} x {shape['width']} · {shape['num_classes']} classes",
        f"data       {data.get('name')} · {data.get('num_train')} images · fingerprint {str(data.get('fingerprint'))[:12]}",
        "training   " + " · ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in training.items()),
        "samplers   " + (" · ".join(tuned) if tuned else "none tuned; unnoise tune-sampler finds some"),
        "config",
        json.dumps(record["config"], indent=2),
    ]
    return "\n".join(lines)
