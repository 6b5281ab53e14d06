"""Pictures on disk that say how they were made, and what there is to say of a run, a model file or a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from unnoise import checkpoint
from unnoise.config import to_dict
from unnoise.data.images import grid, read_png_text, save_png
from unnoise.model import Model, find

GRID_IMAGES = 400
"""The grid shows at most so many."""


def write_samples(
    model: Model,
    seeds: Sequence[int],
    label: str | None,
    out: Path,
    settings: dict[str, Any],
    batch_size: int,
    scale: int | None = None,
) -> Path:
    """Write seed-<n>.png for every seed and grid.png, each with its recipe in its text; gives the grid's path."""
    chosen = model.settings(**settings)
    labels = model.labels(seeds, label)
    recipe = {"model": model.weights_hash, **to_dict(chosen)}
    shown: list[torch.Tensor] = []
    for start in tqdm(range(0, len(seeds), batch_size), unit="batch", disable=None, leave=False):
        part = seeds[start : start + batch_size]
        images = model.sample(seeds=part, label=label, batch_size=batch_size, **settings)
        for i, seed in enumerate(part):
            text = {**recipe, "seed": seed}
            if labels is not None:
                text["label"] = int(labels[start + i])
            save_png(out / f"seed-{seed:06d}.png", images[i], {"unnoise": json.dumps(text)})
        shown += [images] if start < GRID_IMAGES else []
    together = torch.cat(shown)[:GRID_IMAGES]
    path = out / "grid.png"
    seen = [int(s) for s in seeds[: len(together)]]
    save_png(path, grid(together, scale=scale), {"unnoise": json.dumps({**recipe, "seeds": seen, "label": label})})
    return path


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
    lines = [
        f"model      {path}",
        f"weights    {record['weights'][:12]} · {sum(v.numel() for v in tensors.values()):,} parameters",
        f"images     {shape['channels']} x {shape['height']} x {shape['width']} · {shape['num_classes']} classes",
        f"data       {data.get('name')} · {data.get('num_train')} images · fingerprint {str(data.get('fingerprint'))[:12]}",
        "training   " + " · ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in training.items()),
        "config",
        json.dumps(record["config"], indent=2),
    ]
    return "\n".join(lines)
