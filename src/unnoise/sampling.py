"""Pictures on disk that say how they were made, pictures of the process, and accounts of files."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unnoise import checkpoint, events
from unnoise.config import SampleConfig, to_dict
from unnoise.data.images import (
    Picture,
    class_grid,
    ending,
    from_model,
    grid,
    read_png,
    read_png_text,
    save_animation,
    save_png,
    save_sample,
    side_by_side,
)
from unnoise.diffusion.samplers.step import Step
from unnoise.errors import CheckpointError, ConfigError, DataError
from unnoise.files import claim, discard_leftovers
from unnoise.memory import in_batches
from unnoise.model import Model, last
from unnoise.records import VERDICT, find, is_run

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

    @functools.cached_property
    def recipe(self) -> dict[str, Any]:
        """What a picture says of itself besides its seed."""
        guide = {} if self.guide is None else {"guide": self.guide.weights_hash}
        return {"model": self.model.weights_hash, **to_dict(self.chosen), **guide}

    def text(self, seed: int, labels: Tensor | None, row: int) -> dict[str, Any]:
        """What the picture of a seed says of itself; its label is that of a row."""
        label = {} if labels is None else {"label": int(labels[row])}
        return {**self.recipe, "seed": int(seed), **label}

    @functools.cached_property
    def count(self) -> int:
        """The number of steps."""
        return len(self.model.grid(self.chosen)) - 1

    def picture(self, out: Path, seed: int) -> Path:
        """The file of a seed's picture."""
        return out / f"seed-{seed:06d}{ending(self.model.shape.channels)}"

    @property
    def images_at_once(self) -> int:
        """The batch size that the model and the device allow."""
        return self.model.images_at_once(self.guide, **self.settings)

    def steps(self, rows: slice) -> Iterator[Step]:
        """The steps of a part of the seeds, each reported as progress.

        Progress falls where a batch that ran out of memory starts again in halves.
        """
        images, count = len(self.seeds), self.count

        def report(step: int) -> None:
            done = rows.start * count + (rows.stop - rows.start) * step
            detail = f"{rows.start} of {images} images, step {step} of {count}"
            events.send(events.Progress("samples", done, images * count, detail=detail))

        report(0)
        walk = self.model.steps(self.seeds[rows], self.label, self.guide, **self.settings)
        for number, step in enumerate(walk, 1):
            report(number)
            yield step

    def sheet(self, images: Tensor, scale: int | None = None) -> Picture:
        """The pictures of all seeds in columns by class."""
        labels = self.model.labels(self.seeds, self.label)
        return class_grid(images, labels, self.model.names, self.seeds, scale)

    def first(self, count: int) -> Request:
        """The same for at most `count` of the seeds."""
        return dataclasses.replace(self, seeds=[int(seed) for seed in self.seeds[:count]])


CHOSEN_ANEW = ("out", "device", "scale", "animate", "num")
"""What a recipe may also say and what makes no other picture."""


def claim_pictures(out: Path, recipes: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Look at what is in the place of files of `out` before the work for them.

    UsageError for a file that unnoise did not write; a message where pictures of another recipe
    will be replaced. None in a recipe, or for one, matches whatever was there.
    """
    discard_leftovers(out, of_dead=True)
    if any(name.endswith(".npz") for name in recipes):
        events.say("a PNG cannot hold these channels: each picture is an .npz with image (c, h, w)")
    there = set(os.listdir(out)) if out.is_dir() else set[str]()
    changes: list[dict[str, Any]] = []
    for name in (name for name in recipes if name in there):
        claim(out / name)
        new, old = json.loads(json.dumps(recipes[name])), _recipe_of(out / name)
        if new is None:
            continue
        keys = [key for key in {**new, **old} if key not in CHOSEN_ANEW]
        matters = [key for key in keys if key not in new or new[key] is not None]
        changes.append({k: old.get(k, "none") for k in matters if old.get(k) != new.get(k)})
    if changed := [change for change in changes if change]:
        some = [f"{key} {value}" for key, value in changed[0].items()]
        some = ", ".join([*some[:3], *[".."] * (len(some) > 3)])
        files = "1 file" if len(changed) == 1 else f"{len(changed)} files"
        stay = sum(name.startswith("seed-") for name in there - recipes.keys())
        stay = f" ({stay} more stay; --out for a new folder)" if stay else ""
        events.say(f"will replace {files} of another recipe in {out}: {some}{stay}")


def _recipe_of(path: Path) -> dict[str, Any]:
    """What a picture says of itself, as far as it can be read."""
    with suppress(DataError, KeyError, ValueError, RecursionError):
        recipe = json.loads(read_png_text(path)["unnoise"])
        return recipe if isinstance(recipe, dict) else {}
    return {}


def claim_samples(request: Request, out: Path, process: Collection[str] = ()) -> None:
    """`claim_pictures` for what `write_samples` and the functions below will write.

    `process` are the further files: denoising.gif, ..
    """
    sheet = {**request.recipe, "seeds": list(request.seeds[:GRID_IMAGES]), "label": request.label}
    recipes: dict[str, Mapping[str, Any] | None] = {}
    labels = request.model.labels(request.seeds, request.label)
    for i, seed in enumerate(request.seeds if out.is_dir() else request.seeds[:1]):
        recipes[request.picture(out, seed).name] = request.text(seed, labels, i)
    claim_pictures(out, {**recipes, "grid.png": sheet, **dict.fromkeys(process)})


def write_samples(request: Request, out: Path, batch_size: int | None = None) -> None:
    """Write seed-<n>.png for every seed, with its recipe; batch_size None is automatic."""
    seeds = request.seeds
    labels = request.model.labels(seeds, request.label)
    size = batch_size or request.images_at_once
    _ = request.count  # a grid that cannot be is told before the folder is made
    _make_folder(out)

    def made(rows: slice) -> tuple[slice, Tensor]:
        return rows, from_model(last(request.steps(rows)).x.cpu())

    for rows, images in in_batches(len(seeds), size, made):
        for i, image in zip(range(rows.start, rows.stop), images, strict=True):
            text = request.text(seeds[i], labels, i)
            path = request.picture(out, seeds[i])
            try:
                save_sample(path, image, {"unnoise": json.dumps(text)})
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
        expected = "expected a folder or a new name: --out"
        raise ConfigError(f"out: {out} is no folder for pictures ({reason}); {expected}")


def write_grid(request: Request, out: Path, scale: int | None = None) -> Path:
    """Write grid.png of the seeds' pictures, with its recipe in its text, and give its path."""
    request = request.first(GRID_IMAGES)
    together = torch.stack([read_png(request.picture(out, seed)) for seed in request.seeds])
    path = out / "grid.png"
    save_png(path, request.sheet(together, scale), _sheet_text(request))
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

    def made(rows: slice) -> dict[int, Tensor]:
        wanted = {*frames, *columns}
        return {i: _shown(step) for i, step in enumerate(request.steps(rows)) if i in wanted}

    parts = list(in_batches(len(request.seeds), request.images_at_once, made))
    steps = {i: torch.cat([part[i] for part in parts], 1) for i in parts[0]}
    levels = enumerate(request.model.grid(request.chosen)[1:], 1)
    words = [f"step {i}\nnoise {level.sigma:.2g}" for i, level in levels]
    written = []
    for kind in formats:
        sheets = [([request.sheet(x) for x in steps[i]], words[i]) for i in frames]
        pictures = [side_by_side(pair, titles=[word, "predicted"]) for pair, word in sheets]
        written.append(out / f"denoising.{kind}")
        save_animation(written[-1], pictures, frame_ms=max(40, 3000 // len(pictures)))
    if trajectory:  # two rows per image, x_t over the predicted x0; steps from left to right
        few = request.first(SHOWN_IMAGES // 8)
        cells = torch.stack([steps[i][:, : len(few.seeds)] for i in columns], 2).transpose(0, 1)
        written.append(out / "trajectory.png")
        rows = [f"seed {seed}\n{what}" for seed in few.seeds for what in ("noisy", "predicted")]
        labels = [words[i] for i in columns]
        sheet = grid(cells.flatten(0, 2), len(columns), labels=labels, rows=rows)
        save_png(written[-1], sheet, _sheet_text(few))
    return written


def _shown(step: Step) -> Tensor:
    """x_t, scaled so that it can be seen at any level, and the x0 predicted there: uint8."""
    level = step.level
    size = float(level.alpha**2 + level.sigma**2) ** 0.5
    return from_model(torch.stack([step.x.cpu() / size, step.prediction.x0.cpu()]))


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly, with the last."""
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def describe(target: str) -> str:
    """A readable account of a picture's recipe, or of the model of a run or file."""
    if target.lower().endswith((".png", ".npz")):
        text = read_png_text(Path(target)).get("unnoise")
        if text is None:
            raise CheckpointError(
                f"{target}: has no unnoise text; expected a picture that unnoise made"
            )
        return text
    path = find(target)
    rows, record = account(path)
    verdict = path.parent / VERDICT  # of a run folder
    said = verdict.read_text("utf-8", "replace").splitlines() if verdict.is_file() else []
    run = shlex.quote(str(path.parent))
    said += [f"{'resume':<10} unnoise train {run}"] if is_run(path.parent) else []
    lines = [f"{'model':<10} {path}", *rows, *said]
    return "\n".join(["config", json.dumps(record["config"], indent=2), *lines])


def account(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Lines about what is in a model file, and its record."""
    tensors, record = checkpoint.read_model(path)
    shape, data = record["shape"], record.get("data", {})
    training, tuned = record.get("training", {}).items(), record.get("tuned", {}).items()
    size = " x ".join(str(shape[side]) for side in ("channels", "height", "width"))
    mark = f"fingerprint {str(data.get('fingerprint'))[:12]}"
    weights = sum(tensor.numel() for tensor in tensors.values())
    done = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in training]
    preset = record["config"]["preset"]
    done = done or [preset] * preset.startswith("imported from ")
    samplers = [f"{name} ({s['sampler']}, {s['steps']} steps)" for name, s in tuned]
    rows = {
        "weights": f"{record['weights'][:12]} · {weights:,} parameters",
        "images": f"{size} · {shape['num_classes']} classes",
        "data": f"{data.get('name')} · {data.get('num_train')} images · {mark}"
        if data
        else "unknown",
        "training": " · ".join(done),
        "samplers": " · ".join(samplers) or "none tuned; unnoise tune-sampler finds some",
    }
    return [f"{name:<10} {text}" for name, text in rows.items()], record
