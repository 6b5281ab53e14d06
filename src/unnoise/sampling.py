"""Pictures on disk that say how they were made, pictures of the process, and accounts of files."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unnoise import checkpoint, events
from unnoise.config import SampleConfig, to_dict
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
from unnoise.model import Model, last
from unnoise.records import find

if TYPE_CHECKING:
    from unnoise.data.images import Picture

GRID_IMAGES = 400
"""The grid shows at most this many images."""
SHOWN_IMAGES = 64
"""An animation shows at most this many images, a trajectory an eighth of them."""
FRAMES = 60
COLUMNS = 10


@dataclass(frozen=True)
class Request:
    """Pictures that were asked for: one per seed, with `settings` as in `Model.sample`."""

    model: Model
    seeds: Sequence[int]
    label: str | None = None
    guide: Model | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    @functools.cached_property
    def chosen(self) -> SampleConfig:
        """All settings."""
        return self.model.settings(guide=self.guide, **self.settings)

    @property
    def recipe(self) -> dict[str, Any]:
        """What a picture says of itself besides its seed."""
        guide = {} if self.guide is None else {"guide": self.guide.weights_hash}
        return {"model": self.model.weights_hash, **to_dict(self.chosen), **guide}

    @functools.cached_property
    def count(self) -> int:
        """The number of steps."""
        return len(self.model.grid(self.chosen)) - 1

    @property
    def images_at_once(self) -> int:
        """The batch size that the model and the device allow."""
        return self.model.images_at_once(self.guide, **self.settings)

    def steps(self, rows: slice) -> Iterator[Step]:
        """The steps of a part of the seeds, each reported as progress.

        Progress falls where a batch that ran out of memory starts again in halves.
        """
        images = len(self.seeds)

        def report(step: int) -> None:
            done = rows.start * self.count + (rows.stop - rows.start) * step
            detail = f"{rows.start} of {images} images, step {step} of {self.count}"
            events.send(events.Progress("samples", done, images * self.count, detail=detail))

        report(0)
        walk = self.model.steps(self.seeds[rows], self.label, self.guide, **self.settings)
        for number, step in enumerate(walk, 1):
            report(number)
            yield step

    def first(self, count: int) -> Request:
        """The same for at most `count` of the seeds."""
        return dataclasses.replace(self, seeds=[int(seed) for seed in self.seeds[:count]])


def write_samples(request: Request, out: Path, batch_size: int | None = None) -> None:
    """Write seed-<n>.png for every seed, with its recipe; batch_size None is automatic."""
    seeds = request.seeds
    labels = request.model.labels(seeds, request.label)
    recipe, size = request.recipe, batch_size or request.images_at_once
    _ = request.count  # a grid that cannot be is told before the folder is made
    _make_folder(out)

    def made(rows: slice) -> tuple[slice, Tensor]:
        return rows, from_model(last(request.steps(rows)).x.cpu())

    for rows, images in in_batches(len(seeds), size, made):
        for i, image in zip(range(rows.start, rows.stop), images, strict=True):
            text = {**recipe, "seed": seeds[i]}
            text |= {} if labels is None else {"label": int(labels[i])}
            path = picture(out, seeds[i])
            try:
                save_png(path, image, {"unnoise": json.dumps(text)})
            except OSError as error:
                raise OSError(
                    f"{path}: not written ({error.strerror or error}), the {i} pictures before it "
                    "are whole; make room and run the same command again"
                ) from error


def _make_folder(out: Path) -> None:
    """Make the folder for the pictures before time is spent on them, or raise a ConfigError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(out, os.W_OK | os.X_OK) else "no permission to write there"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(
            f"out: {out} is no folder for pictures ({reason}); "
            "expected a folder or a new name: --out"
        )


def picture(out: Path, seed: int) -> Path:
    """The file of a seed's picture."""
    return out / f"seed-{seed:06d}.png"


def write_grid(request: Request, out: Path, scale: int | None = None) -> Path:
    """Write grid.png of the seeds' pictures, with its recipe in its text, and give its path."""
    request = request.first(GRID_IMAGES)
    together = torch.stack([read_png(picture(out, seed)) for seed in request.seeds])
    path = out / "grid.png"
    save_png(path, grid(together, scale=scale), _sheet_text(request))
    return path


def _sheet_text(request: Request) -> dict[str, str]:
    text = {**request.recipe, "seeds": request.seeds, "label": request.label}
    return {"unnoise": json.dumps(text)}


def write_process(
    request: Request, out: Path, formats: Collection[str], trajectory: bool
) -> list[Path]:
    """Write denoising.gif or .webp (x_t next to the predicted x0) and trajectory.png."""
    request = request.first(SHOWN_IMAGES)
    frames = _spread(request.count, FRAMES) if formats else []
    columns = _spread(request.count, COLUMNS) if trajectory else []
    if not frames and not columns:
        return []
    steps = _steps(request, {*frames, *columns})
    written = []
    for ending in formats:
        pictures = [side_by_side([grid(x), grid(x0)]) for x, x0 in (steps[i] for i in frames)]
        written.append(out / f"denoising.{ending}")
        save_animation(written[-1], pictures, frame_ms=max(40, 3000 // len(pictures)), last_ms=2000)
    if trajectory:
        written.append(out / "trajectory.png")
        sheet = _contact_sheet([steps[i] for i in columns])
        save_png(written[-1], sheet, _sheet_text(request.first(SHOWN_IMAGES // 8)))
    return written


def _steps(request: Request, wanted: Collection[int]) -> dict[int, tuple[Tensor, Tensor]]:
    """What is to be seen of the wanted steps (from 0) of all seeds, made a batch at a time."""

    def made(rows: slice) -> dict[int, tuple[Tensor, Tensor]]:
        return {i: _shown(step) for i, step in enumerate(request.steps(rows)) if i in wanted}

    parts = list(in_batches(len(request.seeds), request.images_at_once, made))
    return {
        i: (torch.cat([part[i][0] for part in parts]), torch.cat([part[i][1] for part in parts]))
        for i in wanted
    }


def _shown(step: Step) -> tuple[Tensor, Tensor]:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there: uint8."""
    level = step.level
    size = float(level.alpha**2 + level.sigma**2) ** 0.5
    return from_model(step.x.cpu() / size), from_model(step.prediction.x0.cpu())


def _contact_sheet(columns: Sequence[tuple[Tensor, Tensor]]) -> Picture:
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
    """A readable account of a picture's recipe, or of the model of a run or file."""
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
    rows = {
        "model": [path],
        "weights": [
            record["weights"][:12],
            f"{sum(v.numel() for v in tensors.values()):,} parameters",
        ],
        "images": [
            f"{shape['channels']} x {shape['height']} x {shape['width']}",
            f"{shape['num_classes']} classes",
        ],
        "data": [
            data.get("name"),
            f"{data.get('num_train')} images",
            f"fingerprint {str(data.get('fingerprint'))[:12]}",
        ],
        "training": [
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in training.items()
        ],
        "samplers": tuned or ["none tuned; unnoise tune-sampler finds some"],
    }
    lines = [f"{name:<10} {' · '.join(map(str, parts))}" for name, parts in rows.items()]
    return "\n".join([*lines, "config", json.dumps(record["config"], indent=2)])
